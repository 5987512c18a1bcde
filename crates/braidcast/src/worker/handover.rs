//! Moving a session to another worker: its saved state goes into the shared directory, its descriptor through the front.
//!
//! Only sessions that were not told of success yet are moved here; the saved form is the one every later kind of move uses.

use super::ledger::Source;
use super::session::{Protocol, Role, Want, Wish};
use super::sessions::Arrival;
use super::{End, Worker};
use crate::control::counters::WorkerCounter;
use crate::control::{ConnId, Listener, ToFront, WorkerId};
use braidcast_protocols::http::RequestReader;
use braidcast_protocols::rtmp::ServerSession;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The version of [`SavedSession`]'s encoding; the file begins with it, then the CRC-32 of the rest.
const VERSION: u32 = 1;
/// The longest saved session that is read back: what one read of a socket can leave, and some.
const MAX_SAVED_BYTES: u64 = 4 << 20;

/// A session between two workers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SavedSession {
    listener: Listener,
    peer: SocketAddr,
    local: SocketAddr,
    protocol: SavedProtocol,
    /// Control bytes that are not sent yet.
    control: Vec<u8>,
    /// Input that was taken from the socket and not processed.
    unread: Vec<u8>,
    wish: SavedWish,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum SavedProtocol {
    Rtmp(Vec<u8>),
    Http(Vec<u8>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SavedWish {
    key: braidcast_media::StreamKey,
    what: Want,
}

impl Worker {
    fn saved_path(&self, conn: ConnId) -> PathBuf {
        self.config.server.shared_dir.join("sessions").join(conn.0.to_string())
    }

    fn remove_saved(&self, conn: ConnId) {
        if let Err(error) = std::fs::remove_file(self.saved_path(conn)) {
            tracing::debug!(%conn, %error, "cannot remove a saved session");
        }
    }

    /// Hands a session to the worker that was chosen for it.
    pub(super) fn hand_over(&mut self, slot: usize, wish: Wish, to: WorkerId) -> Result<(), End> {
        let session = &self.sessions[slot];
        let protocol = match &session.protocol {
            Protocol::Rtmp(rtmp) => SavedProtocol::Rtmp(rtmp.save(self.now.mono_ms)),
            Protocol::Http(http) => SavedProtocol::Http(http.save()),
            Protocol::Unknown => return Err(End::Fault("a session without a protocol was placed")),
        };
        let saved = SavedSession {
            listener: session.listener,
            peer: session.peer,
            local: session.local,
            protocol,
            control: session.control.clone(),
            unread: session.unread.clone(),
            wish: SavedWish { key: wish.key.clone(), what: wish.what },
        };
        let conn = session.conn;
        if let Err(error) = std::fs::write(self.saved_path(conn), encode(&saved)) {
            tracing::error!(stream = %wish.key, %conn, %error, "cannot save a session to move it");
            self.remove_saved(conn);
            return self.refuse(slot, crate::control::Refusal::DirectoryFull);
        }
        // Before the descriptor leaves: the registration belongs to the open connection, which lives on elsewhere.
        let session = self.sessions.remove(slot);
        self.by_conn.remove(&conn);
        if let Err(error) = self.poller.delete(&session.socket) {
            tracing::debug!(%conn, %error, "cannot unwatch a socket");
        }
        tracing::debug!(stream = %wish.key, %conn, peer = %session.peer, "moved to worker {to}");
        self.count(WorkerCounter::MovesOut);
        if let Err(error) = self.front.send(&ToFront::Move { conn, to }, vec![session.socket]) {
            tracing::error!(stream = %wish.key, %conn, %error, "a session was lost on its way to worker {to}");
            self.remove_saved(conn);
            self.tell_front(&ToFront::Closed { conn });
        }
        Ok(())
    }

    /// Continues a session that another worker began.
    pub(super) fn adopt(&mut self, conn: ConnId, next_segment: u64, socket: OwnedFd) {
        let saved = read(&self.saved_path(conn));
        self.remove_saved(conn);
        let restored = saved.and_then(|saved| self.restore_protocol(&saved.protocol).map(|protocol| (saved, protocol)));
        let (saved, protocol) = match restored {
            Ok(restored) => restored,
            Err(error) => {
                tracing::error!(%conn, %error, "a moved session cannot be continued: its connection is closed");
                return self.tell_front(&ToFront::Closed { conn });
            }
        };
        if self.stopping_since_ms.is_some() {
            return self.tell_front(&ToFront::Closed { conn });
        }
        self.count(WorkerCounter::MovesIn);
        let arrival = Arrival { conn, listener: saved.listener, peer: saved.peer, local: saved.local };
        let Some(slot) = self.insert_session(arrival, socket, protocol) else { return };
        let session = &mut self.sessions[slot];
        // Of HTTP only viewers are moved, and nothing follows their request on its connection.
        session.last_request = matches!(session.protocol, Protocol::Http(_));
        session.unread = saved.unread;
        session.control = saved.control;
        let control = session.control.len() as u32;
        if control > 0 && session.ledger.push(Source::Control { bytes: control }).is_err() {
            return self.close(slot, End::Fault("an empty ledger has no room"));
        }
        let wish = Wish { key: saved.wish.key, what: saved.wish.what };
        session.role = Role::Placing(wish.clone());
        if let Err(end) = self.admit(slot, wish, next_segment) {
            self.close(slot, end);
        }
    }

    fn restore_protocol(&self, saved: &SavedProtocol) -> io::Result<Protocol> {
        let malformed = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        Ok(match saved {
            SavedProtocol::Rtmp(saved) => {
                let session = ServerSession::restore(saved, self.now.mono_ms);
                Protocol::Rtmp(Box::new(session.map_err(|error| malformed(error.to_string()))?))
            }
            SavedProtocol::Http(saved) => {
                let reader = RequestReader::restore(self.http_settings(), saved);
                Protocol::Http(Box::new(reader.ok_or_else(|| malformed("the HTTP reader's state is damaged".into()))?))
            }
        })
    }
}

fn encode(saved: &SavedSession) -> Vec<u8> {
    let body = postcard::to_stdvec(saved).expect("a saved session holds only types that can be encoded");
    let mut bytes = Vec::with_capacity(body.len() + 8);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn decode(bytes: &[u8]) -> io::Result<SavedSession> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("saved session: {what}"));
    let (version, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| damaged("too short"))?;
    let (crc, body) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("too short"))?;
    if u32::from_le_bytes(*version) != VERSION {
        return Err(damaged("of another version"));
    }
    if u32::from_le_bytes(*crc) != crc32fast::hash(body) {
        return Err(damaged("wrong checksum"));
    }
    postcard::from_bytes(body).map_err(|error| damaged(&error.to_string()))
}

fn read(path: &std::path::Path) -> io::Result<SavedSession> {
    if std::fs::metadata(path)?.len() > MAX_SAVED_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "saved session: too long"));
    }
    decode(&std::fs::read(path)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_saved_session_is_found() {
        let saved = SavedSession {
            listener: Listener::Rtmp,
            peer: "1.2.3.4:5".parse().unwrap(),
            local: "[::1]:1935".parse().unwrap(),
            protocol: SavedProtocol::Rtmp(vec![1, 2, 3]),
            control: b"control".to_vec(),
            unread: b"unread".to_vec(),
            wish: SavedWish { key: braidcast_media::StreamKey::new("v", "a", "s").unwrap(), what: Want::Publish },
        };
        let bytes = encode(&saved);
        assert_eq!(decode(&bytes).unwrap(), saved);
        for at in 0..bytes.len() {
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert!(decode(&flipped).is_err(), "flipped at {at}");
        }
    }
}
