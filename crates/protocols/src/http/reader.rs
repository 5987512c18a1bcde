//! From a connection's bytes to requests, one at a time.
//!
//! The reader owns no socket and knows no clock: time limits are its caller's. It takes no byte beyond the request at hand, so a
//! connection can be handed on (to an FLV viewer, to another worker) with nothing lost. It holds memory only while a head is
//! incomplete, at most [`Settings::head_bytes`].

use super::request::{self, Fault, HttpError, Request};
use serde::{Deserialize, Serialize};

/// Limits of a connection's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The longest request head, in bytes, blank line included.
    pub head_bytes: usize,
    /// The longest request body that is read and thrown away, or kept, in bytes.
    pub body_bytes: u64,
    /// Requests may be passed on to another server: they may have any method, their heads are kept, and their bodies are not taken.
    pub passes_on: bool,
    /// Requests may have any method; their heads and bodies are kept. Without `passes_on`.
    pub keeps_all: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { head_bytes: 16 << 10, body_bytes: 16 << 10, passes_on: false, keeps_all: false }
    }
}

/// Blank lines that a client may send before a request, in bytes (RFC 9112 section 2.2 asks to ignore at least one).
const MAX_BLANK_BYTES: u8 = 8;

/// Reads requests. After every [`RequestReader::handle_input`], ask [`RequestReader::poll_request`].
#[derive(Debug)]
pub struct RequestReader {
    settings: Settings,
    phase: Phase,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Phase {
    /// A head is being gathered.
    Head {
        gathered: Vec<u8>,
        /// Nothing but a carriage return stands on the current line yet.
        line_is_blank: bool,
        blank_bytes: u8,
    },
    /// The head is read; its body is being thrown away.
    Body { request: Box<Request>, left: u64 },
    /// The request waits to be polled.
    Complete(Box<Request>),
    /// The request was handed out; the next one is not looked at before [`RequestReader::next_request`].
    Answering,
    /// The connection is to be closed.
    Failed(HttpError),
    /// The head is read; its body is being kept.
    Keeping { request: Box<Request>, left: u64, body: Vec<u8> },
    /// A request with a body waits to be polled.
    Kept { request: Box<Request>, body: Vec<u8> },
}

impl Phase {
    fn idle() -> Self {
        Self::Head { gathered: Vec::new(), line_is_blank: true, blank_bytes: 0 }
    }
}

impl RequestReader {
    /// A reader at the start of a connection.
    pub fn new(settings: Settings) -> Self {
        Self { settings, phase: Phase::idle() }
    }

    /// Takes bytes and says how many; the rest is to be offered again after [`RequestReader::next_request`]. 0 means that a request waits to be polled
    /// or answered.
    ///
    /// # Errors
    /// What the client sent cannot be served: answer with the error's status and close. Every later call gives the same error.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<usize, HttpError> {
        let mut consumed = 0;
        while consumed < input.len() {
            let step = match &mut self.phase {
                Phase::Head { .. } => self.gather(&input[consumed..]),
                Phase::Body { left, .. } => {
                    let taken = (input.len() - consumed).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    self.end_body();
                    Ok(taken)
                }
                Phase::Keeping { left, body, .. } => {
                    let taken = (input.len() - consumed).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    body.extend_from_slice(&input[consumed..consumed + taken]);
                    *left -= taken as u64;
                    self.end_body();
                    Ok(taken)
                }
                Phase::Complete(_) | Phase::Kept { .. } | Phase::Answering => break,
                Phase::Failed(error) => Err(*error),
            };
            match step {
                Ok(taken) => consumed += taken,
                Err(error) => {
                    self.phase = Phase::Failed(error);
                    return Err(error);
                }
            }
        }
        Ok(consumed)
    }

    /// The request, once it is whole. From then on no byte is taken until [`RequestReader::next_request`].
    pub fn poll_request(&mut self) -> Option<Request> {
        match std::mem::replace(&mut self.phase, Phase::Answering) {
            Phase::Complete(request) => Some(*request),
            Phase::Kept { request, body } => Some(Request { body, ..*request }),
            other => {
                self.phase = other;
                None
            }
        }
    }

    /// The request that was handed out is answered: go on with the connection's next one.
    pub fn next_request(&mut self) {
        if matches!(self.phase, Phase::Answering) {
            self.phase = Phase::idle();
        }
    }

    /// Whether no byte of a next request has come: a connection kept alive, or a new one.
    pub fn is_idle(&self) -> bool {
        matches!(&self.phase, Phase::Head { gathered, .. } if gathered.is_empty())
    }

    /// The reader's state, for [`RequestReader::restore`] in another process.
    pub fn save(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.phase).expect("the state holds only types that can be encoded")
    }

    /// Continues from saved state; `None` if the bytes are no state of a reader.
    pub fn restore(settings: Settings, saved: &[u8]) -> Option<Self> {
        Some(Self { settings, phase: postcard::from_bytes(saved).ok()? })
    }

    /// Takes bytes up to the end of the head.
    fn gather(&mut self, input: &[u8]) -> Result<usize, HttpError> {
        let Phase::Head { gathered, line_is_blank, blank_bytes } = &mut self.phase else { return Ok(0) };
        // Nearly every head comes in one piece, and there is nothing to be gathered then.
        if gathered.is_empty()
            && let Some(head) = whole_head(input).filter(|head| head.len() <= self.settings.head_bytes)
        {
            self.take_head(head)?;
            return Ok(head.len());
        }
        for (index, &byte) in input.iter().enumerate() {
            if gathered.is_empty() && matches!(byte, b'\r' | b'\n') {
                *blank_bytes += 1;
                if *blank_bytes > MAX_BLANK_BYTES {
                    return Err(Fault::Syntax.into());
                }
                continue;
            }
            if byte.is_ascii_control() && !matches!(byte, b'\r' | b'\n' | b'\t') {
                return Err(Fault::Syntax.into());
            }
            if gathered.len() >= self.settings.head_bytes {
                return Err(HttpError::HeadTooLarge);
            }
            let first = gathered.is_empty();
            gathered.push(byte);
            match byte {
                b'\n' if *line_is_blank && !first => {
                    let head = std::mem::take(gathered);
                    self.take_head(&head)?;
                    return Ok(index + 1);
                }
                b'\n' => *line_is_blank = true,
                b'\r' if *line_is_blank => {}
                _ => *line_is_blank = false,
            }
        }
        Ok(input.len())
    }

    fn take_head(&mut self, head: &[u8]) -> Result<(), HttpError> {
        let Settings { passes_on, keeps_all, .. } = self.settings;
        let mut request = request::parse(head, passes_on || keeps_all)?;
        if passes_on || keeps_all {
            request.head = head.to_vec();
        }
        if passes_on {
            self.phase = Phase::Complete(Box::new(request));
            return Ok(());
        }
        self.begin_body(request)
    }

    fn begin_body(&mut self, request: Request) -> Result<(), HttpError> {
        if request.body_bytes > self.settings.body_bytes {
            return Err(HttpError::BodyTooLarge);
        }
        let (left, request) = (request.body_bytes, Box::new(request));
        self.phase = match self.settings.keeps_all {
            true => Phase::Keeping { request, left, body: Vec::new() },
            false => Phase::Body { request, left },
        };
        self.end_body();
        Ok(())
    }

    fn end_body(&mut self) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Answering) {
            Phase::Body { request, left: 0 } => Phase::Complete(request),
            Phase::Keeping { request, left: 0, body } => Phase::Kept { request, body },
            unfinished => unfinished,
        };
    }
}

/// The head that the input begins with, if that is all there and nothing in it needs a closer look.
fn whole_head(input: &[u8]) -> Option<&[u8]> {
    if matches!(input.first(), Some(b'\r' | b'\n')) {
        return None;
    }
    let mut end = 0;
    let is_whole = input.split_inclusive(|byte| *byte == b'\n').any(|line| {
        end += line.len();
        line.strip_suffix(b"\n").is_some_and(|line| line.iter().all(|byte| *byte == b'\r'))
    });
    let head = &input[..end];
    let is_odd = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\r' | b'\n' | b'\t');
    (is_whole && !head.iter().any(is_odd)).then_some(head)
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
