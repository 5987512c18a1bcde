//! What we need to know of a certificate and its library does not say: for which names it is, and until when (X.509, RFC 5280 section 4).

use time::{Date, Month, PrimitiveDateTime, Time};

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The host names it is for, in lower case; `*.example.org` is for all that have one label more.
    pub names: Vec<String>,
    /// When it becomes invalid, seconds since 1970.
    pub expires_s: i64,
    /// When it became valid, seconds since 1970.
    pub since_s: i64,
}

const SEQUENCE: u8 = 0x30;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT Version` and `[3] EXPLICIT Extensions` of TBSCertificate.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// id-ce-subjectAltName, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// `[2] IA5String dNSName` of GeneralName.
const DNS_NAME: u8 = 0x82;

/// Reads them; `None` if that is no certificate.
pub fn facts(der: &[u8]) -> Option<Facts> {
    let mut certificate = Der(Der(der).expect(SEQUENCE)?);
    let mut fields = Der(certificate.expect(SEQUENCE)?);
    if fields.peek() == Some(VERSION) {
        fields.next()?;
    }
    // Serial number, signature, issuer.
    for _ in 0..3 {
        fields.next()?;
    }
    let mut validity = Der(fields.expect(SEQUENCE)?);
    let (since_s, expires_s) = (seconds(validity.next()?)?, seconds(validity.next()?)?);
    let mut names = Vec::new();
    while let Some((tag, value)) = fields.next() {
        if tag == EXTENSIONS {
            let mut extensions = Der(Der(value).expect(SEQUENCE)?);
            while let Some((_, extension)) = extensions.next() {
                names.extend(dns_names(extension).unwrap_or_default());
            }
        }
    }
    Some(Facts { names, expires_s, since_s })
}

/// The names of an extension, if it is the one that holds names.
fn dns_names(extension: &[u8]) -> Option<Vec<String>> {
    let mut fields = Der(extension);
    if fields.expect(OBJECT_ID)? != SUBJECT_ALT_NAME {
        return None;
    }
    // It may say first that it is critical.
    let (_, value) = std::iter::from_fn(|| fields.next()).find(|(tag, _)| *tag == OCTET_STRING)?;
    let mut general = Der(Der(value).expect(SEQUENCE)?);
    let names = std::iter::from_fn(|| general.next()).filter(|(tag, _)| *tag == DNS_NAME);
    Some(names.filter_map(|(_, name)| Some(std::str::from_utf8(name).ok()?.to_ascii_lowercase())).collect())
}

/// A time as certificates write it: `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn seconds((tag, text): (u8, &[u8])) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let year: i32 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let number = |at: usize| rest.get(at..at + 2)?.parse::<u8>().ok();
    let date = Date::from_calendar_date(year, Month::try_from(number(0)?).ok()?, number(2)?).ok()?;
    let time = Time::from_hms(number(4)?, number(6)?, number(8)?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp())
}

/// Elements of DER, one after the other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element: its tag and its content. `None`: there is none, or it is cut off.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // Longer lengths than four bytes are none of a certificate's.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    #[test]
    fn names_and_times_are_those_of_the_certificate() {
        let mut params = CertificateParams::new(["Live.Example.org".into(), "*.cdn.example.org".into(), "192.0.2.7".into()]).unwrap();
        params.not_before = date_time_ymd(2024, 2, 29);
        params.not_after = date_time_ymd(2051, 1, 2);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let facts = facts(certificate.der()).unwrap();
        assert_eq!(facts.names, ["live.example.org", "*.cdn.example.org"]);
        assert_eq!((facts.since_s, facts.expires_s), (1_709_164_800, 2_556_230_400));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, cut: usize, flip: usize, value: u8) {
            let _ = facts(&bytes);
            let certificate = CertificateParams::new(["a.example".into()]).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap();
            let mut der = certificate.der().to_vec();
            let flip = flip % der.len();
            der[flip] = value;
            der.truncate(cut % (der.len() + 1));
            let _ = facts(&der);
        }
    }
}
