//! What the front does for the API: it notes when clients begin what they were placed for, kicks them, and looks at the machine.

use super::Front;
use super::timers::{Timer, next_step};
use crate::api::machine::Sampler;
use crate::clients::Description;
use crate::control::{ConnId, ToWorker, WorkerId};
use braidcast_sys::clock;

impl Front {
    /// A worker says what a client of it is and wants.
    pub(super) fn describe_client(&mut self, worker: WorkerId, conn: ConnId, description: &Description) {
        match self.registry.row_of(conn).filter(|_| self.registry.worker_of(conn) == Some(worker)) {
            Some(row) => self.vault.clients().describe(row, conn, description, clock::wall_ms()),
            None => tracing::debug!(%conn, %worker, "a worker describes a connection that is not its own"),
        }
    }

    /// A connection was let to publish or play.
    pub(super) fn begin_client(&mut self, conn: ConnId) {
        if let Some(row) = self.registry.row_of(conn) {
            self.vault.clients().begin(row, clock::wall_ms());
        }
    }

    /// Looks at the processes and the machine, for whoever asks the API.
    pub(super) fn sample_machine(&mut self) {
        let workers: Vec<u32> = self.workers.iter().filter_map(|worker| Some(worker.process.as_ref()?.pid)).collect();
        if let Err(error) = self.sampler.sample(self.shared.path(), std::process::id(), &workers, clock::wall_ms()) {
            tracing::debug!(%error, "what the API says of processes and machine cannot be written");
        }
        self.timers.set(Timer::Sample, next_step(self.now_ms, Sampler::PERIOD.as_millis() as u64));
    }

    /// An operator wants a client gone.
    pub(super) fn kick(&mut self, conn: ConnId) {
        match self.registry.worker_of(conn) {
            Some(WorkerId::NONE) => self.kick_hls_session(conn),
            Some(worker) => {
                let peer = self.registry.address_of(conn).map(tracing::field::display);
                let stream = self.registry.stream_of(conn).map(tracing::field::display);
                tracing::info!(stream, %conn, peer, %worker, "the client is kicked by the API");
                self.send(worker, &ToWorker::Kick { conn }, Vec::new());
            }
            None => tracing::info!(%conn, "the client that the API kicks is gone already"),
        }
    }
}
