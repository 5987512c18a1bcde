//! What `connect` says of Enhanced RTMP ("E-RTMP" v1 and v2, section "Enhancing NetConnection connect Command"), and what is answered.
//!
//! The server carries every codec and every kind of tag as it is, and neither decodes nor encodes any: it says just that.

use crate::rtmp::amf0::Value;

/// Members of the command object that only a client has that knows E-RTMP.
const MEMBERS: [&str; 4] = ["fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap", "capsEx"];
/// Every codec.
const ANY: &str = "*";
/// `FourCcInfoMask.CanForward`.
const CAN_FORWARD: f64 = 4.0;
/// `CapsExMask`: several tracks, modifiers, nanoseconds. (Not 1: a reconnect is never asked for, because none is needed.)
const MULTITRACK: u32 = 2;
const MOD_EX: u32 = 4;
const TIMESTAMP_NANO_OFFSET: u32 = 8;

/// Whether the client has said anything of E-RTMP. Old ones are answered as ever.
pub(super) fn is_spoken_by(object: &Value) -> bool {
    MEMBERS.iter().any(|member| object.member(member).is_some())
}

/// Whether the client reads tags with several tracks, and with modifiers.
pub(super) fn knows_tracks(object: &Value) -> bool {
    // A float becomes an integer by saturation: whatever was sent is some mask.
    let mask = object.member("capsEx").and_then(Value::as_number).unwrap_or(0.0) as u32;
    mask & MULTITRACK != 0 && mask & MOD_EX != 0
}

/// What the server says of itself in the properties of its answer.
pub(super) fn properties() -> [(String, Value); 4] {
    let any = || Value::Object(vec![(ANY.to_owned(), CAN_FORWARD.into())]);
    let caps = f64::from(MULTITRACK | MOD_EX | TIMESTAMP_NANO_OFFSET);
    let [list, video, audio, mask] = MEMBERS.map(str::to_owned);
    [(list, Value::StrictArray(vec![ANY.into()])), (video, any()), (audio, any()), (mask, caps.into())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(members: &[(&str, Value)]) -> Value {
        Value::Object(members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    #[test]
    fn only_who_says_so_knows_tracks() {
        for (caps, knows) in [(14.0, true), (6.0, true), (2.0, false), (4.0, false), (-1.0, false), (f64::NAN, false), (1e300, true)] {
            assert_eq!(knows_tracks(&object(&[("capsEx", caps.into())])), knows, "{caps}");
        }
        let first = object(&[("app", "live".into()), ("fourCcList", Value::StrictArray(vec!["hvc1".into()]))]);
        assert!(is_spoken_by(&first) && !knows_tracks(&first));
        assert!(!is_spoken_by(&object(&[("app", "live".into())])) && !is_spoken_by(&Value::Null));
    }
}
