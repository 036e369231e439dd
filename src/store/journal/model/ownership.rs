//! Mirrors [`super::super::ownership`]: what the writer does between two batches when shards are activated or detached.
//! A count takes a while, and other nodes commit meanwhile.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::domain::moment::UnixMillis;
use crate::store::StoreError;
use crate::store::journal::recent_cancels::RecentCancels;
use crate::store::journal::{OwnershipChange, PublishError, Request};
use crate::store::leases::{AcquiredShard, Membership, ShardNum, Snapshot};
use crate::store::ledger::Ledger;

use super::{Tables, Writer};

/// An acquired shard's part of the ledger, with the snapshot that it was counted in; not served yet.
pub(crate) struct Gaining {
    acquired: Vec<AcquiredShard>,
    owed: Ledger,
    moment: Snapshot,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

impl Writer {
    /// Detaches shards; returns the ones to activate, as counted now.
    pub(crate) fn shift(&mut self, tables: &Tables, now: UnixMillis) -> Vec<Gaining> {
        let mut gaining = Vec::new();
        for shift in std::mem::take(&mut self.batch.shifts) {
            match shift {
                OwnershipChange::Activate(acquired, answer) => {
                    let of = |webhook| acquired.iter().any(|shard| shard.shard == ShardNum::of(webhook));
                    let (owed, moment) = (tables.ledger(of, now), tables.transactions.snapshot());
                    gaining.push(Gaining { acquired, owed, moment, answer });
                }
                OwnershipChange::Detach(shards, answer) => {
                    self.part(&shards);
                    let _ = answer.send(());
                }
                OwnershipChange::Rejoin(member, answer) => {
                    self.rejoin(member, now);
                    let _ = answer.send(());
                }
            }
        }
        gaining
    }

    /// Mirrors the second half of `Writer::activate`.
    pub(crate) fn gain(&mut self, Gaining { acquired, owed, moment, answer }: Gaining) {
        self.ledger.lock().absorb(owed);
        self.shard_set.activate(&acquired, &Arc::new(moment));
        self.feed.rescan();
        let _ = answer.send(Ok(()));
    }

    /// Mirrors `Writer::rejoin`.
    fn rejoin(&mut self, member: Membership, now: UnixMillis) {
        self.part(&self.shard_set.owned());
        self.refuse_publishes();
        while let Ok(Request::Publish(request)) = self.publishes.try_recv() {
            let _ = request.answer.send(Err(PublishError::Diverged));
        }
        self.last = self.last.max(member.newest);
        self.cancelled = RecentCancels::new(now);
        self.shard_set.rejoin(member);
    }

    /// Mirrors `Writer::detach`.
    fn part(&mut self, shards: &[ShardNum]) {
        let is_parted = |shard: i16| shards.iter().any(|parted| parted.num() == shard);
        self.feed.forget(is_parted);
        self.watched.forget(is_parted);
        self.ledger.lock().forget_all(|webhook| shards.contains(&ShardNum::of(webhook)));
        self.shard_set.detach(shards);
    }
}
