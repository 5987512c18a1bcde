//! The loop with real sockets, real processes (that only sleep) and a test that speaks for the workers.

mod decisions;

use super::workers::Process;
use super::*;
use crate::config::{Api, Http, Limits, Rtmp, Server};
use crate::control::channel::Channel;
use crate::control::pages::WorkerState;
use crate::control::{Adoption, Asked, ConnId, Intent, Listener, Origin, Placement, Settling, ToFront, ToWorker};
use crate::saved::RowId;
use braidcast_media::StreamKey;
use braidcast_sys::fd_passing::send_with_fds;
use braidcast_sys::{PidFd, net};
use serde::Serialize;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

const W1: WorkerId = WorkerId(1);
const W2: WorkerId = WorkerId(2);

/// A front whose two workers are the test.
struct Stage {
    front: Front,
    channels: Vec<Channel>,
    children: Vec<Child>,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn new(limits: Limits) -> Self {
        Self::with_hooks(limits, "")
    }

    /// With what a configuration file says of hooks.
    fn with_hooks(limits: Limits, hooks: &str) -> Self {
        let hook = crate::config::load_text(Path::new("b.toml"), hooks).map(|loaded| loaded.config.hook).ok().unwrap();
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path();
        let server = Server {
            workers: 2,
            shared_dir: path.join("shared"),
            state_dir: path.join("state"),
            on_exit: OnExit::Remove,
            ..Server::default()
        };
        let rtmp = Rtmp { listen: vec!["127.0.0.1:0".parse().unwrap()], ..Rtmp::default() };
        let (http, api) = (Http { listen: vec![], ..Http::default() }, Api { listen: vec![], ..Api::default() });
        let config = Config { server, rtmp, http, api, limits, hook, ..Config::default() };
        let shared = SharedDir::open(&config.server, Duration::ZERO).unwrap();
        let front = Front::new(config, shared, Signals::take_over().unwrap(), None).map_err(|(error, _)| error).unwrap();
        let mut stage = Self { front, channels: Vec::new(), children: Vec::new(), _directory: directory };
        for worker in [W1, W2] {
            stage.attach(worker);
        }
        stage
    }

    fn attach(&mut self, worker: WorkerId) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let (ours, theirs) = net::seqpacket_pair().unwrap();
        let process = Process::new(
            child.id(),
            PidFd::open(child.id()).unwrap(),
            Channel::new(ours).unwrap(),
            self.front.vault.next_heap(),
            clock::monotonic_ms(),
        );
        self.front.watch(worker, &process).unwrap();
        let place = self.front.worker_mut(worker).unwrap();
        (place.process, place.state) = (Some(process), WorkerState::Starting);
        self.children.push(child);
        self.channels.push(Channel::new(theirs).unwrap());
        self.say(worker, &ToFront::Ready);
        self.until("it is ready", |stage| stage.front.worker(worker).unwrap().serves().then_some(()));
    }

    fn turn(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        self.front.poller.wait(&mut events, Some(Duration::from_millis(5))).unwrap();
        self.front.now_ms = clock::monotonic_ms();
        self.front.turn(&events);
    }

    #[track_caller]
    fn until<T>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.turn();
            if let Some(found) = condition(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "never: {what}");
        }
    }

    fn say(&mut self, worker: WorkerId, message: &ToFront) {
        self.channels[index(worker)].send(message, vec![]).unwrap();
    }

    #[track_caller]
    fn hear(&mut self, worker: WorkerId) -> (ToWorker, Vec<OwnedFd>) {
        self.until("a message", |stage| stage.channels[index(worker)].receive().unwrap())
    }

    fn connect(&mut self) -> TcpStream {
        TcpStream::connect(self.front.sockets[0].address).unwrap()
    }

    /// Connects, and takes the connection at the worker that it is given to.
    #[track_caller]
    fn connection_at(&mut self, worker: WorkerId) -> (TcpStream, ConnId, OwnedFd) {
        let client = self.connect();
        let (message, mut fds) = self.hear(worker);
        let ToWorker::Connection { conn, origin, .. } = message else { panic!("{message:?}") };
        assert_eq!(origin.peer, client.local_addr().unwrap());
        (client, conn, fds.remove(0))
    }

    fn origin(&self, client: &TcpStream) -> Origin {
        Origin { listener: Listener::Rtmp, peer: client.local_addr().unwrap(), local: self.front.sockets[0].address }
    }

    fn publish(&mut self, worker: WorkerId, conn: ConnId, name: &str) {
        let asked = Asked { intent: Intent::Publish, key: key(name), credential: 0, pinned: false, found_at: None, number: 1 };
        let place = ToFront::Place { conn, asked };
        self.say(worker, &place);
    }

    fn counter(&self, counter: FrontCounter) -> u64 {
        self.front.page.counter(counter).load(Relaxed)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn key(name: &str) -> StreamKey {
    StreamKey::new("v", "live", name).unwrap()
}

fn placed(conn: ConnId, placement: Placement) -> ToWorker {
    ToWorker::Placed { conn, placement, forward: Vec::new() }
}

const HERE: Placement = Placement::Here { next_segment: 1 };

/// Nothing but the end is to be read.
#[track_caller]
fn assert_closed(client: &mut TcpStream) {
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    match client.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("not closed: {other:?}"),
    }
}

#[test]
fn connections_go_round_and_their_descriptors_work() {
    let mut stage = Stage::new(Limits::default());
    let (mut first, _, socket) = stage.connection_at(W1);
    net::send(&socket, b"hello").unwrap();
    let mut buffer = [0; 5];
    first.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"hello");
    let (_second, conn, _socket) = stage.connection_at(W2);
    let (_third, _, _socket3) = stage.connection_at(W1);
    // The second worker has fewer now.
    stage.say(W2, &ToFront::Closed { conn });
    stage.until("it is closed", |stage| (stage.front.registry.connections() == 2).then_some(()));
    let _fourth = stage.connection_at(W2);
    assert_eq!(stage.counter(FrontCounter::Accepted), 4);
}

#[test]
fn a_publisher_is_moved_to_the_worker_that_was_chosen() {
    let mut stage = Stage::new(Limits::default());
    let (_one, one, _socket) = stage.connection_at(W1);
    stage.publish(W1, one, "a");
    assert_eq!(stage.hear(W1).0, placed(one, HERE));
    let (_two, _, _socket2) = stage.connection_at(W2);
    let (mut three, moving, socket) = stage.connection_at(W1);
    stage.publish(W1, moving, "b");
    assert_eq!(stage.hear(W1).0, placed(moving, Placement::MoveTo(W2)));
    drop(socket);
    stage.say(W1, &ToFront::Move { conn: moving, to: Some(W2) });
    let (message, fds) = stage.hear(W2);
    let origin = stage.origin(&three);
    assert_eq!(
        message,
        ToWorker::Adopt(Adoption { conn: moving, row: RowId(2), origin, next_segment: 1, admitted: true, forward: Vec::new() })
    );
    stage.say(W2, &ToFront::Adopted { conn: moving });
    assert_eq!(stage.hear(W1).0, ToWorker::Departed { conn: moving });
    three.write_all(b"x").unwrap();
    let mut buffer = [0; 1];
    stage.until("the byte arrives", |_| net::recv(&fds[0], &mut buffer).ok());
    stage.say(W2, &ToFront::Segment { key: key("b"), next: 8, duration_ms: None });
    stage.say(W2, &ToFront::Released { conn: moving });
    stage.publish(W2, moving, "b");
    assert_eq!(stage.hear(W2).0, placed(moving, Placement::Here { next_segment: 8 }));
    assert_eq!(stage.front.page.row(W2).publishers, 1);
    assert_eq!((stage.counter(FrontCounter::Moves), stage.counter(FrontCounter::BadMessages)), (1, 0));
}

#[test]
fn a_killed_workers_session_goes_to_another_one_on_the_same_connection() {
    let mut stage = Stage::new(Limits::default());
    let (mut client, conn, socket) = stage.connection_at(W1);
    stage.publish(W1, conn, "a");
    stage.hear(W1);
    let heap = stage.front.worker(W1).unwrap().process.as_ref().unwrap().heap;
    let heap = crate::saved::directory(stage.front.shared.path()).join(heap.to_string());
    std::fs::write(&heap, "x").unwrap();
    stage.children[0].kill().unwrap();
    // The worker's own descriptor goes with its process.
    drop(socket);
    let (message, fds) = stage.hear(W2);
    let origin = stage.origin(&client);
    assert_eq!(message, ToWorker::Adopt(Adoption { conn, row: RowId(0), origin, next_segment: 1, admitted: false, forward: Vec::new() }));
    client.write_all(b"x").unwrap();
    let mut buffer = [0; 1];
    stage.until("the byte arrives", |_| net::recv(&fds[0], &mut buffer).ok());
    assert!(heap.exists(), "what the session was saved in is needed until it has a home");
    stage.say(W2, &ToFront::Adopted { conn });
    stage.until("the heap is deleted", |_| (!heap.exists()).then_some(()));
    assert_eq!(stage.front.worker(W1).unwrap().state, WorkerState::Restarting);
    let counted = (stage.counter(FrontCounter::SessionsLost), stage.counter(FrontCounter::Takeovers));
    assert_eq!((counted, stage.front.page.row(W2).publishers), ((0, 1), 1));
    // One that cannot go on is closed, and its stream recovered.
    drop(fds);
    stage.say(W2, &ToFront::Lost { conn });
    let (message, _) = stage.hear(W2);
    assert_closed(&mut client);
    assert_eq!(message, ToWorker::Settle { key: key("a"), settling: Settling::Recover, next_segment: 1 });
}

#[test]
fn a_session_whose_new_worker_died_on_its_way_goes_to_yet_another() {
    let mut stage = Stage::new(Limits::default());
    let (_one, one, _socket) = stage.connection_at(W1);
    stage.publish(W1, one, "a");
    stage.hear(W1);
    let _two = stage.connection_at(W2);
    let (_client, conn, socket) = stage.connection_at(W1);
    stage.publish(W1, conn, "b");
    assert_eq!(stage.hear(W1).0, placed(conn, Placement::MoveTo(W2)));
    stage.children[1].kill().unwrap();
    stage.until("the death is noticed", |stage| (stage.front.worker(W2)?.state == WorkerState::Restarting).then_some(()));
    drop(socket);
    stage.say(W1, &ToFront::Move { conn, to: Some(W2) });
    let adopted = stage.until("it comes back", |stage| match stage.channels[0].receive().unwrap() {
        Some((ToWorker::Adopt(adoption), _)) if adoption.conn == conn => Some(adoption),
        _ => None,
    });
    assert!(adopted.admitted);
    // It is handed over again before it is heard of: what it was handed over with now is needed.
    stage.say(W1, &ToFront::Adopted { conn });
    stage.say(W1, &ToFront::Move { conn, to: None });
    stage.until("it comes back once more", |stage| match stage.channels[0].receive().unwrap() {
        Some((ToWorker::Adopt(adoption), _)) if adoption.conn == conn => Some(()),
        Some((ToWorker::Departed { .. }, _)) => panic!("it is told to forget what it has let go of since"),
        _ => None,
    });
}

#[test]
fn sessions_wait_for_a_worker_when_none_is_left() {
    let mut stage = Stage::new(Limits::default());
    let (_client, conn, _socket) = stage.connection_at(W1);
    for child in &mut stage.children {
        child.kill().unwrap();
    }
    stage.until("both deaths are noticed", |stage| (stage.front.workers.iter().all(|worker| !worker.serves())).then_some(()));
    assert_eq!(stage.front.registry.connections(), 1);
    stage.front.timers.clear(Timer::Restart(W2));
    stage.channels.remove(1);
    stage.attach(W2);
    let (message, fds) = stage.hear(W2);
    assert!(matches!(message, ToWorker::Adopt(adoption) if adoption.conn == conn) && fds.len() == 1);
}

#[test]
fn rubbish_from_a_worker_is_counted_and_nothing_else() {
    let mut stage = Stage::new(Limits::default());
    let (_client, conn, _socket) = stage.connection_at(W1);
    // As a key that was never checked would come over the wire.
    #[derive(Serialize)]
    enum Forged {
        _Ready,
        Place { conn: ConnId, intent: Intent, key: (&'static str, &'static str, &'static str), credential: u64, pinned: bool },
    }
    let forged =
        crate::control::encode(&Forged::Place { conn, intent: Intent::Publish, key: ("..", "a\nb", "\t"), credential: 0, pinned: false });
    for packet in [&[0xff; 9][..], &[1], &forged] {
        send_with_fds(stage.channels[0].as_fd(), packet, &[]).unwrap();
    }
    let strange = ConnId(4711);
    stage.say(W1, &ToFront::Closed { conn: strange });
    stage.say(W2, &ToFront::Released { conn });
    stage.say(W1, &ToFront::Move { conn: strange, to: Some(WorkerId(9)) });
    stage.say(W1, &ToFront::Settled { key: key("never"), settling: Settling::End, done: true });
    stage.publish(W2, conn, "stolen");
    assert_eq!(stage.hear(W2).0, placed(conn, Placement::Refused(crate::control::Refusal::Unavailable)));
    stage.until("all is counted", |stage| (stage.counter(FrontCounter::BadMessages) == 7).then_some(()));
    stage.publish(W1, conn, "a");
    assert_eq!(stage.hear(W1).0, placed(conn, HERE));
}

#[test]
fn limits_turn_connections_away() {
    let mut stage = Stage::new(Limits { connections: 3, connections_per_address: 2, ..Limits::default() });
    let _held = [stage.connection_at(W1), stage.connection_at(W2)];
    let mut third = stage.connect();
    stage.until("it is refused", |stage| (stage.counter(FrontCounter::RefusedPerAddress) == 1).then_some(()));
    assert_closed(&mut third);
}

#[test]
fn a_worker_that_does_not_read_gets_no_more_than_its_list_holds() {
    let mut stage = Stage::new(Limits { pending_connections: 4, ..Limits::default() });
    let mut clients: Vec<TcpStream> = Vec::new();
    while stage.counter(FrontCounter::RefusedPending) == 0 {
        clients.push(stage.connect());
        stage.until("it is taken or refused", |stage| (stage.counter(FrontCounter::Accepted) as usize == clients.len()).then_some(()));
        assert!(clients.len() < 5_000, "no bound");
    }
    assert_closed(clients.last_mut().unwrap());
    let waiting = |stage: &Stage, worker| stage.front.worker(worker).unwrap().process.as_ref().unwrap().channel.pending();
    assert_eq!((waiting(&stage, W1), waiting(&stage, W2)), (4, 4));
    // What waits is sent when the worker reads again.
    let mut heard = 0;
    stage.until("the list is sent", |stage| {
        while stage.channels[0].receive::<ToWorker>().unwrap().is_some() {
            heard += 1;
        }
        (waiting(stage, W1) == 0 && heard > 4).then_some(())
    });
}

#[test]
fn the_end_is_in_order_and_leaves_nothing() {
    let mut stage = Stage::new(Limits::default());
    let address: SocketAddr = stage.front.sockets[0].address;
    stage.front.stop();
    for worker in [W1, W2] {
        assert_eq!(stage.hear(worker).0, ToWorker::Stop);
    }
    assert!(TcpStream::connect(address).is_err());
    stage.front.stop();
    stage.until("the workers are killed", |stage| stage.front.is_over().then_some(()));
    let Stage { front, _directory: directory, .. } = &mut stage;
    assert_eq!(front.page.row(W1).pid, 0);
    let shared = directory.path().join("shared");
    assert!(shared.exists());
    assert_eq!(front.worker(W2).unwrap().state, WorkerState::Empty);
}
