//! `braidcast check`: reads the configuration and looks at the machine, one line for each finding. Starts nothing and leaves nothing behind.

use super::findings::{Finding, Findings, Verdict};
use super::ports::who_listens;
use super::print;
use super::serve::ConfigArgs;
use crate::access::files::KeyFiles;
use crate::config::{self, Certificate, Config, Size};
use crate::front;
use crate::srs_conf::NoteKind;
use crate::status::instance;
use braidcast_sys::{clock, file, limits, net};
use clap::Args;
use std::fmt::Write;
use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Less room than this in the shared directory is worth a warning: 20 s of ten streams of 10 Mbit/s, without their segments.
const SMALL_DIRECTORY: Size = Size::mib(256);

#[derive(Args)]
#[command(after_help = "\
Each finding is a line that begins with ok, warn or error. The exit code is 1 if there is an error.

Examples:
  braidcast check
  braidcast check -c /etc/braidcast.toml
  braidcast check --http 127.0.0.1:8081 --set log.budget=2GiB
  braidcast check --print > /etc/braidcast.toml")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the configuration that takes effect, every key of it, and look at nothing else
    #[arg(long)]
    print: bool,
}

impl Findings {
    fn text(&self) -> String {
        let mut out = String::new();
        for Finding { verdict, said, .. } in self.all() {
            writeln!(out, "{:<6} {said}", verdict.word()).expect("writing to a string does not fail");
        }
        out
    }
}

pub(super) fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let sources = args.config.sources()?;
    if args.print {
        print(&config::load(&sources)?.config.to_toml())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut findings = Findings::default();
    match config::load(&sources) {
        Ok(loaded) => {
            let name = sources.file.as_ref().map_or("built-in defaults".to_owned(), |path| path.display().to_string());
            findings.add(Verdict::Ok, format!("configuration: {name}"));
            for warning in &loaded.warnings {
                findings.add(Verdict::Warn, format!("configuration: {warning}"));
            }
            machine(&loaded.config, &mut findings);
        }
        Err(problems) => {
            for problem in &problems.0 {
                findings.add(Verdict::Error, format!("configuration: {problem}"));
            }
        }
    }
    print(&findings.text())?;
    Ok(if findings.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Looks at the machine for a configuration.
pub(super) fn machine(config: &Config, findings: &mut Findings) {
    let running = instance::lock_holder(&config.server.shared_dir);
    if let Some(pid) = running {
        findings.add(Verdict::Warn, format!("instance: one runs with this shared directory (pid {pid})"));
    }
    for (section, key, addresses) in config.listens() {
        let what = if section == "tls" { key } else { section };
        if addresses.is_empty() && matches!(section, "rtmp" | "http" | "api") {
            findings.add(Verdict::Warn, format!("{section}: listens nowhere"));
        }
        for address in addresses {
            port(what, *address, running, findings);
        }
    }
    certificates(config, findings);
    for id in 1..=config.workers() {
        if let Some(sub_port) = config.sub_port(id) {
            port(&format!("worker {id}"), ([127, 0, 0, 1], sub_port).into(), running, findings);
        }
    }
    relays(config, findings);
    access(config, findings);
    engine(config, findings);
    shared_directory(config, findings);
    state_directory(&config.server.state_dir, running, findings);
    descriptors(config, findings);
}

/// What processes of another server are made from.
fn engine(config: &Config, findings: &mut Findings) {
    if !config.relays() {
        return;
    }
    match front::Recipe::read(&config.engine) {
        Ok(recipe) => {
            let program = recipe.program(&config.engine);
            match program.is_file() {
                true => findings.add(Verdict::Ok, format!("engine: {} processes of {}", config.processes(), program.display())),
                false => {
                    findings.add(Verdict::Error, format!("engine: {} is no file: say [engine] srs_binary or command", program.display()))
                }
            }
            for note in recipe.notes() {
                findings.add(if note.kind == NoteKind::Changed { Verdict::Ok } else { Verdict::Warn }, format!("engine: {note}"));
            }
        }
        Err(error) => findings.add(Verdict::Error, format!("engine: {error:#}")),
    }
}

fn certificates(config: &Config, findings: &mut Findings) {
    let now_s = i64::try_from(clock::wall_ms() / 1_000).unwrap_or(i64::MAX);
    for Certificate { cert, key } in &config.certificate {
        let name = format!("[[certificate]] cert = {:?}", cert.display().to_string());
        match crate::tls::certificates::Certificate::read(cert, key) {
            Ok(certificate) => match certificate.invalid_at(now_s) {
                Some(why) => findings.add(Verdict::Warn, format!("{name}: for {certificate}: {why}")),
                None => findings.add(Verdict::Ok, format!("{name}: for {certificate}")),
            },
            Err(why) => findings.add(Verdict::Error, format!("{name}: {why}")),
        }
    }
}

/// Files with keys for access rules have to hold some.
fn access(config: &Config, findings: &mut Findings) {
    match KeyFiles::read(config) {
        Ok(files) if files.is_empty() => {}
        Ok(files) => {
            files.contents().for_each(|(path, _)| findings.add(Verdict::Ok, format!("[[access]]: the keys in {path} can be used")));
        }
        Err(error) => findings.add(Verdict::Error, format!("{error:#}")),
    }
}

/// What fetches HLS has to be there if something is to be fetched.
fn relays(config: &Config, findings: &mut Findings) {
    let needed = config.pull.iter().find(|pull| pull.from.0.is_hls());
    let Some(pull) = needed else { return };
    let program = &config.relay.ffmpeg;
    let tried = Command::new(program).arg("-version").stdin(Stdio::null()).output();
    match tried {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
            findings.add(Verdict::Ok, format!("[relay] ffmpeg: {version}"));
        }
        Ok(output) => findings.add(Verdict::Error, format!("[relay] ffmpeg = {program:?} does not run ({})", output.status)),
        Err(error) => {
            let message = format!(
                "[relay] ffmpeg = {program:?} cannot be run ({error}): it is needed to fetch {:?} ([[pull]] from); install ffmpeg, or name its path",
                pull.stream.as_str()
            );
            findings.add(Verdict::Error, message);
        }
    }
}

fn port(what: &str, address: SocketAddr, running: Option<u32>, findings: &mut Findings) {
    let error = match net::listen(address, 1, true, true) {
        Ok(_) => return findings.add(Verdict::Ok, format!("{what}: {address} is free")),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = who_listens(address);
            let ours = holder.as_ref().is_some_and(|holder| Some(holder.pid) == running);
            let verdict = if ours { Verdict::Warn } else { Verdict::Error };
            let holder = holder.map_or("a process that cannot be seen from here".to_owned(), |holder| holder.to_string());
            findings.add(verdict, format!("{what}: {address} is taken by {holder}"));
            if !ours {
                findings.mend(format!("ss -ltnp 'sport = :{}'    # who it is; stop it, or listen elsewhere", address.port()));
            }
        }
        io::ErrorKind::PermissionDenied => {
            findings.add(Verdict::Error, format!("{what}: {address}: this user may not listen there ({error})"));
            findings.mend(format!("sysctl -w net.ipv4.ip_unprivileged_port_start={}", address.port()));
        }
        // A machine without IPv6 serves IPv4 all the same, if nobody asked for a certain address.
        _ if address.is_ipv6() && address.ip().is_unspecified() => {
            findings.add(Verdict::Warn, format!("{what}: {address}: no IPv6 here ({error})"));
        }
        _ => findings.add(Verdict::Error, format!("{what}: {address}: {error}")),
    }
}

fn shared_directory(config: &Config, findings: &mut Findings) {
    let directory = &config.server.shared_dir;
    let name = format!("shared_dir {}", directory.display());
    let existing = match writable(directory) {
        Ok(existing) => existing,
        Err(fault) => return findings.add(Verdict::Error, format!("{name}: {fault}")),
    };
    let system = match file::file_system(existing) {
        Ok(system) => system,
        Err(error) => return findings.add(Verdict::Error, format!("{name}: {error}")),
    };
    match (system.is_tmpfs, config.server.allow_disk) {
        (true, _) => {}
        (false, true) => findings.add(Verdict::Warn, format!("{name}: not in memory (not tmpfs), as allow_disk allows")),
        (false, false) => {
            let message = format!("{name}: not in memory (not tmpfs); choose a directory in /dev/shm, or set [server] allow_disk = true");
            findings.add(Verdict::Error, message);
            return findings.mend(format!("mkdir -p {0} && mount -t tmpfs -o mode=0755,size=50% tmpfs {0}", directory.display()));
        }
    }
    let size = Some(system.total_bytes).filter(|bytes| *bytes != 0);
    let allowed = [size, limits::cgroup_memory_max()].into_iter().flatten().min();
    let Some(allowed) = allowed else { return findings.add(Verdict::Ok, format!("{name}: no limit on its size")) };
    let shown = format!("{name}: {} in all, {} free", in_mib(allowed), in_mib(system.free_bytes.min(allowed)));
    if allowed < SMALL_DIRECTORY.bytes() {
        findings.add(
            Verdict::Warn,
            format!("{shown}: that is small (in a container: --shm-size, in Kubernetes: an emptyDir with medium Memory)"),
        );
        findings.mend(format!("mount -o remount,size=50% $(stat -c %m {})", existing.display()));
    } else {
        findings.add(Verdict::Ok, shown);
    }
    if config.log.budget.bytes() > allowed {
        findings.add(Verdict::Error, format!("[log] budget = {} is more than there is: {}", config.log.budget, in_mib(allowed)));
    }
}

fn state_directory(directory: &Path, running: Option<u32>, findings: &mut Findings) {
    let name = format!("state_dir {}", directory.display());
    if let Some(pid) = instance::state_lock_holder(directory).filter(|pid| Some(*pid) != running) {
        let message = format!("{name}: another instance uses it (pid {pid}): give this one its own, with --state-dir");
        return findings.add(Verdict::Error, message);
    }
    match writable(directory).map(file::file_system) {
        Ok(Ok(system)) if system.is_tmpfs => {
            findings.add(Verdict::Warn, format!("{name}: in memory: after a reboot segment numbers begin at 1 again"));
        }
        Ok(_) => findings.add(Verdict::Ok, format!("{name}: can be written to")),
        Err(fault) => {
            findings.add(Verdict::Error, format!("{name}: {fault}"));
            findings.mend(format!(
                "install -d -m 0700 -o $(id -un) {}    # as root; or name another one with --state-dir",
                directory.display()
            ));
        }
    }
}

fn descriptors(config: &Config, findings: &mut Findings) {
    let wanted = front::descriptors_wanted(config);
    // The limit that is raised is this process's own, and ends with it.
    match limits::raise_rlimit_nofile(wanted) {
        Ok(limit) if limit.soft >= wanted => {
            findings.add(Verdict::Ok, format!("descriptors: {wanted} can be had for {} connections", config.limits.connections))
        }
        result => {
            let soft = result.unwrap_or(limits::rlimit_nofile()).soft;
            let message = format!(
                "descriptors: only {soft}, but [limits] connections = {} needs {wanted} (ulimit -n, LimitNOFILE)",
                config.limits.connections
            );
            findings.add(Verdict::Warn, message);
            findings.mend(format!("ulimit -n {wanted}    # a systemd unit: LimitNOFILE={wanted}"));
        }
    }
}

/// The directory itself, or the nearest one above it that is there, if files can be made in it.
fn writable(directory: &Path) -> Result<&Path, String> {
    let existing = directory.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    if !existing.is_dir() {
        return Err(format!("{} is not a directory", existing.display()));
    }
    let probe = existing.join(format!(".braidcast-check-{}", std::process::id()));
    let made = OpenOptions::new().write(true).create_new(true).open(&probe);
    made.and_then(|_| std::fs::remove_file(&probe))
        .map_err(|error| format!("this user cannot write in {} ({error})", existing.display()))?;
    Ok(existing)
}

fn in_mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn text_of(config: &Config) -> (String, bool) {
        let mut findings = Findings::default();
        machine(config, &mut findings);
        (findings.text(), findings.failed())
    }

    fn quiet(directory: &Path) -> Config {
        let mut config = Config::default();
        config.rtmp.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.http.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.api.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.limits.connections = 10;
        config.server.shared_dir = directory.join("shared");
        config.server.state_dir = directory.join("state");
        config
    }

    #[test]
    fn a_taken_port_names_its_holder() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut config = quiet(directory.path());
        assert!(!text_of(&config).1, "{}", text_of(&config).0);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        config.http.listen = vec![taken.local_addr().unwrap()];
        let (text, failed) = text_of(&config);
        assert!(failed);
        assert!(text.contains(&format!("error  http: {} is taken by ", taken.local_addr().unwrap())), "{text}");
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_program_that_is_needed_and_missing_is_an_error() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut config = quiet(directory.path());
        config.relay.ffmpeg = "/nowhere/ffmpeg".into();
        assert!(!text_of(&config).0.contains("ffmpeg"), "nobody needs it");
        let hls = "{\"stream\":\"live/x\",\"from\":\"https://h/x.m3u8\"}";
        config.pull = vec![serde_json::from_str(hls).unwrap()];
        let (text, failed) = text_of(&config);
        assert!(failed && text.contains("error  [relay] ffmpeg = \"/nowhere/ffmpeg\" cannot be run"), "{text}");
    }

    #[test]
    fn a_shared_directory_on_a_disk_is_refused_unless_allowed() {
        let mut config = quiet(Path::new("/dev/shm"));
        config.server.shared_dir = "/proc/self".into();
        assert!(text_of(&config).0.contains("error  shared_dir /proc/self: this user cannot write in /proc/self"));
        let disk = std::env::current_dir().unwrap();
        if file::file_system(&disk).unwrap().is_tmpfs {
            return;
        }
        config.server.shared_dir = disk.join("shared");
        assert!(text_of(&config).1);
        config.server.allow_disk = true;
        assert!(!text_of(&config).1, "{}", text_of(&config).0);
    }
}
