//! What is kept of ACME in the state directory: the account, the certificate with its key, how the last attempt went. Files are the
//! owner's alone, and replaced as a whole.

use super::Certificate;
use crate::config::Acme;
use anyhow::Context;
use braidcast_sys::Dir;
use instant_acme::AccountCredentials;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::Path;

/// The directory in the state directory.
pub const DIRECTORY: &str = "acme";
const ACCOUNT: &str = "account.json";
/// Chain and key in one file, so that they always belong together.
const CERTIFICATE: &str = "certificate.pem";
const ATTEMPT: &str = "attempt.json";

/// The directory, open: this process may not be able to get there any more.
#[derive(Debug)]
pub struct State(Dir);

/// An account, and where it is one.
#[derive(Serialize, Deserialize)]
struct Account {
    directory: String,
    credentials: AccountCredentials,
}

/// How the last attempt went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// What was wanted: another wish has not failed yet.
    wanted: String,
    /// Failures in succession.
    pub failures: u32,
    /// No attempt before this, seconds since 1970.
    pub not_before_s: i64,
    /// Why it failed.
    pub error: String,
}

impl Attempt {
    /// Nothing has failed.
    pub fn none(acme: &Acme) -> Self {
        Self { wanted: wanted(acme), failures: 0, not_before_s: 0, error: String::new() }
    }

    /// It has failed, so many times in succession.
    pub fn failed(acme: &Acme, failures: u32, not_before_s: i64, error: &str) -> Self {
        Self { wanted: wanted(acme), failures, not_before_s, error: error.to_owned() }
    }
}

fn wanted(acme: &Acme) -> String {
    format!("{} {} {} {}", acme.directory, acme.domains.join(" "), acme.contact.join(" "), acme.ca_file)
}

/// Whether two lists are of the same names, in any order.
pub fn same_names(some: &[String], others: &[String]) -> bool {
    let sorted = |names: &[String]| {
        let mut names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    sorted(some) == sorted(others)
}

impl State {
    /// Of an instance with this state directory.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        Dir::open(&state_dir.join(DIRECTORY)).map(Self)
    }

    /// The certificate that was fetched for these names, if there is one.
    pub fn certificate(&self, acme: &Acme) -> Option<Certificate> {
        let pem = self.bytes(CERTIFICATE)?;
        match Certificate::load(&pem, &pem) {
            Ok(certificate) => Some(certificate).filter(|certificate| same_names(&certificate.facts.names, &acme.domains)),
            Err(why) => {
                tracing::error!("the certificate that was fetched cannot be used: {why}; another one is fetched");
                None
            }
        }
    }

    /// Keeps a certificate: chain and key.
    pub fn write_certificate(&self, chain_pem: &str, key_pem: &str) -> anyhow::Result<()> {
        Certificate::load(chain_pem.as_bytes(), key_pem.as_bytes()).map_err(anyhow::Error::msg).context("the authority's certificate")?;
        self.write(CERTIFICATE, format!("{}\n{key_pem}", chain_pem.trim_end()).as_bytes())
    }

    /// The account at a directory, if there is one.
    pub fn account(&self, directory: &str) -> Option<AccountCredentials> {
        self.read::<Account>(ACCOUNT).filter(|account| account.directory == directory).map(|account| account.credentials)
    }

    /// Keeps an account.
    pub fn write_account(&self, directory: &str, credentials: AccountCredentials) -> anyhow::Result<()> {
        self.write(ACCOUNT, &serde_json::to_vec_pretty(&Account { directory: directory.to_owned(), credentials })?)
    }

    /// How the last attempt went to get what is wanted now.
    pub fn attempt(&self, acme: &Acme) -> Attempt {
        self.read(ATTEMPT).filter(|attempt: &Attempt| attempt.wanted == wanted(acme)).unwrap_or_else(|| Attempt::none(acme))
    }

    /// Keeps how it went.
    pub fn write_attempt(&self, attempt: &Attempt) -> anyhow::Result<()> {
        self.write(ATTEMPT, &serde_json::to_vec_pretty(attempt)?)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&self.bytes(name)?).ok()
    }

    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.0.open_regular(name, false).ok()?.read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let part = format!("{name}.part");
        let write = || {
            // One may have been left behind.
            self.0.unlink(&part)?;
            let mut file = self.0.create_private(&part)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            self.0.rename(&part, name)
        };
        write().with_context(|| format!("writing {name} in {DIRECTORY} of the state directory"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_is_the_owners_alone_and_for_what_is_wanted() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(DIRECTORY)).unwrap();
        let state = State::open(directory.path()).unwrap();
        let acme = Acme { domains: vec!["B.example".into(), "a.example".into()], ..Acme::default() };
        assert!(state.certificate(&acme).is_none() && state.attempt(&acme) == Attempt::none(&acme));
        let key = KeyPair::generate().unwrap();
        let chain = CertificateParams::new(["a.example".into(), "b.example".into()]).unwrap().self_signed(&key).unwrap().pem();
        state.write_certificate(&chain, &key.serialize_pem()).unwrap();
        assert!(state.write_certificate(&chain, &KeyPair::generate().unwrap().serialize_pem()).is_err());
        let failed = Attempt::failed(&acme, 3, 7, "why");
        state.write_attempt(&failed).unwrap();
        assert!(state.certificate(&acme).is_some());
        assert_eq!(state.attempt(&acme), failed);
        let other = Acme { domains: vec!["a.example".into()], ..Acme::default() };
        assert!(state.certificate(&other).is_none());
        assert_eq!(state.attempt(&other).failures, 0, "another wish has not failed yet");
        for name in [CERTIFICATE, ATTEMPT] {
            let mode = fs::metadata(directory.path().join(DIRECTORY).join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
}
