//! A front that comes when this worker's own is gone, or is to be replaced: it finds the worker by a socket in the shared directory
//! and is told everything the worker has. From then on it is the front.

use super::publishers::{duration_ms, untold};
use super::session::{Role, Session};
use super::{CONTROL, NEWCOMER, RENDEZVOUS, Worker};
use crate::control::channel::Channel;
use crate::control::{HeldPlace, Holding, Inventory, PROTOCOL, ToFront, ToWorker, WorkerId};
use braidcast_sys::{Interest, Poller, net, privileges};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where fronts find a worker.
pub fn socket_path(shared_dir: &Path, worker: WorkerId) -> PathBuf {
    shared_dir.join("workers").join(format!("{worker}.sock"))
}

/// See the module's head.
#[derive(Debug)]
pub struct Rendezvous {
    listener: OwnedFd,
    /// Who fronts are.
    front_uid: u32,
    /// Connected, and has not said what it wants.
    newcomer: Option<Channel>,
}

impl Rendezvous {
    /// Listens for fronts, which are of the user that this process is now.
    pub fn open(shared_dir: &Path, worker: WorkerId, poller: &Poller) -> io::Result<Self> {
        let listener = net::listen_local(&socket_path(shared_dir, worker), 8)?;
        poller.add(&listener, RENDEZVOUS, Interest::READ)?;
        Ok(Self { listener, front_uid: privileges::effective_uid(), newcomer: None })
    }
}

impl Worker {
    /// Somebody connects. Only the newest one is listened to.
    pub(super) fn meet(&mut self) {
        while let Ok(socket) = net::accept_local(&self.rendezvous.listener) {
            // Other workers are another user's than the front.
            if net::peer_uid(&socket).ok() != Some(self.rendezvous.front_uid) {
                tracing::error!("a process of another user came by the shared directory as if it were a front: it is not heard");
                continue;
            }
            let Ok(channel) = Channel::new(socket) else { continue };
            if let Some(before) = self.rendezvous.newcomer.take()
                && let Err(error) = self.poller.delete(&before)
            {
                tracing::debug!(%error, "cannot leave a stranger");
            }
            match self.poller.add(&channel, NEWCOMER, Interest::READ) {
                Ok(()) => self.rendezvous.newcomer = Some(channel),
                Err(error) => tracing::error!(%error, "cannot watch who comes by the shared directory"),
            }
        }
    }

    /// The one who connected says something.
    pub(super) fn hear_newcomer(&mut self) {
        let Some(mut channel) = self.rendezvous.newcomer.take() else { return };
        match channel.receive::<ToWorker>() {
            Ok(None) => self.rendezvous.newcomer = Some(channel),
            Ok(Some((ToWorker::Hello { protocol: PROTOCOL }, _))) => self.follow(channel),
            Ok(Some((ToWorker::Hello { protocol }, _))) => {
                tracing::error!(
                    "a front that speaks version {protocol} of the control protocol was turned away: this worker speaks {PROTOCOL}"
                );
            }
            Ok(Some(_)) | Err(_) => tracing::debug!("somebody came by the shared directory and did not say hello"),
        }
    }

    /// Has another front from now on.
    fn follow(&mut self, channel: Channel) {
        if self.front_gone_ms.is_none()
            && let Err(error) = self.poller.delete(&self.front)
        {
            tracing::debug!(%error, "cannot leave the front that was");
        }
        let watched = self.poller.delete(&channel).and_then(|()| self.poller.add(&channel, CONTROL, Interest::READ));
        if let Err(error) = watched {
            tracing::error!(%error, "cannot watch the new front");
        }
        self.front = channel;
        self.front_gone_ms = None;
        tracing::info!(sessions = self.sessions.len(), "another front takes over: it is told what this worker has");
        if let Err(error) = self.take_inventory() {
            tracing::error!(%error, "the new front could not be told everything");
        }
    }

    fn take_inventory(&mut self) -> io::Result<()> {
        let listeners = self.listeners.iter().map(|(_, socket)| socket.try_clone()).collect::<io::Result<Vec<_>>>()?;
        let inventory = Inventory {
            worker: self.id,
            heap: self.heap.id(),
            workers: self.workers,
            config: self.config.to_json(),
            listening: self.listeners.iter().map(|(listening, _)| *listening).collect(),
        };
        self.front.send(&ToFront::Inventory(inventory), listeners)?;
        let mut inventory_pairs = Vec::new();
        let resting: Vec<usize> = self.sessions.iter().filter(|(_, session)| session.rests()).map(|(slot, _)| slot).collect();
        for slot in resting {
            if let Err(end) = self.wake(slot) {
                self.close(slot, end);
            }
        }
        let bells = self.bells.iter().map(|bell| bell.try_clone()).collect::<io::Result<Vec<_>>>()?;
        self.front.send(&ToFront::Bells, bells)?;
        for (_, session) in self.sessions.iter().filter(|(_, session)| !session.conn.is_own()) {
            self.front.send(&ToFront::Holding(holding(session)), vec![session.socket.try_clone()?])?;
        }
        for held in self.pairs_held() {
            let (holding, socket) = held?;
            inventory_pairs.push((holding, socket));
        }
        for (holding, socket) in inventory_pairs {
            self.front.send(&ToFront::Holding(holding), vec![socket])?;
        }
        for departed in self.departed.values() {
            let (holding, socket) = departed.holding()?;
            self.front.send(&ToFront::Holding(holding), vec![socket])?;
        }
        for (_, publisher) in &self.publishers {
            let Some((segmenter, _)) = &publisher.segmenter else { continue };
            for info in untold(segmenter, 0) {
                let duration_ms = Some(duration_ms(&info));
                self.front.send(&ToFront::Segment { key: publisher.key.clone(), next: info.number + 1, duration_ms }, Vec::new())?;
            }
            let (key, next) = (publisher.key.clone(), segmenter.next_number());
            self.front.send(&ToFront::Segment { key, next, duration_ms: None }, Vec::new())?;
        }
        self.front.send(&ToFront::InventoryEnd, Vec::new())?;
        self.say_who_keeps();
        // Questions that the other front did not answer.
        for (_, session) in &self.sessions {
            if let Some(description) = &session.more.described {
                let description = description.clone();
                self.front.send(&ToFront::Describes { conn: session.conn, description }, Vec::new())?;
            }
            if let Role::AskingSession(question) = &session.role {
                self.front.send(&question.message(session.conn), Vec::new())?;
            }
            if let (Role::Placing(_), Some(asked)) = (&session.role, &session.more.asked) {
                self.front.send(&asked.question(session.conn), Vec::new())?;
            }
        }
        Ok(())
    }
}

/// What a front needs to know of a session.
pub fn holding(session: &Session) -> Holding {
    let admitted = matches!(session.role, Role::Opening(..) | Role::Waiting(_) | Role::Publishing(_) | Role::Viewing { .. });
    let placed = admitted || matches!(session.role, Role::Placing(_));
    Holding {
        conn: session.conn,
        row: session.kept.row,
        origin: session.origin(),
        // Of one that only asked for files the front was not told.
        client: if session.more.asked.is_some() { session.more.peer } else { session.more.holder },
        departed: false,
        pull: Worker::pulled_by(session),
        place: session.more.asked.as_ref().filter(|_| placed).map(|asked| HeldPlace {
            intent: asked.intent,
            key: asked.key.clone(),
            credential: asked.credential,
            process: None,
            admitted,
            forward: session.more.forward.clone(),
        }),
    }
}
