//! Telling the outside that the server is ready, or ends: the service manager (sd_notify(3)), `--ready-fd`, standard output.

use crate::control::pages::Listening;
use anyhow::Context;
use braidcast_sys::child::take_inherited;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable in which a service manager names its socket.
pub const NOTIFY_VARIABLE: &str = "NOTIFY_SOCKET";

/// Takes the descriptor of `--ready-fd`.
pub fn ready_fd(number: i32) -> anyhow::Result<OwnedFd> {
    take_inherited(number).with_context(|| format!("--ready-fd {number}: no open descriptor of that number was inherited"))
}

/// Says that the server is ready: one line `what address` for each listening socket on standard output, the same as one line of JSON on
/// `--ready-fd` (the form of the status), which is closed afterwards, and `READY=1` to the service manager.
pub fn ready(listening: &[Listening], ready_fd: Option<OwnedFd>) {
    let text = Listening::to_text(listening);
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        tracing::debug!(%error, "nobody reads standard output");
    }
    if let Some(fd) = ready_fd
        && let Err(error) = writeln!(File::from(fd), "{}", serde_json::Value::Object(crate::status::addresses(listening)))
    {
        tracing::warn!(%error, "cannot write to --ready-fd");
    }
    service_manager("READY=1\n");
}

/// Says that another process is the server's main process from now on.
pub fn main_pid(pid: u32) {
    service_manager(&format!("MAINPID={pid}\n"));
}

/// Says that the server ends.
pub fn stopping() {
    service_manager("STOPPING=1\n");
}

fn service_manager(state: &str) {
    let Some(path) = std::env::var(NOTIFY_VARIABLE).ok().filter(|path| !path.is_empty()) else { return };
    if let Err(error) = tell(&path, state) {
        tracing::warn!(%error, "cannot tell the service manager {}", state.trim_end());
    }
}

/// A name that begins with `@` is in the abstract namespace (unix(7)).
fn tell(path: &str, state: &str) -> std::io::Result<()> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_is_told_by_path_and_by_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("braidcast-notify-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}")),
        ];
        for (socket, address) in sockets {
            tell(&address, "READY=1\n").unwrap();
            let mut buffer = [0; 32];
            let bytes = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..bytes], b"READY=1\n");
        }
        assert!(tell("/nowhere/at/all", "READY=1\n").is_err());
    }

    #[test]
    fn the_addresses_go_to_the_ready_descriptor_which_is_closed() {
        let (read, write) = std::io::pipe().unwrap();
        let listening = [Listening { what: "rtmp".into(), address: "127.0.0.1:1935".parse().unwrap() }];
        ready(&listening, Some(write.into()));
        assert_eq!(std::io::read_to_string(read).unwrap(), "{\"rtmp\":[\"127.0.0.1:1935\"]}\n");
        assert!(ready_fd(987).is_err());
    }
}
