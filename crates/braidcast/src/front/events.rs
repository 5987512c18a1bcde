//! The front's part of the event log: what is written, and when. Every event of a client comes from the registry, in its order, and is written
//! before the client's worker hears what has been decided.

use super::Front;
use super::registry::{Happening, What};
use crate::clients::{self, Record};
use crate::control::counters::FrontCounter;
use crate::control::{ConnId, Intent, Listener};
use crate::events::{Event, Kind, Mark, Writer};
use crate::hls::INDEX;
use crate::saved::RowId;
use anyhow::Context;
use braidcast_media::StreamKey;
use std::collections::HashMap;
use std::io;
use std::path::Path;

impl Front {
    /// Writes down what the registry says has happened.
    pub(super) fn write_happenings(&mut self) {
        while let Some(Happening { conn, row, client, worker, pulled, what }) = self.registry.poll_happening() {
            let record = self.vault.clients().read(row).filter(|record| record.conn == conn);
            let event = with_record(Event::default().conn(conn).worker(worker), record.as_ref());
            let event = Event { client: Some(client).filter(|_| !pulled), pulled, ..event };
            match what {
                What::Began(intent, key) => {
                    self.begins(row, conn, Mark::Place(intent, &key), event.of_stream(&key));
                }
                What::Ended(intent, key) => {
                    let written = self.events.end(row, conn, Mark::Place(intent, &key), event.of_stream(&key));
                    self.note_write(written.map(drop));
                }
                What::Closed => {
                    let event = match record.and_then(|record| record.description.key) {
                        Some(key) => event.of_stream(&key),
                        None => event,
                    };
                    let written = self.events.end(row, conn, Mark::Connection, event);
                    self.note_write(written.map(drop));
                }
            }
        }
    }

    /// Writes that something begins; before the first stream of a client that speaks RTMP, that it is connected.
    fn begins(&mut self, row: RowId, conn: ConnId, mark: Mark<'_>, event: Event) {
        if !event.pulled && self.speaks_rtmp(row, conn) {
            let written = self.events.begin(row, conn, Mark::Connection, event.clone());
            self.note_write(written.map(drop));
        }
        if mark != Mark::Connection {
            let written = self.events.begin(row, conn, mark, event);
            self.note_write(written.map(drop));
        }
    }

    /// A client's connection is let in by hooks, before it is decided about its stream.
    pub(super) fn connection_begins(&mut self, row: RowId, conn: ConnId, event: Event) {
        self.begins(row, conn, Mark::Connection, event);
    }

    /// Whether a client speaks RTMP.
    pub(super) fn speaks_rtmp(&mut self, row: RowId, conn: ConnId) -> bool {
        use clients::Kind::{FlashPublish, FmlePublish, RtmpPlay};
        match self.vault.clients().read(row).filter(|record| record.conn == conn) {
            Some(record) => matches!(record.description.kind, FmlePublish | FlashPublish | RtmpPlay),
            None => matches!(self.registry.listener_of(conn), Some(Listener::Rtmp | Listener::Rtmps)),
        }
    }

    /// What is known of somebody who asks for a place.
    pub(super) fn event_of(&mut self, conn: ConnId, intent: Intent, key: &StreamKey) -> Event {
        let kind = if intent == Intent::Publish { Kind::Publish } else { Kind::Play };
        let row = self.registry.row_of(conn);
        let record = row.and_then(|row| self.vault.clients().read(row)).filter(|record| record.conn == conn);
        let event = Event { client: self.registry.address_of(conn), ..Event::new(kind).conn(conn).of_stream(key) };
        let event = self.registry.worker_of(conn).map(|worker| event.clone().worker(worker)).unwrap_or(event);
        with_record(event, record.as_ref())
    }

    /// Writes down what is not about a client's session.
    pub(super) fn log(&mut self, event: &Event) {
        let written = self.events.append(event);
        self.note_write(written.map(drop));
    }

    /// As [`Front::log`], of what clients can cause as often as they like, or of which many happen at once.
    pub(super) fn log_some(&mut self, event: &Event) {
        if self.event_lines.allow(self.now_ms) {
            self.log(event);
        }
    }

    fn note_write(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            self.count(FrontCounter::EventsLost);
            if self.worker_lines.allow(self.now_ms) {
                tracing::error!(%error, "an event could not be written, and no hook hears of it: enlarge the shared directory or lower [log] budget");
            }
        }
    }

    /// A segment is finished. It may be told of more than once; the number goes on only once.
    pub(super) fn segment(&mut self, key: &StreamKey, next: u64, duration_ms: Option<u64>) {
        let number = next.saturating_sub(1);
        if let Some(duration_ms) = duration_ms
            && number >= self.numbers.next(key)
        {
            let about = match self.registry.publisher_of(key) {
                Some(conn) => self.event_of(conn, Intent::Publish, key),
                None => Event::default().of_stream(key),
            };
            let (directory, path) = (self.shared.root().hls_dir(key), format!("/{}/{}", key.app(), key.stream()));
            self.log(&Event {
                number: Some(number),
                duration_ms: Some(duration_ms),
                file: Some(directory.join(format!("{number}.ts")).display().to_string()),
                url: Some(format!("{path}/{number}.ts")),
                index: Some(directory.join(INDEX).display().to_string()),
                index_url: Some(format!("{path}.m3u8")),
                kind: Kind::Segment,
                ..about
            });
        }
        self.numbers.raise(key, next);
    }

    /// Brings the log in line with what the workers of the front before have.
    pub(super) fn reconcile_events(&mut self) -> io::Result<()> {
        let found = self.registry.connections_found();
        let clients = self.vault.clients();
        let ended = self.events.reconcile(&found, |row, conn, event| {
            let record = row.and_then(|row| clients.read(row)).filter(|record| record.conn == conn);
            with_record(event, record.as_ref())
        })?;
        if ended > 0 {
            tracing::info!("{ended} sessions and connections ended while there was no front");
        }
        Ok(())
    }
}

/// The workers of the instance before are gone, and all that it had: the log says so.
pub(super) fn end_all(events: &mut Writer, shared_dir: &Path) -> anyhow::Result<()> {
    let mut clients = clients::Table::open(shared_dir).ok();
    let ended = events.reconcile(&HashMap::new(), |row, conn, event| {
        let record = row.zip(clients.as_mut()).and_then(|(row, clients)| clients.read(row)).filter(|record| record.conn == conn);
        with_record(event, record.as_ref())
    });
    ended.map(drop).context("bringing the event log in line")
}

/// Adds what the client table says.
pub(super) fn with_record(event: Event, record: Option<&Record>) -> Event {
    match record.and_then(|record| serde_json::to_value(record).ok()) {
        Some(record) => Event { record: Some(record), ..event },
        None => event,
    }
}
