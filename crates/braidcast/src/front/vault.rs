//! What the front keeps so that sessions outlive their workers: a duplicate of every client's descriptor, the rows they are saved
//! in, and the heaps of dead workers until nobody needs them any more. Never reads from a client, never looks into a row.

use crate::clients;
use crate::control::ConnId;
use crate::saved::{HeapId, RowId, Rows, directory};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// See the module's head.
#[derive(Debug)]
pub struct Vault {
    directory: PathBuf,
    rows: Rows,
    clients: clients::Table,
    free_rows: BinaryHeap<Reverse<RowId>>,
    rows_given: u32,
    /// By row.
    sockets: Vec<Option<OwnedFd>>,
    heaps_given: u32,
    dead_heaps: Vec<(HeapId, HashSet<ConnId>)>,
}

impl Vault {
    /// An empty one, with an empty table of rows.
    pub fn create(shared_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            directory: directory(shared_dir),
            rows: Rows::create(shared_dir)?,
            clients: clients::Table::create(shared_dir)?,
            free_rows: BinaryHeap::new(),
            rows_given: 0,
            sockets: Vec::new(),
            heaps_given: 0,
            dead_heaps: Vec::new(),
        })
    }

    /// As it was with the front before: its tables, with the rows that are in use, and a number above those of all heaps.
    pub fn inherit(shared_dir: &Path, rows: &HashSet<RowId>, mut clients: clients::Table, last_heap: HeapId) -> io::Result<Self> {
        let rows_given = rows.iter().max().map_or(0, |last| last.0 + 1);
        let free = (0..rows_given).map(RowId).filter(|row| !rows.contains(row)).map(Reverse);
        let mut table = Rows::open(shared_dir)?;
        if let Some(last) = rows_given.checked_sub(1).map(RowId) {
            // There is, unless they were another version's.
            table.provide(last)?;
            clients.provide(last)?;
        }
        Ok(Self {
            directory: directory(shared_dir),
            rows: table,
            clients,
            free_rows: free.collect(),
            rows_given,
            sockets: Vec::new(),
            heaps_given: last_heap.0,
            dead_heaps: Vec::new(),
        })
    }

    /// Deletes the heaps of workers that died while there was no front: `alive` are those that are in use.
    pub fn delete_other_heaps(&self, alive: &HashSet<HeapId>) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let heap = entry.file_name().to_str().and_then(|name| name.strip_prefix("heap-")?.parse().ok()).map(HeapId);
            if heap.is_some_and(|heap| !alive.contains(&heap))
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::debug!(%error, "cannot delete the heap of a dead worker");
            }
        }
    }

    /// A row for a new connection, or HLS session: the lowest that is free.
    pub fn take_row(&mut self) -> io::Result<RowId> {
        if let Some(Reverse(row)) = self.free_rows.pop() {
            self.clients.clear(row);
            return Ok(row);
        }
        let row = RowId(self.rows_given);
        self.rows.provide(row)?;
        self.clients.provide(row)?;
        self.rows_given += 1;
        Ok(row)
    }

    /// A row that [`Vault::take_row`] gave is not needed after all.
    pub fn return_row(&mut self, row: RowId) {
        self.free_rows.push(Reverse(row));
    }

    /// The client table.
    pub fn clients(&mut self) -> &mut clients::Table {
        &mut self.clients
    }

    /// Keeps the descriptor of the client that has a row.
    pub fn keep(&mut self, row: RowId, client: OwnedFd) {
        let place = row.0 as usize;
        if self.sockets.len() <= place {
            self.sockets.resize_with(place + 1, || None);
        }
        self.sockets[place] = Some(client);
    }

    /// A duplicate for a worker.
    pub fn duplicate(&self, row: RowId) -> io::Result<OwnedFd> {
        self.sockets.get(row.0 as usize).and_then(Option::as_ref).ok_or(io::ErrorKind::NotFound)?.try_clone()
    }

    /// A connection is over: lets go of its descriptor and its row.
    pub fn forget(&mut self, conn: ConnId, row: RowId) {
        if let Some(socket) = self.sockets.get_mut(row.0 as usize) {
            *socket = None;
        }
        // Whoever gets the row next finds nothing in it.
        self.rows.clear(row);
        self.clients.clear(row);
        self.return_row(row);
        self.settled(conn);
    }

    /// The heap of a worker that is started.
    pub fn next_heap(&mut self) -> HeapId {
        self.heaps_given += 1;
        HeapId(self.heaps_given)
    }

    /// A worker is dead: its heap stays until these connections have another home.
    pub fn keep_heap(&mut self, heap: HeapId, conns: HashSet<ConnId>) {
        self.dead_heaps.push((heap, conns));
        self.sweep_heaps();
    }

    /// A connection has a home, and what it was saved in before is not needed any more.
    pub fn settled(&mut self, conn: ConnId) {
        let mut changed = false;
        for (_, conns) in &mut self.dead_heaps {
            changed |= conns.remove(&conn);
        }
        if changed {
            self.sweep_heaps();
        }
    }

    fn sweep_heaps(&mut self) {
        let directory = &self.directory;
        self.dead_heaps.retain(|(heap, conns)| {
            if conns.is_empty()
                && let Err(error) = fs::remove_file(directory.join(heap.to_string()))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!(%heap, %error, "cannot delete the heap of a dead worker");
            }
            !conns.is_empty()
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_used_again_lowest_first_and_heaps_stay_while_they_are_needed() {
        let shared = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::create_dir(shared.path().join("sessions")).unwrap();
        let mut vault = Vault::create(shared.path()).unwrap();
        let rows: Vec<u32> = (0..3).map(|_| vault.take_row().unwrap().0).collect();
        assert_eq!(rows, [0, 1, 2]);
        vault.return_row(RowId(2));
        vault.forget(ConnId(9), RowId(0));
        assert_eq!([0, 2, 3], [(); 3].map(|()| vault.take_row().unwrap().0));

        let heap = vault.next_heap();
        let file = shared.path().join("sessions").join(heap.to_string());
        fs::write(&file, "x").unwrap();
        vault.keep_heap(heap, [ConnId(1), ConnId(2)].into());
        vault.settled(ConnId(1));
        assert!(file.exists());
        vault.forget(ConnId(2), RowId(1));
        assert!(!file.exists());
    }
}
