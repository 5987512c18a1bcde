//! What the scenarios of coming and going have in common: one thread that publishes, watches with a few who check every frame,
//! and brings visitors in and out.
//!
//! Publishers and watchers are looked at again after every few visitors, however many of those there are: what a crowd does
//! to others is to be the server's doing, not this loop's. While it drives it never sleeps: on loopback a sender pays for
//! waking a receiver, on a network never.

use crate::process::Interrupt;
use crate::publisher::Publisher;
use crate::socket::{self, Poller, Readiness};
use crate::source::Shape;
use crate::viewer::{Observations, Target, Viewer};
use crate::visitor::{Visitor, Way};
use anyhow::Context;
use slab::Slab;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// The application of all streams.
pub const APP: &str = "live";
const SCRATCH_BYTES: usize = 1 << 20;
/// Visitors that are looked at before publishers and watchers are again.
const VISITORS_PER_TURN: usize = 16;
const PUBLISH_DEADLINE: Duration = Duration::from_secs(10);
/// Who has no frame after so long is counted as an error, and goes.
const PATIENCE_NS: u64 = 10_000_000_000;

/// The name of a stream.
pub fn stream(index: usize) -> String {
    format!("bench-{index}")
}

/// What became of visitors.
#[derive(Debug, Default)]
pub struct Visits {
    /// From the connection's beginning to the first frame in microseconds, in the order of [`Way::ALL`].
    waits_us: [Vec<u32>; 3],
    /// Connections that were begun.
    pub begun: u64,
    /// Those that had a first frame.
    pub served: u64,
    /// First frames that no decoder can begin with.
    pub not_key: u64,
    /// Visitors that were refused, cut off, or got nothing in time.
    pub errors: u64,
    /// Why the first of them was.
    pub first_error: Option<String>,
}

/// Percentiles of the time to the first frame.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Waits {
    /// How they came; `None`: all together.
    pub way: Option<Way>,
    /// How many.
    pub visitors: usize,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, milliseconds.
    pub p99_ms: f64,
    /// The longest, milliseconds.
    pub most_ms: f64,
}

impl Visits {
    fn note(&mut self, way: Way, after_ns: u64) {
        let place = Way::ALL.iter().position(|other| *other == way).unwrap_or_default();
        self.waits_us[place].push(u32::try_from(after_ns / 1000).unwrap_or(u32::MAX));
    }

    /// Percentiles of each way that was gone, and of all.
    pub fn waits(&self) -> Vec<Waits> {
        let of = |way, mut waits: Vec<u32>| {
            waits.sort_unstable();
            let last = waits.len().checked_sub(1)?;
            let at = |share: f64| f64::from(waits[(last as f64 * share).round() as usize]) / 1000.0;
            Some(Waits { way, visitors: waits.len(), p50_ms: at(0.5), p99_ms: at(0.99), most_ms: at(1.0) })
        };
        let each = Way::ALL.into_iter().zip(&self.waits_us).map(|(way, waits)| (Some(way), waits.clone()));
        each.chain([(None, self.waits_us.concat())]).filter_map(|(way, waits)| of(way, waits)).collect()
    }
}

/// Who comes, and when.
#[derive(Clone, Debug)]
pub struct Arrivals {
    /// Where to, by way.
    pub address: fn(&Crowd<'_>, Way) -> SocketAddr,
    /// In turn.
    pub ways: Vec<Way>,
    /// In turn: the numbers of streams.
    pub streams: std::ops::Range<usize>,
    /// Nanoseconds from one to the next.
    pub every_ns: u64,
    /// How long each stays after it came, nanoseconds; `None`: until the end.
    pub stay_ns: Option<u64>,
    /// How many in all.
    pub most: u64,
}

/// See the module's head.
pub struct Crowd<'a> {
    interrupt: &'a Interrupt,
    /// Where RTMP is spoken.
    pub rtmp: SocketAddr,
    /// Where HTTP is spoken.
    pub http: SocketAddr,
    publishers: Vec<Publisher>,
    publishing: bool,
    watchers: Vec<Viewer>,
    /// Publishers first, then watchers; the token is the index.
    steady: Poller,
    passing: Poller,
    visitors: Slab<Visitor>,
    /// Who goes when, in the order of coming; the beginning tells a visitor from a later one in its place.
    leaving: VecDeque<(u64, usize, u64)>,
    /// What the watchers found.
    pub observations: Observations,
    /// What visitors found since the last [`Crowd::take_visits`].
    visits: Visits,
    scratch: Vec<u8>,
}

impl<'a> Crowd<'a> {
    /// Nobody is there yet.
    pub fn new(rtmp: SocketAddr, http: SocketAddr, clients: usize, interrupt: &'a Interrupt) -> anyhow::Result<Self> {
        socket::raise_descriptor_limit(clients as u64 + 64)?;
        Ok(Self {
            interrupt,
            rtmp,
            http,
            publishers: Vec::new(),
            publishing: false,
            watchers: Vec::new(),
            steady: Poller::new()?,
            passing: Poller::new()?,
            visitors: Slab::new(),
            leaving: VecDeque::new(),
            observations: Observations::default(),
            visits: Visits::default(),
            scratch: vec![0; SCRATCH_BYTES],
        })
    }

    /// Publishes streams, spread over one frame interval.
    pub fn publish(&mut self, streams: usize, shape: Shape) -> anyhow::Result<()> {
        for index in 0..streams {
            let publisher = Publisher::connect(self.rtmp, APP, &stream(index), false)?;
            self.steady.add(publisher.socket(), index as u64)?;
            self.publishers.push(publisher);
        }
        self.drive(PUBLISH_DEADLINE, None, |crowd| crowd.publishers.iter().all(Publisher::is_ready))?;
        anyhow::ensure!(self.publishers.iter().all(Publisher::is_ready), "the publishers got no answer");
        let start_ns = socket::monotonic_ns() + 1_000_000;
        for (index, publisher) in self.publishers.iter_mut().enumerate() {
            publisher.begin(start_ns + 1_000_000_000 / shape.fps * index as u64 / streams as u64, shape);
        }
        self.publishing = true;
        Ok(())
    }

    /// Viewers who check every frame, each of the next stream in turn.
    pub fn watch(&mut self, viewers: usize, streams: std::ops::Range<usize>, target: Target) -> anyhow::Result<()> {
        for index in 0..viewers {
            let name = stream(streams.start + index % streams.len().max(1));
            let viewer = Viewer::connect(&target, APP, &name, true)?;
            self.steady.add(viewer.socket(), (self.publishers.len() + self.watchers.len()) as u64)?;
            self.watchers.push(viewer);
        }
        self.drive(PUBLISH_DEADLINE, None, |crowd| crowd.watchers.iter().all(Viewer::is_playing))?;
        anyhow::ensure!(self.watchers.iter().all(Viewer::is_playing), "the steady viewers got nothing");
        Ok(())
    }

    /// Waits until every stream has an index with a segment.
    pub fn await_segments(&mut self, streams: usize, deadline: Duration) -> anyhow::Result<()> {
        let deadline_ns = socket::monotonic_ns() + deadline.as_nanos() as u64;
        for index in 0..streams {
            loop {
                let arrivals = Arrivals {
                    address: |crowd, _| crowd.http,
                    ways: vec![Way::Hls],
                    streams: index..index + 1,
                    every_ns: 1,
                    stay_ns: Some(0),
                    most: 1,
                };
                self.drive(Duration::from_secs(3), Some(arrivals), |crowd| crowd.visits.served + crowd.visits.errors > 0)?;
                let visits = self.take_visits();
                if visits.served > 0 {
                    break;
                }
                let why = visits.first_error.unwrap_or_default();
                anyhow::ensure!(socket::monotonic_ns() < deadline_ns, "no segment of {} came in time: {why}", stream(index));
                self.drive(Duration::from_millis(100), None, |_| false)?;
            }
        }
        Ok(())
    }

    /// What visitors found since this was asked last.
    pub fn take_visits(&mut self) -> Visits {
        std::mem::take(&mut self.visits)
    }

    /// Visitors that are there now.
    pub fn visitors(&self) -> usize {
        self.visitors.len()
    }

    /// Publishes, watches and lets visitors come for `duration`, or until `enough`.
    pub fn drive(&mut self, duration: Duration, arrivals: Option<Arrivals>, mut enough: impl FnMut(&Self) -> bool) -> anyhow::Result<()> {
        let begin_ns = socket::monotonic_ns();
        let end_ns = begin_ns + duration.as_nanos() as u64;
        let (mut ready, mut come) = (Vec::new(), 0);
        loop {
            self.interrupt.check()?;
            self.serve_steady()?;
            let now_ns = socket::monotonic_ns();
            if now_ns >= end_ns || enough(self) {
                return Ok(());
            }
            if let Some(arrivals) = &arrivals {
                // A bounded number at once: whoever is late makes up for it without keeping the others waiting.
                for _ in 0..VISITORS_PER_TURN {
                    if come >= arrivals.most || begin_ns + come * arrivals.every_ns > now_ns {
                        break;
                    }
                    self.come(arrivals, come)?;
                    come += 1;
                }
            }
            self.go(now_ns);
            self.passing.wait(Duration::ZERO, &mut ready)?;
            for (index, event) in ready.iter().enumerate() {
                if index % VISITORS_PER_TURN == VISITORS_PER_TURN - 1 {
                    self.serve_steady()?;
                }
                self.visitor_event(*event);
            }
        }
    }

    fn come(&mut self, arrivals: &Arrivals, number: u64) -> anyhow::Result<()> {
        let way = arrivals.ways[number as usize % arrivals.ways.len()];
        let turn = number as usize / arrivals.ways.len();
        let name = stream(arrivals.streams.start + turn % arrivals.streams.len().max(1));
        let visitor = Visitor::connect(way, (arrivals.address)(self, way), APP, &name)?;
        self.visits.begun += 1;
        let entry = self.visitors.vacant_entry();
        self.passing.add(visitor.socket(), entry.key() as u64)?;
        if let Some(stay_ns) = arrivals.stay_ns {
            self.leaving.push_back((visitor.began_ns() + stay_ns, entry.key(), visitor.began_ns()));
        }
        entry.insert(visitor);
        Ok(())
    }

    /// Lets those go whose time is over; who still waits for a frame waits on.
    fn go(&mut self, now_ns: u64) {
        let mut waiting = Vec::new();
        while let Some((at_ns, key, began_ns)) = self.leaving.front().copied().filter(|(at_ns, ..)| *at_ns <= now_ns) {
            self.leaving.pop_front();
            let Some(visitor) = self.visitors.get(key).filter(|visitor| visitor.began_ns() == began_ns) else { continue };
            if visitor.first_frame().is_some() {
                self.visitors.remove(key);
            } else if now_ns >= began_ns + PATIENCE_NS {
                self.fail(key, &anyhow::anyhow!("no frame came in {} s", PATIENCE_NS / 1_000_000_000));
            } else {
                waiting.push((at_ns, key, began_ns));
            }
        }
        waiting.into_iter().rev().for_each(|late| self.leaving.push_front(late));
    }

    fn visitor_event(&mut self, event: Readiness) {
        let key = event.token as usize;
        let Some(visitor) = self.visitors.get_mut(key) else { return };
        let had = visitor.first_frame().is_some();
        let result = visitor.handle(event, &mut self.scratch);
        if let (false, Some(first)) = (had, visitor.first_frame()) {
            self.visits.served += 1;
            self.visits.not_key += u64::from(!first.keyframe);
            self.visits.note(visitor.way(), first.after_ns);
        }
        if let Err(error) = result {
            self.fail(key, &error);
        }
    }

    fn fail(&mut self, key: usize, error: &anyhow::Error) {
        let visitor = self.visitors.remove(key);
        self.visits.errors += 1;
        self.visits.first_error.get_or_insert_with(|| format!("{} visitor: {error:#}", visitor.way()));
    }

    fn serve_steady(&mut self) -> anyhow::Result<()> {
        if self.publishing {
            let now_ns = socket::monotonic_ns();
            for publisher in self.publishers.iter_mut().filter(|publisher| publisher.next_due_ns() <= now_ns) {
                publisher.publish_due(now_ns)?;
            }
        }
        let mut ready = Vec::new();
        self.steady.wait(Duration::ZERO, &mut ready)?;
        for event in ready {
            let index = event.token as usize;
            match self.publishers.get_mut(index) {
                Some(publisher) => publisher.handle(event, &mut self.scratch).context("a publisher's connection ended")?,
                None => {
                    let watcher = &mut self.watchers[index - self.publishers.len()];
                    watcher.handle(event, &mut self.scratch, &mut self.observations).context("a steady viewer's connection ended")?;
                }
            }
        }
        Ok(())
    }

    /// Ends the streams; the frames that watchers judged, and what they found wrong.
    pub fn finish(mut self) -> anyhow::Result<(u64, crate::verify::Faults)> {
        self.publishing = false;
        self.visitors.clear();
        let end = self.publishers.iter().map(Publisher::next_sequence).min().unwrap_or_default();
        self.drive(Duration::from_secs(3), None, |crowd| crowd.watchers.iter().all(|watcher| watcher.next_sequence() >= Some(end)))?;
        let Self { watchers, mut observations, .. } = self;
        watchers.into_iter().for_each(|watcher| observations.retire(watcher));
        Ok(observations.judgement(end))
    }
}
