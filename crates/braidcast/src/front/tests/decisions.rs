//! What hooks decide, with a test that speaks for workers and hooks.

use super::*;
use crate::control::Refusal;
use crate::control::attendants::{Decision, DecisionId};
use crate::events::{self, Follower, Kind, Line};
use crate::hooks::Action;

/// Hooks for everything that is decided; nobody who could answer is there.
const ALL: &str = "[[hook]]\nevents = ['on_connect', 'on_publish', 'on_play', 'on_forward']\nurl = 'http://127.0.0.1:1/'\n";

fn hooked(more: &str) -> Stage {
    Stage::with_hooks(Limits::default(), &format!("{ALL}{more}"))
}

impl Stage {
    fn decide(&mut self, conn: ConnId, action: Action, allow: bool, forward: &[&str]) {
        let id = DecisionId { conn, asked: 1, action };
        let forward = forward.iter().map(|url| (*url).to_owned()).collect();
        self.front.decided(Decision { id, allow, forward, message: String::new() });
        self.front.deliver();
    }

    fn wait_asked(&mut self, questions: u64) {
        self.until("it is asked", |stage| (stage.counter(FrontCounter::HookQuestions) == questions).then_some(()));
    }

    /// What the log says of clients.
    fn told(&self) -> Vec<Kind> {
        let of_clients = |line: &Line| line.event.conn.is_some() && line.event.kind != Kind::Refused;
        let mut follower = Follower::open(self.front.shared.path(), events::From::Oldest).unwrap();
        follower.poll().unwrap().iter().filter(|line| of_clients(line)).map(|line| line.event.kind).collect()
    }

    #[track_caller]
    fn nothing_for(&mut self, worker: WorkerId) {
        (0..5).for_each(|_| self.turn());
        assert_eq!(self.channels[index(worker)].receive::<ToWorker>().unwrap().map(|(message, _)| message), None);
    }
}

#[test]
fn a_publisher_hears_of_its_place_when_all_is_decided() {
    let mut stage = hooked("");
    let (_client, conn, _socket) = stage.connection_at(W1);
    stage.publish(W1, conn, "a");
    stage.wait_asked(1);
    // Of something that was not asked yet.
    stage.decide(conn, Action::Publish, true, &[]);
    assert_eq!(stage.told(), []);
    stage.decide(conn, Action::Connect, true, &[]);
    stage.wait_asked(2);
    assert_eq!(stage.told(), [Kind::Connect]);
    // The worker that goes on with it asks once more, and nobody is asked twice.
    stage.publish(W1, conn, "a");
    stage.nothing_for(W1);
    assert_eq!((stage.counter(FrontCounter::HookQuestions), stage.front.registry.load(W1).publishers), (2, 1));
    stage.decide(conn, Action::Publish, true, &[]);
    stage.wait_asked(3);
    let (long, good) = (format!("rtmp://h/{}", "x".repeat(2_000)), "rtmp://h/a/b");
    stage.decide(conn, Action::Forward, true, &[&long, good]);
    assert_eq!(stage.hear(W1).0, ToWorker::Placed { conn, placement: HERE, forward: vec![good.to_owned()] });
    assert_eq!(stage.told(), [Kind::Connect, Kind::Publish]);
    stage.say(W1, &ToFront::Closed { conn });
    stage.until("it ends", |stage| (stage.told().len() == 4).then_some(()));
    assert_eq!(stage.told()[2..], [Kind::Unpublish, Kind::Close]);
    assert_eq!(stage.front.decisions.len(), 0);
}

#[test]
fn who_is_refused_has_not_begun() {
    let mut stage = hooked("");
    let (_client, conn, _socket) = stage.connection_at(W1);
    stage.publish(W1, conn, "a");
    stage.wait_asked(1);
    stage.decide(conn, Action::Connect, true, &[]);
    stage.decide(conn, Action::Publish, false, &[]);
    assert_eq!(stage.hear(W1).0, placed(conn, Placement::Refused(Refusal::ByHook)));
    assert_eq!((stage.counter(FrontCounter::RefusedByHook), stage.front.registry.load(W1).publishers), (1, 0));
    stage.say(W1, &ToFront::Closed { conn });
    stage.until("it ends", |stage| (stage.told().len() == 2).then_some(()));
    assert_eq!(stage.told(), [Kind::Connect, Kind::Close]);
}

#[test]
fn what_a_hook_has_allowed_it_hears_the_end_of() {
    let mut stage = hooked("");
    let (_one, gone, _socket) = stage.connection_at(W1);
    let (_two, unsent, _socket2) = stage.connection_at(W2);
    for (worker, conn, name) in [(W1, gone, "a"), (W2, unsent, "b")] {
        stage.publish(worker, conn, name);
    }
    stage.wait_asked(2);
    stage.decide(gone, Action::Connect, true, &[]);
    stage.decide(unsent, Action::Connect, true, &[]);
    // One goes before the hook answers, the other before it is said where to push its stream to.
    stage.say(W1, &ToFront::Closed { conn: gone });
    stage.until("it is closed", |stage| (stage.front.registry.connections() == 1).then_some(()));
    stage.decide(gone, Action::Publish, true, &[]);
    assert_eq!(stage.told(), [Kind::Connect, Kind::Connect, Kind::Close, Kind::Publish, Kind::Unpublish]);
    stage.decide(unsent, Action::Publish, true, &[]);
    stage.say(W2, &ToFront::Closed { conn: unsent });
    stage.until("it is closed", |stage| (stage.front.registry.connections() == 0).then_some(()));
    stage.decide(unsent, Action::Forward, true, &["rtmp://h/a/b"]);
    assert_eq!(stage.told()[5..], [Kind::Close, Kind::Publish, Kind::Unpublish]);
    assert_eq!(stage.front.decisions.len(), 0);
}

#[test]
fn whoever_does_not_say_where_to_push_a_stream_refuses_nobody() {
    let mut stage = hooked("timeout = '100ms'\n");
    let clients: Vec<_> = [W1, W2].into_iter().map(|worker| stage.connection_at(worker)).collect();
    for ((_, conn, _), worker) in clients.iter().zip([W1, W2]) {
        stage.publish(worker, *conn, &conn.to_string());
        stage.until("it is asked", |stage| (stage.front.decisions.len() == 1).then_some(()));
        stage.decide(*conn, Action::Connect, true, &[]);
        stage.decide(*conn, Action::Publish, true, &[]);
        if worker == W1 {
            stage.decide(*conn, Action::Forward, false, &["rtmp://h/a/b"]);
        }
        assert!(matches!(stage.hear(worker).0, ToWorker::Placed { placement: Placement::Here { .. } | Placement::MoveTo(_), .. }));
    }
    assert_eq!(stage.counter(FrontCounter::HookUnanswered), 1);
}

#[test]
fn without_an_answer_the_configuration_decides() {
    for (on_error, placement) in [("allow", HERE), ("refuse", Placement::Refused(Refusal::ByHook))] {
        let mut stage = hooked(&format!("timeout = '100ms'\non_error = '{on_error}'\n"));
        let (_client, conn, _socket) = stage.connection_at(W1);
        stage.publish(W1, conn, "a");
        assert_eq!(stage.hear(W1).0, placed(conn, placement), "{on_error}");
        let unanswered = if on_error == "allow" { 3 } else { 1 };
        assert_eq!(stage.counter(FrontCounter::HookUnanswered), unanswered);
        if on_error == "refuse" {
            // Too late, and heard all the same.
            stage.decide(conn, Action::Connect, true, &[]);
            assert_eq!((stage.told(), stage.front.decisions.len()), (vec![Kind::Connect, Kind::Close], 0));
        }
    }
}

#[test]
fn what_is_decided_while_its_session_has_no_worker_waits_for_one() {
    let mut stage = hooked("");
    let (_client, conn, socket) = stage.connection_at(W1);
    stage.publish(W1, conn, "a");
    stage.wait_asked(1);
    stage.decide(conn, Action::Connect, true, &[]);
    stage.decide(conn, Action::Publish, true, &[]);
    stage.children[0].kill().unwrap();
    drop(socket);
    let ToWorker::Adopt(Adoption { admitted: false, .. }) = stage.hear(W2).0 else { panic!("another message") };
    stage.decide(conn, Action::Forward, true, &["rtmp://h/a/b"]);
    stage.nothing_for(W2);
    stage.say(W2, &ToFront::Adopted { conn });
    stage.publish(W2, conn, "a");
    assert_eq!(stage.hear(W2).0, ToWorker::Placed { conn, placement: HERE, forward: vec!["rtmp://h/a/b".to_owned()] });
    assert_eq!(stage.counter(FrontCounter::HookQuestions), 3);
    assert_eq!(stage.told(), [Kind::Connect, Kind::Move, Kind::Publish]);
}
