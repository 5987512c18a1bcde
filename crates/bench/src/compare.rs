//! Rounds of runs: each server in turn, fresh each time, alone on its core, so that a drift of the machine hits all alike.
//!
//! A server that fails spoils its own run only; a signal ends everything.

use crate::load::{self, LoadPlan, LoadReport, PublishPlan, WatchPlan};
use crate::pace::Pace;
use crate::peers::{Bench, Peer, Running};
use crate::process::Interrupt;
use crate::report::{self, Run};
use crate::viewer::{Protocol, Target};
use anyhow::Context;
use std::time::Duration;

const APP: &str = "live";
const STREAM: &str = "bench";

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
            Peer::Braidcast => protocols.contains(&protocol),
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
            Peer::Bare | Peer::Braidcast => paces.iter().map(|&pace| Self { pace: Some(pace), ..case }).collect(),
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
    /// Viewers sleep until something arrives.
    pub sleeping: bool,
}

/// Between two servers: lets the kernel finish with the last one's thousand sockets.
const PAUSE: Duration = Duration::from_millis(500);

impl Comparison<'_> {
    /// All rounds. Only a signal is an error; what else fails is in the runs.
    pub fn run(&self, interrupt: &Interrupt) -> anyhow::Result<Vec<Run>> {
        let mut runs = Vec::new();
        for round in 1..=self.rounds {
            let mut cases = self.cases.clone();
            // Each round begins with another server: whoever came first would always find the coolest machine.
            let first = (round as usize - 1) % cases.len().max(1);
            cases.rotate_left(first);
            for case in cases {
                let result = self.measure(case, interrupt);
                interrupt.check()?;
                let run = self.note(round, case, result);
                runs.push(run);
                interrupt.sleep(PAUSE)?;
            }
        }
        Ok(runs)
    }

    fn note(&self, round: u32, case: Case, result: anyhow::Result<LoadReport>) -> Run {
        let name = format!("{} round {round}/{}: {} by {}", self.network, self.rounds, case.name(), case.protocol);
        match &result {
            Ok(report) => {
                let cpu = report.server_cpu_s.map_or("-".to_owned(), |cpu| format!("{cpu:.2}"));
                let bytes = report.delivered_bytes.max(report.published_bytes) as f64 / 1e9;
                let (frames, missed, lost) = (report.verified_frames, report.faults.total(), report.lost + report.unanswered);
                eprintln!("{name}: {cpu} CPU-s for {bytes:.2} GB, {frames} verified frames, {missed} missed, {lost} viewers lost");
            }
            Err(error) => eprintln!("{name}: FAILED: {error:#}"),
        }
        let error = result.as_ref().err().map(|error| format!("{error:#}"));
        Run {
            network: self.network.to_owned(),
            round,
            server: case.server,
            protocol: case.protocol,
            pace: case.pace,
            report: result.ok(),
            error,
        }
    }

    fn measure(&self, case: Case, interrupt: &Interrupt) -> anyhow::Result<LoadReport> {
        let mut server = self.bench.start(case.server, case.pace, self.clients, interrupt)?;
        let plan = self.plan(case, &server)?;
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
            Clients::Publishers(_) => None,
            Clients::Viewers { viewers, verified } => {
                let address = match case.protocol {
                    Protocol::Flv => server.http.context("the server serves no HTTP")?,
                    Protocol::Rtmp => rtmp()?,
                };
                Some(WatchPlan { target: Target { protocol: case.protocol, address }, viewers, verified, streams: 1 })
            }
        };
        Ok(LoadPlan {
            app: APP.to_owned(),
            stream: STREAM.to_owned(),
            shape: self.bench.shape,
            publish,
            watch,
            settle: self.timing.settle,
            warm_up: self.timing.warm_up,
            window: self.timing.window,
            server: Some(server.root()),
            behind: server.behind(),
            sleeping: self.sleeping,
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
