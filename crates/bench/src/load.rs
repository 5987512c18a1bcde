//! One load run: publish, connect viewers, warm up, measure a steady window, check that every verified frame arrived.
//!
//! One thread, one epoll. The server's CPU and memory are read from `/proc` by this same thread at the very moments at
//! which the window begins and ends. It says what happened and judges nothing.

use crate::flame::Recording;
use crate::process::{self, Interrupt, Memory, Process};
use crate::progress::Progress;
use crate::publisher::Publisher;
use crate::socket::{self, Poller, Readiness};
use crate::source::Shape;
use crate::verify::Faults;
use crate::viewer::{Observations, Protocol, Target, Viewer};
use anyhow::Context;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What is published, by whom.
#[derive(Clone, Debug)]
pub struct PublishPlan {
    /// The server's RTMP address.
    pub address: SocketAddr,
    /// Without handshake or commands: the server only takes bytes in.
    pub plain: bool,
    /// One stream each, named after the plan's stream; the first has exactly that name.
    pub publishers: usize,
}

/// Who watches.
#[derive(Clone, Debug)]
pub struct WatchPlan {
    /// How they connect.
    pub target: Target,
    /// How many in all.
    pub viewers: usize,
    /// How many of them check every frame.
    pub verified: usize,
    /// What they call the stream.
    pub stream: String,
    /// They watch so many of the streams that are published, in turn.
    pub streams: usize,
}

/// When the window begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Just before.
    Begin,
    /// Just after.
    End,
}

/// The name of one of several streams: the first has it as it is, the others a number before what follows a question mark.
fn numbered(stream: &str, index: usize) -> String {
    match stream.split_once('?') {
        _ if index == 0 => stream.to_owned(),
        Some((name, query)) => format!("{name}-{index}?{query}"),
        None => format!("{stream}-{index}"),
    }
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// The application of all streams.
    pub app: String,
    /// The stream's name.
    pub stream: String,
    /// What each stream looks like.
    pub shape: Shape,
    /// `None`: the server makes the stream itself.
    pub publish: Option<PublishPlan>,
    /// Parts of the audience; none: nobody watches.
    pub watch: Vec<WatchPlan>,
    /// From the first frame to the first viewer.
    pub settle: Duration,
    /// From the last viewer's first byte to the window.
    pub warm_up: Duration,
    /// How long is measured.
    pub window: Duration,
    /// The process at the root of the server; `None`: nothing is known of its CPU and memory.
    pub server: Option<u32>,
    /// The root of processes that serve the server: neither its CPU nor foreign.
    pub behind: Option<u32>,
    /// Whether viewers sleep until something arrives. On one machine a sender pays for waking whoever sleeps, on a network it never does.
    pub sleeping: bool,
    /// Show on a terminal how far it is.
    pub tell: bool,
    /// Record where the server's CPU goes in the window, and draw it into this file.
    pub flame: Option<PathBuf>,
}

impl LoadPlan {
    fn viewers(&self) -> usize {
        self.watch.iter().map(|watch| watch.viewers).sum()
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct LoadReport {
    /// Length of the measured window in seconds.
    pub window_s: f64,
    /// Bytes that viewers received in the window, as read from their sockets.
    pub delivered_bytes: u64,
    /// Delivered bytes over what the stream's rate times viewers and window asks for.
    pub delivered_share: f64,
    /// The worst-served viewer's part of the rate.
    pub least_share: f64,
    /// Bytes that publishers sent in the window.
    pub published_bytes: u64,
    /// CPU that all processes of the server used in the window; `None` if it is not ours to see.
    pub server_cpu_s: Option<f64>,
    /// CPU that this generator needed in the window: staying awake is no need.
    pub load_cpu_s: f64,
    /// Cores that were busy with anything else in the window: much above 0, the machine was not ours alone.
    pub foreign_cores: f64,
    /// The latest that a frame was published after it was due, in milliseconds.
    pub publish_late_ms: f64,
    /// Milliseconds from a frame's stamp until a verified viewer had all of it: median.
    pub latency_p50_ms: Option<f64>,
    /// The same, 99th percentile.
    pub latency_p99_ms: Option<f64>,
    /// The server's memory before viewers (or publishers, if there are no viewers) came.
    pub memory_before: Option<Memory>,
    /// The same at the end of the window.
    pub memory_after: Option<Memory>,
    /// Viewers (or publishers) that the difference is divided by.
    pub memory_clients: u64,
    /// Frames that verified viewers judged.
    pub verified_frames: u64,
    /// What verified viewers found wrong.
    pub faults: Faults,
    /// Viewers that had got nothing when the window began.
    pub unanswered: u64,
    /// Viewers whose connections ended before the run did.
    pub lost: u64,
    /// Why the first of them did.
    pub first_loss: Option<String>,
    /// The same of each part of the audience, if there are several.
    #[serde(default)]
    pub parts: Vec<PartReport>,
}

/// How one part of a mixed audience was served.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct PartReport {
    /// How it connected.
    pub protocol: Protocol,
    /// How many they were.
    pub viewers: u64,
    /// As in [`LoadReport`], and so on.
    pub delivered_share: f64,
    /// The worst-served viewer's part of the rate.
    pub least_share: f64,
    /// Median latency in milliseconds.
    pub latency_p50_ms: Option<f64>,
    /// 99th percentile.
    pub latency_p99_ms: Option<f64>,
    /// Frames that its verified viewers judged.
    pub verified_frames: u64,
    /// What they found wrong.
    pub faults: Faults,
}

/// A server that needs longer than this for all its clients is measured with those it has.
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// What each client adds to it: each brings a server the work of a whole group of pictures.
const CONNECT_EACH: Duration = Duration::from_millis(3);
/// Connections that may be on their way at once: a burst beyond a listen queue would measure SYN retries.
const MAX_CONNECTING: usize = 64;
const SHOW_EVERY: Duration = Duration::from_millis(200);
const DRAIN_DEADLINE: Duration = Duration::from_secs(3);
/// A viewer of a stream that we do not publish may be this much behind at the end without having missed anything.
const TOLERATED_LAG: Duration = Duration::from_secs(1);
const SCRATCH_BYTES: usize = 1 << 20;
/// Descriptors beyond one per connection.
const SPARE_DESCRIPTORS: u64 = 64;

/// Runs a plan from beginning to end.
pub fn run(plan: &LoadPlan, interrupt: &Interrupt) -> anyhow::Result<LoadReport> {
    run_with(plan, interrupt, |_| Ok(()))
}

/// As [`run`]; `look` is called outside of the window, at both its ends.
pub fn run_with(plan: &LoadPlan, interrupt: &Interrupt, mut look: impl FnMut(Moment) -> anyhow::Result<()>) -> anyhow::Result<LoadReport> {
    plan.shape.check()?;
    let viewers = plan.viewers();
    let publishers = plan.publish.as_ref().map_or(0, |publish| publish.publishers);
    socket::raise_descriptor_limit((viewers + publishers) as u64 + SPARE_DESCRIPTORS)?;
    let mut load = Load::new(plan, interrupt)?;
    let mut report = LoadReport::default();
    if viewers == 0 {
        report.memory_before = load.memory()?;
    }
    load.publish()?;
    load.drive(plan.settle, |_| false)?;
    if viewers > 0 {
        report.memory_before = load.memory()?;
    }
    load.connect_viewers()?;
    load.awake = viewers > 0 && !plan.sleeping;
    load.drive(plan.warm_up, |_| false)?;
    look(Moment::Begin)?;
    load.measure(&mut report)?;
    look(Moment::End)?;
    load.awake = false;
    report.memory_after = load.memory()?;
    report.memory_clients = if viewers > 0 { viewers } else { publishers } as u64;
    load.finish(&mut report)?;
    if let (Some(recording), Some(path)) = (load.recording.take(), &plan.flame) {
        recording.draw(path)?;
    }
    Ok(report)
}

/// The clock, and the CPU used so far, in seconds.
struct CpuReading {
    clock_s: f64,
    server_s: f64,
    behind_s: f64,
    own_s: f64,
    machine_s: f64,
}

impl CpuReading {
    fn take(server: &[Process], behind: &[Process]) -> Self {
        Self {
            clock_s: socket::monotonic_ns() as f64 / 1e9,
            server_s: process::cpu_seconds(server),
            behind_s: process::cpu_seconds(behind),
            own_s: process::own_cpu_seconds(),
            machine_s: process::machine_busy_seconds(),
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            clock_s: self.clock_s - earlier.clock_s,
            server_s: self.server_s - earlier.server_s,
            behind_s: self.behind_s - earlier.behind_s,
            own_s: self.own_s - earlier.own_s,
            machine_s: self.machine_s - earlier.machine_s,
        }
    }
}

enum Client {
    Viewer(Box<Viewer>),
    Publisher(Box<Publisher>),
    Lost,
}

impl Client {
    fn is_waiting(&self) -> bool {
        match self {
            Self::Viewer(viewer) => !viewer.is_playing(),
            Self::Publisher(publisher) => !publisher.is_ready(),
            Self::Lost => false,
        }
    }
}

fn tenths(duration: Duration) -> usize {
    (duration.as_millis() / 100) as usize
}

fn connect_deadline(clients: usize) -> u64 {
    socket::monotonic_ns() + (CONNECT_DEADLINE + CONNECT_EACH * clients as u32).as_nanos() as u64
}

struct Load<'a> {
    plan: &'a LoadPlan,
    interrupt: &'a Interrupt,
    poller: Poller,
    /// Publishers first, then viewers; the token is the index.
    clients: Vec<Client>,
    publishers: usize,
    publishing: bool,
    /// Looks for events again and again instead of sleeping until there are some.
    awake: bool,
    /// How long it looked and found nothing.
    idle_ns: u64,
    scratch: Vec<u8>,
    /// Clients that have not begun to play or to publish.
    waiting: usize,
    /// One for each part of the audience.
    observations: Vec<Observations>,
    recording: Option<Recording>,
    /// In tenths of a second.
    progress: Option<Progress>,
    began_ns: u64,
    shown_ns: u64,
    publish_late_ns: u64,
    lost: u64,
    first_loss: Option<String>,
}

impl<'a> Load<'a> {
    fn new(plan: &'a LoadPlan, interrupt: &'a Interrupt) -> anyhow::Result<Self> {
        Ok(Self {
            plan,
            interrupt,
            poller: Poller::new()?,
            clients: Vec::new(),
            publishers: 0,
            publishing: false,
            awake: false,
            idle_ns: 0,
            scratch: vec![0; SCRATCH_BYTES],
            waiting: 0,
            observations: plan.watch.iter().map(|_| Observations::default()).collect(),
            recording: None,
            progress: plan.tell.then(|| Progress::new(tenths(plan.settle + plan.warm_up + plan.window))),
            began_ns: socket::monotonic_ns(),
            shown_ns: 0,
            publish_late_ns: 0,
            lost: 0,
            first_loss: None,
        })
    }

    /// Connects all publishers; their streams begin together, spread over one frame interval.
    fn publish(&mut self) -> anyhow::Result<()> {
        let Some(publish) = &self.plan.publish else { return Ok(()) };
        let deadline = connect_deadline(publish.publishers);
        self.publishers = publish.publishers;
        for index in 0..publish.publishers {
            let stream = numbered(&self.plan.stream, index);
            let publisher = Publisher::connect(publish.address, &self.plan.app, &stream, publish.plain)?;
            self.poller.add(publisher.socket(), index as u64)?;
            // What speaks no RTMP has nothing to answer.
            self.waiting += usize::from(!publisher.is_ready());
            self.clients.push(Client::Publisher(Box::new(publisher)));
            self.connect_until(deadline, MAX_CONNECTING)?;
        }
        self.connect_until(deadline, 1)?;
        let waiting = self.waiting;
        anyhow::ensure!(waiting == 0, "{waiting} publishers got no answer within {} s", CONNECT_DEADLINE.as_secs());
        let start_ns = socket::monotonic_ns() + 1_000_000;
        for (index, client) in self.clients.iter_mut().enumerate() {
            if let Client::Publisher(publisher) = client {
                let spread_ns = 1_000_000_000 / self.plan.shape.fps * index as u64 / self.publishers as u64;
                publisher.begin(start_ns + spread_ns, self.plan.shape);
            }
        }
        self.publishing = true;
        Ok(())
    }

    fn connect_viewers(&mut self) -> anyhow::Result<()> {
        let deadline = connect_deadline(self.plan.viewers());
        for watch in &self.plan.watch {
            for index in 0..watch.viewers {
                // Verified viewers are spread over the whole population: servers serve in order of arrival.
                let verified = index * watch.verified / watch.viewers != (index + 1) * watch.verified / watch.viewers;
                let viewer =
                    Viewer::connect(&watch.target, &self.plan.app, &numbered(&watch.stream, index % watch.streams.max(1)), verified)?;
                self.poller.add(viewer.socket(), self.clients.len() as u64)?;
                self.clients.push(Client::Viewer(Box::new(viewer)));
                self.waiting += 1;
                self.connect_until(deadline, MAX_CONNECTING)?;
            }
        }
        self.connect_until(deadline, 1)
    }

    /// Drives until fewer than `below` clients are on their way, or the deadline has passed.
    fn connect_until(&mut self, deadline_ns: u64, below: usize) -> anyhow::Result<()> {
        let left = Duration::from_nanos(deadline_ns.saturating_sub(socket::monotonic_ns()));
        if self.waiting >= below && !left.is_zero() {
            self.drive(left, |load| load.waiting < below)?;
        }
        Ok(())
    }

    /// The part of the audience that a viewer belongs to.
    fn part_of(&self, client: usize) -> usize {
        let mut first = self.publishers;
        let part = self.plan.watch.iter().position(|watch| {
            first += watch.viewers;
            client < first
        });
        part.unwrap_or(0)
    }

    /// Publishes and reads for `duration`, or until `enough`.
    fn drive(&mut self, duration: Duration, mut enough: impl FnMut(&Self) -> bool) -> anyhow::Result<()> {
        let end_ns = socket::monotonic_ns() + duration.as_nanos() as u64;
        let mut ready = Vec::new();
        loop {
            self.interrupt.check()?;
            let now_ns = socket::monotonic_ns();
            self.tell(now_ns);
            let due_ns = self.publish_due(now_ns)?;
            if now_ns >= end_ns || enough(self) {
                return Ok(());
            }
            // A tenth of a second at most, so that a signal is seen.
            let wait_ns = due_ns.min(end_ns).saturating_sub(socket::monotonic_ns()).min(100_000_000);
            self.poller.wait(if self.awake { Duration::ZERO } else { Duration::from_nanos(wait_ns) }, &mut ready)?;
            if self.awake && ready.is_empty() {
                self.idle_ns += socket::monotonic_ns() - now_ns;
            }
            for &event in &ready {
                self.handle(event)?;
            }
        }
    }

    /// Connecting takes as long as the server lets it: the bar counts it with the rest.
    fn tell(&mut self, now_ns: u64) {
        if now_ns < self.shown_ns + SHOW_EVERY.as_nanos() as u64 {
            return;
        }
        self.shown_ns = now_ns;
        let Some(progress) = &mut self.progress else { return };
        let (clients, waiting) = (self.clients.len(), self.waiting);
        progress.show_at(tenths(Duration::from_nanos(now_ns - self.began_ns)), &format!("{clients} connections, {waiting} still waiting"));
    }

    /// Sends every frame that is due; returns when the next one is.
    fn publish_due(&mut self, now_ns: u64) -> anyhow::Result<u64> {
        let mut next_ns = u64::MAX;
        if !self.publishing {
            return Ok(next_ns);
        }
        for index in 0..self.publishers {
            let Client::Publisher(publisher) = &mut self.clients[index] else { continue };
            match publisher.publish_due(now_ns) {
                Ok(late_ns) => {
                    self.publish_late_ns = self.publish_late_ns.max(late_ns);
                    next_ns = next_ns.min(publisher.next_due_ns());
                }
                Err(error) => self.lose(index, error)?,
            }
        }
        Ok(next_ns)
    }

    fn handle(&mut self, event: Readiness) -> anyhow::Result<()> {
        let index = event.token as usize;
        let part = self.part_of(index);
        let waited = self.clients[index].is_waiting();
        let result = match &mut self.clients[index] {
            Client::Viewer(viewer) => viewer.handle(event, &mut self.scratch, &mut self.observations[part]),
            Client::Publisher(publisher) => publisher.handle(event, &mut self.scratch),
            Client::Lost => Ok(()),
        };
        let result = result.or_else(|error| self.lose(index, error));
        self.waiting -= usize::from(waited && !self.clients[index].is_waiting());
        result
    }

    /// A viewer's end is a finding; a publisher's ends the run.
    fn lose(&mut self, index: usize, error: anyhow::Error) -> anyhow::Result<()> {
        let part = self.part_of(index);
        match std::mem::replace(&mut self.clients[index], Client::Lost) {
            Client::Viewer(viewer) => self.observations[part].retire(*viewer),
            _ => return Err(error.context("a publisher's connection ended")),
        }
        self.lost += 1;
        self.first_loss.get_or_insert_with(|| format!("{error:#}"));
        Ok(())
    }

    fn family(&self) -> Vec<Process> {
        self.plan.server.map(|root| process::descendants_without(root, &self.behind())).unwrap_or_default()
    }

    fn behind(&self) -> Vec<Process> {
        self.plan.behind.map(process::descendants).unwrap_or_default()
    }

    fn memory(&self) -> anyhow::Result<Option<Memory>> {
        self.plan.server.map(|_| Memory::of(&self.family())).transpose()
    }

    /// Of each client in order; 0 for those that are no viewers.
    fn received_bytes(&self) -> Vec<u64> {
        let of = |client: &Client| if let Client::Viewer(viewer) = client { viewer.received_bytes() } else { 0 };
        self.clients[self.publishers..].iter().map(of).collect()
    }

    fn viewers(&self) -> impl Iterator<Item = &Viewer> {
        self.clients.iter().filter_map(|client| if let Client::Viewer(viewer) = client { Some(&**viewer) } else { None })
    }

    fn published_bytes(&self) -> u64 {
        self.clients.iter().map(|client| if let Client::Publisher(publisher) = client { publisher.published_bytes() } else { 0 }).sum()
    }

    fn measure(&mut self, report: &mut LoadReport) -> anyhow::Result<()> {
        let family = self.family();
        report.unanswered = self.viewers().filter(|viewer| !viewer.is_playing()).count() as u64;
        let received = self.received_bytes();
        let published = self.published_bytes();
        self.publish_late_ns = 0;
        self.idle_ns = 0;
        self.observations.iter_mut().for_each(|part| part.measure(true));
        self.recording = self.plan.flame.is_some().then(|| Recording::start(&family)).transpose()?;
        let behind = self.behind();
        let before = CpuReading::take(&family, &behind);
        self.drive(self.plan.window, |_| false)?;
        let spent = CpuReading::take(&family, &behind).since(&before);
        self.observations.iter_mut().for_each(|part| part.measure(false));
        if let Some(recording) = &mut self.recording {
            recording.stop()?;
        }
        anyhow::ensure!(family == self.family(), "processes of the server ended or were started within the window");

        report.window_s = spent.clock_s;
        report.server_cpu_s = self.plan.server.map(|_| spent.server_s);
        report.load_cpu_s = (spent.own_s - self.idle_ns as f64 / 1e9).max(0.0);
        report.foreign_cores = ((spent.machine_s - spent.server_s - spent.behind_s - spent.own_s) / spent.clock_s).max(0.0);
        report.published_bytes = self.published_bytes() - published;
        report.publish_late_ms = self.publish_late_ns as f64 / 1e6;
        let expected = self.plan.shape.bytes_per_second() * report.window_s;
        // Who was lost within the window got nothing that counts.
        let each: Vec<u64> = self.received_bytes().iter().zip(received).map(|(after, before)| after.saturating_sub(before)).collect();
        report.delivered_bytes = each.iter().sum();
        report.delivered_share = report.delivered_bytes as f64 / (expected * each.len().max(1) as f64);
        let least = |each: &[u64]| each.iter().min().map_or(0.0, |least| *least as f64 / expected);
        report.least_share = least(&each);
        (report.latency_p50_ms, report.latency_p99_ms) = Observations::latencies_of_all_ms(&self.observations);
        let mut rest = &each[..];
        for (watch, part) in self.plan.watch.iter().zip(&self.observations) {
            let (own, others) = rest.split_at(watch.viewers);
            rest = others;
            let (latency_p50_ms, latency_p99_ms) = Observations::latencies_of_all_ms(std::slice::from_ref(part));
            report.parts.push(PartReport {
                protocol: watch.target.protocol,
                viewers: watch.viewers as u64,
                delivered_share: own.iter().sum::<u64>() as f64 / (expected * own.len().max(1) as f64),
                least_share: least(own),
                latency_p50_ms,
                latency_p99_ms,
                verified_frames: 0,
                faults: Faults::default(),
            });
        }
        Ok(())
    }

    /// Ends the stream and waits until verified viewers have its last frame.
    fn finish(&mut self, report: &mut LoadReport) -> anyhow::Result<()> {
        self.publishing = false;
        // All began within one frame: they end within one.
        let sent = self.clients.iter().filter_map(|client| match client {
            Client::Publisher(publisher) => Some(publisher.next_sequence()),
            _ => None,
        });
        let end = sent.min().unwrap_or_else(|| {
            let tolerated = TOLERATED_LAG.as_secs() * self.plan.shape.fps;
            self.viewers().filter_map(Viewer::next_sequence).max().map_or(0, |newest| newest.saturating_sub(tolerated))
        });
        self.drive(DRAIN_DEADLINE, |load| load.viewers().all(|viewer| viewer.next_sequence().is_none_or(|next| next >= end)))
            .context("while waiting for the last frames")?;
        for (index, client) in std::mem::take(&mut self.clients).into_iter().enumerate() {
            let part = self.part_of(index);
            if let Client::Viewer(viewer) = client {
                self.observations[part].retire(*viewer);
            }
        }
        for (part, observations) in report.parts.iter_mut().zip(&self.observations) {
            (part.verified_frames, part.faults) = observations.judgement(end);
            report.verified_frames += part.verified_frames;
            report.faults.add(part.faults);
        }
        if report.parts.len() < 2 {
            report.parts.clear();
        }
        report.lost = self.lost;
        report.first_loss = self.first_loss.take();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_goes_before_what_follows_the_question_mark() {
        let names = [numbered("a", 0), numbered("a?token=b", 0), numbered("a", 2), numbered("a?token=b", 2)];
        assert_eq!(names, ["a", "a?token=b", "a-2", "a-2?token=b"]);
    }
}
