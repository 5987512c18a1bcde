//! Names of streams: what a client means, and where it lies.

use crate::bounded;
use braidcast_media::{StreamKey, key, vhost};
use braidcast_protocols::rtmp::url::{Target, resolve};
use braidcast_stream_log::{Root, path};
use std::path::{Component, Path, PathBuf};

/// A stream's directory lies three levels below `streams`, and each level stands for one part of its name alone.
pub fn check_key(stream: &StreamKey) {
    let parts = [stream.vhost(), stream.app(), stream.stream()];
    assert_eq!(StreamKey::new(parts[0], parts[1], parts[2]).as_ref(), Ok(stream), "a key is one that could be made");
    assert!(parts.iter().all(|part| (1..=key::MAX_PART_BYTES).contains(&part.len())), "a part has no good length");
    let root = Root::new(PathBuf::from("/root"));
    let directory = root.stream_dir(stream);
    let below = directory.strip_prefix(Path::new("/root/streams")).expect("a stream lies below `streams`");
    let levels: Vec<_> = below.components().collect();
    assert_eq!(levels.len(), 3, "{}", directory.display());
    for (level, part) in levels.iter().zip(parts) {
        let Component::Normal(name) = level else { panic!("{}", directory.display()) };
        let name = name.to_str().expect("names are encoded to ASCII");
        assert!(name.len() <= 255 && !name.starts_with('.'), "{name}");
        assert_eq!(path::decode(name).as_deref(), Some(part), "no two names lie in one place");
    }
}

/// `tcUrl`, app and stream, separated by line ends, as `connect` and `publish` say them; and the first as a URL.
pub fn rtmp_url(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.splitn(3, '\n').map(str::to_owned);
    let [tc_url, app, stream] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let resolved = bounded(text.as_bytes(), 64, 8 << 10, || resolve(&tc_url, &app, &stream));
    if let Ok(resolved) = resolved {
        check_key(&resolved.key);
        let known = ["a.example".to_owned()];
        check_key(&vhost::restrict(resolved.key, &known));
        assert!(resolved.params.len() <= 2 * text.len() + 3, "parameters are what was sent");
    }
    if let Some(target) = Target::parse(&tc_url) {
        assert!(!target.host.is_empty() && !target.app.is_empty() && !target.stream.is_empty());
        assert!(tc_url.starts_with(&target.tc_url), "the URL up to the app is its beginning");
    }
}
