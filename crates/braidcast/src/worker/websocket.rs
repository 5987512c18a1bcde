//! WebSocket viewers: an FLV stream in messages, and what little their side of the connection says.

use super::session::Protocol;
use super::{End, Worker};
use braidcast_protocols::http::response;
use braidcast_protocols::http::websocket::{self, Event, FrameReader};
use serde::{Deserialize, Serialize};

/// A connection that was asked to become a WebSocket.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct WebSocket {
    accept: String,
    reader: FrameReader,
}

impl WebSocket {
    /// For a request with this key; `None` if it is none.
    pub fn new(key: &str) -> Option<Self> {
        Some(Self { accept: websocket::accept(key)?, reader: FrameReader::default() })
    }

    /// Its state, for [`WebSocket::restore`] in another process.
    pub fn save(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("the state holds only types that can be encoded")
    }

    /// Continues from saved state; `None` if the bytes are none.
    pub fn restore(saved: &[u8]) -> Option<Self> {
        postcard::from_bytes(saved).ok()
    }

    /// What is said when the stream begins.
    pub fn head(&self) -> Vec<u8> {
        response::websocket(&self.accept)
    }
}

impl Worker {
    /// Reads over what a client sends; answers its pings and its goodbye.
    pub(super) fn feed_websocket(&mut self, slot: usize, bytes: &[u8]) -> Result<usize, End> {
        let mut used = 0;
        while let Some(session) = self.sessions.get_mut(slot) {
            let Protocol::WebSocket(socket) = &mut session.more.protocol else { break };
            let (step, event) = socket.reader.handle_input(&bytes[used..]);
            used += step;
            session.kept.consumed += step;
            match event {
                None => break,
                // A slow viewer's pings may go unanswered.
                Some(Event::Reply(reply)) => drop(self.interject(slot, |_| reply)?),
                Some(Event::Close(goodbye)) => {
                    self.stop_run(slot)?;
                    self.sessions[slot].push_control(&goodbye);
                    self.close_when_sent(slot);
                    return Ok(bytes.len());
                }
            }
        }
        if self.sessions.contains(slot) {
            self.try_flush(slot)?;
        }
        Ok(used)
    }
}
