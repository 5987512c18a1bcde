//! Rounds of runs: each server in turn, fresh each time, alone on its core, so that a drift of the machine hits all alike.
//!
//! A server that fails spoils its own run only; a signal ends everything.

use crate::flame;
use crate::load::{self, LoadPlan, LoadReport, PublishPlan, WatchPlan};
use crate::pace::Pace;
use crate::peers::{APP, Bench, Peer, Running, STREAM};
use crate::process::Interrupt;
use crate::progress::Progress;
use crate::report::{self, Run};
use crate::viewer::{Protocol, Target};
use anyhow::Context;
use std::path::PathBuf;
use std::time::Duration;

/// A server and the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The server.
    pub server: Peer,
    /// How viewers connect; RTMP when there are none.
    pub protocol: Protocol,
    /// How long it may gather; `None`: as the server does by itself.
    pub pace: Option<Pace>,
}

impl Case {
    /// Every way in which viewers can be served by these servers. The bare loop knows one, that stands for both.
    pub fn all(servers: &[Peer], protocols: &[Protocol]) -> Vec<Self> {
        let serves = |server: Peer, protocol: Protocol| match server {
            Peer::Bare => protocol == Protocol::Flv,
            Peer::Braidcast | Peer::Xiu => protocols.contains(&protocol),
            Peer::NginxRtmp | Peer::NginxStream | Peer::BraidcastRelay => protocol == Protocol::Rtmp && protocols.contains(&protocol),
        };
        let ways = |&server| [Protocol::Flv, Protocol::Rtmp].map(|protocol| Self { server, protocol, pace: None });
        servers.iter().flat_map(ways).filter(|case| serves(case.server, case.protocol)).collect()
    }

    /// The same at each of these paces, if there are any; a server that has no such knob stays as it is.
    pub fn at_paces(cases: Vec<Self>, paces: &[Pace]) -> Vec<Self> {
        if paces.is_empty() {
            return cases;
        }
        let at = |case: Self| match case.server {
            Peer::Bare => {
                // Paces that differ only in words are one to it.
                let mut own: Vec<Pace> = Vec::new();
                paces.iter().for_each(|&pace| {
                    if own.iter().all(|known| known.bare_ms() != pace.bare_ms()) {
                        own.push(pace);
                    }
                });
                own.into_iter().map(|pace| Self { pace: Some(pace), ..case }).collect()
            }
            Peer::Braidcast => paces.iter().map(|&pace| Self { pace: Some(pace), ..case }).collect(),
            _ => vec![case],
        };
        cases.into_iter().flat_map(at).collect()
    }

    /// What tables call it.
    pub fn name(&self) -> String {
        report::name(self.server, self.pace)
    }
}

/// Who connects.
#[derive(Clone, Copy, Debug)]
pub enum Clients {
    /// One publisher and many viewers, some of whom check every frame.
    Viewers {
        /// In all.
        viewers: usize,
        /// Of them.
        verified: usize,
    },
    /// Many publishers and nobody else.
    Publishers(usize),
}

/// The phases of a run.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From the first frame to the first viewer.
    pub settle: Duration,
    /// From the last viewer's first byte to the window.
    pub warm_up: Duration,
    /// What is measured.
    pub window: Duration,
}

/// A comparison over one network.
pub struct Comparison<'a> {
    /// How servers are started.
    pub bench: &'a Bench,
    /// Which, in the order of the first round.
    pub cases: Vec<Case>,
    /// How often all of them.
    pub rounds: u32,
    /// What the network is called in the report.
    pub network: &'a str,
    /// Who connects.
    pub clients: Clients,
    /// For how long.
    pub timing: Timing,
    /// Braidcast has at least this long before its window: until the first blocks of a log are evicted every page that it writes is new,
    /// which no server is that has run for a minute.
    pub own_warm_up: Duration,
    /// Servers other than braidcast and the bare loop take part in so many rounds only: few are enough to place them.
    pub peer_rounds: u32,
    /// Where to draw each server's CPU, in one more round that is not measured.
    pub flames: Option<PathBuf>,
    /// Viewers sleep until something arrives.
    pub sleeping: bool,
}

/// Between two servers: lets the kernel finish with the last one's thousand sockets.
const PAUSE: Duration = Duration::from_millis(500);

impl Comparison<'_> {
    /// All rounds. Only a signal is an error; what else fails is in the runs.
    pub fn run(&self, interrupt: &Interrupt) -> anyhow::Result<Vec<Run>> {
        let mut runs = Vec::new();
        let mut progress = Progress::new((1..=self.rounds).map(|round| self.cases_of(round).len()).sum());
        for round in 1..=self.rounds {
            for case in self.cases_of(round) {
                progress.show(&format!("{} by {}, {}", case.name(), case.protocol, self.network));
                let result = self.measure(case, None, interrupt);
                interrupt.check()?;
                progress.step(&self.line(round, case, &result));
                let error = result.as_ref().err().map(|error| format!("{error:#}"));
                let Case { server, protocol, pace } = case;
                runs.push(Run { network: self.network.to_owned(), round, server, protocol, pace, report: result.ok(), error });
                interrupt.sleep(PAUSE)?;
            }
        }
        drop(progress);
        self.draw_flames(interrupt)?;
        Ok(runs)
    }

    fn cases_of(&self, round: u32) -> Vec<Case> {
        let mut cases = self.cases.clone();
        if round > self.peer_rounds {
            cases.retain(|case| matches!(case.server, Peer::Bare | Peer::Braidcast));
        }
        // Each round begins with another server: whoever came first would always find the coolest machine.
        let first = (round as usize - 1) % cases.len().max(1);
        cases.rotate_left(first);
        cases
    }

    fn draw_flames(&self, interrupt: &Interrupt) -> anyhow::Result<()> {
        let Some(directory) = &self.flames else { return Ok(()) };
        if let Some(reason) = flame::unavailable() {
            eprintln!("flame graphs are left out: {reason}");
            return Ok(());
        }
        for &case in &self.cases {
            let words = format!("{}-{}-{}", case.name(), case.protocol, self.network);
            let path = directory.join(format!("{}.svg", words.replace(' ', "-").to_lowercase()));
            let result = self.measure(case, Some(path.clone()), interrupt);
            interrupt.check()?;
            match result {
                Ok(_) => eprintln!("flame graph: {}", path.display()),
                Err(error) => eprintln!("no flame graph of {}: {error:#}", case.name()),
            }
        }
        Ok(())
    }

    fn line(&self, round: u32, case: Case, result: &anyhow::Result<LoadReport>) -> String {
        let name = format!("{} round {round}/{}: {} by {}", self.network, self.rounds, case.name(), case.protocol);
        match result {
            Ok(report) => {
                let cpu = report.server_cpu_s.map_or("-".to_owned(), |cpu| format!("{cpu:.2}"));
                let bytes = report.delivered_bytes.max(report.published_bytes) as f64 / 1e9;
                let (frames, missed, lost) = (report.verified_frames, report.faults.total(), report.lost + report.unanswered);
                format!("{name}: {cpu} CPU-s for {bytes:.2} GB, {frames} verified frames, {missed} missed, {lost} viewers lost")
            }
            Err(error) => format!("{name}: FAILED: {error:#}"),
        }
    }

    /// One run of one server.
    pub fn measure(&self, case: Case, flame: Option<PathBuf>, interrupt: &Interrupt) -> anyhow::Result<LoadReport> {
        let mut server = self.bench.start(case.server, case.pace, self.clients, interrupt)?;
        let plan = LoadPlan { flame, ..self.plan(case, &server)? };
        let report = load::run(&plan, interrupt);
        server.check()?;
        report.with_context(|| format!("its server's last words:\n{}", server.last_words()))
    }

    fn plan(&self, case: Case, server: &Running) -> anyhow::Result<LoadPlan> {
        let rtmp = || server.rtmp.context("the server takes no RTMP");
        let publishers = if let Clients::Publishers(publishers) = self.clients { publishers } else { 1 };
        let bare = case.server == Peer::Bare;
        // The bare loop that sends makes its stream itself.
        let publish = if bare && server.rtmp.is_none() { None } else { Some(PublishPlan { address: rtmp()?, publishers, plain: bare }) };
        let watch = match self.clients {
            Clients::Publishers(_) => Vec::new(),
            Clients::Viewers { viewers, verified } => {
                let address = match case.protocol {
                    Protocol::Flv => server.http.context("the server serves no HTTP")?,
                    Protocol::Rtmp => rtmp()?,
                };
                vec![WatchPlan {
                    target: Target { protocol: case.protocol, address },
                    viewers,
                    verified,
                    stream: STREAM.to_owned(),
                    streams: 1,
                }]
            }
        };
        Ok(LoadPlan {
            app: APP.to_owned(),
            stream: STREAM.to_owned(),
            shape: self.bench.shape,
            publish,
            watch,
            settle: self.timing.settle,
            warm_up: if case.server == Peer::Braidcast { self.timing.warm_up.max(self.own_warm_up) } else { self.timing.warm_up },
            window: self.timing.window,
            server: Some(server.root()),
            behind: server.behind(),
            sleeping: self.sleeping,
            tell: false,
            flame: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_asked_for_what_it_can_serve() {
        let all = Case::all(&[Peer::Bare, Peer::Braidcast, Peer::NginxRtmp], &[Protocol::Flv, Protocol::Rtmp]);
        let expected = [
            (Peer::Bare, Protocol::Flv),
            (Peer::Braidcast, Protocol::Flv),
            (Peer::Braidcast, Protocol::Rtmp),
            (Peer::NginxRtmp, Protocol::Rtmp),
        ];
        assert_eq!(all.iter().map(|case| (case.server, case.protocol)).collect::<Vec<_>>(), expected);
        assert_eq!(Case::all(&[Peer::Bare, Peer::NginxRtmp], &[Protocol::Flv]).len(), 1);
        let paced = Case::at_paces(all, &[Pace::Low, Pace::Millis(350)]);
        assert_eq!(paced.iter().filter(|case| case.pace.is_some()).count(), 6);
        assert_eq!(paced.len(), 7, "nginx has no such knob");
    }
}
