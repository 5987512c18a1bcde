//! `braidcast import-srs`: writes this server's configuration for a site that has one for SRS.

use super::print;
use crate::srs_conf::Site;
use anyhow::Context;
use clap::Args;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "\
Reads the file with all that it includes, and SRS_… variables, as SRS does. What has no equivalent is a comment at the end, with its line.

Examples:
  braidcast import-srs /usr/local/srs/conf/srs.conf
  braidcast import-srs conf/srs.conf -o braidcast.toml && braidcast check -c braidcast.toml")]
pub(super) struct ImportSrsArgs {
    /// The configuration of SRS
    file: PathBuf,
    /// Where to write; a file that is there is not overwritten. Without it: standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &ImportSrsArgs) -> anyhow::Result<ExitCode> {
    let environment: Vec<(String, String)> =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
    let native = Site::load(Some(&args.file), &environment)?.to_native();
    match &args.output {
        None => print(&native)?,
        Some(path) => {
            let file = OpenOptions::new().write(true).create_new(true).open(path);
            let written = file.and_then(|mut file| file.write_all(native.as_bytes()));
            written.with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
