//! Writes the table of the web page's files into `OUT_DIR`: what lies in `console/dist` if the page has been bundled, else
//! one page that says how to bundle it. Never runs npm and never fails for want of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Served in place of the page when it has not been bundled.
const UNBUNDLED: &str = "src/page_unbundled.html";

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let console = root.join("../../console");
    let dist = console.join("dist");

    let mut files = BTreeMap::new();
    if dist.join("index.html").is_file() {
        collect(&dist, "", &mut files)?;
        watch(&dist);
    } else {
        files.insert("index.html".to_owned(), root.join(UNBUNDLED));
        // A watched path that does not exist runs this script at every build, so its parent is watched until it does.
        watch(&console);
    }
    watch(&root.join("build.rs"));
    watch(&root.join(UNBUNDLED));

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("page_assets.rs");
    fs::write(out, table(&files)?)
}

/// All files below `dir`, by their path from there, separated by `/`.
fn collect(dir: &Path, prefix: &str, files: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{prefix}{name}");
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), files)?;
        } else {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

fn watch(path: &Path) {
    println!("cargo:rerun-if-changed={}", path.display());
}

/// The Rust source of the table, sorted by name.
fn table(files: &BTreeMap<String, PathBuf>) -> io::Result<String> {
    let mut source = String::from("&[\n");
    for (name, path) in files {
        let mut hasher = DefaultHasher::new();
        hasher.write(&fs::read(path)?);
        let etag = format!("\"{:016x}\"", hasher.finish());
        let content_type = content_type(name);
        let path = path.canonicalize()?;
        let _ = writeln!(
            source,
            "    ({name:?}, Asset {{ content_type: {content_type:?}, bytes: include_bytes!({path:?}), etag: {etag:?} }}),"
        );
    }
    source.push_str("]\n");
    Ok(source)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        Some("json" | "map") => "application/json",
        _ => "application/octet-stream",
    }
}
