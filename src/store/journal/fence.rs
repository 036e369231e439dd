//! Keeps a batch from writing what is another node's to write: it locks the shards that it writes for, and drops what
//! belongs to those that are lost. The other node sends that again.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, DbErr};

use crate::store::commit_status::TransactionId;
use crate::store::leases::{Locked, ShardNum, ShardSet};

use super::Record;

/// What a batch may write.
#[derive(Debug, Default)]
pub(super) struct FenceResult {
    /// The others took this node for dead.
    is_reaped: bool,
    lost: BTreeSet<ShardNum>,
    pub(super) statements: u64,
    /// By which the server tells what became of it.
    pub(super) transaction: Option<TransactionId>,
}

impl FenceResult {
    pub(super) fn of(Locked { is_reaped, lost, statements, transaction }: Locked) -> Self {
        Self { is_reaped, lost, statements, transaction }
    }

    /// Whether what is recorded for this webhook is still ours to record.
    pub(super) fn admits(&self, record: &Record) -> bool {
        shard_of(record).is_none_or(|shard| !self.lost.contains(&shard))
    }

    /// Whether events may be given keys.
    pub(super) fn admits_events(&self) -> bool {
        !self.is_reaped
    }

    pub(super) fn admits_all(&self) -> bool {
        !self.is_reaped && self.lost.is_empty()
    }

    /// Whether fan-outs of this shard are another node's.
    pub(super) fn has_lost(&self, shard: i16) -> bool {
        self.is_reaped || self.lost.iter().any(|lost| lost.num() == shard)
    }
}

/// Locks what the batch writes for.
pub(super) async fn check_fence<C: ConnectionTrait>(
    on: &C,
    shard_set: &ShardSet,
    records: &[Record],
) -> Result<FenceResult, DbErr> {
    if shard_set.is_everything() {
        return Ok(FenceResult::default());
    }
    Ok(FenceResult::of(shard_set.lock(on, &shards_of(records)).await?))
}

pub(super) fn shards_of(records: &[Record]) -> BTreeSet<ShardNum> {
    records.iter().filter_map(shard_of).collect()
}

/// Whose record it is; nobody's if it writes nothing.
fn shard_of(record: &Record) -> Option<ShardNum> {
    let of = ShardNum::of;
    match record {
        Record::Attempt(record) => Some(of(record.id.webhook)),
        Record::Defer { id, .. } | Record::Cancel { id, .. } | Record::Retry { id, .. } => Some(of(id.webhook)),
        Record::Health { webhook, .. } | Record::Purge { webhook, .. } => Some(of(*webhook)),
        Record::Mark { shard, .. } => ShardNum::read(*shard).ok(),
        Record::Adopt { .. } | Record::Watch { .. } => None,
    }
}
