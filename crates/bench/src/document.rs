//! A page of figures: what a directory of a bench's files says, as Markdown between two marks of a page that people write.

use crate::targets::{self, Files};
use anyhow::Context;
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- figures: begin (written by `make bench`) -->";
const END: &str = "<!-- figures: end -->";

/// All files of a directory that hold figures.
pub fn read(directory: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        let (Some(stem), Some("json")) = (path.file_stem().and_then(|stem| stem.to_str()), path.extension().and_then(|end| end.to_str()))
        else {
            continue;
        };
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let value: Value = serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))?;
        if value.get("what").is_some() {
            files.insert(stem.to_owned(), value);
        }
    }
    Ok(files)
}

/// The figures as Markdown. Pictures are named relative to the page, in `pictures`, if they are there.
pub fn markdown(files: &Files, profiles: &[(String, String)], chart: Option<&str>) -> String {
    let mut text = String::new();
    let of = |file: &Value, field: &str| file.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(first) = files.values().find(|file| file.get("machine").is_some()) {
        let machine = &first["machine"];
        let versions: Vec<String> = versions(files);
        let _ = writeln!(
            text,
            "Taken on {} on {} ({} cores, Linux {}). Versions: {}.\n",
            of(first, "date"),
            machine["cpu"].as_str().unwrap_or("an unknown machine"),
            machine["cores"],
            machine["kernel"].as_str().unwrap_or("?"),
            versions.join("; ")
        );
    }
    let verdicts = targets::verdicts(files);
    if !verdicts.is_empty() {
        text.push_str("| what | network | to reach | measured: median (least-most) | reached |\n|---|---|---|---|---|\n");
        for verdict in verdicts {
            let reached = if verdict.reached { "yes" } else { "**no**" };
            let _ = writeln!(text, "| {} | {} | {} | {} | {reached} |", verdict.what, verdict.network, verdict.goal, verdict.measured);
        }
    }
    for (name, file) in files {
        let _ = writeln!(
            text,
            "\n### {}\n\n{}: `{}`\n\n```\n{}\n```",
            name,
            of(file, "what"),
            of(file, "command"),
            of(file, "table").trim_end()
        );
    }
    if let Some(chart) = chart {
        let _ = writeln!(text, "\n![latency against CPU]({chart})\n\nThe same as [SVG]({}).", chart.replace(".png", ".svg"));
    }
    if !profiles.is_empty() {
        text.push_str(
            "\n### Where the CPU goes\n\nFor each server a flame graph of one more run; how many of its samples were of which kind of work; and the functions that were running \
             themselves in most of them.\n",
        );
        for (picture, said) in profiles {
            let (shares, tops) = said.split_once('\n').unwrap_or((said, ""));
            let _ = writeln!(text, "\n[{picture}]({picture}): {shares}.\n\n```\n{}\n```", tops.trim_end());
        }
    }
    text
}

fn versions(files: &Files) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for (name, version) in files.values().filter_map(|file| file.get("versions")?.as_object()).flatten() {
        let line = format!("{name}: {}", version.as_str().unwrap_or("?"));
        if !all.contains(&line) {
            all.push(line);
        }
    }
    all
}

/// The page with other figures between its marks. An error if the marks are not there.
pub fn replaced(page: &str, figures: &str) -> anyhow::Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("the page has no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("the page has no line {END}"))?;
    Ok(format!("{before}{BEGIN}\n{figures}{END}{after}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_replace_what_was_between_the_marks_and_nothing_else() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let once = replaced(&page, "new\n").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(replaced(&once, "new\n").unwrap(), once);
        assert!(replaced("no marks", "new").is_err());
    }

    #[test]
    fn every_file_is_told_with_its_command() {
        let file = json!({
            "what": "a thing", "command": "braidcast bench thing", "date": "2026-11-26", "table": "x  1\n",
            "machine": { "cpu": "C", "cores": 2, "kernel": "6" }, "versions": { "bare": "1" }
        });
        let text = markdown(
            &Files::from([("thing".to_owned(), file)]),
            &[("a.svg".to_owned(), "9 samples: 50 % sending\n50 % f\n".to_owned())],
            Some("c.png"),
        );
        for part in [
            "Taken on 2026-11-26 on C (2 cores, Linux 6)",
            "a thing: `braidcast bench thing`",
            "```\nx  1\n```",
            "(a.svg): 9 samples: 50 % sending.\n\n```\n50 % f",
            "(c.png)",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
