//! A client's end as a session's protocol: RTMP or HTTP-FLV, forwarding or pulling.

use super::super::ledger::{Blocks, Ledger, Source};
use super::super::session::{Protocol, Role, Session};
use super::super::{End, Worker};
use super::Purpose;
use crate::config::Config;
use crate::relays::{Endpoint, Scheme};
use braidcast_media::RecordKind;
use braidcast_protocols::http::{FlvClient, FlvSettings};
use braidcast_protocols::rtmp::egress::{self, MEDIA_STREAM_ID};
use braidcast_protocols::rtmp::{ChunkLimits, ClientOutput, ClientRole, ClientSession, ClientSettings};
use braidcast_protocols::via::Via;
use std::os::fd::OwnedFd;

/// Redirections that are followed.
const MAX_REDIRECTS: u8 = 3;
/// Bytes that are copied, to be sent on another message stream than ours, at once.
const RESTAMPED_BYTES: usize = 256 << 10;
/// Where in a message's header the number of its message stream stands, little-endian (RTMP §5.3.1.2.1).
const MESSAGE_STREAM_AT: usize = 8;

/// See the module's head.
pub struct Client {
    /// What for.
    pub(in super::super) purpose: Purpose,
    /// Where to.
    pub endpoint: Endpoint,
    /// How many redirections have led here.
    pub redirects: u8,
    /// Where the server sends us.
    pub redirect: Option<Endpoint>,
    /// What ended it, if it was something that the server said.
    pub error: Option<String>,
    /// Media has flowed.
    pub was_running: bool,
    /// A pull: what came before the front has agreed.
    pub early: Vec<(RecordKind, u32, Vec<u8>)>,
    /// A pull: bytes of media received.
    pub media_bytes: u64,
    /// A pull: when the last media came, monotonic milliseconds.
    pub media_ms: u64,
    machine: Machine,
}

enum Machine {
    Rtmp(Box<ClientSession>),
    Flv(Box<FlvClient>),
}

impl Client {
    /// On a connection that was just made; its first bytes are in its outbox.
    pub(super) fn new(purpose: Purpose, endpoint: Endpoint, redirects: u8, via: Via, config: &Config, seed: u64) -> Self {
        let limits = &config.limits;
        let message_bytes = limits.message_bytes.bytes().min(0xff_ffff) as u32;
        let machine = match (&endpoint.target, endpoint.scheme) {
            (Some(target), Scheme::Rtmp) => {
                let role = if matches!(purpose, Purpose::Forward(_)) { ClientRole::Publish } else { ClientRole::Play };
                let chunks = ChunkLimits {
                    message_bytes,
                    chunk_streams: limits.chunk_streams,
                    unfinished_message_bytes: limits.unfinished_message_bytes.bytes(),
                };
                let (tc_url, app, stream) = (target.tc_url.clone(), target.app.clone(), target.stream.clone());
                let mut session = ClientSession::new(ClientSettings { tc_url, app, stream, role, signed: false, chunks }, seed);
                session.set_via(via);
                Machine::Rtmp(Box::new(session))
            }
            _ => Machine::Flv(Box::new(FlvClient::new(FlvSettings {
                authority: endpoint.authority.clone(),
                path: endpoint.path.clone(),
                via,
                head_bytes: limits.http_head_bytes as usize,
                message_bytes: message_bytes as usize,
            }))),
        };
        Self {
            purpose,
            endpoint,
            redirects,
            redirect: None,
            error: None,
            was_running: false,
            early: Vec::new(),
            media_bytes: 0,
            media_ms: 0,
            machine,
        }
    }

    /// Bytes for the server.
    pub fn outbox(&self) -> &[u8] {
        match &self.machine {
            Machine::Rtmp(session) => session.outbox(),
            Machine::Flv(client) => client.outbox(),
        }
    }

    /// Takes them.
    pub fn take_outbox(&mut self) -> Vec<u8> {
        match &mut self.machine {
            Machine::Rtmp(session) => session.take_outbox(),
            Machine::Flv(client) => client.take_outbox(),
        }
    }

    /// Who the server is, and through whom its stream came, as far as it says so.
    pub fn server_via(&self) -> Via {
        match &self.machine {
            Machine::Rtmp(session) => session.server_via().clone(),
            Machine::Flv(client) => client.server_via().clone(),
        }
    }

    /// Says goodbye in the protocol's way.
    pub fn end(&mut self) {
        if let Machine::Rtmp(session) = &mut self.machine {
            session.end();
        }
    }

    /// Metadata of the stream as encoders send it.
    pub fn push_metadata(&mut self, timestamp_ms: u32, payload: &[u8]) {
        if let Machine::Rtmp(session) = &mut self.machine {
            session.push_media(RecordKind::Data, timestamp_ms, payload);
        }
    }

    /// What is being waited for, in words.
    pub fn waits_for(&self) -> &'static str {
        match &self.machine {
            Machine::Rtmp(session) => session.waits_for(),
            Machine::Flv(client) => client.waits_for(),
        }
    }

    fn handle_input(&mut self, bytes: &[u8]) -> Result<(), String> {
        match &mut self.machine {
            Machine::Rtmp(session) => session.handle_input(bytes).map_err(|error| error.to_string()),
            Machine::Flv(client) => client.handle_input(bytes).map_err(|error| error.to_string()),
        }
    }

    fn poll_output(&mut self) -> Option<ClientOutput> {
        match &mut self.machine {
            Machine::Rtmp(session) => session.poll_output(),
            Machine::Flv(client) => client.poll_output(),
        }
    }
}

impl Worker {
    /// Gives a server's bytes to the client's machine and does what comes of it.
    pub(in super::super) fn feed_client(&mut self, slot: usize, bytes: &[u8]) -> Result<usize, End> {
        let Protocol::Client(client) = &mut self.sessions[slot].more.protocol else { return Ok(bytes.len()) };
        let handled = client.handle_input(bytes);
        // What was whole before an error counts.
        self.act_on_client(slot)?;
        match handled {
            Ok(()) => Ok(bytes.len()),
            Err(error) => Err(End::Peer(error)),
        }
    }

    /// Does what the client's machine asks for, unless a decision is pending: then the rest waits in it.
    pub(in super::super) fn act_on_client(&mut self, slot: usize) -> Result<(), End> {
        while let Some(session) = self.sessions.get_mut(slot) {
            if matches!(session.role, Role::Placing(_) | Role::Opening(..)) || session.closing {
                return Ok(());
            }
            let Protocol::Client(client) = &mut session.more.protocol else { return Ok(()) };
            let Some(output) = client.poll_output() else { break };
            let forwards = matches!(client.purpose, Purpose::Forward(_));
            match output {
                ClientOutput::Started if forwards => self.begin_forwarding(slot)?,
                ClientOutput::Started => self.pull_started(slot)?,
                ClientOutput::Media { .. } if forwards => {}
                ClientOutput::Media { kind, timestamp_ms, payload } => self.pulled_media(slot, kind, timestamp_ms, payload)?,
                ClientOutput::Refused { code, description } if code.starts_with('3') => return Err(redirected(client, &description)),
                ClientOutput::Refused { code, description } => return Err(End::Peer(refused(&code, &description))),
                ClientOutput::Status { code } => self.server_status(slot, code)?,
            }
        }
        self.send_rtmp(slot)
    }

    /// The server says something about the stream.
    fn server_status(&mut self, slot: usize, code: String) -> Result<(), End> {
        const OVER: [&str; 6] = [
            "NetStream.Play.UnpublishNotify",
            "NetStream.Play.Stop",
            "NetStream.Play.Complete",
            "NetStream.Unpublish.Success",
            "close",
            "the stream has ended",
        ];
        if OVER.contains(&code.as_str()) {
            return Err(End::Peer(format!("the server ended the stream ({code})")));
        }
        tracing::debug!(conn = %self.sessions[slot].conn, code, "the other server says");
        Ok(())
    }

    /// A client's deadline has passed.
    pub(in super::super) fn client_overdue(&mut self, slot: usize) -> Result<(), End> {
        let session = &mut self.sessions[slot];
        let Protocol::Client(client) = &session.more.protocol else { return Ok(()) };
        match session.role {
            Role::Publishing(_) => {
                let due_ms = client.media_ms + self.config.relay.silent.as_ms();
                if due_ms <= self.now.mono_ms {
                    return Err(End::Peer(format!("the server has sent nothing for {}", self.config.relay.silent)));
                }
                session.deadline_ms = due_ms;
                self.watch_deadline(slot);
                Ok(())
            }
            Role::Viewing { .. } | Role::Waiting(_) => Ok(()),
            Role::Opening(..) => Err(End::Peer("the stream's log is still held by a publisher that was here before".into())),
            Role::Placing(_) => Err(End::Peer("the front did not say in time whether the stream may be pulled".into())),
            _ => Err(End::Peer(format!("the server did not give {} in time", client.waits_for()))),
        }
    }
}

fn redirected(client: &mut Client, location: &str) -> End {
    if client.redirects >= MAX_REDIRECTS {
        return End::Peer(format!("the server sends us on and on: more than {MAX_REDIRECTS} redirections"));
    }
    match client.endpoint.redirected(location) {
        Ok(endpoint) => {
            client.redirect = Some(endpoint);
            End::Done
        }
        Err(error) => End::Peer(error),
    }
}

fn refused(code: &str, description: &str) -> String {
    format!("the server refused: {code} {description}").trim_end().to_owned()
}

/// The message stream that a session's media must go to, if it is another one than viewers'.
pub fn message_stream(session: &Session) -> Option<u32> {
    let Protocol::Client(client) = &session.more.protocol else { return None };
    match &client.machine {
        Machine::Rtmp(machine) => Some(machine.message_stream()).filter(|id| *id != MEDIA_STREAM_ID),
        Machine::Flv(_) => None,
    }
}

/// Sends what is owed on another message stream: a copy of it, at most [`RESTAMPED_BYTES`] at once, whose headers name that stream. Says how
/// much was sent, and how much was wanted.
pub fn send_restamped(socket: &OwnedFd, ledger: &Ledger, blocks: &impl Blocks, control: &[u8], id: u32) -> (std::io::Result<usize>, usize) {
    let copy = restamped(ledger, blocks, control, id);
    (braidcast_sys::net::send(socket, &copy), copy.len())
}

fn restamped(ledger: &Ledger, blocks: &impl Blocks, control: &[u8], id: u32) -> Vec<u8> {
    let mut copy = Vec::new();
    let mut control = control;
    for extent in ledger.extents() {
        let (done, room) = (ledger.sent().saturating_sub(extent.from) as u32, RESTAMPED_BYTES.saturating_sub(copy.len()));
        match extent.source {
            Source::Control { bytes } => {
                let (now, rest) = control.split_at(control.len().min((bytes - done) as usize));
                control = rest;
                copy.extend_from_slice(&now[..now.len().min(room)]);
            }
            Source::Run { block, offset, end } => {
                let Some(available) = blocks.available(block) else { break };
                let (from, to) = (offset + done, end.min(available.bytes));
                let to = to.min(from.saturating_add(room as u32));
                if from < to {
                    restamp(&mut copy, blocks.bytes(block, 0, available.bytes), (from as usize, to as usize), id);
                }
                if end > available.bytes {
                    break;
                }
            }
            Source::Body { .. } => break,
        }
        if copy.len() >= RESTAMPED_BYTES {
            break;
        }
    }
    copy
}

/// Appends a part of a block, whose first byte begins a message, with another message stream in its headers.
fn restamp(out: &mut Vec<u8>, block: &[u8], (from, to): (usize, usize), id: u32) {
    let start = out.len();
    out.extend_from_slice(block.get(from..to).unwrap_or_default());
    for message in egress::messages(block).skip_while(|message| message.offset + message.framed_bytes <= from) {
        let field = message.offset + MESSAGE_STREAM_AT;
        if field >= to {
            break;
        }
        for (index, byte) in id.to_le_bytes().into_iter().enumerate() {
            if let Some(place) = (field + index).checked_sub(from).filter(|place| *place < to - from) {
                out[start + place] = byte;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_block_is_restamped_alike() {
        let payloads: [&[u8]; 4] = [&[1; 5], &[2; 70_000], b"", &[3; 300]];
        let (mut block, mut expected) = (Vec::new(), Vec::new());
        for (index, payload) in payloads.into_iter().enumerate() {
            egress::write_message(&mut block, RecordKind::Video, 0x00ff_fffe + index as u32, payload);
        }
        expected.extend_from_slice(&block);
        for message in egress::messages(&block) {
            expected[message.offset + 8..message.offset + 12].copy_from_slice(&0x0102_0304u32.to_le_bytes());
        }
        let mut whole = Vec::new();
        restamp(&mut whole, &block, (0, block.len()), 0x0102_0304);
        assert!(whole == expected);
        for from in (0..block.len()).step_by(7) {
            for length in [1, 3, 9, 20] {
                let (mut part, to) = (Vec::new(), (from + length).min(block.len()));
                restamp(&mut part, &block, (from, to), 0x0102_0304);
                assert!(part == expected[from..to], "{from}..{to}");
            }
        }
    }
}
