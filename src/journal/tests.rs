//! A journal of a store, for the tests of other modules.

use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::host::Host;
use crate::store::Store;
use crate::store::leases::ShardSet;

use super::{Journal, JournalBounds, Running};

impl Store {
    /// Starts a journal, and spawns its writer.
    pub(crate) async fn start_journal(&self, shard_set: &ShardSet) -> (Running, JoinHandle<()>) {
        let started = Journal::start(Arc::new(self.clone()), Host::live(), shard_set, JournalBounds::LIVE).await;
        let (running, writer) = started.unwrap();
        (running, tokio::spawn(writer))
    }
}
