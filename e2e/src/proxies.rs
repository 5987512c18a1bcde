//! Real proxies in front of a server, as the documentation configures them, and connections from addresses of the test's choice.

use crate::server::Server;
use crate::tools::{Tool, eventually};
use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Where the proxies connect from: a loopback address that nothing else uses.
pub const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
/// Where the server is in the documentation.
const SERVER: &str = "10.0.0.10";
/// How often a start is tried when a port was taken in between.
const STARTS: u32 = 5;

/// A proxy for RTMP and HTTP.
pub struct Proxy {
    /// Where it takes RTMP.
    pub rtmp: SocketAddr,
    /// Where it takes HTTP.
    pub http: SocketAddr,
    _process: Tool,
    _directory: TempDir,
}

/// The text of the only block of `docs/deployment.md` in this language that holds these words.
pub fn documented(language: &str, words: &str) -> Result<String> {
    documented_in("deployment.md", language, words)
}

/// As [`documented`], of another page of `docs/`.
pub fn documented_in(page: &str, language: &str, words: &str) -> Result<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page))?;
    let fence = format!("```{language}\n");
    let mut blocks = text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).filter(|block| block.contains(words));
    let block = blocks.next().with_context(|| format!("no {language} block with {words:?}"))?.to_owned();
    ensure!(blocks.next().is_none(), "several {language} blocks with {words:?}");
    Ok(block)
}

/// Replaces what has to be there, and how often.
fn replace(text: &str, what: &str, by: &str) -> Result<String> {
    ensure!(text.contains(what), "the documentation does not say {what:?}");
    Ok(text.replace(what, by))
}

impl Proxy {
    /// HAProxy with the documented configuration, but `sends` (`send-proxy-v2`) as it is wanted here.
    pub fn haproxy(server: &Server, sends: &str) -> Result<Self> {
        let (rtmp, http) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let mut text = documented("haproxy", "frontend")?;
        for (port, listener, to) in [(1935, &rtmp, server.address("rtmp")), (8080, &http, server.address("http"))] {
            text = replace(&text, &format!("bind :{port}\n"), &format!("bind fd@{}\n", listener.as_raw_fd()))?;
            text = replace(&text, &format!("{SERVER}:{port}"), &to.to_string())?;
        }
        text = replace(&text, "send-proxy-v2", sends)?;
        text = replace(&text, "defaults\n", &format!("defaults\n    source {PROXY}\n"))?;
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("haproxy.cfg");
        std::fs::write(&file, format!("global\n    maxconn 200\n{text}"))?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        let addresses = (rtmp.local_addr()?, http.local_addr()?);
        Self::start(command, &[rtmp.as_fd(), http.as_fd()], addresses, directory)
    }

    /// nginx with the documented configuration. It opens its sockets itself: if a port was taken in between, others are tried.
    pub fn nginx(server: &Server) -> Result<Self> {
        (1..STARTS).find_map(|_| Self::start_nginx(server).ok()).map_or_else(|| Self::start_nginx(server), Ok)
    }

    fn start_nginx(server: &Server) -> Result<Self> {
        let (rtmp, http) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let directory = tempfile::tempdir()?;
        let at = directory.path().display();
        let mut text = documented("nginx", "stream {")?;
        for (port, listener, to) in [(1935, &rtmp, server.address("rtmp")), (8080, &http, server.address("http"))] {
            text = replace(&text, &format!("listen {port};"), &format!("listen {};", listener.local_addr()?))?;
            text = replace(&text, &format!("{SERVER}:{port}"), &to.to_string())?;
        }
        text = replace(&text, "proxy_pass ", &format!("proxy_bind {PROXY};\nproxy_pass "))?;
        let mut own = String::from("access_log off;\n");
        for module in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            own += &format!("{module}_temp_path {at}/{module};\n");
        }
        text = replace(&text, "http {\n", &format!("http {{\n{own}"))?;
        let file = directory.path().join("nginx.conf");
        let main = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nmaster_process off;\nevents {}\n";
        std::fs::write(&file, format!("{main}pid {at}/pid;\nerror_log stderr warn;\n{text}"))?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(directory.path()).arg("-c").arg(&file).args(["-e", "stderr"]);
        let addresses = (rtmp.local_addr()?, http.local_addr()?);
        drop((rtmp, http));
        Self::start(command, &[], addresses, directory)
    }

    fn start(mut command: Command, sockets: &[BorrowedFd<'_>], addresses: (SocketAddr, SocketAddr), directory: TempDir) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let program = command.get_program().to_string_lossy().into_owned();
        let child = braidcast_sys::child::spawn(command, sockets).with_context(|| format!("starting {program}"))?;
        let mut process = Tool::of(child);
        let (rtmp, http) = addresses;
        let answers = || crate::http_get(&format!("http://{http}/streams.json")).is_ok_and(|answer| answer.status == 200);
        let up = eventually(Duration::from_secs(30), || (answers() || !process.is_running()).then_some(()));
        ensure!(up.is_some() && process.is_running(), "{program} does not serve");
        Ok(Self { rtmp, http, _process: process, _directory: directory })
    }
}

/// Connects from an address of one's own, so that different clients can be told apart on one machine.
pub fn connect_from(source: IpAddr, address: SocketAddr) -> Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddr::new(source, 0)).with_context(|| format!("binding to {source}"))?;
    rustix::net::connect(&socket, &address).with_context(|| format!("connecting from {source} to {address}"))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A PROXY header of version 1 for a client; the destination is of no interest.
pub fn proxy_line(client: SocketAddr) -> Vec<u8> {
    let (family, destination) = if client.is_ipv4() { ("TCP4", "127.0.0.1") } else { ("TCP6", "::1") };
    format!("PROXY {family} {} {destination} {} 1935\r\n", client.ip(), client.port()).into_bytes()
}
