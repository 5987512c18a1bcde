//! The log of HTTP requests, from the worker's side: what was asked is kept beside the session until it has been answered.

use super::Worker;
use crate::control::counters::WorkerCounter;
use crate::logging::{RequestLog, Requested, take_lines};
use braidcast_protocols::http::Request;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

impl Worker {
    /// The front says where lines go from now on.
    pub(super) fn take_log_files(&mut self, lines: bool, requests: bool, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        if lines && let Some(file) = fds.next() {
            take_lines(&file);
        }
        let Some(file) = fds.next().filter(|_| requests).map(File::from) else { return };
        match &mut self.request_log {
            Some(log) => log.reopen(file),
            None => match RequestLog::start(file) {
                Ok(log) => self.request_log = Some(log),
                Err(error) => tracing::error!(%error, "the access log cannot be written: no thread for it"),
            },
        }
    }

    /// A request has come.
    pub(super) fn note_request(&mut self, slot: usize, request: &Request) {
        if self.request_log.is_some() {
            let session = &mut self.sessions[slot];
            session.more.requested = Some(Box::new(Requested::new(request, session.ledger.sent())));
        }
    }

    /// The answer to a session's request, head and all, is what it is owed, and nothing of it was sent. Without a request: what came was none.
    pub(super) fn log_answer(&mut self, slot: usize) {
        let Some(log) = &mut self.request_log else { return };
        let session = &mut self.sessions[slot];
        let requested = session.more.requested.take();
        let Some((status, head_bytes)) = head(&session.more.control) else { return };
        let bytes = session.ledger.owed_bytes().unwrap_or(0).saturating_sub(head_bytes);
        let requested = requested.map_or_else(Requested::none, |requested| *requested);
        log.push(&requested.written(session.more.peer.ip(), status, bytes, self.now.wall_ms));
    }

    /// An answer that ends with its connection begins with this head.
    pub(super) fn begin_endless(&mut self, slot: usize, answer: &[u8]) {
        if let (Some(requested), Some((status, head_bytes))) = (&mut self.sessions[slot].more.requested, head(answer)) {
            requested.begin_endless(status, head_bytes);
        }
    }

    /// A session is over: if it had such an answer, that is over too.
    pub(super) fn end_endless(&mut self, slot: usize) {
        let Some(log) = &mut self.request_log else { return };
        let session = &mut self.sessions[slot];
        let Some(requested) = session.more.requested.take() else { return };
        if let Some((status, bytes)) = requested.endless(session.ledger.sent()) {
            log.push(&requested.written(session.more.peer.ip(), status, bytes, self.now.wall_ms));
        }
    }

    /// Has gathered lines written.
    pub(super) fn flush_requests(&mut self) {
        if let Some(log) = &mut self.request_log {
            let dropped = log.flush();
            self.page.counter(WorkerCounter::RequestLinesDropped as usize).fetch_add(dropped, Ordering::Relaxed);
        }
    }
}

/// The status of an answer, and the bytes of its head.
fn head(answer: &[u8]) -> Option<(u16, u64)> {
    let status = std::str::from_utf8(answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?).ok()?.parse().ok()?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    Some((status, end as u64))
}

#[cfg(test)]
mod tests {
    use super::head;

    #[test]
    fn a_head_says_status_and_length() {
        assert_eq!(head(b"HTTP/1.1 206 Partial Content\r\nA: b\r\n\r\nbody"), Some((206, 38)));
        for other in [&b""[..], b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 xyz OK\r\n\r\n"] {
            assert_eq!(head(other), None);
        }
    }
}
