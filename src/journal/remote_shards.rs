//! Collects the shards of other nodes for which events were committed here, until the notifier takes their numbers.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::shard::ShardNum;

#[derive(Debug, Default)]
pub struct RemoteShards {
    shards: Mutex<BTreeSet<ShardNum>>,
    changed: Notify,
}

impl RemoteShards {
    pub(super) fn add(&self, shards: impl Iterator<Item = ShardNum>) {
        let mut known = self.shards.lock();
        let before = known.len();
        known.extend(shards);
        if known.len() > before {
            self.changed.notify_one();
        }
    }

    /// Waits for shards; each is returned once.
    pub async fn next(&self) -> BTreeSet<ShardNum> {
        loop {
            let shards = std::mem::take(&mut *self.shards.lock());
            if !shards.is_empty() {
                return shards;
            }
            self.changed.notified().await;
        }
    }
}
