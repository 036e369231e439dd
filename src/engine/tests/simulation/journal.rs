//! The journal of a simulated process: the real writer over the database in memory. Others have their turns between its
//! statements, batches are refused, and the answers to commits are lost.

use std::collections::{BTreeSet, HashSet};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::domain::id::{DeliveryId, EventSeq, TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::journal::WriterTask;
use crate::store::StoreError;
use crate::store::fanouts::FanoutKey;
use crate::store::idempotency::{Once, OnceKey, Seen};
use crate::store::journal_db::pending::{PendingAfter, PendingSink};
use crate::store::journal_db::rows::{Change, Rows, Update, Updated};
use crate::store::journal_db::{JournalDb, JournalTransaction, KnownCaller, UnansweredCommit};
use crate::store::leases::{Locked, ShardSet, Snapshot};
use crate::store::memory::Memory;

use super::process::Process;
use super::tasks::{pause, until};
use super::trace;
use super::world::{self, sleep};

type Result<T> = std::result::Result<T, StoreError>;

/// As long as the pause between two questions about a commit.
const PAUSE: Duration = Duration::from_millis(200);

/// How often an answer of the database takes long, per mille.
const LONG: u32 = 50;

/// What the writer of one process has committed, and whether the process knows of it.
#[derive(Default)]
pub(super) struct Commits(Mutex<State>);

#[derive(Default)]
struct State {
    phase: Phase,
    /// How many batches were committed.
    count: u64,
    /// Fan-outs found by scans that the writer has been asked to track.
    claimed: BTreeSet<FanoutKey>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Feed and ledger know of every commit.
    #[default]
    Announced,
    /// A batch is committed.
    Committed,
    /// The writer knows that it is, and has answered its publishers.
    Answered,
}

impl Commits {
    /// Whether feed and ledger know of every commit.
    pub(super) fn are_announced(&self) -> bool {
        self.0.lock().phase == Phase::Announced
    }

    /// Whether the writer was asked to track this fan-out.
    pub(super) fn has_claimed(&self, key: FanoutKey) -> bool {
        self.0.lock().claimed.contains(&key)
    }

    fn set(&self, phase: Phase) {
        self.0.lock().phase = phase;
    }

    /// The number of the last batch, if its publishers are answered.
    fn answered(&self) -> Option<u64> {
        let state = self.0.lock();
        (state.phase == Phase::Answered).then_some(state.count)
    }

    /// Feed and ledger know of this batch; answers whether no other was committed since.
    fn announce(&self, batch: u64) -> bool {
        let mut state = self.0.lock();
        let is_last = state.count == batch;
        if is_last {
            state.phase = Phase::Announced;
        }
        is_last
    }
}

/// What a batch has made true.
#[derive(Debug, Default)]
pub(super) struct Commit {
    pub(super) events: Vec<EventSeq>,
    /// The deliveries that purges took back.
    pub(super) purged: Vec<DeliveryId>,
    /// Fan-outs found by scans that the writer was told are open.
    pub(super) claimed: Vec<FanoutKey>,
    /// The deliveries that got a row, or another state.
    pub(super) deliveries: Vec<DeliveryId>,
    ended: Vec<FanoutKey>,
    /// The shards that only their owner may write to.
    shards: BTreeSet<ShardNum>,
}

/// What becomes of a COMMIT and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommitAnswer {
    Given,
    /// COMMIT does not arrive.
    NeverAsked,
    /// The batch is committed, and the answer does not arrive.
    Lost,
}

/// The connection of a process's journal to the database.
#[derive(Clone)]
pub(super) struct JournalConnection {
    pub(super) place: usize,
    pub(super) incarnation: u32,
    pub(super) commits: Arc<Commits>,
    pub(super) memory: Memory,
}

fn refused() -> StoreError {
    StoreError::Database("refused".to_owned())
}

impl JournalConnection {
    fn is_cut_off(&self) -> bool {
        world::current().machines[self.place].is_cut_off.get()
    }

    /// Lets others have their turns while a question or an answer is on its way.
    async fn pause(&self) {
        let turns = {
            let world = world::current();
            world.pick(if world.is_clustered && world.happens(LONG) { 100 } else { 3 })
        };
        for _ in 0..turns {
            pause().await;
        }
    }

    fn may_be_refused(&self) -> Result<()> {
        let world = world::current();
        if !self.is_cut_off() && !world.happens(world.trouble.get().batch_refused / 2) {
            return Ok(());
        }
        world.note(|| format!("a batch of process {} is refused", self.incarnation));
        Err(refused())
    }

    /// Asks, which takes a while: the answer may be stale when it arrives.
    async fn ask<T: Send>(&self, question: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.pause().await;
        let answer = question.await;
        self.pause().await;
        answer
    }

    async fn reach(&self) {
        sleep(PAUSE).await;
        until(|| (!self.is_cut_off()).then_some(())).await;
    }

    fn commit_answer(&self) -> CommitAnswer {
        let world = world::current();
        if !world.is_clustered || !world.happens(world.trouble.get().answer_lost) {
            return CommitAnswer::Given;
        }
        world.note(|| format!("process {} gets no answer to its commit", self.incarnation));
        if world.happens(500) { CommitAnswer::NeverAsked } else { CommitAnswer::Lost }
    }

    fn committed(&self, commit: &Commit) {
        let world = world::current();
        let mut state = self.commits.0.lock();
        state.phase = Phase::Committed;
        state.count += 1;
        state.claimed.extend(&commit.claimed);
        drop(state);
        world.note(|| format!("process {} commits: {}", self.incarnation, trace::commit(commit)));
        let mut oracle = world.oracle.borrow_mut();
        oracle.accepted(self.incarnation, &commit.events);
        oracle.check_purged(&world, &commit.purged);
        drop(oracle);
        world.remember();
    }

    /// The writer knows of its last batch whether it was committed.
    fn resolved(&self, is_committed: bool) {
        self.commits.set(if is_committed { Phase::Answered } else { Phase::Announced });
    }
}

#[async_trait]
impl JournalDb for JournalConnection {
    async fn begin_batch(&self, end: Instant) -> Result<Box<dyn JournalTransaction>> {
        self.pause().await;
        self.may_be_refused()?;
        let inner = self.memory.begin_batch(end).await?;
        Ok(Box::new(Batch { connection: self.clone(), node: None, inner, commit: Commit::default() }))
    }

    async fn last_event(&self) -> Result<EventSeq> {
        self.ask(self.memory.last_event()).await
    }

    async fn read_pending(
        &self,
        shards: &[ShardNum],
        now: UnixMillis,
        found: &mut PendingSink<'_>,
    ) -> Result<Snapshot> {
        self.may_be_refused()?;
        self.ask(self.memory.read_pending(shards, now, found)).await
    }

    async fn end_orphans(&self, shards: &[ShardNum], now: UnixMillis) -> Result<usize> {
        self.pause().await;
        self.may_be_refused()?;
        self.memory.end_orphans(shards, now).await
    }

    async fn pending_after(&self, questions: &[PendingAfter], most: usize) -> Result<Vec<Vec<EventSeq>>> {
        self.may_be_refused()?;
        self.ask(self.memory.pending_after(questions, most)).await
    }

    async fn answers(&self) {
        self.reach().await;
    }

    async fn resolve_commit(&self, batch: &UnansweredCommit<'_>) -> bool {
        self.pause().await;
        self.reach().await;
        let is_committed = self.memory.resolve_commit(batch).await;
        self.resolved(is_committed);
        is_committed
    }
}

/// A batch under way.
struct Batch {
    connection: JournalConnection,
    /// The node whose shards are locked.
    node: Option<i64>,
    inner: Box<dyn JournalTransaction>,
    commit: Commit,
}

impl Batch {
    /// Asks the database in memory, whose answer takes a while to arrive.
    async fn ask<T: Send>(
        connection: &JournalConnection,
        question: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        connection.may_be_refused()?;
        connection.ask(question).await
    }

    /// A shard that the batch writes to and that this node does not own at this moment.
    fn foreign_shard(&self) -> Option<ShardNum> {
        let tables = self.connection.memory.tables.read();
        let owner = |shard: &ShardNum| tables.leases.owner(WebhookNum(shard.num().into()));
        self.commit.shards.iter().copied().find(|shard| self.node.is_some() && owner(shard) != self.node)
    }

    /// What the fan-outs that the batch ends are for.
    fn ended(&self) -> Vec<(FanoutKey, Arc<[WebhookNum]>)> {
        let tables = self.connection.memory.tables.read();
        self.commit.ended.iter().filter_map(|key| Some((*key, tables.targets(*key)?))).collect()
    }
}

#[async_trait]
impl JournalTransaction for Batch {
    async fn lock(&mut self, shard_set: &ShardSet, shards: &BTreeSet<ShardNum>) -> Result<Locked> {
        self.connection.may_be_refused()?;
        self.node = shard_set.node();
        let locked = self.inner.lock(shard_set, shards).await;
        self.connection.pause().await;
        locked
    }

    async fn settled_among(&mut self, deliveries: &[DeliveryId]) -> Result<HashSet<DeliveryId>> {
        Self::ask(&self.connection, self.inner.settled_among(deliveries)).await
    }

    async fn open_among(&mut self, fanouts: &[FanoutKey]) -> Result<HashSet<FanoutKey>> {
        let open = Self::ask(&self.connection, self.inner.open_among(fanouts)).await?;
        self.commit.claimed.extend(fanouts.iter().filter(|key| open.contains(key)));
        Ok(open)
    }

    async fn newest_event(&mut self) -> Result<EventSeq> {
        Self::ask(&self.connection, self.inner.newest_event()).await
    }

    async fn known_caller(&mut self, tenant: TenantNum, id: &str) -> Result<Option<KnownCaller>> {
        Self::ask(&self.connection, self.inner.known_caller(tenant, id)).await
    }

    async fn seen(&mut self, key: &OnceKey) -> Result<Seen> {
        Self::ask(&self.connection, self.inner.seen(key)).await
    }

    async fn remember(&mut self, once: Once, now: UnixMillis) -> Result<()> {
        Self::ask(&self.connection, self.inner.remember(once, now)).await
    }

    async fn take_operational(&mut self, sequence: i64) -> Result<bool> {
        Self::ask(&self.connection, self.inner.take_operational(sequence)).await
    }

    async fn write(&mut self, rows: Rows<'_>) -> Result<Updated> {
        self.connection.may_be_refused()?;
        self.commit.add(&rows);
        let updates = rows.updates.clone();
        let updated = self.inner.write(rows).await.expect("a batch has keys of its own");
        self.commit.purged.extend(purged(&updates, &updated));
        self.connection.pause().await;
        Ok(updated)
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.connection.pause().await;
        let answer = self.connection.commit_answer();
        self.connection.may_be_refused()?;
        if answer == CommitAnswer::NeverAsked {
            return Err(refused());
        }
        let (foreign, ended) = (self.foreign_shard(), self.ended());
        let Self { connection, node, inner, commit } = *self;
        inner.commit().await?;
        assert_eq!(foreign, None, "{node:?} writes for a shard of another owner");
        assert_eq!(forgotten(&connection, &ended), None, "there is neither a fan-out nor a row");
        connection.committed(&commit);
        connection.pause().await;
        if answer == CommitAnswer::Lost {
            return Err(refused());
        }
        connection.resolved(true);
        Ok(())
    }
}

/// A target of a fan-out that was ended, without a row: until then the fan-out must stay.
fn forgotten(connection: &JournalConnection, ended: &[(FanoutKey, Arc<[WebhookNum]>)]) -> Option<DeliveryId> {
    let tables = connection.memory.tables.read();
    let ids = ended.iter().flat_map(|((event, _), targets)| {
        targets.iter().map(|webhook| DeliveryId { event: *event, webhook: *webhook })
    });
    ids.into_iter().find(|id| tables.delivery(*id).is_none())
}

impl Commit {
    fn add(&mut self, rows: &Rows<'_>) {
        let states = || rows.deferrals.iter().chain(&rows.deliveries).map(|(id, _)| *id);
        let updates = rows.updates.iter().map(|update| match update {
            Update::Cancel { id, .. } | Update::Retry { id, .. } | Update::Owe { id, .. } => id.webhook,
            Update::Purge { purge, .. } => purge.webhook,
        });
        let webhooks = states().map(|id| id.webhook).chain(updates).chain(rows.health.keys().copied());
        self.shards.extend(webhooks.map(ShardNum::of));
        self.events.extend(rows.events.iter().map(|new| new.event.seq));
        self.deliveries.extend(rows.deliveries.iter().chain(&rows.deferrals).map(|(id, _)| *id));
        self.ended.extend(&rows.ended);
        self.shards.extend(rows.ended.iter().filter_map(|(_, shard)| ShardNum::try_from(*shard).ok()));
    }
}

/// The deliveries that the purges among these updates took back. Changes come in the order of the updates.
fn purged(updates: &[Update], Updated { changes, purged, .. }: &Updated) -> Vec<DeliveryId> {
    let (mut changes, mut purged) = (changes.iter().peekable(), purged.iter());
    let mut taken_back = Vec::new();
    for update in updates {
        match update {
            Update::Cancel { id, .. } => {
                changes.next_if(|change| matches!(change, Change::TakenBack(of) if of.id == *id));
            }
            Update::Retry { id, .. } | Update::Owe { id, .. } => {
                changes.next_if(|change| match change {
                    Change::Again(of) | Change::Hastened { id: of, .. } => of == id,
                    Change::TakenBack(_) => false,
                });
            }
            Update::Purge { .. } => {
                let count = usize::try_from(*purged.next().expect("a count for each purge")).expect("a count");
                taken_back.extend(changes.by_ref().take(count).map(|change| match change {
                    Change::TakenBack(of) => of.id,
                    Change::Again(_) | Change::Hastened { .. } => panic!("a purge makes {change:?}"),
                }));
            }
        }
    }
    taken_back
}

impl Process {
    /// Runs the writer until the journal is closed. It answers publishers as soon as it knows of a commit, and tells
    /// feed and ledger at its next turn.
    pub(super) async fn run_writer(self: Rc<Self>, mut writer: WriterTask) {
        poll_fn(|context| {
            let answered = self.commits.answered();
            let polled = writer.as_mut().poll(context);
            if answered.is_some_and(|batch| self.commits.announce(batch)) {
                self.world.note(|| "the batch is announced".to_owned());
                if self.world.happens(100) {
                    super::checker::ledger_agrees(&self);
                }
            }
            polled
        })
        .await;
        self.writer_ended.set(true);
    }
}
