//! AMF0 values: decoding what a peer sent within limits, encoding what we answer.
//!
//! Source: Adobe Action Message Format AMF 0 (2007), named "AMF0" with a section below. Keys keep their order and may
//! repeat. Never allocates by a declared count, never recurses deeper than the caller allows. Where a peer switches to AMF3,
//! [`super::amf3`] reads that one value.

use super::amf3;
use serde::{Deserialize, Serialize};

/// The deepest nesting that any caller can ask for; bounds the stack whatever the configuration says.
pub const MAX_DEPTH: usize = 128;

/// A value (AMF0 §2.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// §2.2.
    Number(f64),
    /// §2.3.
    Boolean(bool),
    /// §2.4 and §2.14 (long strings); bytes that are not UTF-8 are replaced.
    String(String),
    /// §2.5, in the order sent.
    Object(Vec<(String, Value)>),
    /// §2.7.
    Null,
    /// §2.8.
    Undefined,
    /// §2.9.
    Reference(u16),
    /// §2.10: an object that says how many entries it has; the count is often wrong and is not looked at.
    EcmaArray(Vec<(String, Value)>),
    /// §2.12.
    StrictArray(Vec<Value>),
    /// §2.13.
    Date {
        /// Milliseconds since 1970.
        unix_ms: f64,
        /// Reserved by the specification; kept as sent.
        time_zone: i16,
    },
    /// §2.15.
    Unsupported,
    /// §2.17.
    XmlDocument(String),
    /// §2.18.
    TypedObject {
        /// The name of its class.
        class: String,
        /// Its members, in the order sent.
        members: Vec<(String, Value)>,
    },
}

impl Value {
    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The first member with this key, if this is an object or ECMA array that has one.
    pub fn member(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Object(members) | Self::EcmaArray(members) | Self::TypedObject { members, .. } => {
                members.iter().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

/// Why bytes are not AMF0 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmfError {
    /// They end within a value, or an array declares more elements than bytes are left.
    Cut,
    /// Nested deeper than allowed.
    TooDeep,
    /// A marker that AMF0 does not define or reserves (§2.1).
    Marker(u8),
    /// An AMF3 value refers to something that did not come.
    Reference,
    /// AMF3 references repeat more text than is allowed.
    TooMuch,
}

impl std::fmt::Display for AmfError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cut => f.write_str("an AMF0 value is cut short"),
            Self::TooDeep => f.write_str("AMF0 values are nested too deep"),
            Self::Marker(marker) => write!(f, "AMF marker {marker:#04x} is not defined"),
            Self::Reference => f.write_str("an AMF3 value refers to what did not come"),
            Self::TooMuch => f.write_str("AMF3 values repeat too much"),
        }
    }
}

impl std::error::Error for AmfError {}

mod marker {
    pub const NUMBER: u8 = 0;
    pub const BOOLEAN: u8 = 1;
    pub const STRING: u8 = 2;
    pub const OBJECT: u8 = 3;
    pub const NULL: u8 = 5;
    pub const UNDEFINED: u8 = 6;
    pub const REFERENCE: u8 = 7;
    pub const ECMA_ARRAY: u8 = 8;
    pub const OBJECT_END: u8 = 9;
    pub const STRICT_ARRAY: u8 = 10;
    pub const DATE: u8 = 11;
    pub const LONG_STRING: u8 = 12;
    pub const UNSUPPORTED: u8 = 13;
    pub const XML_DOCUMENT: u8 = 15;
    pub const TYPED_OBJECT: u8 = 16;
    pub const AVMPLUS: u8 = 17;
}

/// Reads values one after another from a byte slice.
pub struct Decoder<'a> {
    rest: &'a [u8],
    max_depth: usize,
    switched: bool,
}

impl<'a> Decoder<'a> {
    /// A reader of `bytes` that refuses nesting beyond `max_depth` levels (at most [`MAX_DEPTH`]; a plain value is level 1).
    pub fn new(bytes: &'a [u8], max_depth: usize) -> Self {
        Self { rest: bytes, max_depth: max_depth.min(MAX_DEPTH), switched: false }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether there was an AMF3 value so far.
    pub fn switched(&self) -> bool {
        self.switched
    }

    /// Reads the next value; `None` at the end.
    pub fn next_value(&mut self) -> Option<Result<Value, AmfError>> {
        (!self.rest.is_empty()).then(|| self.value(self.max_depth))
    }

    fn number(&mut self) -> Result<f64, AmfError> {
        Ok(f64::from_be_bytes(array(&mut self.rest)?))
    }

    fn short_string(&mut self) -> Result<String, AmfError> {
        let bytes = u16::from_be_bytes(array(&mut self.rest)?);
        Ok(String::from_utf8_lossy(take(&mut self.rest, bytes.into())?).into_owned())
    }

    fn long_string(&mut self) -> Result<String, AmfError> {
        let bytes = u32::from_be_bytes(array(&mut self.rest)?);
        Ok(String::from_utf8_lossy(take(&mut self.rest, bytes as usize)?).into_owned())
    }

    /// Members up to the end marker. An ECMA array without one, at the very end of the input, counts as ended: some encoders leave it out.
    fn members(&mut self, depth: usize, end_may_lack: bool) -> Result<Vec<(String, Value)>, AmfError> {
        let mut members = Vec::new();
        loop {
            if end_may_lack && self.rest.is_empty() {
                return Ok(members);
            }
            let key = self.short_string()?;
            if key.is_empty() && self.rest.first() == Some(&marker::OBJECT_END) {
                take(&mut self.rest, 1)?;
                return Ok(members);
            }
            members.push((key, self.value(depth)?));
        }
    }

    fn strict_array(&mut self, depth: usize) -> Result<Vec<Value>, AmfError> {
        let count = u32::from_be_bytes(array(&mut self.rest)?);
        if count as usize > self.rest.len() {
            return Err(AmfError::Cut);
        }
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(depth)?);
        }
        Ok(values)
    }

    fn value(&mut self, depth: usize) -> Result<Value, AmfError> {
        let inner = depth.checked_sub(1).ok_or(AmfError::TooDeep)?;
        let [marker] = array(&mut self.rest)?;
        Ok(match marker {
            marker::NUMBER => Value::Number(self.number()?),
            marker::BOOLEAN => Value::Boolean(array::<1>(&mut self.rest)? != [0]),
            marker::STRING => Value::String(self.short_string()?),
            marker::OBJECT => Value::Object(self.members(inner, false)?),
            marker::NULL => Value::Null,
            marker::UNDEFINED => Value::Undefined,
            marker::REFERENCE => Value::Reference(u16::from_be_bytes(array(&mut self.rest)?)),
            marker::ECMA_ARRAY => {
                array::<4>(&mut self.rest)?;
                Value::EcmaArray(self.members(inner, true)?)
            }
            marker::STRICT_ARRAY => Value::StrictArray(self.strict_array(inner)?),
            marker::DATE => Value::Date { unix_ms: self.number()?, time_zone: i16::from_be_bytes(array(&mut self.rest)?) },
            marker::LONG_STRING => Value::String(self.long_string()?),
            marker::UNSUPPORTED => Value::Unsupported,
            marker::XML_DOCUMENT => Value::XmlDocument(self.long_string()?),
            marker::TYPED_OBJECT => Value::TypedObject { class: self.short_string()?, members: self.members(inner, false)? },
            // §3.1: one AMF3 value, whose references begin anew.
            marker::AVMPLUS => {
                let mut amf3 = amf3::Decoder::new(self.rest);
                let value = amf3.value(depth);
                (self.rest, self.switched) = (amf3.rest(), true);
                value?
            }
            other => return Err(AmfError::Marker(other)),
        })
    }
}

/// Takes bytes off the front of what is left.
pub(super) fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], AmfError> {
    let (head, after) = rest.split_at_checked(bytes).ok_or(AmfError::Cut)?;
    *rest = after;
    Ok(head)
}

/// As [`take`], of a fixed number.
pub(super) fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], AmfError> {
    let (head, after) = rest.split_first_chunk::<N>().ok_or(AmfError::Cut)?;
    *rest = after;
    Ok(*head)
}

/// Reads all values of `bytes`.
pub fn decode(bytes: &[u8], max_depth: usize) -> Result<Vec<Value>, AmfError> {
    let mut decoder = Decoder::new(bytes, max_depth);
    std::iter::from_fn(|| decoder.next_value()).collect()
}

/// Appends `value` to `out`. Keys and class names longer than 65,535 bytes are cut there.
pub fn encode(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Number(number) => {
            out.push(marker::NUMBER);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Boolean(truth) => out.extend_from_slice(&[marker::BOOLEAN, u8::from(*truth)]),
        Value::String(text) => encode_str(out, text),
        Value::Object(members) => {
            out.push(marker::OBJECT);
            encode_members(out, members);
        }
        Value::Null => out.push(marker::NULL),
        Value::Undefined => out.push(marker::UNDEFINED),
        Value::Reference(index) => {
            out.push(marker::REFERENCE);
            out.extend_from_slice(&index.to_be_bytes());
        }
        Value::EcmaArray(members) => {
            out.push(marker::ECMA_ARRAY);
            out.extend_from_slice(&(members.len() as u32).to_be_bytes());
            encode_members(out, members);
        }
        Value::StrictArray(values) => {
            out.push(marker::STRICT_ARRAY);
            out.extend_from_slice(&(values.len() as u32).to_be_bytes());
            values.iter().for_each(|value| encode(out, value));
        }
        Value::Date { unix_ms, time_zone } => {
            out.push(marker::DATE);
            out.extend_from_slice(&unix_ms.to_be_bytes());
            out.extend_from_slice(&time_zone.to_be_bytes());
        }
        Value::Unsupported => out.push(marker::UNSUPPORTED),
        Value::XmlDocument(text) => {
            out.push(marker::XML_DOCUMENT);
            encode_long(out, text);
        }
        Value::TypedObject { class, members } => {
            out.push(marker::TYPED_OBJECT);
            encode_short(out, class);
            encode_members(out, members);
        }
    }
}

/// Appends a string value, as a long one if it must be.
pub fn encode_str(out: &mut Vec<u8>, text: &str) {
    if text.len() > usize::from(u16::MAX) {
        out.push(marker::LONG_STRING);
        encode_long(out, text);
    } else {
        out.push(marker::STRING);
        encode_short(out, text);
    }
}

fn encode_short(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(usize::from(u16::MAX))];
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn encode_long(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn encode_members(out: &mut Vec<u8>, members: &[(String, Value)]) {
    for (key, value) in members {
        encode_short(out, key);
        encode(out, value);
    }
    out.extend_from_slice(&[0, 0, marker::OBJECT_END]);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = Value> {
        // NaN is not equal to itself, so numbers come from integers.
        let number = any::<i32>().prop_map(f64::from);
        let leaf = prop_oneof![
            number.clone().prop_map(Value::Number),
            any::<bool>().prop_map(Value::Boolean),
            ".{0,20}".prop_map(Value::String),
            Just(Value::Null),
            Just(Value::Undefined),
            Just(Value::Unsupported),
            any::<u16>().prop_map(Value::Reference),
            ".{0,20}".prop_map(Value::XmlDocument),
            (number, any::<i16>()).prop_map(|(unix_ms, time_zone)| Value::Date { unix_ms, time_zone }),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            let members = prop::collection::vec((".{1,8}", inner.clone()), 0..6);
            prop_oneof![
                members.clone().prop_map(Value::Object),
                members.clone().prop_map(Value::EcmaArray),
                prop::collection::vec(inner, 0..6).prop_map(Value::StrictArray),
                ("[a-z]{1,8}", members).prop_map(|(class, members)| Value::TypedObject { class, members }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(values in prop::collection::vec(any_value(), 0..5)) {
            let mut bytes = Vec::new();
            values.iter().for_each(|value| encode(&mut bytes, value));
            prop_assert_eq!(decode(&bytes, 8).unwrap(), values);
        }

        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), depth in 0usize..40) {
            let _ = decode(&bytes, depth);
        }

        #[test]
        fn markers_alone_do_not_panic(bytes in prop::collection::vec(0u8..19, 0..200)) {
            let _ = decode(&bytes, 32);
        }
    }

    #[test]
    fn two_hundred_thousand_levels_are_refused() {
        let objects: Vec<u8> = b"\x03\0\x01a".repeat(200_000);
        assert_eq!(decode(&objects, 32), Err(AmfError::TooDeep));
        assert_eq!(decode(&objects, usize::MAX), Err(AmfError::TooDeep));
        let arrays: Vec<u8> = b"\x0a\0\0\0\x01".repeat(200_000);
        assert_eq!(decode(&arrays, 32), Err(AmfError::TooDeep));
    }

    #[test]
    fn a_strict_array_is_bounded_by_its_input() {
        assert_eq!(decode(b"\x0a\xff\xff\xff\xff\x05", 32), Err(AmfError::Cut));
        assert_eq!(decode(b"\x0a\0\0\0\x02\x05\x05", 32), Ok(vec![Value::StrictArray(vec![Value::Null, Value::Null])]));
    }

    #[test]
    fn an_ecma_array_may_count_wrong_or_lack_its_end() {
        let one = Value::EcmaArray(vec![("a".to_owned(), Value::Number(1.0))]);
        for count in [0u32, 1, 7, u32::MAX] {
            let mut bytes = vec![8];
            bytes.extend_from_slice(&count.to_be_bytes());
            bytes.extend_from_slice(b"\0\x01a\0\x3f\xf0\0\0\0\0\0\0");
            assert_eq!(decode(&bytes, 32), Ok(vec![one.clone()]), "count {count}, no end");
            bytes.extend_from_slice(b"\0\0\x09");
            assert_eq!(decode(&bytes, 32), Ok(vec![one.clone()]), "count {count}");
        }
    }

    #[test]
    fn every_cut_of_a_message_is_an_error_or_fewer_values() {
        let mut bytes = Vec::new();
        encode_str(&mut bytes, "connect");
        encode(&mut bytes, &Value::Number(1.0));
        encode(&mut bytes, &Value::Object(vec![("app".into(), "live".into()), ("fpad".into(), Value::Boolean(false))]));
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], 32).map_or(true, |values| values.len() < 3), "cut at {cut}");
        }
    }
}
