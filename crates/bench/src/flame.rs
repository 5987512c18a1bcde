//! Where a server's CPU goes: `perf record` on its processes for a while, drawn as a flame graph.
//!
//! Only an observer: a run that is recorded is never one that is measured. The picture is one SVG without scripts; whoever points at
//! a box reads its name and its share. Beside it lies a text: shares by kinds of work, then the functions that ran most themselves.

use crate::process::{Interrupt, Process};
use crate::shares::{Function, Shares};
use anyhow::Context;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Samples per second: not a divisor of anything that servers do by the clock.
const FREQUENCY: &str = "1499";

/// A recording that runs.
pub struct Recording {
    perf: Child,
    directory: TempDir,
}

/// Why nothing can be recorded here; `None` if it can.
pub fn unavailable() -> Option<String> {
    match Command::new("perf").arg("--version").stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => None,
        _ => Some("perf is not there (Debian: apt install linux-perf)".to_owned()),
    }
}

impl Recording {
    /// Begins to record these processes.
    pub fn start(family: &[Process]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("no temporary directory")?;
        let pids: Vec<String> = family.iter().map(|member| member.pid().to_string()).collect();
        let mut command = Command::new("perf");
        command.args(["record", "--quiet", "--freq", FREQUENCY, "--call-graph", "fp", "--pid", &pids.join(","), "--output"]);
        command.arg(directory.path().join("perf.data")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let perf = command.spawn().context("cannot run perf")?;
        Ok(Self { perf, directory })
    }

    /// Ends the recording. An error if there is none, because perf may not, say.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.perf);
        // It may have ended by itself; what it left tells.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        self.perf.wait()?;
        let data = self.directory.path().join("perf.data");
        let whole = fs::metadata(&data).is_ok_and(|metadata| metadata.len() > 0);
        anyhow::ensure!(whole, "perf recorded nothing (root, or kernel.perf_event_paranoid of 1 at most, is needed)");
        Ok(())
    }

    /// Draws what was recorded.
    pub fn draw(self, path: &Path) -> anyhow::Result<()> {
        let data = self.directory.path().join("perf.data");
        let mut command = Command::new("perf");
        let output = command.arg("script").arg("--input").arg(&data).args(["--fields", "comm,ip,sym"]).stdin(Stdio::null()).output()?;
        anyhow::ensure!(output.status.success(), "perf script says: {}", String::from_utf8_lossy(&output.stderr).trim());
        let (tree, shares) = fold(&String::from_utf8_lossy(&output.stdout));
        anyhow::ensure!(tree.samples > 0, "perf took no samples: the processes did nothing");
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path.with_extension("txt"), format!("{}\n{}", shares.line(), tree.tops()))?;
        fs::write(path, tree.svg()).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Nothing to do for one that has ended.
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

/// Records a process and its descendants for a while.
pub fn record(root: u32, seconds: f64, path: &Path, interrupt: &Interrupt) -> anyhow::Result<()> {
    let family = crate::process::descendants(root);
    anyhow::ensure!(!family.is_empty(), "there is no process {root}");
    let mut recording = Recording::start(&family)?;
    interrupt.sleep(std::time::Duration::from_secs_f64(seconds))?;
    recording.stop()?;
    recording.draw(path)
}

/// A function, how often it was on the stack here, and what it called.
#[derive(Debug, Default)]
struct Frame {
    samples: u64,
    calls: BTreeMap<String, Frame>,
}

/// Reads what `perf script` prints: a line with the program's name, lines of address and symbol from the innermost outwards, an empty line.
fn fold(text: &str) -> (Frame, Shares) {
    let (mut root, mut shares) = (Frame::default(), Shares::default());
    let mut stack: Vec<Function> = Vec::new();
    let mut program = String::new();
    for line in text.lines().chain([""]) {
        let line_is_symbol = line.starts_with([' ', '\t']);
        if line.trim().is_empty() {
            if !program.is_empty() {
                root.add(std::iter::once(program.as_str()).chain(stack.iter().rev().map(|function| function.name.as_str())));
                shares.add(&stack);
            }
            program.clear();
            stack.clear();
        } else if line_is_symbol && !program.is_empty() {
            let (address, symbol) = line.trim().split_once(' ').unwrap_or((line.trim(), "[unknown]"));
            // Half of all addresses are the kernel's: those with the highest bit.
            let in_kernel = u64::from_str_radix(address, 16).is_ok_and(|address| address >> 63 == 1);
            stack.push(Function { name: short(symbol.trim()), in_kernel });
        } else {
            program = line.trim().to_owned();
        }
    }
    (root, shares)
}

/// Without offsets, hashes and generic arguments.
fn short(symbol: &str) -> String {
    let symbol = symbol.rsplit_once("+0x").map_or(symbol, |(name, _)| name);
    let symbol = symbol.rsplit_once("::h").filter(|(_, hash)| hash.len() == 16).map_or(symbol, |(name, _)| name);
    let mut depth = 0_u32;
    let mut name = String::new();
    for letter in symbol.chars() {
        match letter {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            letter if depth == 0 => name.push(letter),
            _ => {}
        }
    }
    let name = name.trim_matches(':');
    if name.is_empty() { symbol.to_owned() } else { name.to_owned() }
}

const WIDTH: f64 = 1200.0;
const ROW: f64 = 17.0;
/// Boxes narrower than this cannot be seen.
const LEAST_WIDTH: f64 = 0.4;
/// Of a larger picture more boxes are left out: it is kept with the documentation.
const MOST_BYTES: usize = 400_000;
const LETTER: f64 = 6.6;
/// How many functions a summary names.
const TOPS: usize = 16;

impl Frame {
    fn add<'a>(&mut self, stack: impl Iterator<Item = &'a str>) {
        self.samples += 1;
        let mut at = self;
        for name in stack {
            at = at.calls.entry(name.to_owned()).or_default();
            at.samples += 1;
        }
    }

    /// The functions that ran most themselves, a line each.
    fn tops(&self) -> String {
        let mut own = BTreeMap::new();
        self.collect(&mut own);
        let mut all: Vec<(&str, u64)> = own.into_iter().filter(|(_, samples)| *samples > 0).collect();
        all.sort_by_key(|&(name, samples)| (std::cmp::Reverse(samples), name));
        let line = |(name, samples): &(&str, u64)| format!("{:5.1} %  {name}\n", *samples as f64 * 100.0 / self.samples.max(1) as f64);
        all.iter().take(TOPS).map(line).collect()
    }

    fn collect<'a>(&'a self, own: &mut BTreeMap<&'a str, u64>) {
        for (name, frame) in &self.calls {
            let called: u64 = frame.calls.values().map(|frame| frame.samples).sum();
            *own.entry(name).or_default() += frame.samples - called;
            frame.collect(own);
        }
    }

    fn depth(&self) -> usize {
        1 + self.calls.values().map(Self::depth).max().unwrap_or(0)
    }

    fn svg(&self) -> String {
        let mut least_width = LEAST_WIDTH;
        loop {
            let svg = self.svg_without(least_width);
            if svg.len() <= MOST_BYTES || least_width >= WIDTH {
                return svg;
            }
            least_width *= 1.5;
        }
    }

    /// Without boxes that are narrower.
    fn svg_without(&self, least_width: f64) -> String {
        let height = self.depth() as f64 * ROW + 8.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"monospace\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        self.draw(&mut svg, "all", [0.0, height - 4.0 - ROW], self.samples.max(1), least_width);
        svg.push_str("</svg>\n");
        svg
    }

    fn draw(&self, svg: &mut String, name: &str, [x, y]: [f64; 2], all: u64, least_width: f64) {
        let width = self.samples as f64 / all as f64 * WIDTH;
        if width < least_width {
            return;
        }
        let share = self.samples as f64 * 100.0 / all as f64;
        let text = escaped(name);
        let room = (width / LETTER) as usize;
        let label = if room < 3 { String::new() } else { escaped(&name.chars().take(room - 1).collect::<String>()) };
        let _ = writeln!(
            svg,
            "<g><title>{text}: {share:.1} % ({} samples)</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\" stroke=\"#fff\" stroke-width=\"0.5\"/><text x=\"{:.1}\" y=\"{:.1}\">{label}</text></g>",
            self.samples,
            ROW - 1.0,
            colour(name),
            x + 3.0,
            y + 12.0
        );
        let mut x = x;
        for (name, frame) in &self.calls {
            frame.draw(svg, name, [x, y - ROW], all, least_width);
            x += frame.samples as f64 / all as f64 * WIDTH;
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Of one name always the same: warm for the kernel (and everything without a path), cold for what was compiled from Rust.
fn colour(name: &str) -> String {
    let shade = crc32fast::hash(name.as_bytes());
    let (low, high) = (shade % 60, shade / 60 % 40);
    if name.contains("::") {
        format!("rgb({},{},{})", 110 + low, 170 + high, 225)
    } else {
        format!("rgb({},{},{})", 235, 150 + low, 90 + high)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SCRIPT: &str = "server \n\tffffffff81000000 tcp_sendmsg+0x10\n\tffffffff80000000 do_syscall_64\n\t5555 braidcast::worker::run::h0123456789abcdef\n\nserver \n\t5555 <a::B<c> as d::E>::run\n\nidle \n\n";

    #[test]
    fn stacks_are_folded_from_the_outside_in() {
        let (tree, shares) = fold(SCRIPT);
        assert_eq!(tree.samples, 3);
        assert_eq!(shares.line(), "3 samples: 33 % sending (kernel), 33 % the program's own code, 33 % unknown");
        let server = &tree.calls["server"];
        assert_eq!(server.samples, 2);
        assert_eq!(server.calls["braidcast::worker::run"].calls["do_syscall_64"].calls["tcp_sendmsg"].samples, 1);
        assert_eq!(server.calls["run"].samples, 1);
        assert_eq!(tree.tops(), " 33.3 %  idle\n 33.3 %  run\n 33.3 %  tcp_sendmsg\n");
    }

    #[test]
    fn the_picture_names_every_box_and_holds_no_markup_of_a_symbol() {
        let mut tree = Frame::default();
        tree.add(["a&b", "c<d"].into_iter());
        let svg = tree.svg();
        assert!(svg.contains("a&amp;b: 100.0 % (1 samples)") && svg.contains("c&lt;d"), "{svg}");
        assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
    }

    #[test]
    fn a_picture_stays_small_enough_to_be_kept() {
        let mut tree = Frame::default();
        for number in 0..3_000 {
            let name = format!("a_function_with_a_name_{number}");
            (0..5).for_each(|_| tree.add(["server", name.as_str(), "in", name.as_str()].into_iter()));
        }
        (0..5_000).for_each(|_| tree.add(["server", "much"].into_iter()));
        assert!(tree.svg_without(0.0).len() > MOST_BYTES);
        let svg = tree.svg();
        assert!(svg.len() <= MOST_BYTES && svg.contains("much"), "{} bytes", svg.len());
    }

    #[test]
    fn nothing_recorded_is_no_picture() {
        assert_eq!(fold("").0.samples, 0);
        assert_eq!(fold("garbage without an end").0.samples, 1);
    }
}
