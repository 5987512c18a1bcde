//! Files and ports that a process in the sandbox reaches (Landlock).
//!
//! Rules are tied to what a path means when the process goes in. Nothing outside of the shared directory is writable, and nothing anywhere
//! can be executed.

use crate::config::{Config, Forward, Pull};
use crate::control::attendants::{self, Role};
use crate::engine;
use crate::hooks::Action;
use crate::tls::acme;
use anyhow::Context;
use braidcast_sys::privileges;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The newest version of Landlock whose every right is accounted for here.
const KNOWN: ABI = ABI::V6;
/// What looking a name up takes: the resolver's files wherever they are linked to, and its modules.
const RESOLVER: [&str; 7] = ["/etc", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/usr/lib", "/lib", "/lib64"];
/// Where servers are expected that a hook's answer or a redirection names.
const RTMP_PORT: u16 = 1_935;
/// Who has the lock of a stream's log is read there.
const LOCKS: &str = "/proc/locks";
/// From which ports the kernel takes those that nobody has asked for.
const FREE_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Where a process connects to by TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connect {
    /// Nowhere.
    Nowhere,
    /// To these ports of any machine.
    Ports(BTreeSet<u16>),
    /// Anywhere.
    Anywhere,
}

/// What a process needs of the system beside its open descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Who it is, for the log.
    pub who: String,
    /// Files, and directories with all below them, that it reads. What is not there is left out.
    pub read: Vec<PathBuf>,
    /// As above, that it writes too.
    pub write: Vec<PathBuf>,
    /// Where it connects to.
    pub connect: Connect,
    /// It looks names up.
    pub names: bool,
    /// It listens, on any port.
    pub listens: bool,
    /// It connects to local sockets.
    pub local: bool,
    /// It sends signals to other processes.
    pub signals: bool,
}

impl Needs {
    /// Those of a worker.
    pub fn of_worker(who: String, config: &Config) -> Self {
        let shared = &config.server.shared_dir;
        let mut write: Vec<PathBuf> = ["workers", "sessions", "streams"].map(|name| shared.join(name)).into();
        // Processes of another server are ended by workers when there is no front.
        let relays = config.relays();
        if relays {
            write.push(shared.join(engine::DIRECTORY));
        }
        #[cfg(feature = "faults")]
        write.extend(std::env::var_os("BRAIDCAST_KILL_ONCE").and_then(|flag| PathBuf::from(flag).parent().map(Path::to_owned)));
        let servers = ports_of_servers(config);
        let names = !relays && !servers.is_empty();
        let connect = match (relays, servers.is_empty()) {
            // The processes get free ports at each start.
            (true, _) => Connect::Ports(servers.into_iter().chain(free_ports()).collect()),
            (false, true) => Connect::Nowhere,
            (false, false) => Connect::Ports(servers),
        };
        Self { who, read: vec![shared.clone(), LOCKS.into()], write, connect, names, listens: false, local: false, signals: relays }
    }

    /// Those of an attendant. Hooks may be changed while it runs, and connections that TLS was taken off go to the front by free ports of
    /// loopback: where it connects to is not restricted.
    pub fn of_attendant(role: Role, config: &Config) -> Self {
        let shared = &config.server.shared_dir;
        let mut read = vec![shared.clone()];
        let mut write = vec![shared.join(attendants::DIRECTORY)];
        if role == Role::Tls && !config.acme.domains.is_empty() {
            write.extend([shared.join(acme::CHALLENGES), config.server.state_dir.join(acme::DIRECTORY)]);
        }
        read.extend(AUTHORITIES.map(PathBuf::from));
        // What OpenSSL's tools obey too.
        read.extend(["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from));
        Self {
            who: format!("the attendant {role}"),
            read,
            write,
            connect: Connect::Anywhere,
            names: true,
            listens: role == Role::Tls,
            local: true,
            signals: false,
        }
    }
}

/// Where certificates of authorities lie, and what those in `/etc` are linked to.
const AUTHORITIES: [&str; 5] = ["/etc/ssl", "/etc/pki", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/usr/share/pki"];

/// The ports of the servers that streams go to and come from, and those that the configuration adds.
fn ports_of_servers(config: &Config) -> BTreeSet<u16> {
    let to = config.forward.iter().flat_map(|Forward { to, .. }| to.0.iter().filter_map(crate::relays::Template::port));
    let from = config.pull.iter().filter_map(|Pull { from, .. }| from.0.port());
    // Whom a hook or a redirection names is not known yet.
    let hooked = config.hook.iter().any(|hook| hook.events.0.contains(&Action::Forward));
    let named = Some(RTMP_PORT).filter(|_| hooked || !config.pull.is_empty() || !config.forward.is_empty());
    to.chain(from).chain(named).chain(config.sandbox.connect.iter().copied()).collect()
}

/// The ports that the kernel gives to who asks for none in particular.
fn free_ports() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string(FREE_PORTS).unwrap_or_default();
    let mut numbers = text.split_ascii_whitespace().filter_map(|number| number.parse().ok());
    numbers.next().unwrap_or(1_024)..=numbers.next().unwrap_or(u16::MAX)
}

/// Rules that are ready to be put into force.
#[derive(Debug)]
pub struct Reach {
    rules: RulesetCreated,
    abi: u32,
}

/// Makes the rules; `None`: the kernel has no Landlock that would do.
pub fn prepare(needs: &Needs) -> anyhow::Result<Option<Reach>> {
    let Some(abi) = privileges::landlock_abi().filter(|abi| *abi >= super::LANDLOCK_LEAST) else { return Ok(None) };
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?;
    if !needs.listens {
        rules = rules.handle_access(AccessNet::BindTcp)?;
    }
    if needs.connect != Connect::Anywhere {
        rules = rules.handle_access(AccessNet::ConnectTcp)?;
    }
    rules = rules.scope(Scope::AbstractUnixSocket)?;
    if !needs.signals {
        rules = rules.scope(Scope::Signal)?;
    }
    let mut rules = rules.create()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::from_all(KNOWN)
        & !(AccessFs::Execute
            | AccessFs::MakeChar
            | AccessFs::MakeBlock
            | AccessFs::MakeFifo
            | AccessFs::MakeSock
            | AccessFs::MakeSym
            | AccessFs::IoctlDev);
    let resolver = RESOLVER.iter().filter(|_| needs.names).map(Path::new);
    for path in needs.read.iter().map(PathBuf::as_path).chain(resolver) {
        rules = allow(rules, path, read)?;
    }
    for path in &needs.write {
        rules = allow(rules, path, write)?;
    }
    if let Connect::Ports(ports) = &needs.connect {
        let dns = Some(53).filter(|_| needs.names);
        for port in ports.iter().copied().chain(dns) {
            rules = rules.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
        }
    }
    Ok(Some(Reach { rules, abi }))
}

fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> anyhow::Result<RulesetCreated> {
    let of_files = AccessFs::from_file(KNOWN);
    let Ok(directory) = path.metadata().map(|found| found.is_dir()) else { return Ok(rules) };
    if path == Path::new(LOCKS) {
        // The kernel makes such a file's inode anew when nobody has it open, and the rule would be for the old one.
        std::mem::forget(File::open(path).context("opening /proc/locks")?);
    }
    let rule = PathBeneath::new(PathFd::new(path)?, if directory { access } else { access & of_files });
    Ok(rules.add_rule(rule)?)
}

impl Reach {
    /// Puts the rules into force. Returns the kernel's version of Landlock.
    pub fn restrict(self) -> anyhow::Result<u32> {
        let RestrictionStatus { ruleset, .. } = self.rules.restrict_self()?;
        anyhow::ensure!(ruleset != RulesetStatus::NotEnforced, "the kernel has Landlock and did not take the rules");
        Ok(self.abi)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{EngineKind, load_text};

    fn needs(text: &str) -> Needs {
        Needs::of_worker("worker 1".into(), &load_text(Path::new("b.toml"), text).unwrap().config)
    }

    #[test]
    fn workers_connect_to_what_is_configured() {
        let alone = needs("");
        assert_eq!((&alone.connect, alone.names, alone.signals), (&Connect::Nowhere, false, false));
        let relay = needs(
            "[[forward]]\nstreams = 'a/b'\nto = ['rtmp://h/a/b', 'rtmp://h:1936/a/b']\n\
             [[pull]]\nstream = 'a/c'\nfrom = 'http://h/c.flv'\n\
             [[pull]]\nstream = 'a/d'\nfrom = 'https://h:8443/d.m3u8'\n[sandbox]\nconnect = [7000]",
        );
        let ports = [1_935, 1_936, 80, 7_000].into();
        assert_eq!((relay.connect, relay.names), (Connect::Ports(ports), true), "who fetches HLS is another program");
        let asked = needs("[[hook]]\nevents = ['on_forward']\nurl = 'http://127.0.0.1:9999/'");
        assert_eq!((asked.connect, asked.names), (Connect::Ports([RTMP_PORT].into()), true));
        assert_eq!(needs("[[hook]]\nevents = ['on_play']\nurl = 'http://127.0.0.1:9999/'").connect, Connect::Nowhere);
    }

    #[test]
    fn relays_before_processes_connect_to_free_ports_and_may_end_them() {
        let mut config = Config::default();
        config.engine.kind = EngineKind::Srs;
        let needs = Needs::of_worker("worker 1".into(), &config);
        let Connect::Ports(ports) = &needs.connect else { panic!("{:?}", needs.connect) };
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(ports.contains(&free) && !ports.contains(&22) && needs.signals && !needs.names);
        assert!(needs.write.contains(&config.server.shared_dir.join("engine")));
    }

    #[test]
    fn rules_can_be_made_for_everybody() {
        let config = Config::default();
        let of_roles = Role::ALL.map(|role| Needs::of_attendant(role, &config));
        for needs in of_roles.into_iter().chain([Needs::of_worker("worker 1".into(), &config)]) {
            assert_eq!(prepare(&needs).unwrap().is_some(), privileges::landlock_abi() >= Some(super::super::LANDLOCK_LEAST));
        }
    }
}
