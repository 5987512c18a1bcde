//! Which servers a stream has passed through, said from one to the next, so that it does not go round in circles.
//!
//! Over RTMP it is a member of `connect`'s command object, of its answer and of `NetStream.Play.Start`, over HTTP a field of request and
//! response: the servers' names with commas between, the oldest first. Servers that do not know it pass over it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The member of AMF objects.
pub const MEMBER: &str = "braidcastVia";
/// The HTTP field.
pub const FIELD: &str = "Braidcast-Via";
/// The most servers that are remembered; a stream that has passed through so many goes no further.
pub const MAX_HOPS: usize = 16;
/// The longest name of a server, in bytes.
const MAX_ID_BYTES: usize = 32;

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Via(Vec<Box<str>>);

impl Via {
    /// Reads a list. What is no name of a server is left out, and so is what is more than [`MAX_HOPS`].
    pub fn parse(text: &str) -> Self {
        let is_id = |id: &&str| !id.is_empty() && id.len() <= MAX_ID_BYTES && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Self(text.split(',').map(str::trim).filter(is_id).take(MAX_HOPS).map(Into::into).collect())
    }

    /// No server said that it passes something on.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a server is among them.
    pub fn contains(&self, id: &str) -> bool {
        self.0.iter().any(|known| **known == *id)
    }

    /// Whether no further server can be added.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MAX_HOPS
    }

    /// Whether some server is in both.
    pub fn meets(&self, other: &Self) -> bool {
        self.0.iter().any(|id| other.contains(id))
    }

    /// With a server more at the end, unless it is the last one already. The oldest goes if there are too many.
    pub fn then(mut self, id: &str) -> Self {
        if self.0.last().is_none_or(|last| **last != *id) && !id.is_empty() {
            if self.is_full() {
                self.0.remove(0);
            }
            self.0.push(id.into());
        }
        self
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, id) in self.0.iter().enumerate() {
            write!(f, "{}{id}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_kept_in_order_and_rubbish_is_not() {
        let via = Via::parse(" a1, b\r\nX: y,,c\u{e9},b2");
        assert_eq!(via.to_string(), "a1,b2");
        assert!(via.contains("b2") && !via.contains("b"));
        assert_eq!(via.clone().then("b2"), via);
        assert!(via.meets(&Via::parse("z,a1")) && !via.meets(&Via::default()));
        let long = Via::parse(&"x,".repeat(99));
        assert!(long.is_full());
        assert_eq!(long.then("y").to_string().len(), 2 * MAX_HOPS - 1);
    }

    proptest! {
        #[test]
        fn what_is_said_is_read_back(text in "\\PC{0,200}") {
            let via = Via::parse(&text);
            prop_assert_eq!(Via::parse(&via.to_string()), via);
        }
    }
}
