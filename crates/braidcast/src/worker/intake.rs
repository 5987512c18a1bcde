//! A publisher's input, from the socket to its log: when it is read, where it rests, when it is taken in.
//!
//! What is read goes into the session's journal and is thereby safe. While nobody reads the stream nothing is gained by reading and
//! parsing at once, so input rests, in the kernel as long as it is little, and is taken in with what follows: fewer reads, writes, saves
//! and commits for the same bytes. Whoever goes on after a death finds it there and in the journal. Sessions that have no journal, because they cannot be saved, are not for here.

use super::publishers::PUMP_MS;
use super::session::{Protocol, Role, Said, Session, Watched};
use super::{End, PUBLISHERS_TIME, READ_BYTES, Worker};
use crate::control::counters::WorkerCounter;
use braidcast_sys::fault::kill_point;
use braidcast_sys::{Interest, net};
use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// So much resting input is taken out of the kernel at once: far less than a window, so that no publisher has to stop.
const HELD_BACK_BYTES: u32 = 32 << 10;
/// Rests end at so many moments in the time of one: many publishers are woken for together.
const ENDS_PER_REST: u64 = 4;

impl Worker {
    /// Whether a session is a publisher whose input is read into its journal and parsed there.
    pub(super) fn has_journal(&self, slot: usize) -> bool {
        let Session { role, more, kept, draining, .. } = &self.sessions[slot];
        matches!((role, &more.protocol), (Role::Publishing(_), Protocol::Rtmp(_))) && kept.region.is_some() && !kept.lost && !draining
    }

    /// Reads from a publisher that has a journal, and takes in what it sent unless that may rest.
    pub(super) fn read_publisher(&mut self, slot: usize) -> Result<(), End> {
        let session = &self.sessions[slot];
        if !session.more.unread.is_empty() {
            // It lies in the journal as well.
            return self.take_in(slot);
        }
        if !session.readable || !self.fill_journal(slot)? {
            return Ok(());
        }
        if self.may_rest(slot) {
            self.let_rest(slot);
            return Ok(());
        }
        self.release_input(slot);
        self.take_in(slot)
    }

    /// Reads from a publisher into its journal, and makes room there by taking in what it holds. False: nothing came.
    fn fill_journal(&mut self, slot: usize) -> Result<bool, End> {
        let kept = &self.sessions[slot].kept;
        if kept.unparsed() > 0 && kept.room() < kept.least_room(READ_BYTES) {
            // What makes the room is a checkpoint: there should be little left to go along with it.
            self.take_in(slot)?;
            if !self.sessions.contains(slot) || !self.has_journal(slot) {
                return Ok(false);
            }
        }
        let room = self.make_journal_room(slot, READ_BYTES);
        if !self.has_journal(slot) {
            // It could not be saved: its next turn reads without one.
            return Ok(false);
        }
        match self.receive_into_journal(slot, room) {
            Ok(0) => self.take_in(slot).and(Err(End::PeerClosed)),
            Ok(received) => {
                self.page.counter(WorkerCounter::BytesIn as usize).fetch_add(received as u64, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.sessions[slot].readable = false;
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            // What it sent before counts.
            Err(error) => self.take_in(slot).and(Err(End::Socket(error))),
        }
    }

    fn receive_into_journal(&mut self, slot: usize, room: usize) -> io::Result<usize> {
        let session = &mut self.sessions[slot];
        let kept = &mut session.kept;
        let Some(region) = kept.region else { return Ok(0) };
        let start = kept.checkpoint_bytes() + kept.journal_bytes;
        let received = net::recv(&session.socket, self.heap.bytes_mut(region, start..start + room))?;
        kill_point("received");
        kept.journal_bytes += received;
        kept.note_read(received);
        // An edge comes again only after the socket was read empty.
        session.readable = session.peer_ended || received == room;
        // What rests takes room too: only a read that fills most of the journal, and of what did not rest, shows that it is too small.
        if received == room && 2 * room > region.bytes() && !session.held_back {
            kept.grow();
        }
        Ok(received)
    }

    /// Whether a publisher's input need not be parsed now: nobody reads the stream, and who asks for it finds what it is.
    fn may_rest(&self, slot: usize) -> bool {
        let Session { role: Role::Publishing(publisher), peer_ended: false, .. } = self.sessions[slot] else { return false };
        let at = &self.publishers[publisher];
        self.config.publish.unwatched_pause.as_ms() > 0 && at.writer.has_begun() && !self.doorbells.are_wanted(at.key_slot)
    }

    /// A publisher's input rests until the pause is over, if nothing needs it before. Its socket does not tell of little more.
    fn let_rest(&mut self, slot: usize) {
        let session = &mut self.sessions[slot];
        let pause_ms = self.config.publish.unwatched_pause.as_ms();
        let step_ms = (pause_ms / ENDS_PER_REST).max(1);
        // A segmenter ends the rest each time that it looks.
        let looks_ms = match session.role {
            Role::Publishing(publisher) if self.publishers[publisher].segmenter.is_some() => PUMP_MS,
            _ => 0,
        };
        let due_ms = ((self.now.mono_ms + looks_ms + pause_ms) / step_ms * step_ms).max(self.now.mono_ms + 1);
        if session.more.rests_until_ms == 0 {
            session.held_back = session.held_back || net::set_rcvlowat(&session.socket, HELD_BACK_BYTES).is_ok();
            session.more.rests_until_ms = due_ms;
            self.page.counter(WorkerCounter::InputRested as usize).fetch_add(1, Ordering::Relaxed);
            self.rests.push_back((due_ms, session.token(slot)));
        }
    }

    /// A session's socket tells of all input again, and of what has come by now.
    pub(super) fn release_input(&mut self, slot: usize) {
        let session = &mut self.sessions[slot];
        if !std::mem::take(&mut session.held_back) {
            return;
        }
        if let Err(error) = net::set_rcvlowat(&session.socket, 1) {
            tracing::error!(conn = %session.conn, peer = %session.more.peer, %error, "a publisher's input stays held back");
        }
        session.readable = true;
        self.enqueue(slot);
    }

    /// Takes in what has rested long enough, for one bounded turn.
    pub(super) fn take_in_rested(&mut self) {
        let since = Instant::now();
        while let Some((due_ms, token)) = self.rests.pop_front_if(|(due_ms, _)| *due_ms <= self.now.mono_ms) {
            // It may have been taken in before, and other input rest by now.
            let Some(slot) = self.slot_of(token).filter(|slot| self.sessions[*slot].more.rests_until_ms == due_ms) else { continue };
            if let Err(end) = self.take_in_resting(slot) {
                self.close(slot, end);
            }
            if since.elapsed() >= PUBLISHERS_TIME {
                return;
            }
        }
    }

    /// When the first rest ends that is not over already: whoever looks at a publisher's stream takes in what rests before that.
    pub(super) fn next_rest_ms(&mut self) -> Option<u64> {
        while let Some((due_ms, token)) = self.rests.front().copied() {
            if self.slot_of(token).is_some_and(|slot| self.sessions[slot].more.rests_until_ms == due_ms) {
                return Some(due_ms);
            }
            self.rests.pop_front();
        }
        None
    }

    /// Takes in what rests, if anything does, in the journal and in the kernel. What comes then rests again, if anything has come.
    pub(super) fn take_in_resting(&mut self, slot: usize) -> Result<(), End> {
        if self.sessions.get(slot).is_none_or(|session| session.more.rests_until_ms == 0) {
            return Ok(());
        }
        let more = self.sessions[slot].held_back && self.has_journal(slot) && self.fill_journal(slot)?;
        self.take_in(slot)?;
        if !self.sessions.contains(slot) {
            return Ok(());
        }
        if more && self.has_journal(slot) && self.sessions[slot].more.unread.is_empty() && self.may_rest(slot) {
            self.let_rest(slot);
        } else {
            self.release_input(slot);
        }
        Ok(())
    }

    /// Takes in what rests of a publisher's input and lets readers see it. False: that has ended the publisher.
    pub(super) fn commit_resting(&mut self, publisher: usize) -> bool {
        let session = self.publishers[publisher].session;
        if let Err(end) = self.take_in_resting(session) {
            self.close(session, end);
        }
        if !self.sessions.get(session).is_some_and(|session| matches!(session.role, Role::Publishing(at) if at == publisher)) {
            return false;
        }
        self.commit_publisher(publisher);
        true
    }

    /// Parses what lies in a publisher's journal and carries out what comes of it.
    pub(super) fn take_in(&mut self, slot: usize) -> Result<(), End> {
        let now_ms = self.now.mono_ms;
        let Some(session) = self.sessions.get_mut(slot) else { return Ok(()) };
        session.more.rests_until_ms = 0;
        let Role::Publishing(publisher) = session.role else { return Ok(()) };
        if session.kept.unparsed() == 0 {
            return Ok(());
        }
        if self.publishers[publisher].writer.is_written() {
            // It was saved by nobody yet.
            self.commit_publisher(publisher);
        }
        let Some(session) = self.sessions.get_mut(slot) else { return Ok(()) };
        let (offered, from) = (session.kept.unparsed(), session.kept.checkpoint_bytes() + session.kept.consumed);
        let Some(region) = session.kept.region else { return Ok(()) };
        let Said { protocol: Protocol::Rtmp(rtmp), unread, .. } = &mut *session.more else { return Ok(()) };
        let busy = (session.conn.0, session.kept.journal_from + session.kept.consumed as u64);
        self.page.busy_with(busy.0, busy.1);
        unread.clear();
        let writer = &mut self.publishers[publisher].writer;
        let (converted, mut appended, mut taken) = (writer.converted(), Ok(()), 0u32);
        let input = self.heap.bytes(region, from..from + offered);
        let mut gathering = writer.gather(input, self.now);
        let consumed = rtmp.handle_media(input, now_ms, &mut |kind, timestamp_ms, payload| {
            #[cfg(feature = "faults")]
            super::rtmp::try_faults(payload, &self.config.server.shared_dir);
            taken = taken.wrapping_add(1);
            match gathering.append(kind, timestamp_ms, payload) {
                Ok(()) => {}
                // The publisher is closed for it.
                Err(_) if appended.is_err() => {}
                Err(error) => appended = Err(error),
            }
        });
        let mut written = Ok(false);
        // The journal may move before this turn's commit. What other outputs lead to may be appended too, and is not parsed yet.
        if rtmp.has_output() {
            gathering.keep();
        } else {
            // Whoever dies of writing does not die of what the client sent.
            self.page.busy_with_none();
            written = gathering.write();
            self.page.busy_with(busy.0, busy.1);
        }
        kill_point("taken_in");
        let session = &mut self.sessions[slot];
        session.kept.acted = session.kept.acted.wrapping_add(taken);
        let noted = if taken > 0 { self.appended(publisher, converted, appended) } else { Ok(()) };
        if let Err(error) = written {
            self.records_dropped(publisher, &error);
        }
        let fed = self.fed_rtmp(slot, consumed, offered);
        self.page.busy_with_none();
        noted?;
        let consumed = fed?;
        if let Some(session) = self.sessions.get_mut(slot)
            && consumed < offered
        {
            if consumed == 0 && session.may_read() {
                return Err(End::Fault("a publisher that waits for nothing takes no input"));
            }
            // A decision is pending. Its journal may be another one by now.
            let start = session.kept.checkpoint_bytes() + session.kept.consumed;
            if let Some(region) = session.kept.region {
                session.more.unread = self.heap.bytes(region, start..session.kept.checkpoint_bytes() + session.kept.journal_bytes).to_vec();
            }
        }
        Ok(())
    }

    /// A session publishes from now on: its socket is looked at with those of the other publishers. It stays there when it has ended
    /// its publish: most go away then, or publish again.
    pub(super) fn watch_publisher(&mut self, slot: usize) {
        let session = &mut self.sessions[slot];
        if session.watched != Watched::Alone || !matches!(session.more.protocol, Protocol::Rtmp(_)) {
            return;
        }
        let token = session.token(slot);
        let interest = Interest::READ | Interest::WRITE | Interest::PEER_CLOSED | Interest::EDGE;
        match self.publisher_sockets.add(&session.socket, token, interest).and_then(|()| self.poller.delete(&session.socket)) {
            Ok(()) => session.watched = Watched::Publisher,
            Err(error) => {
                tracing::debug!(conn = %session.conn, peer = %session.more.peer, %error, "a publisher's socket is looked at by itself");
            }
        }
    }
}
