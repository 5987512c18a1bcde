//! One client connection of a worker: a plain record in the worker's table.
//!
//! A viewer is such a record whose role is [`Role::Viewing`]: no task, no channel, no queue of its own, and nothing is
//! allocated for a frame. What it is owed stands in its ledger.

use super::End;
use super::api::{Following, Reply};
use super::hls_files::Segment;
use super::hls_sessions::HlsQuestion;
use super::kept::Kept;
use super::ledger::{Full, Ledger, Source};
use super::outgoing::Client;
use super::rendition::Rendition;
use super::websocket::WebSocket;
use crate::clients::Description;
use crate::control::{Asked, ConnId, Listener, Origin};
use crate::logging::Requested;
use crate::page::Asset;
use braidcast_media::StreamKey;
use braidcast_protocols::http::{Clip, Conditions, RequestReader};
use braidcast_protocols::proxy::PrefixReader;
use braidcast_protocols::rtmp::ServerSession;
use braidcast_protocols::rtmp::relay::RelaySession;
use braidcast_protocols::via::Via;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// Control bytes a session may be owed before its client counts as broken: it asks for answers and never reads them.
pub const MAX_CONTROL_BYTES: usize = 256 << 10;

/// A client connection. What a send needs comes first.
pub struct Session {
    /// The socket.
    pub socket: OwnedFd,
    /// Tells this session from an earlier one in the same slot.
    pub generation: u32,
    /// The socket takes no more for now.
    pub blocked: bool,
    /// To be closed as soon as the ledger is empty.
    pub closing: bool,
    /// Everything was said and our half of the connection is closed; what still comes is thrown away until the peer has closed
    /// its half, because closing with unread input would destroy what the peer has not read yet.
    pub draining: bool,
    /// The socket may have more to read.
    pub readable: bool,
    /// The peer has ended its half of the connection. What it sent before may still have to be read, and no edge tells again.
    pub peer_ended: bool,
    /// With whose sockets its own is looked at.
    pub watched: Watched,
    /// Its socket tells of input only when there is much of it: it is read when its rest is over.
    pub held_back: bool,
    /// The session is in the queue of those to be read.
    pub queued: bool,
    /// HTTP: an answer is on its way; the next request is not read before it is out.
    pub answering: bool,
    /// HTTP: no further request follows the one at hand.
    pub last_request: bool,
    /// What it is doing.
    pub role: Role,
    /// What it is owed.
    pub ledger: Ledger,
    /// What of it lies in shared memory.
    pub kept: Kept,
    /// What is not needed to send a stream.
    pub more: More,
    /// Its id, the same in every worker.
    pub conn: ConnId,
    /// Deadline of the role (placing, opening, waiting, closing), monotonic milliseconds; 0: none.
    pub deadline_ms: u64,
    /// The earliest deadline for which the worker's timers hold an entry; 0: none.
    pub timer_ms: u64,
}

/// With whose sockets a session's is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// With all that have no place of their own.
    Alone,
    /// With publishers'.
    Publisher,
    /// With those of clients that ask for HLS; whether it takes more is heard with [`Watched::Alone`].
    Asker,
}

/// What of a session a viewer that gets the stream and nothing else does not need. One that rests has none of it in memory, see
/// [`super::rest`]: then these are nobody's.
#[derive(Default)]
pub struct More(Option<Box<Said>>);

/// See [`More`].
pub struct Said {
    /// What it speaks.
    pub protocol: Protocol,
    /// Control bytes of the ledger that are not yet sent.
    pub control: Vec<u8>,
    /// What body extents of the ledger are of.
    pub body: Option<Box<Body>>,
    /// Input rests, in the journal and in the kernel, until then, monotonic milliseconds; 0: none does.
    pub rests_until_ms: u64,
    /// Who: the client, as far as proxies that are trusted say. Over HTTP they say it of each request.
    pub peer: SocketAddr,
    /// Whose connection it is: the client, or a proxy that speaks HTTP for many.
    pub holder: SocketAddr,
    /// Where to.
    pub local: SocketAddr,
    /// Where it came in.
    pub listener: Listener,
    /// What the front was asked about it last.
    pub asked: Option<Asked>,
    /// What the front was told of its client, until it has answered: another front is told once more.
    pub described: Option<Box<Description>>,
    /// Where hooks want the stream that it publishes to be pushed to.
    pub forward: Vec<String>,
    /// HTTP at a relay: the head of the request at hand, as it was sent.
    pub head: Vec<u8>,
    /// HTTP: the servers that pass the answer on.
    pub via: Option<Box<Via>>,
    /// HTTP: what was asked, until it is written to the access log.
    pub requested: Option<Box<Requested>>,
    /// HTTP: bytes of the connection that were sent when the client's pace was looked at last.
    pub sent_mark: u64,
    /// What of the worker's unfinished message bytes is this session's.
    pub unfinished_bytes: usize,
    /// Bytes taken from the socket that were not yet processed: a decision is pending.
    pub unread: Vec<u8>,
}

const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Said {
    const NOTHING: Self = Self {
        protocol: Protocol::Resting,
        control: Vec::new(),
        body: None,
        rests_until_ms: 0,
        peer: NOBODY,
        holder: NOBODY,
        local: NOBODY,
        listener: Listener::Sub,
        asked: None,
        described: None,
        forward: Vec::new(),
        head: Vec::new(),
        via: None,
        requested: None,
        sent_mark: 0,
        unfinished_bytes: 0,
        unread: Vec::new(),
    };
}

impl More {
    /// Of a connection that has said nothing yet.
    pub fn new(origin: Origin, protocol: Protocol) -> Self {
        let Origin { listener, peer, local } = origin;
        Self(Some(Box::new(Said { protocol, peer, holder: peer, local, listener, ..Said::NOTHING })))
    }
}

impl Deref for More {
    type Target = Said;

    fn deref(&self) -> &Said {
        const NOTHING: &Said = &Said::NOTHING;
        self.0.as_deref().unwrap_or(NOTHING)
    }
}

impl DerefMut for More {
    fn deref_mut(&mut self) -> &mut Said {
        self.0.get_or_insert_with(|| Box::new(Said::NOTHING))
    }
}

/// The body of an HTTP answer that is not copied for each client.
pub enum Body {
    /// A segment of a stream.
    Segment(StreamKey, Rc<Segment>),
    /// A file of the web page, by its path.
    Asset(String, Asset),
}

impl Body {
    /// Which one it is, for another worker.
    pub fn save(&self) -> SavedBody {
        match self {
            Self::Segment(key, segment) => {
                SavedBody::Segment { key: key.clone(), number: segment.number(), etag: segment.validators.etag.clone() }
            }
            Self::Asset(path, asset) => SavedBody::Asset { path: path.clone(), etag: asset.etag.to_owned() },
        }
    }
}

/// Where another worker finds a body again; the tag says whether it is still the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SavedBody {
    /// A segment.
    Segment {
        /// Of which stream.
        key: StreamKey,
        /// Its number.
        number: u64,
        /// Its entity tag.
        etag: String,
    },
    /// A file of the web page.
    Asset {
        /// Its path.
        path: String,
        /// Its entity tag.
        etag: String,
    },
}

/// What a session speaks.
pub enum Protocol {
    /// A proxy may, or has to, say first for whom it connects.
    Prefix(Box<PrefixReader>),
    /// Not told yet: a sub-port takes both.
    Unknown,
    /// RTMP.
    Rtmp(Box<ServerSession>),
    /// HTTP/1.
    Http(Box<RequestReader>),
    /// WebSocket, from the request on that asked for it.
    WebSocket(Box<WebSocket>),
    /// The other end is a server: a connection that we opened.
    Client(Box<Client>),
    /// RTMP at a relay, until it is known which process the client belongs to.
    Relay(Box<RelaySession>),
    /// A viewer's, that has said nothing for a while: all of it stands in its checkpoint, see [`super::rest`].
    Resting,
}

impl Protocol {
    /// What the protocol's machine has to say, if it is one that speaks by itself.
    pub fn outbox(&self) -> &[u8] {
        match self {
            Self::Rtmp(rtmp) => rtmp.outbox(),
            Self::Client(client) => client.outbox(),
            Self::Relay(machine) => machine.client_outbox(),
            Self::Prefix(_) | Self::Unknown | Self::Http(_) | Self::WebSocket(_) | Self::Resting => &[],
        }
    }

    /// Takes it.
    pub fn take_outbox(&mut self) -> Vec<u8> {
        match self {
            Self::Rtmp(rtmp) => rtmp.take_outbox(),
            Self::Client(client) => client.take_outbox(),
            Self::Relay(machine) => machine.take_client_outbox(),
            Self::Prefix(_) | Self::Unknown | Self::Http(_) | Self::WebSocket(_) | Self::Resting => Vec::new(),
        }
    }
}

/// What a session is doing.
#[derive(Debug)]
pub enum Role {
    /// Nothing with a stream.
    Idle,
    /// The front was asked where it belongs.
    Placing(Box<Wish>),
    /// It is to publish here, but the stream's lock is still held by a publisher that is being closed.
    Opening(Box<Wish>, u64),
    /// It is to play here, and the stream is not there yet.
    Waiting(Box<Wish>),
    /// It waits for an index that is not written yet.
    WaitingForIndex(Box<IndexWish>),
    /// The front, threads, or processes of another server are asked for what is to be answered.
    Asking(Box<Reply>),
    /// The front was asked which HLS session its request is of.
    AskingSession(Box<HlsQuestion>),
    /// It follows the events, by an endless answer.
    Following(Box<Following>),
    /// It publishes; slot of the publisher.
    Publishing(usize),
    /// It plays.
    Viewing {
        /// Slot of the stream.
        stream: usize,
        /// In which form.
        rendition: Rendition,
        /// Place among the stream's viewers.
        place: usize,
        /// It goes on in this form at the next keyframe.
        next: Option<Rendition>,
    },
}

/// A publish or play that is not yet admitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// The stream.
    pub key: StreamKey,
    /// What for.
    pub what: Want,
}

/// What a client wants of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// Publish it.
    Publish,
    /// Play it.
    Play(Rendition),
}

/// A request for an index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexWish {
    /// The stream.
    pub key: StreamKey,
    /// Which index.
    pub index: Index,
    /// The query string of the request, which the segments' URIs get as well.
    pub query: String,
    /// HEAD: no body.
    pub head_only: bool,
    /// What the client has, and takes. Not saved: who waits has none yet.
    #[serde(skip)]
    pub conditions: Conditions,
}

impl IndexWish {
    /// Whether it is worth waiting for: the live index of a stream that begins, but nothing that is made from what is there.
    pub fn may_come(&self) -> bool {
        match &self.index {
            Index::Live => true,
            Index::Named(name) => name == "index",
            Index::Clip(_) => false,
        }
    }
}

/// Which index of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Index {
    /// `/app/stream.m3u8`.
    Live,
    /// `/app/stream.m3u8?start=…&end=…`.
    Clip(Clip),
    /// `/app/stream/NAME.m3u8`.
    Named(String),
}

impl Session {
    /// What stands for it where it may be gone before it is looked up: its slot, and that it is no earlier session there.
    pub fn token(&self, slot: usize) -> u64 {
        (u64::from(self.generation) << 32) | slot as u64
    }

    /// Where it came in, from whom.
    pub fn origin(&self) -> Origin {
        Origin { listener: self.more.listener, peer: self.more.holder, local: self.more.local }
    }

    /// Does something else from now on.
    pub fn enter(&mut self, role: Role) -> Role {
        self.kept.stale = true;
        std::mem::replace(&mut self.role, role)
    }

    /// Adds control bytes to what is owed. The ledger must not end with an open run.
    pub fn push_control(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.more.control.extend_from_slice(bytes);
        if self.ledger.push(Source::Control { bytes: bytes.len() as u32 }).is_err() {
            // Only a chain of runs fills a ledger, and those end with an open one.
            self.closing = true;
        }
    }

    /// Owes a run of the stream that is viewed.
    ///
    /// # Errors
    /// There is no room, which means that the ledger was not made ready for it.
    pub fn owe_run(&mut self, block: u32, offset: u32, end: u32) -> Result<(), End> {
        self.ledger.push(Source::Run { block, offset, end }).map_err(|Full| End::Fault("the ledger of a viewer is full"))
    }

    /// Owes a range of a body, behind the head of an answer.
    ///
    /// # Errors
    /// There is no room, which means that an answer was not out yet.
    pub fn owe_body(&mut self, body: Body, offset: u32, end: u32) -> Result<(), End> {
        self.more.body = Some(Box::new(body));
        self.ledger.push(Source::Body { offset, end }).map_err(|Full| End::Fault("the ledger of an HTTP session is full"))
    }

    /// Forgets the first `count` control bytes: they were sent. An idle session keeps no buffer, and one that rests nothing: gives it, if it had one.
    pub fn forget_control(&mut self, count: usize) -> Option<Vec<u8>> {
        if count < self.more.control.len() {
            self.more.control.drain(..count);
            return None;
        }
        if self.more.control.capacity() == 0 {
            return None;
        }
        let buffer = std::mem::take(&mut self.more.control);
        if self.rests() {
            self.more = More::default();
        }
        Some(buffer)
    }

    /// Whether it is sent an endless answer, so that nothing can follow on the connection.
    pub fn is_endless(&self) -> bool {
        matches!(self.role, Role::Viewing { .. } | Role::Following(_))
    }

    /// The stream a session plays.
    pub fn viewing(&self) -> Option<(usize, Rendition)> {
        match self.role {
            Role::Viewing { stream, rendition, .. } => Some((stream, rendition)),
            _ => None,
        }
    }
}
