//! Text in columns, for people.

use std::fmt::Write;

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Names.
    Left,
    /// Numbers.
    Right,
}

/// Headings and rows in columns as wide as their widest cell, two spaces between. Rows have as many cells as there are headings.
pub(super) fn columns(headings: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for ((cell, (_, align)), width) in cells.zip(headings).zip(&widths) {
            let result = match align {
                Align::Left => write!(text, "{cell:<width$}  "),
                Align::Right => write!(text, "{cell:>width$}  "),
            };
            result.expect("writing to a string does not fail");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut headings.iter().map(|(heading, _)| *heading));
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

/// `512 B`, `1.5 MiB`: three or four digits.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1 << 10 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// `950ms`, `12s`, `3m 20s`, `5h 3m`, `12d 4h`.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match (seconds, seconds / 60, seconds / 3_600, seconds / 86_400) {
        (0, ..) => format!("{ms}ms"),
        (_, 0, ..) => format!("{seconds}s"),
        (_, minutes, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (_, minutes, hours, 0) => format!("{hours}h {}m", minutes % 60),
        (.., hours, days) => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = vec![vec!["live/a".to_owned(), "7".into()], vec!["ü".into(), "1234".into()]];
        assert_eq!(columns(&[("NAME", Align::Left), ("N", Align::Right)], &rows), "NAME       N\nlive/a     7\nü       1234\n");
        assert_eq!(columns(&[("NAME", Align::Left)], &[]), "NAME\n");
    }

    #[test]
    fn quantities_are_short() {
        let shown: Vec<String> = [0, 1_023, 1_536, 16 << 20, 1_023 << 20, u64::MAX].map(bytes).into();
        assert_eq!(shown, ["0 B", "1023 B", "1.5 KiB", "16 MiB", "1.0 GiB", "16384 PiB"]);
        let shown: Vec<String> = [999, 59_000, 60_000, 3_600_000, 90_000_000].map(duration).into();
        assert_eq!(shown, ["999ms", "59s", "1m 0s", "1h 0m", "1d 1h"]);
    }
}
