//! How SRS processes are: asked of their API once in a while, by a thread of its own. The caller hears of it by a doorbell.

use super::each::for_each_process;
use super::fetch::{Ask, fetch};
use super::ids;
use crate::jobs::Jobs;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What a process may take for all that it is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer of a process.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Streams of one process that are looked at.
const MAX_STREAMS: usize = 10_000;

/// What was seen of one process.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Its number.
    pub process: u16,
    /// How it is, or what is wrong with it.
    pub answered: Result<Load, String>,
}

/// How a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Of one CPU, in thousandths; SRS says it in hundredths.
    pub cpu_permille: u32,
    /// The most memory that it has had, in KiB: SRS says no other figure here.
    pub memory_kib: u64,
    /// At most 10,000.
    pub streams: Vec<LiveStream>,
}

/// A stream that a process knows, whether it is published now or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveStream {
    /// The vhost's name.
    pub vhost: String,
    /// The app.
    pub app: String,
    /// The stream's own name.
    pub name: String,
    /// Publisher and viewers.
    pub clients: u64,
    /// Received, in kbit/s over 30 s.
    pub kbps_in: u64,
    /// Sent, in kbit/s over 30 s.
    pub kbps_out: u64,
    /// Video frames so far.
    pub frames: u64,
    /// Received so far.
    pub bytes_in: u64,
    /// Sent so far.
    pub bytes_out: u64,
    /// The video codec, as SRS calls it.
    pub video: Option<String>,
    /// The audio codec, likewise.
    pub audio: Option<String>,
    /// Somebody publishes it.
    pub publishing: bool,
}

enum Told {
    Seen(Seen),
    Over,
}

/// See the module's head.
pub struct Watch {
    authorization: Option<String>,
    jobs: Jobs<Told>,
    under_way: bool,
}

impl Watch {
    /// One that has looked at nothing yet; `authorization` is what the API wants to be told.
    pub fn new(authorization: Option<String>) -> io::Result<Self> {
        Ok(Self { authorization, jobs: Jobs::new(1)?, under_way: false })
    }

    /// Starts a round over these processes, by number and API address. False: the last one is not over, or there is no thread for it.
    pub fn look(&mut self, processes: Vec<(u16, SocketAddr)>) -> bool {
        if self.under_way {
            return false;
        }
        let authorization = self.authorization.clone();
        self.under_way = self.jobs.start(1, move |outlet| {
            let seen = for_each_process(&processes, |process, address| {
                outlet.send(Told::Seen(Seen { process, answered: load(address, authorization.as_deref()) }));
            });
            for (process, _) in seen.into_iter().filter(|(_, asked)| asked.is_none()) {
                outlet.send(Told::Seen(Seen { process, answered: Err("there was no thread to ask it".to_owned()) }));
            }
            outlet.send(Told::Over);
        });
        self.under_way
    }

    /// The next that was seen, in the order of the answers. The descriptor is quiet from then on: take all.
    pub fn poll(&mut self) -> Option<Seen> {
        loop {
            match self.jobs.poll()? {
                Told::Seen(seen) => return Some(seen),
                Told::Over => self.under_way = false,
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.jobs.as_fd()
    }
}

fn load(address: SocketAddr, authorization: Option<&str>) -> Result<Load, String> {
    let deadline = Instant::now() + PATIENCE;
    let ask = |target: &str| -> Result<Value, String> {
        let answer = fetch(address, &Ask::get(target, authorization, None), deadline, MAX_ANSWER_BYTES)?;
        if answer.head.status != 200 {
            return Err(format!("answered {target} with status {}", answer.head.status));
        }
        let body: Value = serde_json::from_slice(&answer.body).map_err(|_| format!("answered {target} with something that is not JSON"))?;
        match body["code"].as_i64() {
            Some(0) => Ok(body),
            _ => Err(format!("answered {target} with code {}", body["code"])),
        }
    };
    let streams = ask(&format!("/api/v1/streams/?start=0&count={MAX_STREAMS}"))?;
    // After the streams: the vhost of a stream that was new then is there now.
    read(&ask("/api/v1/summaries")?, &ask("/api/v1/vhosts/")?, &streams)
}

/// From SRS's answers.
pub(super) fn read(summaries: &Value, vhosts: &Value, streams: &Value) -> Result<Load, String> {
    let own = &summaries["data"]["self"];
    let (Some(cpu), Some(memory_kib)) = (own["cpu_percent"].as_f64(), own["mem_kbyte"].as_u64()) else {
        return Err("its summaries say nothing of CPU and memory".to_owned());
    };
    let (Some(vhosts), Some(streams)) = (vhosts["vhosts"].as_array(), streams["streams"].as_array()) else {
        return Err("it lists no vhosts and streams".to_owned());
    };
    let names = vhosts.iter().filter_map(|vhost| Some((ids::text(&vhost["id"])?, vhost["name"].as_str()?))).collect();
    let streams = streams.iter().take(MAX_STREAMS).filter_map(|stream| live_stream(stream, &names)).collect();
    // Its `percent` is a fraction.
    Ok(Load { cpu_permille: (cpu * 1000.0).round() as u32, memory_kib, streams })
}

fn live_stream(stream: &Value, vhosts: &HashMap<String, &str>) -> Option<LiveStream> {
    let text = |field: &str| stream[field].as_str().map(str::to_owned);
    let number = |field: &Value| field.as_u64().unwrap_or(0);
    Some(LiveStream {
        vhost: (*vhosts.get(&ids::text(&stream["vhost"])?)?).to_owned(),
        app: text("app")?,
        name: text("name")?,
        clients: number(&stream["clients"]),
        kbps_in: number(&stream["kbps"]["recv_30s"]),
        kbps_out: number(&stream["kbps"]["send_30s"]),
        frames: number(&stream["frames"]),
        bytes_in: number(&stream["recv_bytes"]),
        bytes_out: number(&stream["send_bytes"]),
        video: stream["video"]["codec"].as_str().map(str::to_owned),
        audio: stream["audio"]["codec"].as_str().map(str::to_owned),
        publishing: stream["publish"]["active"].as_bool().unwrap_or(false),
    })
}
