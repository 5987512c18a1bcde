//! Orders from an operator's command line: taken, carried out, reported on until they are done.

use super::Front;
use super::succession::Reason;
use super::timers::Timer;
use crate::control::channel::Channel;
use crate::control::orders::{Order, Report, socket_path};
use crate::control::{ProcessId, ToWorker, WorkerId};
use braidcast_sys::{Interest, net};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Commands that are connected at once.
const MOST_COMMANDS: usize = 16;
/// How often something is said of an order that takes its time, milliseconds.
const PROGRESS_MS: u64 = 1_000;

/// A command that is connected.
#[derive(Debug)]
struct Command {
    channel: Channel,
    /// What it waits for.
    waits: Option<Waits>,
    told_ms: u64,
}

/// When an order is done.
#[derive(Clone, Copy, Debug)]
enum Waits {
    /// The worker is another process than this.
    Drained { worker: WorkerId, pid: u32 },
    /// The workers have their shares.
    Balanced,
    /// Another front has taken over.
    Succeeded,
    /// All workers were started by this front.
    Replaced,
    /// The process of another server is another one than this.
    ProcessDrained { process: ProcessId, run: u64 },
    /// All processes of another server are new ones.
    ProcessesReplaced,
    /// It is done already.
    Nothing,
}

/// The socket and who is connected to it.
#[derive(Debug)]
pub struct Orders {
    listener: OwnedFd,
    commands: Vec<Option<Command>>,
}

impl Orders {
    /// Listens in the shared directory.
    pub fn open(shared_dir: &Path) -> io::Result<Self> {
        let path = socket_path(shared_dir);
        let listener = net::listen_local(&path, 16)?;
        // Workers have nothing to order.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        Ok(Self { listener, commands: Vec::new() })
    }
}

impl Front {
    pub(super) fn watch_orders(&self) -> io::Result<()> {
        self.poller.add(&self.orders.listener, super::token(super::ORDERS, 0), Interest::READ)
    }

    /// Somebody gives orders: takes the connection (`index` 0), or hears the command with this number.
    pub(super) fn orders_turn(&mut self, index: usize) {
        match index.checked_sub(1) {
            None => self.take_command(),
            Some(command) => self.hear_command(command),
        }
    }

    fn take_command(&mut self) {
        let Ok(socket) = net::accept_local(&self.orders.listener) else { return };
        let free = self.orders.commands.iter().position(Option::is_none);
        let place = free.unwrap_or(self.orders.commands.len());
        if place >= MOST_COMMANDS {
            return tracing::warn!("{MOST_COMMANDS} commands are connected already: another one is turned away");
        }
        let Ok(channel) = Channel::new(socket) else { return };
        if let Err(error) = self.poller.add(&channel, super::token(super::ORDERS, place + 1), Interest::READ) {
            return tracing::error!(%error, "cannot watch a command's connection");
        }
        let command = Some(Command { channel, waits: None, told_ms: self.now_ms });
        match free {
            Some(place) => self.orders.commands[place] = command,
            None => self.orders.commands.push(command),
        }
    }

    fn hear_command(&mut self, place: usize) {
        let Some(Some(command)) = self.orders.commands.get_mut(place) else { return };
        match command.channel.receive::<Order>() {
            Ok(None) => {}
            Ok(Some((order, _))) => match self.carry_out(&order) {
                Ok((waits, said)) => {
                    self.tell_command(place, &Report::Progress(said));
                    if let Some(Some(command)) = self.orders.commands.get_mut(place) {
                        command.waits = Some(waits);
                    }
                    self.timers.set(Timer::Orders, self.now_ms);
                }
                Err(why) => {
                    tracing::info!(?order, "an order is refused: {why}");
                    self.tell_command(place, &Report::Refused(why));
                }
            },
            Err(_) => self.forget_command(place),
        }
    }

    /// Carries out what somebody wants who may use the API, and says what comes of it at first.
    pub(super) fn order_by_api(&mut self, worker: WorkerId, ticket: u64, order: &Order) {
        let said = match order {
            // Which program runs is for those to say who are on this machine.
            Order::UpgradeProcesses(_) | Order::FollowUpgrade => Err("not by the API".to_owned()),
            _ => self.carry_out(order).map(|(_, said)| said),
        };
        if let Err(why) = &said {
            tracing::info!(?order, "an order is refused: {why}");
        }
        self.send(worker, &ToWorker::Ordered { ticket, said }, Vec::new());
    }

    fn carry_out(&mut self, order: &Order) -> Result<(Waits, String), String> {
        tracing::info!(?order, "an order");
        match order {
            Order::Drain(worker) => {
                let pid = self.worker(*worker).and_then(|worker| worker.process.as_ref()).map_or(0, |process| process.pid);
                self.drain(*worker)?;
                let sessions = self.registry.load(*worker).sessions;
                Ok((Waits::Drained { worker: *worker, pid }, format!("worker {worker} hands {sessions} sessions to others")))
            }
            Order::LogLevels { reset, set } => Ok((Waits::Nothing, self.change_levels(*reset, set))),
            Order::Upgrade => Ok((Waits::Succeeded, self.begin_succession(Reason::Upgrade)?)),
            Order::Reload => Ok((Waits::Succeeded, self.begin_succession(Reason::Reload)?)),
            Order::FollowUpgrade => match &self.gave_up {
                Some(why) => Err(format!("the other front did not take over: {why}")),
                None => {
                    let unchanged = match &*self.unchanged {
                        [] => String::new(),
                        keys => format!("; what changes only with a new start stays as it was: {}", keys.join(", ")),
                    };
                    Ok((Waits::Replaced, format!("the front is process {} now{unchanged}", std::process::id())))
                }
            },
            Order::DrainProcess(process) => {
                let run = self.process_run(*process).map_or(0, |(run, _)| run);
                self.drain_process(*process)?;
                let publishers = self.registry.process_load(*process).publishers;
                Ok((
                    Waits::ProcessDrained { process: *process, run },
                    format!("process {process} gets no publishers any more and ends when its {publishers} have gone"),
                ))
            }
            Order::UpgradeProcesses(program) => {
                let program = super::engine::program_at(program).map_err(|error| format!("{error:#}"))?;
                Ok((Waits::ProcessesReplaced, self.upgrade_processes(program)?))
            }
            Order::Rebalance => {
                let many = self.rebalance();
                Ok((Waits::Balanced, format!("{many} sessions are to move")))
            }
        }
    }

    /// Looks whether orders are done.
    pub(super) fn report_on_orders(&mut self) {
        let mut waiting = false;
        for place in 0..self.orders.commands.len() {
            let Some(Some(command)) = self.orders.commands.get(place) else { continue };
            let (Some(waits), told_ms) = (command.waits, command.told_ms) else { continue };
            match self.progress(waits) {
                Ok(done) => {
                    let report = match (waits, &self.gave_up) {
                        (Waits::Succeeded, Some(why)) => Report::Refused(format!("the other front did not take over: {why}")),
                        _ => Report::Done(done),
                    };
                    self.tell_command(place, &report);
                    if let Some(Some(command)) = self.orders.commands.get_mut(place) {
                        command.waits = None;
                    }
                }
                Err(line) => {
                    waiting = true;
                    if self.now_ms >= told_ms + PROGRESS_MS {
                        self.tell_command(place, &Report::Progress(line));
                    }
                }
            }
        }
        if waiting {
            self.timers.set(Timer::Orders, self.now_ms + super::ORDERS_LOOK_MS);
        }
    }

    /// What is said at the end, or (`Err`) on the way.
    fn progress(&self, waits: Waits) -> Result<String, String> {
        match waits {
            Waits::Drained { worker, pid } => {
                let now = self.worker(worker).filter(|worker| worker.serves()).and_then(|worker| worker.process.as_ref());
                match now.filter(|process| process.pid != pid) {
                    Some(process) => Ok(format!("worker {worker} is empty and was started anew (pid {})", process.pid)),
                    None => Err(format!("worker {worker} still has {} sessions", self.registry.load(worker).sessions)),
                }
            }
            Waits::Succeeded => match &self.gave_up {
                Some(_) => Ok(String::new()),
                None => Err("the other front gets ready".to_owned()),
            },
            Waits::Replaced => match self.workers_to_replace() {
                0 => Ok("all workers were replaced".to_owned()),
                left => Err(format!("{left} workers are still to be replaced")),
            },
            Waits::ProcessDrained { process, run } => match self.process_run(process) {
                Some((now, true)) if now != run => Ok(format!("process {process} was empty and was started anew")),
                _ => Err(format!("process {process} still has {} publishers", self.registry.process_load(process).publishers)),
            },
            Waits::ProcessesReplaced => match self.processes_to_replace() {
                0 => Ok("all processes were replaced".to_owned()),
                left => Err(format!("{left} processes are still to be replaced")),
            },
            Waits::Nothing => Ok("all processes were told".to_owned()),
            Waits::Balanced => match self.imbalance() {
                0 => Ok("the workers have their shares".to_owned()),
                left => Err(format!("{left} sessions are still to move")),
            },
        }
    }

    /// Those who wait for another front hear that it is its turn.
    pub(super) fn tell_upgraders(&mut self) {
        for place in 0..self.orders.commands.len() {
            if matches!(self.orders.commands.get(place), Some(Some(Command { waits: Some(Waits::Succeeded), .. }))) {
                self.tell_command(place, &Report::Follow);
            }
        }
    }

    fn tell_command(&mut self, place: usize, report: &Report) {
        let now_ms = self.now_ms;
        let Some(Some(command)) = self.orders.commands.get_mut(place) else { return };
        command.told_ms = now_ms;
        if command.channel.send(report, Vec::new()).is_err() || command.channel.pending() > 8 {
            self.forget_command(place);
        }
    }

    fn forget_command(&mut self, place: usize) {
        let Some(command) = self.orders.commands.get_mut(place).and_then(Option::take) else { return };
        if let Err(error) = self.poller.delete(&command.channel) {
            tracing::debug!(%error, "cannot leave a command's connection");
        }
    }
}
