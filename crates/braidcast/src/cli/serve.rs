//! `braidcast serve`: turns flags into settings, and gives the whole to the front. And the workers that the front starts.

use crate::config::{self, Sources};
use crate::control::attendants::Role;
use crate::{front, worker};
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// The variable that names a configuration file.
const FILE_VARIABLE: &str = "BRAIDCAST_CONFIG";

/// Where settings come from; the same for every command that needs a configuration.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ConfigArgs {
    /// Configuration file (TOML); without one, $BRAIDCAST_CONFIG, else built-in defaults
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Number of workers; 0: one for each core
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Address for RTMP; may be given several times [default: 1935]
    #[arg(long, value_name = "ADDR")]
    rtmp: Vec<String>,
    /// Address for HTTP; may be given several times [default: 8080]
    #[arg(long, value_name = "ADDR")]
    http: Vec<String>,
    /// Address for the API; may be given several times [default: localhost:1985]
    #[arg(long, value_name = "ADDR")]
    api: Vec<String>,
    /// Address for /metrics, without one localhost:9972; may be given several times [default: none]
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "localhost:9972")]
    metrics: Vec<String>,
    /// Directory in memory that the processes share; one for each instance
    #[arg(long, value_name = "DIR")]
    shared_dir: Option<String>,
    /// Directory for what outlives a reboot
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// What carries the streams: native, srs or external
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// With the engine srs: its program
    #[arg(long, value_name = "PATH")]
    srs_binary: Option<String>,
    /// With the engine srs: the site's own configuration
    #[arg(long, value_name = "FILE")]
    srs_conf: Option<String>,
    /// First of the workers' own ports on loopback; 0: none
    #[arg(long, value_name = "PORT")]
    worker_base_port: Option<String>,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Set any key of the configuration; may be given several times
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

/// What `braidcast serve` is told on the command line.
#[derive(Args)]
#[command(after_help = "\
An address is a port (all addresses, IPv4 and IPv6), ADDRESS:PORT, [ADDRESS]:PORT or localhost:PORT. Port 0 takes a free one; the
addresses in use are printed when the server is ready.

Examples:
  braidcast serve
  braidcast serve -c /etc/braidcast.toml
  braidcast serve --workers 2 --rtmp 127.0.0.1:1935 --http localhost:0 --set hls.fragment=2s
  braidcast serve --state-dir ~/.local/state/braidcast        as a user who may not write to /var/lib
  braidcast serve --engine srs --srs-binary /usr/local/srs/objs/srs --srs-conf /usr/local/srs/conf/srs.conf
  BRAIDCAST_HLS_FRAGMENT=2s braidcast serve --shared-dir /dev/shm/second --state-dir /var/lib/second \\
    --rtmp 1936 --http 8081 --api localhost:1986                a second instance beside the first")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Open descriptor to which the addresses in use are written when the server is ready
    #[arg(long, value_name = "N")]
    ready_fd: Option<i32>,
    /// Another front, on this inherited descriptor, is to be replaced
    #[arg(long, value_name = "N", hide = true)]
    succeed_fd: Option<i32>,
    /// This front was to be replaced, and why it was not
    #[arg(long, value_name = "WHY", hide = true)]
    resumed: Option<String>,
}

/// How the front starts a worker.
#[derive(Args, Debug)]
pub(super) struct WorkerArgs {
    /// The inherited descriptor of the control channel
    #[arg(long, value_name = "N")]
    control_fd: i32,
}

/// How the front starts an attendant.
#[derive(Args, Debug)]
pub(super) struct AttendantArgs {
    /// What it is for
    pub role: Role,
    /// The instance's shared directory
    #[arg(long, value_name = "DIR")]
    pub shared_dir: PathBuf,
}

pub(super) fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let load = || -> anyhow::Result<config::Config> {
        let loaded = config::load(&args.config.sources()?)?;
        for warning in &loaded.warnings {
            eprintln!("braidcast: {warning}");
        }
        Ok(loaded.config)
    };
    front::run(load, ServeOptions { ready_fd: args.ready_fd, succeed_fd: args.succeed_fd, resumed: args.resumed.clone() })
}

pub(super) fn run_worker(args: &WorkerArgs) -> anyhow::Result<ExitCode> {
    let control =
        braidcast_sys::child::take_inherited(args.control_fd).context("--control-fd: workers are started by `braidcast serve`")?;
    worker::run(control)
}

/// What the front needs to know beside the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeOptions {
    /// An inherited descriptor to which readiness is told; see [`braidcast_sys::child::take_inherited`].
    pub ready_fd: Option<i32>,
    /// An inherited descriptor to the front that this one replaces.
    pub succeed_fd: Option<i32>,
    /// Why this front, which was to be replaced, goes on.
    pub resumed: Option<String>,
}

impl ConfigArgs {
    /// The layers, with the environment of this process.
    pub(super) fn sources(&self) -> anyhow::Result<Sources> {
        let environment: Vec<(String, String)> =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
        let from_environment =
            || environment.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty()).map(|(_, value)| value.into());
        let file = self.config.clone().or_else(from_environment);
        Ok(Sources { file, flags: self.flags()?, environment })
    }

    fn flags(&self) -> anyhow::Result<Vec<(String, String, String)>> {
        let list = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
        let named = [
            ("--workers", "server.workers", self.workers.clone()),
            ("--rtmp", "rtmp.listen", list(&self.rtmp)),
            ("--http", "http.listen", list(&self.http)),
            ("--api", "api.listen", list(&self.api)),
            ("--metrics", "metrics.listen", list(&self.metrics)),
            ("--shared-dir", "server.shared_dir", self.shared_dir.clone()),
            ("--state-dir", "server.state_dir", self.state_dir.clone()),
            ("--worker-base-port", "server.worker_base_port", self.worker_base_port.clone()),
            ("--engine", "engine.kind", self.engine.clone()),
            ("--srs-binary", "engine.srs_binary", self.srs_binary.clone()),
            ("--srs-conf", "engine.srs_conf", self.srs_conf.clone()),
            ("--log-level", "server.log_level", self.log_level.clone()),
        ];
        let mut flags: Vec<_> = named
            .into_iter()
            .filter_map(|(flag, path, value)| value.map(|value| (format!("{flag} {value}"), path.to_owned(), value)))
            .collect();
        for set in &self.set {
            let Some((path, value)) = set.split_once('=') else { anyhow::bail!("--set {set}: it is written --set section.key=value") };
            flags.push((format!("--set {set}"), path.trim().to_owned(), value.trim().to_owned()));
        }
        Ok(flags)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn flags_set_what_they_name() {
        let args = ConfigArgs {
            workers: Some("3".into()),
            rtmp: vec!["127.0.0.1:0".into(), "[::1]:0".into()],
            http: vec!["localhost:0".into()],
            shared_dir: Some("/dev/shm/x".into()),
            log_level: Some("debug".into()),
            set: vec!["hls.fragment=2s".into(), "play.play_wait = 1".into()],
            ..ConfigArgs::default()
        };
        let sources = Sources { flags: args.flags().unwrap(), ..Sources::default() };
        let config = config::load(&sources).unwrap().config;
        assert_eq!((config.workers(), config.rtmp.listen.len(), config.http.listen.len()), (3, 2, 2));
        assert_eq!((config.hls.fragment.as_ms(), config.play.play_wait.as_ms()), (2_000, 1_000));
        assert_eq!(config.server.log_level, config::LogLevel::Debug);
    }

    #[test]
    fn a_wrong_flag_is_named_as_it_was_given() {
        let args = ConfigArgs { workers: Some("many".into()), set: vec!["hls.fragment=0".into()], ..ConfigArgs::default() };
        let problems = config::load(&Sources { flags: args.flags().unwrap(), ..Sources::default() }).unwrap_err().to_string();
        assert_eq!(
            problems,
            "--workers many: [server] workers = many: not a whole number; allowed: 0 to 253\n\
             --set hls.fragment=0: [hls] fragment = 0: out of range; allowed: 500ms to 1m"
        );
        assert!(ConfigArgs { set: vec!["x".into()], ..ConfigArgs::default() }.flags().is_err());
    }
}
