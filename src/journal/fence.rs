//! Keeps a batch from writing what another node owns. The batch locks its shards first (`store/leases/lock`); this
//! module says which of its records it must drop: those of shards that this node has lost. The new owner sends those
//! deliveries again. Called by the writer; with SQLite there is no fence. Pure.

use std::collections::BTreeSet;

use crate::domain::shard::ShardNum;
use crate::store::leases::Locked;
use crate::store::transaction_id::TransactionId;

use super::Record;

/// What a batch may write.
#[derive(Debug, Default)]
pub(super) struct FenceResult {
    /// Whether other nodes have reaped this one.
    is_reaped: bool,
    lost: BTreeSet<ShardNum>,
    pub(super) statements: u64,
    /// The transaction's number, by which the server tells later whether it was committed.
    pub(super) transaction: Option<TransactionId>,
}

impl FenceResult {
    pub(super) fn of(Locked { is_reaped, lost, statements, transaction }: Locked) -> Self {
        Self { is_reaped, lost, statements, transaction }
    }

    /// Whether this node still owns the record's shard.
    pub(super) fn admits(&self, record: &Record) -> bool {
        shard_of(record).is_none_or(|shard| !self.lost.contains(&shard))
    }

    /// Whether this node may give keys to events.
    pub(super) fn admits_events(&self) -> bool {
        !self.is_reaped
    }

    pub(super) fn admits_all(&self) -> bool {
        !self.is_reaped && self.lost.is_empty()
    }

    /// Whether another node ends the fan-outs of this shard.
    pub(super) fn has_lost(&self, shard: i16) -> bool {
        self.is_reaped || self.lost.iter().any(|lost| lost.num() == shard)
    }
}

/// The shards that the records write to.
pub(super) fn shards_of(records: &[Record]) -> BTreeSet<ShardNum> {
    records.iter().filter_map(shard_of).collect()
}

/// The shard that the record writes to, if it writes.
fn shard_of(record: &Record) -> Option<ShardNum> {
    let of = ShardNum::of;
    match record {
        Record::Attempt(record) => Some(of(record.id.webhook)),
        Record::Defer { id, .. } | Record::Cancel { id, .. } => Some(of(id.webhook)),
        Record::Retry { id, .. } | Record::Owe { id, .. } => Some(of(id.webhook)),
        Record::Health { webhook, .. } | Record::Purge { webhook, .. } => Some(of(*webhook)),
        Record::Mark { shard, .. } => ShardNum::try_from(*shard).ok(),
        Record::Track { .. } | Record::Claim { .. } => None,
    }
}
