//! What a frame costs on the ways that every frame takes, in counts that depend neither on the machine's speed nor on the kernel: instructions
//! by callgrind, and allocations. The bounds are what was counted when they were recorded, and a fifth more.
//!
//! How many bytes an instruction copies is up to the machine. So copies of a frame's bytes are counted in those of one plain copy.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::tools::{has, run_ok};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// Frames that a run of the program counts.
const FRAMES: f64 = 1_000.0;
/// Callgrind counts an instruction that copies many bytes as many: glibc is to take others.
const PLAIN: &str = "GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_non_temporal_threshold=1073741824";
const SMALL_BYTES: usize = 200;
const LARGE_BYTES: usize = 8_200;

/// What a frame may cost on one of the ways.
struct Bound {
    path: &'static str,
    /// Instructions for a small frame.
    frame: f64,
    /// Copies of each further byte,
    copies: f64,
    /// and instructions for it besides.
    byte: f64,
    /// Allocations for a frame of any length: those of whole blocks and segments, spread over their frames.
    allocations: f64,
}

const BOUNDS: [Bound; 5] = [
    Bound { path: "intake", frame: 1_480.0, copies: 0.0, byte: 0.02, allocations: 0.01 },
    Bound { path: "log", frame: 3_570.0, copies: 1.0, byte: 0.02, allocations: 0.04 },
    Bound { path: "rtmp", frame: 376.0, copies: 1.0, byte: 0.02, allocations: 0.0 },
    Bound { path: "ts", frame: 2_150.0, copies: 1.0, byte: 0.57, allocations: 0.48 },
    Bound { path: "segments", frame: 2_400.0, copies: 1.0, byte: 0.57, allocations: 0.17 },
];

/// Builds the program as it is always counted, whatever the tests are built like.
fn build() -> Result<std::path::PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--profile",
        "counts",
        "-p",
        "braidcast-e2e",
        "--bin",
        "hot-paths",
        "--target-dir",
        "target",
    ]);
    let output = cargo.current_dir(&root).env_remove("RUSTFLAGS").output().context("running cargo")?;
    ensure!(output.status.success(), "the program cannot be built:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(root.join("target/counts/hot-paths"))
}

/// Instructions and allocations of a frame.
fn count(program: &Path, path: &str, bytes: usize) -> Result<(f64, f64)> {
    let directory = tempfile::tempdir()?;
    let (profile, said) = (directory.path().join("profile"), directory.path().join("said"));
    let options = [
        "--tool=callgrind".to_owned(),
        "--toggle-collect=*counted_frames*".to_owned(),
        format!("--callgrind-out-file={}", profile.display()),
        format!("--log-file={}", said.display()),
        program.display().to_string(),
        path.to_owned(),
        bytes.to_string(),
    ];
    let asked = run_ok("env", &[&[PLAIN, "valgrind"], &options.each_ref().map(String::as_str)[..]].concat(), PATIENCE)?;
    let said = std::fs::read_to_string(said)?;
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<f64>().ok());
    let times: f64 = asked.split(' ').next().unwrap_or_default().parse().with_context(|| asked.clone())?;
    Ok((collected.with_context(|| said.clone())? / FRAMES, times / FRAMES))
}

#[test]
fn a_frame_on_its_way() -> Result<()> {
    if !has("valgrind") {
        println!("skipped: instructions are counted by valgrind, which is not there (Debian: apt install valgrind)");
        return Ok(());
    }
    let program = build()?;
    let slope = |path: &str| -> Result<(f64, f64, f64)> {
        let ((small, few), (large, many)) = (count(&program, path, SMALL_BYTES)?, count(&program, path, LARGE_BYTES)?);
        Ok((small, (large - small) / (LARGE_BYTES - SMALL_BYTES) as f64, few.max(many)))
    };
    let (_, of_copy, _) = slope("copy")?;
    println!("one copy: {of_copy:.3} instructions a byte");
    let mut faults = Vec::new();
    for bound in BOUNDS {
        let (small, of_byte, allocations) = slope(bound.path)?;
        let counted = [
            ("instructions for a small frame", small, bound.frame),
            ("instructions for each further byte", of_byte, bound.copies * of_copy + bound.byte),
            ("allocations", allocations, bound.allocations),
        ];
        for (what, counted, most) in counted {
            println!("{}: {what} {counted:.3}, at most {most:.3}", bound.path);
            if counted > most {
                faults.push(format!("{}: {what}: {counted:.3}, at most {most:.3} are allowed", bound.path));
            }
        }
    }
    ensure!(
        faults.is_empty(),
        "A frame costs more than before.\n{}\nFind out what was added: `valgrind --tool=callgrind --toggle-collect='*counted_frames*' target/counts/hot-paths PATH {LARGE_BYTES}`, \
         then callgrind_annotate. If it has to be, raise the bound in e2e/tests/instructions.rs and say why in CHANGELOG.md.",
        faults.join("\n")
    );
    Ok(())
}
