//! Entry for a fuzz target: what of a saved session is read before anything is done for it. The program never calls it.

use super::kept::Row;
use super::ledger::Ledger;
use super::save::{Checkpoint, SavedProtocol};
use super::websocket::WebSocket;
use crate::saved::packed;
use braidcast_protocols::http::{RequestReader, Settings};
use braidcast_protocols::rtmp::ServerSession;

/// Input that a restored session is given: chunks of every format.
const INPUT: &[u8] = b"\x02\0\0\0\0\0\x04\x01\0\0\0\0\0\0\x10\0\x43\0\0\0\0\0\x01\x08\x83\0\0\0\xc3GET / HTTP/1.1\r\n\r\n";

/// A row, then a checkpoint, as they lie behind their checksums. Whatever they say, reading them, and going on with what can be
/// restored, ends in an error or works.
pub fn saved_session(bytes: &[u8]) {
    let Ok((row, rest)) = postcard::take_from_bytes::<Row<'_>>(bytes) else { return };
    saved_ledger(&row);
    if let Ok(checkpoint) = postcard::from_bytes::<Checkpoint>(rest) {
        saved_protocol(&checkpoint.protocol);
    }
    if let Some(Ok(checkpoint)) = packed::unpack(rest).map(|body| postcard::from_bytes::<Checkpoint>(&body)) {
        saved_protocol(&checkpoint.protocol);
    }
}

fn saved_ledger(row: &Row<'_>) {
    let Some(mut ledger) = Ledger::restore(row.sent, row.finish, &row.extents) else { return };
    assert_eq!(ledger.extents(), &*row.extents, "a ledger says what it was made of");
    let mut before = ledger.owed_bytes();
    for step in [0, 1, 7, 70_000] {
        let _ = (ledger.position(), ledger.pace(), ledger.oldest_place());
        let step = before.map_or(step, |owed| owed.min(step));
        ledger.advance(step as usize);
        assert_eq!(ledger.owed_bytes(), before.map(|owed| owed - step), "what was sent is owed no more");
        before = ledger.owed_bytes();
    }
    ledger.restart();
    assert!(ledger.is_empty());
}

fn saved_protocol(saved: &SavedProtocol) {
    match saved {
        SavedProtocol::Unknown => {}
        SavedProtocol::Prefix(reader) => {
            let mut reader = reader.clone();
            let _ = reader.handle_input(INPUT);
        }
        SavedProtocol::WebSocket(saved) => {
            if let Some(socket) = WebSocket::restore(saved) {
                let _ = (socket.head(), socket.save());
            }
        }
        SavedProtocol::Rtmp(saved) => {
            if let Ok(mut rtmp) = ServerSession::restore(saved, 1_000) {
                let _ = rtmp.handle_input(INPUT, 1_000);
                let _ = rtmp.handle_timeout(1 << 40);
                let _ = rtmp.save(1_000);
            }
        }
        SavedProtocol::Http(saved) => {
            if let Some(mut reader) =
                RequestReader::restore(Settings { head_bytes: 512, body_bytes: 16, passes_on: false, keeps_all: false }, saved)
            {
                let _ = reader.handle_input(INPUT);
                let _ = reader.poll_request();
                let _ = reader.save();
            }
        }
    }
}
