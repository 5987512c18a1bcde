//! Patterns and URLs as values of keys: read, checked and shown.

use super::value::{Raw, Value};
use crate::relays::{Pattern, Template};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Where a stream is pushed to.
#[derive(Clone, Debug, Default, PartialEq, PartialOrd)]
pub struct Targets(pub Vec<Template>);

/// Where a stream comes from.
#[derive(Clone, Debug, Default, PartialEq, PartialOrd)]
pub struct Source(pub Template);

fn text(raw: &Raw) -> Result<&str, String> {
    match raw {
        Raw::Text(text) | Raw::Bare(text) => Ok(text),
        other => Err(format!("{} is not text", other.show())),
    }
}

impl Value for Pattern {
    const ALLOWED: &'static str = "`\"app/stream\"`, with stars";

    fn read(raw: &Raw) -> Result<Self, String> {
        Self::parse(text(raw)?)
    }

    fn show(&self) -> String {
        format!("{:?}", self.as_str())
    }
}

impl Value for Targets {
    const ALLOWED: &'static str = "URLs: `\"rtmp://host/app/{stream}\"`";

    fn read(raw: &Raw) -> Result<Self, String> {
        let items: Vec<Raw> = match raw {
            Raw::List(items) => items.clone(),
            Raw::Bare(list) => list.split(',').map(|item| Raw::Bare(item.trim().to_owned())).collect(),
            one => vec![one.clone()],
        };
        let urls: Result<Vec<Template>, String> = items.iter().map(|item| Template::parse_target(text(item)?)).collect();
        match urls?.as_slice() {
            [] => Err("nowhere".into()),
            urls => Ok(Self(urls.to_vec())),
        }
    }

    fn show(&self) -> String {
        format!("{:?}", self.0.iter().map(Template::as_str).collect::<Vec<_>>())
    }
}

impl Value for Source {
    const ALLOWED: &'static str = "a URL: `\"rtmp://host/app/{stream}\"`, `\"http://host/app/{stream}.flv\"`, `\"https://host/x.m3u8\"`";

    fn read(raw: &Raw) -> Result<Self, String> {
        Template::parse_source(text(raw)?).map(Self)
    }

    fn show(&self) -> String {
        format!("{:?}", self.0.as_str())
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Template::as_str))
    }
}

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let urls = Vec::<String>::deserialize(deserializer)?;
        let urls: Result<_, _> = urls.iter().map(|url| Template::parse_target(url)).collect();
        urls.map(Self).map_err(de::Error::custom)
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Template::parse_source(&String::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
    }
}
