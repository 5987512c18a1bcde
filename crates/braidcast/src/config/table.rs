//! The macro that declares a section once: its keys with documentation, type, default and allowed range.
//!
//! From that one table come the struct, its defaults, the check of every value, the list of valid names and the documentation.

use super::value::{Raw, Value};
use std::ops::RangeInclusive;

/// What is known of a key beside its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its name within its section.
    pub name: &'static str,
    /// What it does; lines.
    pub doc: &'static str,
    /// Its default, as written in a file.
    pub default: String,
    /// What may be written, in words.
    pub allowed: String,
    /// Whether its value is never shown; then the key with `_file` behind it names a file that holds it.
    pub secret: bool,
}

/// Why a key could not be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The section has no such key.
    UnknownKey,
    /// The value will not do.
    BadValue {
        /// What is wrong with it.
        fault: String,
        /// What may be written.
        allowed: String,
    },
}

/// A struct of the configuration that [`section!`] declared.
pub trait Section: Default {
    /// What it is for; lines.
    const DOC: &'static str;

    /// Its keys, in the order of their declaration.
    fn keys() -> Vec<KeyInfo>;

    /// Reads and checks a value, and sets it only if it is right.
    fn set(&mut self, key: &str, raw: &Raw) -> Result<(), Rejected>;

    /// A key's present value, as written in a file; `None` if there is no such key.
    fn show(&self, key: &str) -> Option<String>;
}

pub(super) fn allowed<T: Value>(range: Option<&RangeInclusive<T>>) -> String {
    match range {
        Some(range) => format!("{} to {}", bare(range.start()), bare(range.end())),
        None => T::ALLOWED.to_owned(),
    }
}

fn bare<T: Value>(value: &T) -> String {
    value.show().trim_matches('"').to_owned()
}

pub(super) fn read<T: Value>(raw: &Raw, range: Option<RangeInclusive<T>>) -> Result<T, Rejected> {
    let rejected = |fault: String| Rejected::BadValue { fault, allowed: allowed(range.as_ref()) };
    let value = T::read(raw).map_err(rejected)?;
    match &range {
        Some(range) if !range.contains(&value) => Err(rejected("out of range".into())),
        _ => Ok(value),
    }
}

macro_rules! section {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $key_doc:literal])+ $key:ident: $type:ty = $default:expr $(, in $range:expr)?;)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $key_doc])+ pub $key: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $crate::config::table::Section for $name {
            const DOC: &'static str = concat!($($doc, "\n"),+);

            fn keys() -> Vec<$crate::config::table::KeyInfo> {
                vec![$({
                    let range: Option<std::ops::RangeInclusive<$type>> = [$($range)?].into_iter().next();
                    let default: $type = $default;
                    $crate::config::table::KeyInfo {
                        name: stringify!($key),
                        doc: concat!($($key_doc, "\n"),+),
                        default: $crate::config::value::Value::show(&default),
                        allowed: $crate::config::table::allowed(range.as_ref()),
                        secret: <$type as $crate::config::value::Value>::SECRET,
                    }
                }),+]
            }

            fn set(&mut self, key: &str, raw: &$crate::config::value::Raw) -> Result<(), $crate::config::table::Rejected> {
                match key {
                    $(stringify!($key) => {
                        let range: Option<std::ops::RangeInclusive<$type>> = [$($range)?].into_iter().next();
                        self.$key = $crate::config::table::read(raw, range)?;
                    })+
                    _ => return Err($crate::config::table::Rejected::UnknownKey),
                }
                Ok(())
            }

            fn show(&self, key: &str) -> Option<String> {
                match key {
                    $(stringify!($key) => Some($crate::config::value::Value::show(&self.$key)),)+
                    _ => None,
                }
            }
        }
    };
}

pub(super) use section;
