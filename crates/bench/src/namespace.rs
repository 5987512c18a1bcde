//! The same comparison where packets are as small as on a wire: in a network namespace of its own.
//!
//! Loopback's MTU of 65,536 flatters servers that send small pieces. Nothing of the machine's own network is touched: the
//! namespace has a loopback interface only, with the MTU wanted, and is gone with the last process in it, however that ended.

use crate::process::{Guarded, Interrupt};
use crate::report::Run;
use anyhow::Context;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The child stops a server of its own first.
const GRACE: Duration = Duration::from_secs(20);

/// Why no namespace can be had here; `None` if it can.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it takes root".to_owned());
    }
    for (program, arguments) in [("ip", &["-V"][..]), ("unshare", &["--net", "true"])] {
        match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => return Some(format!("`{program}` says: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => return Some(format!("`{program}` cannot be run: {error}")),
        }
    }
    None
}

/// Gives this process's namespace, which must be a fresh one, its loopback with this MTU.
pub fn prepare_inside(mtu: u32) -> anyhow::Result<()> {
    let links = Command::new("ip").args(["-o", "link", "show", "up"]).output().context("cannot run ip")?;
    // In any other namespace than a fresh one something is up: not ours to change.
    anyhow::ensure!(links.status.success() && links.stdout.is_empty(), "not in a fresh network namespace");
    let status = Command::new("ip").args(["link", "set", "dev", "lo", "mtu", &mtu.to_string(), "up"]).status()?;
    anyhow::ensure!(status.success(), "cannot set up the loopback interface");
    Ok(())
}

/// Runs this program again, with these arguments, in a fresh namespace; returns the runs that it wrote to `results`.
pub fn run(arguments: Vec<String>, results: &Path, interrupt: &Interrupt) -> anyhow::Result<Vec<Run>> {
    let inner = crate::cli::own_command("fanout");
    let mut command = Command::new("unshare");
    command.arg("--net").arg(inner.get_program()).args(inner.get_args()).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = Guarded::new(command.spawn().context("cannot run unshare")?, "the comparison in the namespace", GRACE);
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None => interrupt.sleep(Duration::from_millis(100))?,
        }
    };
    let text = std::fs::read(results).with_context(|| format!("the comparison in the namespace ended with {status}"))?;
    serde_json::from_slice(&text).context("the namespace's results are no JSON")
}
