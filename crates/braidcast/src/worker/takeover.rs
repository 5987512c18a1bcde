//! Going on with a session that another worker had: one that died, or one that handed it over.
//!
//! The kernel says how many bytes went each way; the row, the checkpoint and the journal say what they were. Nothing is read from
//! or sent to the client before the session is saved as this worker's own.

use super::api::Following;
use super::ingest::Publisher;
use super::kept::{Kept, Row};
use super::ledger::{Blocks, Ledger};
use super::publishers::PUMP_MS;
use super::rendition::Rendition;
use super::save::{Checkpoint, INLINE, PACKED, SPILLED, SavedProtocol, SavedRole, UNSAVED, VERSION};
use super::session::{Body, Protocol, Role, SavedBody, Session};
use super::sessions::Arrival;
use super::websocket::WebSocket;
use super::{End, Worker};
use crate::control::counters::WorkerCounter;
use crate::control::{Adoption, ConnId, Holding, ToFront};
use crate::page;
use crate::saved::heap::ForeignHeap;
use crate::saved::packed;
use crate::saved::rows::Save;
use crate::saved::{Block, HeapId};
use anyhow::{Context, bail, ensure};
use braidcast_media::StreamKey;
use braidcast_protocols::http::RequestReader;
use braidcast_protocols::rtmp::ServerSession;
use braidcast_stream_log::{Reader, SavedHeaders, SavedWriter, Writer};
use braidcast_sys::fault::kill_point;
use braidcast_sys::net::{self, Positions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Clients that two workers died of, whose last bytes are kept.
const POISON_FILES: usize = 32;

/// Everything that was found of a session.
struct Found {
    row: Row<'static>,
    number: u64,
    checkpoint: Checkpoint,
    /// Input that the dead worker had taken from the kernel since the checkpoint.
    journal: Vec<u8>,
    control: Vec<u8>,
    /// Bytes of output that the kernel has.
    written: u64,
}

impl Worker {
    /// Continues a session that another worker began, and tells the front how it went.
    pub(super) fn adopt(&mut self, adoption: Adoption, socket: OwnedFd) {
        let conn = adoption.conn;
        if self.stopping_since_ms.is_some() {
            return self.tell_front(&ToFront::Lost { conn });
        }
        let Some(save) = self.rows.load(adoption.row) else {
            // Nobody has read from it or written to it: that is saved first.
            self.tell_front(&ToFront::Adopted { conn });
            return self.open_session(Arrival { conn, row: adoption.row, origin: adoption.origin }, socket);
        };
        match self.try_adopt(&adoption, &save, socket) {
            Ok(slot) => {
                self.count(WorkerCounter::MovesIn);
                // It may have come back; what it was handed over with is needed no more.
                self.forget_departed(conn);
                kill_point("adopted");
                self.tell_front(&ToFront::Adopted { conn });
                if let Err(end) = self.go_on(slot, adoption.admitted.then_some(adoption.next_segment)) {
                    self.close(slot, end);
                }
                self.page.busy_with_none();
            }
            Err(error) => {
                self.page.busy_with_none();
                tracing::warn!(%conn, error = format!("{error:#}"), "a session cannot be continued: its connection is closed");
                self.tell_front(&ToFront::Lost { conn });
            }
        }
    }

    fn try_adopt(&mut self, adoption: &Adoption, save: &Save, socket: OwnedFd) -> anyhow::Result<usize> {
        let found = self.find(adoption, save, &socket)?;
        let Found { row, number, checkpoint, journal, mut control, written } = found;
        let mut ledger = Ledger::restore(row.sent, row.finish, &row.extents).context("its ledger makes no sense")?;
        let sent = usize::try_from(written.checked_sub(row.sent).context("it had sent more than the kernel knows of")?)?;
        ensure!(ledger.owed_bytes().is_none_or(|owed| owed >= sent as u64), "the kernel has more of its output than was owed");
        let control_sent = ledger.advance(sent);
        control.drain(..control_sent.min(control.len()));
        self.page.busy_with(adoption.conn.0, row.journal_from + u64::from(row.consumed));
        let mut protocol = self.restore_protocol(&checkpoint, self.now.mono_ms)?;
        self.replay(&mut protocol, &row, &journal)?;

        let arrival = Arrival { conn: adoption.conn, row: adoption.row, origin: checkpoint.origin };
        let mut kept = Kept::new(adoption.row, Positions { written: row.base[0], read: row.base[1] });
        kept.number = number;
        kept.journal_from = row.journal_from;
        kept.consumed = row.consumed as usize;
        kill_point("restored");
        let role = self.restore_role(checkpoint.role, row.writer, &ledger)?;
        let Some(slot) = self.insert_session(arrival, socket, protocol, kept) else { bail!("its socket cannot be watched") };
        let session = &mut self.sessions[slot];
        session.more.peer = checkpoint.peer;
        session.ledger = ledger;
        session.more.control = control;
        session.more.unread = journal[row.consumed as usize..].to_vec();
        session.more.asked = checkpoint.asked;
        session.more.forward.clone_from(&adoption.forward);
        session.more.via = checkpoint.via;
        session.more.requested = checkpoint.requested;
        session.peer_ended = checkpoint.peer_ended;
        session.answering = checkpoint.answering;
        session.last_request = checkpoint.last_request;
        session.closing = checkpoint.closing;
        session.deadline_ms = checkpoint.deadline_left_ms.map_or(0, |left_ms| self.now.mono_ms + left_ms.max(1));
        kill_point("entering");
        self.enter_role(slot, role, adoption.next_segment);
        // From here on the row is this worker's.
        self.save(slot);
        self.watch_deadline(slot);
        Ok(slot)
    }

    /// Reads what there is of a session. Nothing is changed.
    fn find(&self, adoption: &Adoption, save: &Save, socket: &OwnedFd) -> anyhow::Result<Found> {
        let row = self.read_row(&save.payload)?;
        ensure!(row.conn == adoption.conn.0, "its row holds another session, {}", ConnId(row.conn));
        let heap = ForeignHeap::open(&self.config.server.shared_dir, row.heap).context("opening the heap it is in")?;
        let positions = net::positions(socket).context("asking how far the connection has come")?;
        let positions = positions.context("the connection is already ending")?;
        let (written, read) = (positions.written.checked_sub(row.base[0]), positions.read.checked_sub(row.base[1]));
        let (written, read) = written.zip(read).context("the kernel's counters are less than they were")?;
        let (checkpoint_bytes, sum) = (row.checkpoint.0 as usize, row.checkpoint.1);
        let bytes = checked(&heap, row.region, checkpoint_bytes, sum).context("its checkpoint is damaged")?;
        let checkpoint = Checkpoint::read(bytes)?;
        let journal_bytes = usize::try_from(read.checked_sub(row.journal_from).context("less input was read than was used")?)?;
        let journal = heap.bytes(row.region, checkpoint_bytes..checkpoint_bytes.saturating_add(journal_bytes));
        let journal = journal.context("more input was read than its journal holds")?.to_vec();
        ensure!(row.consumed as usize <= journal.len(), "more input was used than was read");
        let control = match row.control {
            Some((block, length, sum)) => checked(&heap, block, length as usize, sum).context("its control bytes are damaged")?.to_vec(),
            None => Vec::new(),
        };
        Ok(Found { row, number: save.number, checkpoint, journal, control, written })
    }

    fn read_row(&self, payload: &[u8]) -> anyhow::Result<Row<'static>> {
        match payload {
            [VERSION, INLINE, body @ ..] => Ok(postcard::take_from_bytes(body).context("reading its row")?.0),
            [VERSION, SPILLED, body @ ..] => {
                let ((heap, block, length, sum), _): ((HeapId, Block, u32, u32), _) =
                    postcard::take_from_bytes(body).context("reading its row")?;
                let heap = ForeignHeap::open(&self.config.server.shared_dir, heap).context("opening the heap its row is in")?;
                let bytes = checked(&heap, block, length as usize, sum).context("its row is damaged")?;
                Ok(postcard::from_bytes(bytes).context("reading its row")?)
            }
            [VERSION, UNSAVED, ..] => bail!("its worker could not save it"),
            [version, ..] if *version != VERSION => bail!("it was saved by version {version}, this is {VERSION}"),
            _ => bail!("its row is damaged"),
        }
    }

    /// The protocol's machine, as it was at the checkpoint, which was made at `at_ms`.
    pub(super) fn restore_protocol(&self, checkpoint: &Checkpoint, at_ms: u64) -> anyhow::Result<Protocol> {
        Ok(match &checkpoint.protocol {
            SavedProtocol::Prefix(reader) => Protocol::Prefix(Box::new(reader.clone())),
            SavedProtocol::Unknown => Protocol::Unknown,
            SavedProtocol::Rtmp(saved) => Protocol::Rtmp(Box::new(ServerSession::restore(saved, at_ms)?)),
            SavedProtocol::WebSocket(saved) => {
                Protocol::WebSocket(Box::new(WebSocket::restore(saved).context("the WebSocket's state is damaged")?))
            }
            SavedProtocol::Http(saved) => {
                let reader = RequestReader::restore(self.http_settings(checkpoint.origin.listener), saved)
                    .context("the HTTP reader's state is damaged")?;
                Protocol::Http(Box::new(reader))
            }
        })
    }

    /// Brings a protocol's machine from the checkpoint to where the row says that it was.
    fn replay(&self, protocol: &mut Protocol, row: &Row<'_>, journal: &[u8]) -> anyhow::Result<()> {
        let consumed = &journal[..row.consumed as usize];
        let Protocol::Rtmp(rtmp) = protocol else {
            ensure!(consumed.is_empty() || matches!(protocol, Protocol::Unknown), "only a session that speaks RTMP is not saved whole");
            return Ok(());
        };
        if !consumed.is_empty() {
            let used = rtmp.handle_input(consumed, self.now.mono_ms).context("replaying its input")?;
            ensure!(used == consumed.len(), "its input takes another way the second time");
        }
        for _ in 0..row.acted {
            rtmp.poll_output().context("its input says less the second time")?;
        }
        rtmp.outbox_sent(usize::try_from(row.replied)?);
        Ok(())
    }

    /// Takes what a role needs: the stream's log for a publisher, a view of it for a viewer.
    fn restore_role(&mut self, saved: SavedRole, writer: Option<SavedWriter<'static>>, ledger: &Ledger) -> anyhow::Result<Restored> {
        Ok(match saved {
            SavedRole::Publishing(key, headers) => {
                let writer = writer.context("a publisher without its writer's state")?;
                let writer = self.resume_writer(&key, writer, headers)?;
                Restored::Publishing(key, Box::new(writer))
            }
            SavedRole::Viewing(key, rendition, next) => {
                let stream = self.view_again(&key, rendition, ledger).with_context(|| format!("looking at {key} again"))?;
                Restored::Viewing(stream, rendition, next)
            }
            SavedRole::Answering(body) if ledger.owes_body() => Restored::Answering(self.body_again(body)?),
            other => Restored::Other(other),
        })
    }

    /// The body of an answer that another worker has begun to send.
    fn body_again(&mut self, saved: SavedBody) -> anyhow::Result<Body> {
        match saved {
            SavedBody::Segment { key, number, etag } => {
                let segment = self.hls_files.segment(&self.root, &key, number, self.now.mono_ms)?;
                let segment = segment.filter(|segment| segment.validators.etag == etag);
                Ok(Body::Segment(key.clone(), segment.with_context(|| format!("segment {number} of {key}, which it was sent, is gone"))?))
            }
            SavedBody::Asset { path, etag } => {
                let asset = page::asset(&path).filter(|asset| asset.etag == etag);
                Ok(Body::Asset(path, asset.context("the file of the page that it was sent is another one now")?))
            }
        }
    }

    fn resume_writer(&self, key: &StreamKey, saved: SavedWriter<'static>, headers: SavedHeaders) -> anyhow::Result<Writer> {
        Writer::resume(&self.root, key, &self.log_options, saved, headers, self.now).with_context(|| format!("taking the log of {key}"))
    }

    /// The local view of a stream, with the blocks that a viewer is still owed.
    fn view_again(&mut self, key: &StreamKey, rendition: Rendition, ledger: &Ledger) -> anyhow::Result<usize> {
        let slot = match self.stream_slots.get(key) {
            Some(&slot) => slot,
            None => {
                let reader = Reader::open(&self.root, key)?.context("it is gone")?;
                self.add_stream(key, reader)
            }
        };
        let stream = &mut self.streams[slot];
        let viewed = match ledger.oldest_place() {
            Some((block, _)) => stream.hold(block, rendition),
            None => Ok(true),
        };
        // It may have been sent more of a block than this worker saw before the block was evicted.
        let seen = |(block, offset): (u32, u32)| stream.blocks(rendition).available(block).is_some_and(|seen| offset <= seen.bytes);
        let viewed = viewed.map(|held| held && ledger.position().is_none_or(seen));
        match viewed {
            Ok(true) => Ok(slot),
            failed => {
                self.forget_unwatched(slot);
                failed?;
                bail!("the block it was sent from is gone")
            }
        }
    }

    fn enter_role(&mut self, slot: usize, role: Restored, next_segment: u64) {
        let role = match role {
            Restored::Publishing(key, writer) => {
                let evicted = writer.counters().evicted_blocks;
                let publisher = self.publishers.insert(Publisher {
                    session: slot,
                    key_slot: key.slot(),
                    key,
                    writer: *writer,
                    segmenter: None,
                    // Opened a little later: viewers do not wait for it.
                    segmenter_from: Some(next_segment),
                    dirty: false,
                    pump_at_ms: 0,
                    dropped: 0,
                    complain_at: 1,
                    evicted,
                });
                self.plan_pump(publisher, self.now.mono_ms + PUMP_MS / 2);
                Role::Publishing(publisher)
            }
            Restored::Viewing(stream, rendition, next) => {
                self.page.set_reading(self.streams[stream].key.slot(), true);
                let place = self.streams[stream].join(slot, rendition);
                Role::Viewing { stream, rendition, place, next }
            }
            Restored::Answering(body) => {
                self.sessions[slot].more.body = Some(Box::new(body));
                Role::Idle
            }
            Restored::Other(SavedRole::Placing(wish) | SavedRole::Opening(wish) | SavedRole::Waiting(wish)) => {
                Role::Placing(Box::new(wish))
            }
            Restored::Other(SavedRole::Following(after, kinds)) => Role::Following(Box::new(Following::again(after, kinds))),
            Restored::Other(_) => Role::Idle,
        };
        let follows = matches!(role, Role::Following(_));
        self.sessions[slot].role = role;
        if follows {
            self.go_on_following(slot);
        }
        if !matches!(self.sessions[slot].role, Role::Viewing { .. }) {
            // Whoever had it may have held its input back; what is saved of it may be older than its publish.
            self.sessions[slot].held_back = true;
            self.release_input(slot);
        }
        if let Role::Publishing(publisher) = self.sessions[slot].role {
            self.watch_publisher(slot);
            self.begin_forwards(publisher);
        }
    }

    /// Does what the session was about to do.
    fn go_on(&mut self, slot: usize, admitted: Option<u64>) -> Result<(), End> {
        let session = &self.sessions[slot];
        if session.more.body.is_none() && session.ledger.owes_body() {
            return Err(End::Fault("an answer was under way, and it was not said of what"));
        }
        if let Role::Placing(wish) = &session.role {
            let wish = (**wish).clone();
            match admitted {
                Some(next_segment) => self.admit(slot, wish, next_segment)?,
                None => match session.more.asked.clone() {
                    Some(asked) => self.ask(slot, wish, asked)?,
                    None => return Err(End::Fault("a session was to be placed and nobody had been asked")),
                },
            }
        }
        if self.sessions.get(slot).is_some_and(|session| matches!(session.more.protocol, Protocol::Rtmp(_))) {
            self.act_on_rtmp(slot)?;
        }
        if self.sessions.contains(slot) {
            self.try_flush(slot)?;
            self.after_flush(slot);
        }
        Ok(())
    }

    /// A session that two workers died of: keeps what it sent last, for whoever wants to know why.
    pub(super) fn bury(&mut self, adoption: &Adoption, socket: &OwnedFd) {
        let conn = adoption.conn;
        let save = self.rows.load(adoption.row);
        match save.context("nothing was saved of it").and_then(|save| self.find(adoption, &save, socket)) {
            Ok(found) => {
                let directory = crate::saved::directory(&self.config.server.shared_dir).join("poison");
                match keep_poison(&directory, conn, &found.journal) {
                    Ok(path) => {
                        tracing::error!(%conn, peer = %found.checkpoint.peer, path = %path.display(), bytes = found.journal.len(), "two workers died of what this client sent: closed, its last bytes are kept")
                    }
                    Err(error) => {
                        tracing::error!(%conn, peer = %found.checkpoint.peer, %error, "two workers died of what this client sent: closed; its last bytes could not be kept")
                    }
                }
            }
            Err(error) => {
                tracing::error!(%conn, error = format!("{error:#}"), "two workers died of what this client sent: closed; its last bytes are not known")
            }
        }
        self.tell_front(&ToFront::Lost { conn });
    }
}

/// Writes down what a client sent last. Only the first so many are kept: one bad client that comes again and again says nothing new.
fn keep_poison(directory: &Path, conn: ConnId, bytes: &[u8]) -> io::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    if std::fs::read_dir(directory)?.count() >= POISON_FILES {
        return Err(io::Error::other(format!("there are {POISON_FILES} already: look at them and delete them")));
    }
    let path = directory.join(conn.to_string());
    std::fs::write(&path, bytes)?;
    Ok(path)
}

/// A role whose stream is at hand.
enum Restored {
    Publishing(StreamKey, Box<Writer>),
    Viewing(usize, Rendition, Option<Rendition>),
    /// It is sent an answer with this body.
    Answering(Body),
    Other(SavedRole),
}

impl Checkpoint {
    /// Reads one.
    pub fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        match bytes.split_first() {
            Some((&VERSION, body)) => postcard::from_bytes(body).context("reading its checkpoint"),
            Some((&PACKED, body)) => {
                let body = packed::unpack(body).context("its checkpoint is packed in no way that is known")?;
                postcard::from_bytes(&body).context("reading its checkpoint")
            }
            other => bail!("its checkpoint is of version {:?}", other.map(|(version, _)| version)),
        }
    }
}

/// Bytes of a heap whose checksum is right.
fn checked(heap: &ForeignHeap, block: Block, length: usize, sum: u32) -> Option<&[u8]> {
    heap.bytes(block, 0..length).filter(|bytes| crc32fast::hash(bytes) == sum)
}

/// What another worker still reads of a session that was handed to it.
#[derive(Debug)]
pub struct Departed {
    blocks: [Option<Block>; 4],
    /// In case the front dies before it has found somebody.
    holding: Holding,
    socket: OwnedFd,
}

impl Departed {
    /// Of a session that has left, as the front knew it.
    pub fn new(session: Session, holding: Holding) -> Self {
        let blocks = [session.kept.region, session.kept.control, session.kept.spill, session.kept.spare];
        Self { blocks, holding: Holding { departed: true, ..holding }, socket: session.socket }
    }

    /// For a front that takes over.
    pub fn holding(&self) -> io::Result<(Holding, OwnedFd)> {
        Ok((self.holding.clone(), self.socket.try_clone()?))
    }

    /// The blocks, to be given back when the other worker has its own.
    pub fn into_blocks(self) -> impl Iterator<Item = Block> {
        self.blocks.into_iter().flatten()
    }
}
