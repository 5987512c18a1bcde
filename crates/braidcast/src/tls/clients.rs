//! Clients by TLS: taken within limits, their handshakes made, then passed on.

use super::{Server, http2, pair};
use crate::control::counters::TlsCounter;
use crate::control::{Listener, ListeningSocket, Origin};
use braidcast_sys::net;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// How long accepting pauses when it fails: the process or the machine has no descriptor left.
const PAUSE: Duration = Duration::from_millis(200);
/// Unsent bytes after which a client's socket counts as full: what lies there is late for a slow viewer.
const NOT_SENT_LOWAT_BYTES: u32 = 128 << 10;
/// The part of all handshakes that may be one address's.
const SHARE_OF_ADDRESS: u32 = 8;
/// What HTTP/2 is called in a handshake (RFC 9113, section 3.1).
const H2: &[u8] = b"h2";

/// Who is connected.
#[derive(Debug, Default)]
pub struct Clients {
    connections: u32,
    handshakes: u32,
    of_address: HashMap<IpAddr, OfAddress>,
}

#[derive(Debug, Default)]
struct OfAddress {
    connections: u32,
    handshakes: u32,
}

/// What clients may have at most.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Connections in all.
    pub connections: u32,
    /// Connections of one address.
    pub of_address: u32,
    /// Handshakes under way.
    pub handshakes: u32,
}

impl Clients {
    /// Takes a client, or says which limit is against it. For an address that others connect through there is no limit of its own.
    fn enter(&mut self, address: IpAddr, many: bool, most: Most) -> Result<(), TlsCounter> {
        let of_address = self.of_address.entry(address).or_default();
        let refused = if self.connections >= most.connections {
            Some(TlsCounter::RefusedConnections)
        } else if !many && of_address.connections >= most.of_address {
            Some(TlsCounter::RefusedPerAddress)
        } else if self.handshakes >= most.handshakes || (!many && of_address.handshakes >= most.handshakes / SHARE_OF_ADDRESS) {
            Some(TlsCounter::RefusedHandshakes)
        } else {
            None
        };
        if let Some(refused) = refused {
            self.forget_if_empty(address);
            return Err(refused);
        }
        self.connections += 1;
        self.handshakes += 1;
        of_address.connections += 1;
        of_address.handshakes += 1;
        Ok(())
    }

    fn shaken_hands(&mut self, address: IpAddr) {
        self.handshakes -= 1;
        if let Some(of_address) = self.of_address.get_mut(&address) {
            of_address.handshakes -= 1;
        }
    }

    fn leave(&mut self, address: IpAddr) {
        self.connections -= 1;
        if let Some(of_address) = self.of_address.get_mut(&address) {
            of_address.connections -= 1;
        }
        self.forget_if_empty(address);
    }

    fn forget_if_empty(&mut self, address: IpAddr) {
        if self.of_address.get(&address).is_some_and(|of_address| of_address.connections == 0) {
            self.of_address.remove(&address);
        }
    }

    /// How many connections there are, and handshakes among them.
    pub fn count(&self) -> (u32, u32) {
        (self.connections, self.handshakes)
    }
}

/// A client's place among them, until it is dropped.
struct Place {
    server: Arc<Server>,
    address: IpAddr,
    shaking_hands: bool,
}

impl Place {
    fn take(server: &Arc<Server>, address: IpAddr) -> Result<Self, TlsCounter> {
        let settings = server.settings();
        server.clients().enter(address, settings.config.trusts(address), settings.most())?;
        Ok(Self { server: server.clone(), address, shaking_hands: true })
    }

    fn shaken_hands(&mut self) {
        if std::mem::take(&mut self.shaking_hands) {
            self.server.clients().shaken_hands(self.address);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shaken_hands();
        self.server.clients().leave(self.address);
    }
}

/// Takes clients from a listening socket, for ever.
pub async fn accept(server: Arc<Server>, listening: ListeningSocket, socket: OwnedFd) {
    let listener = match TcpListener::from_std(socket.into()) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(address = %listening.address, %error, "cannot watch a listening socket"),
    };
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                server.add(TlsCounter::Accepted, 1);
                match Place::take(&server, peer.ip()) {
                    Ok(place) => drop(tokio::spawn(serve(place, listening.listener, socket, peer))),
                    Err(counter) => {
                        server.add(counter, 1);
                        server.line(|| tracing::warn!(%peer, "connection by TLS refused: {}", rule(counter)));
                    }
                }
            }
            // The client's own failure (gone already, unreachable): accept(2) says to go on with the next one.
            Err(error) if is_of_client(&error) => tracing::debug!(%error, "a connection failed before it was accepted"),
            Err(error) => {
                server.line(|| tracing::warn!(%error, "cannot accept connections: pausing; raise the descriptor limit (LimitNOFILE=, ulimit -n) or lower [limits] connections"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_of_client(error: &io::Error) -> bool {
    !matches!(error.raw_os_error(), Some(23 | 24 | 12 | 105))
}

fn rule(counter: TlsCounter) -> &'static str {
    match counter {
        TlsCounter::RefusedConnections => "[limits] connections",
        TlsCounter::RefusedPerAddress => "[limits] connections_per_address",
        _ => "[tls] handshakes: too many are under way, in all or of this address",
    }
}

async fn serve(mut place: Place, listener: Listener, socket: TcpStream, peer: SocketAddr) {
    let server = place.server.clone();
    let settings = server.settings();
    let limits = &settings.config.limits;
    let Ok(local) = prepare(&socket, limits.idle.as_ms()) else { return };
    let acceptor = TlsAcceptor::from(settings.tls(listener));
    let limit = Duration::from_millis(limits.handshake.as_ms());
    let client = match tokio::time::timeout(limit, acceptor.accept(socket)).await {
        Ok(Ok(client)) => client,
        Ok(Err(_)) if server.resolver.is_empty() => {
            server.add(TlsCounter::NoCertificate, 1);
            return server.line(|| tracing::warn!(%peer, "a handshake failed, for there is no certificate"));
        }
        Ok(Err(error)) => {
            server.add(TlsCounter::HandshakeFailures, 1);
            return server.line(|| tracing::debug!(%peer, %error, "a handshake failed"));
        }
        Err(_) => {
            server.add(TlsCounter::HandshakeTimeouts, 1);
            return server.line(|| tracing::debug!(%peer, "a handshake was not done in time ([limits] handshake)"));
        }
    };
    drop(settings);
    place.shaken_hands();
    server.add(TlsCounter::Handshakes, 1);
    let origin = Origin { listener, peer, local };
    match client.get_ref().1.alpn_protocol() {
        Some(H2) => http2::serve(&server, client, origin).await,
        _ => pair::carry(&server, client, origin).await,
    }
}

/// As the front and the workers do with theirs.
fn prepare(socket: &TcpStream, idle_ms: u64) -> io::Result<SocketAddr> {
    net::set_nodelay(socket)?;
    net::set_user_timeout(socket, u32::try_from(idle_ms).unwrap_or(u32::MAX))?;
    net::set_notsent_lowat(socket, NOT_SENT_LOWAT_BYTES)?;
    socket.local_addr()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Enter(u8),
        Shaken(u8),
        Leave(u8),
    }

    proptest! {
        /// Against a list of who is there.
        #[test]
        fn limits_are_kept_and_nothing_is_left_behind(steps in prop::collection::vec((0..3u8, 0..4u8), 0..200)) {
            let most = Most { connections: 12, of_address: 5, handshakes: 16 };
            let (mut clients, mut there) = (Clients::default(), Vec::<(IpAddr, bool)>::new());
            let address = |n: u8| IpAddr::from([192, 0, 2, n]);
            let count = |there: &[(IpAddr, bool)], of: IpAddr| there.iter().filter(|(who, _)| *who == of).count();
            for (kind, n) in steps {
                let step = [Step::Enter(n), Step::Shaken(n), Step::Leave(n)][usize::from(kind)];
                match step {
                    Step::Enter(n) => {
                        let (of, many) = (address(n), n == 0);
                        let shaking = there.iter().filter(|(who, shaking)| *who == of && *shaking).count();
                        let expected = if there.len() >= 12 {
                            Err(TlsCounter::RefusedConnections)
                        } else if !many && count(&there, of) >= 5 {
                            Err(TlsCounter::RefusedPerAddress)
                        } else if there.iter().filter(|(_, shaking)| *shaking).count() >= 16 || (!many && shaking >= 2) {
                            Err(TlsCounter::RefusedHandshakes)
                        } else {
                            there.push((of, true));
                            Ok(())
                        };
                        prop_assert_eq!(clients.enter(of, many, most), expected);
                    }
                    Step::Shaken(n) => {
                        if let Some(at) = there.iter_mut().find(|(who, shaking)| *who == address(n) && *shaking) {
                            at.1 = false;
                            clients.shaken_hands(address(n));
                        }
                    }
                    Step::Leave(n) => {
                        if let Some(at) = there.iter().position(|(who, shaking)| *who == address(n) && !*shaking) {
                            there.remove(at);
                            clients.leave(address(n));
                        }
                    }
                }
                let shaking = there.iter().filter(|(_, shaking)| *shaking).count();
                prop_assert_eq!(clients.count(), (there.len() as u32, shaking as u32));
                let addresses = (0..4).filter(|n| count(&there, address(*n)) > 0).count();
                prop_assert_eq!(clients.of_address.len(), addresses);
            }
        }
    }
}
