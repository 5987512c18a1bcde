//! How far a bench is: a bar on a terminal, nothing where nobody looks. What must be read later is printed as a line of its own.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A number of steps of about the same length.
pub struct Progress {
    total: usize,
    done: usize,
    began: Instant,
    on_terminal: bool,
}

const BAR: usize = 24;
/// Back to the line's beginning, and everything on it gone (ECMA-48).
const CLEAR: &str = "\r\x1b[K";

impl Progress {
    /// None of `total` steps is done.
    pub fn new(total: usize) -> Self {
        Self { total: total.max(1), done: 0, began: Instant::now(), on_terminal: std::io::stderr().is_terminal() }
    }

    /// Shows what is being done now.
    pub fn show(&self, what: &str) {
        if self.on_terminal {
            eprint!("{CLEAR}{}", self.line(self.began.elapsed(), what));
            // A bar that cannot be shown is none.
            let _ = std::io::stderr().flush();
        }
    }

    /// Shows that this many of the steps are done, and what is being done now.
    pub fn show_at(&mut self, done: usize, what: &str) {
        self.done = done;
        self.show(what);
    }

    /// One step more is done; this line stays.
    pub fn step(&mut self, line: &str) {
        self.done += 1;
        eprintln!("{}{line}", if self.on_terminal { CLEAR } else { "" });
    }

    fn line(&self, elapsed: Duration, what: &str) -> String {
        let full = BAR * self.done.min(self.total) / self.total;
        let left = match self.done {
            0 => String::new(),
            done => {
                let left = elapsed.as_secs_f64() / done as f64 * self.total.saturating_sub(done) as f64;
                format!(", {}:{:02} left", left as u64 / 60, left as u64 % 60)
            }
        };
        format!("[{}{}] {}/{}{left}: {what}", "#".repeat(full), ".".repeat(BAR - full), self.done, self.total)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.on_terminal {
            eprint!("{CLEAR}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_tells_how_much_is_left() {
        let mut progress = Progress { total: 4, done: 0, began: Instant::now(), on_terminal: false };
        assert_eq!(progress.line(Duration::ZERO, "x"), format!("[{}] 0/4: x", ".".repeat(24)));
        progress.done = 1;
        assert_eq!(progress.line(Duration::from_secs(30), "x"), format!("[######{}] 1/4, 1:30 left: x", ".".repeat(18)));
        progress.done = 9;
        assert!(progress.line(Duration::from_secs(30), "x").contains("0:00 left"));
    }
}
