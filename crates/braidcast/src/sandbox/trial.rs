//! Tests only: tries from inside a worker what the sandbox is to prevent, and writes down what came of it.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What a message ends with that asks for the trial; before that, what is to be tried, as JSON.
const MARK: &[u8] = b"braidcast-test-trial";
/// System calls that [`braidcast_sys::fault::attempt`] makes.
const CALLS: [&str; 11] = ["ptrace", "signal", "mount", "root", "unshare", "bpf", "io_uring", "keyctl", "module", "fork", "unknown"];

#[derive(Deserialize)]
struct Trial {
    /// The file in `sessions` that the results go to.
    result: String,
    /// Another instance's directory.
    other: PathBuf,
    /// A process that is not the worker.
    pid: u32,
    /// Somebody who listens, and is not of the configuration.
    elsewhere: SocketAddr,
    /// Somebody who listens, and is.
    configured: SocketAddr,
}

/// Runs the trial if the message asks for one.
pub fn run(payload: &[u8], shared_dir: &Path) {
    let Some(asked) = payload.strip_suffix(MARK) else { return };
    let Some(start) = asked.windows(2).position(|two| two == b"{\"") else { return };
    let Ok(trial) = serde_json::from_slice::<Trial>(&asked[start..]) else { return };
    let connect = |address| TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(drop);
    let in_tmp = std::env::temp_dir().join(&trial.result);
    let mut results: BTreeMap<&str, io::Result<()>> = BTreeMap::from([
        ("shadow", File::open("/etc/shadow").map(drop)),
        ("passwd", File::open("/etc/passwd").map(drop)),
        (
            "environment",
            File::open(format!("/proc/{}/environ", trial.pid)).and_then(|mut file| io::copy(&mut file, &mut io::sink())).map(drop),
        ),
        ("program", Command::new("/bin/true").status().map(drop)),
        ("elsewhere", connect(trial.elsewhere)),
        ("configured", connect(trial.configured)),
        ("other instance", fs::read_dir(&trial.other).map(drop)),
        ("a file of another instance", File::open(trial.other.join("front")).map(drop)),
        ("the front's page", File::options().write(true).open(shared_dir.join("front")).map(drop)),
        ("own directory", fs::write(shared_dir.join("sessions").join("trial"), "x")),
        ("orders", braidcast_sys::net::connect_local(&shared_dir.join("orders.sock")).map(drop)),
        ("outside", fs::write(&in_tmp, "x")),
        ("listen", std::net::TcpListener::bind("127.0.0.1:0").map(drop)),
        (
            "thread",
            std::thread::Builder::new()
                .spawn(|| File::open("/etc/shadow").map(drop))
                .and_then(|thread| thread.join().map_err(|_| io::ErrorKind::Other)?),
        ),
    ]);
    results.extend(CALLS.map(|call| (call, braidcast_sys::fault::attempt(call, trial.pid))));
    let told: BTreeMap<&str, String> =
        results.into_iter().map(|(what, result)| (what, result.map_or_else(|error| error.to_string(), |()| "done".to_owned()))).collect();
    let part = shared_dir.join("sessions").join("trial");
    let written = serde_json::to_vec(&told).map_err(io::Error::other).and_then(|told| fs::write(&part, told));
    let _ = written.and_then(|()| fs::rename(&part, shared_dir.join("sessions").join(&trial.result)));
    let _ = fs::remove_file(in_tmp);
}
