//! The attendant that takes TLS off: it has the listening sockets for TLS, makes the handshakes, and gives each client's bytes to a worker
//! through a connection within the machine. Workers die, move and are upgraded behind it; its own death ends the connections it has.
//!
//! It knows nothing of RTMP, and of HTTP only what HTTP/2 makes it translate.

pub mod acme;
pub mod certificates;
mod clients;
mod http2;
mod pair;
mod x509;

use crate::attendant::page::Page;
use crate::attendant::{Attendant, CertificateFiles, Outbox, Said};
use crate::config::{Acme, Config, TlsVersion};
use crate::control::attendants::Role;
use crate::control::counters::TlsCounter;
use crate::control::{Listener, ListeningSocket};
use crate::logging::RateLimit;
use anyhow::Context;
use braidcast_sys::clock;
use certificates::{Certificate, Resolver};
use clients::{Clients, Most};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long clients may take to go when the workers have ended.
const ENDING: Duration = Duration::from_secs(2);
/// How often gauges are brought up to date, and what ends is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What all tasks of this process share.
#[derive(Debug)]
pub struct Server {
    page: Page,
    outbox: Outbox,
    resolver: Arc<Resolver>,
    settings: RwLock<Arc<Settings>>,
    clients: Mutex<Clients>,
    lines: Mutex<RateLimit>,
    retired: watch::Sender<bool>,
    /// Told when the configuration is another one.
    changed: watch::Sender<()>,
    shared_dir: PathBuf,
    /// What ACME keeps, if certificates were to be fetched when this process began.
    kept: Option<acme::State>,
    certificates: Mutex<Known>,
}

/// The certificates in use.
#[derive(Debug, Default)]
struct Known {
    /// Of files, by the name of the file.
    files: Vec<(String, Certificate)>,
    /// The one that was fetched.
    fetched: Option<Certificate>,
}

/// What the configuration says, made ready.
#[derive(Debug)]
pub struct Settings {
    config: Config,
    rtmps: Arc<ServerConfig>,
    https: Arc<ServerConfig>,
}

/// Runs until everybody has gone, or the server ends.
pub async fn serve(mut attendant: Attendant, kept: Option<acme::State>) -> anyhow::Result<()> {
    let Said::Welcome { config, sockets } = attendant.next().await else { return Ok(()) };
    let server = Arc::new(Server::new(&attendant, *config, kept)?);
    // Begun when the certificates are there.
    let mut waiting = Some((attendant.lock(), sockets));
    let mut accepting = JoinSet::new();
    let drained = loop {
        tokio::select! {
            said = attendant.next() => match said {
                Said::Welcome { config, .. } => {
                    if needs_another_process(&server.settings().config.acme, &config.acme) {
                        attendant.outbox().outgrown().await;
                    }
                    server.configure(*config);
                }
                Said::Certificates(files) => {
                    server.take_certificates(files);
                    if let Some((lock, sockets)) = waiting.take() {
                        accepting.spawn(accept(server.clone(), lock, sockets));
                    }
                }
                Said::Decide { id, .. } => tracing::error!(%id, "a question that is none of this attendant's"),
                Said::Retire => break Duration::from_millis(server.settings().config.tls.drain_limit.as_ms()),
                Said::End => break ENDING,
            },
            () = tokio::time::sleep(LOOK) => server.show(),
        }
    };
    server.retired.send_replace(true);
    // With it the listening sockets and the lock go: another process may take clients.
    drop(accepting);
    server.drain(&mut attendant, drained).await;
    Ok(())
}

/// What a process is given for ACME it is given before it may get at nothing any more.
fn needs_another_process(before: &Acme, now: &Acme) -> bool {
    before.domains.is_empty() != now.domains.is_empty() || before.ca_file != now.ca_file
}

/// Takes clients as soon as no other process does.
async fn accept(
    server: Arc<Server>,
    lock: impl Future<Output = std::io::Result<crate::attendant::RoleLock>>,
    sockets: Vec<(ListeningSocket, OwnedFd)>,
) {
    let _lock = match lock.await {
        Ok(lock) => lock,
        Err(error) => return tracing::error!(%error, "the lock of the attendant for TLS cannot be taken: no client is"),
    };
    acme::use_kept(&server);
    let mut tasks = JoinSet::new();
    for (listening, socket) in sockets {
        tasks.spawn(clients::accept(server.clone(), listening, socket));
    }
    tasks.spawn(acme::keep(server));
    while tasks.join_next().await.is_some() {}
}

impl Server {
    fn new(attendant: &Attendant, config: Config, kept: Option<acme::State>) -> anyhow::Result<Self> {
        let page = Page::create(attendant.shared_dir(), Role::Tls).context("making the page of counters: is the shared directory full?")?;
        page.counter(TlsCounter::Pid as usize).store(std::process::id().into(), Relaxed);
        let resolver = Arc::new(Resolver::default());
        Ok(Self {
            page,
            outbox: attendant.outbox().clone(),
            settings: RwLock::new(Arc::new(Settings::new(config, &resolver)?)),
            resolver,
            clients: Mutex::default(),
            lines: Mutex::default(),
            retired: watch::Sender::new(false),
            changed: watch::Sender::new(()),
            shared_dir: attendant.shared_dir().to_owned(),
            kept,
            certificates: Mutex::default(),
        })
    }

    /// Another configuration, for whoever connects from now on.
    fn configure(&self, config: Config) {
        match Settings::new(config, &self.resolver) {
            Ok(settings) => {
                *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
                self.changed.send_replace(());
            }
            Err(error) => tracing::error!(error = format!("{error:#}"), "the configuration of TLS stays as it was"),
        }
    }

    /// Uses the certificates that the front has opened; of one that cannot be used the one before goes on.
    fn take_certificates(&self, files: Vec<CertificateFiles>) {
        let mut known = self.known();
        let mut next = Vec::new();
        for CertificateFiles { cert, key, read } in files {
            let before = known.files.iter().find(|(name, _)| *name == cert).map(|(_, certificate)| certificate);
            match read.and_then(|(cert_pem, key_pem)| Certificate::load(&cert_pem, &key_pem)) {
                Ok(certificate) => {
                    tell_of(&certificate, before, &cert);
                    next.push((cert, certificate));
                }
                Err(why) => {
                    self.add(TlsCounter::CertificateFailures, 1);
                    let goes_on = if before.is_some() { "the one before goes on" } else { "clients that name it get another one" };
                    tracing::error!(%cert, %key, "the certificate cannot be used: {why}; {goes_on}");
                    next.extend(before.map(|before| (cert.clone(), before.clone())));
                }
            }
        }
        known.files = next;
        self.use_certificates(&known);
    }

    /// Uses the certificate that was fetched.
    fn use_fetched(&self, certificate: Option<Certificate>) {
        let mut known = self.known();
        if let Some(certificate) = &certificate {
            tell_of(certificate, known.fetched.as_ref(), "fetched by ACME");
        }
        known.fetched = certificate;
        self.use_certificates(&known);
    }

    fn use_certificates(&self, known: &Known) {
        let certificates: Vec<Certificate> =
            known.files.iter().map(|(_, certificate)| certificate).chain(&known.fetched).cloned().collect();
        self.resolver.replace(&certificates);
        let first = certificates.iter().map(|certificate| certificate.facts.expires_s).min().unwrap_or(0);
        self.set(TlsCounter::Certificates, certificates.len() as u64);
        self.set(TlsCounter::CertificateExpiry, u64::try_from(first).unwrap_or(0));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all clients have gone, at most for so long, or until the server ends.
    async fn drain(&self, attendant: &mut Attendant, limit: Duration) {
        let mut deadline = tokio::time::Instant::now() + limit;
        let mut ended = false;
        while self.clients().count().0 > 0 && tokio::time::Instant::now() < deadline {
            tokio::select! {
                said = attendant.next(), if !ended => if matches!(said, Said::End) {
                    ended = true;
                    deadline = deadline.min(tokio::time::Instant::now() + ENDING);
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn show(&self) {
        let (connections, handshakes) = self.clients().count();
        self.set(TlsCounter::Connections, connections.into());
        self.set(TlsCounter::Handshaking, handshakes.into());
        self.set(TlsCounter::LogLinesSuppressed, self.lines.lock().unwrap_or_else(PoisonError::into_inner).suppressed());
    }

    fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Becomes true when no more clients are taken.
    fn retired(&self) -> watch::Receiver<bool> {
        self.retired.subscribe()
    }

    /// Told when the configuration is another one.
    fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn add(&self, counter: TlsCounter, by: u64) {
        self.page.counter(counter as usize).fetch_add(by, Relaxed);
    }

    fn set(&self, gauge: TlsCounter, value: u64) {
        self.page.counter(gauge as usize).store(value, Relaxed);
    }

    /// Writes a line that a client can cause, unless there were too many of them.
    fn line(&self, write: impl FnOnce()) {
        if self.lines.lock().unwrap_or_else(PoisonError::into_inner).allow(clock::monotonic_ms()) {
            write();
        }
    }
}

/// Says which certificate is used from now on, if it is not the one before.
fn tell_of(certificate: &Certificate, before: Option<&Certificate>, source: &str) {
    let now_s = i64::try_from(clock::wall_ms() / 1_000).unwrap_or(i64::MAX);
    match certificate.invalid_at(now_s) {
        Some(why) => tracing::warn!(source, "certificate for {certificate}: {why}; clients will not like it"),
        None if before.is_none_or(|before| before.facts != certificate.facts) => tracing::info!(source, "certificate for {certificate}"),
        None => {}
    }
}

impl Settings {
    fn new(config: Config, resolver: &Arc<Resolver>) -> anyhow::Result<Self> {
        let offers: &[&[u8]] = if config.tls.http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        let make = |alpn: &[&[u8]]| -> anyhow::Result<Arc<ServerConfig>> {
            let versions = match config.tls.min_version {
                TlsVersion::V12 => rustls::DEFAULT_VERSIONS,
                TlsVersion::V13 => &[&rustls::version::TLS13],
            };
            let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
            let builder = builder.with_protocol_versions(versions).context("versions of TLS")?;
            let mut tls = builder.with_no_client_auth().with_cert_resolver(resolver.clone());
            tls.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            tls.ticketer = aws_lc_rs::Ticketer::new().context("keys for session tickets")?;
            Ok(Arc::new(tls))
        };
        let (rtmps, https) = (make(&[])?, make(offers)?);
        Ok(Self { config, rtmps, https })
    }

    fn tls(&self, listener: Listener) -> Arc<ServerConfig> {
        if listener == Listener::Rtmps { self.rtmps.clone() } else { self.https.clone() }
    }

    fn most(&self) -> Most {
        let limits = &self.config.limits;
        Most { connections: limits.connections, of_address: limits.connections_per_address, handshakes: self.config.tls.handshakes }
    }
}
