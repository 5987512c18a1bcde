//! What is fuzzed: one function for each parser. It takes any bytes, and panics if something does not hold that must hold
//! whatever a peer sends, or whatever lies in a damaged file.
//!
//! Two programs call them: libFuzzer in `fuzz/` (`make fuzz`, for hours), and this crate's test (`make test`, for seconds), which
//! gives them the same corpus and a fixed number of mutations of it. Held everywhere:
//!
//! - nothing panics, overflows or runs without end;
//! - memory is bounded by what came in, never by what it declares ([`bounded`]);
//! - what comes out does not depend on how the input was cut into pieces;
//! - a machine that is saved and restored at any moment goes on as if nothing had happened.

mod connections;
mod cut;
mod files;
mod http;
mod media;
pub mod mutate;
mod names;
mod program;
mod relay;
mod rtmp;
mod segments;

use braidcast_sys::allocation::{Counting, peak_of};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its file in `fuzz/fuzz_targets/` and of its directory in `fuzz/corpus/`.
    pub name: &'static str,
    /// Takes an input.
    pub run: fn(&[u8]),
    /// Longer inputs are not tried, in bytes.
    pub longest: usize,
    /// How many mutated inputs `make test` tries: a second or two's worth.
    pub quick_runs: u32,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "rtmp_server", run: rtmp::server_from_the_first_byte, longest: 16 << 10, quick_runs: 4_800 },
    Target { name: "rtmp_session", run: rtmp::server_in_the_midst, longest: 16 << 10, quick_runs: 4_000 },
    Target { name: "rtmp_client", run: rtmp::client, longest: 16 << 10, quick_runs: 3_200 },
    Target { name: "rtmp_relay", run: relay::relay, longest: 16 << 10, quick_runs: 3_200 },
    Target { name: "rtmp_chunks", run: rtmp::chunks, longest: 16 << 10, quick_runs: 12_000 },
    Target { name: "amf0", run: rtmp::amf0_values, longest: 8 << 10, quick_runs: 400_000 },
    Target { name: "rtmp_url", run: names::rtmp_url, longest: 1 << 10, quick_runs: 300_000 },
    Target { name: "http_request", run: http::requests, longest: 4 << 10, quick_runs: 250_000 },
    Target { name: "http_answer", run: http::answers, longest: 4 << 10, quick_runs: 250_000 },
    Target { name: "http_values", run: http::values, longest: 1 << 10, quick_runs: 250_000 },
    Target { name: "prefixes", run: connections::prefixes, longest: 8 << 10, quick_runs: 200_000 },
    Target { name: "websocket", run: connections::websocket, longest: 4 << 10, quick_runs: 200_000 },
    Target { name: "media_tags", run: media::tags, longest: 4 << 10, quick_runs: 800_000 },
    Target { name: "flv_records", run: media::records, longest: 16 << 10, quick_runs: 300_000 },
    Target { name: "mpegts", run: media::transport_stream, longest: 8 << 10, quick_runs: 500_000 },
    Target { name: "segmenter", run: segments::segmenter, longest: 16 << 10, quick_runs: 25_000 },
    Target { name: "segment_files", run: segments::files, longest: 8 << 10, quick_runs: 500_000 },
    Target { name: "playlist", run: segments::playlists, longest: 8 << 10, quick_runs: 80_000 },
    Target { name: "media_playlist", run: segments::media_playlists, longest: 8 << 10, quick_runs: 200_000 },
    Target { name: "stream_log", run: files::stream_log, longest: 4 << 10, quick_runs: 5_000 },
    Target { name: "saved_state", run: program::saved_state, longest: 8 << 10, quick_runs: 500_000 },
    Target { name: "config", run: program::config, longest: 4 << 10, quick_runs: 3_000 },
    Target { name: "srs_conf", run: program::srs_conf, longest: 4 << 10, quick_runs: 3_000 },
    Target { name: "credentials", run: program::credentials, longest: 2 << 10, quick_runs: 40_000 },
    Target { name: "hook_answer", run: program::hook_answer, longest: 4 << 10, quick_runs: 200_000 },
    Target { name: "control", run: program::control, longest: 4 << 10, quick_runs: 500_000 },
];

/// The target with this name. Panics if there is none.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no fuzz target is called {name}"))
}

/// Runs a target; of a longer input than it takes only the beginning. The entry of the programs in `fuzz/`.
pub fn run(name: &str, input: &[u8]) {
    let target = target(name);
    (target.run)(&input[..input.len().min(target.longest)]);
}

/// Runs something that may take `fixed_bytes` of memory, and `factor` bytes for each byte of input; panics if it takes more.
fn bounded<T>(input: &[u8], factor: usize, fixed_bytes: usize, act: impl FnOnce() -> T) -> T {
    let (result, peak) = peak_of(act);
    let most = fixed_bytes + factor * input.len();
    assert!(peak <= most, "{peak} bytes of memory for {} bytes of input, {most} are allowed", input.len());
    result
}
