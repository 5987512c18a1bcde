//! Whose address clients of the processes have that come through a relay: to a process they all come from the relay itself. Each worker has a
//! file of its own clients. Ids are random and never come again, so that what a dead worker leaves behind speaks of nobody.

use super::DIRECTORY;
use crate::control::WorkerId;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// How the files' names begin and end; between is the worker.
const NAME: (&str, &str) = ("clients-", ".json");

/// Addresses, by process and the id that the client has there.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Clients(HashMap<u16, HashMap<String, IpAddr>>);

impl Clients {
    /// Adds a client; `id` is the process's for it.
    pub fn insert(&mut self, process: u16, id: &str, address: IpAddr) {
        self.0.entry(process).or_default().insert(id.to_owned(), address);
    }

    /// Where a client comes from, if it is known.
    pub fn address(&self, process: u16, id: &str) -> Option<IpAddr> {
        self.0.get(&process)?.get(id).copied()
    }

    /// Writes a worker's own. Readers see the file before or the one after.
    pub fn write(&self, shared_dir: &Path, worker: WorkerId) -> io::Result<()> {
        let directory = shared_dir.join(DIRECTORY);
        let name = format!("{}{worker}{}", NAME.0, NAME.1);
        let part = directory.join(format!("{name}.part"));
        fs::create_dir_all(&directory)?;
        fs::write(&part, serde_json::to_vec(self)?)?;
        fs::rename(part, directory.join(name))
    }

    /// Reads those of all workers; what cannot be read is not there.
    pub fn read(shared_dir: &Path) -> Self {
        let mut all = Self::default();
        for entry in fs::read_dir(shared_dir.join(DIRECTORY)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| name.starts_with(NAME.0) && name.ends_with(NAME.1)) {
                continue;
            }
            let text = fs::read(entry.path()).ok();
            let own: Self = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
            for (process, clients) in own.0 {
                all.0.entry(process).or_default().extend(clients);
            }
        }
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_have_written_is_read_together_and_each_replaces_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let shared_dir = directory.path();
        assert_eq!(Clients::read(shared_dir).address(1, "a"), None);
        let write = |worker, clients: &[(u16, &str, &str)]| {
            let mut own = Clients::default();
            clients.iter().for_each(|(process, id, address)| own.insert(*process, id, address.parse().unwrap()));
            own.write(shared_dir, WorkerId(worker)).unwrap();
        };
        write(1, &[(1, "a", "192.0.2.1"), (2, "a", "2001:db8::1"), (1, "gone", "192.0.2.9")]);
        write(1, &[(1, "a", "192.0.2.1"), (2, "a", "2001:db8::1")]);
        write(10, &[(1, "b", "192.0.2.2")]);
        fs::write(shared_dir.join(DIRECTORY).join("clients-3.json"), "{\"1\":{\"a\":").unwrap();
        fs::write(shared_dir.join(DIRECTORY).join("clients-4.json.part"), "{\"1\":{\"c\":\"192.0.2.3\"}}").unwrap();
        let known = Clients::read(shared_dir);
        for (process, id, address) in [
            (1, "a", Some("192.0.2.1")),
            (2, "a", Some("2001:db8::1")),
            (1, "b", Some("192.0.2.2")),
            (2, "b", None),
            (3, "a", None),
            (1, "gone", None),
            (1, "c", None),
        ] {
            assert_eq!(known.address(process, id), address.map(|address| address.parse().unwrap()), "{process} {id}");
        }
    }
}
