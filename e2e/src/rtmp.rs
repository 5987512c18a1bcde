//! RTMP by hand: a client that does everything right, and one that writes its chunks as the test says.

use crate::viewer::Record;
use anyhow::{Context, Result, bail, ensure};
use braidcast_media::RecordKind;
use braidcast_protocols::rtmp::amf0::{self, Value};
use braidcast_protocols::rtmp::chunk::{ChunkReader, Message};
use braidcast_protocols::rtmp::url::Target;
use braidcast_protocols::rtmp::{ChunkLimits, ClientOutput, ClientRole, ClientSession, ClientSettings, message_type};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of each handshake packet (RTMP §5.2.3).
const HANDSHAKE_BYTES: usize = 1536;

fn open(url: &str) -> Result<(Target, TcpStream)> {
    let target = Target::parse(url).with_context(|| format!("{url} is no RTMP URL"))?;
    let stream = TcpStream::connect((target.host.as_str(), target.port)).with_context(|| format!("connecting to {url}"))?;
    stream.set_nodelay(true)?;
    Ok((target, stream))
}

/// Reads some bytes, for at most `within`; nothing if none came.
fn read_some(stream: &mut TcpStream, within: Duration) -> Result<Vec<u8>> {
    stream.set_read_timeout(Some(within.max(Duration::from_millis(1))))?;
    let mut buffer = vec![0; 64 << 10];
    match stream.read(&mut buffer) {
        Ok(0) => bail!("the server closed the connection"),
        Ok(read) => {
            buffer.truncate(read);
            Ok(buffer)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => Ok(Vec::new()),
        Err(error) => Err(error).context("reading from the server"),
    }
}

/// A well-behaved client on a blocking socket.
pub struct RtmpClient {
    stream: TcpStream,
    session: ClientSession,
}

impl RtmpClient {
    /// Connects and says hello; the rest follows while [`RtmpClient::next`] is called.
    pub fn connect(url: &str, role: ClientRole) -> Result<Self> {
        Self::connect_with(url, role, false)
    }

    /// Like [`RtmpClient::connect`]; `signed` asks for the handshake with digests.
    pub fn connect_with(url: &str, role: ClientRole, signed: bool) -> Result<Self> {
        let (_, stream) = open(url)?;
        Self::over(stream, url, role, signed)
    }

    /// Says hello on a connection that is there; `url` is what is asked for.
    pub fn over(stream: TcpStream, url: &str, role: ClientRole, signed: bool) -> Result<Self> {
        let target = Target::parse(url).with_context(|| format!("{url} is no RTMP URL"))?;
        let settings =
            ClientSettings { tc_url: target.tc_url, app: target.app, stream: target.stream, role, signed, chunks: ChunkLimits::default() };
        let mut client = Self { stream, session: ClientSession::new(settings, 7) };
        client.flush()?;
        Ok(client)
    }

    /// Connects and waits until the publish or play has started.
    pub fn start(url: &str, role: ClientRole) -> Result<Self> {
        let mut client = Self::connect(url, role)?;
        client.wait_started().with_context(|| url.to_owned())?;
        Ok(client)
    }

    /// Publishes.
    pub fn publish(url: &str) -> Result<Self> {
        Self::start(url, ClientRole::Publish)
    }

    /// Waits until the server says that it has started.
    pub fn wait_started(&mut self) -> Result<()> {
        match self.wait(|output| matches!(output, ClientOutput::Started | ClientOutput::Refused { .. }))? {
            ClientOutput::Refused { code, description } => bail!("refused: {code} {description}"),
            _ => Ok(()),
        }
    }

    /// Waits for an output that fits; others are dropped.
    pub fn wait(&mut self, fits: impl Fn(&ClientOutput) -> bool) -> Result<ClientOutput> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(output) = self.next(Duration::from_millis(200))?
                && fits(&output)
            {
                return Ok(output);
            }
        }
        bail!("the server did not answer in {PATIENCE:?}")
    }

    /// The next output, if one comes within the time.
    pub fn next(&mut self, within: Duration) -> Result<Option<ClientOutput>> {
        if let Some(output) = self.session.poll_output() {
            return Ok(Some(output));
        }
        let bytes = read_some(&mut self.stream, within)?;
        self.session.handle_input(&bytes)?;
        self.flush()?;
        Ok(self.session.poll_output())
    }

    /// Sends a record.
    pub fn push(&mut self, record: &Record) -> Result<()> {
        self.session.push_media(record.kind, record.timestamp_ms, &record.payload);
        self.flush()
    }

    /// Unpublishes or stops playing; the connection stays open.
    pub fn end(&mut self) -> Result<()> {
        self.session.end();
        self.flush()
    }

    /// Publishes another stream on the same connection.
    pub fn publish_again(&mut self, name: &str) -> Result<()> {
        self.session.publish_again(name);
        self.flush()?;
        self.wait_started()
    }

    fn flush(&mut self) -> Result<()> {
        let bytes = self.session.take_outbox();
        self.stream.write_all(&bytes).context("writing to the server")
    }
}

/// One message, and how it is to be cut into chunks.
#[derive(Clone, Debug)]
pub struct RawMessage {
    /// The chunk stream.
    pub chunk_stream: u16,
    /// The message's type.
    pub message_type: u8,
    /// The message stream.
    pub message_stream: u32,
    /// Milliseconds.
    pub timestamp_ms: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl RawMessage {
    /// A command or data message of AMF0 values.
    pub fn amf0(message_type: u8, message_stream: u32, values: &[Value]) -> Self {
        let mut payload = Vec::new();
        for value in values {
            amf0::encode(&mut payload, value);
        }
        Self { chunk_stream: 3, message_type, message_stream, timestamp_ms: 0, payload }
    }

    /// A control message of one number (Set Chunk Size, Abort).
    pub fn control(message_type: u8, value: u32) -> Self {
        Self { chunk_stream: 2, message_type, message_stream: 0, timestamp_ms: 0, payload: value.to_be_bytes().to_vec() }
    }

    /// A record as media of message stream 1, on a chunk stream for its kind.
    pub fn media(record: &Record) -> Self {
        let chunk_stream = match record.kind {
            RecordKind::Audio => 4,
            RecordKind::Video => 6,
            RecordKind::Data => 5,
        };
        let (message_type, timestamp_ms) = (record.kind as u8, record.timestamp_ms);
        Self { chunk_stream, message_type, message_stream: 1, timestamp_ms, payload: record.payload.clone() }
    }

    /// The message's chunks: a format 0 header, then format 3 continuations that repeat an extended timestamp.
    pub fn chunks(&self, chunk_bytes: usize) -> Vec<Vec<u8>> {
        let extended = self.timestamp_ms >= 0x00ff_ffff;
        let extension = if extended { self.timestamp_ms.to_be_bytes().to_vec() } else { Vec::new() };
        let [_, t0, t1, t2] = self.timestamp_ms.min(0x00ff_ffff).to_be_bytes();
        let [_, s0, s1, s2] = (self.payload.len() as u32).to_be_bytes();
        let mut first = basic_header(0, self.chunk_stream);
        first.extend([t0, t1, t2, s0, s1, s2, self.message_type]);
        first.extend(self.message_stream.to_le_bytes());
        first.extend(&extension);
        let mut pieces = self.payload.chunks(chunk_bytes);
        first.extend(pieces.next().unwrap_or_default());
        let rest = pieces.map(|piece| [basic_header(3, self.chunk_stream), extension.clone(), piece.to_vec()].concat());
        std::iter::once(first).chain(rest).collect()
    }

    /// All its chunks in one run of bytes.
    pub fn bytes(&self, chunk_bytes: usize) -> Vec<u8> {
        self.chunks(chunk_bytes).concat()
    }
}

/// The basic header of a chunk (RTMP §5.3.1.1), in one, two or three bytes.
pub fn basic_header(format: u8, chunk_stream: u16) -> Vec<u8> {
    let format = format << 6;
    match chunk_stream {
        2..=63 => vec![format | chunk_stream as u8],
        64..=319 => vec![format, (chunk_stream - 64) as u8],
        _ => vec![format | 1, ((chunk_stream - 64) & 0xff) as u8, ((chunk_stream - 64) >> 8) as u8],
    }
}

/// A connection that has done the simple handshake, and says what the test writes.
pub struct RawRtmp {
    /// The connection.
    pub stream: TcpStream,
    reader: ChunkReader,
    unread: Vec<u8>,
    messages: VecDeque<Message>,
}

impl RawRtmp {
    /// Connects and shakes hands.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[&[3][..], &[0; HANDSHAKE_BYTES]].concat())?;
        let mut answer = vec![0; 1 + 2 * HANDSHAKE_BYTES];
        stream.read_exact(&mut answer)?;
        stream.write_all(&answer[1..=HANDSHAKE_BYTES])?;
        Ok(Self { stream, reader: ChunkReader::new(ChunkLimits::default(), 0), unread: Vec::new(), messages: VecDeque::new() })
    }

    /// Writes bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("writing to the server")
    }

    /// Writes a message in chunks of 128 bytes, which a connection begins with.
    pub fn send(&mut self, message: &RawMessage) -> Result<()> {
        self.write(&message.bytes(128))
    }

    /// What encoders call before they publish: `connect`, `createStream`, `publish`.
    pub fn publish_calls(address: SocketAddr, app: &str, name: &str) -> Vec<RawMessage> {
        let object = Value::Object(vec![("app".into(), app.into()), ("tcUrl".into(), format!("rtmp://{address}/{app}").as_str().into())]);
        let command = message_type::COMMAND_AMF0;
        vec![
            RawMessage::amf0(command, 0, &["connect".into(), 1.0.into(), object]),
            RawMessage::amf0(command, 0, &["createStream".into(), 2.0.into(), Value::Null]),
            RawMessage::amf0(command, 1, &["publish".into(), 3.0.into(), Value::Null, name.into(), "live".into()]),
        ]
    }

    /// Connects and publishes; waits for the start.
    pub fn publish(address: SocketAddr, name: &str) -> Result<Self> {
        let mut raw = Self::connect(address)?;
        for call in Self::publish_calls(address, "live", name) {
            raw.send(&call)?;
        }
        raw.wait_status("NetStream.Publish.Start")?;
        Ok(raw)
    }

    /// The next message, if one comes within the time.
    pub fn next(&mut self, within: Duration) -> Result<Option<Message>> {
        if let Some(message) = self.messages.pop_front() {
            return Ok(Some(message));
        }
        let bytes = read_some(&mut self.stream, within)?;
        self.unread.extend(bytes);
        while !self.unread.is_empty() {
            let (used, message) = self.reader.read(&self.unread)?;
            self.unread.drain(..used);
            self.messages.extend(message.clone());
            if used == 0 && message.is_none() {
                break;
            }
        }
        Ok(self.messages.pop_front())
    }

    /// Waits for a command; gives its values.
    pub fn wait_command(&mut self, fits: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(values) = self.next(Duration::from_millis(200))?.and_then(|message| command(&message))
                && fits(&values)
            {
                return Ok(values);
            }
        }
        bail!("the command did not come in {PATIENCE:?}")
    }

    /// Waits for an `onStatus` with this code.
    pub fn wait_status(&mut self, code: &str) -> Result<()> {
        let values = self.wait_command(|values| status_code(values).is_some())?;
        ensure!(status_code(&values) == Some(code), "wanted {code}, got {values:?}");
        Ok(())
    }
}

/// The values of an AMF0 command.
pub fn command(message: &Message) -> Option<Vec<Value>> {
    (message.message_type == message_type::COMMAND_AMF0).then(|| amf0::decode(&message.payload, 32).ok()).flatten()
}

/// The code of an `onStatus`.
pub fn status_code(values: &[Value]) -> Option<&str> {
    (values.first()?.as_str()? == "onStatus").then(|| values.last()?.member("code")?.as_str()).flatten()
}

/// A publisher without an encoder: a small keyframe of a codec that nobody decodes, 25 times a second, until it is dropped.
pub struct Pump {
    thread: Option<JoinHandle<Result<()>>>,
    stop: Arc<AtomicBool>,
}

impl Pump {
    /// What the frames of a pump begin with: a keyframe of FLV's codec 2.
    pub const FRAME: u8 = 0x12;

    /// Publishes frames that all carry `mark`.
    pub fn start(url: &str, mark: &str) -> Result<Self> {
        let mut client = RtmpClient::publish(url)?;
        let payload = [&[Self::FRAME][..], mark.as_bytes()].concat();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let started = Instant::now();
            for frame in 0u32.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                client.push(&Record { kind: RecordKind::Video, timestamp_ms: frame * 40, payload: payload.clone() })?;
                // The frame rate, not a wait for something.
                std::thread::sleep((started + Duration::from_millis(40) * (frame + 1)).saturating_duration_since(Instant::now()));
            }
            Ok(())
        });
        Ok(Self { thread: Some(thread), stop })
    }

    /// Whether the server still takes what it sends.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
