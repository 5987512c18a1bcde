//! Command messages (RTMP §7.2): reading what a peer calls, and the values of answers.

use super::amf0::{self, AmfError, Value};
use super::error::Limit;

/// A call or an answer: name, transaction id, command object, further arguments (RTMP §7.2.1).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Command {
    pub name: String,
    /// 0: no answer is wanted.
    pub transaction: f64,
    pub object: Value,
    pub arguments: Vec<Value>,
}

impl Command {
    /// Reads a command message's payload.
    pub fn decode(payload: &[u8], max_depth: usize) -> Result<Self, (Limit, String)> {
        let mut values = Vec::new();
        let mut decoder = amf0::Decoder::new(payload, max_depth);
        while let Some(value) = decoder.next_value() {
            match value {
                Ok(value) => values.push(value),
                Err(error @ AmfError::TooDeep) => return Err((Limit::AmfDepth, error.to_string())),
                Err(error) => return Err((Limit::Protocol, error.to_string())),
            }
        }
        let mut values = values.into_iter();
        let Some(Value::String(name)) = values.next() else {
            return Err((Limit::Protocol, "a command without a name".to_owned()));
        };
        let transaction = values.next().and_then(|value| value.as_number()).unwrap_or(0.0);
        Ok(Self { name, transaction, object: values.next().unwrap_or(Value::Null), arguments: values.collect() })
    }

    /// The argument at `index` after the command object, as text.
    pub fn text(&self, index: usize) -> Option<&str> {
        self.arguments.get(index)?.as_str()
    }

    /// A member of the command object as text, empty if there is none.
    pub fn object_text(&self, key: &str) -> &str {
        self.object.member(key).and_then(Value::as_str).unwrap_or_default()
    }
}

/// The information object of `onStatus` and of answers (RTMP §7.2.2).
pub(super) fn information(level: &str, code: &str, description: &str) -> Value {
    Value::Object(vec![
        ("level".to_owned(), level.into()),
        ("code".to_owned(), code.into()),
        ("description".to_owned(), description.into()),
    ])
}
