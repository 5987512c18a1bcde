//! AMF3 values where AMF0 switches to them: what Flash clients with `objectEncoding` 3 send. Only read: answers are AMF0.
//!
//! Source: Adobe Action Message Format AMF 3 (2013), named "AMF3" with a section below. Values come out as the AMF0 values that mean
//! the same. Never allocates by a declared count, never recurses deeper than the caller allows, and gives no more bytes than
//! [`MAX_EXPANDED_BYTES`] for text that is repeated by reference.

use super::amf0::{AmfError, Value, array, take};

/// Text and names that references may repeat, in all of one value: two bytes of input can stand for all that came before.
const MAX_EXPANDED_BYTES: usize = 64 << 10;

/// AMF3 §3.1.
mod marker {
    pub const UNDEFINED: u8 = 0;
    pub const NULL: u8 = 1;
    pub const FALSE: u8 = 2;
    pub const TRUE: u8 = 3;
    pub const INTEGER: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const STRING: u8 = 6;
    pub const XML_DOCUMENT: u8 = 7;
    pub const DATE: u8 = 8;
    pub const ARRAY: u8 = 9;
    pub const OBJECT: u8 = 10;
    pub const XML: u8 = 11;
    pub const BYTE_ARRAY: u8 = 12;
}

/// The members that objects of a class have without naming them (§3.12).
#[derive(Clone, Default)]
struct Traits {
    class: String,
    sealed: Vec<String>,
    dynamic: bool,
}

/// Reads one value and what it refers to. References to other values come out as [`Value::Unsupported`]: no command has any.
pub(super) struct Decoder<'a> {
    rest: &'a [u8],
    strings: Vec<&'a [u8]>,
    traits: Vec<Traits>,
    expanded_bytes: usize,
}

/// What stands before strings, arrays and objects: a reference, or the length or count of what follows (§1.3.2 and §3).
enum Head {
    Reference(usize),
    Inline(usize),
}

impl<'a> Decoder<'a> {
    /// A reader of the bytes behind AMF0's marker.
    pub fn new(rest: &'a [u8]) -> Self {
        Self { rest, strings: Vec::new(), traits: Vec::new(), expanded_bytes: 0 }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads a value of at most `depth` levels.
    pub fn value(&mut self, depth: usize) -> Result<Value, AmfError> {
        let inner = depth.checked_sub(1).ok_or(AmfError::TooDeep)?;
        let [marker] = array(&mut self.rest)?;
        Ok(match marker {
            marker::UNDEFINED => Value::Undefined,
            marker::NULL => Value::Null,
            marker::FALSE => Value::Boolean(false),
            marker::TRUE => Value::Boolean(true),
            // 29 bits with a sign (§3.6).
            marker::INTEGER => Value::Number(f64::from((self.u29()? << 3).cast_signed() >> 3)),
            marker::DOUBLE => Value::Number(f64::from_be_bytes(array(&mut self.rest)?)),
            marker::STRING => Value::String(self.string()?),
            marker::XML_DOCUMENT | marker::XML => {
                self.bytes_or_reference(|text| Value::XmlDocument(String::from_utf8_lossy(text).into_owned()))?
            }
            marker::DATE => match self.head()? {
                Head::Inline(_) => Value::Date { unix_ms: f64::from_be_bytes(array(&mut self.rest)?), time_zone: 0 },
                Head::Reference(_) => Value::Unsupported,
            },
            marker::ARRAY => self.array_value(inner)?,
            marker::OBJECT => self.object(inner)?,
            marker::BYTE_ARRAY => self.bytes_or_reference(|_| Value::Unsupported)?,
            other => return Err(AmfError::Marker(other)),
        })
    }

    /// Up to 29 bits in one to four bytes (§1.3.1); the fourth has eight.
    fn u29(&mut self) -> Result<u32, AmfError> {
        let mut value = 0;
        for _ in 0..3 {
            let [byte] = array(&mut self.rest)?;
            value = value << 7 | u32::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        let [last] = array(&mut self.rest)?;
        Ok(value << 8 | u32::from(last))
    }

    fn head(&mut self) -> Result<Head, AmfError> {
        let head = self.u29()?;
        let number = (head >> 1) as usize;
        Ok(if head & 1 == 0 { Head::Reference(number) } else { Head::Inline(number) })
    }

    /// Counts text that comes out a second time.
    fn expand(&mut self, bytes: usize) -> Result<(), AmfError> {
        self.expanded_bytes += bytes;
        if self.expanded_bytes > MAX_EXPANDED_BYTES { Err(AmfError::TooMuch) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<String, AmfError> {
        let bytes = match self.head()? {
            Head::Reference(index) => {
                let bytes = *self.strings.get(index).ok_or(AmfError::Reference)?;
                self.expand(bytes.len())?;
                bytes
            }
            Head::Inline(length) => {
                let bytes = take(&mut self.rest, length)?;
                // The empty string is never referred to (§3.8).
                if !bytes.is_empty() {
                    self.strings.push(bytes);
                }
                bytes
            }
        };
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn bytes_or_reference(&mut self, value: impl FnOnce(&[u8]) -> Value) -> Result<Value, AmfError> {
        Ok(match self.head()? {
            Head::Reference(_) => Value::Unsupported,
            Head::Inline(length) => value(take(&mut self.rest, length)?),
        })
    }

    /// Members with a name each, up to an empty name.
    fn named(&mut self, depth: usize, members: &mut Vec<(String, Value)>) -> Result<(), AmfError> {
        loop {
            let name = self.string()?;
            if name.is_empty() {
                return Ok(());
            }
            members.push((name, self.value(depth)?));
        }
    }

    /// §3.11: named members, then numbered ones. One with names comes out as an ECMA array, its numbers as names.
    fn array_value(&mut self, depth: usize) -> Result<Value, AmfError> {
        let Head::Inline(count) = self.head()? else { return Ok(Value::Unsupported) };
        let mut members = Vec::new();
        self.named(depth, &mut members)?;
        if count > self.rest.len() {
            return Err(AmfError::Cut);
        }
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(depth)?);
        }
        if members.is_empty() {
            return Ok(Value::StrictArray(values));
        }
        members.extend(values.into_iter().enumerate().map(|(index, value)| (index.to_string(), value)));
        Ok(Value::EcmaArray(members))
    }

    /// §3.12. An object that writes itself ("externalizable") has a form that only its class knows.
    fn object(&mut self, depth: usize) -> Result<Value, AmfError> {
        let head = self.u29()?;
        if head & 1 == 0 {
            return Ok(Value::Unsupported);
        }
        let traits = if head & 2 == 0 {
            let traits = self.traits.get((head >> 2) as usize).cloned().ok_or(AmfError::Reference)?;
            self.expand(traits.class.len() + traits.sealed.iter().map(String::len).sum::<usize>())?;
            traits
        } else if head & 4 != 0 {
            return Err(AmfError::Marker(marker::OBJECT));
        } else {
            self.new_traits(head)?
        };
        let mut members = Vec::new();
        for name in traits.sealed {
            members.push((name, self.value(depth)?));
        }
        if traits.dynamic {
            self.named(depth, &mut members)?;
        }
        let class = traits.class;
        Ok(if class.is_empty() { Value::Object(members) } else { Value::TypedObject { class, members } })
    }

    fn new_traits(&mut self, head: u32) -> Result<Traits, AmfError> {
        let count = (head >> 4) as usize;
        let mut traits = Traits { class: self.string()?, sealed: Vec::new(), dynamic: head & 8 != 0 };
        if count > self.rest.len() {
            return Err(AmfError::Cut);
        }
        for _ in 0..count {
            traits.sealed.push(self.string()?);
        }
        self.traits.push(traits.clone());
        Ok(traits)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::amf0;
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Value, AmfError> {
        let mut decoder = Decoder::new(bytes);
        let value = decoder.value(8)?;
        assert!(decoder.rest().is_empty(), "{:?} is left", decoder.rest());
        Ok(value)
    }

    #[test]
    fn scalars() {
        assert_eq!(read(b"\x00"), Ok(Value::Undefined));
        assert_eq!(read(b"\x01"), Ok(Value::Null));
        assert_eq!((read(b"\x02"), read(b"\x03")), (Ok(Value::Boolean(false)), Ok(Value::Boolean(true))));
        for (bytes, number) in [
            (&b"\x04\x00"[..], 0.0),
            (b"\x04\x7f", 127.0),
            (b"\x04\x81\x00", 128.0),
            (b"\x04\xff\xff\x7f", 2_097_151.0),
            (b"\x04\x80\xc0\x80\x00", 2_097_152.0),
            (b"\x04\xbf\xff\xff\xff", 268_435_455.0),
            (b"\x04\xff\xff\xff\xff", -1.0),
            (b"\x05\x3f\xf8\0\0\0\0\0\0", 1.5),
        ] {
            assert_eq!(read(bytes), Ok(Value::Number(number)), "{bytes:x?}");
        }
        assert_eq!(read(b"\x06\x09live"), Ok("live".into()));
        assert_eq!(read(b"\x08\x01\x3f\xf0\0\0\0\0\0\0"), Ok(Value::Date { unix_ms: 1.0, time_zone: 0 }));
        assert_eq!(read(b"\x0b\x05<a"), Ok(Value::XmlDocument("<a".into())));
        assert_eq!(read(b"\x0c\x05ab"), Ok(Value::Unsupported));
    }

    #[test]
    fn arrays_and_objects_with_what_they_refer_to() {
        let two = Value::StrictArray(vec!["ab".into(), "ab".into()]);
        assert_eq!(read(b"\x09\x05\x01\x06\x05ab\x06\x00"), Ok(two));
        let named = Value::EcmaArray(vec![("k".into(), Value::Null), ("0".into(), Value::Boolean(true))]);
        assert_eq!(read(b"\x09\x03\x03k\x01\x01\x03"), Ok(named));
        // One sealed member "a", dynamic, then a dynamic one; a second object of the same class.
        let first = Value::Object(vec![("a".into(), 1.0.into()), ("b".into(), Value::Null)]);
        assert_eq!(read(b"\x0a\x1b\x01\x03a\x04\x01\x03b\x01\x01"), Ok(first.clone()));
        let both = Value::StrictArray(vec![first, Value::Object(vec![("a".into(), 2.0.into())])]);
        assert_eq!(read(b"\x09\x05\x01\x0a\x1b\x01\x03a\x04\x01\x03b\x01\x01\x0a\x01\x04\x02\x01"), Ok(both));
        let typed = Value::TypedObject { class: "C".into(), members: vec![("x".into(), Value::Boolean(true))] };
        assert_eq!(read(b"\x0a\x13\x03C\x03x\x03"), Ok(typed));
    }

    #[test]
    fn what_is_broken_or_endless_is_refused() {
        assert_eq!(read(b"\x06\x02"), Err(AmfError::Reference));
        assert_eq!(read(b"\x0a\x01"), Err(AmfError::Reference));
        assert_eq!(read(b"\x0a\x07\x03C"), Err(AmfError::Marker(10)), "externalizable");
        assert_eq!(read(b"\x11"), Err(AmfError::Marker(17)));
        assert_eq!(read(b"\x09\xff\xff\xff\xff\x01"), Err(AmfError::Cut), "a count beyond the input");
        assert_eq!(read(&b"\x09\x03\x01".repeat(100)), Err(AmfError::TooDeep));
        let text = [&b"\x06\x81\xff\x7f"[..], &[b'x'; 16_383]].concat();
        let mut bomb = b"\x09\x8f\x51\x01".to_vec();
        bomb.extend(&text);
        bomb.extend(b"\x06\x00".repeat(999));
        assert_eq!(read(&bomb), Err(AmfError::TooMuch));
    }

    #[test]
    fn amf0_goes_on_behind_it() {
        let bytes = b"\x02\0\x07connect\x11\x04\x01\x11\x0a\x0b\x01\x07app\x06\x09live\x01\x05";
        let object = Value::Object(vec![("app".into(), "live".into())]);
        assert_eq!(amf0::decode(bytes, 8), Ok(vec!["connect".into(), 1.0.into(), object, Value::Null]));
    }

    proptest! {
        #[test]
        fn no_input_panics_or_grows(bytes in prop::collection::vec(prop_oneof![0u8..14, any::<u8>()], 0..300), depth in 0usize..40) {
            let mut decoder = Decoder::new(&bytes);
            while !decoder.rest().is_empty() && decoder.value(depth).is_ok() {}
        }
    }
}
