//! What the front and the workers say to each other.
//!
//! One message is one packet of a `SOCK_SEQPACKET` socket pair: postcard-encoded, at most [`MAX_MESSAGE_BYTES`], with the
//! descriptors its variant names. Nothing a client sent travels here except names that were checked ([`StreamKey`]),
//! short credentials, and what it said of itself, which the front passes on and never looks into; the bytes of a moved session lie in
//! the shared directory, not in a message.

pub mod attendants;
pub mod channel;
pub mod counters;
pub mod orders;
pub mod pages;

use crate::clients::Description;
use crate::logging::RoomLevel;
use crate::saved::{HeapId, RowId};
use braidcast_media::StreamKey;
use orders::Order;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;

/// The longest encoded message, in bytes. The configuration in [`ToWorker::Welcome`] is the longest part.
pub const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// The version of the messages below. A front and a worker that speak different ones do not talk to each other.
pub const PROTOCOL: u32 = 4;

/// The version before, which a front speaks with the workers that were there before an upgrade.
pub const PROTOCOL_BEFORE: u32 = 3;

/// Identifies a client connection for as long as the instance runs; given at accept, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnId(pub u64);

impl ConnId {
    /// Set in the ids that a worker gives to connections of which the front knows nothing.
    const OWN: u64 = 1 << 63;

    /// The id of a connection that a worker has opened by itself; it means something in that worker only.
    pub fn own(number: u64) -> Self {
        Self(Self::OWN | number)
    }

    /// Whether it is one of those.
    pub fn is_own(self) -> bool {
        self.0 & Self::OWN != 0
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = if self.is_own() { 'o' } else { 'c' };
        write!(f, "{letter}{}", self.0 & !Self::OWN)
    }
}

/// Identifies a worker's place, from 1; a restarted worker keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkerId(pub u16);

impl WorkerId {
    /// Nobody: what no worker has alone, as HLS sessions.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Identifies a process of another server that the front has started ([`crate::config::Engine`]), from 1; a restarted process keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId(pub u16);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What relays know of such a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineProcess {
    /// Which one.
    pub process: ProcessId,
    /// Tells one start of it from another.
    pub run: u64,
    /// It takes connections.
    pub serves: bool,
    /// Where it speaks RTMP.
    pub rtmp: SocketAddr,
    /// Where it speaks HTTP.
    pub http: SocketAddr,
    /// Where its HTTP API is.
    pub api: SocketAddr,
}

/// Which listening socket a connection came in by, and so which protocol is spoken on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Listener {
    /// RTMP.
    Rtmp,
    /// HTTP media and the web page.
    Http,
    /// The HTTP API.
    Api,
    /// A worker's own sub-port: RTMP or HTTP, told apart by the first byte. Such a connection is never placed elsewhere.
    Sub,
    /// As `Rtmp`, within TLS, which the attendant for it takes off.
    Rtmps,
    /// As `Http`, within TLS.
    Https,
    /// As `Api`, within TLS.
    HttpsApi,
    /// What monitoring reads.
    Metrics,
}

impl Listener {
    /// Whether connections come in by the attendant that takes TLS off.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Rtmps | Self::Https | Self::HttpsApi)
    }

    /// Whether the HTTP API is there.
    pub fn has_api(self) -> bool {
        matches!(self, Self::Api | Self::HttpsApi)
    }
}

/// What a client wants to do with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Intent {
    /// Send it.
    Publish,
    /// Receive it.
    Play,
}

/// Where a connection belongs, decided by the front alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placement {
    /// The asking worker serves it. For a publisher: the number of the stream's next segment, if the front knows of one.
    Here {
        /// Next segment number that was never used, from 1.
        next_segment: u64,
    },
    /// Another worker shall serve it: the asking worker saves the session and answers with [`ToFront::Move`].
    MoveTo(WorkerId),
    /// The asking worker connects it to this process.
    Process(ProcessId),
    /// It is not admitted.
    Refused(Refusal),
}

/// Why a connection was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// Another publisher has the stream.
    StreamBusy,
    /// `max_publishers` of every worker, or in all, is reached.
    PublishersFull,
    /// The shared directory has no room for another stream.
    DirectoryFull,
    /// No worker can take it: the server is starting or ending.
    Unavailable,
    /// Its client, whom a proxy named, would not have been let in: too many connections, or held off.
    Unwelcome,
    /// A hook said no, or could not be asked and is not to be done without.
    ByHook,
    /// An operator wants it gone.
    Kicked,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StreamBusy => "the stream is being published by somebody else",
            Self::PublishersFull => "the server takes no more publishers (max_publishers)",
            Self::DirectoryFull => "the shared directory has no room for another stream ([log] budget)",
            Self::Unavailable => "no worker can take the connection now",
            Self::Kicked => "an operator has ended this session",
            Self::ByHook => "the server's owner does not allow it ([[hook]])",
            Self::Unwelcome => "no connection is taken from this address now ([limits] connections_per_address, poison_hold)",
        })
    }
}

/// What a worker shall do with a stream that has no publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Settling {
    /// Cut the log's tail, finish the open segment, rebuild the index; the stream may come back.
    Recover,
    /// Recover, then write the index's end: viewers are told that the stream is over.
    End,
    /// Delete the stream's directory.
    Dispose,
}

/// Where a connection came in, from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Where it came in.
    pub listener: Listener,
    /// Who has connected: the client, or a proxy. With a worker that has begun, whoever that said by a prefix.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
}

/// A session that a worker shall go on with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Its connection.
    pub conn: ConnId,
    /// Where it is saved. If nothing is, nobody has begun with it.
    pub row: RowId,
    /// For that case.
    pub origin: Origin,
    /// As in [`Placement::Here`].
    pub next_segment: u64,
    /// The front has agreed that it begins here what it was placed for.
    pub admitted: bool,
    /// As in [`ToWorker::Placed`].
    pub forward: Vec<String>,
}

/// A question where a connection belongs, see [`ToFront::Place`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Publish or play.
    pub intent: Intent,
    /// The stream.
    pub key: StreamKey,
    /// A hash of the stream's parameters: with the address it tells a publisher that comes back from a stranger.
    pub credential: u64,
    /// The connection must stay in the asking worker (it came by the worker's sub-port).
    pub pinned: bool,
    /// The process that has the stream, as far as the worker knows, though nobody publishes it through a relay.
    pub found_at: Option<ProcessId>,
    /// How many questions there were of this connection, this one included. One that is asked again keeps its number.
    pub number: u32,
}

impl Asked {
    /// The message.
    pub fn question(&self, conn: ConnId) -> ToFront {
        ToFront::Place { conn, asked: self.clone() }
    }
}

/// A viewer of HLS, whichever worker its requests come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HlsSession {
    /// Its id: one of the front's, though it is no connection.
    pub conn: ConnId,
    /// Where its record is.
    pub row: RowId,
    /// What tells its requests from others (`hls_ctx`).
    pub context: String,
}

/// The answer to [`ToFront::HlsSession`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HlsAnswer {
    /// It goes on, or has begun.
    Goes(HlsSession),
    /// It is not let in.
    Refused(Refusal),
    /// There is none, and none was to begin.
    Unknown,
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListeningSocket {
    /// What is spoken there.
    pub listener: Listener,
    /// Whose sub-port it is.
    pub worker: Option<WorkerId>,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What a worker is and has, for a front that takes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Who it is.
    pub worker: WorkerId,
    /// What its sessions are saved in.
    pub heap: HeapId,
    /// How many workers there are.
    pub workers: u16,
    /// The configuration it runs with, as JSON.
    pub config: String,
    /// The instance's listening sockets.
    pub listening: Vec<ListeningSocket>,
}

/// A connection that a worker has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Its id.
    pub conn: ConnId,
    /// Where it is saved.
    pub row: RowId,
    /// Where it came in, from whom.
    pub origin: Origin,
    /// Its client, as the front has been told by [`ToFront::Named`].
    pub client: SocketAddr,
    /// The worker has handed it over and does not know to whom.
    pub departed: bool,
    /// It is a connection to another server, from which this stream is pulled: it is not saved, and no other worker can have it.
    pub pull: Option<StreamKey>,
    /// What it does.
    pub place: Option<HeldPlace>,
}

/// The place that a connection was given, or asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPlace {
    /// Publish or play.
    pub intent: Intent,
    /// The stream.
    pub key: StreamKey,
    /// As in [`Asked`].
    pub credential: u64,
    /// The process that it is connected to, and whether that has taken it.
    pub process: Option<(ProcessId, bool)>,
    /// False: the front was asked for it, and has not answered; the question follows.
    pub admitted: bool,
    /// As in [`ToWorker::Placed`].
    pub forward: Vec<String>,
}

/// From the front to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// First message. Descriptors: the doorbells of all workers, in the order of their ids.
    Welcome {
        /// Who the worker is.
        worker: WorkerId,
        /// How many workers there are.
        workers: u16,
        /// The heap that the worker is to make for what its sessions keep.
        heap: HeapId,
        /// The effective configuration, as JSON.
        config: String,
    },
    /// The first message of a front that did not start the worker, on a connection of its own: it is the front from now on. Answered by
    /// [`ToFront::Inventory`] and what follows it.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
    },
    /// The instance's listening sockets, to be kept in case the front dies; never to be accepted from. Descriptors: they.
    Listeners {
        /// What they are, in the same order.
        listening: Vec<ListeningSocket>,
    },
    /// A new connection. Descriptor: the socket.
    Connection {
        /// Its id.
        conn: ConnId,
        /// Where it is to be saved.
        row: RowId,
        /// Where it came in, from whom.
        origin: Origin,
    },
    /// The answer to [`ToFront::Place`].
    Placed {
        /// Whose question it was.
        conn: ConnId,
        /// The answer.
        placement: Placement,
        /// Where hooks want a publisher's stream to be pushed to.
        forward: Vec<String>,
    },
    /// Go on with a session of another worker. Descriptor: the socket.
    Adopt(Adoption),
    /// Two workers died of this session: keep what its client sent last, then let it go. Descriptor: the socket.
    Bury(Adoption),
    /// Hand a session over; answered by [`ToFront::Move`] or [`ToFront::Stays`].
    HandOver {
        /// Its connection.
        conn: ConnId,
    },
    /// A session that was handed over is another worker's own now, or is over: forget it.
    Departed {
        /// Its connection.
        conn: ConnId,
    },
    /// Fetch a stream from another server. The connection that this worker opens for it has this id.
    Pull {
        /// The connection's id.
        conn: ConnId,
        /// Its row, for nothing to be saved in.
        row: RowId,
        /// The stream here.
        key: StreamKey,
        /// Where from: the URL of the configuration, with placeholders.
        from: String,
        /// The servers for which it is fetched, as [`braidcast_protocols::via`] says them.
        via: String,
    },
    /// A pull is not wanted any more.
    StopPull {
        /// Its connection.
        conn: ConnId,
    },
    /// The publisher lost its stream to a newer one, or the player's stream is published at another process: close it.
    Evict {
        /// The connection.
        conn: ConnId,
    },
    /// See [`Settling`].
    Settle {
        /// The stream.
        key: StreamKey,
        /// What to do.
        settling: Settling,
        /// As in [`Placement::Here`].
        next_segment: u64,
    },
    /// The directory is near its budget: no stream may hold more than this, its oldest blocks and segments go. `u64::MAX`: no need.
    EvictDownTo {
        /// Bytes of a stream's log and segments together.
        stream_bytes: u64,
    },
    /// End in order: tell viewers and publishers, finish segments, exit.
    Stop,
    /// The client that [`ToFront::Named`] told of is not let in: close its connection.
    TurnAway {
        /// Its connection.
        conn: ConnId,
    },
    /// The processes of another server, all of them, whenever something about them has changed.
    Processes(Vec<EngineProcess>),
    /// What a file with keys for tokens holds, at the beginning and whenever it has changed.
    AccessKeys {
        /// The file, as `[[access]]` names it.
        path: String,
        /// All of it.
        content: String,
    },
    /// The secret with which the front signs what its own programs publish.
    OwnSecret([u8; 32]),
    /// Where lines go from now on. Descriptors: standard error, if `lines`; the file for HTTP requests, if `requests`.
    LogFiles {
        /// Log lines.
        lines: bool,
        /// HTTP requests.
        requests: bool,
    },
    /// The levels of log lines that are not as they are configured, all of them.
    LogLevels(Vec<RoomLevel>),
    /// The answer to [`ToFront::Collects`].
    CollectFrom {
        /// The stream.
        key: StreamKey,
        /// As in [`Placement::Here`].
        next_segment: u64,
    },
    /// What comes of [`ToFront::Order`].
    Ordered {
        /// Whose it was.
        ticket: u64,
        /// What is said about it at first, or why it is not carried out.
        said: Result<String, String>,
    },
    /// An operator wants the client gone, whatever it does: close its connection.
    Kick {
        /// Its connection.
        conn: ConnId,
    },
    /// The answer to [`ToFront::HlsSession`].
    HlsSession {
        /// Who asked.
        conn: ConnId,
        /// The answer.
        answer: HlsAnswer,
    },
}

/// From a worker to the front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToFront {
    /// The worker serves.
    Ready,
    /// The answer to [`ToWorker::Hello`]. Descriptors: the listening sockets.
    Inventory(Inventory),
    /// Descriptors: the doorbells of all workers, in the order of their ids.
    Bells,
    /// A connection the worker has, or has let go of without knowing who has it. Descriptor: the socket.
    Holding(Holding),
    /// That was everything.
    InventoryEnd,
    /// Where does this connection belong? Reserves the place until [`ToFront::Released`] or [`ToFront::Closed`].
    Place {
        /// The connection.
        conn: ConnId,
        /// What is asked.
        asked: Asked,
    },
    /// The session is saved, and this worker has let go of it: pass it on.
    Move {
        /// The connection.
        conn: ConnId,
        /// To whom; `None`: to whom the front chooses.
        to: Option<WorkerId>,
    },
    /// The session that was to be handed over stays: it is about to end, or cannot be saved.
    Stays {
        /// The connection.
        conn: ConnId,
    },
    /// The session of [`ToWorker::Adopt`] goes on here.
    Adopted {
        /// The connection.
        conn: ConnId,
    },
    /// The session of [`ToWorker::Adopt`] or [`ToWorker::Bury`] cannot, or shall not, go on: the log says why.
    Lost {
        /// The connection.
        conn: ConnId,
    },
    /// The connection no longer publishes or plays, but is still open.
    Released {
        /// The connection.
        conn: ConnId,
    },
    /// The connection is closed.
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// Somebody watches a stream that is pulled on demand, or waits for it; or a server asks for one that is pulled.
    Wanted {
        /// The stream.
        key: StreamKey,
        /// The servers for which it is wanted.
        via: String,
    },
    /// A pull could not be made, or is over; [`ToFront::Closed`] follows.
    PullEnded {
        /// Its connection.
        conn: ConnId,
        /// Why.
        error: String,
    },
    /// A segment was finished.
    Segment {
        /// Its stream.
        key: StreamKey,
        /// The number the next one will have.
        next: u64,
        /// How long it plays, milliseconds; `None`: the number is only said once more.
        duration_ms: Option<u64>,
    },
    /// [`ToWorker::Settle`] was carried out, or could not be.
    Settled {
        /// The stream.
        key: StreamKey,
        /// What was asked.
        settling: Settling,
        /// False if somebody else holds the stream (a publisher is back), or an error was logged.
        done: bool,
    },
    /// A proxy that is trusted has said whose connection it is: that client is meant from now on when it is about an address. May be
    /// said again. Answered only by [`ToWorker::TurnAway`], if it is not let in.
    Named {
        /// The connection.
        conn: ConnId,
        /// The client. A port of 0 was not said.
        client: SocketAddr,
    },
    /// The process that a connection was placed at has taken it: a publisher's stream is there.
    Taken {
        /// The connection.
        conn: ConnId,
    },
    /// This worker is the one that collects segments and looks after the processes from now on.
    Keeps,
    /// A process writes segments of a stream that this worker has not met yet: at which number do they begin?
    Collects {
        /// The stream.
        key: StreamKey,
    },
    /// How a process was found.
    Health {
        /// The process.
        process: ProcessId,
        /// As in [`EngineProcess`].
        run: u64,
        /// Its CPU use, per mille of a core; or why it did not answer.
        seen: Result<u32, String>,
    },
    /// An operator wants this client gone, whoever has it.
    Kick {
        /// Its connection.
        conn: ConnId,
    },
    /// A request for a file of HLS: which session is it of? Its record says what its client said.
    HlsSession {
        /// The connection that it came by.
        conn: ConnId,
        /// The stream.
        key: StreamKey,
        /// What the request says that it belongs to.
        context: Option<String>,
        /// If there is no such session, one is to begin.
        begins: bool,
    },
    /// Somebody who may use the API gives an order. Answered by [`ToWorker::Ordered`].
    Order {
        /// What the answer is to say.
        ticket: u64,
        /// The order.
        order: Order,
    },
    /// What a connection's client says of itself and wants: to be written into its record, before what follows about it.
    Describes {
        /// The connection.
        conn: ConnId,
        /// What it says.
        description: Box<Description>,
    },
}

/// Why a packet is not a message.
#[derive(Debug)]
pub struct Malformed(postcard::Error);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed control message: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Encodes a message.
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    postcard::to_stdvec(message).expect("control messages hold only types that can be encoded")
}

/// Decodes a packet.
pub fn decode<'a, M: Deserialize<'a>>(packet: &'a [u8]) -> Result<M, Malformed> {
    postcard::from_bytes(packet).map_err(Malformed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_cut_ones_are_errors() {
        let key = StreamKey::new("v", "a", "s").unwrap();
        let asked = Asked { intent: Intent::Publish, key, credential: 9, pinned: false, found_at: None, number: 1 };
        let message = ToFront::Place { conn: ConnId(7), asked };
        let packet = encode(&message);
        assert_eq!(decode::<ToFront>(&packet).unwrap(), message);
        for cut in 0..packet.len() {
            assert!(decode::<ToFront>(&packet[..cut]).is_err());
        }
    }
}
