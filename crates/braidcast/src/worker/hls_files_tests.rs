#![allow(clippy::unwrap_used)]

use super::*;
use std::io::Read;

struct Site {
    _directory: tempfile::TempDir,
    root: Root,
    files: HlsFiles,
    now_ms: u64,
}

fn key(name: &str) -> StreamKey {
    StreamKey::new("v", "live", name).unwrap()
}

fn named(name: &str) -> Index {
    Index::Named(name.to_owned())
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path().to_path_buf());
        Self { _directory: directory, root, files: HlsFiles::default(), now_ms: 1_000 }
    }

    /// Replaces a file, as writers of indexes do.
    fn lay(&self, stream: &str, name: &str, bytes: &[u8]) {
        let directory = self.root.hls_dir(&key(stream));
        fs::create_dir_all(&directory).unwrap();
        files::replace(&directory, name, bytes).unwrap();
    }

    fn index(&mut self, stream: &str, index: &Index, query: &str) -> Option<Rc<IndexText>> {
        self.files.index(&self.root, &key(stream), index, query, self.now_ms).unwrap()
    }

    fn segment(&mut self, stream: &str, number: u64) -> Option<Rc<Segment>> {
        self.files.segment(&self.root, &key(stream), number, self.now_ms).unwrap()
    }
}

const ONE: &[u8] = b"#EXTM3U\n1.ts\n";
const TWO: &[u8] = b"#EXTM3U\n2.ts\n";

#[test]
fn an_index_is_read_once_for_each_that_is_written() {
    let mut site = Site::new();
    assert!(site.index("x", &Index::Live, "").is_none());
    site.lay("x", INDEX, ONE);
    // What is not there is looked for each time.
    let first = site.index("x", &Index::Live, "token=1").unwrap();
    assert_eq!(first.plain, "#EXTM3U\nx/1.ts?token=1\n");
    assert_eq!(site.index("x", &named("index"), "").unwrap().plain, "#EXTM3U\n1.ts\n");
    for _ in 0..5 {
        site.now_ms += 1;
        assert!(Rc::ptr_eq(&first, &site.index("x", &Index::Live, "token=1").unwrap()));
    }
    assert_eq!(site.files.take_counts().indexes_read, 1);
    // Of the same length, and perhaps of the same moment.
    site.lay("x", INDEX, TWO);
    site.now_ms += INDEX_LOOK_MS - 6;
    assert!(Rc::ptr_eq(&first, &site.index("x", &Index::Live, "token=1").unwrap()), "it was looked at just now");
    site.now_ms += 1;
    let second = site.index("x", &Index::Live, "token=1").unwrap();
    assert_eq!(second.plain, "#EXTM3U\nx/2.ts?token=1\n");
    assert_ne!(first.validators(false, u64::MAX), second.validators(false, u64::MAX));
    assert_eq!(site.files.take_counts().indexes_read, 1);
    fs::remove_file(site.root.hls_dir(&key("x")).join(INDEX)).unwrap();
    site.now_ms += INDEX_LOOK_MS;
    assert!(site.index("x", &Index::Live, "token=1").is_none());
}

#[test]
fn an_index_has_a_date_once_it_cannot_be_replaced_within_it() {
    let text = IndexText::new(true, "", "x".into(), 10);
    assert_eq!(text.validators(false, 10_999).modified_s, None);
    assert_eq!(text.validators(false, 11_000).modified_s, Some(10));
    assert_ne!(text.validators(false, 0).etag, text.validators(true, 0).etag);
}

#[test]
fn what_is_kept_whole_is_what_would_be_made() {
    let text = IndexText::new(true, "", "x".into(), 10);
    for now_ms in [10_000, 11_000, 10_500, 12_000] {
        let head = text.head(false, &text.validators(false, now_ms), true);
        assert_eq!(text.answer(now_ms), [head.as_slice(), b"x"].concat());
    }
    let mut site = Site::new();
    site.lay("x", "7.ts", &[0x47; 376]);
    let segment = site.segment("x", 7).unwrap();
    for cache in [Cache::Seconds(9), Cache::Private(9), Cache::Seconds(9)] {
        let made = response::file(content_type::MPEG_TS, cache, &segment.validators, 376, None, true);
        assert_eq!(*segment.whole_head(cache), *made);
    }
}

#[test]
fn gzip_is_the_same_text() {
    let plain: String = (0..200).map(|number| format!("#EXTINF:2,\nx/{number}.ts\n")).collect();
    let text = IndexText::new(true, "", plain.clone(), 0);
    assert!(text.gzip().len() < plain.len() / 4);
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(text.gzip()).read_to_string(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain);
}

#[test]
fn a_segment_is_opened_once_and_kept_until_it_is_deleted() {
    let mut site = Site::new();
    site.lay("x", "7.ts", &[0x47; 376]);
    let segment = site.segment("x", 7).unwrap();
    assert_eq!(segment.length, 376);
    assert!(Rc::ptr_eq(&segment, &site.segment("x", 7).unwrap()));
    assert!(site.segment("x", 8).is_none());
    assert_eq!((site.files.held_bytes(), site.files.take_counts().segments_opened), (376, 1));
    site.files.sweep(site.now_ms);
    assert_eq!(site.files.held_bytes(), 376);
    fs::remove_file(files::segment(&site.root.hls_dir(&key("x")), 7)).unwrap();
    site.files.sweep(site.now_ms);
    assert_eq!(site.files.held_bytes(), 0);
    assert!(site.segment("x", 7).is_none());
    let mut bytes = [0; 376];
    segment.file().read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [0x47; 376], "whoever is sent it has it still");
}

#[test]
fn other_bytes_have_another_tag_and_the_same_bytes_the_same() {
    let site = Site::new();
    let tag = |bytes: &[u8]| {
        site.lay("x", "7.ts", bytes);
        let segment = Segment::of(File::open(files::segment(&site.root.hls_dir(&key("x")), 7)).unwrap(), 7, 0).unwrap();
        segment.validators.etag
    };
    let (first, other) = (tag(&[0x47; 376]), tag(&[[0x47; 188], [0x48; 188]].concat()));
    assert_ne!(first, other);
    assert_ne!(first, tag(&[0x47; 188]));
    assert_eq!(first, tag(&[0x47; 376]));
}

#[test]
fn what_nobody_asks_for_is_forgotten() {
    let mut site = Site::new();
    site.lay("x", "1.ts", &[1; 188]);
    site.lay("y", "1.ts", &[1; 188]);
    site.segment("x", 1).unwrap();
    site.now_ms += IDLE_MS - 1;
    site.segment("y", 1).unwrap();
    site.now_ms += 1;
    site.files.sweep(site.now_ms);
    assert_eq!((site.files.held_bytes(), site.files.streams.len()), (188, 1));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut site = Site::new();
    site.lay("x", INDEX, ONE);
    for query in 0..3 * MOST_TEXTS {
        site.index("x", &Index::Live, &format!("q={query}")).unwrap();
    }
    assert_eq!(site.files.streams[&key("x")].indexes[0].texts.len(), MOST_TEXTS);
    for number in 0..3 * MOST_INDEXES {
        site.lay("x", &format!("other{number}.m3u8"), ONE);
        site.index("x", &named(&format!("other{number}")), "").unwrap();
    }
    assert_eq!(site.files.streams[&key("x")].indexes.len(), MOST_INDEXES);
    for stream in 0..MOST_STREAMS + 10 {
        site.index(&format!("s{stream}"), &Index::Live, "");
        assert!(site.files.streams.len() <= MOST_STREAMS);
    }
    for number in 1..=MOST_SEGMENTS as u64 + 10 {
        site.now_ms += 1;
        site.lay("x", &format!("{number}.ts"), &[1; 188]);
        site.segment("x", number).unwrap();
        assert!(site.files.segments <= MOST_SEGMENTS);
    }
    let held = site.files.held_bytes();
    site.segment("x", MOST_SEGMENTS as u64 + 10).unwrap();
    assert_eq!(site.files.held_bytes(), held, "the newest are those that stay");
    assert_eq!(site.files.segments as u64 * 188, held);
}
