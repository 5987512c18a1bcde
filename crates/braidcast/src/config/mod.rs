//! The configuration: read once at the start, checked as a whole, plain structs from then on.
//!
//! Defaults, then the file, then the environment, then flags. The front sends what came out to the workers as JSON, so that every process of an
//! instance has the same.

mod access;
mod check;
mod docs;
mod file;
mod hooks;
mod keys;
mod latency;
mod load;
mod logging;
mod networks;
mod problem;
mod relays;
mod secret;
mod table;
mod units;
mod value;

pub use access::{Access, AccessIntent};
pub use docs::markdown;
pub use hooks::About;
pub use keys::{
    Acme, Api, ApiUser, Certificate, ClientAddress, Engine, EngineKind, Forward, Hls, HlsSessions, Hook, Hooks, Http, Limits, Log,
    LogLevel, MAX_WORKERS, Metrics, OnDuplicate, OnError, OnExit, Placement, Play, PlayPolicy, ProxyProtocol, Publish, PublishPolicy, Pull,
    Relay, Role, Rtmp, Sandbox, Server, Tls, TlsVersion, Vhost, When, Worker,
};
pub use latency::Latency;
pub use load::{Sources, load, load_text, without_settings};
pub use logging::{LogFormat, Logging};
pub use networks::Network;
pub use secret::{HIDDEN, Secret};
pub use table::KeyInfo;
pub use units::{Size, Span};

use crate::control::Listener;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use table::{Rejected, Section};
use value::Raw;

/// The section of workers that differ, whose tables are named by the worker's id in variables and flags; others by their place.
const WORKER: &str = "worker";

macro_rules! config {
    ({ $($section:ident: $type:ident,)+ } [[ $($table:ident: $row:ident, needs $($needed:literal)+;)+ ]]) => {
        /// The whole configuration.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Config {
            $(#[doc = concat!("`[", stringify!($section), "]`")] pub $section: $type,)+
            $(#[doc = concat!("`[[", stringify!($table), "]]`, in the order of the file.")] pub $table: Vec<$row>,)+
        }

        /// The sections that may be there several times, as `[[worker]]`, and the keys that each of their tables must have.
        const TABLES: &[(&str, &[&str])] = &[$((stringify!($table), &[$($needed),+]),)+];

        /// A section's name, what it is for, and its keys.
        fn sections() -> Vec<(&'static str, &'static str, Vec<KeyInfo>)> {
            vec![
                $((stringify!($section), $type::DOC, $type::keys()),)+
                $((stringify!($table), $row::DOC, $row::keys()),)+
            ]
        }

        impl Config {
            /// Sets a key of a section that is there once.
            fn set(&mut self, section: &str, key: &str, raw: &Raw) -> Result<(), Rejected> {
                match section {
                    $(stringify!($section) => self.$section.set(key, raw),)+
                    _ => Err(Rejected::UnknownKey),
                }
            }

            /// A key's value as it would be written in a file; `None` for a key that does not exist.
            fn show(&self, section: &str, key: &str) -> Option<String> {
                match section {
                    $(stringify!($section) => self.$section.show(key),)+
                    _ => None,
                }
            }

            /// How many tables a section has that may be there several times.
            fn tables(&self, section: &str) -> usize {
                match section {
                    $(stringify!($table) => self.$table.len(),)+
                    _ => 0,
                }
            }

            /// Adds a table with nothing but defaults.
            fn add_table(&mut self, section: &str) {
                match section {
                    $(stringify!($table) => self.$table.push($row::default()),)+
                    _ => {}
                }
            }

            /// Sets a key of a table.
            fn set_in_table(&mut self, section: &str, index: usize, key: &str, raw: &Raw) -> Result<(), Rejected> {
                match section {
                    $(stringify!($table) => self.$table.get_mut(index).ok_or(Rejected::UnknownKey)?.set(key, raw),)+
                    _ => Err(Rejected::UnknownKey),
                }
            }

            /// As [`Config::show`], of a table.
            fn show_in_table(&self, section: &str, index: usize, key: &str) -> Option<String> {
                match section {
                    $(stringify!($table) => self.$table.get(index)?.show(key),)+
                    _ => None,
                }
            }
        }
    };
}

config! {
    {
        server: Server,
        engine: Engine,
        rtmp: Rtmp,
        http: Http,
        api: Api,
        metrics: Metrics,
        publish: Publish,
        play: Play,
        placement: Placement,
        log: Log,
        logging: Logging,
        hls: Hls,
        relay: Relay,
        tls: Tls,
        acme: Acme,
        hooks: Hooks,
        limits: Limits,
        sandbox: Sandbox,
    }
    [[
        worker: Worker, needs "id";
        vhost: Vhost, needs "name" "latency";
        certificate: Certificate, needs "cert" "key";
        api_user: ApiUser, needs "name" "password";
        access: Access, needs "streams";
        forward: Forward, needs "streams" "to";
        pull: Pull, needs "stream" "from";
        hook: Hook, needs "events" "url";
    ]]
}

/// Whether a section may be there several times.
fn is_table(section: &str) -> bool {
    TABLES.iter().any(|(name, _)| *name == section)
}

/// A section's heading, as it is written.
fn heading(section: &str) -> String {
    if is_table(section) { format!("[[{section}]]") } else { format!("[{section}]") }
}

impl Config {
    /// How many workers there are: the configured number, or one for each core that this process may use. At least 1.
    pub fn workers(&self) -> u16 {
        match self.server.workers {
            0 => cores(),
            configured => configured,
        }
    }

    /// How many processes of another server there are: the configured number, or one for each core; none with our own workers.
    pub fn processes(&self) -> u16 {
        match (self.engine.kind, self.engine.processes) {
            (EngineKind::Native, _) => 0,
            (_, 0) => cores(),
            (_, configured) => configured,
        }
    }

    /// Where clients come in: section, key, addresses.
    pub fn listens(&self) -> [(&'static str, &'static str, &[SocketAddr]); 7] {
        [
            ("rtmp", "listen", &self.rtmp.listen),
            ("http", "listen", &self.http.listen),
            ("api", "listen", &self.api.listen),
            ("metrics", "listen", &self.metrics.listen),
            ("tls", "rtmps", &self.tls.rtmps),
            ("tls", "https", &self.tls.https),
            ("tls", "https_api", &self.tls.https_api),
        ]
    }

    /// Whether our workers are relays before processes of another server.
    pub fn relays(&self) -> bool {
        self.engine.kind != EngineKind::Native
    }

    /// What is configured for the worker with this id, or the defaults.
    pub fn worker(&self, id: u16) -> Worker {
        self.worker.iter().find(|worker| worker.id == id).cloned().unwrap_or(Worker { id, ..Worker::default() })
    }

    /// The sub-port of the worker with this id (from 1), if workers have sub-ports.
    pub fn sub_port(&self, id: u16) -> Option<u16> {
        let base = Some(self.server.worker_base_port).filter(|port| *port != 0)?;
        base.checked_add(id.checked_sub(1)?)
    }

    /// Whether the API asks who somebody is.
    pub fn api_asks(&self) -> bool {
        self.api.token.is_set() || self.api.read_token.is_set() || !self.api_user.is_empty()
    }

    /// Whether who connects to a listener has to say first, by a PROXY header, for whom.
    pub fn expects_proxy(&self, listener: Listener) -> bool {
        let expected = match listener {
            Listener::Rtmp => self.rtmp.proxy_protocol,
            Listener::Http => self.http.proxy_protocol,
            Listener::Api => self.api.proxy_protocol,
            // Who monitors connects directly.
            Listener::Metrics => ProxyProtocol::Off,
            Listener::Sub => self.server.worker_proxy_protocol,
            // Who the client is, is known from its own connection.
            Listener::Rtmps | Listener::Https | Listener::HttpsApi => ProxyProtocol::Off,
        };
        expected == ProxyProtocol::On
    }

    /// Whether it is believed what this address says of others: that it passes on what they send.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.server.trusted_proxies.iter().any(|network| network.contains(address))
    }

    /// A key's value as a file says it; secrets are not shown. `None`: there is no such key.
    pub fn value(&self, section: &str, key: &str) -> Option<String> {
        self.show(section, key)
    }

    /// Takes over from the configuration of a running instance what cannot change while it runs. Says which keys were other there.
    pub fn keep_fixed(&mut self, running: &Self) -> Vec<&'static str> {
        let mut changed = Vec::new();
        let mut keep = |differs: bool, key: &'static str| {
            if differs {
                changed.push(key);
            }
        };
        keep(self.rtmp.listen != running.rtmp.listen, "[rtmp] listen");
        keep(self.http.listen != running.http.listen, "[http] listen");
        keep(self.api.listen != running.api.listen, "[api] listen");
        keep(self.tls.rtmps != running.tls.rtmps, "[tls] rtmps");
        keep(self.tls.https != running.tls.https, "[tls] https");
        keep(self.tls.https_api != running.tls.https_api, "[tls] https_api");
        keep(self.metrics.listen != running.metrics.listen, "[metrics] listen");
        keep(self.server.shared_dir != running.server.shared_dir, "[server] shared_dir");
        keep(self.server.state_dir != running.server.state_dir, "[server] state_dir");
        keep(self.workers() != running.workers(), "[server] workers");
        keep(self.engine.kind != running.engine.kind, "[engine] kind");
        keep(self.processes() != running.processes(), "[engine] processes");
        keep(self.server.worker_base_port != running.server.worker_base_port, "[server] worker_base_port");
        let who = |config: &Self| (config.sandbox.enabled, config.sandbox.user.clone(), config.sandbox.group.clone());
        keep(who(self) != who(running), "[sandbox]");
        (self.sandbox.enabled, self.sandbox.user, self.sandbox.group) = who(running);
        self.rtmp.listen.clone_from(&running.rtmp.listen);
        self.http.listen.clone_from(&running.http.listen);
        self.api.listen.clone_from(&running.api.listen);
        self.tls.rtmps.clone_from(&running.tls.rtmps);
        self.tls.https.clone_from(&running.tls.https);
        self.tls.https_api.clone_from(&running.tls.https_api);
        self.metrics.listen.clone_from(&running.metrics.listen);
        self.server.shared_dir.clone_from(&running.server.shared_dir);
        self.server.state_dir.clone_from(&running.server.state_dir);
        self.server.workers = running.workers();
        self.engine.kind = running.engine.kind;
        self.engine.processes = running.processes();
        self.server.worker_base_port = running.server.worker_base_port;
        changed
    }

    /// As a file that says every key, defaults too.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for (section, _, keys) in sections() {
            let times = if is_table(section) { self.tables(section) } else { 1 };
            for index in 0..times {
                let shown = |key: &KeyInfo| self.show(section, key.name).or_else(|| self.show_in_table(section, index, key.name));
                let lines = keys.iter().filter_map(|key| Some(format!("{} = {}\n", key.name, shown(key)?)));
                out += &format!("{}\n{}\n", heading(section), lines.collect::<String>());
            }
        }
        out.truncate(out.trim_end().len() + 1);
        out
    }

    /// For the workers; [`Config::from_json`] reads it back.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a configuration holds only text, numbers and lists")
    }

    /// What [`Config::to_json`] wrote. It was checked when it was loaded.
    pub fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }
}

impl Tls {
    /// Whether anybody can connect by TLS.
    pub fn is_on(&self) -> bool {
        [&self.rtmps, &self.https, &self.https_api].into_iter().any(|addresses| !addresses.is_empty())
    }
}

/// An engine's name.
pub fn show_engine(kind: EngineKind) -> String {
    value::Value::show(&kind).trim_matches('"').to_owned()
}

/// The cores that this process may use, as a number of processes.
fn cores() -> u16 {
    u16::try_from(std::thread::available_parallelism().map_or(1, NonZero::get)).unwrap_or(MAX_WORKERS).min(MAX_WORKERS)
}

impl Worker {
    /// Its weight when publishers are shared out by weights: the configured one, else `max_publishers`, else 1.
    pub fn effective_weight(&self) -> u32 {
        match (self.weight, self.max_publishers) {
            (0, 0) => 1,
            (0, most) => most,
            (weight, _) => weight,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
