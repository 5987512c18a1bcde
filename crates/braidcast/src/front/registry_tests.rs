use super::*;
use crate::control::Listener;
use crate::control::Settling;
use proptest::prelude::*;
use std::collections::HashSet;

const W1: WorkerId = WorkerId(1);
const W2: WorkerId = WorkerId(2);

/// The last byte of a trusted proxy's address.
const PROXY: u8 = 3;

fn rules() -> Rules {
    Rules {
        connections: 100,
        connections_per_address: 50,
        trusted_proxies: vec![format!("{}", address(PROXY)).parse().unwrap()],
        publish: PublishPolicy::Weighted,
        play: PlayPolicy::LeastLoaded,
        max_publishers: 0,
        replace: false,
        silent_after_ms: 3_000,
        reconnect_grace_ms: 15_000,
        hls_dispose_ms: 120_000,
    }
}

fn workers(ids: &[u16]) -> Vec<Load> {
    ids.iter().map(|id| Load { worker: WorkerId(*id), publishers: 0, viewers: 0, allowed: 0, weight: 1, spare_permille: 1000 }).collect()
}

fn key(name: &str) -> StreamKey {
    StreamKey::new("v", "live", name).unwrap()
}

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

/// A registry with two workers, and the questions in short.
struct Desk {
    registry: Registry,
    workers: Vec<Load>,
    room: bool,
    appended_ms: Option<u64>,
}

impl Desk {
    fn new(rules: Rules) -> Self {
        Self { registry: Registry::new(rules, 0), workers: workers(&[1, 2]), room: true, appended_ms: None }
    }

    fn ask(&mut self, worker: WorkerId, conn: ConnId, intent: Intent, name: &str, now_ms: u64) -> Answer {
        let question = Question { conn, intent, key: key(name), credential: 7, pinned: false, found_at: None, number: 1, undecided: false };
        self.ask_so(worker, question, now_ms)
    }

    fn ask_so(&mut self, worker: WorkerId, question: Question, now_ms: u64) -> Answer {
        let appended_ms = self.appended_ms;
        let around = Circumstances {
            workers: &self.workers,
            room: self.room,
            last_append_ms: &|_| appended_ms,
            next_segment: &|_| 42,
            fetched_at: None,
        };
        self.registry.place(worker, question, &around, now_ms).unwrap()
    }

    fn messages(&mut self) -> Vec<(WorkerId, ToWorker)> {
        std::iter::from_fn(|| self.registry.poll_message()).collect()
    }
}

const ROW: RowId = RowId(0);

fn origin(last: u8) -> Origin {
    Origin { listener: Listener::Rtmp, peer: (address(last), 40_000).into(), local: ([127, 0, 0, 1], 1_935).into() }
}

const HERE: Placement = Placement::Here { next_segment: 42 };

#[test]
fn a_publisher_is_placed_moved_and_counted_where_it_was_sent() {
    let mut desk = Desk::new(rules());
    let first = desk.registry.connected(W2, origin(1), ROW);
    let second = desk.registry.connected(W2, origin(2), ROW);
    assert_eq!(desk.ask(W2, first, Intent::Publish, "a", 0).placement, Placement::MoveTo(W1));
    assert_eq!(desk.registry.load(W1), Tally { sessions: 0, publishers: 1, viewers: 0 });
    assert_eq!(desk.ask(W2, second, Intent::Publish, "b", 0).placement, HERE);
    let homeless = Homeless { conn: first, row: ROW, origin: origin(1), intent: Some(Intent::Publish), chosen: Some(W1) };
    assert_eq!(desk.registry.handed_over(first, W2), Ok(homeless));
    assert_eq!(desk.registry.choose_home(&homeless, &desk.workers), Some(W1));
    desk.registry.rehome(first, W1);
    assert_eq!(desk.registry.load(W1).sessions, 1);
    assert_eq!(desk.registry.handed_over(first, W2), Err(Mismatch::NotItsConnection));
    assert_eq!(desk.registry.closed(first, W1, 2), Ok(()));
    assert_eq!(desk.registry.closed(first, W1, 2), Err(Mismatch::UnknownConnection));
    assert_eq!(desk.registry.load(W1), Tally::default());
    let told: Vec<_> = desk.messages().into_iter().map(|(worker, message)| (worker, matches!(message, ToWorker::Placed { .. }))).collect();
    assert_eq!(told, [(W2, true), (W2, true)]);
}

#[test]
fn a_second_publisher_is_refused_while_the_first_one_sends() {
    let mut desk = Desk::new(rules());
    let [first, second] = [1, 2].map(|last| desk.registry.connected(W1, origin(last), ROW));
    desk.ask(W1, first, Intent::Publish, "a", 0);
    desk.appended_ms = Some(9_000);
    let busy = desk.ask(W1, second, Intent::Publish, "a", 10_000);
    assert_eq!((busy.placement, busy.replaced), (Placement::Refused(Refusal::StreamBusy), None));
    assert_eq!(desk.registry.stream_of(first), Some(&key("a")));
    let silent = desk.ask(W1, second, Intent::Publish, "a", 12_000);
    assert_eq!((silent.placement, silent.replaced), (HERE, Some(first)));
    assert!(desk.messages().contains(&(W1, ToWorker::Evict { conn: first })));
    assert_eq!((desk.registry.stream_of(first), desk.registry.publishers.len()), (None, 1));
    // The evicted one closes: its stream stays the newcomer's.
    desk.registry.closed(first, W1, 12_001).unwrap();
    assert_eq!((desk.registry.publishers.len(), desk.registry.lifecycle().next_due_ms()), (1, None));
}

#[test]
fn a_publisher_that_was_just_admitted_is_not_silent_because_its_stream_was() {
    let mut desk = Desk::new(rules());
    let [first, second] = [1, 2].map(|last| desk.registry.connected(W1, origin(last), ROW));
    desk.appended_ms = Some(1_000);
    desk.ask(W1, first, Intent::Publish, "a", 60_000);
    assert_eq!(desk.ask(W1, second, Intent::Publish, "a", 62_999).placement, Placement::Refused(Refusal::StreamBusy));
    assert_eq!(desk.ask(W1, second, Intent::Publish, "a", 63_000).replaced, Some(first));
}

#[test]
fn an_encoder_that_lost_its_connection_takes_its_stream_back() {
    let mut desk = Desk::new(rules());
    desk.appended_ms = Some(0);
    let [first, stranger, back] = [1, 1, 1].map(|last| desk.registry.connected(W1, origin(last), ROW));
    desk.ask(W1, first, Intent::Publish, "a", 0);
    let other_key = Question {
        conn: stranger,
        intent: Intent::Publish,
        key: key("a"),
        credential: 8,
        pinned: false,
        found_at: None,
        number: 1,
        undecided: false,
    };
    assert_eq!(desk.ask_so(W1, other_key, 1).placement, Placement::Refused(Refusal::StreamBusy));
    assert_eq!(desk.ask(W1, back, Intent::Publish, "a", 1).replaced, Some(first));
}

#[test]
fn replace_lets_anybody_in() {
    let mut desk = Desk::new(Rules { replace: true, ..rules() });
    let [first, second] = [1, 2].map(|last| desk.registry.connected(W1, origin(last), ROW));
    desk.ask(W1, first, Intent::Publish, "a", 0);
    assert_eq!(desk.ask(W1, second, Intent::Publish, "a", 0).replaced, Some(first));
}

#[test]
fn a_replaced_publisher_frees_its_place_before_the_limits_are_looked_at() {
    let mut desk = Desk::new(Rules { replace: true, max_publishers: 1, ..rules() });
    let [first, second, third] = [1, 2, 3].map(|last| desk.registry.connected(W1, origin(last), ROW));
    desk.ask(W1, first, Intent::Publish, "a", 0);
    assert_eq!(desk.ask(W1, second, Intent::Publish, "a", 0).placement, HERE);
    assert_eq!(desk.ask(W1, third, Intent::Publish, "b", 0).placement, Placement::Refused(Refusal::PublishersFull));
    assert_eq!(desk.registry.stream_of(second), Some(&key("a")));
}

#[test]
fn pinned_connections_stay_within_the_hard_limits() {
    let mut desk = Desk::new(rules());
    desk.workers[1].allowed = 1;
    let [first, second, viewer] = [1, 2, 3].map(|last| desk.registry.connected(W2, origin(last), ROW));
    let pinned = |conn, intent, name| Question {
        conn,
        intent,
        key: key(name),
        credential: 0,
        pinned: true,
        found_at: None,
        number: 1,
        undecided: false,
    };
    assert_eq!(desk.ask_so(W2, pinned(first, Intent::Publish, "a"), 0).placement, HERE);
    assert_eq!(desk.ask_so(W2, pinned(second, Intent::Publish, "b"), 0).placement, Placement::Refused(Refusal::PublishersFull));
    assert_eq!(desk.ask_so(W2, pinned(viewer, Intent::Play, "a"), 0).placement, Placement::Here { next_segment: 0 });
}

#[test]
fn a_full_directory_refuses_new_streams_only() {
    let mut desk = Desk::new(rules());
    let conn = desk.registry.connected(W1, origin(1), ROW);
    desk.ask(W1, conn, Intent::Publish, "a", 0);
    desk.registry.released(conn, W1, 0).unwrap();
    desk.room = false;
    assert_eq!(desk.ask(W1, conn, Intent::Publish, "b", 0).placement, Placement::Refused(Refusal::DirectoryFull));
    assert_eq!(desk.ask(W1, conn, Intent::Publish, "a", 0).placement, HERE);
}

#[test]
fn no_worker_no_place() {
    let mut desk = Desk::new(rules());
    let conn = desk.registry.connected(W1, origin(1), ROW);
    desk.workers.clear();
    for intent in [Intent::Publish, Intent::Play] {
        assert_eq!(desk.ask(W1, conn, intent, "a", 0).placement, Placement::Refused(Refusal::Unavailable));
    }
}

#[test]
fn a_dead_workers_sessions_go_to_others_and_its_streams_go_on() {
    let mut desk = Desk::new(rules());
    let viewer = desk.registry.connected(W1, origin(1), RowId(1));
    let publisher = desk.registry.connected(W1, origin(1), RowId(2));
    let moving = desk.registry.connected(W2, origin(2), RowId(3));
    desk.ask(W1, publisher, Intent::Publish, "a", 0);
    desk.workers.pop();
    assert_eq!(desk.ask(W2, moving, Intent::Publish, "b", 0).placement, Placement::MoveTo(W1));
    assert_eq!((desk.registry.published_by(W1), desk.registry.published_by(W2)), (vec![key("a")], vec![key("b")]));
    let of = |conn, row, last, intent| Homeless { conn, row: RowId(row), origin: origin(last), intent, chosen: None };
    let homeless = desk.registry.worker_died(W1, 100);
    assert_eq!(homeless, [of(publisher, 2, 1, Some(Intent::Publish)), of(viewer, 1, 1, None)], "publishers first");
    assert_eq!(desk.registry.reserved_at(W1), [of(moving, 3, 2, Some(Intent::Publish))]);
    desk.workers = workers(&[2]);
    assert_eq!(desk.registry.choose_home(&homeless[0], &[]), None);
    for homeless in &homeless {
        assert_eq!(desk.registry.choose_home(homeless, &desk.workers), Some(W2));
        desk.registry.rehome(homeless.conn, W2);
    }
    desk.registry.reserve_at(moving, W2);
    assert_eq!(desk.registry.load(W1), Tally::default());
    assert_eq!(desk.registry.load(W2), Tally { sessions: 3, publishers: 2, viewers: 0 });
    assert_eq!(desk.registry.poll_settling(100), None, "nothing has ended");
    // Whoever cannot go on leaves a stream that has to be recovered.
    assert_eq!(desk.registry.lost(publisher, W2, 101), Ok(()));
    assert_eq!(desk.registry.poll_settling(101), Some((key("a"), Settling::Recover)));
    assert_eq!(desk.registry.poll_gone(), Some((publisher, RowId(2))));
}

#[test]
fn a_session_that_was_admitted_finds_a_home_where_there_is_no_room() {
    let mut desk = Desk::new(Rules { max_publishers: 1, ..rules() });
    desk.workers.iter_mut().for_each(|load| load.allowed = 1);
    let conn = desk.registry.connected(W1, origin(1), ROW);
    desk.ask(W1, conn, Intent::Publish, "a", 0);
    let homeless = desk.registry.worker_died(W1, 1)[0];
    assert!(desk.registry.choose_home(&homeless, &workers(&[2])).is_some());
}

#[test]
fn the_second_death_at_the_same_byte_is_no_accident() {
    let mut desk = Desk::new(rules());
    let conn = desk.registry.connected(W1, origin(1), ROW);
    assert!(!desk.registry.suspect(conn, 100));
    assert!(!desk.registry.suspect(conn, 200), "it went on in between");
    assert!(desk.registry.suspect(conn, 200));
    assert!(!desk.registry.suspect(ConnId(99), 200));
}

#[test]
fn connections_are_limited_in_all_and_by_address() {
    let mut registry = Registry::new(Rules { connections: 3, connections_per_address: 2, ..rules() }, 0);
    let first = registry.connected(W1, origin(1), ROW);
    registry.connected(W1, origin(1), ROW);
    assert_eq!(registry.admit(address(1)), Err(Unwelcome::TooManyFromAddress));
    assert_eq!(registry.admit(address(2)), Ok(()));
    registry.connected(W2, origin(2), ROW);
    assert_eq!(registry.admit(address(3)), Err(Unwelcome::TooMany));
    registry.closed(first, W1, 0).unwrap();
    assert_eq!(registry.admit(address(1)), Ok(()));
}

#[test]
fn the_limit_is_for_clients_and_not_for_the_proxy_they_come_by() {
    let mut desk = Desk::new(Rules { connections_per_address: 2, ..rules() });
    let conns: Vec<ConnId> = (0..5).map(|_| desk.registry.connected(W1, origin(PROXY), ROW)).collect();
    assert_eq!(desk.registry.admit(address(PROXY)), Ok(()));
    for conn in &conns[..2] {
        assert_eq!(desk.registry.named(*conn, W1, address(1), false), Ok(None));
        assert_eq!(desk.registry.named(*conn, W1, address(1), true), Ok(None), "said again after a takeover");
    }
    assert_eq!(desk.registry.address_of(conns[0]), Some(address(1)));
    assert_eq!(desk.registry.admit(address(1)), Err(Unwelcome::TooManyFromAddress));
    assert_eq!(desk.messages(), []);
    assert_eq!(desk.registry.named(conns[2], W1, address(1), false), Ok(Some(Unwelcome::TooManyFromAddress)));
    assert_eq!(desk.registry.named(conns[3], W1, address(2), true), Ok(Some(Unwelcome::HeldOff)));
    assert_eq!(desk.messages(), [2, 3].map(|turned_away| (W1, ToWorker::TurnAway { conn: conns[turned_away] })));
    // What it has asked in the meantime changes nothing.
    desk.ask(W1, conns[0], Intent::Publish, "a", 0);
    let asked = desk.ask(W1, conns[2], Intent::Publish, "a", 0);
    assert_eq!((asked.placement, asked.replaced), (Placement::Refused(Refusal::Unwelcome), None));
    assert_eq!(desk.registry.named(conns[4], W2, address(2), false), Err(Mismatch::NotItsConnection));
    for conn in &conns[..2] {
        desk.registry.closed(*conn, W1, 0).unwrap();
    }
    assert_eq!(desk.registry.admit(address(1)), Ok(()));
    // Its worker died before it heard of that, and there is room by now.
    assert_eq!(desk.registry.named(conns[2], W1, address(1), false), Ok(None));
    assert_eq!(desk.ask(W1, conns[2], Intent::Publish, "a", 0).placement, HERE);
}

#[test]
fn only_the_same_client_takes_its_stream_back_by_a_proxy() {
    let mut desk = Desk::new(rules());
    desk.appended_ms = Some(0);
    let [first, stranger, back] = [1, 2, 1].map(|client| {
        let conn = desk.registry.connected(W1, origin(PROXY), ROW);
        desk.registry.named(conn, W1, address(client), false).unwrap();
        conn
    });
    desk.ask(W1, first, Intent::Publish, "a", 0);
    assert_eq!(desk.ask(W1, stranger, Intent::Publish, "a", 1).placement, Placement::Refused(Refusal::StreamBusy));
    assert_eq!(desk.ask(W1, back, Intent::Publish, "a", 1).replaced, Some(first));
}

#[test]
fn an_inherited_connection_counts_for_the_client_that_was_named() {
    let mut registry = Registry::new(Rules { connections_per_address: 1, ..rules() }, 0);
    let holding = Holding {
        conn: ConnId(7),
        row: ROW,
        origin: origin(PROXY),
        client: (address(1), 0).into(),
        departed: false,
        place: None,
        pull: None,
    };
    registry.inherited(W1, holding, 0);
    assert_eq!(registry.admit(address(1)), Err(Unwelcome::TooManyFromAddress));
    assert_eq!(registry.address_of(ConnId(7)), Some(address(1)));
    registry.closed(ConnId(7), W1, 0).unwrap();
    assert_eq!(registry.admit(address(1)), Ok(()));
}

/// A question that hooks are to be asked about.
fn undecided(conn: ConnId, intent: Intent, name: &str, number: u32) -> Question {
    Question { conn, intent, key: key(name), credential: 7, pinned: false, found_at: None, number, undecided: true }
}

impl Desk {
    fn decide(&mut self, conn: ConnId, number: u32, allowed: bool, now_ms: u64) -> Option<Answer> {
        self.registry.decided((conn, number), allowed, vec!["rtmp://h/a/b".to_owned()], &|_| 42, now_ms)
    }

    fn happenings(&mut self) -> Vec<(u64, What)> {
        std::iter::from_fn(|| self.registry.poll_happening()).map(|happening| (happening.conn.0, happening.what)).collect()
    }
}

fn told(conn: ConnId, placement: Placement, forward: &[&str]) -> (WorkerId, ToWorker) {
    (W1, ToWorker::Placed { conn, placement, forward: forward.iter().map(|url| (*url).to_owned()).collect() })
}

#[test]
fn a_place_is_reserved_and_not_told_of_until_it_is_decided() {
    let mut desk = Desk::new(rules());
    let [publisher, viewer] = [1, 2].map(|last| desk.registry.connected(W1, origin(last), ROW));
    desk.ask_so(W1, undecided(publisher, Intent::Publish, "a", 1), 0);
    desk.ask_so(W1, undecided(viewer, Intent::Play, "a", 1), 0);
    assert_eq!((desk.registry.load(W1).publishers, desk.registry.publisher_of(&key("a"))), (1, None));
    assert!(desk.messages().is_empty() && desk.happenings().is_empty());
    assert_eq!(desk.decide(publisher, 2, true, 1), None, "another question's answer");
    assert_eq!(desk.decide(publisher, 1, true, 1).map(|answer| answer.placement), Some(HERE));
    assert_eq!(desk.messages(), [told(publisher, HERE, &["rtmp://h/a/b"])]);
    assert_eq!(desk.happenings(), [(1, What::Began(Intent::Publish, key("a")))]);
    assert_eq!(desk.registry.forward_of(publisher), ["rtmp://h/a/b"]);
    assert_eq!(desk.decide(publisher, 1, false, 2), None, "it is decided");
    desk.ask(W1, publisher, Intent::Publish, "a", 2);
    assert_eq!(desk.messages(), [told(publisher, HERE, &["rtmp://h/a/b"])], "asked once more, it still goes there");
    let refused = Placement::Refused(Refusal::ByHook);
    assert_eq!(desk.decide(viewer, 1, false, 2).map(|answer| answer.placement), Some(refused.clone()));
    assert_eq!((desk.messages(), desk.happenings()), (vec![told(viewer, refused, &[])], vec![]));
    assert_eq!(desk.registry.load(W1), Tally { sessions: 2, publishers: 1, viewers: 0 });
}

#[test]
fn who_has_a_stream_keeps_it_until_hooks_have_let_another_one_in() {
    let mut desk = Desk::new(Rules { replace: true, ..rules() });
    let [holder, stranger, third] = [1, 2, 3].map(|last| desk.registry.connected(W1, origin(last), ROW));
    desk.ask(W1, holder, Intent::Publish, "a", 0);
    desk.messages();
    desk.ask_so(W1, undecided(stranger, Intent::Publish, "a", 1), 1);
    desk.decide(stranger, 1, false, 2);
    assert_eq!(desk.registry.publisher_of(&key("a")), Some(holder));
    desk.ask_so(W1, undecided(stranger, Intent::Publish, "a", 2), 3);
    desk.messages();
    // Of two who wait for hooks the later one has the claim.
    desk.ask_so(W1, undecided(third, Intent::Publish, "a", 1), 4);
    assert_eq!(desk.messages(), [told(stranger, Placement::Refused(Refusal::StreamBusy), &[])]);
    assert_eq!(desk.decide(stranger, 2, true, 5), None);
    desk.happenings();
    assert_eq!(desk.decide(third, 1, true, 6).and_then(|answer| answer.replaced), Some(holder));
    assert_eq!(desk.messages()[0], (W1, ToWorker::Evict { conn: holder }));
    let [ended, began] = [What::Ended(Intent::Publish, key("a")), What::Began(Intent::Publish, key("a"))];
    assert_eq!(desk.happenings(), [(1, ended), (3, began)]);
    let publishers: u32 = [W1, W2].map(|worker| desk.registry.load(worker).publishers).iter().sum();
    assert_eq!((desk.registry.publisher_of(&key("a")), publishers), (Some(third), 1));
}

#[test]
fn a_session_that_is_asked_for_again_goes_on_and_another_one_begins() {
    let mut desk = Desk::new(rules());
    let conn = desk.registry.connected(W1, origin(1), ROW);
    desk.ask(W1, conn, Intent::Play, "a", 0);
    let [began, ended] = [What::Began(Intent::Play, key("a")), What::Ended(Intent::Play, key("a"))];
    assert_eq!(desk.happenings(), [(1, began)]);
    // By the worker that goes on with it, for which it is decided.
    desk.ask_so(W1, undecided(conn, Intent::Play, "a", 1), 0);
    assert!(desk.happenings().is_empty() && desk.registry.has_begun(conn));
    desk.ask(W1, conn, Intent::Play, "b", 0);
    assert_eq!(desk.happenings(), [(1, ended), (1, What::Began(Intent::Play, key("b")))]);
    desk.workers.clear();
    desk.ask(W1, conn, Intent::Play, "b", 0);
    assert_eq!(desk.happenings(), [(1, What::Ended(Intent::Play, key("b")))]);
    desk.registry.closed(conn, W1, 0).unwrap();
    assert_eq!(desk.happenings(), [(1, What::Closed)]);
}

#[test]
fn what_a_front_before_was_asked_may_have_begun() {
    let mut desk = Desk::new(rules());
    let place = |admitted| HeldPlace { intent: Intent::Play, key: key("a"), credential: 7, process: None, admitted, forward: Vec::new() };
    let holding = |conn, admitted| Holding {
        conn: ConnId(conn),
        row: ROW,
        origin: origin(1),
        client: origin(1).peer,
        departed: false,
        pull: None,
        place: Some(place(admitted)),
    };
    for (conn, admitted) in [(7, true), (8, false), (9, false)] {
        desk.registry.inherited(W1, holding(conn, admitted), 0);
    }
    let [began, ended] = [What::Began(Intent::Play, key("a")), What::Ended(Intent::Play, key("a"))];
    assert_eq!(desk.happenings(), [(7, began)]);
    assert_eq!(desk.registry.load(W1), Tally { sessions: 3, publishers: 0, viewers: 1 });
    assert!(desk.registry.connections_found().values().all(|found| found.place == Some((Intent::Play, key("a")))));
    desk.ask(W1, ConnId(8), Intent::Play, "b", 0);
    desk.ask_so(W1, undecided(ConnId(9), Intent::Play, "a", 1), 0);
    desk.registry.closed(ConnId(9), W1, 0).unwrap();
    assert_eq!(desk.happenings(), [(8, ended.clone()), (8, What::Began(Intent::Play, key("b"))), (9, ended), (9, What::Closed)]);
}

#[derive(Clone, Debug)]
enum Step {
    Connect(u16, u8),
    Named { worker: u16, conn: u64, last: u8, held_off: bool },
    Ask { worker: u16, conn: u64, publish: bool, name: u8, pinned: bool, credential: u64, undecided: bool },
    Decide { conn: u64, allowed: bool },
    Released(u16, u64),
    Closed(u16, u64),
    Moved { conn: u64, from: u16 },
    Died(u16),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (worker, conn) = (1u16..4, 1u64..12);
    let step = prop_oneof![
        3 => (worker.clone(), 0..=PROXY).prop_map(|(w, a)| Step::Connect(w, a)),
        2 => (worker.clone(), conn.clone(), 0..=PROXY, any::<bool>())
            .prop_map(|(worker, conn, last, held_off)| Step::Named { worker, conn, last, held_off }),
        6 => (worker.clone(), conn.clone(), any::<bool>(), 0u8..3, any::<bool>(), 0u64..2, any::<bool>()).prop_map(
            |(worker, conn, publish, name, pinned, credential, undecided)| Step::Ask { worker, conn, publish, name, pinned, credential, undecided },
        ),
        3 => (conn.clone(), any::<bool>()).prop_map(|(conn, allowed)| Step::Decide { conn, allowed }),
        1 => (worker.clone(), conn.clone()).prop_map(|(w, c)| Step::Released(w, c)),
        1 => (worker.clone(), conn.clone()).prop_map(|(w, c)| Step::Closed(w, c)),
        3 => (conn, worker.clone()).prop_map(|(conn, from)| Step::Moved { conn, from }),
        1 => worker.prop_map(Step::Died),
        1 => (0u16..4_000).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..120)
}

/// Everything that is counted twice comes to the same, and nothing is above its limit.
fn consistent(registry: &Registry, allowed: &[u32], in_all: u32, moved: bool) -> Result<(), TestCaseError> {
    for (worker, allowed) in (1..).map(WorkerId).zip(allowed) {
        let tally = registry.load(worker);
        let count = |intent| {
            registry.conns.values().filter_map(|c| c.place.as_ref()).filter(|p| p.worker == worker && p.intent == intent).count() as u32
        };
        prop_assert_eq!(tally.sessions, registry.conns.values().filter(|c| c.worker == worker).count() as u32);
        prop_assert_eq!((tally.publishers, tally.viewers), (count(Intent::Publish), count(Intent::Play)));
        // A takeover does not ask for room.
        let twice = registry.claims.keys().filter(|key| registry.publishers.contains_key(key)).count() as u32;
        prop_assert!(moved || *allowed == 0 || tally.publishers <= *allowed + twice);
    }
    prop_assert!(in_all == 0 || registry.publishers.len() <= in_all as usize);
    let with = |undecided: bool| {
        let publishes = move |place: &&Place| place.intent == Intent::Publish && place.undecided.is_some() == undecided;
        registry.conns.iter().filter_map(move |(conn, held)| held.place.as_ref().filter(publishes).map(|place| (&place.key, *conn)))
    };
    let claiming: HashMap<&StreamKey, ConnId> = with(true).collect();
    prop_assert_eq!(claiming.len(), with(true).count(), "one claim to a stream");
    prop_assert_eq!(claiming, registry.claims.iter().map(|(key, conn)| (key, *conn)).collect());
    let publishing: Vec<(&StreamKey, ConnId)> = with(false).collect();
    prop_assert_eq!(publishing.iter().map(|(key, _)| key).collect::<HashSet<_>>().len(), publishing.len(), "one publisher per stream");
    for (key, conn) in publishing {
        prop_assert_eq!(registry.publishers.get(key), Some(&conn));
        prop_assert!(!registry.lifecycle.contains(key));
    }
    prop_assert!(registry.publishers.keys().all(|key| registry.conns.contains_key(&registry.publishers[key])));
    for last in 0..=PROXY {
        let there = registry.conns.values().filter(|held| held.address() == address(last)).count();
        prop_assert_eq!(registry.addresses.count(address(last)) as usize, if last == PROXY { 0 } else { there });
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_the_workers_say_the_tables_agree(steps in steps(), replace: bool, in_all in 0u32..4) {
        let allowed = [0, 1, 2];
        let mut desk = Desk::new(Rules { replace, max_publishers: in_all, ..rules() });
        desk.workers = workers(&[1, 2, 3]);
        for (load, allowed) in desk.workers.iter_mut().zip(allowed) {
            load.allowed = allowed;
        }
        let (mut now_ms, mut moved, mut open) = (0, false, HashMap::new());
        for step in steps {
            moved |= matches!(step, Step::Moved { .. } | Step::Died(_));
            match step {
                Step::Connect(worker, last) => {
                    desk.registry.connected(WorkerId(worker), origin(last), ROW);
                }
                Step::Named { worker, conn, last, held_off } => {
                    if let Ok(Some(_)) = desk.registry.named(ConnId(conn), WorkerId(worker), address(last), held_off) {
                        prop_assert!(held_off);
                    }
                }
                Step::Decide { conn, allowed } => {
                    let was_undecided = desk.registry.is_undecided(ConnId(conn), 1);
                    let decided = desk.decide(ConnId(conn), 1, allowed, now_ms);
                    prop_assert_eq!(decided.is_some(), was_undecided);
                }
                Step::Ask { worker, conn, publish, name, pinned, credential, undecided } => {
                    let intent = if publish { Intent::Publish } else { Intent::Play };
                    let question = Question { conn: ConnId(conn), intent, key: key(&name.to_string()), credential, pinned, found_at: None, number: 1, undecided };
                    let around = Circumstances { workers: &desk.workers, room: true, last_append_ms: &|_| None, next_segment: &|_| 1, fetched_at: None };
                    let answer = desk.registry.place(WorkerId(worker), question, &around, now_ms);
                    if let Ok(Answer { placement: Placement::MoveTo(to), .. }) = answer {
                        prop_assert!(!pinned && to != WorkerId(worker));
                    }
                }
                Step::Released(worker, conn) => drop(desk.registry.released(ConnId(conn), WorkerId(worker), now_ms)),
                Step::Closed(worker, conn) => drop(desk.registry.closed(ConnId(conn), WorkerId(worker), now_ms)),
                Step::Moved { conn, from } => {
                    if let Ok(homeless) = desk.registry.handed_over(ConnId(conn), WorkerId(from)) {
                        let home = desk.registry.choose_home(&homeless, &desk.workers).unwrap();
                        desk.registry.rehome(homeless.conn, home);
                    }
                }
                Step::Died(worker) => {
                    let worker = WorkerId(worker);
                    let others: Vec<Load> = desk.workers.iter().filter(|load| load.worker != worker).copied().collect();
                    for homeless in desk.registry.worker_died(worker, now_ms) {
                        let home = desk.registry.choose_home(&homeless, &others).unwrap();
                        desk.registry.rehome(homeless.conn, home);
                    }
                    for reserved in desk.registry.reserved_at(worker) {
                        let home = desk.registry.choose_home(&reserved, &others).unwrap();
                        desk.registry.reserve_at(reserved.conn, home);
                    }
                    prop_assert_eq!(desk.registry.load(worker), Tally::default());
                }
                Step::Wait(ms) => now_ms += u64::from(ms),
            }
            desk.messages();
            while desk.registry.poll_gone().is_some() {}
            for (conn, what) in desk.happenings() {
                match what {
                    What::Began(intent, key) => prop_assert_eq!(open.insert(conn, (intent, key)), None, "it has begun already"),
                    What::Ended(intent, key) => prop_assert_eq!(open.remove(&conn), Some((intent, key)), "that had not begun"),
                    What::Closed => prop_assert!(!open.contains_key(&conn)),
                }
            }
            let placed = desk.registry.conns.iter().filter_map(|(conn, held)| {
                let place = held.place.as_ref().filter(|place| place.undecided.is_none())?;
                Some((conn.0, (place.intent, place.key.clone())))
            });
            prop_assert_eq!(&open, &placed.collect::<HashMap<_, _>>());
            consistent(&desk.registry, &allowed, in_all, moved)?;
        }
    }
}

/// Asks where processes of another server have the streams. The weights are those of processes 1, 2, …
fn ask_process(desk: &mut Desk, weights: &[u32], conn: ConnId, intent: Intent, name: &str, found_at: Option<u16>) -> Option<Answer> {
    let loads: Vec<Load> =
        (1..).zip(weights).map(|(id, weight)| Load { weight: *weight, allowed: *weight * 2, ..workers(&[id])[0] }).collect();
    let question = Question {
        conn,
        intent,
        key: key(name),
        credential: 7,
        pinned: false,
        found_at: found_at.map(ProcessId),
        number: 1,
        undecided: false,
    };
    let around = Circumstances { workers: &[], room: true, last_append_ms: &|_| Some(9), next_segment: &|_| 0, fetched_at: None };
    desk.registry.place_at_process(W1, question, &loads, &around, 9).unwrap()
}

fn process(placement: Placement) -> u16 {
    let Placement::Process(ProcessId(process)) = placement else { panic!("{placement:?}") };
    process
}

#[test]
fn publishers_are_shared_out_among_processes_by_weight_and_limit() {
    let mut desk = Desk::new(Rules { connections_per_address: 100, ..rules() });
    let weights = [1, 2, 3];
    let mut counts = [0; 3];
    let conns: Vec<ConnId> = (0..12).map(|_| desk.registry.connected(W1, origin(1), ROW)).collect();
    for (number, conn) in conns.iter().enumerate() {
        let answer = ask_process(&mut desk, &weights, *conn, Intent::Publish, &format!("s{number}"), None).unwrap();
        counts[usize::from(process(answer.placement)) - 1] += 1;
    }
    assert_eq!(counts, [2, 4, 6]);
    let late = desk.registry.connected(W1, origin(1), ROW);
    let full = ask_process(&mut desk, &weights, late, Intent::Publish, "late", None).unwrap();
    assert_eq!(full.placement, Placement::Refused(Refusal::PublishersFull));
    desk.registry.closed(conns[0], W1, 9).unwrap();
    let freed = ask_process(&mut desk, &weights, late, Intent::Publish, "late", None).unwrap();
    assert!(matches!(freed.placement, Placement::Process(_)));
    assert_eq!((1..=3).map(|id| desk.registry.process_load(ProcessId(id)).publishers).sum::<u32>(), 12);
}

#[test]
fn a_player_waits_until_a_process_has_taken_the_publisher_and_goes_where_that_is() {
    let mut desk = Desk::new(rules());
    let [publisher, early, late] = [1, 2, 4].map(|last| desk.registry.connected(W1, origin(last), ROW));
    assert_eq!(ask_process(&mut desk, &[1, 1], early, Intent::Play, "a", None), None);
    let at = process(ask_process(&mut desk, &[1, 1], publisher, Intent::Publish, "a", None).unwrap().placement);
    assert_eq!(ask_process(&mut desk, &[1, 1], early, Intent::Play, "a", None), None, "it may still be refused there");
    assert_eq!(desk.registry.taken(publisher, W1, 9), Ok(Some(key("a"))));
    let answer = ask_process(&mut desk, &[1, 1], early, Intent::Play, "a", Some(at + 1)).unwrap();
    assert_eq!(process(answer.placement), at, "what a publisher of ours has counts before what is said");
    assert_eq!(desk.registry.process_load(ProcessId(at)), Tally { sessions: 0, publishers: 1, viewers: 1 });
    let elsewhere = ask_process(&mut desk, &[1, 1], late, Intent::Play, "b", Some(2)).unwrap();
    assert_eq!(process(elsewhere.placement), 2, "streams that came another way are played where they are");
    [publisher, early, late].iter().for_each(|conn| desk.registry.closed(*conn, W1, 9).unwrap());
    assert_eq!([1, 2].map(|id| desk.registry.process_load(ProcessId(id))), [Tally::default(); 2]);
    assert_eq!(desk.registry.process_of(&key("a")), None);
}

#[test]
fn a_publisher_of_a_process_that_comes_back_takes_its_stream_over_and_a_stranger_does_not() {
    let mut desk = Desk::new(rules());
    let [first, stranger, back] = [1, 2, 1].map(|last| desk.registry.connected(W1, origin(last), ROW));
    ask_process(&mut desk, &[1, 1], first, Intent::Publish, "a", None).unwrap();
    let busy = ask_process(&mut desk, &[1, 1], stranger, Intent::Publish, "a", None).unwrap();
    assert_eq!(busy.placement, Placement::Refused(Refusal::StreamBusy));
    let taken_over = ask_process(&mut desk, &[1, 1], back, Intent::Publish, "a", None).unwrap();
    assert_eq!(taken_over.replaced, Some(first));
    assert!(desk.messages().contains(&(W1, ToWorker::Evict { conn: first })));
    let publishers: u32 = [1, 2].map(|id| desk.registry.process_load(ProcessId(id)).publishers).iter().sum();
    assert_eq!(publishers, 1);
}

#[test]
fn a_publisher_comes_back_to_the_process_where_its_viewers_are_unless_that_is_full() {
    let mut desk = Desk::new(Rules { connections_per_address: 100, ..rules() });
    let conns: [ConnId; 6] = std::array::from_fn(|_| desk.registry.connected(W1, origin(1), ROW));
    let [other, publisher, viewer, back, filler, again] = conns;
    let publish = |desk: &mut Desk, conn, name| process(ask_process(desk, &[1, 1], conn, Intent::Publish, name, None).unwrap().placement);
    let (first, at) = (publish(&mut desk, other, "b"), publish(&mut desk, publisher, "a"));
    assert_ne!(first, at);
    desk.registry.taken(publisher, W1, 9).unwrap();
    ask_process(&mut desk, &[1, 1], viewer, Intent::Play, "a", None).unwrap();
    [other, publisher].iter().for_each(|conn| desk.registry.closed(*conn, W1, 9).unwrap());
    assert_eq!(publish(&mut desk, back, "a"), at, "the other process is as empty, and comes first");
    // Each takes two.
    desk.registry.closed(back, W1, 9).unwrap();
    for conn in [filler, desk.registry.connected(W1, origin(1), ROW)] {
        desk.registry.inherited(
            W1,
            Holding {
                conn,
                row: ROW,
                origin: origin(1),
                client: origin(1).peer,
                departed: false,
                pull: None,
                place: Some(HeldPlace {
                    intent: Intent::Publish,
                    key: key(&format!("full{}", conn.0)),
                    credential: 7,
                    process: Some((ProcessId(at), true)),
                    admitted: true,
                    forward: Vec::new(),
                }),
            },
            5,
        );
    }
    assert_eq!(publish(&mut desk, again, "a"), first);
    // Who waits where it does not come back to is sent away, but only when it is sure that it has come elsewhere.
    assert!(!desk.messages().contains(&(W1, ToWorker::Evict { conn: viewer })));
    assert_eq!(desk.registry.taken(again, W1, 9), Ok(Some(key("a"))));
    assert!(desk.messages().contains(&(W1, ToWorker::Evict { conn: viewer })));
    assert_eq!(desk.registry.process_load(ProcessId(at)).viewers, 0);
}

#[test]
fn what_a_front_before_had_placed_at_processes_is_counted_by_the_next() {
    let mut desk = Desk::new(rules());
    let place = HeldPlace {
        intent: Intent::Publish,
        key: key("a"),
        credential: 7,
        process: Some((ProcessId(2), true)),
        admitted: true,
        forward: Vec::new(),
    };
    let holding =
        Holding { conn: ConnId(7), row: ROW, origin: origin(1), client: origin(1).peer, departed: false, pull: None, place: Some(place) };
    desk.registry.inherited(W1, holding, 5);
    assert_eq!(desk.registry.process_of(&key("a")), Some(ProcessId(2)));
    assert_eq!(desk.registry.process_load(ProcessId(2)).publishers, 1);
}

#[test]
fn a_stream_that_comes_from_elsewhere_ends_when_nothing_is_heard_of_it() {
    let mut desk = Desk::new(rules());
    desk.registry.comes_from_elsewhere(&key("a"), 60_000);
    desk.registry.comes_from_elsewhere(&key("a"), 70_000);
    assert_eq!(desk.registry.poll_settling(69_999), None);
    assert_eq!(desk.registry.poll_settling(70_000), Some((key("a"), Settling::End)));
}
