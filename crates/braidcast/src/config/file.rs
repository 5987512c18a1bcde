//! Takes a TOML file apart into assignments, each with its line. Knows no keys.

use super::problem::{Origin, Problems};
use super::value::Raw;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One `key = value` of a file.
pub(super) struct Assignment {
    /// The section's name.
    pub section: String,
    /// Which one of several sections of this name (`[[worker]]`), from 0; `None` if it is a plain one.
    pub index: Option<usize>,
    /// The key; `None` for a section without keys, whose name has to be checked all the same.
    pub key: Option<String>,
    /// The value, as written.
    pub raw: Raw,
    /// The place.
    pub origin: Origin,
}

/// All assignments, in no particular order. What is not TOML is reported, and the rest still read as far as it can be.
pub(super) fn assignments(path: &Path, text: &str, problems: &mut Problems) -> Vec<Assignment> {
    let at = |offset: usize| Origin::file(path, 1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count());
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        problems.add(error.span().map_or(Origin::file(path, 0), |span| at(span.start)), error.message());
    }
    let mut found = Vec::new();
    for (name, value) in document.get_ref().iter() {
        let section = name.get_ref().to_string();
        match value.get_ref() {
            DeValue::Table(table) => one_section(&section, None, table, at(name.span().start), &at, &mut found),
            DeValue::Array(items) if !items.is_empty() && items.iter().all(|item| item.get_ref().is_table()) => {
                for (index, item) in items.iter().enumerate() {
                    let Some(table) = item.get_ref().as_table() else { continue };
                    one_section(&section, Some(index), table, at(item.span().start), &at, &mut found);
                }
            }
            // An error has said already what is wrong with a file that could not be read whole.
            _ if !errors.is_empty() => {}
            _ => problems
                .add(at(name.span().start), format!("{section}: a key outside of a section; keys belong below a heading such as [server]")),
        }
    }
    // The parser sorts by name; people read from top to bottom.
    found.sort_by_key(|assignment| match assignment.origin {
        Origin::File { line, .. } => line,
        _ => 0,
    });
    found
}

fn one_section(
    section: &str,
    index: Option<usize>,
    table: &DeTable<'_>,
    heading: Origin,
    at: &impl Fn(usize) -> Origin,
    found: &mut Vec<Assignment>,
) {
    found.push(Assignment { section: section.to_owned(), index, key: None, raw: Raw::Other("a table"), origin: heading });
    for (key, value) in table.iter() {
        let (key, origin) = (Some(key.get_ref().to_string()), at(key.span().start));
        found.push(Assignment { section: section.to_owned(), index, key, raw: raw(value), origin });
    }
}

fn raw(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Number(number.to_string()),
            Err(_) => Raw::Number(number.to_string()),
        },
        DeValue::Float(number) => Raw::Number(number.as_str().to_owned()),
        DeValue::Boolean(value) => Raw::Bool(*value),
        DeValue::Array(items) => Raw::List(items.iter().map(raw).collect()),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}
