//! Other servers: Debian's nginx with its RTMP module, and ones by hand that do what no proper server does.

use crate::tools::eventually;
use crate::viewer::Record;
use anyhow::{Context, Result};
use braidcast_media::RecordKind;
use braidcast_protocols::rtmp::ChunkLimits;
use braidcast_protocols::rtmp::amf0::{self, Value};
use braidcast_protocols::rtmp::chunk::{ChunkReader, Message};
use braidcast_protocols::rtmp::message_type;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// Where Debian puts the module.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";

/// A running nginx that takes and gives streams of the application `live`.
pub struct Nginx {
    child: Option<Child>,
    config: PathBuf,
    directory: TempDir,
    /// Where it speaks RTMP.
    pub address: SocketAddr,
}

impl Nginx {
    /// Whether it can be had here; tests say so when they skip.
    pub fn is_there() -> bool {
        Path::new(MODULE).is_file()
    }

    /// Starts one.
    pub fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("braidcast-nginx-").tempdir()?;
        let address = SocketAddr::from(([127, 0, 0, 1], crate::server::free_ports(1)?));
        let config = directory.path().join("nginx.conf");
        let root = directory.path().display();
        let user = if crate::tools::is_root() { "user root;" } else { "" };
        let text = format!(
            "load_module {MODULE};\n{user}\ndaemon off;\nworker_processes 1;\npid {root}/pid;\nerror_log {root}/log warn;\n\
             events {{ worker_connections 256; }}\nrtmp {{ access_log off; server {{ listen {address}; application live {{ live on; }} }} }}\n"
        );
        std::fs::write(&config, text)?;
        let mut nginx = Self { child: None, config, directory, address };
        nginx.start_again()?;
        Ok(nginx)
    }

    /// Starts it on the same port after [`Nginx::kill`].
    pub fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&self.config).arg("-p").arg(self.directory.path()).arg("-e").arg(self.directory.path().join("early.log"));
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("starting nginx")?);
        let there = || TcpStream::connect_timeout(&self.address, Duration::from_millis(200)).is_ok().then_some(());
        eventually(Duration::from_secs(20), there).context("nginx does not listen")
    }

    /// Ends it and its connections.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The master ends its worker; SIGKILL would leave that.
            let _ = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status();
            let _ = child.wait();
        }
    }

    /// `rtmp://…/live/NAME`.
    pub fn rtmp(&self, name: &str) -> String {
        format!("rtmp://{}/live/{name}", self.address)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Bytes of each handshake packet (RTMP §5.2.3).
const HANDSHAKE_BYTES: usize = 1536;

/// What a server by hand was told.
#[derive(Default)]
struct Told {
    records: Vec<(u32, Record)>,
    commands: Vec<String>,
}

/// An RTMP server by hand for one publisher. Its thread ends with the connection, or with the test.
pub struct Hand {
    /// Where it listens.
    pub address: SocketAddr,
    told: Arc<Mutex<Told>>,
}

impl Hand {
    /// Listens; it will call the message stream `message_stream`, and stop reading after so many bytes, its connection left open.
    pub fn start(message_stream: u32, stop_after: Option<usize>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, told) = (listener.local_addr()?, Arc::new(Mutex::new(Told::default())));
        let shared = told.clone();
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                // What goes wrong shows in what the test finds it was told.
                let _ = serve(socket, message_stream, stop_after, &shared);
            }
        });
        Ok(Self { address, told })
    }

    /// The media so far, each with its message stream.
    pub fn records(&self) -> Vec<(u32, Record)> {
        self.told.lock().expect("no server panics").records.clone()
    }

    /// The names of the commands so far.
    pub fn commands(&self) -> Vec<String> {
        self.told.lock().expect("no server panics").commands.clone()
    }
}

fn serve(mut socket: TcpStream, message_stream: u32, stop_after: Option<usize>, told: &Mutex<Told>) -> Result<()> {
    let mut hello = vec![0; 1 + HANDSHAKE_BYTES];
    socket.read_exact(&mut hello)?;
    socket.write_all(&[&[3][..], &[0; HANDSHAKE_BYTES], &hello[1..]].concat())?;
    socket.read_exact(&mut hello[1..])?;
    let mut reader = ChunkReader::new(ChunkLimits::default(), 0);
    let (mut buffer, mut read) = (vec![0; 64 << 10], 0);
    loop {
        if stop_after.is_some_and(|most| read >= most) {
            std::thread::sleep(Duration::from_secs(600));
        }
        let bytes = socket.read(&mut buffer)?;
        read += bytes;
        anyhow::ensure!(bytes > 0, "closed");
        let mut rest = &buffer[..bytes];
        loop {
            let (used, message) = reader.read(rest)?;
            rest = &rest[used..];
            let Some(message) = message else { break };
            take(&mut socket, message, message_stream, told)?;
        }
    }
}

fn take(socket: &mut TcpStream, message: Message, message_stream: u32, told: &Mutex<Told>) -> Result<()> {
    if let Some(kind) = RecordKind::from_tag_type(message.message_type) {
        let Message { message_stream, timestamp_ms, payload, .. } = message;
        told.lock().expect("no server panics").records.push((message_stream, Record { kind, timestamp_ms, payload }));
        return Ok(());
    }
    if message.message_type != message_type::COMMAND_AMF0 {
        return Ok(());
    }
    let values = amf0::decode(&message.payload, 32)?;
    let name = values.first().and_then(Value::as_str).unwrap_or_default().to_owned();
    let transaction = values.get(1).and_then(Value::as_number).unwrap_or(0.0);
    match name.as_str() {
        "connect" => say(socket, "_result", transaction, &[Value::Null, Value::Null])?,
        "createStream" => say(socket, "_result", transaction, &[Value::Null, f64::from(message_stream).into()])?,
        "publish" => {
            let started = Value::Object(vec![("level".into(), "status".into()), ("code".into(), "NetStream.Publish.Start".into())]);
            say(socket, "onStatus", 0.0, &[Value::Null, started])?;
        }
        _ => {}
    }
    told.lock().expect("no server panics").commands.push(name);
    Ok(())
}

/// Sends a command, in one chunk of at most 128 bytes.
fn say(socket: &mut TcpStream, name: &str, transaction: f64, values: &[Value]) -> Result<()> {
    let mut payload = Vec::new();
    amf0::encode_str(&mut payload, name);
    amf0::encode(&mut payload, &transaction.into());
    values.iter().for_each(|value| amf0::encode(&mut payload, value));
    anyhow::ensure!(payload.len() <= 128, "too long for a chunk");
    let length = payload.len() as u8;
    socket.write_all(&[&[3, 0, 0, 0, 0, 0, length, message_type::COMMAND_AMF0, 0, 0, 0, 0][..], &payload].concat())?;
    Ok(())
}

/// An HTTP server that gives every request the same answer, made of its own address, and closes. Its thread ends with the test.
pub fn answer_once(answer: impl Fn(SocketAddr) -> String + Send + 'static) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(answer(address).as_bytes());
        }
    });
    Ok(address)
}
