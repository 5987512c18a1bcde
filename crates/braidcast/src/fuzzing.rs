//! Entries for the fuzz targets: parsers of this crate, with what has to hold whatever they are given. The program calls none.
//!
//! Each takes any bytes. It panics if something does not hold, and returns if the bytes are refused.

use crate::access::{Asking, Rules, without_secrets};
use crate::config;
use crate::control::Intent;
use crate::control::orders::{Order, Report};
use crate::control::{self, ToFront, ToWorker};
use crate::hls::SavedState;
use crate::hooks::answer::{Answer, judge};
use crate::srs_conf::{self, Place, Site};
use braidcast_media::RecordKind;
use braidcast_protocols::hls::{Segmenter, SegmenterOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::LazyLock;

pub use crate::worker::fuzzing::saved_session;

/// A keyframe of H.264: one NAL unit of two bytes behind a length of four.
const KEYFRAME: &[u8] = b"\x17\x01\0\0\0\0\0\0\x02\x65k";

/// A packet between front and worker, or between an operator and the front. What is read is written as it was read.
pub fn control_packet(packet: &[u8]) {
    round_trip::<ToFront>(packet);
    round_trip::<ToWorker>(packet);
    round_trip::<Order>(packet);
    round_trip::<Report>(packet);
}

fn round_trip<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(packet: &[u8]) {
    let Ok(message) = control::decode::<M>(packet) else { return };
    let encoded = control::encode(&message);
    assert_eq!(control::decode::<M>(&encoded).expect("what was encoded is decoded"), message);
}

/// A configuration file. What is accepted is the same when it is written down and read again, unless that hides secrets, and when it has travelled
/// to a worker.
pub fn config_file(text: &str) {
    let Ok(loaded) = config::load_text(Path::new("fuzz.toml"), text) else { return };
    let config = loaded.config;
    let written = config.to_toml();
    if !written.contains(config::HIDDEN) {
        let again = config::load_text(Path::new("fuzz.toml"), &written);
        assert_eq!(again.expect("what was accepted is accepted again").config, config);
    }
    assert_eq!(config::Config::from_json(&config.to_json()).expect("it goes to workers as JSON"), config);
}

/// A configuration file of SRS; every file that it includes is the same. What is read is printed and read again the
/// same; what is generated from it is read, and generates itself; what it is translated to is accepted.
pub fn srs_conf_file(text: &str) {
    let mut included = |_: &str| Ok("vhost included { hls { enabled on; } }\n".to_owned());
    if let Ok(tree) = srs_conf::parse("fuzz.conf", text, &mut included) {
        let printed = srs_conf::print(&tree.children).expect("what was read can be said");
        let again = srs_conf::parse("again.conf", &printed, &mut included).expect("what was printed is read");
        assert_eq!(srs_conf::print(&again.children).as_deref(), Ok(printed.as_str()));
    }
    let Ok(site) = Site::from_text("fuzz.conf", text, &[], &mut included) else { return };
    let local = |port| ([127, 0, 0, 1], port).into();
    for carries_others in [true, false] {
        let place = Place {
            id: 1,
            rtmp: local(1),
            http: local(2),
            api: local(3),
            hls_dir: "/dev/shm/x".into(),
            run_dir: "/run/x".into(),
            carries_others,
        };
        let generated = site.generate(&place).expect("what was read can be said");
        let one = Site::from_text("one.conf", &generated, &[], &mut included).expect("what was generated is read");
        assert_eq!(one.listens().rtmp, [place.rtmp]);
        assert_eq!(one.edge_vhosts(), site.edge_vhosts());
        assert_eq!(one.api_auth(), site.api_auth());
    }
    assert!(site.notes().iter().all(|note| !note.to_string().is_empty()) && site.removed_variables().is_empty());
    config::load_text(Path::new("import.toml"), &site.to_native()).expect("what was imported is accepted");
}

/// A segmenter's state file, behind its checksum: whatever it says, a segmenter goes on from it.
pub fn hls_state(body: &[u8]) {
    let bytes = SavedState::framed(body);
    let Some(state) = SavedState::decode(&bytes) else { return };
    assert_eq!(SavedState::decode(&state.encode()).as_ref(), Some(&state));
    let mut segmenter = Segmenter::new(SegmenterOptions::new(4_000), state.segmenter);
    for (timestamp_ms, payload) in [(0, KEYFRAME), (5_000, KEYFRAME), (u32::MAX, KEYFRAME)] {
        segmenter.handle_record(RecordKind::Video, timestamp_ms, payload, 1);
    }
    segmenter.finish();
    while segmenter.poll_output().is_some() {}
}

/// What the rules below let in by itself.
const TOKEN: &str = "a-token-that-nobody-guesses";
const RULES: &str = r#"
[[access]]
streams = "live/signed"
sign_secret = "known to the server alone"
[[access]]
streams = "live/jwt"
jwt_secret = "known to the server alone, too, and long enough"
[[access]]
streams = "live/token"
tokens = ["a-token-that-nobody-guesses"]
"#;

/// A client's query and its bearer token, of which a space divides them. Nobody forges a signature or a token; and what is shown of the query
/// holds no value of a parameter that is not known to be harmless.
pub fn credentials(text: &str) {
    static TABLES: LazyLock<Vec<config::Access>> =
        LazyLock::new(|| config::load_text(Path::new("fuzz.toml"), RULES).expect("these are rules").config.access);
    let mut rules = Rules::new(&TABLES);
    let (params, bearer) = text.split_once(' ').map_or((text, None), |(params, bearer)| (params, Some(bearer)));
    for stream in ["signed", "jwt", "token"] {
        let key = braidcast_media::StreamKey::new("__defaultVhost__", "live", stream).expect("it is a name");
        let client = Ipv4Addr::LOCALHOST.into();
        let asking = Asking { intent: Intent::Publish, key: &key, client, params, bearer, page: "", now_s: 1_800_000_000 };
        if rules.check(&asking).is_ok() {
            assert_eq!(stream, "token", "let in by {text:?}");
        }
    }
    let shown = without_secrets(&format!("{params}&token={TOKEN}"));
    assert!(!shown.contains(TOKEN) || params.contains(TOKEN), "{shown:?}");
}

/// What a hook server answers: its status in two bytes, then the body. Only 200 and 201 allow anything, and what is taken of it is bounded.
pub fn hook_answer(input: &[u8]) {
    let [high, low, body @ ..] = input else { return };
    let status = u16::from_be_bytes([*high, *low]);
    match judge(status, body) {
        Ok(Answer::Allowed { urls }) => {
            assert!(matches!(status, 200 | 201), "{status} allows");
            assert!(urls.len() <= body.len() && urls.iter().map(String::len).sum::<usize>() <= body.len());
        }
        Ok(Answer::Refused(words)) => assert!(!words.contains(char::is_control) && words.len() < 4096, "{words:?}"),
        Err(_) => {}
    }
}
