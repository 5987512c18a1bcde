//! The web page's files, put into the binary when it is built (`build.rs`). Only looks them up: never reads a file, never
//! writes a response.

/// A file of the web page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Value of the `Content-Type` header.
    pub content_type: &'static str,
    /// The file.
    pub bytes: &'static [u8],
    /// Value of the `ETag` header, quotes included: a strong one, it changes with the bytes.
    pub etag: &'static str,
}

/// All files by name, sorted.
static ASSETS: &[(&str, Asset)] = include!(concat!(env!("OUT_DIR"), "/page_assets.rs"));

/// The page's file at `path`: a request's path, beginning with `/`, percent-decoded, without its query. `/` is the page itself,
/// all its other files lie below `/assets/`. `None` if the page has no such file. Bytes under one name change from build to
/// build, so responses have to be revalidated by ETag (`Cache-Control: no-cache`).
pub fn asset(path: &str) -> Option<Asset> {
    let name = match path.strip_prefix('/')? {
        "" => "index.html",
        name => name,
    };
    let place = ASSETS.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
    Some(ASSETS[place].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_a_page_and_every_file_is_found_under_its_name() {
        let page = asset("/").expect("there is always a page");
        assert_eq!(Some(page), asset("/index.html"));
        assert_eq!(page.content_type, "text/html; charset=utf-8");
        assert!(page.bytes.starts_with(b"<!doctype html>"));
        for (name, asset_in_table) in ASSETS {
            assert_eq!(asset(&format!("/{name}")), Some(*asset_in_table));
            assert!(asset_in_table.etag.starts_with('"') && asset_in_table.etag.ends_with('"') && asset_in_table.etag.len() > 2);
        }
    }

    #[test]
    fn nothing_else_is_found() {
        for path in ["", "index.html", "//", "/assets/", "/../Cargo.toml", "/index.html/", "/live/demo.flv", "/streams.json"] {
            assert_eq!(asset(path), None, "{path}");
        }
    }
}
