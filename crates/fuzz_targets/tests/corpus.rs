//! Replays the corpus of each fuzz target, and a fixed number of mutations of it. `make fuzz` looks further.
//!
//! An input that fails is left in `target/fuzz-failures/`; with BRAIDCAST_TEST_SEED other mutations are tried.

use braidcast_fuzz_targets::mutate::{Random, mutated};
use braidcast_fuzz_targets::{Target, target};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The seed, unless the environment names another: the test does the same each time.
const SEED: u64 = 20;
/// An input takes microseconds; one that takes this long on however busy a machine has no end.
const ENDLESS: Duration = Duration::from_secs(30);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The inputs of a target, by name.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let directory = repository().join("fuzz/corpus").join(target.name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a directory can be read").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file can be read")).collect()
}

/// Runs an input; one that fails is kept.
fn run(target: &Target, input: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        keep(target, input, what);
        resume_unwind(panic);
    }
}

fn keep(target: &Target, input: &[u8], what: &str) {
    let directory = repository().join("target/fuzz-failures");
    let path = directory.join(format!("{}-{what}", target.name));
    if fs::create_dir_all(&directory).and_then(|()| fs::write(&path, input)).is_ok() {
        eprintln!("the input lies in {}", path.display());
    }
}

/// Ends the test if a mutation runs for so long that it has no end. Gives the number of the one that runs.
fn watch(target: &'static Target, corpus: Arc<Vec<Vec<u8>>>, seed: u64) -> Arc<AtomicU32> {
    let running = Arc::new(AtomicU32::new(0));
    let watched = running.clone();
    std::thread::spawn(move || {
        let mut before = u32::MAX;
        loop {
            std::thread::sleep(ENDLESS);
            let number = watched.load(Ordering::Relaxed);
            if number == before {
                let mut random = Random(seed);
                let input = (0..=number).map(|_| mutated(&mut random, &corpus, target.longest)).last().unwrap_or_default();
                keep(target, &input, &format!("{seed}-{number}"));
                eprintln!("mutation {number} of {} with seed {seed} runs without end", target.name);
                std::process::abort();
            }
            before = number;
        }
    });
    running
}

fn replay_and_mutate(name: &str) {
    let target = target(name);
    let corpus = Arc::new(corpus(target));
    assert!(!corpus.is_empty(), "the corpus of {name} is empty");
    for (index, input) in corpus.iter().enumerate() {
        run(target, &input[..input.len().min(target.longest)], &format!("corpus-{index}"));
    }
    let seed = std::env::var("BRAIDCAST_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("{name}: {} inputs, then {} mutations with seed {seed}", corpus.len(), target.quick_runs);
    let running = watch(target, corpus.clone(), seed);
    let mut random = Random(seed);
    for number in 0..target.quick_runs {
        running.store(number, Ordering::Relaxed);
        run(target, &mutated(&mut random, &corpus, target.longest), &format!("{seed}-{number}"));
    }
}

macro_rules! targets {
    ($($name:ident,)+) => {
        $(#[test] fn $name() { replay_and_mutate(stringify!($name)); })+

        #[test]
        fn every_target_is_tried_and_has_its_program() {
            let tried = [$(stringify!($name)),+];
            let targets: Vec<&str> = braidcast_fuzz_targets::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(tried.as_slice(), targets);
            for name in targets {
                let program = repository().join("fuzz/fuzz_targets").join(format!("{name}.rs"));
                assert!(program.is_file(), "{}", program.display());
            }
        }
    };
}

targets! {
    rtmp_server,
    rtmp_session,
    rtmp_client,
    rtmp_relay,
    rtmp_chunks,
    amf0,
    rtmp_url,
    http_request,
    http_answer,
    http_values,
    prefixes,
    websocket,
    media_tags,
    flv_records,
    mpegts,
    segmenter,
    segment_files,
    playlist,
    media_playlist,
    stream_log,
    saved_state,
    config,
    srs_conf,
    credentials,
    hook_answer,
    control,
}
