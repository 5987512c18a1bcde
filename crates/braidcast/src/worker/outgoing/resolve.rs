//! Addresses of other servers' names: asked for in threads of their own, a few at once, because the system's resolver blocks. The worker
//! hears of the answers by a doorbell.

use braidcast_sys::EventFd;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Names looked up at once; a thread each.
const AT_ONCE: usize = 8;
/// Names that wait for a thread.
const MAX_WAITING: usize = 1_024;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// The addresses of a name, or why there are none.
type Found = Result<Vec<SocketAddr>, String>;

/// See the module's head.
pub struct Resolver {
    bell: EventFd,
    answers: Receiver<(u64, Found)>,
    answer: Sender<(u64, Found)>,
    running: usize,
    waiting: VecDeque<(u64, String, u16)>,
}

impl Resolver {
    /// One that looks for nothing yet.
    pub fn new() -> io::Result<Self> {
        let (answer, answers) = channel();
        Ok(Self { bell: EventFd::new()?, answers, answer, running: 0, waiting: VecDeque::new() })
    }

    /// Looks a name up for `id`. False: too many wait already.
    pub fn ask(&mut self, id: u64, host: &str, port: u16) -> bool {
        if self.waiting.len() >= MAX_WAITING {
            return false;
        }
        self.waiting.push_back((id, host.to_owned(), port));
        self.start();
        true
    }

    /// The next answer.
    pub fn poll(&mut self) -> Option<(u64, Found)> {
        let _ = self.bell.drain();
        let found = self.answers.try_recv().ok()?;
        self.running -= 1;
        self.start();
        Some(found)
    }

    fn start(&mut self) {
        while self.running < AT_ONCE {
            let Some((id, host, port)) = self.waiting.pop_front() else { return };
            let (answer, bell) = (self.answer.clone(), self.bell.try_clone());
            let look = move || {
                let found = (host.as_str(), port).to_socket_addrs();
                let found = found
                    .map(|addresses| addresses.take(MAX_ADDRESSES).collect())
                    .map_err(|error| format!("the name cannot be looked up: {error}"));
                // A worker that is ending does not wait for answers.
                let _ = answer.send((id, found));
                if let Ok(bell) = bell {
                    let _ = bell.ring();
                }
            };
            self.running += 1;
            if let Err(error) = std::thread::Builder::new().name("resolve".into()).spawn(look) {
                let _ = self.answer.send((id, Err(format!("no thread to look the name up: {error}"))));
                let _ = self.bell.ring();
            }
        }
    }
}

impl AsFd for Resolver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use braidcast_sys::{Events, Interest, Poller};
    use std::time::Duration;

    #[test]
    fn many_names_are_looked_up_a_few_at_once() {
        let mut resolver = Resolver::new().unwrap();
        let poller = Poller::new().unwrap();
        poller.add(&resolver, 0, Interest::READ).unwrap();
        for id in 0..40 {
            assert!(resolver.ask(id, if id % 2 == 0 { "127.0.0.1" } else { "no such name" }, 80));
            assert!(resolver.running <= AT_ONCE);
        }
        let (mut events, mut found) = (Events::with_capacity(1), Vec::new());
        while found.len() < 40 {
            poller.wait(&mut events, Some(Duration::from_secs(30))).unwrap();
            assert!(!events.is_empty(), "the doorbell rings");
            found.extend(std::iter::from_fn(|| resolver.poll()));
        }
        for (id, found) in found {
            assert_eq!(found.is_ok(), id % 2 == 0, "{found:?}");
        }
    }
}
