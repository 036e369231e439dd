//! The journal's database in memory: a transaction keeps its rows to itself until the commit makes them visible at once.

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use async_trait::async_trait;

use crate::domain::id::{DeliveryId, EventSeq, TenantNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::StoreError;
use crate::store::fanouts::FanoutKey;
use crate::store::idempotency::{Once, OnceKey, Seen};
use crate::store::journal_db::pending::{PendingAfter, PendingSink};
use crate::store::journal_db::rows::{Rows, Updated};
use crate::store::journal_db::{JournalDb, JournalTransaction, KnownCaller, UnansweredCommit};
use crate::store::leases::{Continuity, Locked, ShardSet, Snapshot};
use crate::store::transaction_id::TransactionId;

use super::batch::{Applied, BatchRows};
use super::transactions::TransactionKey;
use super::{Memory, Tables};

/// What is known of a COMMIT that was not answered.
enum CommitStatus {
    Committed,
    Undone,
    InProgress,
}

impl CommitStatus {
    fn of(is_committed: bool) -> Self {
        if is_committed { Self::Committed } else { Self::Undone }
    }
}

#[async_trait]
impl JournalDb for Memory {
    async fn begin_batch(&self, _: Instant) -> Result<Box<dyn JournalTransaction>, StoreError> {
        Ok(Box::new(Batch {
            memory: self.clone(),
            transaction: None,
            rows: Vec::new(),
            predicted: Vec::new(),
            remembered: Vec::new(),
            taken: Vec::new(),
            has_failed: false,
        }))
    }

    async fn last_event(&self) -> Result<EventSeq, StoreError> {
        Ok(self.tables.read().last_event())
    }

    async fn read_pending(
        &self,
        shards: &[ShardNum],
        now: UnixMillis,
        found: &mut PendingSink<'_>,
    ) -> Result<Snapshot, StoreError> {
        if self.is_clustered() && shards.is_empty() {
            return Ok(Snapshot::of_everything());
        }
        let tables = self.tables.read();
        tables.read_pending(|webhook| !self.is_clustered() || shards.contains(&ShardNum::of(webhook)), now, found);
        Ok(self.snapshot(&tables))
    }

    async fn end_orphans(&self, shards: &[ShardNum], now: UnixMillis) -> Result<usize, StoreError> {
        Ok(self.tables.write().end_orphans(shards, now))
    }

    async fn pending_after(&self, questions: &[PendingAfter], most: usize) -> Result<Vec<Vec<EventSeq>>, StoreError> {
        let tables = self.tables.read();
        Ok(questions.iter().map(|question| tables.pending_after(*question, most)).collect())
    }

    async fn answers(&self) {}

    async fn resolve_commit(&self, batch: &UnansweredCommit<'_>) -> bool {
        loop {
            match self.commit_status(batch) {
                CommitStatus::Committed => return true,
                CommitStatus::Undone => return false,
                CommitStatus::InProgress => self.client.between_statements().await,
            }
        }
    }
}

impl Memory {
    /// Mirrors `commit_status::commit_status`.
    fn commit_status(&self, batch: &UnansweredCommit<'_>) -> CommitStatus {
        let tables = self.tables.read();
        let if_its_event_is_there = CommitStatus::of(batch.event.is_some());
        let status = match batch.transaction {
            Some(transaction) if self.is_clustered() => {
                status(&tables, batch.shard_set, transaction).unwrap_or(if_its_event_is_there)
            }
            None if self.is_clustered() => CommitStatus::Undone,
            Some(_) | None => if_its_event_is_there,
        };
        match (status, batch.event) {
            (CommitStatus::Committed, Some(event)) if !tables.has_event(event) => CommitStatus::Undone,
            (status, _) => status,
        }
    }
}

/// `None`: the server may have lost the transaction and given its number to another one.
fn status(tables: &Tables, shard_set: &ShardSet, transaction: &TransactionId) -> Option<CommitStatus> {
    let is_known = tables.leases.is_known_to(shard_set);
    match tables.leases.continuity(shard_set) {
        _ if shard_set.has_diverged() => return None,
        Continuity::Unbroken if is_known => {}
        Continuity::Unbroken | Continuity::Diverged | Continuity::Superseded => return Some(CommitStatus::InProgress),
    }
    let number = transaction.as_str().parse().expect("a transaction's number");
    Some(tables.transactions.status(number).map_or(CommitStatus::InProgress, CommitStatus::of))
}

/// A transaction. What it writes waits until the commit, and becomes visible at once.
struct Batch {
    memory: Memory,
    /// `None`: it holds no locks and has written nothing, or the database does not number transactions.
    transaction: Option<TransactionKey>,
    rows: Vec<BatchRows>,
    /// What the writer was told that its rows change.
    predicted: Vec<Applied>,
    remembered: Vec<Once>,
    /// Operational events that this batch publishes.
    taken: Vec<i64>,
    /// A statement has failed, so that nothing will be committed.
    has_failed: bool,
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            self.memory.tables.write().transactions.end(transaction, false);
        }
    }
}

impl Batch {
    fn number(&self) -> u64 {
        self.transaction.map_or(0, |transaction| transaction.number)
    }

    /// Reads the tables as this transaction sees them.
    fn view<T>(&self, read: impl FnOnce(&Tables) -> T) -> T {
        let tables = self.memory.tables.read();
        if self.rows.is_empty() {
            return read(&tables);
        }
        let mut own = tables.clone();
        self.rows.iter().for_each(|rows| drop(rows.apply(&mut own, self.number())));
        read(&own)
    }

    /// What the last rows will change.
    fn rehearse(&self) -> Applied {
        if !self.rows.iter().any(BatchRows::has_updates) {
            return Applied::default();
        }
        let mut own = self.memory.tables.read().clone();
        self.rows.iter().map(|rows| rows.apply(&mut own, self.number())).last().unwrap_or_default()
    }

    /// Writes the rows into the tables.
    fn apply(&self, tables: &mut Tables, number: u64) {
        for (rows, predicted) in self.rows.iter().zip(&self.predicted) {
            let applied = rows.apply(tables, number);
            assert_eq!(applied, *predicted, "the rows that a batch changes were changed meanwhile");
        }
        self.remembered.iter().for_each(|once| tables.remember(once.clone()));
        self.taken.iter().for_each(|sequence| tables.take_operational(*sequence));
    }
}

#[async_trait]
impl JournalTransaction for Batch {
    async fn lock(&mut self, shard_set: &ShardSet, shards: &BTreeSet<ShardNum>) -> Result<Locked, StoreError> {
        if shard_set.is_everything() {
            return Ok(Locked::default());
        }
        let now = self.memory.client.database_now();
        let mut tables = self.memory.tables.write();
        let locked = tables.leases.lock(shard_set, shards);
        let transaction = tables.transactions.begin(shard_set.node(), shards - &locked.lost, now);
        self.transaction = Some(transaction);
        let transaction = (!locked.is_reaped).then(|| TransactionId::of(transaction.number.to_string()));
        Ok(Locked { transaction, ..locked })
    }

    async fn settled_among(&mut self, deliveries: &[DeliveryId]) -> Result<HashSet<DeliveryId>, StoreError> {
        Ok(self.view(|tables| deliveries.iter().copied().filter(|id| tables.is_settled(*id)).collect()))
    }

    async fn open_among(&mut self, fanouts: &[FanoutKey]) -> Result<HashSet<FanoutKey>, StoreError> {
        Ok(self.view(|tables| fanouts.iter().copied().filter(|key| tables.has_fanout(*key)).collect()))
    }

    async fn newest_event(&mut self) -> Result<EventSeq, StoreError> {
        Ok(self.view(Tables::last_event))
    }

    async fn known_caller(&mut self, tenant: TenantNum, id: &str) -> Result<Option<KnownCaller>, StoreError> {
        Ok(self.view(|tables| tables.known_caller(tenant, id)))
    }

    async fn seen(&mut self, key: &OnceKey) -> Result<Seen, StoreError> {
        let own = self.remembered.iter().find(|once| once.key.tenant == key.tenant && once.key.key == key.key);
        Ok(own.map_or_else(|| self.memory.tables.read().seen(key), |once| Tables::seen_as(once, key)))
    }

    async fn remember(&mut self, once: Once, _: UnixMillis) -> Result<(), StoreError> {
        if !matches!(self.seen(&once.key).await?, Seen::New) {
            self.has_failed = true;
            return Err(StoreError::Exists);
        }
        self.remembered.push(once);
        Ok(())
    }

    async fn take_operational(&mut self, sequence: i64) -> Result<bool, StoreError> {
        let is_there = self.memory.tables.read().has_operational(sequence) && !self.taken.contains(&sequence);
        self.taken.push(sequence);
        Ok(is_there)
    }

    async fn write(&mut self, rows: Rows<'_>) -> Result<Updated, StoreError> {
        if self.transaction.is_none() && self.memory.is_clustered() {
            let now = self.memory.client.database_now();
            self.transaction = Some(self.memory.tables.write().transactions.begin(None, BTreeSet::new(), now));
        }
        let rows = BatchRows::of(rows);
        if self.view(|tables| rows.has_taken_key(tables)) {
            self.has_failed = true;
            return Err(StoreError::Exists);
        }
        self.rows.push(rows);
        let applied = self.rehearse();
        let (changes, purged) = (applied.changes.clone(), applied.purged.clone());
        self.predicted.push(applied);
        Ok(Updated { changes, purged, statements: 1 })
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        if self.has_failed {
            return Err(StoreError::Database("the transaction has failed".to_owned()));
        }
        let (memory, number) = (self.memory.clone(), self.number());
        let mut tables = memory.tables.write();
        let is_there = self.transaction.take().is_none_or(|transaction| tables.transactions.end(transaction, true));
        if !is_there {
            return Err(StoreError::Database("the server has ended the transaction".to_owned()));
        }
        self.apply(&mut tables, number);
        Ok(())
    }
}
