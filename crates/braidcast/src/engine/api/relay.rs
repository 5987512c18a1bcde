//! Clients' requests to the API, asked of SRS processes in a few threads. The caller hears of the answers by a doorbell.

use super::each::for_each_process;
use super::fetch::{Ask, fetch};
use super::merge::{Heard, Round};
use super::plan::{Kind, Plan, Question, check, plan};
use super::{ApiAnswer, ApiRequest, Method};
use crate::engine::clients::Clients;
use crate::jobs::Jobs;
use braidcast_protocols::http::Answer;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Requests that are asked at once, a thread each.
const MAX_THREADS: usize = 8;
/// Requests that are asked or wait for it.
const MAX_UNDER_WAY: usize = 64;
/// What a process may take to answer, and a request to wait until it is asked.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest answer of a process.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// See the module's head.
pub struct ApiRelay {
    jobs: Jobs<(u64, ApiAnswer)>,
    under_way: usize,
    shared_dir: PathBuf,
}

impl ApiRelay {
    /// One that asks nothing yet.
    pub fn new(shared_dir: &Path) -> io::Result<Self> {
        Ok(Self { jobs: Jobs::new(MAX_THREADS)?, under_way: 0, shared_dir: shared_dir.to_owned() })
    }

    /// Asks the processes, by number and API address, lowest number first; the answer comes as `id`'s. False: too many requests are under way.
    pub fn ask(&mut self, id: u64, request: ApiRequest, processes: Vec<(u16, SocketAddr)>) -> bool {
        if self.under_way >= MAX_UNDER_WAY {
            return false;
        }
        let (asked, shared_dir) = (Instant::now(), self.shared_dir.clone());
        let started = self.jobs.start(self.under_way + 1, move |outlet| {
            let late = asked.elapsed() > PATIENCE;
            let refusal = || ApiAnswer::error(503, "SRS processes are too slow for so many requests");
            outlet.send((id, if late { refusal() } else { answer(&request, &processes, &shared_dir) }));
        });
        self.under_way += usize::from(started);
        started
    }

    /// The next answer. The descriptor is quiet from then on: take all.
    pub fn poll(&mut self) -> Option<(u64, ApiAnswer)> {
        let answered = self.jobs.poll()?;
        self.under_way -= 1;
        Some(answered)
    }
}

impl AsFd for ApiRelay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.jobs.as_fd()
    }
}

/// Blocks until the answer is there.
fn answer(request: &ApiRequest, processes: &[(u16, SocketAddr)], shared_dir: &Path) -> ApiAnswer {
    let numbers: Vec<_> = processes.iter().map(|(process, _)| *process).collect();
    let planned = check(request).and_then(|()| plan(request, &numbers));
    let (plan, jsonp) = match planned {
        Ok(planned) => planned,
        Err(refusal) => return refusal,
    };
    match plan {
        Plan::One { process, target } => match processes.iter().find(|(number, _)| *number == process) {
            Some(process) => pass(request, &target, *process),
            None => ApiAnswer::error(404, "there is no such process"),
        },
        Plan::All { question, targets } => {
            let mut round = Round::new(ask_all(request, &targets, processes));
            if let (Ok(round), Question::List { kind: Kind::Clients, .. } | Question::Single(Kind::Clients, _)) = (&mut round, &question) {
                round.tell_addresses(&Clients::read(shared_dir));
            }
            jsonp.wrap(round.map_or_else(|refusal| refusal, |round| conclude(request, round, &question, &targets, processes)))
        }
    }
}

/// From what the processes said to the answer. A client is ended only after it was found, by the process that has it and once.
fn conclude(request: &ApiRequest, round: Round, question: &Question, targets: &[String], processes: &[(u16, SocketAddr)]) -> ApiAnswer {
    let (Question::Kick(named), [target, ..]) = (question, targets) else { return round.merge(question) };
    let process = match round.locate_client(named) {
        Ok(process) => process,
        Err(refusal) => return refusal,
    };
    let Some(process) = processes.iter().find(|(number, _)| *number == process) else { return round.merge(question) };
    let ask = Ask { method: Method::Delete, ..get(request, target) };
    told(fetch(process.1, &ask, Instant::now() + PATIENCE, MAX_ANSWER_BYTES), process.0)
}

fn get<'a>(request: &'a ApiRequest, target: &'a str) -> Ask<'a> {
    let client = Some(request.client.ip());
    Ask { host: request.host.as_deref(), ..Ask::get(target, request.authorization.as_deref(), client) }
}

fn ask_all(request: &ApiRequest, targets: &[String], processes: &[(u16, SocketAddr)]) -> Vec<Heard> {
    let asked = for_each_process(processes, |_, address| {
        let deadline = Instant::now() + PATIENCE;
        targets.iter().map(|target| fetch(address, &get(request, target), deadline, MAX_ANSWER_BYTES)).collect::<Vec<_>>()
    });
    asked.into_iter().map(|(process, answers)| (process, answers.unwrap_or_default())).collect()
}

fn pass(request: &ApiRequest, target: &str, (process, address): (u16, SocketAddr)) -> ApiAnswer {
    let ask = Ask { method: request.method, ..get(request, target) };
    told(fetch(address, &ask, Instant::now() + PATIENCE, MAX_ANSWER_BYTES), process)
}

fn told(answer: Result<Answer, String>, process: u16) -> ApiAnswer {
    answer.map_or_else(|error| ApiAnswer::error(503, format_args!("SRS process {process}: {error}")), ApiAnswer::from)
}
