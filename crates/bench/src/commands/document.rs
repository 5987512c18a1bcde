//! `bench document`: writes the figures of a directory into a page.

use crate::document;
use anyhow::Context;
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `document`.
#[derive(Clone, Debug, Args)]
pub struct DocumentArgs {
    /// The directory that the figures were written to.
    #[arg(long, default_value = "target/bench")]
    figures: PathBuf,
    /// The page, with the two marks that the figures go between.
    #[arg(long, default_value = "docs/benchmarks.md")]
    page: PathBuf,
}

/// Runs it. Pictures go into a directory beside the page that is named after it.
pub fn run(args: &DocumentArgs) -> anyhow::Result<ExitCode> {
    let files = document::read(&args.figures)?;
    anyhow::ensure!(!files.is_empty(), "{} holds no figures", args.figures.display());
    let stem = args.page.file_stem().and_then(|stem| stem.to_str()).context("the page has no name")?.to_owned();
    let pictures = args.page.with_file_name(&stem);
    fs::create_dir_all(&pictures)?;
    let mut profiles = Vec::new();
    for path in sorted(&args.figures.join("flames"))? {
        let tops = path.with_extension("txt");
        if path.extension().is_some_and(|end| end == "svg") && tops.is_file() {
            let name = copy_into(&path, &pictures)?;
            profiles.push((format!("{stem}/{name}"), fs::read_to_string(tops)?));
        }
    }
    let chart = args.figures.join("curve.png");
    let chart = if chart.is_file() {
        copy_into(&chart.with_extension("svg"), &pictures)?;
        Some(format!("{stem}/{}", copy_into(&chart, &pictures)?))
    } else {
        None
    };
    let page = fs::read_to_string(&args.page).with_context(|| format!("cannot read {}", args.page.display()))?;
    let figures = document::markdown(&files, &profiles, chart.as_deref());
    fs::write(&args.page, document::replaced(&page, &figures)?)?;
    println!("figures of {} runs of the bench: {}", files.len(), args.page.display());
    Ok(ExitCode::SUCCESS)
}

/// The files of a directory that need not be there.
fn sorted(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(Vec::new()) };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn copy_into(file: &Path, directory: &Path) -> anyhow::Result<String> {
    let name = file.file_name().and_then(|name| name.to_str()).context("a picture without a name")?;
    fs::copy(file, directory.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(name.to_owned())
}
