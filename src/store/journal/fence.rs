//! Keeps a batch from writing what is another node's to write: it locks the shards that it writes for, and drops what
//! belongs to those that are lost. The other node sends that again.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, DbErr};

use crate::id::WebhookNum;
use crate::store::fate::TransactionId;
use crate::store::leases::{Holding, Locked, ShardNum};

use super::Record;

/// What a batch may write.
#[derive(Debug, Default)]
pub(super) struct Pass {
    lost: BTreeSet<ShardNum>,
    pub(super) statements: u64,
    /// By which the server tells what became of it.
    pub(super) transaction: Option<TransactionId>,
}

impl Pass {
    /// Whether what is recorded for this webhook is still ours to record.
    pub(super) fn admits(&self, record: &Record) -> bool {
        webhook_of(record).is_none_or(|webhook| !self.lost.contains(&ShardNum::of(webhook)))
    }

    /// Whether events may be given keys.
    pub(super) fn admits_events(&self) -> bool {
        !self.lost.contains(&ShardNum::OF_KEYS)
    }

    pub(super) fn admits_all(&self) -> bool {
        self.lost.is_empty()
    }
}

/// Locks what the batch writes for.
pub(super) async fn pass<C: ConnectionTrait>(on: &C, holding: &Holding, records: &[Record]) -> Result<Pass, DbErr> {
    if holding.is_everything() {
        return Ok(Pass::default());
    }
    let mut shards: BTreeSet<ShardNum> = records.iter().filter_map(webhook_of).map(ShardNum::of).collect();
    // Events may join the batch until the last moment, and shards must be locked in order.
    shards.insert(ShardNum::OF_KEYS);
    let Locked { lost, transaction } = holding.lock(on, &shards).await?;
    Ok(Pass { lost, statements: 1, transaction })
}

/// Whose record it is. What fan-outs have left is known to everybody.
fn webhook_of(record: &Record) -> Option<WebhookNum> {
    match record {
        Record::Attempt(record) => Some(record.id.webhook),
        Record::Defer { id, .. } | Record::Cancel { id, .. } | Record::Retry { id, .. } => Some(id.webhook),
        Record::Health { webhook, .. } | Record::Purge { webhook, .. } => Some(*webhook),
        Record::Adopt { .. } => None,
    }
}
