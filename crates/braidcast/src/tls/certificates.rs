//! Certificates and their keys: read from PEM, checked, chosen by the name that a client asks for.

use super::x509::{self, Facts};
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// The longest PEM file that is read, in bytes.
pub const MAX_PEM_BYTES: usize = 1 << 20;

/// A certificate that can be used.
#[derive(Clone, Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// What it says of itself.
    pub facts: Facts,
}

impl Certificate {
    /// Reads a chain and its key. The error says what is wrong with which of them.
    pub fn load(cert_pem: &[u8], key_pem: &[u8]) -> Result<Self, String> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(cert_pem).collect::<Result<_, _>>().map_err(|error| format!("cert: {error}"))?;
        let first = chain.first().ok_or("cert: there is no certificate in it (-----BEGIN CERTIFICATE-----)")?;
        let facts = x509::facts(first).ok_or("cert: the first certificate in it is none")?;
        let key =
            PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| format!("key: {error}: a private key without a password is wanted"))?;
        let key = CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())
            .map_err(|error| format!("cert and key do not fit together: {error}"))?;
        Ok(Self { key: Arc::new(key), facts })
    }

    /// As [`Certificate::load`], of files.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, String> {
        let bytes = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        Self::load(&bytes(cert)?, &bytes(key)?)
    }

    /// Whether it is valid at a time, seconds since 1970; if not, why not.
    pub fn invalid_at(&self, now_s: i64) -> Option<&'static str> {
        match &self.facts {
            facts if now_s >= facts.expires_s => Some("it has expired"),
            facts if now_s < facts.since_s => Some("it is not valid yet: is the clock right?"),
            _ => None,
        }
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = time::OffsetDateTime::from_unix_timestamp(self.facts.expires_s).map(|time| time.date().to_string());
        let names = if self.facts.names.is_empty() { "no name".to_owned() } else { self.facts.names.join(", ") };
        write!(f, "{names}, until {}", date.unwrap_or_else(|_| "nobody knows when".to_owned()))
    }
}

/// All certificates in use, by name.
#[derive(Debug, Default)]
struct Table {
    named: HashMap<String, Vec<Arc<CertifiedKey>>>,
    default: Option<Arc<CertifiedKey>>,
}

impl Table {
    fn new(certificates: &[Certificate]) -> Self {
        let mut table = Self { default: certificates.first().map(|certificate| certificate.key.clone()), ..Self::default() };
        for certificate in certificates {
            for name in &certificate.facts.names {
                table.named.entry(name.clone()).or_default().push(certificate.key.clone());
            }
        }
        table
    }

    /// Of those for the name, the first whose kind of key the client can check; else the default one.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase);
        let wildcard = name.as_deref().and_then(|name| name.split_once('.')).map(|(_, rest)| format!("*.{rest}"));
        let named = [name, wildcard].into_iter().flatten().filter_map(|name| self.named.get(&name)).flatten();
        named.chain(&self.default).find(|key| key.key.choose_scheme(schemes).is_some()).cloned()
    }
}

/// Chooses for each handshake from what there is then.
#[derive(Debug, Default)]
pub struct Resolver(RwLock<Arc<Table>>);

impl Resolver {
    /// New handshakes get these.
    pub fn replace(&self, certificates: &[Certificate]) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Table::new(certificates));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.table().default.is_none()
    }

    fn table(&self) -> Arc<Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.table().choose(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::SignatureScheme::{ECDSA_NISTP256_SHA256, ED25519};

    fn made(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> (Certificate, String, String) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let (cert, key) = (certificate.pem(), key.serialize_pem());
        (Certificate::load(cert.as_bytes(), key.as_bytes()).unwrap(), cert, key)
    }

    #[test]
    fn a_name_chooses_its_certificate_and_a_client_a_key_that_it_can_check() {
        let ecdsa = |names: &[&str]| made(names, &rcgen::PKCS_ECDSA_P256_SHA256).0;
        let list = [
            ecdsa(&["first.example"]),
            ecdsa(&["a.example", "*.b.example"]),
            made(&["a.example"], &rcgen::PKCS_ED25519).0,
            ecdsa(&["x.b.example"]),
        ];
        let table = Table::new(&list);
        let chosen = |name: Option<&str>, schemes: &[SignatureScheme]| {
            let key = table.choose(name, schemes)?;
            list.iter().position(|certificate| Arc::ptr_eq(&certificate.key, &key))
        };
        let both = [ECDSA_NISTP256_SHA256, ED25519];
        for (name, expected) in [
            (Some("A.EXAMPLE"), 1),
            (Some("www.b.example"), 1),
            (Some("x.b.example"), 3),
            (Some("www.www.b.example"), 0),
            (Some("b.example"), 0),
            (Some("other.example"), 0),
            (Some("localhost"), 0),
            (None, 0),
        ] {
            assert_eq!(chosen(name, &both), Some(expected), "{name:?}");
        }
        assert_eq!(chosen(Some("a.example"), &[ED25519]), Some(2));
        assert_eq!(chosen(Some("first.example"), &[ED25519]), None);
        assert_eq!(Table::new(&[]).choose(None, &both).map(|_| ()), None);
    }

    #[test]
    fn what_is_wrong_with_files_is_said() {
        let (_, cert, key) = made(&["a.example"], &rcgen::PKCS_ECDSA_P256_SHA256);
        let (_, _, other_key) = made(&["a.example"], &rcgen::PKCS_ECDSA_P256_SHA256);
        let error = |cert: &str, key: &str| Certificate::load(cert.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(error("", &key).contains("no certificate"));
        assert!(error(&key, &cert).starts_with("cert:"));
        assert!(error(&cert, "rubbish").starts_with("key:"));
        assert!(error(&cert, &other_key).contains("do not fit"), "{}", error(&cert, &other_key));
    }

    #[test]
    fn an_expired_certificate_is_one() {
        let certificate = made(&["a.example"], &rcgen::PKCS_ECDSA_P256_SHA256).0;
        assert_eq!(certificate.invalid_at(certificate.facts.since_s), None);
        assert!(certificate.invalid_at(certificate.facts.expires_s).is_some() && certificate.invalid_at(0).is_some());
        assert!(certificate.to_string().starts_with("a.example, until "), "{certificate}");
    }
}
