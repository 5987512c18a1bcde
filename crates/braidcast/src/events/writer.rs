//! The front's end of the log: appends lines, begins new files, deletes old ones, keeps the table of what has begun.

use super::begun::Begun;
use super::event::LineOf;
use super::{Entry, Event, FILE_BYTES, KEPT_FILES, Kind, Line, MAX_LINE_BYTES, file_of, files};
use crate::control::{ConnId, Intent};
use crate::saved::RowId;
use braidcast_media::StreamKey;
use braidcast_sys::clock;
use braidcast_sys::fault::kill_point;
use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// See the module's head.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    /// The file that is written; none before the first line, and after one that could not be made.
    file: Option<File>,
    bytes: u64,
    next_id: u64,
    /// The first ids of the files, oldest first.
    firsts: VecDeque<u64>,
    begun: Begun,
    /// Lines that the table does not know yet: the front before died right after it wrote them.
    unapplied: Vec<Line>,
    file_bytes: u64,
    kept_files: usize,
}

/// What begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark<'a> {
    /// The connection.
    Connection,
    /// What it does with a stream.
    Place(Intent, &'a StreamKey),
}

impl Mark<'_> {
    fn kinds(self) -> (Kind, Kind) {
        match self {
            Self::Connection => (Kind::Connect, Kind::Close),
            Self::Place(Intent::Publish, _) => (Kind::Publish, Kind::Unpublish),
            Self::Place(Intent::Play, _) => (Kind::Play, Kind::Stop),
        }
    }
}

/// A connection that is there when a front comes.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it is saved.
    pub row: RowId,
    /// What it does, or has asked for and was not answered.
    pub place: Option<(Intent, StreamKey)>,
}

impl Writer {
    /// Opens the log of an instance and goes on after its last whole line; makes it if it is not there. [`Writer::reconcile`] comes
    /// next, before any line.
    pub fn open(shared_dir: &Path) -> io::Result<Self> {
        let directory = super::directory(shared_dir);
        fs::create_dir_all(&directory)?;
        let begun = Begun::open(&directory)?;
        let firsts: VecDeque<u64> = files(&directory)?.into();
        let next_id = begun.applied() + 1;
        let mut writer = Self {
            directory,
            file: None,
            bytes: 0,
            next_id,
            firsts,
            begun,
            unapplied: Vec::new(),
            file_bytes: FILE_BYTES,
            kept_files: KEPT_FILES,
        };
        if let Some(first) = writer.firsts.back().copied() {
            writer.go_on_in(first)?;
        }
        Ok(writer)
    }

    /// Finds the end of the newest file. A line that its writer's death has cut is cut off.
    fn go_on_in(&mut self, first: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).write(true).open(file_of(&self.directory, first))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        file.set_len(whole as u64)?;
        let lines: Vec<&[u8]> = text[..whole].split_inclusive(|byte| *byte == b'\n').collect();
        let end = first + lines.len() as u64;
        let known = self.begun.applied().saturating_sub(first - 1).min(lines.len() as u64) as usize;
        self.unapplied = lines[known..].iter().filter_map(|line| serde_json::from_slice(line).ok()).collect();
        (self.file, self.bytes, self.next_id) = (Some(file), whole as u64, end);
        Ok(())
    }

    /// The highest number that a connection of this instance was given.
    pub fn last_conn(&self) -> u64 {
        self.begun.last_conn()
    }

    /// A connection is given this number.
    pub fn note_conn(&mut self, conn: ConnId) {
        self.begun.set_last_conn(conn);
    }

    /// The id of the last line; 0: there is none.
    pub fn last_id(&self) -> u64 {
        self.next_id - 1
    }

    /// Writes a line; returns its id. The error: there is no room, or no directory. Then nothing was written.
    pub fn append(&mut self, event: &Event) -> io::Result<u64> {
        let id = self.write_line(event)?;
        self.begun.set_applied(id);
        Ok(id)
    }

    /// Writes that something begins, unless it has begun already. `Ok(false)`: it has.
    pub fn begin(&mut self, row: RowId, conn: ConnId, mark: Mark<'_>, event: Event) -> io::Result<bool> {
        let mut entry = self.entry(row, conn);
        match mark {
            Mark::Connection if entry.connected => return Ok(false),
            Mark::Connection => entry.connected = true,
            Mark::Place(intent, key) => {
                let place = Some((intent, Entry::stream_sum(key)));
                if entry.place == place {
                    return Ok(false);
                }
                entry.place = place;
            }
        }
        // So that what begins can be noted, whatever is full.
        self.begun.provide(row)?;
        let id = self.write_line(&Event { kind: mark.kinds().0, ..event })?;
        kill_point("event_written");
        self.begun.set(row, &entry);
        self.begun.set_applied(id);
        Ok(true)
    }

    /// Writes that something ends, if it had begun. `Ok(false)`: it had not. What could not be written has ended all the same.
    pub fn end(&mut self, row: RowId, conn: ConnId, mark: Mark<'_>, event: Event) -> io::Result<bool> {
        let mut entry = self.entry(row, conn);
        match mark {
            Mark::Connection if !entry.connected => return Ok(false),
            Mark::Connection => entry.connected = false,
            Mark::Place(intent, key) => {
                if entry.place != Some((intent, Entry::stream_sum(key))) {
                    return Ok(false);
                }
                entry.place = None;
            }
        }
        let written = self.write_line(&Event { kind: mark.kinds().1, ..event });
        kill_point("event_written");
        self.begun.set(row, &entry);
        self.begun.set_applied(written?);
        Ok(true)
    }

    /// What of a connection has begun.
    pub fn entry(&self, row: RowId, conn: ConnId) -> Entry {
        self.begun.entry(row).filter(|entry| entry.conn == conn).unwrap_or(Entry::new(conn))
    }

    /// Brings the log in line with the connections that a new front found: what had begun and is not there has ended. `complete` adds to an
    /// event what else is known of a connection, by its row. Returns how many ends were written.
    pub fn reconcile(
        &mut self,
        found: &HashMap<ConnId, Found>,
        mut complete: impl FnMut(Option<RowId>, ConnId, Event) -> Event,
    ) -> io::Result<usize> {
        let mut begun: HashMap<ConnId, (Option<RowId>, Entry)> =
            self.begun.all().into_iter().map(|(row, entry)| (entry.conn, (Some(row), entry))).collect();
        let unapplied = std::mem::take(&mut self.unapplied);
        for event in unapplied.iter().map(|line| &line.event) {
            let Some(conn) = event.conn else { continue };
            let row = found.get(&conn).map(|found| found.row);
            let (row, entry) = begun.entry(conn).or_insert((row, Entry::new(conn)));
            match (event.kind, event.key()) {
                (Kind::Connect, _) => entry.connected = true,
                (Kind::Close, _) => entry.connected = false,
                (Kind::Publish, Some(key)) => entry.place = Some((Intent::Publish, Entry::stream_sum(&key))),
                (Kind::Play, Some(key)) => entry.place = Some((Intent::Play, Entry::stream_sum(&key))),
                (Kind::Unpublish | Kind::Stop, _) => entry.place = None,
                _ => {}
            }
            if let Some(row) = *row {
                self.begun.provide(row)?;
                self.begun.set(row, entry);
            }
        }
        let mut over: Vec<(Option<RowId>, Entry)> = begun
            .into_values()
            .filter_map(|(row, entry)| {
                let over = match found.get(&entry.conn) {
                    None => entry,
                    Some(Found { place, .. }) => {
                        let place = place.as_ref().map(|(intent, key)| (*intent, Entry::stream_sum(key)));
                        Entry { connected: false, place: entry.place.filter(|begun| Some(*begun) != place), ..entry }
                    }
                };
                (!over.is_over()).then_some((row, over))
            })
            .collect();
        over.sort_unstable_by_key(|(_, entry)| entry.conn);
        let told = if over.is_empty() { HashMap::new() } else { self.recall(&over)? };
        let mut written = 0;
        for (row, over) in over {
            let conn = over.conn;
            let mut left = row.map_or(over, |row| self.entry(row, conn));
            let told = |kinds: &[Kind]| kinds.iter().find_map(|kind| told.get(&(conn, *kind)).cloned());
            let mut ends = Vec::new();
            if let Some((intent, _)) = over.place {
                let (begin, end) = if intent == Intent::Publish { (Kind::Publish, Kind::Unpublish) } else { (Kind::Play, Kind::Stop) };
                ends.push((end, told(&[begin])));
            }
            if over.connected {
                ends.push((Kind::Close, told(&[Kind::Connect])));
            }
            for (kind, began) in ends {
                let event = Event { kind, ..began.unwrap_or_else(|| Event::new(kind).conn(conn)) };
                let id = self.write_line(&complete(row, conn, event).why("it ended while there was no front"))?;
                written += 1;
                match kind {
                    Kind::Close => left.connected = false,
                    _ => left.place = None,
                }
                if let Some(row) = row {
                    self.begun.set(row, &left);
                    self.begun.set_applied(id);
                }
            }
        }
        self.begun.set_applied(self.last_id());
        Ok(written)
    }

    /// The numbers of the last segments that the newest files tell of.
    pub fn told_segments(&self) -> io::Result<HashMap<StreamKey, u64>> {
        let mut told = HashMap::new();
        for first in self.firsts.iter().rev().take(2).rev() {
            for line in fs::read_to_string(file_of(&self.directory, *first))?.lines().filter(|line| line.contains(r#""kind":"segment""#)) {
                if let Ok(Line { event, .. }) = serde_json::from_str::<Line>(line)
                    && let (Some(key), Some(number)) = (event.key(), event.number)
                {
                    told.insert(key, number);
                }
            }
        }
        Ok(told)
    }

    /// What the log says of the last begins of connections.
    fn recall(&self, of: &[(Option<RowId>, Entry)]) -> io::Result<HashMap<(ConnId, Kind), Event>> {
        let names: HashMap<String, ConnId> = of.iter().map(|(_, entry)| (entry.conn.to_string(), entry.conn)).collect();
        let mut told = HashMap::new();
        for first in &self.firsts {
            let mut lines = BufReader::new(File::open(file_of(&self.directory, *first))?);
            let mut line = String::new();
            while lines.read_line(&mut line)? > 0 {
                let conn = line.split_once("\"conn\":\"").and_then(|(_, rest)| names.get(rest.split('"').next()?));
                if let Some(conn) = conn
                    && let Ok(Line { event, .. }) = serde_json::from_str(&line)
                    && matches!(event.kind, Kind::Connect | Kind::Publish | Kind::Play)
                {
                    told.insert((*conn, event.kind), event);
                }
                line.clear();
            }
        }
        Ok(told)
    }

    fn write_line(&mut self, event: &Event) -> io::Result<u64> {
        let (id, at_ms) = (self.next_id, clock::wall_ms());
        let mut text = serde_json::to_vec(&LineOf { id, at_ms, event })?;
        if text.len() >= MAX_LINE_BYTES {
            let why = event.why.as_ref().map(|why| why.chars().take(MAX_LINE_BYTES / 16).collect());
            text = serde_json::to_vec(&LineOf { id, at_ms, event: &Event { record: None, why, ..event.clone() } })?;
        }
        text.push(b'\n');
        if self.file.is_none() || self.bytes >= self.file_bytes {
            self.begin_file()?;
        }
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(error) = file.write_all_at(&text, self.bytes) {
            // What there was room for is half a line.
            file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += text.len() as u64;
        self.next_id += 1;
        Ok(id)
    }

    fn begin_file(&mut self) -> io::Result<()> {
        let path = file_of(&self.directory, self.next_id);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o640).open(path)?;
        (self.file, self.bytes) = (Some(file), 0);
        self.firsts.push_back(self.next_id);
        while self.firsts.len() > self.kept_files
            && let Some(first) = self.firsts.pop_front()
        {
            fs::remove_file(file_of(&self.directory, first))?;
        }
        Ok(())
    }
}

#[cfg(test)]
impl Writer {
    /// With files that are full soon.
    pub(super) fn with_small_files(self, file_bytes: u64, kept_files: usize) -> Self {
        Self { file_bytes, kept_files, ..self }
    }

    /// Writes a line and dies before the table knows.
    pub(super) fn die_after_line(mut self, event: &Event) {
        self.write_line(event).expect("there is room");
    }
}
