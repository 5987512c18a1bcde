//! Who is connected, and what is published: SRS's statistics.

use braidcast_media::StreamKey;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// For so long SRS remembers a stream that nobody publishes or plays; who publishes it later begins at segment 0.
const REMEMBERED: Duration = Duration::from_secs(3);

/// What a client does, by SRS's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Publishes by RTMP.
    Publish,
    /// Plays by RTMP.
    Play,
    /// Plays by HTTP-FLV.
    Flv,
}

impl Kind {
    /// SRS's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "fmle-publish",
            Self::Play => "rtmp-play",
            Self::Flv => "flv-play",
        }
    }
}

/// Bytes of a connection.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Sent to the client.
    pub sent: AtomicU64,
    /// Received from it.
    pub received: AtomicU64,
}

/// Somebody who publishes or plays.
#[derive(Debug)]
pub struct Client {
    /// SRS's ids are words.
    pub id: String,
    /// Whose connection it is said to be.
    pub ip: IpAddr,
    /// Which stream.
    pub key: StreamKey,
    /// What the client called.
    pub tc_url: String,
    /// What it does.
    pub kind: Kind,
    /// Since when.
    pub since: Instant,
    /// How much.
    pub traffic: Arc<Traffic>,
    /// To end it.
    pub socket: TcpStream,
}

/// What is said of a stream's media.
#[derive(Clone, Debug, Default)]
pub struct Media {
    /// Profile and level of H.264, once it was configured.
    pub avc: Option<(u8, u8)>,
    /// Width and height, of the metadata.
    pub size: (u64, u64),
    /// Whether there is AAC.
    pub aac: bool,
}

/// A stream that is published, or was until a moment ago.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its name.
    pub key: StreamKey,
    /// SRS's ids are words.
    pub id: String,
    /// How many publishers have come since it is remembered, and since this began.
    pub publish: u32,
    /// The same for the time since it was forgotten last.
    pub life: u32,
    /// What it carries.
    pub media: Media,
    last_used: Instant,
}

#[derive(Debug, Default)]
struct Table {
    clients: Vec<Client>,
    streams: Vec<Stream>,
    next: u32,
}

/// Eight digits for a number of this process.
fn word(number: u32) -> String {
    format!("{:08x}", std::process::id().wrapping_mul(0x1_0001).wrapping_add(number).wrapping_mul(0x9e37_79b1))
}

/// All of them.
#[derive(Debug, Default)]
pub struct Clients(Mutex<Table>);

impl Clients {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("nobody panics with the table in hand")
    }

    /// An id that no other process of this server's has. SRS's ids are words.
    pub fn new_id(&self) -> String {
        let mut table = self.table();
        table.next += 1;
        word(table.next)
    }

    /// Enters a client; `false` for a publisher of a stream that is being published.
    pub fn enter(&self, client: Client) -> bool {
        let mut table = self.table();
        let mut same = table.clients.iter().filter(|other| other.key == client.key);
        if client.kind == Kind::Publish && same.clone().any(|other| other.kind == Kind::Publish) {
            return false;
        }
        let used = same.next().is_some();
        table.next += 1;
        let (number, now) = (table.next, Instant::now());
        let at = table.streams.iter().position(|stream| stream.key == client.key).unwrap_or_else(|| {
            let (key, id) = (client.key.clone(), format!("vid-{}", word(number)));
            table.streams.push(Stream { key, id, publish: 0, life: 0, media: Media::default(), last_used: now });
            table.streams.len() - 1
        });
        let stream = &mut table.streams[at];
        if !used && now.duration_since(stream.last_used) > REMEMBERED {
            stream.life = number;
        }
        stream.last_used = now;
        if client.kind == Kind::Publish {
            (stream.publish, stream.media) = (number, Media::default());
        }
        table.clients.push(client);
        true
    }

    /// Strikes a client off; with a publisher go those who play by HTTP-FLV.
    pub fn leave(&self, id: &str) {
        let mut table = self.table();
        let Some(at) = table.clients.iter().position(|client| client.id == id) else { return };
        let gone = table.clients.swap_remove(at);
        if let Some(stream) = table.streams.iter_mut().find(|stream| stream.key == gone.key) {
            stream.last_used = Instant::now();
        }
        if gone.kind == Kind::Publish {
            for client in table.clients.iter().filter(|client| client.kind == Kind::Flv && client.key == gone.key) {
                let _ = client.socket.shutdown(Shutdown::Both);
            }
        }
    }

    /// Closes a client's connection; `false` if there is no such client.
    pub fn kick(&self, id: &str) -> bool {
        let table = self.table();
        let client = table.clients.iter().find(|client| client.id == id);
        client.is_some_and(|client| client.socket.shutdown(Shutdown::Both).is_ok())
    }

    /// Notes what a publisher's stream carries.
    pub fn describe(&self, key: &StreamKey, change: impl FnOnce(&mut Media)) {
        if let Some(stream) = self.table().streams.iter_mut().find(|stream| stream.key == *key) {
            change(&mut stream.media);
        }
    }

    /// The clients, each with its stream.
    pub fn each<T>(&self, mut of: impl FnMut(&Client, &Stream) -> T) -> Vec<T> {
        let table = self.table();
        let stream = |client: &Client| table.streams.iter().find(|stream| stream.key == client.key);
        table.clients.iter().filter_map(|client| Some(of(client, stream(client)?))).collect()
    }

    /// The streams that anybody uses, or used a moment ago.
    pub fn streams(&self) -> Vec<Stream> {
        let table = self.table();
        let used =
            |stream: &Stream| stream.last_used.elapsed() <= REMEMBERED || table.clients.iter().any(|client| client.key == stream.key);
        table.streams.iter().filter(|stream| used(stream)).cloned().collect()
    }

    /// Bytes received and sent for a stream's clients of now.
    pub fn traffic(&self, key: Option<&StreamKey>) -> (u64, u64) {
        let table = self.table();
        let theirs = table.clients.iter().filter(|client| key.is_none_or(|key| client.key == *key));
        theirs.fold((0, 0), |(received, sent), client| {
            let traffic = &client.traffic;
            (received + traffic.received.load(Ordering::Relaxed), sent + traffic.sent.load(Ordering::Relaxed))
        })
    }
}
