//! RTMP sessions: drives the protocol's machine and does what it asks for.

use super::access::Said;
use super::rendition::{Form, Rendition};
use super::session::{MAX_CONTROL_BYTES, Protocol, Role, Want, Wish};
use super::{End, Worker, http};
use crate::control::counters::WorkerCounter;
use crate::control::{Intent, Refusal};
use braidcast_media::{StreamKey, vhost};
use braidcast_protocols::http::Status;
use braidcast_protocols::rtmp::chunk::ChunkLimits;
use braidcast_protocols::rtmp::{Limit, Output, Request, RtmpError, Settings, status};

/// Does what a test has put into media.
#[cfg(feature = "faults")]
pub(super) fn try_faults(payload: &[u8], shared_dir: &std::path::Path) {
    if payload.ends_with(b"braidcast-test-crash") {
        std::process::abort();
    }
    if payload.ends_with(b"braidcast-test-allocations") {
        let (times, bytes) = braidcast_sys::allocation::asked_for();
        let _ = std::fs::write(shared_dir.join("sessions").join("allocations"), format!("{times} {bytes}\n"));
    }
    crate::sandbox::trial::run(payload, shared_dir);
}

impl Worker {
    pub(super) fn rtmp_settings(&self) -> Settings {
        let limits = &self.config.limits;
        Settings {
            chunks: ChunkLimits {
                // A length has 24 bits: more than this cannot be declared.
                message_bytes: limits.message_bytes.bytes().min(0xff_ffff) as u32,
                chunk_streams: limits.chunk_streams,
                unfinished_message_bytes: limits.unfinished_message_bytes.bytes(),
            },
            amf_depth: limits.amf_depth as usize,
            name_bytes: limits.name_bytes as usize,
            handshake_ms: limits.handshake.as_ms(),
            first_packet_ms: limits.first_packet.as_ms(),
            idle_ms: limits.idle.as_ms(),
            instance: self.outgoing.instance().to_owned(),
        }
    }

    /// Gives bytes to the session's machine and carries out what comes of it.
    pub(super) fn feed_rtmp(&mut self, slot: usize, bytes: &[u8]) -> Result<usize, End> {
        let now_ms = self.now.mono_ms;
        let Protocol::Rtmp(rtmp) = &mut self.sessions[slot].more.protocol else { return Ok(bytes.len()) };
        let consumed = rtmp.handle_input(bytes, now_ms);
        self.fed_rtmp(slot, consumed, bytes.len())
    }

    /// Carries out what came of input that the session's machine was offered; says how much of it was used.
    pub(super) fn fed_rtmp(&mut self, slot: usize, consumed: Result<usize, RtmpError>, offered: usize) -> Result<usize, End> {
        self.sessions[slot].kept.consumed += *consumed.as_ref().unwrap_or(&offered);
        // What was whole before an error counts: its records are in the log, its answers go out.
        let acted = self.act_on_rtmp(slot);
        match consumed {
            Ok(consumed) => {
                acted?;
                self.note_unfinished(slot)?;
                Ok(consumed)
            }
            Err(error) => {
                let end = self.rtmp_error(&error);
                acted?;
                if error.limit != Limit::Name {
                    return Err(end);
                }
                // The client was told why: it shall hear it.
                self.log_end(slot, &end);
                self.close_when_sent(slot);
                Ok(offered)
            }
        }
    }

    /// Keeps the sum of what sessions hold of messages that have not all come. While it is too much, who holds most is closed: those
    /// who hold little lose nothing to those who hold much.
    ///
    /// # Errors
    /// It is this session that holds most.
    fn note_unfinished(&mut self, slot: usize) -> Result<(), End> {
        let Some(session) = self.sessions.get_mut(slot) else { return Ok(()) };
        let Protocol::Rtmp(rtmp) = &session.more.protocol else { return Ok(()) };
        let held = rtmp.unfinished_bytes();
        let before = std::mem::replace(&mut session.more.unfinished_bytes, held);
        self.unfinished_bytes = self.unfinished_bytes - before + held;
        while self.unfinished_bytes as u64 > self.config.limits.unfinished_in_all.bytes() {
            let most = self.sessions.iter().max_by_key(|(_, session)| session.more.unfinished_bytes).map(|(most, _)| most);
            self.count(WorkerCounter::RefusedUnfinishedBytes);
            let end = End::Peer("of all connections, which hold too much of unfinished messages together, it held most".into());
            match most {
                Some(most) if most != slot => self.close(most, end),
                _ => return Err(end),
            }
        }
        Ok(())
    }

    /// A timer of the machine is due.
    pub(super) fn expire_rtmp(&mut self, slot: usize) -> Result<(), End> {
        let now_ms = self.now.mono_ms;
        let Protocol::Rtmp(rtmp) = &mut self.sessions[slot].more.protocol else { return Ok(()) };
        let expired = rtmp.handle_timeout(now_ms);
        self.act_on_rtmp(slot)?;
        expired.map_err(|error| self.rtmp_error(&error))
    }

    pub(super) fn act_on_rtmp(&mut self, slot: usize) -> Result<(), End> {
        while let Some(session) = self.sessions.get_mut(slot) {
            let Protocol::Rtmp(rtmp) = &mut session.more.protocol else { return Ok(()) };
            let Some(output) = rtmp.poll_output() else { break };
            session.kept.acted = session.kept.acted.wrapping_add(1);
            match output {
                Output::Media { kind, timestamp_ms, payload } => {
                    #[cfg(feature = "faults")]
                    try_faults(&payload, &self.config.server.shared_dir);
                    if let Role::Publishing(publisher) = session.role {
                        self.append(publisher, kind, timestamp_ms, &payload)?;
                    }
                }
                Output::Publish(request) => self.rtmp_wish(slot, *request, Want::Publish)?,
                Output::Play(request) => {
                    let rendition = Rendition { form: Form::Rtmp, tracks: request.tracks };
                    self.rtmp_wish(slot, *request, Want::Play(rendition))?;
                }
                Output::PublishEnded | Output::PlayEnded => self.rtmp_released(slot)?,
                Output::Paused(pauses) => self.pause_play(slot, pauses)?,
                Output::Tracks(tracks) => self.choose_tracks(slot, tracks)?,
            }
        }
        self.send_rtmp(slot)
    }

    /// The stream that a viewer means: the one of its own vhost, else the one of the default vhost if only that is there. Encoders often
    /// push to an address and viewers come by a name.
    pub(super) fn played(&self, key: StreamKey) -> StreamKey {
        let there = |key: &StreamKey| self.root.stream_dir(key).is_dir();
        match vhost::in_default(&key) {
            Some(default) if !there(&key) && (there(&default) || (!self.is_on_demand(&key) && self.is_on_demand(&default))) => default,
            _ => key,
        }
    }

    fn rtmp_wish(&mut self, slot: usize, request: Request, what: Want) -> Result<(), End> {
        let (params, via) = (&request.params, &request.via);
        let key = vhost::restrict(request.key.clone(), &self.config.server.vhosts);
        let key = if what == Want::Publish { key } else { self.played(key) };
        let intent = if what == Want::Publish { Intent::Publish } else { Intent::Play };
        if !self.lets_in(slot, &Said { intent, key: &key, params, bearer: None, page: &request.page_url })? {
            return Ok(());
        }
        if let Some(why) = self.loop_of(slot, via, &key, what == Want::Publish)
            && let Protocol::Rtmp(rtmp) = &mut self.sessions[slot].more.protocol
        {
            let code = if what == Want::Publish { status::PUBLISH_DENIED } else { status::PLAY_FAILED };
            rtmp.refuse(code, why, self.now.mono_ms);
            return self.refused_rtmp(slot);
        }
        if what != Want::Publish {
            self.want(&key, via);
        }
        let wish = Wish { key, what };
        self.describe_rtmp(slot, &wish, &request);
        self.ask_place(slot, wish, params)
    }

    /// The client ended its publish or play and may begin another one on the same connection.
    fn rtmp_released(&mut self, slot: usize) -> Result<(), End> {
        self.stop_run(slot)?;
        self.leave_role(slot, &"the client ended it");
        self.tell_released(slot);
        Ok(())
    }

    /// Puts what the machine has to say into the ledger, between two media messages, and sends it.
    pub(super) fn send_rtmp(&mut self, slot: usize) -> Result<(), End> {
        let Some(session) = self.sessions.get_mut(slot) else { return Ok(()) };
        let waiting = session.more.protocol.outbox().len();
        if waiting > 0 {
            let said = self.interject(slot, |session| {
                let bytes = session.more.protocol.take_outbox();
                session.kept.replied += bytes.len() as u64;
                bytes
            })?;
            // The ledger is full of what a slow viewer has not taken: the answer waits in the machine, which is bounded.
            if !said {
                return if waiting <= MAX_CONTROL_BYTES {
                    Ok(())
                } else {
                    Err(self.unread_answers("asked for answers and did not read them"))
                };
            }
        }
        self.watch_deadline(slot);
        self.try_flush(slot)
    }

    /// The stream is held: the publisher is told so.
    pub(super) fn publish_accepted(&mut self, slot: usize) -> Result<(), End> {
        if let Protocol::Rtmp(rtmp) = &mut self.sessions[slot].more.protocol {
            rtmp.accept_publish(self.now.mono_ms);
        }
        self.pull_accepted(slot)?;
        self.act_on_rtmp(slot)?;
        self.enqueue(slot);
        Ok(())
    }

    /// The stream is there: the viewer is told so, before its first media byte.
    pub(super) fn play_accepted(&mut self, slot: usize, form: Form) {
        let via = self.via_for_server(slot);
        let session = &mut self.sessions[slot];
        match &mut session.more.protocol {
            Protocol::Client(_) => self.forward_accepted(slot),
            Protocol::Rtmp(rtmp) => {
                rtmp.accept_play_via(&via, self.now.mono_ms);
                let bytes = rtmp.take_outbox();
                session.push_control(&bytes);
            }
            Protocol::Http(_) => self.begin_live(slot, &http::live_head(form, &via)),
            Protocol::WebSocket(socket) => {
                let head = socket.head();
                self.begin_live(slot, &head);
            }
            Protocol::Prefix(_) | Protocol::Unknown | Protocol::Relay(_) | Protocol::Resting => {}
        }
    }

    fn begin_live(&mut self, slot: usize, head: &[u8]) {
        self.begin_endless(slot, head);
        self.sessions[slot].push_control(head);
    }

    /// Tells a client why its wish was refused.
    pub(super) fn answer_refusal(&mut self, slot: usize, refusal: Refusal) -> Result<(), End> {
        let text = refusal.to_string();
        if let Protocol::Client(_) = &self.sessions[slot].more.protocol {
            return Err(End::Peer(text));
        }
        if matches!(self.sessions[slot].more.protocol, Protocol::Rtmp(_) | Protocol::Relay(_)) {
            let plays = self.sessions[slot].more.asked.as_ref().is_some_and(|asked| asked.intent == Intent::Play);
            let code = match refusal {
                Refusal::StreamBusy => status::PUBLISH_BAD_NAME,
                Refusal::ByHook | Refusal::Kicked if plays => status::PLAY_FAILED,
                Refusal::PublishersFull | Refusal::DirectoryFull | Refusal::ByHook | Refusal::Kicked => status::PUBLISH_DENIED,
                Refusal::Unavailable | Refusal::Unwelcome => status::CONNECT_REJECTED,
            };
            return self.refuse_rtmp(slot, code, &text);
        }
        let status = if refusal == Refusal::ByHook { Status::FORBIDDEN } else { Status::UNAVAILABLE };
        self.respond_text(slot, status, &text, false)
    }

    /// Nobody publishes what a client waited for.
    pub(super) fn not_found(&mut self, slot: usize) -> Result<(), End> {
        self.release_with(slot, "nobody publishes this stream")
    }

    /// A client cannot have what it waited for, for this reason.
    pub(super) fn release_with(&mut self, slot: usize, text: &str) -> Result<(), End> {
        let session = &self.sessions[slot];
        let placed = matches!(session.role, Role::Waiting(_) | Role::Placing(_));
        let head_only = matches!(&session.role, Role::WaitingForIndex(wish) if wish.head_only);
        self.leave_role(slot, &text);
        if placed {
            self.tell_released(slot);
        }
        if matches!(self.sessions[slot].more.protocol, Protocol::Rtmp(_) | Protocol::Relay(_)) {
            return self.refuse_rtmp(slot, status::PLAY_STREAM_NOT_FOUND, text);
        }
        self.respond_text(slot, Status::NOT_FOUND, text, head_only)
    }

    /// Tells a client that speaks RTMP that what it wants is refused.
    pub(super) fn refuse_rtmp(&mut self, slot: usize, code: &str, text: &str) -> Result<(), End> {
        match &mut self.sessions[slot].more.protocol {
            Protocol::Rtmp(rtmp) => rtmp.refuse(code, text, self.now.mono_ms),
            Protocol::Relay(machine) => machine.refuse(code, text, self.now.mono_ms),
            _ => {}
        }
        self.refused_rtmp(slot)
    }

    /// The refusal is on its way; the connection ends with it, because encoders and players seldom go on after one.
    fn refused_rtmp(&mut self, slot: usize) -> Result<(), End> {
        self.send_rtmp(slot)?;
        self.close_when_sent(slot);
        Ok(())
    }

    pub(super) fn unread_answers(&self, what: &str) -> End {
        self.count(WorkerCounter::RefusedUnreadAnswers);
        End::Peer(what.to_owned())
    }

    pub(super) fn rtmp_error(&mut self, error: &RtmpError) -> End {
        let counter = match error.limit {
            Limit::MessageBytes => WorkerCounter::RefusedMessageBytes,
            Limit::ChunkStreams => WorkerCounter::RefusedChunkStreams,
            Limit::UnfinishedBytes => WorkerCounter::RefusedUnfinishedBytes,
            Limit::AmfDepth => WorkerCounter::RefusedAmfDepth,
            Limit::Name => WorkerCounter::RefusedNames,
            Limit::HandshakeTimeout => WorkerCounter::HandshakeTimeouts,
            Limit::FirstPacketTimeout => WorkerCounter::FirstPacketTimeouts,
            Limit::IdleTimeout => WorkerCounter::IdleTimeouts,
            Limit::Protocol => WorkerCounter::ProtocolErrors,
        };
        self.count(counter);
        End::Peer(error.to_string())
    }
}
