//! What a client says over RTMP, read on its way: which stream it publishes or plays, and what the stream carries. Never changes a byte.

use crate::clients::{Kind, Media};
use anyhow::{Context, Result};
use braidcast_media::StreamKey;
use braidcast_protocols::rtmp::amf0::{self, Value};
use braidcast_protocols::rtmp::chunk::{ChunkReader, Message};
use braidcast_protocols::rtmp::{ChunkLimits, message_type, url};

/// A version byte and two packets (RTMP §5.2).
const HANDSHAKE_BYTES: usize = 1 + 2 * 1536;
/// A publisher describes its stream in the first messages.
const DESCRIBED_WITHIN: u32 = 100;
/// Nesting of what is read.
const DEPTH: usize = 32;

/// Something that was said.
pub enum Found {
    /// What the client wants.
    Wish {
        /// Which stream.
        key: StreamKey,
        /// What it called.
        tc_url: String,
        /// To publish or to play.
        kind: Kind,
    },
    /// What the stream carries.
    Media(Box<dyn FnOnce(&mut Media)>),
    /// Nothing more is of interest.
    Enough,
}

/// Reads along.
pub struct Tap {
    handshake: usize,
    reader: ChunkReader,
    /// What the reader has not taken yet.
    unread: Vec<u8>,
    app: String,
    tc_url: String,
    messages_left: Option<u32>,
}

impl Default for Tap {
    fn default() -> Self {
        let reader = ChunkReader::new(ChunkLimits::default(), 0);
        Self { handshake: HANDSHAKE_BYTES, reader, unread: Vec::new(), app: String::new(), tc_url: String::new(), messages_left: None }
    }
}

impl Tap {
    /// Takes the next bytes; gives what they said.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Vec<Found>> {
        let skipped = self.handshake.min(bytes.len());
        self.handshake -= skipped;
        self.unread.extend_from_slice(&bytes[skipped..]);
        let (mut found, mut at) = (Vec::new(), 0);
        while at < self.unread.len() {
            let (used, message) = self.reader.read(&self.unread[at..])?;
            at += used;
            match message {
                Some(message) => found.extend(self.message(&message)?),
                None if used == 0 => break,
                None => {}
            }
        }
        self.unread.drain(..at);
        Ok(found)
    }

    fn message(&mut self, message: &Message) -> Result<Option<Found>> {
        if let Some(left) = self.messages_left.as_mut() {
            if *left == 0 {
                return Ok(Some(Found::Enough));
            }
            *left -= 1;
        }
        let payload = &message.payload;
        match message.message_type {
            message_type::COMMAND_AMF0 => self.command(&amf0::decode(payload, DEPTH)?),
            message_type::DATA_AMF0 => Ok(size(&amf0::decode(payload, DEPTH)?).map(|size| change(move |media| media.size = size))),
            // AVCDecoderConfigurationRecord (ISO 14496-15 §5.2.4.1.1) behind the five bytes of a sequence header's tag.
            message_type::VIDEO => Ok(match payload[..] {
                [0x17, 0, _, _, _, _, profile, _, level, ..] => Some(change(move |media| media.avc = Some((profile, level)))),
                _ => None,
            }),
            message_type::AUDIO => Ok(payload.first().filter(|first| **first >> 4 == 10).map(|_| change(|media| media.aac = true))),
            _ => Ok(None),
        }
    }

    fn command(&mut self, values: &[Value]) -> Result<Option<Found>> {
        let name = values.first().and_then(Value::as_str).unwrap_or_default();
        let kind = match name {
            "connect" => {
                let member = |key| Some(values.get(2)?.member(key)?.as_str()?.to_owned());
                self.app = member("app").unwrap_or_default();
                self.tc_url = member("tcUrl").unwrap_or_default();
                return Ok(None);
            }
            "publish" => Kind::Publish,
            "play" => Kind::Play,
            _ => return Ok(None),
        };
        let stream = values.get(3).and_then(Value::as_str).context("no stream is named")?;
        let key = url::resolve(&self.tc_url, &self.app, stream)?.key;
        self.messages_left = Some(DESCRIBED_WITHIN);
        let tc_url = self.tc_url.split('?').next().unwrap_or_default().to_owned();
        Ok(Some(Found::Wish { key, tc_url, kind }))
    }
}

fn change(change: impl FnOnce(&mut Media) + 'static) -> Found {
    Found::Media(Box::new(change))
}

/// Width and height of `onMetaData`.
fn size(values: &[Value]) -> Option<(u64, u64)> {
    let metadata = values.iter().find(|value| value.member("width").is_some())?;
    let number = |key| Some(metadata.member(key)?.as_number()? as u64);
    Some((number("width")?, number("height")?))
}
