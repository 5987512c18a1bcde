//! Ids of several processes side by side: `id`, or `process:id` where an id alone could be another process's as well.

use super::ApiAnswer;
use braidcast_protocols::http::percent_decode;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// The longest id in a path.
const MAX_ID_BYTES: usize = 256;

/// An id as a path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// The process that it names.
    pub process: Option<u16>,
    /// The id that the process knows.
    pub id: String,
}

impl Named {
    /// From a path's last segment.
    pub fn parse(segment: &str, processes: &[u16]) -> Result<Self, ApiAnswer> {
        let text = percent_decode(segment).filter(|text| text.len() <= MAX_ID_BYTES).unwrap_or_default();
        let (process, id) = match text.split_once(':') {
            Some((process, id)) => (Some(known(process, processes)?), id),
            None => (None, text.as_str()),
        };
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)) {
            return Err(ApiAnswer::error(400, "this is no id of SRS, nor one with its process (1:id)"));
        }
        Ok(Self { process, id: id.to_owned() })
    }

    /// SRS 3 and older count their ids, each process for itself.
    pub fn is_counted(&self) -> bool {
        self.id.bytes().all(|byte| byte.is_ascii_digit())
    }

    /// `process` may be meant.
    pub fn may_be_of(&self, process: u16) -> bool {
        self.process.is_none_or(|named| named == process)
    }
}

/// The process of this number.
pub(super) fn known(number: &str, processes: &[u16]) -> Result<u16, ApiAnswer> {
    let process = number.parse().ok().filter(|process| processes.contains(process));
    process.ok_or_else(|| ApiAnswer::error(404, format_args!("there is no such process; there are: {}", list(processes))))
}

/// Numbers, for a sentence.
pub(super) fn list(processes: &[u16]) -> String {
    processes.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// An id as a text, as paths have it.
pub(super) fn text(id: &Value) -> Option<String> {
    match id {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Writes the process to an id, if it is one that each process counts.
pub(super) fn qualify_counted(id: &mut Value, process: u16) {
    if let Value::Number(number) = id {
        *id = Value::String(format!("{process}:{number}"));
    }
}

/// Writes the process to those ids of a merged list that two processes have.
pub(super) fn qualify_shared(items: &mut [(u16, Value)]) {
    let mut first: HashMap<&str, u16> = HashMap::with_capacity(items.len());
    let mut shared = HashSet::new();
    for (process, item) in items.iter() {
        if let Some(id) = item["id"].as_str()
            && *first.entry(id).or_insert(*process) != *process
        {
            shared.insert(id.to_owned());
        }
    }
    for (process, item) in items.iter_mut() {
        if let Some(Value::String(id)) = item.get_mut("id")
            && shared.contains(id)
        {
            *id = format!("{process}:{id}");
        }
    }
}
