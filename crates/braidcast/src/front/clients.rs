//! The front's part of the client table: when clients begin what they were placed for, and who is to be gone.

use super::Front;
use crate::control::{ConnId, ToWorker};
use braidcast_sys::clock;

impl Front {
    /// A connection was let to publish or play.
    pub(super) fn begin_client(&mut self, conn: ConnId) {
        if let Some(row) = self.registry.row_of(conn) {
            self.vault.clients().begin(row, clock::wall_ms());
        }
    }

    /// An operator wants a client gone.
    pub(super) fn kick(&mut self, conn: ConnId) {
        match self.registry.worker_of(conn) {
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
