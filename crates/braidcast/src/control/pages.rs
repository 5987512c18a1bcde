//! The front's page: a small mapped file, written by the front alone, read by `status` and whoever else wants to know.
//!
//! Every number is one atomic of its own, so a reader needs no lock and may see two numbers of different moments. Text (the
//! addresses in use) is written once, before the state says that the instance runs. The counters stay when the instance
//! ends in order and are continued by the next one.
//!
//! Layout (all numbers native-endian): a header of 64-bit words, the counters, the text, one row of 128 bytes per worker.

use super::counters::{FrontCounter, WorkerCounter};
use super::{ConnId, Listener, WorkerId};
use braidcast_sys::SharedPage;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The name of the page in the shared directory.
pub const FRONT_PAGE_NAME: &str = "front";
/// The most workers an instance can have: their doorbells travel in one message (`SCM_MAX_FD`).
pub const MAX_WORKERS: u16 = 253;

/// "BCfront" and the version of the layout.
const MAGIC: u64 = u64::from_be_bytes(*b"BCfront\x01");
const TEXT_BYTES: usize = 4096;
const COUNTERS_AT: usize = 256;
const COUNTER_SLOTS: usize = 96;
const TEXT_AT: usize = COUNTERS_AT + COUNTER_SLOTS * 8;
const ROWS_AT: usize = TEXT_AT + TEXT_BYTES;
const ROW_BYTES: usize = 128;
const MOVES_AT: usize = ROWS_AT + MAX_WORKERS as usize * ROW_BYTES;
const MOVE_BYTES: usize = 64;
/// How many of the last moves the page lists.
const MOVES: u64 = 32;
const PAUSES_AT: usize = MOVES_AT + MOVES as usize * MOVE_BYTES;
/// For each reason to move: how many pauses were how long, and how long all were together.
const PAUSES_BYTES: usize = (PAUSE_COUNTS + 1) * 8;
const PAGE_BYTES: usize = PAUSES_AT + Why::ALL.len() * PAUSES_BYTES;

/// Pauses of moves are counted by these, in milliseconds, and what is longer than all.
pub const PAUSE_BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];
/// How many counts that makes.
pub const PAUSE_COUNTS: usize = PAUSE_BOUNDS_MS.len() + 1;

const _: () = assert!(FrontCounter::ALL.len() <= COUNTER_SLOTS);
const _: () = assert!(WorkerCounter::ALL.len() <= braidcast_stream_log::doorbell::COUNTERS);

/// The words of the header.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Header {
    Magic,
    State,
    StartedWallMs,
    Workers,
    TextBytes,
    /// `[placement] max_publishers`; 0: no limit.
    Allowed,
    /// Moves listed since the page was made.
    Moves,
    /// Sessions that are on their way.
    Moving,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// It starts.
    Starting = 0,
    /// It serves.
    Running = 1,
    /// It ends in order.
    Stopping = 2,
    /// It has ended in order.
    Ended = 3,
}

impl InstanceState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Running, Self::Stopping, Self::Ended];

    /// In words.
    pub fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
        }
    }
}

/// What a worker's place is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkerState {
    /// No process: it was not started yet, or has ended in order.
    #[default]
    Empty = 0,
    /// Started, not ready yet.
    Starting = 1,
    /// It serves.
    Running = 2,
    /// It died and will be started again.
    Restarting = 3,
    /// It was told to end.
    Stopping = 4,
    /// Its sessions go to others, then it ends and is started anew.
    Draining = 5,
    /// It dies again and again, and no client's input is the reason; it is started again, ever less often.
    CrashLoop = 6,
}

impl WorkerState {
    /// All states.
    pub const ALL: [Self; 7] =
        [Self::Empty, Self::Starting, Self::Running, Self::Restarting, Self::Stopping, Self::Draining, Self::CrashLoop];

    /// In words.
    pub fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Draining => "draining",
            Self::CrashLoop => "crash-loop",
        }
    }
}

/// What the front says about a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerRow {
    /// What it is doing.
    pub state: WorkerState,
    /// Its process; 0 if there is none.
    pub pid: u32,
    /// The most publishers it may have; 0: no limit of its own.
    pub allowed: u32,
    /// Its share of the publishers.
    pub weight: u32,
    /// Its publishers, reservations included.
    pub publishers: u32,
    /// Its viewers (HTTP-FLV and RTMP), reservations included.
    pub viewers: u32,
    /// Its client connections.
    pub sessions: u32,
    /// How often it was started again, since the page was made.
    pub restarts: u32,
    /// When its process was started, wall clock, milliseconds; 0 if never.
    pub started_wall_ms: u64,
    /// CPU time to spare in the last second, per mille of a core.
    pub spare_permille: u32,
}

impl WorkerRow {
    /// How many more publishers it may take; `None`: no limit of its own.
    pub fn free(&self) -> Option<u32> {
        (self.allowed > 0).then(|| self.allowed.saturating_sub(self.publishers))
    }

    fn words(&self) -> [u64; 10] {
        let counts =
            [self.pid, self.allowed, self.weight, self.publishers, self.viewers, self.sessions, self.restarts, self.spare_permille];
        let mut words = [0; 10];
        words[0] = self.state as u64;
        words[1] = self.started_wall_ms;
        for (word, count) in words[2..].iter_mut().zip(counts) {
            *word = count.into();
        }
        words
    }

    fn from_words(words: [u64; 10]) -> Self {
        let count = |index: usize| u32::try_from(words[index]).unwrap_or(u32::MAX);
        Self {
            state: WorkerState::ALL.into_iter().find(|state| *state as u64 == words[0]).unwrap_or_default(),
            started_wall_ms: words[1],
            pid: count(2),
            allowed: count(3),
            weight: count(4),
            publishers: count(5),
            viewers: count(6),
            sessions: count(7),
            restarts: count(8),
            spare_permille: count(9),
        }
    }
}

/// Why a session moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Another worker was chosen for its stream.
    Placed = 1,
    /// Its worker died.
    Died = 2,
    /// Its worker hung.
    Hung = 3,
    /// Its worker is to be empty.
    Drained = 4,
    /// Another worker has less to do.
    Rebalanced = 5,
}

impl Why {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::Placed, Self::Died, Self::Hung, Self::Drained, Self::Rebalanced];

    /// In words.
    pub fn label(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Died => "worker died",
            Self::Hung => "worker hung",
            Self::Drained => "drained",
            Self::Rebalanced => "rebalanced",
        }
    }
}

/// A session that has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveRow {
    /// When it went on, wall clock, milliseconds.
    pub wall_ms: u64,
    /// Its connection.
    pub conn: ConnId,
    /// Whose it was.
    pub from: WorkerId,
    /// Whose it is.
    pub to: WorkerId,
    /// Why.
    pub why: Why,
    /// How long nobody had it, milliseconds.
    pub pause_ms: u64,
}

/// How long sessions that moved for one reason were nobody's, since the page was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    /// How many were at most as long as each of [`PAUSE_BOUNDS_MS`] and longer than the one before; last, those longer than all.
    pub counts: [u64; PAUSE_COUNTS],
    /// All together, milliseconds.
    pub sum_ms: u64,
}

/// An address that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// What is spoken there: `rtmp`, `http`, `api`, the same within TLS (`rtmps`, `https`, `https_api`), `metrics`, or `sub` and the worker's
    /// id (`sub3`).
    pub what: String,
    /// The address, its port never 0.
    pub address: SocketAddr,
}

impl Listening {
    /// For a listener; a sub-port's belongs to a worker.
    pub fn new(listener: Listener, worker: Option<WorkerId>, address: SocketAddr) -> Self {
        let what = match listener {
            Listener::Rtmp => "rtmp".to_owned(),
            Listener::Http => "http".to_owned(),
            Listener::Api => "api".to_owned(),
            Listener::Metrics => "metrics".to_owned(),
            Listener::Sub => format!("sub{}", worker.map_or(0, |worker| worker.0)),
            Listener::Rtmps => "rtmps".to_owned(),
            Listener::Https => "https".to_owned(),
            Listener::HttpsApi => "https_api".to_owned(),
        };
        Self { what, address }
    }

    /// One line for each, `what address`; the form of the page and of standard output.
    pub fn to_text(list: &[Self]) -> String {
        list.iter().map(|Self { what, address }| format!("{what} {address}\n")).collect()
    }

    /// Reads such lines; what makes no sense is left out.
    pub fn from_text(text: &str) -> Vec<Self> {
        let line = |line: &str| {
            let (what, address) = line.split_once(' ')?;
            Some(Self { what: what.to_owned(), address: address.parse().ok()? })
        };
        text.lines().filter_map(line).collect()
    }
}

/// The front's page. What was opened for reading must not be written to: that is a fault (SIGSEGV).
#[derive(Debug)]
pub struct FrontPage(SharedPage);

impl FrontPage {
    /// Opens the page in `shared_dir` for writing, or makes a new one. Counters of an earlier instance go on, and how often workers were started again; all else begins anew.
    pub fn create(shared_dir: &Path) -> io::Result<Self> {
        let path = shared_dir.join(FRONT_PAGE_NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path)?;
        let page = Self(SharedPage::map_writable(file, PAGE_BYTES)?);
        page.header(Header::State).store(InstanceState::Starting as u64, Release);
        let is_page = page.header(Header::Magic).load(Acquire) == MAGIC;
        if !is_page {
            for offset in (COUNTERS_AT..TEXT_AT).chain(PAUSES_AT..PAGE_BYTES).step_by(8) {
                page.0.u64(offset).store(0, Relaxed);
            }
        }
        for header in [Header::StartedWallMs, Header::Workers, Header::TextBytes, Header::Allowed] {
            page.header(header).store(0, Relaxed);
        }
        for worker in 1..=MAX_WORKERS {
            let restarts = if is_page { page.row(WorkerId(worker)).restarts } else { 0 };
            page.set_row(WorkerId(worker), &WorkerRow { restarts, ..WorkerRow::default() });
        }
        page.header(Header::Magic).store(MAGIC, Release);
        Ok(page)
    }

    /// Opens the page in `shared_dir` for reading. `InvalidData`: it is of another version.
    pub fn open(shared_dir: &Path) -> io::Result<Self> {
        let file = File::open(shared_dir.join(FRONT_PAGE_NAME))?;
        let page = Self(SharedPage::map_readonly(file, PAGE_BYTES)?);
        match page.header(Header::Magic).load(Acquire) {
            MAGIC => Ok(page),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the front's page is of another version of braidcast")),
        }
    }

    /// A counter. The front alone stores to it.
    pub fn counter(&self, counter: FrontCounter) -> &AtomicU64 {
        self.0.u64(COUNTERS_AT + counter as usize * 8)
    }

    /// What the instance is doing.
    pub fn state(&self) -> InstanceState {
        let state = self.header(Header::State).load(Acquire);
        InstanceState::ALL.into_iter().find(|known| *known as u64 == state).unwrap_or(InstanceState::Ended)
    }

    /// Says what the instance is doing.
    pub fn set_state(&self, state: InstanceState) {
        self.header(Header::State).store(state as u64, Release);
    }

    /// When the instance started, wall clock, milliseconds.
    pub fn started_wall_ms(&self) -> u64 {
        self.header(Header::StartedWallMs).load(Relaxed)
    }

    /// Says when the instance started, how many workers it has, and how many publishers it takes in all (0: no limit).
    pub fn set_instance(&self, started_wall_ms: u64, workers: u16, allowed_in_all: u32) {
        self.header(Header::StartedWallMs).store(started_wall_ms, Relaxed);
        self.header(Header::Allowed).store(allowed_in_all.into(), Relaxed);
        self.header(Header::Workers).store(workers.into(), Release);
    }

    /// How many publishers the instance takes in all; 0: no limit but the workers' own.
    pub fn allowed_in_all(&self) -> u32 {
        u32::try_from(self.header(Header::Allowed).load(Relaxed)).unwrap_or(u32::MAX)
    }

    /// How many workers the instance has.
    pub fn workers(&self) -> u16 {
        u16::try_from(self.header(Header::Workers).load(Acquire)).unwrap_or(MAX_WORKERS).min(MAX_WORKERS)
    }

    /// What is said about a worker; an empty row for one that there is not.
    pub fn row(&self, worker: WorkerId) -> WorkerRow {
        let Some(at) = row_at(worker) else { return WorkerRow::default() };
        WorkerRow::from_words(std::array::from_fn(|index| self.0.u64(at + index * 8).load(Relaxed)))
    }

    /// Says something about a worker.
    pub fn set_row(&self, worker: WorkerId, row: &WorkerRow) {
        let Some(at) = row_at(worker) else { return };
        for (index, word) in row.words().into_iter().enumerate() {
            self.0.u64(at + index * 8).store(word, Relaxed);
        }
    }

    /// How long sessions that moved for this reason were nobody's.
    pub fn pauses(&self, why: Why) -> Pauses {
        let word = |index: usize| self.0.u64(pauses_at(why) + index * 8).load(Relaxed);
        Pauses { counts: std::array::from_fn(word), sum_ms: word(PAUSE_COUNTS) }
    }

    fn count_pause(&self, why: Why, pause_ms: u64) {
        let index = PAUSE_BOUNDS_MS.iter().position(|bound| pause_ms <= *bound).unwrap_or(PAUSE_BOUNDS_MS.len());
        self.0.u64(pauses_at(why) + index * 8).fetch_add(1, Relaxed);
        self.0.u64(pauses_at(why) + PAUSE_COUNTS * 8).fetch_add(pause_ms, Relaxed);
    }

    /// Lists a session that has moved, and counts its pause.
    pub fn push_move(&self, moved: &MoveRow) {
        self.count_pause(moved.why, moved.pause_ms);
        let count = self.header(Header::Moves).load(Relaxed);
        let at = move_at(count);
        let workers = u64::from(moved.from.0) << 16 | u64::from(moved.to.0);
        for (index, word) in [moved.wall_ms, moved.conn.0, workers, moved.why as u64, moved.pause_ms].into_iter().enumerate() {
            self.0.u64(at + index * 8).store(word, Relaxed);
        }
        self.header(Header::Moves).store(count + 1, Release);
    }

    /// The sessions that moved last, newest first. One that is being listed just now may be mixed up with the one it replaces.
    pub fn moves(&self) -> Vec<MoveRow> {
        let count = self.header(Header::Moves).load(Acquire);
        let read = |back: u64| {
            let at = move_at(count - 1 - back);
            let [wall_ms, conn, workers, why, pause_ms] = std::array::from_fn(|index| self.0.u64(at + index * 8).load(Relaxed));
            let why = Why::ALL.into_iter().find(|known| *known as u64 == why)?;
            Some(MoveRow {
                wall_ms,
                conn: ConnId(conn),
                from: WorkerId((workers >> 16) as u16),
                to: WorkerId(workers as u16),
                why,
                pause_ms,
            })
        };
        (0..count.min(MOVES)).filter_map(read).collect()
    }

    /// Says how many sessions are on their way.
    pub fn set_moving(&self, sessions: u64) {
        self.header(Header::Moving).store(sessions, Relaxed);
    }

    /// How many sessions are on their way.
    pub fn moving(&self) -> u64 {
        self.header(Header::Moving).load(Relaxed)
    }

    /// The addresses in use.
    pub fn listening(&self) -> Vec<Listening> {
        let bytes = usize::try_from(self.header(Header::TextBytes).load(Acquire)).unwrap_or(0).min(TEXT_BYTES);
        let text: Vec<u8> =
            (0..bytes.div_ceil(8)).flat_map(|word| self.0.u64(TEXT_AT + word * 8).load(Relaxed).to_ne_bytes()).take(bytes).collect();
        Listening::from_text(&String::from_utf8_lossy(&text))
    }

    /// Says which addresses are in use; those that do not fit (beyond some hundred) are left out.
    pub fn set_listening(&self, list: &[Listening]) {
        let mut text = Listening::to_text(list);
        if let Some(end) = text.get(..TEXT_BYTES).and_then(|fits| fits.rfind('\n')) {
            text.truncate(end + 1);
        }
        self.header(Header::TextBytes).store(0, Release);
        for (index, piece) in text.as_bytes().chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.0.u64(TEXT_AT + index * 8).store(u64::from_ne_bytes(word), Relaxed);
        }
        self.header(Header::TextBytes).store(text.len() as u64, Release);
    }

    fn header(&self, header: Header) -> &AtomicU64 {
        self.0.u64(header as usize * 8)
    }
}

fn move_at(count: u64) -> usize {
    MOVES_AT + (count % MOVES) as usize * MOVE_BYTES
}

fn pauses_at(why: Why) -> usize {
    PAUSES_AT + (why as usize - 1) * PAUSES_BYTES
}

fn row_at(worker: WorkerId) -> Option<usize> {
    let index = worker.0.checked_sub(1).filter(|index| *index < MAX_WORKERS)?;
    Some(ROWS_AT + usize::from(index) * ROW_BYTES)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn listening(what: &str, address: &str) -> Listening {
        Listening { what: what.into(), address: address.parse().unwrap() }
    }

    #[test]
    fn a_reader_sees_what_the_front_says() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        assert!(FrontPage::open(directory.path()).is_err());
        let front = FrontPage::create(directory.path()).unwrap();
        let reader = FrontPage::open(directory.path()).unwrap();
        let row = WorkerRow {
            state: WorkerState::Running,
            pid: 7,
            allowed: 10,
            publishers: 4,
            restarts: 2,
            started_wall_ms: 1 << 40,
            ..WorkerRow::default()
        };
        front.set_row(WorkerId(2), &row);
        front.set_row(WorkerId(0), &row);
        front.set_row(WorkerId(MAX_WORKERS + 1), &row);
        front.set_instance(5, 2, 30);
        let list = [listening("rtmp", "0.0.0.0:1935"), listening("sub2", "[::1]:2001")];
        front.set_listening(&list);
        front.counter(FrontCounter::Accepted).fetch_add(3, Relaxed);
        front.set_state(InstanceState::Running);
        assert_eq!((reader.row(WorkerId(2)), reader.row(WorkerId(1)), row.free()), (row, WorkerRow::default(), Some(6)));
        assert_eq!((reader.started_wall_ms(), reader.workers(), reader.allowed_in_all()), (5, 2, 30));
        assert_eq!(reader.listening(), list);
        assert_eq!((reader.counter(FrontCounter::Accepted).load(Relaxed), reader.state()), (3, InstanceState::Running));
    }

    #[test]
    fn counters_go_on_and_the_rest_begins_anew() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let front = FrontPage::create(directory.path()).unwrap();
        front.counter(FrontCounter::Accepted).store(3, Relaxed);
        front.set_row(WorkerId(1), &WorkerRow { pid: 7, restarts: 2, ..WorkerRow::default() });
        front.set_state(InstanceState::Ended);
        drop(front);
        let next = FrontPage::create(directory.path()).unwrap();
        assert_eq!(
            (next.counter(FrontCounter::Accepted).load(Relaxed), next.row(WorkerId(1)).pid, next.row(WorkerId(1)).restarts),
            (3, 0, 2)
        );
        assert_eq!(next.state(), InstanceState::Starting);
    }

    #[test]
    fn the_last_moves_are_listed_newest_first() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let front = FrontPage::create(directory.path()).unwrap();
        assert_eq!(front.moves(), []);
        let moved = |n: u64| MoveRow { wall_ms: n, conn: ConnId(n), from: WorkerId(1), to: WorkerId(253), why: Why::Hung, pause_ms: n * 2 };
        (1..=MOVES + 3).for_each(|n| front.push_move(&moved(n)));
        let reader = FrontPage::open(directory.path()).unwrap();
        assert_eq!(reader.moves(), (4..=MOVES + 3).rev().map(moved).collect::<Vec<_>>());
        let pauses = reader.pauses(Why::Hung);
        assert_eq!(pauses.counts, [0, 1, 1, 3, 5, 15, 10, 0, 0, 0, 0, 0, 0]);
        assert_eq!((pauses.sum_ms, reader.pauses(Why::Died)), ((1..=MOVES + 3).sum::<u64>() * 2, Pauses::default()));
    }

    #[test]
    fn too_many_addresses_are_cut_at_a_line() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let front = FrontPage::create(directory.path()).unwrap();
        let many: Vec<_> = (1..=500).map(|port| listening("rtmp", &format!("127.0.0.1:{port}"))).collect();
        front.set_listening(&many);
        let read = front.listening();
        assert!(read.len() > 100 && read.len() < 500);
        assert_eq!(read[..], many[..read.len()]);
    }
}
