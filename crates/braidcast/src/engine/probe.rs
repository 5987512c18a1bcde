//! Whether processes that have no API answer: each is greeted as an RTMP server, and has to greet back. In a thread, for that takes time.

use braidcast_sys::EventFd;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// How long a process may take to greet back.
const PATIENCE: Duration = Duration::from_secs(2);
/// Version and first packet of a plain handshake (RTMP §5.2).
const GREETING_BYTES: usize = 1 + 1536;

/// What was found of a process.
type Found = (u16, Result<(), String>);

/// See the module's head.
pub struct Probe {
    results: Receiver<Found>,
    sender: Sender<Found>,
    bell: EventFd,
    busy: Arc<AtomicBool>,
}

impl Probe {
    /// Asks nobody yet.
    pub fn new() -> io::Result<Self> {
        let (sender, results) = channel();
        Ok(Self { results, sender, bell: EventFd::new()?, busy: Arc::default() })
    }

    /// Greets these, unless the last ones are still being waited for.
    pub fn look(&mut self, processes: Vec<(u16, SocketAddr)>) {
        if processes.is_empty() || self.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let (sender, busy) = (self.sender.clone(), Arc::clone(&self.busy));
        let Ok(bell) = self.bell.try_clone() else { return };
        let work = move || {
            std::thread::scope(|scope| {
                for (process, address) in processes {
                    let sender = &sender;
                    // A process that hangs must not make others look as if they did.
                    let greeted = std::thread::Builder::new().spawn_scoped(scope, move || {
                        let _ = sender.send((process, greet(address).map_err(|error| error.to_string())));
                    });
                    drop(greeted);
                }
            });
            busy.store(false, Ordering::Release);
            let _ = bell.ring();
        };
        if let Err(error) = std::thread::Builder::new().name("probe".into()).spawn(work) {
            tracing::warn!(%error, "no thread to ask the processes");
            self.busy.store(false, Ordering::Release);
        }
    }

    /// The next that was found.
    pub fn poll(&mut self) -> Option<Found> {
        let _ = self.bell.drain();
        self.results.try_recv().ok()
    }
}

impl AsFd for Probe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

fn greet(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut greeting = [0; GREETING_BYTES];
    greeting[0] = 3;
    stream.write_all(&greeting)?;
    let mut version = [0];
    stream.read_exact(&mut version)?;
    match version {
        [3] => Ok(()),
        [other] => Err(io::Error::other(format!("it greets with {other:#04x}, which is not RTMP"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn probe(answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; GREETING_BYTES]).unwrap();
            stream.write_all(answer).unwrap();
        });
        let mut probe = Probe::new().unwrap();
        probe.look(vec![(7, address)]);
        let (process, found) = loop {
            match probe.poll() {
                Some(found) => break found,
                None => std::thread::yield_now(),
            }
        };
        server.join().unwrap();
        assert_eq!(process, 7);
        found
    }

    #[test]
    fn who_greets_back_is_there() {
        assert_eq!(probe(b"\x03"), Ok(()));
        assert!(probe(b"H").is_err() && probe(b"").is_err());
    }
}
