//! What clients ask for while they play: a pause, other tracks.
//!
//! A paused viewer is one that is owed nothing; its place is not kept, for what it misses is not live any more.

use super::ledger::{Blocks, OPEN};
use super::rendition::Rendition;
use super::session::{MAX_CONTROL_BYTES, Role, Session};
use super::{End, Worker};
use braidcast_media::{RecordKind, TrackChoice};
use braidcast_stream_log::Position;

/// What a session views, as its role says.
#[derive(Clone, Copy)]
struct Viewed {
    stream: usize,
    rendition: Rendition,
    place: usize,
    next: Option<Rendition>,
}

impl Worker {
    /// The client pauses, or goes on: at the newest keyframe.
    pub(super) fn pause_play(&mut self, slot: usize, pauses: bool) -> Result<(), End> {
        let Some(viewed) = self.viewed(slot) else { return Ok(()) };
        let paused = self.sessions[slot].ledger.position().is_none();
        if pauses {
            self.stop_run(slot)?;
            self.view_as(slot, Viewed { next: None, ..viewed });
        } else if paused {
            self.view_as(slot, Viewed { next: Some(viewed.rendition), ..viewed });
            self.resume_at_keyframe(slot)?;
        }
        Ok(())
    }

    /// The client wants other tracks. Fewer it has at once; video that it had not begins with the next keyframe.
    pub(super) fn choose_tracks(&mut self, slot: usize, tracks: TrackChoice) -> Result<(), End> {
        let Some(viewed) = self.viewed(slot) else { return Ok(()) };
        let stream = &mut self.streams[viewed.stream];
        let wanted = stream.offered(Rendition { tracks, ..viewed.rendition }).map_err(End::Socket)?;
        let paused = self.sessions[slot].ledger.position().is_none() && viewed.next.is_none();
        let gains_video = wanted.tracks.has(RecordKind::Video) && !viewed.rendition.tracks.has(RecordKind::Video);
        if paused {
            self.streams[viewed.stream].change(viewed.rendition, wanted);
            self.view_as(slot, Viewed { rendition: wanted, ..viewed });
        } else if gains_video || self.sessions[slot].ledger.position().is_none() {
            self.view_as(slot, Viewed { next: Some(wanted), ..viewed });
        } else if let Some(place) = self.message_end(slot, viewed) {
            return self.go_on_as(slot, viewed, wanted, place);
        }
        Ok(())
    }

    /// A viewer waits for a keyframe to go on with: does so if there is one that it has not passed.
    pub(super) fn resume_at_keyframe(&mut self, slot: usize) -> Result<(), End> {
        let Some(viewed) = self.viewed(slot) else { return Ok(()) };
        let (Some(next), Some(keyframe)) = (viewed.next, self.streams[viewed.stream].newest_keyframe()) else { return Ok(()) };
        if self.message_end(slot, viewed).is_some_and(|passed| keyframe < passed) {
            return Ok(());
        }
        self.go_on_as(slot, viewed, next, keyframe)
    }

    /// Where in the log the message ends that the viewer is being sent; `None` if it is sent nothing.
    fn message_end(&self, slot: usize, viewed: Viewed) -> Option<Position> {
        let stream = &self.streams[viewed.stream];
        let (block, offset) = self.sessions[slot].ledger.position()?;
        let view = stream.blocks(viewed.rendition);
        stream.in_log(viewed.rendition, block, view.boundary(block, offset.max(view.records_start(block))))
    }

    /// Has a viewer go on in another rendition, from a record on.
    fn go_on_as(&mut self, slot: usize, viewed: Viewed, to: Rendition, from: Position) -> Result<(), End> {
        let passed = self.message_end(slot, viewed);
        self.stop_run(slot)?;
        if let Some(passed) = passed {
            let until = self.until(viewed, passed, from);
            self.sessions[slot].push_control(&until);
        }
        let stream = &mut self.streams[viewed.stream];
        stream.change(viewed.rendition, to);
        let held = stream.hold(from.block, to).map_err(End::Socket)?;
        let offset = if held { stream.place_in(to, from) } else { None };
        let (first, prefix) = (to.file_header_bytes(), stream.prefix_bytes(from.block, to));
        // Without a place the viewer waits for the next keyframe.
        let next = if offset.is_some() { None } else { Some(to) };
        self.view_as(slot, Viewed { rendition: to, next, ..viewed });
        let Some(offset) = offset else { return Ok(()) };
        let session = &mut self.sessions[slot];
        if prefix > first {
            session.owe_run(from.block, first, prefix)?;
        }
        session.owe_run(from.block, offset, OPEN)
    }

    /// What a viewer has before it goes on in another rendition: a copy, as another rendition knows nothing of it. Never more
    /// than a session may be owed: who lags that far misses some of it.
    fn until(&mut self, viewed: Viewed, from: Position, to: Position) -> Vec<u8> {
        let stream = &mut self.streams[viewed.stream];
        let mut bytes = Vec::new();
        for block in from.block..=to.block {
            let start = if block == from.block { stream.place_in(viewed.rendition, from) } else { None };
            let end = if block == to.block { stream.place_in(viewed.rendition, to) } else { None };
            let view = stream.blocks(viewed.rendition);
            let Some(available) = view.available(block) else { continue };
            let (start, end) = (start.unwrap_or_else(|| view.records_start(block)), end.unwrap_or(available.bytes));
            let between = view.bytes(block, start, end.max(start));
            if bytes.len() + between.len() > MAX_CONTROL_BYTES / 2 {
                break;
            }
            bytes.extend_from_slice(between);
        }
        bytes
    }

    fn viewed(&self, slot: usize) -> Option<Viewed> {
        match self.sessions.get(slot)?.role {
            Role::Viewing { stream, rendition, place, next } => Some(Viewed { stream, rendition, place, next }),
            _ => None,
        }
    }

    fn view_as(&mut self, slot: usize, Viewed { stream, rendition, place, next }: Viewed) {
        self.sessions[slot].enter(Role::Viewing { stream, rendition, place, next });
    }

    /// A viewer gets no more than the message that was begun, so that control messages can follow. What of it is not sent yet
    /// is copied: the stream's blocks may go with the viewer, and another rendition knows nothing of it.
    ///
    /// # Errors
    /// That is more than a session may be owed.
    pub(super) fn stop_run(&mut self, slot: usize) -> Result<(), End> {
        let session = &mut self.sessions[slot];
        let Role::Viewing { stream, rendition, .. } = session.role else { return Ok(()) };
        let view = self.streams[stream].blocks(rendition);
        session.ledger.abandon(&view);
        if session.ledger.owed_bytes().is_none_or(|owed| owed > MAX_CONTROL_BYTES as u64) {
            return Err(self.unread_answers("stopped playing in the middle of a message that it does not read"));
        }
        let rest = session.ledger.copy_unsent(&view, &session.more.control);
        session.ledger.restart();
        session.more.control.clear();
        session.push_control(&rest);
        Ok(())
    }

    /// Puts control bytes between two messages of what a session is sent. False: its ledger is full of what it has not taken.
    ///
    /// # Errors
    /// The client asks for answers and does not read them.
    pub(super) fn interject(&mut self, slot: usize, bytes: impl FnOnce(&mut Session) -> Vec<u8>) -> Result<bool, End> {
        let session = &mut self.sessions[slot];
        let resume = match session.role {
            Role::Viewing { stream, rendition, .. } => match session.ledger.cut(&self.streams[stream].blocks(rendition), 2) {
                Ok(resume) => resume,
                Err(_) => return Ok(false),
            },
            _ => None,
        };
        let bytes = bytes(session);
        session.push_control(&bytes);
        if let Some((block, offset)) = resume {
            session.owe_run(block, offset, OPEN)?;
        }
        if session.more.control.len() > MAX_CONTROL_BYTES {
            return Err(self.unread_answers("asked for answers and did not read them"));
        }
        Ok(true)
    }
}
