//! `braidcast doctor`: looks at the machine, the kernel and the sandbox, of a running instance too, and names for each fault the command
//! that mends it. Changes nothing.

use super::check;
use super::findings::{Finding, Findings, Verdict};
use super::print;
use super::serve::ConfigArgs;
use crate::attendant::report;
use crate::config::{self, Config};
use crate::control::WorkerId;
use crate::control::counters::WorkerCounter;
use crate::control::pages::FrontPage;
use crate::front;
use crate::sandbox::{self, Standing};
use crate::status::instance;
use braidcast_stream_log::{Root, WorkerPage};
use braidcast_sys::{clock, features, privileges, process};
use clap::Args;
use serde_json::json;
use std::fmt::Write;
use std::io;
use std::process::ExitCode;

/// A clock that says an earlier time is wrong: 2025 began then, milliseconds.
const EARLIEST_MS: u64 = 1_735_689_600_000;
/// A process that has so many of a hundred descriptors open will soon have no more.
const NEARLY_ALL_PERCENT: u64 = 80;
/// The capability to send signals (linux/capability.h), which workers before processes of another server keep.
const CAP_KILL: u64 = 1 << 5;
/// Uses something of the kernel once.
type Ability = fn() -> io::Result<()>;
/// `SECCOMP_MODE_FILTER`, as `/proc/PID/status` says it.
const FILTERED: &str = "2";

#[derive(Args)]
#[command(after_help = "\
Everything that `braidcast check` looks at, and the kernel, the clock, and how far the workers of a running instance are in the sandbox.
Give it the configuration of the instance. The exit code is 1 if there is an error. As root it sees more.

Examples:
  braidcast doctor
  braidcast doctor -c /etc/braidcast.toml
  braidcast doctor --json | jq '.findings[] | select(.verdict != \"ok\")'")]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON, on one line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    let mut running = None;
    match config::load(&args.config.sources()?) {
        Ok(loaded) => {
            findings.add(Verdict::Ok, "configuration: makes sense");
            for warning in &loaded.warnings {
                findings.add(Verdict::Warn, format!("configuration: {warning}"));
            }
            running = instance::lock_holder(&loaded.config.server.shared_dir);
            check::machine(&loaded.config, &mut findings);
            if let Some(pid) = running {
                own(&mut findings, pid);
            }
            outer_sandbox(&loaded.config, &mut findings);
            if running.is_some() {
                processes(&loaded.config, &mut findings);
            }
        }
        Err(problems) => problems.0.iter().for_each(|problem| findings.add(Verdict::Error, format!("configuration: {problem}"))),
    }
    kernel(&mut findings);
    time(&mut findings);
    print(&if args.json { json_of(&findings, running) } else { text_of(&findings) })?;
    Ok(if findings.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What would be in the way of a start is as it should be if the running instance itself is in the way.
fn own(findings: &mut Findings, pid: u32) {
    let holder = format!("(pid {pid})");
    for finding in findings.all_mut().iter_mut().filter(|finding| finding.verdict == Verdict::Warn && finding.said.ends_with(&holder)) {
        finding.verdict = Verdict::Ok;
    }
}

/// The sandbox as it would be on this machine.
fn outer_sandbox(config: &Config, findings: &mut Findings) {
    let mut settled = config.sandbox.clone();
    if !settled.enabled {
        findings.add(Verdict::Warn, "sandbox: [sandbox] enabled = false: workers have all rights of the server's user");
        return findings.mend("set [sandbox] enabled = true, and start the server anew");
    }
    match sandbox::resolve(&config.sandbox) {
        Ok(Some(identity)) => {
            (settled.user, settled.group) = (identity.uid.to_string(), identity.gid.to_string());
            let shared = config.sandbox.user.is_empty() && privileges::user("braidcast").ok().flatten().is_none();
            if shared {
                findings.add(Verdict::Warn, "sandbox: workers become the user nobody, whom other servers become too");
                findings.mend("useradd --system --no-create-home --shell /usr/sbin/nologin braidcast    # and start the server anew");
            } else {
                findings.add(Verdict::Ok, format!("sandbox: workers become user {}, group {}", identity.uid, identity.gid));
            }
            if let Err(error) = front::check_way(&config.server.shared_dir, identity) {
                findings.add(Verdict::Error, format!("sandbox: {error:#}"));
            }
        }
        Ok(None) => findings.add(Verdict::Ok, format!("sandbox: workers stay user {}", privileges::effective_uid())),
        Err(error) => findings.add(Verdict::Error, format!("sandbox: {error:#}")),
    }
    for lack in sandbox::lacks(&settled) {
        findings.add(Verdict::Warn, format!("sandbox: {}", lack.said));
        findings.mend(lack.mend);
    }
}

/// Each process of the running instance: how far it is in the sandbox, how many descriptors it has left.
fn processes(config: &Config, findings: &mut Findings) {
    let shared_dir = &config.server.shared_dir;
    let page = match FrontPage::open(shared_dir) {
        Ok(page) => page,
        Err(error) => return findings.add(Verdict::Error, format!("instance: its page cannot be read: {error}")),
    };
    if let Some(front) = instance::lock_holder(shared_dir) {
        descriptors("front", front, findings);
    }
    for id in (1..=page.workers()).map(WorkerId) {
        let (name, pid) = (format!("worker {id}"), page.row(id).pid);
        if pid == 0 {
            findings.add(Verdict::Error, format!("{name}: has no process"));
            findings.mend(format!("braidcast status --shared-dir {}    # and what the server's log says of it", shared_dir.display()));
            continue;
        }
        let bits = WorkerPage::open(&Root::new(shared_dir.clone()), id.0).map(|page| page.counter(WorkerCounter::Sandbox as usize));
        let standing = Standing::from_bits(bits.unwrap_or(0));
        inside(config, &name, pid, &format!("; sandbox: {standing}"), findings);
        descriptors(&name, pid, findings);
    }
    for attendant in report::read(shared_dir).into_iter().filter(|attendant| attendant.pid != 0) {
        let name = format!("attendant {}", attendant.role);
        inside(config, &name, attendant.pid, "", findings);
        descriptors(&name, attendant.pid, findings);
    }
}

/// What the kernel says of a process that should be in the sandbox.
fn inside(config: &Config, name: &str, pid: u32, standing: &str, findings: &mut Findings) {
    let line = |name| process::status_line(pid, name);
    let (Some(users), Some(capabilities)) = (line("Uid"), line("CapEff")) else {
        return findings.add(Verdict::Error, format!("{name}: process {pid} is gone"));
    };
    let effective = users.split_ascii_whitespace().nth(1).unwrap_or("?");
    let capabilities = u64::from_str_radix(&capabilities, 16).unwrap_or(u64::MAX);
    let allowed = if config.relays() { CAP_KILL } else { 0 };
    let mut faults = Vec::new();
    if effective == "0" {
        faults.push("it is root".to_owned());
    }
    if capabilities & !allowed != 0 {
        faults.push(format!("it has the capabilities {capabilities:#x}"));
    }
    if line("NoNewPrivs").as_deref() != Some("1") {
        faults.push("a program that it starts may have more rights".to_owned());
    }
    if line("Seccomp").as_deref() != Some(FILTERED) {
        faults.push("its system calls are not filtered".to_owned());
    }
    if faults.is_empty() {
        findings.add(Verdict::Ok, format!("{name}: process {pid}, user {effective}, no capabilities, calls filtered{standing}"));
    } else {
        let verdict = if config.sandbox.enabled { Verdict::Error } else { Verdict::Warn };
        findings.add(verdict, format!("{name}: process {pid}, user {effective}: {}{standing}", faults.join(", ")));
        findings.mend("set [sandbox] enabled = true, and start the server anew");
    }
}

fn descriptors(name: &str, pid: u32, findings: &mut Findings) {
    let Some((open, most)) = process::descriptors(pid) else { return };
    if open.saturating_mul(100) / most.max(1) >= NEARLY_ALL_PERCENT {
        findings.add(Verdict::Warn, format!("{name}: {open} of {most} descriptors are open"));
        findings.mend(format!("prlimit --pid {pid} --nofile={0}:{0}    # for good: LimitNOFILE= in its unit", most.saturating_mul(2)));
    }
}

fn kernel(findings: &mut Findings) {
    let name = format!("kernel {}", features::kernel_release());
    let needed: [(&str, Ability); 4] = [
        ("handles for processes (pidfd, Linux 5.4)", features::pidfd),
        ("descriptors in packets between processes (SOCK_SEQPACKET)", features::descriptors_in_packets),
        ("the counters of TCP connections and TCP_NOTSENT_LOWAT", features::tcp),
        ("files in memory without a name (memfd)", features::memfd),
    ];
    let mut all = true;
    for (what, try_it) in needed {
        if let Err(error) = try_it() {
            all = false;
            findings.add(Verdict::Error, format!("{name}: has not {what}: {error}"));
            findings.mend("apt-get install linux-image-amd64 && reboot    # or a container runtime that does not refuse it");
        }
    }
    if all {
        findings.add(Verdict::Ok, format!("{name}: pidfd, descriptors in packets, TCP counters, TCP_NOTSENT_LOWAT, memfd are there"));
    }
    if let Some(abi) = privileges::landlock_abi() {
        findings.add(Verdict::Ok, format!("{name}: Landlock {abi}"));
    }
    let tls = if features::kernel_tls() { "there" } else { "not loaded" };
    findings.add(Verdict::Ok, format!("{name}: TLS in the kernel is {tls}; the server does without"));
}

fn time(findings: &mut Findings) {
    if clock::wall_ms() < EARLIEST_MS {
        findings.add(Verdict::Error, "time: the clock is years behind: certificates, tokens and signed addresses will not do");
        return findings.mend("timedatectl set-ntp true    # or: date -s 'YYYY-MM-DD hh:mm'");
    }
    match features::clock_is_kept() {
        Some(true) => findings.add(Verdict::Ok, "time: the clock is kept right"),
        Some(false) => {
            findings.add(
                Verdict::Warn,
                "time: nothing says that it keeps the clock right (NTP): dates in playlists, logs and signed addresses drift",
            );
            findings.mend("timedatectl set-ntp true    # in a virtual machine or container the host may do it unseen");
        }
        None => findings.add(Verdict::Ok, "time: this process is not told whether the clock is kept right"),
    }
}

/// The topic, and what was found of it.
fn parted(finding: &Finding) -> (&str, &str) {
    finding.said.split_once(": ").unwrap_or((&finding.said, ""))
}

fn text_of(findings: &Findings) -> String {
    let width = findings.all().iter().map(|finding| parted(finding).0.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in findings.all() {
        let (topic, said) = parted(finding);
        writeln!(out, "{:<6} {topic:<width$}  {said}", finding.verdict.word()).expect("writing to a string does not fail");
        if let Some(mend) = &finding.mend {
            writeln!(out, "{:<6} {:<width$}  > {mend}", "", "").expect("writing to a string does not fail");
        }
    }
    let count = |verdict| findings.all().iter().filter(|finding| finding.verdict == verdict).count();
    writeln!(out, "\nerrors: {}, warnings: {}", count(Verdict::Error), count(Verdict::Warn)).expect("writing to a string does not fail");
    out
}

fn json_of(findings: &Findings, running: Option<u32>) -> String {
    let finding = |finding: &Finding| {
        let (topic, said) = parted(finding);
        json!({ "verdict": finding.verdict.word(), "topic": topic, "said": said, "mend": finding.mend })
    };
    let list: Vec<_> = findings.all().iter().map(finding).collect();
    let answer = json!({ "version": crate::VERSION, "ok": !findings.failed(), "pid": running, "findings": list });
    format!("{answer}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_in_columns_with_what_mends_them() {
        let mut findings = Findings::default();
        findings.add(Verdict::Ok, "a: is good");
        findings.add(Verdict::Warn, "long topic: is so so (pid 7)");
        findings.mend("do this");
        let text =
            "ok     a           is good\nwarn   long topic  is so so (pid 7)\n                   > do this\n\nerrors: 0, warnings: 1\n";
        assert_eq!(text_of(&findings), text);
        assert!(
            json_of(&findings, None)
                .contains("{\"verdict\":\"warn\",\"topic\":\"long topic\",\"said\":\"is so so (pid 7)\",\"mend\":\"do this\"}")
        );
        own(&mut findings, 7);
        assert!(text_of(&findings).ends_with("errors: 0, warnings: 0\n"));
    }
}
