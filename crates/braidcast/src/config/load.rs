//! Puts the layers on top of each other: defaults, file, environment, flags. Reports everything that is wrong at once.

use super::check::contradictions;
use super::file::{Assignment, assignments};
use super::problem::{Origin, Problem, Problems};
use super::secret::{self, FILE_SUFFIX, HIDDEN, Secret};
use super::table::Rejected;
use super::value::{Raw, Value};
use super::{ApiUser, Config, EngineKind, MAX_WORKERS, Role, TABLES, WORKER, heading, is_table, sections};
use crate::srs_conf::{ApiAuth, Site};
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// How every variable begins that sets a key.
pub(super) const PREFIX: &str = "BRAIDCAST_";

/// Variables that begin so and set no key.
pub(super) const OTHER_VARIABLES: &[(&str, &str)] = &[
    ("BRAIDCAST_CONFIG", "the configuration file, if `-c` names none"),
    ("BRAIDCAST_LOG", "log levels by module, as in `info,braidcast::front=debug`; goes before `log_level`"),
    ("BRAIDCAST_BIN", "tests only: the server's program"),
    ("BRAIDCAST_CLOCK", "tests only: how much faster time passes"),
    ("BRAIDCAST_KILL_ONCE", "tests only: the file that keeps the next process from killing itself too"),
    ("BRAIDCAST_KILL_POINT", "tests only: where the process kills itself"),
];

/// Variables that begin so are left to the tests and the bench.
pub(super) const OTHER_PREFIXES: &[&str] = &["BRAIDCAST_TEST_", "BRAIDCAST_BENCH_"];

/// What a configuration is made from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment; variables that do not begin with `BRAIDCAST_` are ignored.
    pub environment: Vec<(String, String)>,
    /// Flags: how it was given (for messages), `section.key`, value.
    pub flags: Vec<(String, String, String)>,
}

/// A configuration that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// It.
    pub config: Config,
    /// What is odd about it.
    pub warnings: Vec<Problem>,
}

/// Reads and checks all layers; the error holds all that is wrong with any of them.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let mut loader = Loader::default();
    if let Some(path) = &sources.file {
        match std::fs::read_to_string(path) {
            Ok(text) => loader.file(path, &text),
            Err(error) => loader.problems.add(Origin::file(path, 0), format!("cannot be read: {error}")),
        }
    }
    let mut environment = sources.environment.clone();
    environment.sort();
    for (name, value) in &environment {
        loader.variable(name, value);
    }
    for (flag, path, value) in &sources.flags {
        loader.path(Origin::Flag(flag.clone()), path, value);
    }
    loader.take_from_site(&sources.environment);
    loader.finish()
}

/// As [`load`], of a file's text alone.
pub fn load_text(path: &Path, text: &str) -> Result<Loaded, Problems> {
    let mut loader = Loader::default();
    loader.file(path, text);
    loader.finish()
}

/// Takes the variables that set keys out of what a program is given: the processes of the instance have the configuration otherwise,
/// others are not to have it, and it may hold secrets.
pub fn without_settings(command: &mut std::process::Command) {
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str().filter(|text| text.starts_with(PREFIX)) else { continue };
        let sets_nothing =
            OTHER_VARIABLES.iter().any(|(other, _)| *other == text) || OTHER_PREFIXES.iter().any(|prefix| text.starts_with(prefix));
        if !sets_nothing {
            command.env_remove(text);
        }
    }
}

#[derive(Default)]
struct Loader {
    config: Config,
    /// Who set a key last, for contradictions. Of `[[worker]]` the last one.
    origins: HashMap<(String, String), Origin>,
    /// Tables that variables and flags have made: section, place, where it was first named, the keys that were set.
    placed: Vec<(String, usize, Origin, Vec<String>)>,
    problems: Problems,
    warnings: Vec<Problem>,
}

impl Loader {
    fn file(&mut self, path: &Path, text: &str) {
        // The tables of the file, each with its heading's place and the keys that were written, right or wrong.
        let mut tables: Vec<(String, Origin, Vec<String>)> = Vec::new();
        for Assignment { section, index, key, raw, origin } in assignments(path, text, &mut self.problems) {
            if keys_of(&section).is_none() {
                if key.is_none() {
                    self.unknown_section(origin, &section);
                }
                continue;
            }
            let Some(key) = key else {
                match (is_table(&section), index.is_some()) {
                    (true, true) => {
                        self.config.add_table(&section);
                        tables.push((section, origin, Vec::new()));
                    }
                    (true, false) => self.problems.add(origin, format!("[{section}] is written [[{section}]], once for each {section}")),
                    (false, true) => self.problems.add(origin, format!("[[{section}]] is written [{section}], and is there only once")),
                    (false, false) => {}
                }
                continue;
            };
            match (is_table(&section), index) {
                (true, Some(index)) => {
                    if let Some((.., written)) = tables.iter_mut().filter(|(name, ..)| *name == section).nth(index) {
                        written.push(key.clone());
                    }
                    self.assign(origin, &section, Some(index), &key, raw);
                }
                (false, None) => self.assign(origin, &section, None, &key, raw),
                // The heading was reported.
                _ => {}
            }
        }
        for (section, origin, written) in tables {
            self.check_needed(origin, &section, &written);
        }
    }

    /// Keys without which a table means nothing.
    fn check_needed(&mut self, origin: Origin, section: &str, written: &[String]) {
        let needed = TABLES.iter().find(|(name, _)| *name == section).map_or(&[][..], |(_, needed)| *needed);
        let is_written = |key: &str| written.iter().any(|written| written.strip_suffix(FILE_SUFFIX).unwrap_or(written) == key);
        for key in needed.iter().filter(|key| !is_written(key)) {
            let of_section = sections().into_iter().find(|(name, ..)| *name == section);
            let allowed = of_section
                .and_then(|(.., keys)| keys.into_iter().find(|info| info.name == *key))
                .map_or(String::new(), |info| info.allowed);
            self.problems.add(origin.clone(), format!("{} without {key}; allowed: {allowed}", heading(section)));
        }
    }

    fn variable(&mut self, name: &str, value: &str) {
        let known = |(other, _): &(&str, &str)| *other == name;
        let Some(rest) = name.strip_prefix(PREFIX) else { return };
        if OTHER_VARIABLES.iter().any(known) || OTHER_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return;
        }
        let origin = Origin::Environment(name.to_owned());
        if let Some((id, key)) =
            rest.strip_prefix("WORKER_").and_then(|rest| rest.split_once('_')).filter(|(id, _)| id.parse::<u16>().is_ok())
        {
            return self.path(origin, &format!("{WORKER}.{id}.{}", key.to_lowercase()), value);
        }
        for (table, _) in TABLES.iter().filter(|(table, _)| *table != WORKER) {
            let prefix = format!("{}_", table.to_uppercase());
            if let Some((place, key)) =
                rest.strip_prefix(&prefix).and_then(|rest| rest.split_once('_')).filter(|(place, _)| place.parse::<usize>().is_ok())
            {
                return self.path(origin, &format!("{table}.{place}.{}", key.to_lowercase()), value);
            }
        }
        let found = sections().into_iter().filter(|(section, ..)| !is_table(section)).find_map(|(section, _, keys)| {
            let names = keys.iter().flat_map(|key| [Some(key.name.to_owned()), key.secret.then(|| format!("{}{FILE_SUFFIX}", key.name))]);
            let key = names.flatten().find(|key| variable_name(section, key) == name)?;
            Some((section, key))
        });
        match found {
            Some((section, key)) => self.assign(origin, section, None, &key, Raw::Bare(value.to_owned())),
            None => {
                let names = variable_names();
                let names: Vec<&str> = names.iter().map(String::as_str).chain(OTHER_VARIABLES.iter().map(|(name, _)| *name)).collect();
                self.problems.add(origin, format!("no such setting; {}", suggestion(name, &names, str::to_owned)));
            }
        }
    }

    /// Sets `section.key`, `worker.ID.key`, or of other tables `forward.PLACE.key`.
    fn path(&mut self, origin: Origin, path: &str, value: &str) {
        let raw = Raw::Bare(value.to_owned());
        let parts: Vec<&str> = path.split('.').collect();
        match parts[..] {
            [WORKER, id, key] => match id.parse() {
                Ok(id @ 1..=MAX_WORKERS) => {
                    let known = self.config.worker.iter().position(|worker| worker.id == id);
                    let index = known.unwrap_or_else(|| {
                        self.config.add_table(WORKER);
                        self.config.worker.len() - 1
                    });
                    self.config.worker[index].id = id;
                    self.assign(origin, WORKER, Some(index), key, raw);
                }
                _ => self.problems.add(origin, format!("{id:?} is no worker's id; allowed: 1 to {MAX_WORKERS}")),
            },
            [table, place, key] if is_table(table) => {
                let there = self.config.tables(table);
                match place.parse::<usize>().ok().and_then(|place| place.checked_sub(1)).filter(|index| *index <= there) {
                    Some(index) => {
                        if index == there {
                            self.config.add_table(table);
                            self.placed.push((table.to_owned(), index, origin.clone(), Vec::new()));
                        }
                        if let Some((.., written)) = self.placed.iter_mut().find(|(name, at, ..)| name == table && *at == index) {
                            written.push(key.to_owned());
                        }
                        self.assign(origin, table, Some(index), key, raw);
                    }
                    None => self.problems.add(origin, format!("{place:?} is no place of a [[{table}]]; allowed: 1 to {}", there + 1)),
                }
            }
            [section, _] if keys_of(section).is_none() => self.unknown_section(origin, section),
            [section, key] if !is_table(section) => self.assign(origin, section, None, key, raw),
            _ => self.problems.add(origin, format!("{path:?} names no key; it is written section.key=value, or worker.ID.key=value")),
        }
    }

    fn unknown_section(&mut self, origin: Origin, section: &str) {
        let names: Vec<&str> = sections().iter().map(|(name, ..)| *name).collect();
        self.problems.add(origin, format!("unknown section [{section}]; {}", suggestion(section, &names, heading)));
    }

    /// Sets a key of a section, or of one of several tables.
    fn assign(&mut self, origin: Origin, section: &str, index: Option<usize>, key: &str, raw: Raw) {
        let (origin, key, raw) = match self.uncover(origin, section, key, raw) {
            Ok(uncovered) => uncovered,
            Err(problem) => return self.problems.0.push(problem),
        };
        let result = match index {
            Some(index) => self.config.set_in_table(section, index, key, &raw),
            None => self.config.set(section, key, &raw),
        };
        self.note(origin, section, key, &raw, result);
    }

    /// Puts a secret in the place of the file that holds it. None is taken from the command line, which everybody can read.
    fn uncover<'a>(&self, origin: Origin, section: &str, key: &'a str, raw: Raw) -> Result<(Origin, &'a str, Raw), Problem> {
        if is_secret(section, key)
            && let Origin::Flag(flag) = &origin
        {
            let flag = flag.split_once('=').map_or(flag.as_str(), |(name, _)| name);
            let message = format!(
                "{} {key} is a secret, and every user of the machine can read a command line; allowed: the file, the environment, {key}{FILE_SUFFIX}",
                heading(section)
            );
            return Err(Problem { origin: Origin::Flag(format!("{flag}={HIDDEN}")), message });
        }
        match key.strip_suffix(FILE_SUFFIX).filter(|stem| is_secret(section, stem)) {
            Some(stem) => {
                let read = PathBuf::read(&raw).and_then(|path| secret::from_file(&path));
                let message =
                    |fault| format!("{} {key} = {}: {fault}; allowed: a file that holds the secret", heading(section), raw.show());
                read.map_err(|fault| Problem { origin: origin.clone(), message: message(fault) }).map(|secret| (origin, stem, secret))
            }
            None => Ok((origin, key, raw)),
        }
    }

    fn note(&mut self, origin: Origin, section: &str, key: &str, raw: &Raw, result: Result<(), Rejected>) {
        let heading = heading(section);
        match result {
            Ok(()) => {
                self.origins.insert((section.to_owned(), key.to_owned()), origin);
            }
            Err(Rejected::BadValue { fault, allowed }) => {
                let shown = if is_secret(section, key) { HIDDEN.to_owned() } else { raw.show() };
                self.problems.add(origin, format!("{heading} {key} = {shown}: {fault}; allowed: {allowed}"))
            }
            Err(Rejected::UnknownKey) => {
                let elsewhere = sections().into_iter().find(|(_, _, keys)| keys.iter().any(|other| other.name == key));
                let hint = match elsewhere {
                    Some((other, ..)) => format!("there is one in {}", super::heading(other)),
                    None => suggestion(key, &keys_of(section).unwrap_or_default(), str::to_owned),
                };
                self.problems.add(origin, format!("unknown key {key:?} in {heading}; {hint}"));
            }
        }
    }

    /// What nobody has set and the site's srs.conf says: where clients come in, and the virtual hosts that there are.
    fn take_from_site(&mut self, environment: &[(String, String)]) {
        if self.config.engine.kind != EngineKind::Srs {
            return;
        }
        let named = Some(Path::new(&self.config.engine.srs_conf)).filter(|path| !path.as_os_str().is_empty());
        let site = match Site::load(named, environment) {
            Ok(site) => site,
            Err(problems) => {
                // Each says its own file and line.
                let origin = self.origin("engine", "srs_conf");
                return problems.0.iter().for_each(|problem| self.problems.add(origin.clone(), problem.to_string()));
            }
        };
        let listens = site.listens();
        if self.is_free("rtmp", "listen") {
            self.config.rtmp.listen.clone_from(&listens.rtmp);
        }
        if self.is_free("http", "listen") && !listens.http.is_empty() {
            self.config.http.listen.clone_from(&listens.http);
        }
        if self.is_free("api", "listen") && !listens.api.is_empty() && listens.api != listens.http {
            // SRS leaves its API open to everybody unless it asks for a password.
            let open = self.config.api.open || self.config.api_asks() || site.api_auth().is_some();
            let places = listens.api.iter().filter(|address| open || address.ip().is_loopback());
            self.config.api.listen = places.copied().collect();
            if self.config.api.listen.is_empty() {
                let port = listens.api[0].port();
                self.config.api.listen = vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()];
            }
        }
        if let Some(ApiAuth { user, password }) = site.api_auth() {
            self.config.api_user.push(ApiUser { name: user, password: Secret::new(password), role: Role::Admin });
        } else if listens.api == listens.http && !self.config.api.open && !self.config.api_asks() {
            let message = "the site's API is on the port of HTTP and asks for nothing: it answers this machine alone; say [api] token, or [api] open = true";
            self.warnings.push(Problem { origin: self.origin("engine", "srs_conf"), message: message.into() });
        }
        if self.is_free("server", "vhosts") {
            self.config.server.vhosts = site.vhosts();
        }
    }

    fn is_free(&self, section: &str, key: &str) -> bool {
        !self.origins.contains_key(&(section.to_owned(), key.to_owned()))
    }

    fn origin(&self, section: &str, key: &str) -> Origin {
        self.origins.get(&(section.to_owned(), key.to_owned())).cloned().unwrap_or(Origin::Default)
    }

    fn finish(mut self) -> Result<Loaded, Problems> {
        for (section, _, origin, written) in std::mem::take(&mut self.placed) {
            self.check_needed(origin, &section, &written);
        }
        if !self.problems.0.is_empty() {
            return Err(self.problems);
        }
        let mut warnings = std::mem::take(&mut self.warnings);
        for finding in contradictions(&self.config) {
            let (section, key) = finding.key;
            let origin = self.origin(section, key);
            if finding.harmless {
                warnings.push(Problem { origin, message: finding.message });
            } else {
                self.problems.add(origin, finding.message);
            }
        }
        if self.problems.0.is_empty() { Ok(Loaded { config: self.config, warnings }) } else { Err(self.problems) }
    }
}

/// The variable that sets a key.
pub(super) fn variable_name(section: &str, key: &str) -> String {
    format!("{PREFIX}{}_{}", section.to_uppercase(), key.to_uppercase())
}

fn variable_names() -> Vec<String> {
    let of_section = |(section, _, keys): (&'static str, _, Vec<super::KeyInfo>)| {
        keys.into_iter().map(move |key| match is_table(section) {
            true => variable_name(&format!("{section}_1"), key.name),
            false => variable_name(section, key.name),
        })
    };
    sections().into_iter().flat_map(of_section).collect()
}

/// Whether a section has this key and its value is never shown.
fn is_secret(section: &str, key: &str) -> bool {
    let mut of_section = sections().into_iter().filter(|(name, ..)| *name == section).flat_map(|(.., keys)| keys);
    of_section.any(|info| info.name == key && info.secret)
}

fn keys_of(section: &str) -> Option<Vec<&'static str>> {
    sections().into_iter().find(|(name, ..)| *name == section).map(|(_, _, keys)| keys.iter().map(|key| key.name).collect())
}

/// "did you mean …?" if something is near, else what there is.
fn suggestion(given: &str, names: &[&str], written: impl Fn(&str) -> String) -> String {
    let near = |name: &&&str| strsim::normalized_damerau_levenshtein(&given.to_lowercase(), &name.to_lowercase());
    let nearest = names.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
    match nearest {
        Some(name) if near(&name) >= 0.45 => format!("did you mean {}?", written(name)),
        Some(name) if names.len() > 20 => format!("the nearest is {}", written(name)),
        _ => format!("there are {}", names.iter().map(|name| written(name)).collect::<Vec<_>>().join(", ")),
    }
}
