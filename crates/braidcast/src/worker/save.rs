//! Saving sessions: when something is about to leave the process for one that shared memory does not know of yet.

use super::Worker;
use super::kept::{Appetite, Row};
use super::rendition::Rendition;
use super::session::{IndexWish, Protocol, Role, SavedBody, Session, Wish};
use crate::control::counters::WorkerCounter;
use crate::control::{Asked, Origin};
use crate::events::Kind;
use crate::logging::Requested;
use crate::saved::packed;
use crate::saved::rows::PAYLOAD_BYTES;
use braidcast_media::StreamKey;
use braidcast_protocols::proxy::PrefixReader;
use braidcast_protocols::via::Via;
use braidcast_stream_log::SavedHeaders;
use braidcast_sys::fault::kill_point;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;

/// The version of rows and checkpoints, which begin with it. A new one must still read the one before.
pub const VERSION: u8 = 2;
/// What a checkpoint begins with that is packed, and says the same as one of [`VERSION`].
pub const PACKED: u8 = 3;
/// The version of all that is saved, tables and heaps included.
pub const SAVED_VERSION: u8 = 4;
/// The same without packed checkpoints, in an instance that was begun so.
pub const SAVED_VERSION_UNPACKED: u8 = 3;
/// The version before: the same rows and checkpoints, in tables of another shape.
pub const SAVED_VERSION_BEFORE: u8 = 2;
/// Second byte of a row: it follows here, or its place in the heap does.
pub const INLINE: u8 = 0;
/// See [`INLINE`].
pub const SPILLED: u8 = 1;
/// See [`INLINE`]: the session could not be saved, and an older save would be wrong.
pub const UNSAVED: u8 = 2;

/// The checkpoint of a viewer is packed if it takes no more than this.
const PACKED_BYTES: usize = 1024;
/// Few sessions have more to save.
const FIRST_BUFFER_BYTES: usize = 16 << 10;

/// Everything of a session at some moment, but what its row says.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub origin: Origin,
    /// See [`Session::peer`].
    pub peer: SocketAddr,
    pub protocol: SavedProtocol,
    pub role: SavedRole,
    /// What the front was asked about it last.
    pub asked: Option<Asked>,
    /// Milliseconds left to the role's deadline.
    pub deadline_left_ms: Option<u64>,
    /// HTTP: the servers that pass the answer on.
    pub via: Option<Box<Via>>,
    /// HTTP: what is still to be written to the access log.
    pub requested: Option<Box<Requested>>,
    pub peer_ended: bool,
    pub answering: bool,
    pub last_request: bool,
    pub closing: bool,
}

/// What a session speaks.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum SavedProtocol {
    Prefix(PrefixReader),
    Unknown,
    Rtmp(Vec<u8>),
    Http(Vec<u8>),
    WebSocket(Vec<u8>),
}

/// What a session is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SavedRole {
    Idle,
    Placing(Wish),
    /// It waits for a lock: where it belongs has to be asked again.
    Opening(Wish),
    Waiting(Wish),
    WaitingForIndex(IndexWish),
    Publishing(StreamKey, SavedHeaders),
    /// In which form, and in which from the next keyframe on.
    Viewing(StreamKey, Rendition, Option<Rendition>),
    /// Behind which event, and which kinds.
    Following(Option<u64>, Vec<Kind>),
    /// It is sent an answer with this body.
    Answering(SavedBody),
}

impl Worker {
    /// Saves a session. One that cannot be saved goes on, but only here: its row says so, so that nobody continues from an older save.
    pub(super) fn save(&mut self, slot: usize) {
        let session = &self.sessions[slot];
        if session.kept.lost {
            return;
        }
        if let Role::Publishing(publisher) = session.role
            && self.commit_publisher(publisher)
        {
            // Which has saved it.
            return;
        }
        let before = self.sessions[slot].kept.region;
        if let Err(error) = self.try_save(slot) {
            let session = &mut self.sessions[slot];
            session.kept.lost = true;
            session.kept.number += 1;
            // There is memory for the row, or it was never given out: then nobody looks for the session there.
            let _ = self.rows.save(session.kept.row, session.kept.number, &[VERSION, UNSAVED]);
            self.count(WorkerCounter::SessionsUnsaved);
            if self.peer_lines.allow(self.now.mono_ms) {
                let session = &self.sessions[slot];
                tracing::error!(conn = %session.conn, peer = %session.more.peer, %error, "the session cannot be saved: it ends if this worker dies; enlarge the shared directory or lower [log] budget");
            }
        }
        // Only now does no row point to the old checkpoint any more.
        if let Some(before) = before.filter(|before| self.sessions[slot].kept.region != Some(*before)) {
            self.heap.free(before);
        }
    }

    fn try_save(&mut self, slot: usize) -> io::Result<()> {
        let session = &self.sessions[slot];
        let headers_changed = match session.role {
            Role::Publishing(publisher) => self.publishers[publisher].writer.headers_revision() != session.kept.headers_revision,
            _ => false,
        };
        if session.kept.stale || headers_changed {
            self.write_checkpoint(slot)?;
        }
        self.write_row(slot)
    }

    /// Writes a checkpoint into a region of its own; the row still points to the old one.
    fn write_checkpoint(&mut self, slot: usize) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.save_buffer);
        let checkpoint = encode(&mut buffer, 1, &self.checkpoint(slot))?;
        buffer[0] = VERSION;
        let bytes = &buffer[..checkpoint];
        let session = &mut self.sessions[slot];
        let kept = &mut session.kept;
        let (appetite, partial) = match (&session.role, &session.more.protocol) {
            (Role::Publishing(_), _) => (Appetite::Ingest, bytes.len()),
            (Role::Viewing { .. } | Role::Following(_), _) if !kept.hungry => (Appetite::Idle, 0),
            _ => (Appetite::Commands, bytes.len()),
        };
        let mut packed = [0; PACKED_BYTES];
        let bytes = match appetite {
            Appetite::Idle if self.rows.may_pack() => pack(bytes, &mut packed).unwrap_or(bytes),
            _ => bytes,
        };
        let checkpoint = bytes.len();
        // What was read and not used yet goes along. Of a session that came from elsewhere nothing is in this heap yet.
        let unused = match kept.region {
            Some(region) => {
                let start = kept.checkpoint_bytes() + kept.consumed;
                self.heap.bytes(region, start..kept.checkpoint_bytes() + kept.journal_bytes).to_vec()
            }
            None => session.more.unread.clone(),
        };
        let journal = kept.wanted_journal(appetite, partial).max(2 * unused.len());
        let allocated = self.heap.allocate(checkpoint + journal);
        let region = match allocated {
            Ok(region) => region,
            Err(error) => {
                self.save_buffer = buffer;
                return Err(error);
            }
        };
        self.heap.bytes_mut(region, 0..checkpoint).copy_from_slice(bytes);
        self.heap.bytes_mut(region, checkpoint..checkpoint + unused.len()).copy_from_slice(&unused);
        kill_point("checkpoint");
        kept.checkpoint_sum = crc32fast::hash(bytes);
        self.save_buffer = buffer;
        kept.region = Some(region);
        kept.begin_journal(checkpoint, unused.len(), self.now.mono_ms);
        if let Role::Publishing(publisher) = session.role {
            kept.headers_revision = self.publishers[publisher].writer.headers_revision();
        }
        Ok(())
    }

    fn checkpoint(&self, slot: usize) -> Checkpoint {
        let session = &self.sessions[slot];
        let now_ms = self.now.mono_ms;
        let role = match &session.role {
            Role::Idle => session.more.body.as_ref().map_or(SavedRole::Idle, |body| SavedRole::Answering(body.save())),
            Role::Asking(_) | Role::AskingSession(_) => SavedRole::Idle,
            Role::Placing(wish) => SavedRole::Placing((**wish).clone()),
            Role::Opening(wish, _) => SavedRole::Opening((**wish).clone()),
            Role::Waiting(wish) => SavedRole::Waiting((**wish).clone()),
            Role::WaitingForIndex(wish) => SavedRole::WaitingForIndex((**wish).clone()),
            Role::Publishing(publisher) => {
                let at = &self.publishers[*publisher];
                SavedRole::Publishing(at.key.clone(), at.writer.save_headers())
            }
            Role::Following(following) => {
                let (after, kinds) = following.place();
                SavedRole::Following(after, kinds)
            }
            Role::Viewing { stream, rendition, next, .. } => SavedRole::Viewing(self.streams[*stream].key.clone(), *rendition, *next),
        };
        Checkpoint {
            origin: session.origin(),
            peer: session.more.peer,
            protocol: match &session.more.protocol {
                Protocol::Prefix(reader) => SavedProtocol::Prefix((**reader).clone()),
                // Of a client, and of what goes through a relay, nothing is saved.
                Protocol::Unknown | Protocol::Client(_) | Protocol::Relay(_) | Protocol::Resting => SavedProtocol::Unknown,
                Protocol::Rtmp(rtmp) => SavedProtocol::Rtmp(rtmp.save(now_ms)),
                Protocol::Http(http) => SavedProtocol::Http(http.save()),
                Protocol::WebSocket(socket) => SavedProtocol::WebSocket(socket.save()),
            },
            role,
            asked: session.more.asked.clone(),
            deadline_left_ms: (session.deadline_ms != 0).then(|| session.deadline_ms.saturating_sub(now_ms)),
            via: session.more.via.clone(),
            requested: session.more.requested.clone(),
            peer_ended: session.peer_ended,
            answering: session.answering,
            last_request: session.last_request,
            closing: session.closing,
        }
    }

    fn write_row(&mut self, slot: usize) -> io::Result<()> {
        let session = &mut self.sessions[slot];
        let (old_control, old_spill) = (session.kept.control, session.kept.spill);
        let control = match session.more.control.as_slice() {
            [] => None,
            bytes => Some((self.heap.store(bytes)?, bytes.len() as u32, crc32fast::hash(bytes))),
        };
        let kept = &session.kept;
        let row = Row {
            conn: session.conn.0,
            base: kept.base(),
            heap: self.heap.id(),
            region: kept.region.ok_or_else(|| io::Error::other("a row is written after its checkpoint"))?,
            checkpoint: (kept.checkpoint_bytes() as u32, kept.checkpoint_sum),
            journal_from: kept.journal_from,
            consumed: kept.consumed as u32,
            acted: kept.acted,
            replied: kept.replied,
            sent: session.ledger.sent(),
            finish: session.ledger.finish(),
            extents: Cow::Borrowed(session.ledger.extents()),
            control,
            writer: match session.role {
                Role::Publishing(publisher) => Some(self.publishers[publisher].writer.save()),
                _ => None,
            },
        };
        let mut payload = [0; PAYLOAD_BYTES];
        (payload[0], payload[1]) = (VERSION, INLINE);
        // A writer's state is too long for a row.
        let inline = match row.writer {
            None => postcard::to_slice(&row, &mut payload[2..]).map(|body| 2 + body.len()),
            Some(_) => Err(postcard::Error::SerializeBufferFull),
        };
        let mut spare = kept.spare;
        let (used, spill) = match inline {
            Ok(used) => (used, None),
            Err(postcard::Error::SerializeBufferFull) => {
                let length = encode(&mut self.save_buffer, 0, &row)?;
                let bytes = &self.save_buffer[..length];
                let block = match spare.take_if(|spare| spare.bytes() >= length) {
                    // No row points to it any more but the one that is about to be written.
                    Some(block) => {
                        self.heap.bytes_mut(block, 0..length).copy_from_slice(bytes);
                        block
                    }
                    None => self.heap.store(bytes)?,
                };
                let place = (self.heap.id(), block, length as u32, crc32fast::hash(bytes));
                payload[1] = SPILLED;
                let body = postcard::to_slice(&place, &mut payload[2..]).map_err(io::Error::other)?;
                (2 + body.len(), Some(block))
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        kill_point("row");
        self.rows.save(kept.row, kept.number + 1, &payload[..used])?;
        let kept = &mut session.kept;
        kill_point("row_saved");
        kept.number += 1;
        // Of a publisher: another one's spills are few.
        let publishes = matches!(session.role, Role::Publishing(_));
        kept.hold(control.map(|(block, ..)| block), spill, if publishes { old_spill } else { None });
        let unused = if publishes { None } else { old_spill };
        kept.ledger_changes = session.ledger.changes();
        for old in [old_control, spare, unused].into_iter().flatten() {
            self.heap.free(old);
        }
        Ok(())
    }

    /// Gives back what a session has kept: it is over, or another worker has it.
    pub(super) fn release_kept(&mut self, session: &Session) {
        let kept = &session.kept;
        for block in [kept.region, kept.control, kept.spill, kept.spare].into_iter().flatten() {
            self.heap.free(block);
        }
    }

    /// Makes room for input behind the session's journal; says how many bytes it may take.
    pub(super) fn make_journal_room(&mut self, slot: usize, wanted: usize) -> usize {
        let kept = &self.sessions[slot].kept;
        if kept.lost {
            return wanted;
        }
        if kept.room() < kept.least_room(wanted) {
            (self.sessions[slot].kept.stale, self.sessions[slot].kept.hungry) = (true, true);
            self.save(slot);
        }
        self.sessions[slot].kept.room().min(wanted)
    }
}

/// A checkpoint packed, if that makes it shorter.
fn pack<'a>(plain: &[u8], packed: &'a mut [u8]) -> Option<&'a [u8]> {
    let (version, body) = packed.split_first_mut()?;
    *version = PACKED;
    let bytes = 1 + packed::pack(&plain[1..], body)?;
    (bytes < plain.len()).then(|| &packed[..bytes])
}

/// Writes a value to `buffer`, which grows as it has to, from this byte on; says where it ends.
fn encode(buffer: &mut Vec<u8>, from: usize, value: &impl Serialize) -> io::Result<usize> {
    loop {
        match postcard::to_slice(value, buffer.get_mut(from..).unwrap_or_default()) {
            Ok(written) => return Ok(from + written.len()),
            Err(postcard::Error::SerializeBufferFull) => buffer.resize((2 * buffer.len()).max(FIRST_BUFFER_BYTES), 0),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}
