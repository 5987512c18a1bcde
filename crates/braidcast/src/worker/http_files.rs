//! HTTP answers that are files: indexes and segments of HLS, and the web page. All come from memory, and whoever has them already is
//! told so.

use super::hls_files::IndexText;
use super::session::{Body, Index, IndexWish, Session};
use super::{End, Worker};
use crate::control::counters::WorkerCounter;
use crate::hls::serve;
use crate::page;
use braidcast_media::StreamKey;
use braidcast_protocols::http::response::{self, Cache, ResponseHead, content_type};
use braidcast_protocols::http::{Method, Request, Span, Status, Validators};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// How long a segment may be kept by caches, in seconds: it never changes.
const SEGMENT_MAX_AGE: u32 = 3_600;
/// Shorter indexes than this are sent as they are, in bytes: they fit into one packet anyway.
const COMPRESSED_FROM_BYTES: usize = 512;

/// An index that was found.
enum Found {
    /// A file.
    File(Rc<IndexText>),
    /// Made of what there is, for this one request.
    Made(String),
}

impl Worker {
    /// Whether a stream has an index of this name.
    pub(super) fn has_index(&mut self, key: &StreamKey, name: &str) -> bool {
        let index = Index::Named(name.to_owned());
        matches!(self.hls_files.index(&self.root, key, &index, "", self.now.mono_ms), Ok(Some(_)))
    }

    /// An index, with URIs that fit where it is served; `None`: it is not there.
    fn find_index(&mut self, wish: &IndexWish) -> io::Result<Option<Found>> {
        let Index::Clip(clip) = &wish.index else {
            let found = self.hls_files.index(&self.root, &wish.key, &wish.index, &wish.query, self.now.mono_ms)?;
            return Ok(found.map(Found::File));
        };
        let start_ms = clip.start.map_or(0, |start| start.resolve(self.now.wall_ms));
        let end_ms = clip.end.map_or(u64::MAX, |end| end.resolve(self.now.wall_ms));
        let segments = self.clips.segments(&self.root, &wish.key, self.now.mono_ms)?;
        Ok(serve::clip(segments, wish.key.stream(), &wish.query, start_ms, end_ms).map(Found::Made))
    }

    /// Answers with an index if it is there.
    pub(super) fn try_index(&mut self, slot: usize, wish: &IndexWish) -> Result<bool, End> {
        let found = match self.find_index(wish) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(false),
            Err(error) => {
                let Session { conn, ref more, .. } = self.sessions[slot];
                let peer = more.peer;
                tracing::error!(stream = %wish.key, %conn, %peer, %error, "cannot read the stream's index");
                self.respond_text(slot, Status::INTERNAL_ERROR, "the index cannot be read", wish.head_only)?;
                return Ok(true);
            }
        };
        match found {
            Found::File(text) => self.answer_index(slot, wish, &text)?,
            Found::Made(text) => {
                self.count_for_session(&wish.key, &wish.query, text.len() as u64);
                self.respond_with(slot, content_type::PLAYLIST, Cache::No, text.as_bytes(), wish.head_only)?;
            }
        }
        Ok(true)
    }

    fn answer_index(&mut self, slot: usize, wish: &IndexWish, text: &IndexText) -> Result<(), End> {
        self.watch_asker(slot);
        let gzip = wish.conditions.gzip && text.plain.len() >= COMPRESSED_FROM_BYTES;
        let keep_alive = self.keeps_alive(slot);
        if keep_alive && !gzip && !wish.head_only && wish.conditions.are_none() {
            self.count_for_session(&wish.key, &wish.query, text.plain.len() as u64);
            let session = &mut self.sessions[slot];
            if session.more.control.capacity() == 0 {
                session.more.control = std::mem::take(&mut self.spare_control);
            }
            session.push_control(text.answer(self.now.wall_ms));
            return self.finish_response(slot);
        }
        let validators = text.validators(gzip, self.now.wall_ms);
        if wish.conditions.has(&validators) {
            self.count_for_session(&wish.key, &wish.query, 0);
            return self.not_modified(slot, Cache::No, &validators, true);
        }
        let body = if gzip { text.gzip() } else { text.plain.as_bytes() };
        self.count_for_session(&wish.key, &wish.query, body.len() as u64);
        self.sessions[slot].push_control(&text.head(gzip, &validators, keep_alive));
        if !wish.head_only {
            self.sessions[slot].push_control(body);
        }
        self.finish_response(slot)
    }

    pub(super) fn answer_segment(&mut self, slot: usize, key: &StreamKey, number: u64, params: &str, request: &Request) -> Result<(), End> {
        self.watch_asker(slot);
        let head_only = request.method == Method::Head;
        let segment = match self.hls_files.segment(&self.root, key, number, self.now.mono_ms) {
            Ok(Some(segment)) => segment,
            Ok(None) => return self.respond_text(slot, Status::NOT_FOUND, "no such segment", head_only),
            Err(error) => {
                let Session { conn, ref more, .. } = self.sessions[slot];
                let peer = more.peer;
                tracing::error!(stream = %key, %conn, %peer, %error, "cannot open segment {number}");
                return self.respond_text(slot, Status::INTERNAL_ERROR, "the segment cannot be read", head_only);
            }
        };
        let cache = self.cache_for(key, SEGMENT_MAX_AGE);
        if request.conditions.has(&segment.validators) {
            return self.not_modified(slot, cache, &segment.validators, false);
        }
        let length = u64::from(segment.length);
        let range = request.range.filter(|_| request.conditions.allow_range(&segment.validators));
        let span = range.map(|range| range.span(length));
        let (first, bytes) = match span {
            Some(Span::Unsatisfiable) => (0, 0),
            Some(Span::Part { first, bytes }) => (first, bytes),
            None => (0, length),
        };
        let keep_alive = self.keeps_alive(slot);
        if keep_alive && span.is_none() {
            self.sessions[slot].push_control(&segment.whole_head(cache));
        } else {
            let head = response::file(content_type::MPEG_TS, cache, &segment.validators, length, span, keep_alive);
            self.sessions[slot].push_control(&head);
        }
        if !head_only && bytes > 0 {
            self.watching.add(key, bytes, 0);
            self.count_for_session(key, params, bytes);
            let (Ok(offset), Ok(end)) = (u32::try_from(first), u32::try_from(first + bytes)) else {
                return Err(End::Fault("a range beyond its segment"));
            };
            self.sessions[slot].owe_body(Body::Segment(key.clone(), segment), offset, end)?;
        }
        self.finish_response(slot)
    }

    pub(super) fn answer_asset(&mut self, slot: usize, path: &str, request: &Request) -> Result<(), End> {
        let head_only = request.method == Method::Head;
        let Some(asset) = page::asset(path) else {
            return self.respond_text(slot, Status::NOT_FOUND, "nothing here", head_only);
        };
        let validators = Validators { etag: asset.etag.to_owned(), modified_s: None };
        if request.conditions.has(&validators) {
            return self.not_modified(slot, Cache::No, &validators, false);
        }
        let head = ResponseHead::new(Status::OK)
            .content_type(asset.content_type)
            .cache(Cache::No)
            .validators(&validators)
            .length(asset.bytes.len() as u64)
            .keep_alive(self.keeps_alive(slot))
            .build();
        self.sessions[slot].push_control(&head);
        if !head_only && !asset.bytes.is_empty() {
            let bytes = u32::try_from(asset.bytes.len()).map_err(|_| End::Fault("a file of the page of more than 4 GiB"))?;
            self.sessions[slot].owe_body(Body::Asset(path.to_owned(), asset), 0, bytes)?;
        }
        self.finish_response(slot)
    }

    fn not_modified(&mut self, slot: usize, cache: Cache, validators: &Validators, varies: bool) -> Result<(), End> {
        self.count(WorkerCounter::NotModified);
        let answer = response::not_modified(cache, validators, varies, self.keeps_alive(slot));
        self.respond(slot, &answer)
    }

    /// Lets go of files that are of no use any more, and tells what was done with them.
    pub(super) fn report_hls_files(&mut self) {
        self.hls_files.sweep(self.now.mono_ms);
        let counts = self.hls_files.take_counts();
        for (counter, more) in
            [(WorkerCounter::HlsIndexesRead, counts.indexes_read), (WorkerCounter::HlsSegmentsOpened, counts.segments_opened)]
        {
            self.page.counter(counter as usize).fetch_add(more, Ordering::Relaxed);
        }
        self.set(WorkerCounter::HlsHeldBytes, self.hls_files.held_bytes());
    }
}
