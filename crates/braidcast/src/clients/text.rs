//! The text of a record: what a client said of itself, cut to the bounds of its fields and encoded.

use super::{Description, Kind, TEXT_BYTES};
use crate::control::Listener;
use braidcast_media::StreamKey;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

const TC_URL_BYTES: usize = 320;
const PAGE_URL_BYTES: usize = 224;
const SWF_URL_BYTES: usize = 96;
const PARAM_BYTES: usize = 880;
const AGENT_BYTES: usize = 96;
const CONTEXT_BYTES: usize = 24;

#[derive(Serialize, Deserialize)]
struct Text<'a> {
    kind: Kind,
    listener: Listener,
    peer: SocketAddr,
    key: Option<[&'a str; 3]>,
    tc_url: &'a str,
    page_url: &'a str,
    swf_url: &'a str,
    param: &'a str,
    agent: &'a str,
    context: &'a str,
}

/// Writes a description to the front of `buffer`.
pub(super) fn encode<'a>(of: &Description, buffer: &'a mut [u8; TEXT_BYTES]) -> &'a [u8] {
    let text = Text {
        kind: of.kind,
        listener: of.listener,
        peer: of.peer,
        key: of.key.as_ref().map(|key| [key.vhost(), key.app(), key.stream()]),
        tc_url: cut(&of.tc_url, TC_URL_BYTES),
        page_url: cut(&of.page_url, PAGE_URL_BYTES),
        swf_url: cut(&of.swf_url, SWF_URL_BYTES),
        param: cut(&of.param, PARAM_BYTES),
        agent: cut(&of.agent, AGENT_BYTES),
        context: cut(&of.context, CONTEXT_BYTES),
    };
    postcard::to_slice(&text, buffer).expect("all fields at their bounds fit a record")
}

/// Reads what [`encode`] wrote. `None` for anything else: another version's, or damaged.
pub(super) fn decode(bytes: &[u8]) -> Option<Description> {
    let text: Text<'_> = postcard::from_bytes(bytes).ok()?;
    let key = match text.key {
        Some([vhost, app, stream]) => Some(StreamKey::new(vhost, app, stream).ok()?),
        None => None,
    };
    Some(Description {
        kind: text.kind,
        listener: text.listener,
        peer: text.peer,
        key,
        tc_url: text.tc_url.to_owned(),
        page_url: text.page_url.to_owned(),
        swf_url: text.swf_url.to_owned(),
        param: text.param.to_owned(),
        agent: text.agent.to_owned(),
        context: text.context.to_owned(),
    })
}

/// The beginning of a text that has at most so many bytes and ends with a whole character.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
