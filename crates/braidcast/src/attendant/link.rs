//! The task that has the channel to the front: it connects, again and again if it has to, and passes on what is said both ways.

use super::{CertificateFiles, Said};
use crate::config::Config;
use crate::control::attendants::{FromAttendant, OpenedCertificate, PROTOCOL, Role, ToAttendant, program, socket_path};
use crate::control::channel::Channel;
use crate::tls::certificates::MAX_PEM_BYTES;
use anyhow::{Context, bail};
use braidcast_sys::{file, net};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How long the front may take to say welcome.
const WELCOME: Duration = Duration::from_secs(10);
/// How soon a front that is gone is looked for again.
const RECONNECT: Duration = Duration::from_millis(50);
/// How soon messages that the kernel did not take are tried again.
const RETRY: Duration = Duration::from_millis(5);
/// Messages taken from the front before it is said something.
const MESSAGES_PER_TURN: usize = 64;

/// See the module's head.
pub struct Link {
    role: Role,
    shared_dir: PathBuf,
    say: mpsc::Sender<Said>,
    messages: mpsc::Receiver<FromAttendant>,
    arrivals: mpsc::Receiver<(FromAttendant, OwnedFd)>,
    /// The front takes no arrivals.
    held: bool,
    retired: bool,
    /// How long to go on without a front.
    grace: Duration,
}

/// A channel within a task.
struct Wire {
    channel: Channel,
    /// A duplicate of its socket, for the runtime to watch; nothing is read from it or written to it.
    watched: UnixStream,
}

impl Wire {
    fn new(channel: Channel) -> io::Result<Self> {
        let watched = UnixStream::from_std(channel.as_fd().try_clone_to_owned()?.into())?;
        Ok(Self { channel, watched })
    }

    /// The next message, if there is one. When there is none, waiting for `watched` means waiting for the next one.
    fn receive(&mut self) -> io::Result<Option<(ToAttendant, Vec<OwnedFd>)>> {
        let channel = &mut self.channel;
        let received = self.watched.try_io(Interest::READABLE, || channel.receive()?.ok_or_else(|| io::ErrorKind::WouldBlock.into()));
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            received => received.map(Some),
        }
    }
}

/// Why a connection to the front is over.
enum Over {
    /// It is gone.
    Lost(io::Error),
    /// This process ends.
    Ended,
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// A front that has said welcome.
pub struct Met {
    channel: Channel,
    welcome: (ToAttendant, Vec<OwnedFd>),
}

impl Met {
    /// The configuration that came with the welcome.
    pub fn config(&self) -> anyhow::Result<Config> {
        let (ToAttendant::Welcome { config, .. }, _) = &self.welcome else { bail!("the front did not begin with a welcome") };
        Ok(Config::from_json(config)?)
    }
}

/// Says hello and waits for the welcome, before there are threads. `None`: this process is not wanted.
pub fn meet(role: Role, shared_dir: &Path) -> anyhow::Result<Option<Met>> {
    let mut channel = connect(role, shared_dir, false).context("attendants are started by `braidcast serve`")?;
    loop {
        match channel.receive_blocking::<ToAttendant>(WELCOME).context("waiting for the front's welcome")? {
            welcome @ (ToAttendant::Welcome { .. }, _) => return Ok(Some(Met { channel, welcome })),
            (ToAttendant::Retire | ToAttendant::End, _) => return Ok(None),
            (other, _) => tracing::debug!(?other, "said before the welcome"),
        }
    }
}

fn connect(role: Role, shared_dir: &Path, retired: bool) -> io::Result<Channel> {
    let mut channel = Channel::new(net::connect_local(&socket_path(shared_dir))?)?;
    let hello = FromAttendant::Hello { protocol: PROTOCOL, role, pid: std::process::id(), program: program(), retired };
    channel.send(&hello, Vec::new())?;
    Ok(channel)
}

impl Link {
    pub fn new(
        role: Role,
        shared_dir: PathBuf,
        say: mpsc::Sender<Said>,
        messages: mpsc::Receiver<FromAttendant>,
        arrivals: mpsc::Receiver<(FromAttendant, OwnedFd)>,
    ) -> Self {
        Self { role, shared_dir, say, messages, arrivals, held: true, retired: false, grace: Duration::ZERO }
    }

    /// Starts the task.
    pub fn begin(self, met: Met) -> io::Result<()> {
        let terminate = signal(SignalKind::terminate())?;
        // It is for the front; whoever sends it to all processes of the name does no harm.
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, std::sync::Arc::default())?;
        let channel = Wire::new(met.channel)?;
        tokio::spawn(self.run(channel, met.welcome, terminate));
        Ok(())
    }

    async fn run(mut self, channel: Wire, welcome: (ToAttendant, Vec<OwnedFd>), mut terminate: Signal) {
        tokio::select! {
            () = self.follow_fronts(channel, welcome) => {}
            _ = terminate.recv() => tracing::info!("asked to end by a signal"),
        }
        // Nobody listens if it is ending already.
        let _ = self.say.send(Said::End).await;
    }

    async fn follow_fronts(&mut self, mut channel: Wire, (welcome, fds): (ToAttendant, Vec<OwnedFd>)) {
        let Ok(()) = self.obey(welcome, fds, &mut channel).await else { return };
        let mut next = Some(channel);
        let mut gone_since = Instant::now();
        loop {
            if let Some(channel) = next.take() {
                let Err(Over::Lost(error)) = self.follow(channel).await else { return };
                tracing::debug!(%error, "the front is gone: looking for the next one");
                (gone_since, self.held) = (Instant::now(), true);
            }
            if gone_since.elapsed() >= self.grace {
                return tracing::warn!("the front has been gone for front_grace: ending");
            }
            tokio::time::sleep(RECONNECT).await;
            next = connect(self.role, &self.shared_dir, self.retired).and_then(Wire::new).ok();
        }
    }

    /// Talks with a front until it is gone. It says whether arrivals are held before any are sent.
    async fn follow(&mut self, mut channel: Wire) -> Result<(), Over> {
        loop {
            let waits = channel.channel.pending() > 0;
            tokio::select! {
                ready = channel.watched.readable() => {
                    ready?;
                    for _ in 0..MESSAGES_PER_TURN {
                        match channel.receive() {
                            Ok(Some((message, fds))) => self.obey(message, fds, &mut channel).await?,
                            Ok(None) => break,
                            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                                tracing::error!(%error, "a message of the front was lost or malformed");
                            }
                            Err(error) => return Err(error.into()),
                        }
                    }
                }
                message = self.messages.recv(), if !waits => match message {
                    Some(message) => channel.channel.send(&message, Vec::new())?,
                    None => return Err(Over::Ended),
                },
                arrival = self.arrivals.recv(), if !waits && !self.held => match arrival {
                    Some((message, socket)) => channel.channel.send(&message, vec![socket])?,
                    None => return Err(Over::Ended),
                },
                () = tokio::time::sleep(RETRY), if waits => channel.channel.flush()?,
            }
        }
    }

    async fn obey(&mut self, message: ToAttendant, fds: Vec<OwnedFd>, channel: &mut Wire) -> Result<(), Over> {
        let said = match message {
            ToAttendant::Hold(held) => {
                self.held = held;
                if held {
                    channel.channel.send(&FromAttendant::Held, Vec::new())?;
                }
                return Ok(());
            }
            ToAttendant::Welcome { config, listening, held } => {
                let config = match Config::from_json(&config) {
                    Ok(config) => Box::new(config),
                    Err(error) => {
                        tracing::error!(%error, "the configuration in the front's welcome cannot be read: nothing changes");
                        return Ok(());
                    }
                };
                crate::logging::start(&config, &self.role.to_string());
                self.grace = Duration::from_millis(config.server.front_grace.as_ms());
                self.held = held;
                Said::Welcome { config, sockets: listening.into_iter().zip(fds).collect() }
            }
            ToAttendant::LogFile => {
                fds.first().into_iter().for_each(crate::logging::take_lines);
                return Ok(());
            }
            ToAttendant::LogLevels(changed) => {
                crate::logging::set_levels(&changed);
                return Ok(());
            }
            ToAttendant::Decide { id, event } => Said::Decide { id, event },
            ToAttendant::Certificates(opened) => Said::Certificates(read(opened, fds)),
            ToAttendant::Retire => {
                self.retired = true;
                Said::Retire
            }
            ToAttendant::End => return Err(Over::Ended),
        };
        self.say.send(said).await.map_err(|_| Over::Ended)
    }
}

/// Reads the files that the front has opened.
fn read(opened: Vec<OpenedCertificate>, fds: Vec<OwnedFd>) -> Vec<CertificateFiles> {
    let mut fds = fds.into_iter();
    let mut next = |path: &str| {
        let fd = fds.next().ok_or_else(|| format!("{path}: its descriptor is missing"))?;
        file::read_start(fd, MAX_PEM_BYTES).map_err(|error| format!("{path}: {error}"))
    };
    let one = |OpenedCertificate { cert, key, error }: OpenedCertificate| {
        let read = match error {
            Some(error) => Err(error),
            // Both are taken, whatever is in the first.
            None => match (next(&cert), next(&key)) {
                (Ok(cert), Ok(key)) => Ok((cert, key)),
                (Err(error), _) | (_, Err(error)) => Err(error),
            },
        };
        CertificateFiles { cert, key, read }
    };
    opened.into_iter().map(one).collect()
}
