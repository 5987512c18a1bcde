//! What the front notes of one connection: where it came in, who serves it, and the place that is reserved for it. As short as it can be, for
//! there are many; decides nothing and counts nothing.

use crate::control::{Intent, Listener, Origin, ProcessId, WorkerId};
use crate::saved::RowId;
use braidcast_media::StreamKey;
use std::net::{IpAddr, SocketAddr};

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) worker: WorkerId,
    pub(super) row: RowId,
    pub(super) listener: Listener,
    pub(super) peer: Address,
    pub(super) local: Address,
    /// The client's that a proxy has named.
    pub(super) client: Option<Box<IpAddr>>,
    /// The client that a proxy named is not let in: the worker was told so.
    pub(super) turned_away: bool,
    /// A worker has opened it, to fetch a stream.
    pub(super) pulled: bool,
    pub(super) place: Option<Place>,
    /// What the front before was asked for it: it may have begun.
    pub(super) asked_before: Option<Box<(Intent, StreamKey)>>,
}

/// A reservation: counted at the worker that was chosen, from the answer on.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) intent: Intent,
    pub(super) key: StreamKey,
    pub(super) worker: WorkerId,
    pub(super) credential: u64,
    pub(super) since_ms: u64,
    /// The process that it is connected to, and whether that has taken it.
    pub(super) process: Option<(ProcessId, bool)>,
    /// Hooks were not heard yet: the number of the question.
    pub(super) undecided: Option<u32>,
    /// Where hooks want the stream to be pushed to.
    pub(super) forward: Option<Box<Targets>>,
}

/// In a place of their own, for few have any.
#[derive(Debug)]
pub(super) struct Targets(Vec<String>);

impl Place {
    pub(super) fn forward(&self) -> &[String] {
        self.forward.as_deref().map_or(&[], |targets| &targets.0)
    }
}

impl Targets {
    pub(super) fn of(forward: Vec<String>) -> Option<Box<Self>> {
        (!forward.is_empty()).then(|| Box::new(Self(forward)))
    }
}

/// An address as short as it can be: there are several of each connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    bytes: [u8; 16],
    port: u16,
    is_v4: bool,
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let (bytes, is_v4) = match address.ip() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), true),
            IpAddr::V6(v6) => (v6.octets(), false),
        };
        Self { bytes, port: address.port(), is_v4 }
    }
}

impl Address {
    fn ip(self) -> IpAddr {
        let [.., a, b, c, d] = self.bytes;
        if self.is_v4 { [a, b, c, d].into() } else { self.bytes.into() }
    }

    fn socket(self) -> SocketAddr {
        (self.ip(), self.port).into()
    }
}

impl Conn {
    pub(super) fn new(worker: WorkerId, row: RowId, origin: Origin, client: IpAddr) -> Self {
        let Origin { listener, peer, local } = origin;
        let client = (client != peer.ip()).then(|| Box::new(client));
        let (peer, local) = (peer.into(), local.into());
        Self { worker, row, listener, peer, local, client, turned_away: false, pulled: false, place: None, asked_before: None }
    }

    pub(super) fn origin(&self) -> Origin {
        Origin { listener: self.listener, peer: self.peer.socket(), local: self.local.socket() }
    }

    pub(super) fn address(&self) -> IpAddr {
        self.client.as_deref().copied().unwrap_or_else(|| self.peer.ip())
    }
}
