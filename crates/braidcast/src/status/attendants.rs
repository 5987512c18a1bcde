//! The attendants, as the front's report, their own pages and their notes say.

use crate::attendant::page::Page;
use crate::attendant::report::{self, Process};
use crate::control::attendants::Role;
use crate::control::counters::TlsCounter;
use braidcast_stream_log::Now;
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A process beside the workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Attendant {
    /// `tls` or `hooks`.
    pub role: String,
    /// Its process; 0 if there is none.
    pub pid: u32,
    /// `starting`, `ready`, `restarting`, `retiring`, `stopping`.
    pub state: String,
    /// How often it was started again.
    pub restarts: u32,
    /// Seconds since its process was started; 0 if there is none.
    pub uptime_s: u64,
    /// What an operator should know of it.
    pub notes: Vec<String>,
    /// The counters of its role by name.
    #[schema(value_type = HashMap<String, u64>)]
    pub counters: Map<String, Value>,
}

pub(super) fn read(shared_dir: &Path, now: Now) -> Vec<Attendant> {
    let attendant = |process: Process| {
        let role = Role::ALL.into_iter().find(|role| role.to_string() == process.role);
        let page = role.and_then(|role| Page::open(shared_dir, role).ok());
        let value = |place: usize| page.as_ref().map_or(0, |page| page.counter(place).load(Relaxed));
        let counters = role.map_or_else(Vec::new, Role::counters).into_iter().enumerate();
        Attendant {
            uptime_s: if process.pid == 0 { 0 } else { now.wall_ms.saturating_sub(process.started_wall_ms) / 1_000 },
            counters: counters.map(|(place, label)| (label.to_owned(), value(place).into())).collect(),
            notes: role.map_or_else(Vec::new, |role| notes(shared_dir, role, value)),
            role: process.role,
            pid: process.pid,
            state: process.state,
            restarts: process.restarts,
        }
    };
    report::read(shared_dir).into_iter().map(attendant).collect()
}

fn notes(shared_dir: &Path, role: Role, value: impl Fn(usize) -> u64) -> Vec<String> {
    let mut notes = Vec::new();
    if role == Role::Tls {
        let count = value(TlsCounter::Certificates as usize);
        let expiry = i64::try_from(value(TlsCounter::CertificateExpiry as usize)).unwrap_or(0);
        notes.push(match OffsetDateTime::from_unix_timestamp(expiry) {
            Ok(expiry) if count > 0 => format!("{count} certificates, the first to expire on {}", expiry.date()),
            _ => "no certificate: no client can connect".to_owned(),
        });
        notes.push("connections by TLS end with this process; no worker's death, drain or upgrade is noticed on them".to_owned());
    }
    notes.extend(report::note(shared_dir, role));
    notes
}
