//! How a process of another server is started: its directory, its configuration, its command line.

use super::process::Ports;
use crate::config::{self, Config, Engine, EngineKind};
use crate::control::ProcessId;
use crate::engine::{process_dir, words};
use crate::sandbox;
use crate::srs_conf::{Note, Place, Site};
use anyhow::{Context, bail};
use braidcast_media::key::DEFAULT_VHOST;
use braidcast_sys::child;
use braidcast_sys::privileges::Identity;
use std::collections::HashMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The name of a process's configuration in its directory.
const CONF: &str = "server.conf";

/// Rights that files of a process lack whose directories are the workers' group's.
const FOR_THE_GROUP_TOO: u32 = 0o002;

/// What all processes are made from.
#[derive(Debug)]
pub enum Recipe {
    /// SRS.
    Srs(Box<Site>),
    /// Any server: its command's words, and the text of its template.
    External {
        /// With placeholders.
        command: Vec<String>,
        /// With placeholders.
        template: String,
    },
}

impl Recipe {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// What an operator has to mend.
    pub fn read(engine: &Engine) -> anyhow::Result<Self> {
        if engine.kind == EngineKind::Srs {
            let path = Some(Path::new(&engine.srs_conf)).filter(|path| !path.as_os_str().is_empty());
            let environment: Vec<(String, String)> = std::env::vars().collect();
            let site = Site::load(path, &environment)?;
            return Ok(Self::Srs(Box::new(site)));
        }
        let command = words(&engine.command).with_context(|| format!("[engine] command = {:?}", engine.command))?;
        let template = fs::read_to_string(&engine.template).with_context(|| format!("[engine] template = {:?}", engine.template))?;
        Ok(Self::External { command, template })
    }

    /// What of the site's configuration is changed, or does not work.
    pub fn notes(&self) -> Vec<Note> {
        match self {
            Self::Srs(site) => site.notes(),
            Self::External { .. } => Vec::new(),
        }
    }

    /// The program that processes are started from at first.
    pub fn program(&self, engine: &Engine) -> PathBuf {
        match self {
            Self::Srs(_) => found_in_path(&engine.srs_binary),
            Self::External { command, .. } => found_in_path(command.first().map_or("", String::as_str)),
        }
    }

    /// Writes a process's configuration and starts it. Returns its number. A process of SRS is of the front's user, because its site writes
    /// where that one can; of others we know nothing, and they are of the workers' user, if workers have one of their own.
    pub fn start(&self, config: &Config, program: &Path, id: ProcessId, ports: Ports) -> anyhow::Result<u32> {
        let (engine, shared_dir) = (&config.engine, &config.server.shared_dir);
        let identity = sandbox::identity(&config.sandbox);
        let directory = process_dir(shared_dir, id);
        let (hls_dir, conf) = (directory.join("hls"), directory.join(CONF));
        // There are servers that make the last directory of a path alone.
        for needed in [&hls_dir.join(DEFAULT_VHOST), &directory.join("run")] {
            fs::create_dir_all(needed).with_context(|| format!("making {}", needed.display()))?;
        }
        let run_dir = directory.join("run");
        let mut command = Command::new(program);
        config::without_settings(&mut command);
        match self {
            Self::Srs(site) => {
                let place = Place {
                    id: id.0,
                    rtmp: ports.rtmp,
                    http: ports.http,
                    api: ports.api,
                    hls_dir,
                    run_dir,
                    carries_others: id.0 == engine.carries_others,
                };
                let text = site.generate(&place).map_err(anyhow::Error::msg)?;
                write_closed(&conf, &text).context("writing its configuration")?;
                command.arg("-c").arg(&conf);
                for name in site.removed_variables() {
                    command.env_remove(name);
                }
            }
            Self::External { command: words, template } => {
                let values = HashMap::from([
                    ("id", id.to_string()),
                    ("rtmp_port", ports.rtmp.port().to_string()),
                    ("http_port", ports.http.port().to_string()),
                    ("api_port", ports.api.port().to_string()),
                    ("hls_dir", hls_dir.display().to_string()),
                    ("dir", run_dir.display().to_string()),
                    ("config", conf.display().to_string()),
                ]);
                write_closed(&conf, &filled(template, &values)).context("writing its configuration")?;
                command.args(words.iter().skip(1).map(|word| filled(word, &values)));
            }
        }
        // What it says goes where our own lines go. Its own process group keeps a Ctrl-C from it.
        let lines = || io::stderr().as_fd().try_clone_to_owned().map_or_else(|_| Stdio::null(), Stdio::from);
        command.stdin(Stdio::null()).stdout(lines()).stderr(lines());
        command.process_group(0);
        match (self, identity) {
            (_, None) => {}
            // Workers take the segments away.
            (Self::Srs(_), Some(_)) => child::set_umask(&mut command, FOR_THE_GROUP_TOO),
            (Self::External { .. }, Some(Identity { uid, gid })) => {
                chown(&conf, Some(uid), Some(gid)).context("handing over its configuration")?;
                command.uid(uid).gid(gid);
            }
        }
        let child = child::spawn(command, &[]).with_context(|| format!("{} cannot be run", program.display()))?;
        Ok(child.id())
    }
}

/// Writes a file that nobody else reads: a site's configuration may hold passwords.
fn write_closed(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}

/// Replaces `{name}` where there is such a name; other braces stay.
fn filled(text: &str, values: &HashMap<&str, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        let named = rest[at + 1..].find('}').and_then(|end| Some((values.get(&rest[at + 1..at + 1 + end])?, end)));
        match named {
            Some((value, end)) => {
                out.push_str(value);
                rest = &rest[at + end + 2..];
            }
            None => {
                out.push('{');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// A program by its path, or by its name in `PATH`. What is not found stays as it is: starting it says so.
fn found_in_path(program: &str) -> PathBuf {
    if program.contains('/') {
        return std::path::absolute(program).unwrap_or_else(|_| program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| program.into())
}

/// A program for new processes, as an order names it.
pub fn program_at(path: &str) -> anyhow::Result<PathBuf> {
    let path = found_in_path(path);
    if !path.is_file() {
        bail!("{} is no file", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_and_other_braces_stay() {
        let values = HashMap::from([("id", "3".to_owned()), ("rtmp_port", "1936".to_owned())]);
        assert_eq!(
            filled("rtmp { server { listen 127.0.0.1:{rtmp_port}; # {id} {other} {", &values),
            "rtmp { server { listen 127.0.0.1:1936; # 3 {other} {"
        );
        assert_eq!(filled("{{id}}", &values), "{3}");
    }
}
