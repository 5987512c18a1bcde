//! Values: how each type that a key can have is read from a file, a variable or a flag, and how it is shown.
//!
//! Knows nothing of keys, sections or places; an error here is only what is wrong with the value.

use super::networks::Network;
use super::units::{Size, Span};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// A value as it was written, before its key's type is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// A number of a file; its digits.
    Number(String),
    /// `true` or `false` of a file.
    Bool(bool),
    /// A quoted string of a file.
    Text(String),
    /// A list of a file.
    List(Vec<Raw>),
    /// Text of a variable or a flag, where nothing is quoted.
    Bare(String),
    /// Something that no key takes (a table, a date): what it is.
    Other(&'static str),
}

impl Raw {
    /// As it was written, cut to a readable length.
    pub fn show(&self) -> String {
        let full = match self {
            Self::Number(text) | Self::Bare(text) => text.clone(),
            Self::Bool(value) => value.to_string(),
            Self::Text(text) => format!("{text:?}"),
            Self::List(items) => format!("[{}]", items.iter().map(Self::show).collect::<Vec<_>>().join(", ")),
            Self::Other(what) => format!("({what})"),
        };
        match full.char_indices().nth(60) {
            Some((cut, _)) => format!("{}…", &full[..cut]),
            None => full,
        }
    }

    /// The text of a string of a file or of a bare value; numbers too, since `listen = 1935` and `fragment = 2` need no quotes.
    fn text(&self) -> Option<&str> {
        match self {
            Self::Number(text) | Self::Text(text) | Self::Bare(text) => Some(text),
            _ => None,
        }
    }

    /// The items of a list; one bare item or several with commas between; one item alone.
    fn items(&self) -> Result<Vec<Raw>, String> {
        match self {
            Self::List(items) => Ok(items.clone()),
            Self::Bare(text) if text.trim().is_empty() => Ok(Vec::new()),
            Self::Bare(text) => Ok(text.split(',').map(|item| Self::Bare(item.trim().to_owned())).collect()),
            Self::Number(_) | Self::Text(_) => Ok(vec![self.clone()]),
            _ => Err("not a list".into()),
        }
    }
}

/// A type that keys can have.
pub trait Value: Sized + PartialOrd {
    /// What may be written, for messages and the documentation, if no range says it better.
    const ALLOWED: &'static str;
    /// Whether it is never shown, and may be in a file of its own.
    const SECRET: bool = false;

    /// Reads one; the error says what is wrong with it.
    fn read(raw: &Raw) -> Result<Self, String>;

    /// As it would be written in a file.
    fn show(&self) -> String;
}

impl Value for bool {
    const ALLOWED: &'static str = "`true` or `false`";

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Bool(value) => Ok(*value),
            Raw::Bare(text) => match text.as_str() {
                "true" | "yes" | "on" | "1" => Ok(true),
                "false" | "no" | "off" | "0" => Ok(false),
                _ => Err("neither true nor false".into()),
            },
            _ => Err("neither true nor false".into()),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

macro_rules! whole_numbers {
    ($($type:ty)*) => {
        $(impl Value for $type {
            const ALLOWED: &'static str = "a whole number";

            fn read(raw: &Raw) -> Result<Self, String> {
                let (Raw::Number(text) | Raw::Bare(text)) = raw else { return Err("not a whole number".into()) };
                let number: i128 = text.replace('_', "").parse().map_err(|_| "not a whole number")?;
                Self::try_from(number).map_err(|_| "out of range".into())
            }

            fn show(&self) -> String {
                self.to_string()
            }
        })*
    };
}

whole_numbers!(u16 u32 u64);

impl Value for Span {
    const ALLOWED: &'static str = "a duration";

    fn read(raw: &Raw) -> Result<Self, String> {
        raw.text().ok_or("not a duration (10, 2.5, \"500ms\", \"2m\")")?.parse()
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Value for Size {
    const ALLOWED: &'static str = "a size";

    fn read(raw: &Raw) -> Result<Self, String> {
        raw.text().ok_or("not a size (65536, \"64KiB\", \"16MiB\", \"1GB\")")?.parse()
    }

    fn show(&self) -> String {
        match self.bytes() {
            0 => "0".into(),
            _ => format!("\"{self}\""),
        }
    }
}

impl Value for PathBuf {
    const ALLOWED: &'static str = "a path";

    fn read(raw: &Raw) -> Result<Self, String> {
        let (Raw::Text(text) | Raw::Bare(text)) = raw else { return Err("not a path".into()) };
        if text.is_empty() {
            return Err("an empty path".into());
        }
        // Workers and `status` are started elsewhere perhaps, and must mean the same directory.
        std::path::absolute(text).map_err(|error| error.to_string())
    }

    fn show(&self) -> String {
        format!("{:?}", self.display().to_string())
    }
}

impl Value for String {
    const ALLOWED: &'static str = "text";

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) | Raw::Bare(text) => Ok(text.clone()),
            _ => Err("not text".into()),
        }
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for Vec<String> {
    const ALLOWED: &'static str = "a list of names";

    fn read(raw: &Raw) -> Result<Self, String> {
        let name = |item: &Raw| match item {
            Raw::Text(text) | Raw::Bare(text) => Ok(text.clone()),
            other => Err(format!("{} is not a name", other.show())),
        };
        raw.items()?.iter().map(name).collect()
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for Vec<u16> {
    const ALLOWED: &'static str = "a list of ports";

    fn read(raw: &Raw) -> Result<Self, String> {
        raw.items()?.iter().map(u16::read).collect()
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for Vec<Network> {
    const ALLOWED: &'static str = "addresses and networks";

    fn read(raw: &Raw) -> Result<Self, String> {
        raw.items()?.iter().map(|item| item.text().ok_or("not an address")?.parse()).collect()
    }

    fn show(&self) -> String {
        format!("{:?}", self.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

impl Value for Vec<SocketAddr> {
    const ALLOWED: &'static str = "addresses to listen on";

    fn read(raw: &Raw) -> Result<Self, String> {
        let mut addresses = Vec::new();
        for item in raw.items()? {
            for address in listen_addresses(item.text().ok_or("not an address")?)? {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Ok(addresses)
    }

    fn show(&self) -> String {
        format!("{:?}", self.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

/// What one text to listen on stands for: `1935` and `:1935` are all addresses of both families, `localhost:1935` both loopbacks.
fn listen_addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    let both = |v4: Ipv4Addr, v6: Ipv6Addr, port: &str| -> Result<Vec<SocketAddr>, String> {
        let port: u16 = port.parse().map_err(|_| format!("{port:?} is not a port (0 to 65535)"))?;
        Ok(vec![(IpAddr::from(v4), port).into(), (IpAddr::from(v6), port).into()])
    };
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, text);
    }
    if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        return both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, port);
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, port);
    }
    text.parse()
        .map(|address| vec![address])
        .map_err(|_| format!("{text:?} is not an address (\"1935\", \"127.0.0.1:1935\", \"[::]:1935\")"))
}

/// Declares an enumeration of which a key takes one, by the names that are written in files.
macro_rules! choice {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $variant_doc:literal])+ $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[doc = $variant_doc])+ #[serde(rename = $text)] $variant,)+
        }

        impl $crate::config::value::Value for $name {
            const ALLOWED: &'static str = $crate::config::value::joined!($($text),+);

            fn read(raw: &$crate::config::value::Raw) -> Result<Self, String> {
                use $crate::config::value::Raw;
                match raw {
                    $(Raw::Text(text) | Raw::Bare(text) if text == $text => Ok(Self::$variant),)+
                    _ => Err("not one of these".into()),
                }
            }

            fn show(&self) -> String {
                match self { $(Self::$variant => concat!("\"", $text, "\"").to_owned(),)+ }
            }
        }
    };
}

/// `"a"`, `"b"` or `"c"`, at compile time.
macro_rules! joined {
    ($one:literal) => { concat!("`\"", $one, "\"`") };
    ($one:literal, $last:literal) => { concat!("`\"", $one, "\"` or `\"", $last, "\"`") };
    ($one:literal, $($rest:literal),+) => { concat!("`\"", $one, "\"`, ", $crate::config::value::joined!($($rest),+)) };
}

pub(crate) use {choice, joined};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn listen(text: &str) -> Result<Vec<String>, String> {
        Vec::<SocketAddr>::read(&Raw::Bare(text.into())).map(|list| list.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_to_listen_on() {
        assert_eq!(listen("1935").unwrap(), ["0.0.0.0:1935", "[::]:1935"]);
        assert_eq!(listen(":0").unwrap(), ["0.0.0.0:0", "[::]:0"]);
        assert_eq!(listen("localhost:80").unwrap(), ["127.0.0.1:80", "[::1]:80"]);
        assert_eq!(listen("127.0.0.1:0,[::1]:8080").unwrap(), ["127.0.0.1:0", "[::1]:8080"]);
        assert_eq!(listen("").unwrap(), Vec::<String>::new());
        assert_eq!(listen("80,80").unwrap().len(), 2);
        for bad in ["70000", "host:80", "127.0.0.1", "::1", "1.2.3.4:x", ","] {
            assert!(listen(bad).is_err(), "{bad}");
        }
        assert_eq!(Vec::<SocketAddr>::read(&Raw::Number("1935".into())).unwrap().len(), 2);
    }

    #[test]
    fn networks_to_trust() {
        let read = |text: &str| Vec::<Network>::read(&Raw::Bare(text.into())).map(|list| list.show());
        assert_eq!(read("127.0.0.1, ::1,10.0.0.0/8").unwrap(), r#"["127.0.0.1", "::1", "10.0.0.0/8"]"#);
        assert_eq!(read("").unwrap(), "[]");
        assert!(read("10.0.0.1/8").is_err() && read("10.0.0.1,x").is_err());
        assert!(Vec::<Network>::read(&Raw::Number("10".into())).is_err());
    }

    #[test]
    fn quoted_numbers_of_a_file_are_not_numbers() {
        assert!(u16::read(&Raw::Text("4".into())).is_err());
        assert_eq!(u16::read(&Raw::Bare("4".into())), Ok(4));
        assert_eq!(u16::read(&Raw::Number("-1".into())), Err("out of range".into()));
        assert!(bool::read(&Raw::Text("true".into())).is_err());
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        assert!(Raw::Text("ü".repeat(500)).show().chars().count() <= 61);
    }
}
