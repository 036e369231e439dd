//! What the journal asks of its database: to write one batch at a time in a transaction, and a few reads. `Store`
//! answers with SQL, and in tests `memory` from maps.

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use async_trait::async_trait;

use crate::domain::id::{DeliveryId, EventSeq, TenantNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::StoreError;
use crate::store::events::Receipt;
use crate::store::fanouts::FanoutKey;
use crate::store::idempotency::{Once, OnceKey, Seen};
use crate::store::leases::{Locked, ShardSet, Snapshot};
use crate::store::transaction_id::TransactionId;

use super::pending::{PendingAfter, PendingSink};
use super::rows::{Rows, Updated};

/// The database of a journal.
#[async_trait]
pub trait JournalDb: Send + Sync {
    /// Begins a batch, which must be committed by `end`.
    async fn begin_batch(&self, end: Instant) -> Result<Box<dyn JournalTransaction>, StoreError>;

    /// The newest event of all.
    async fn last_event(&self) -> Result<EventSeq, StoreError>;

    /// Reads what the webhooks of these shards are owed, part by part: the pending rows of a webhook come before its
    /// other parts. Returns the snapshot at which that was true. A process that has the database alone has no shards: it
    /// reads what all webhooks are owed.
    async fn read_pending(
        &self,
        shards: &[ShardNum],
        now: UnixMillis,
        found: &mut PendingSink<'_>,
    ) -> Result<Snapshot, StoreError>;

    /// Ends the rows of these shards whose event is gone; returns how many.
    async fn end_orphans(&self, shards: &[ShardNum], now: UnixMillis) -> Result<usize, StoreError>;

    /// Answers these questions from one snapshot, each with at most `most` events, ascending; with fewer only if there
    /// are no more.
    async fn pending_after(&self, questions: &[PendingAfter], most: usize) -> Result<Vec<Vec<EventSeq>>, StoreError>;

    /// Waits until the database answers.
    async fn answers(&self);

    /// Waits until it is known whether the batch was committed; returns whether it was.
    async fn resolve_commit(&self, batch: &UnansweredCommit<'_>) -> bool;
}

/// A batch under way; dropping it rolls it back. Every error but that of [`commit`](Self::commit) means that nothing
/// will be committed.
#[async_trait]
pub trait JournalTransaction: Send {
    /// Keeps other nodes from acquiring these shards, and from reaping this node, until the transaction ends.
    async fn lock(&mut self, shard_set: &ShardSet, shards: &BTreeSet<ShardNum>) -> Result<Locked, StoreError>;

    /// Which of these deliveries are settled.
    async fn settled_among(&mut self, deliveries: &[DeliveryId]) -> Result<HashSet<DeliveryId>, StoreError>;

    /// Which of these fan-outs are open.
    async fn open_among(&mut self, fanouts: &[FanoutKey]) -> Result<HashSet<FanoutKey>, StoreError>;

    /// The newest event that is visible.
    async fn newest_event(&mut self) -> Result<EventSeq, StoreError>;

    /// The event that was published under this caller id.
    async fn known_caller(&mut self, tenant: TenantNum, id: &str) -> Result<Option<KnownCaller>, StoreError>;

    /// What is stored for an idempotency key.
    async fn seen(&mut self, key: &OnceKey) -> Result<Seen, StoreError>;

    async fn remember(&mut self, once: Once, now: UnixMillis) -> Result<(), StoreError>;

    /// Takes an operational event out, because it is published in this transaction; answers whether it was still there.
    async fn take_operational(&mut self, sequence: i64) -> Result<bool, StoreError>;

    async fn write(&mut self, rows: Rows<'_>) -> Result<Updated, StoreError>;

    /// # Errors
    ///
    /// An error does not mean that nothing was committed: the answer may have been lost.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// The content that was published under a caller id, by its digest, and the receipt that it got.
#[derive(Debug, Clone, Copy)]
pub struct KnownCaller {
    pub digest: [u8; 32],
    pub receipt: Receipt,
}

/// A batch whose COMMIT was not answered.
#[derive(Debug)]
pub struct UnansweredCommit<'a> {
    pub shard_set: &'a ShardSet,
    /// `None`: the batch had nothing to write, or the database does not number transactions.
    pub transaction: Option<&'a TransactionId>,
    /// The last event that the batch was to write, if any.
    pub event: Option<EventSeq>,
}
