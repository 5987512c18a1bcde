//! `[[hook]]`: its values, and which hooks concern what.

use super::value::{Raw, Value};
use super::{Config, Hook, OnError};
use crate::hooks::{Action, Url};
use braidcast_media::StreamKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::time::Duration;

/// What the front gives the caller beyond the hooks' own time limits, to hand a question over and the answer back.
const HANDING_OVER: Duration = Duration::from_millis(500);

/// What a hook is called for; never empty once it was read.
#[derive(Clone, Debug, Default, PartialEq, PartialOrd)]
pub struct Actions(pub Vec<Action>);

/// What an action is about, as far as hooks are chosen by it.
#[derive(Clone, Copy, Debug)]
pub enum About<'a> {
    /// A stream.
    Stream(&'a StreamKey),
    /// A client that has named an app, and no stream.
    App {
        /// The virtual host.
        vhost: &'a str,
        /// The app.
        app: &'a str,
    },
}

impl<'a> About<'a> {
    /// What an action is about: connections are an app's, whatever stream they want first.
    pub fn of(action: Action, key: &'a StreamKey) -> Self {
        match action {
            Action::Connect | Action::Close => Self::App { vhost: key.vhost(), app: key.app() },
            _ => Self::Stream(key),
        }
    }
}

impl Hook {
    /// Whether it is called for this.
    pub fn concerns(&self, action: Action, about: About<'_>) -> bool {
        let (vhost, named) = match about {
            About::Stream(key) => (key.vhost(), self.streams.matches(key)),
            About::App { vhost, app } => (vhost, self.streams.may_match_in(app)),
        };
        self.events.0.contains(&action) && (self.vhost.is_empty() || self.vhost == vhost) && named
    }
}

impl Config {
    /// The hooks that are called for this, with their places in the configuration, in that order.
    pub fn hooks_for(&self, action: Action, about: About<'_>) -> impl Iterator<Item = (usize, &Hook)> {
        self.hook.iter().enumerate().filter(move |(_, hook)| hook.concerns(action, about))
    }

    /// Whether anybody is to be asked, or told.
    pub fn asks_hooks(&self, action: Action, about: About<'_>) -> bool {
        self.hooks_for(action, about).next().is_some()
    }

    /// How long a decision may take at most: the hooks are asked one after another.
    pub fn hooks_limit(&self, action: Action, about: About<'_>) -> Duration {
        HANDING_OVER + self.hooks_for(action, about).map(|(_, hook)| Duration::from_millis(hook.timeout.as_ms())).sum::<Duration>()
    }

    /// As [`Config::hooks_limit`], milliseconds; 0 if nobody is to be asked.
    pub fn hooks_limit_ms(&self, action: Action, about: About<'_>) -> u64 {
        if self.asks_hooks(action, about) { self.hooks_limit(action, about).as_millis() as u64 } else { 0 }
    }

    /// What is decided when no answer is to be had, because the process that asks is not there: yes, if all the hooks say so.
    pub fn hooks_allow_on_error(&self, action: Action, about: About<'_>) -> bool {
        self.hooks_for(action, about).all(|(_, hook)| hook.on_error == OnError::Allow)
    }
}

fn text(raw: &Raw) -> Result<&str, String> {
    match raw {
        Raw::Text(text) | Raw::Bare(text) => Ok(text),
        other => Err(format!("{} is not text", other.show())),
    }
}

impl Value for Actions {
    const ALLOWED: &'static str = "`\"on_connect\"`, `\"on_close\"`, `\"on_publish\"`, `\"on_unpublish\"`, `\"on_play\"`, `\"on_stop\"`, `\"on_hls\"`, `\"on_forward\"`";

    fn read(raw: &Raw) -> Result<Self, String> {
        let items: Vec<Raw> = match raw {
            Raw::List(items) => items.clone(),
            Raw::Bare(list) => list.split(',').map(|item| Raw::Bare(item.trim().to_owned())).collect(),
            one => vec![one.clone()],
        };
        let mut actions = Vec::new();
        for item in &items {
            let action = Action::parse(text(item)?)?;
            if !actions.contains(&action) {
                actions.push(action);
            }
        }
        if actions.is_empty() { Err("for nothing".into()) } else { Ok(Self(actions)) }
    }

    fn show(&self) -> String {
        format!("{:?}", self.0.iter().map(|action| action.name()).collect::<Vec<_>>())
    }
}

impl Value for Url {
    const ALLOWED: &'static str = "a URL: `\"http://host/path\"`, `\"https://host/path\"`";

    fn read(raw: &Raw) -> Result<Self, String> {
        Self::parse(text(raw)?)
    }

    fn show(&self) -> String {
        format!("{:?}", self.shown())
    }
}

impl Serialize for Actions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|action| action.name()))
    }
}

impl<'de> Deserialize<'de> for Actions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let actions: Result<_, _> = names.iter().map(|name| Action::parse(name)).collect();
        actions.map(Self).map_err(de::Error::custom)
    }
}

impl Serialize for Url {
    /// With its secrets: for the other processes of the instance.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::load_text;
    use super::*;
    use std::path::Path;

    fn config(text: &str) -> Result<Config, String> {
        load_text(Path::new("b.toml"), text).map(|loaded| loaded.config).map_err(|problems| problems.to_string())
    }

    #[test]
    fn hooks_are_chosen_by_action_and_stream() {
        let config = config(
            "[[hook]]\nevents = ['on_publish', 'on_unpublish', 'on_publish']\nurl = 'http://a/1?t=canary'\n\
             [[hook]]\nevents = 'on_publish'\nurl = 'http://a/2'\nstreams = 'live/*'\non_error = 'allow'\ntimeout = '1s'\n\
             [[hook]]\nevents = 'on_connect'\nurl = 'http://a/3'\nstreams = 'live/x'\nvhost = 'v.example'",
        )
        .unwrap();
        let key = |app: &str| StreamKey::new("v", app, "x").unwrap();
        let places = |action, about: About<'_>| config.hooks_for(action, about).map(|(place, _)| place).collect::<Vec<_>>();
        assert_eq!(places(Action::Publish, About::Stream(&key("live"))), [0, 1]);
        assert_eq!(places(Action::Publish, About::Stream(&key("other"))), [0]);
        assert_eq!(places(Action::Unpublish, About::Stream(&key("live"))), [0]);
        assert!(!config.asks_hooks(Action::Play, About::Stream(&key("live"))));
        assert_eq!(places(Action::Connect, About::App { vhost: "v.example", app: "live" }), [2]);
        assert!(!config.asks_hooks(Action::Connect, About::App { vhost: "v.example", app: "other" }));
        assert!(!config.asks_hooks(Action::Connect, About::App { vhost: "v", app: "live" }));
        assert_eq!(config.hooks_limit(Action::Publish, About::Stream(&key("live"))), Duration::from_millis(4_500));
        assert!(!config.hooks_allow_on_error(Action::Publish, About::Stream(&key("live"))));
        assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);
        assert!(!config.to_toml().contains("canary") && !format!("{config:?}").contains("canary"));
    }

    #[test]
    fn what_is_wrong_with_a_hook_is_said() {
        let text = "[[hook]]\nevents = ['on_dvr']\nurl = 'ftp://h/'\n[[hook]]\nevents = []\ntimeout = '1m'";
        let problems = config(text).unwrap_err();
        assert!(problems.contains("b.toml:2: [[hook]] events") && problems.contains("streams are not recorded here"), "{problems}");
        assert!(problems.contains("for nothing") && problems.contains("[[hook]] without url"), "{problems}");
        assert!(problems.contains("allowed: 100ms to 30s"), "{problems}");
    }
}
