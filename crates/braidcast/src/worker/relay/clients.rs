//! Who a relay's clients are, for the HTTP API: SRS says to each which one it is, and whose address that is says a file of this worker's
//! ([`Clients`]).

use super::super::Worker;
use crate::config::EngineKind;
use crate::engine::clients::Clients;

impl Worker {
    /// Writes whose address this worker's clients have, if that has changed. The caller comes once a second.
    pub(in super::super) fn report_clients(&mut self) {
        let tells = self.config.relays() && self.config.engine.kind == EngineKind::Srs;
        if !self.relays.clients_changed || !tells {
            return;
        }
        let mut clients = Clients::default();
        for (_, pair) in &self.relays.pairs {
            if let Some(id) = &pair.client_id {
                clients.insert(pair.process.0, id, pair.peer.ip().to_canonical());
            }
        }
        if let Err(error) = clients.write(&self.config.server.shared_dir, self.id) {
            return tracing::debug!(%error, "cannot say whose address clients have");
        }
        self.relays.clients_changed = false;
    }
}
