//! The listening sockets: all of them belong to the front, the workers' sub-ports too.

use crate::cli::who_listens;
use crate::config::Config;
use crate::control::pages::Listening;
use crate::control::{Listener, ListeningSocket, WorkerId};
use anyhow::{Context, bail};
use braidcast_sys::net;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// Connections that the kernel holds for us; it may be set to hold fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// errno-base: the machine has no IPv6, or none that is switched on.
const EAFNOSUPPORT: i32 = 97;
const EADDRNOTAVAIL: i32 = 99;

/// A listening socket.
#[derive(Debug)]
pub struct Socket {
    /// It; non-blocking.
    pub fd: OwnedFd,
    /// What is spoken there.
    pub listener: Listener,
    /// Whose sub-port it is.
    pub worker: Option<WorkerId>,
    /// Where it listens; the port is never 0.
    pub address: SocketAddr,
}

impl Socket {
    /// One that a worker kept.
    pub fn inherited(listening: &ListeningSocket, fd: OwnedFd) -> Self {
        let ListeningSocket { listener, worker, address } = *listening;
        Self { fd, listener, worker, address }
    }

    /// For the workers, who keep it.
    pub fn description(&self) -> ListeningSocket {
        ListeningSocket { listener: self.listener, worker: self.worker, address: self.address }
    }

    /// For the page and for whoever waits for readiness.
    pub fn listening(&self) -> Listening {
        Listening::new(self.listener, self.worker, self.address)
    }
}

/// Opens all listening sockets of a configuration, or none.
pub fn open_all(config: &Config) -> anyhow::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for (section, key, listener, addresses) in [
        ("rtmp", "listen", Listener::Rtmp, &config.rtmp.listen),
        ("http", "listen", Listener::Http, &config.http.listen),
        ("api", "listen", Listener::Api, &config.api.listen),
        ("tls", "rtmps", Listener::Rtmps, &config.tls.rtmps),
        ("tls", "https", Listener::Https, &config.tls.https),
        ("tls", "https_api", Listener::HttpsApi, &config.tls.https_api),
        ("metrics", "listen", Listener::Metrics, &config.metrics.listen),
    ] {
        let before = sockets.len();
        for address in addresses {
            sockets.extend(open_listed(section, key, listener, *address, &sockets[before..])?);
        }
        if sockets.len() == before && !addresses.is_empty() {
            bail!("[{section}] {key} names only IPv6 addresses, and this machine has no IPv6");
        }
    }
    for id in 1..=config.workers() {
        let Some(port) = config.sub_port(id) else { continue };
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            sockets.extend(open("server", "worker_base_port", Listener::Sub, Some(WorkerId(id)), (ip, port).into())?);
        }
    }
    Ok(sockets)
}

/// Port 0 in a section takes the same free port for IPv4 and IPv6 where that can be had.
fn open_listed(section: &str, key: &str, listener: Listener, address: SocketAddr, earlier: &[Socket]) -> anyhow::Result<Option<Socket>> {
    if address.port() == 0
        && let Some(sibling) = earlier.iter().rev().find(|socket| socket.address.is_ipv4() != address.is_ipv4())
        && let Ok(Some(socket)) = bind(listener, None, SocketAddr::new(address.ip(), sibling.address.port()))
    {
        return Ok(Some(socket));
    }
    open(section, key, listener, None, address)
}

fn open(section: &str, key: &str, listener: Listener, worker: Option<WorkerId>, address: SocketAddr) -> anyhow::Result<Option<Socket>> {
    let opened = bind(listener, worker, address).map_err(|error| explain(section, key, address, error))?;
    if opened.is_none() {
        tracing::info!(%address, "this machine has no IPv6: not listening there");
    }
    Ok(opened)
}

/// `None`: an IPv6 address of general meaning on a machine without IPv6.
fn bind(listener: Listener, worker: Option<WorkerId>, address: SocketAddr) -> io::Result<Option<Socket>> {
    let general = address.ip().is_unspecified() || address.ip().is_loopback();
    // Urgent data stays in line: a peer must not be able to make the kernel's byte counters differ from what was read.
    match net::listen(address, BACKLOG, true, true) {
        Ok(fd) => {
            let address = net::local_addr(&fd)?;
            Ok(Some(Socket { fd, listener, worker, address }))
        }
        Err(error) if address.is_ipv6() && general && matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn explain(section: &str, key: &str, address: SocketAddr, error: io::Error) -> anyhow::Error {
    let what = match error.kind() {
        ErrorKind::AddrInUse => match who_listens(address) {
            Some(holder) => format!("the port is taken by {holder}; stop it, or choose another port"),
            None => "the port is taken by another process; choose another port".to_owned(),
        },
        ErrorKind::PermissionDenied => "this user may not listen there (ports below 1024 take a privilege)".to_owned(),
        ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
        _ => "listening failed".to_owned(),
    };
    anyhow::Error::new(error).context(format!("[{section}] {key}: {address}: {what}"))
}

/// The local address of an accepted connection, which is what the client connected to.
pub fn local_of(socket: &OwnedFd) -> anyhow::Result<SocketAddr> {
    net::local_addr(socket).context("a connection without a local address")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{Api, Http, Rtmp};

    fn config(rtmp: &[&str]) -> Config {
        let listen = rtmp.iter().map(|address| address.parse().unwrap()).collect();
        let (http, api) = (Http { listen: vec![], ..Http::default() }, Api { listen: vec![], ..Api::default() });
        Config { rtmp: Rtmp { listen, ..Rtmp::default() }, http, api, ..Config::default() }
    }

    #[test]
    fn a_free_port_is_the_same_for_both_families() {
        let sockets = open_all(&config(&["127.0.0.1:0", "[::1]:0"])).unwrap();
        assert!(sockets.iter().all(|socket| socket.address.port() != 0));
        if let [v4, v6] = &sockets[..] {
            assert_eq!(v4.address.port(), v6.address.port());
            assert!(v4.address.is_ipv4() && v6.address.is_ipv6());
        }
    }

    #[test]
    fn both_families_have_the_same_port_when_all_addresses_are_meant() {
        let port = open_all(&config(&["127.0.0.1:0"])).unwrap()[0].address.port();
        let sockets = open_all(&config(&[&format!("0.0.0.0:{port}"), &format!("[::]:{port}")])).unwrap();
        assert!(!sockets.is_empty());
    }

    #[test]
    fn a_taken_port_names_itself_and_its_holder() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = format!("{:#}", open_all(&config(&[&address.to_string()])).unwrap_err());
        let pid = format!("pid {}", std::process::id());
        assert!(error.contains("[rtmp] listen") && error.contains(&address.to_string()) && error.contains(&pid), "{error}");
    }

    #[test]
    fn each_worker_has_its_sub_port() {
        let free = open_all(&config(&["127.0.0.1:0"])).unwrap()[0].address.port();
        let mut config = config(&[]);
        config.server.workers = 2;
        config.server.worker_base_port = free;
        // The port behind a free one may be taken: then the error says which.
        match open_all(&config) {
            Ok(sockets) => {
                let mut found: Vec<_> = sockets.iter().filter(|s| s.address.is_ipv4()).map(|s| (s.worker, s.address.port())).collect();
                found.sort();
                assert_eq!(found, [(Some(WorkerId(1)), free), (Some(WorkerId(2)), free + 1)]);
                assert!(sockets.iter().all(|socket| socket.address.ip().is_loopback()));
            }
            Err(error) => assert!(format!("{error:#}").contains("worker_base_port"), "{error:#}"),
        }
    }

    #[test]
    fn an_address_of_another_machine_is_an_error() {
        let error = format!("{:#}", open_all(&config(&["192.0.2.1:0"])).unwrap_err());
        assert!(error.contains("does not have that address"), "{error}");
    }
}
