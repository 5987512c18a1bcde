//! What goes before a client's first word, and what a viewer sends that has nothing to say.

use crate::bounded;
use crate::cut::Cuts;
use braidcast_protocols::http::websocket::{Event, FrameReader};
use braidcast_protocols::proxy::{Form, PrefixError, PrefixReader, Sender};

/// A PROXY header or a real-IP prefix, and what follows it.
pub fn prefixes(input: &[u8]) {
    for form in [Form::Proxy, Form::RealIp] {
        let whole = bounded(input, 8, 16 << 10, || read_prefix(form, input, &mut Cuts::none()));
        assert_eq!(read_prefix(form, input, &mut Cuts::of(input)), whole, "the pieces of the input made a difference");
    }
}

/// How long the prefix is and what it says; `None` while it is not whole.
fn read_prefix(form: Form, input: &[u8], cuts: &mut Cuts) -> Result<Option<(usize, Sender)>, PrefixError> {
    let mut reader = PrefixReader::new(form);
    let mut used = 0;
    while used < input.len() {
        let piece = cuts.piece(input.len() - used);
        let (step, sender) = reader.handle_input(&input[used..used + piece])?;
        assert!(step <= piece, "more was taken than there was");
        used += step;
        if let Some(sender) = sender {
            return Ok(Some((used, sender)));
        }
        assert_eq!(step, piece, "bytes are left although the prefix is not whole");
        if cuts.restores() {
            reader = postcard::from_bytes(&postcard::to_stdvec(&reader).expect("it can be saved")).expect("it can be restored");
        }
    }
    Ok(None)
}

/// Frames of a WebSocket's client.
pub fn websocket(input: &[u8]) {
    let whole = bounded(input, 40, 16 << 10, || read_frames(input, &mut Cuts::none()));
    assert_eq!(read_frames(input, &mut Cuts::of(input)), whole, "the pieces of the input made a difference");
    let last = whole.len().saturating_sub(1);
    for (at, event) in whole.iter().enumerate() {
        match event {
            Event::Reply(bytes) => assert!((2..=127).contains(&bytes.len()) && bytes[0] == 0x8a, "a reply is a pong"),
            Event::Close(_) => assert_eq!(at, last, "nothing is said after a goodbye"),
        }
    }
}

fn read_frames(input: &[u8], cuts: &mut Cuts) -> Vec<Event> {
    let (mut reader, mut events) = (FrameReader::default(), Vec::new());
    let mut rest = input;
    while !rest.is_empty() {
        let piece = cuts.piece(rest.len());
        let (used, event) = reader.handle_input(&rest[..piece]);
        assert!(used > 0 && (used == piece || event.is_some()), "it stands still");
        rest = &rest[used..];
        events.extend(event);
        if cuts.restores() {
            let saved = postcard::to_stdvec(&reader).expect("it can be saved");
            assert!(saved.len() < 200, "a client's frames are kept: {} bytes", saved.len());
            reader = postcard::from_bytes(&saved).expect("it can be restored");
        }
    }
    events
}
