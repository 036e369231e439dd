//! Changes which shards the writer serves, between two batches, when no batch is under way.

use std::sync::Arc;

use crate::domain::shard::ShardNum;
use crate::store::StoreError;
use crate::store::leases::{AcquiredShard, Membership};

use super::{JournalStats, Writer};
use crate::journal::{OwnershipChange, ledger_load};

impl Writer {
    pub(super) async fn change_ownership(&mut self, change: OwnershipChange) {
        match change {
            OwnershipChange::Activate(acquired, answer) => {
                let _ = answer.send(self.activate(&acquired).await);
            }
            OwnershipChange::Detach(shards, answer) => {
                self.detach(&shards);
                let _ = answer.send(());
            }
            OwnershipChange::Rejoin(member, answer) => {
                self.rejoin(member);
                let _ = answer.send(());
            }
        }
    }

    /// Counts what the shards are owed, and serves them. Fan-outs that become visible after the count enter the ledger
    /// when a scan finds them.
    async fn activate(&mut self, acquired: &[AcquiredShard]) -> Result<(), StoreError> {
        let shards: Vec<ShardNum> = acquired.iter().map(|shard| shard.shard).collect();
        if !self.shard_set.is_everything() {
            let orphans = self.db.end_orphans(&shards, self.host.now()).await?;
            JournalStats::add(&self.outputs.stats.orphans, orphans);
        }
        let (owed, moment) = ledger_load::load(self.db.as_ref(), &shards, self.host.now()).await?;
        self.outputs.ledger.lock().absorb(owed);
        self.shard_set.activate(acquired, &Arc::new(moment));
        self.outputs.feed.fall_behind();
        Ok(())
    }

    fn detach(&mut self, shards: &[ShardNum]) {
        let is_detached = |shard: i16| shards.iter().any(|detached| detached.num() == shard);
        self.outputs.feed.forget(is_detached);
        self.tracker.forget(is_detached);
        self.outputs.ledger.lock().forget_all(|webhook| shards.contains(&ShardNum::of(webhook)));
        self.shard_set.detach(shards);
    }

    /// The database has lost transactions: shards, epochs and transaction numbers of before mean nothing any more.
    /// Waiting publishes are refused, because the routes that matched them may be lost, too.
    fn rejoin(&mut self, member: Membership) {
        self.detach(&self.shard_set.owned());
        self.forget_lost_history(member.newest);
        self.shard_set.rejoin(member);
        JournalStats::add(&self.outputs.stats.divergences, 1);
    }
}
