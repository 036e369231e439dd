//! The journal's database in memory, for simulations of the engine: [`Tables`] with the statements of a batch. The
//! simulation decides when other processes have their turns, what is refused, and which answers are lost.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::domain::id::{DeliveryId, EventSeq, TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::StoreError;
use crate::store::idempotency::{Once, OnceKey, Seen};
use crate::store::leases::{Locked, ShardSet, Snapshot};
use crate::store::transaction_id::TransactionId;

use crate::store::fanouts::FanoutKey;
use crate::store::journal_db::pending::{PendingAfter, PendingSink};
use crate::store::journal_db::rows::{Rows, Updated};
use crate::store::journal_db::{JournalDb, JournalTransaction, KnownCaller, UnansweredCommit};

mod batch;
mod tables;
mod transactions;

pub(crate) use self::tables::Tables;

use self::batch::{Applied, BatchRows};

/// A process's connection to the tables. A simulation decides what happens to it.
pub(crate) trait Connection: Send + Sync {
    fn with_tables(&self, work: &mut dyn FnMut(&mut Tables));

    /// Lets others have their turns while a question or an answer is on its way.
    fn pause(&self) -> BoxFuture<'static, ()>;

    /// Waits until the database can be reached.
    fn reach(&self) -> BoxFuture<'static, ()>;

    /// Whether the next question is refused.
    fn is_refused(&self) -> bool;

    fn commit_answer(&self) -> CommitAnswer;

    fn elapsed(&self) -> Duration;

    /// Which server answers: it changes when the database is lost.
    fn server(&self) -> u32;

    /// A batch is committed at this moment.
    fn committed(&self, commit: &Commit);

    /// The writer knows of its last batch whether it was committed.
    fn resolved(&self, is_committed: bool);
}

/// What becomes of a COMMIT and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitAnswer {
    Given,
    /// COMMIT does not arrive.
    NeverAsked,
    /// The batch is committed, and the answer does not arrive.
    Lost,
}

/// What a batch has made true.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    pub(crate) events: Vec<EventSeq>,
    /// The deliveries that purges took back.
    pub(crate) purged: Vec<DeliveryId>,
    /// Fan-outs found by scans that the writer was told are open.
    pub(crate) claimed: Vec<FanoutKey>,
    /// The deliveries that got a row, or another state.
    pub(crate) deliveries: Vec<DeliveryId>,
}

pub(crate) struct MemoryJournal {
    connection: Arc<dyn Connection>,
    shard_set: ShardSet,
    /// The last batch whose COMMIT was not answered.
    unanswered: Arc<Mutex<Unanswered>>,
}

#[derive(Default)]
struct Unanswered {
    server: u32,
    is_committed: bool,
}

impl MemoryJournal {
    pub(crate) fn new(connection: Arc<dyn Connection>, shard_set: &ShardSet) -> Self {
        Self { connection, shard_set: shard_set.clone(), unanswered: Arc::default() }
    }

    /// Reads, which takes a while: the answer may be stale when it arrives.
    async fn read<T: Send>(&self, read: impl FnMut(&Tables) -> T + Send) -> T {
        read_from(self.connection.as_ref(), read).await
    }
}

async fn read_from<T: Send>(connection: &dyn Connection, mut read: impl FnMut(&Tables) -> T + Send) -> T {
    connection.pause().await;
    let read = with_tables(connection, |tables| read(tables));
    connection.pause().await;
    read
}

fn with_tables<T>(connection: &dyn Connection, mut work: impl FnMut(&mut Tables) -> T) -> T {
    let mut result = None;
    connection.with_tables(&mut |tables| result = Some(work(tables)));
    result.expect("the tables are there")
}

fn refused() -> StoreError {
    StoreError::Database("refused".to_owned())
}

#[async_trait]
impl JournalDb for MemoryJournal {
    async fn begin_batch(&self, _: Instant) -> Result<Box<dyn JournalTransaction>, StoreError> {
        self.connection.pause().await;
        if self.connection.is_refused() {
            return Err(refused());
        }
        Ok(Box::new(Batch {
            connection: self.connection.clone(),
            shard_set: self.shard_set.clone(),
            unanswered: self.unanswered.clone(),
            server: self.connection.server(),
            number: None,
            rows: Vec::new(),
            predicted: Vec::new(),
            claimed: Vec::new(),
        }))
    }

    async fn last_event(&self) -> Result<EventSeq, StoreError> {
        Ok(self.read(Tables::last_event).await)
    }

    async fn read_pending(
        &self,
        shards: &[ShardNum],
        now: UnixMillis,
        found: &mut PendingSink<'_>,
    ) -> Result<Snapshot, StoreError> {
        if self.connection.is_refused() {
            return Err(refused());
        }
        let is_whole = self.shard_set.is_everything();
        let of = |webhook| is_whole || shards.contains(&ShardNum::of(webhook));
        let read = |tables: &Tables| {
            tables.read_pending(of, now, found);
            if is_whole { Snapshot::of_everything() } else { tables.transactions.snapshot() }
        };
        Ok(self.read(read).await)
    }

    async fn end_orphans(&self, _: &[ShardNum], _: UnixMillis) -> Result<usize, StoreError> {
        self.connection.pause().await;
        if self.connection.is_refused() { Err(refused()) } else { Ok(0) }
    }

    async fn pending_after(&self, questions: &[PendingAfter], most: usize) -> Result<Vec<Vec<EventSeq>>, StoreError> {
        if self.connection.is_refused() {
            return Err(refused());
        }
        let answer = |tables: &Tables| questions.iter().map(|question| tables.pending_after(*question, most)).collect();
        Ok(self.read(answer).await)
    }

    async fn answers(&self) {
        self.connection.reach().await;
    }

    async fn resolve_commit(&self, batch: &UnansweredCommit<'_>) -> bool {
        self.connection.pause().await;
        self.connection.reach().await;
        let Unanswered { server, is_committed } = *self.unanswered.lock();
        // Another server may have the batch or not, and does not know its number.
        let is_there = |tables: &mut Tables| batch.event.is_some_and(|event| tables.has_event(event));
        let is_same = server == self.connection.server();
        let is_committed = if is_same { is_committed } else { with_tables(self.connection.as_ref(), is_there) };
        self.connection.resolved(is_committed);
        is_committed
    }
}

/// A transaction. What it writes waits until the commit, and becomes visible at once.
struct Batch {
    connection: Arc<dyn Connection>,
    shard_set: ShardSet,
    unanswered: Arc<Mutex<Unanswered>>,
    /// Two servers may give the same number.
    server: u32,
    /// `None`: it holds no locks and has written nothing, or the database does not number transactions.
    number: Option<u64>,
    rows: Vec<BatchRows>,
    /// What the writer was told that its rows change.
    predicted: Vec<Applied>,
    claimed: Vec<FanoutKey>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.end();
    }
}

impl Batch {
    fn with_tables<T>(&self, work: impl FnMut(&mut Tables) -> T) -> T {
        with_tables(self.connection.as_ref(), work)
    }

    async fn read<T: Send>(&self, read: impl FnMut(&Tables) -> T + Send) -> T {
        read_from(self.connection.as_ref(), read).await
    }

    fn may_be_refused(&self) -> Result<(), StoreError> {
        if self.connection.is_refused() { Err(refused()) } else { Ok(()) }
    }

    /// Ends the transaction. Returns whether the server still had it.
    fn end(&mut self) -> bool {
        let Some(number) = self.number.take() else { return self.shard_set.is_everything() };
        self.server == self.connection.server() && self.with_tables(|tables| tables.transactions.end(number))
    }

    fn begin(&mut self, shards: &BTreeSet<ShardNum>) -> u64 {
        let (node, at) = (self.shard_set.node(), self.connection.elapsed());
        let number = self.with_tables(|tables| tables.transactions.begin(node, shards.clone(), at));
        self.number = Some(number);
        number
    }

    /// Asserts that this node owns, at this moment, every shard that the batch writes to.
    fn must_be_ours(&self, tables: &Tables) {
        let node = self.shard_set.node();
        let owner = |shard: &ShardNum| tables.leases.owner(WebhookNum(shard.num().into()));
        let shards: BTreeSet<ShardNum> = self.rows.iter().flat_map(BatchRows::shards).collect();
        let foreign = shards.iter().find(|shard| node.is_some() && owner(shard) != node);
        assert_eq!(foreign, None, "{node:?} writes for a shard of {:?}", foreign.and_then(owner));
    }

    /// What the last rows will change.
    fn rehearse(&self, tables: &Tables) -> Applied {
        if self.rows.iter().all(|rows| rows.updates.is_empty()) {
            return Applied::default();
        }
        let mut tables = tables.clone();
        self.rows.iter().map(|rows| rows.apply(&mut tables, self.number.unwrap_or(0))).last().unwrap_or_default()
    }

    fn apply(&self, tables: &mut Tables, number: u64) -> Commit {
        let mut commit = Commit { claimed: self.claimed.clone(), ..Commit::default() };
        for (rows, predicted) in self.rows.iter().zip(&self.predicted) {
            let applied = rows.apply(tables, number);
            assert_eq!(applied.changes, predicted.changes, "the rows that a batch changes were changed meanwhile");
            commit.events.extend(rows.events.iter().map(|new| new.event.seq));
            commit.deliveries.extend(rows.deliveries.iter().chain(&rows.deferrals).map(|(id, _)| *id));
            commit.purged.extend(applied.purged_deliveries);
        }
        commit
    }
}

#[async_trait]
impl JournalTransaction for Batch {
    async fn lock(&mut self, shard_set: &ShardSet, shards: &BTreeSet<ShardNum>) -> Result<Locked, StoreError> {
        self.may_be_refused()?;
        let locked = self.with_tables(|tables| tables.leases.lock(shard_set, shards));
        let number = self.begin(&(shards - &locked.lost));
        let transaction = (!locked.is_reaped).then(|| TransactionId::of(number.to_string()));
        self.connection.pause().await;
        Ok(Locked { transaction, ..locked })
    }

    async fn settled_among(&mut self, deliveries: &[DeliveryId]) -> Result<HashSet<DeliveryId>, StoreError> {
        self.may_be_refused()?;
        let settled = |tables: &Tables| deliveries.iter().copied().filter(|id| tables.is_settled(*id)).collect();
        Ok(self.read(settled).await)
    }

    async fn open_among(&mut self, fanouts: &[FanoutKey]) -> Result<HashSet<FanoutKey>, StoreError> {
        self.may_be_refused()?;
        let is_ended = |key: &FanoutKey| self.rows.iter().any(|rows| rows.ended.contains(key));
        let is_open = |tables: &Tables, key: &FanoutKey| tables.has_fanout(*key) && !is_ended(key);
        let open = |tables: &Tables| fanouts.iter().copied().filter(|key| is_open(tables, key)).collect();
        let open: HashSet<FanoutKey> = self.read(open).await;
        self.claimed.extend(fanouts.iter().filter(|key| open.contains(key)));
        Ok(open)
    }

    async fn newest_event(&mut self) -> Result<EventSeq, StoreError> {
        self.may_be_refused()?;
        Ok(self.read(Tables::last_event).await)
    }

    async fn known_caller(&mut self, _: TenantNum, id: &str) -> Result<Option<KnownCaller>, StoreError> {
        unreachable!("publishers of a simulation have no caller ids: {id}")
    }

    async fn seen(&mut self, key: &OnceKey) -> Result<Seen, StoreError> {
        unreachable!("publishers of a simulation have no idempotency keys: {key:?}")
    }

    async fn remember(&mut self, once: Once, _: UnixMillis) -> Result<(), StoreError> {
        unreachable!("publishers of a simulation have no idempotency keys: {once:?}")
    }

    async fn write(&mut self, rows: Rows<'_>) -> Result<Updated, StoreError> {
        if self.connection.is_refused() {
            return Err(refused());
        }
        if self.number.is_none() && !self.shard_set.is_everything() {
            self.begin(&BTreeSet::new());
        }
        self.rows.push(BatchRows::of(rows));
        let applied = self.with_tables(|tables| self.rehearse(tables));
        let (changes, purged) = (applied.changes.clone(), applied.purged.clone());
        self.predicted.push(applied);
        self.connection.pause().await;
        Ok(Updated { changes, purged, statements: 1 })
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        self.connection.pause().await;
        let answer = self.connection.commit_answer();
        *self.unanswered.lock() = Unanswered { server: self.server, is_committed: false };
        if self.connection.is_refused() || answer == CommitAnswer::NeverAsked {
            return Err(refused());
        }
        let number = self.number.unwrap_or(0);
        // The server may have ended the transaction because the client was silent for long, or may be another server.
        if !self.end() {
            return Err(refused());
        }
        let commit = self.with_tables(|tables| {
            self.must_be_ours(tables);
            self.apply(tables, number)
        });
        self.unanswered.lock().is_committed = true;
        self.connection.committed(&commit);
        self.connection.pause().await;
        if answer == CommitAnswer::Lost {
            return Err(refused());
        }
        self.connection.resolved(true);
        Ok(())
    }
}
