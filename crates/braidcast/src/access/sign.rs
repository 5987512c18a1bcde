//! Signed URLs: `?expires=UNIX&sign=HEX`, where `sign` is the HMAC-SHA256 of one line of text.
//!
//! The text is `INTENT VHOST/APP/STREAM EXPIRES`: it begins with a word and ends with digits, so that whatever a name holds, no two requests have
//! the same.

use super::Asking;
use super::reason::Reason;
use crate::control::Intent;
use aws_lc_rs::hmac;
use braidcast_media::StreamKey;
use braidcast_protocols::http::parameter;
use std::fmt;

/// Digits that a time may have.
const MAX_DIGITS: usize = 12;

/// The key of signatures.
pub struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::config::HIDDEN)
    }
}

impl Secret {
    /// Made of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The query of a signed URL; `expires_s` in seconds since 1970.
    pub fn query(&self, intent: Intent, key: &StreamKey, expires_s: u64) -> String {
        let tag = hmac::sign(&self.0, text(intent, key, &expires_s.to_string()).as_bytes());
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("expires={expires_s}&sign={hex}")
    }

    /// Whether what is asked for is signed, and still holds. The comparison takes as long whatever part of a signature is right.
    pub fn check(&self, asking: &Asking<'_>) -> Result<(), Reason> {
        let (Some(expires), Some(sign)) = (parameter(asking.params, "expires"), parameter(asking.params, "sign")) else {
            return Err(Reason::Missing);
        };
        let digits = expires.len() <= MAX_DIGITS && expires.bytes().all(|byte| byte.is_ascii_digit());
        let expires_s: u64 = expires.parse().ok().filter(|_| digits).ok_or(Reason::Signature)?;
        let tag = bytes(&sign).ok_or(Reason::Signature)?;
        let text = text(asking.intent, asking.key, &expires);
        hmac::verify(&self.0, text.as_bytes(), &tag).map_err(|_| Reason::Signature)?;
        if asking.now_s > expires_s { Err(Reason::Expired) } else { Ok(()) }
    }
}

fn text(intent: Intent, key: &StreamKey, expires: &str) -> String {
    let intent = match intent {
        Intent::Publish => "publish",
        Intent::Play => "play",
    };
    format!("{intent} {}/{}/{} {expires}", key.vhost(), key.app(), key.stream())
}

/// 32 bytes as 64 hexadecimal digits.
fn bytes(hex: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = hex.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(bytes)
}
