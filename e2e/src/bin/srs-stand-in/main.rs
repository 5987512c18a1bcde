//! A stand-in for SRS, for tests alone: it reads an SRS configuration and behaves as SRS 7 does in what an engine of SRS processes
//! relies on. Media is taken and given by a Braidcast of one worker behind it; what this program adds is what SRS does otherwise:
//! SRS's real-IP prefix, HLS files and indexes numbered from 0, the HTTP API with SRS's envelope, kicks.
//!
//! Never proves anything of SRS itself: `make test-srs` runs the same tests with a real one.

mod answers;
mod api;
mod clients;
mod conf;
mod flv;
mod hls;
mod http;
mod inner;
mod rtmp;
mod tap;

use anyhow::{Context, Result, bail, ensure};
use clients::Clients;
use conf::Conf;
use inner::Inner;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

/// What this says it is where SRS says its version.
const VERSION: [u32; 3] = [7, 0, 0];

/// What all threads share.
struct Shared {
    conf: Conf,
    clients: Clients,
    inner: inner::Addresses,
}

fn main() -> Result<()> {
    let (mut file, mut only_check) = (None, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-c" => file = words.next().map(PathBuf::from),
            "-t" => only_check = true,
            "-v" | "-V" => {
                let [major, minor, revision] = VERSION;
                println!("{major}.{minor}.{revision}");
                return Ok(());
            }
            other => bail!("unknown argument {other}; it is started as srs-stand-in -c FILE"),
        }
    }
    let file = file.context("no configuration: it is started as srs-stand-in -c FILE")?;
    let text = std::fs::read_to_string(&file).with_context(|| format!("no config file at {}", file.display()))?;
    let conf = Conf::parse(&text).with_context(|| file.display().to_string())?;
    ensure!(!conf.daemon, "daemon is on: SRS would leave the process that was started");
    if only_check {
        return Ok(());
    }
    serve(conf, &file)
}

fn serve(conf: Conf, file: &std::path::Path) -> Result<()> {
    let bind = |address| TcpListener::bind(address).with_context(|| format!("listening at {address}"));
    let (rtmp, http, api) = (bind(conf.rtmp)?, bind(conf.http)?, bind(conf.api)?);
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
    // Beside the configuration, which is removed with everything else that its owner made.
    let directory = file.parent().context("a file is in a directory")?;
    let inner = Inner::start(directory, &conf)?;
    println!("stand-in for SRS: rtmp {} http {} api {}", conf.rtmp, conf.http, conf.api);
    let shared = Arc::new(Shared { conf, clients: Clients::default(), inner: inner.addresses });
    http::accept(rtmp, &shared, rtmp::serve);
    http::accept(http, &shared, flv::serve);
    http::accept(api, &shared, api::serve);
    let (writer, root) = (shared, inner.shared_dir());
    std::thread::spawn(move || hls::run(&writer, &root));
    // The main thread is the parent of the server inside, and ends last.
    let _ = signals.forever().next();
    inner.stop()
}
