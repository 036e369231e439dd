//! The one task that writes what the hot path records. It gathers requests, commits them in one transaction, then
//! answers. If the database refuses a batch, its publishers are told, and its records are kept and tried again
//! ([`settle`]).

mod claim;
mod ownership;
mod settle;

use std::collections::{BTreeMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::domain::delivery::DeliveryState;
use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::fault;
use crate::host::Host;
use crate::store::StoreError;
use crate::store::cancel::Purge;
use crate::store::fanouts::Fanout;
use crate::store::idempotency::{Once, OnceKey, Seen};
use crate::store::leases::ShardSet;
use crate::store::log::LogBuffer;

use super::assign::{Callers, accept};
use super::batch::{Batch, RECORDS_BESIDE_PUBLISHES};
use super::fanout_tracker::FanoutTracker;
use super::feed::Feed;
use super::fence::{FenceResult, shards_of};
use super::ledger::Ledger;
use super::ledger_updates::{Committed, apply};
use super::recent_cancels::RecentCancels;
use super::remote_shards::RemoteShards;
use super::{
    Draft, JournalBounds, JournalStats, PublishAnswer, PublishError, PublishRequest, Published, Record, Request,
};
use crate::store::journal_db::rows::{Change, Rows, Update, Updated};
use crate::store::journal_db::{JournalDb, JournalTransaction};

use self::settle::{Failure, Undecided};

pub(super) struct Outputs {
    pub(super) feed: Arc<Feed>,
    pub(super) remote_shards: Arc<RemoteShards>,
    pub(super) log: Arc<LogBuffer>,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) stats: Arc<JournalStats>,
}

pub(super) struct Writer {
    db: Arc<dyn JournalDb>,
    host: Host,
    bounds: JournalBounds,
    shard_set: ShardSet,
    publishes: mpsc::Receiver<Request>,
    records: mpsc::Receiver<Request>,
    tracker: FanoutTracker,
    cancelled: RecentCancels,
    /// Records that let a few publishes go first.
    postponed: Vec<Record>,
    /// A publish that came during a batch that it must not join.
    deferred_publish: Option<PublishRequest>,
    last: EventSeq,
    outputs: Outputs,
}

type Answers = Vec<Result<PublishAnswer, PublishError>>;

/// What a transaction has prepared and its commit makes true.
struct Prepared {
    answers: Answers,
    fanouts: Vec<Fanout>,
    last: EventSeq,
    /// Attempts whose delivery was settled before.
    late: HashSet<DeliveryId>,
    updated: Updated,
    /// For each [`Record::Claim`], which of its fan-outs are new.
    claims: Vec<Vec<bool>>,
    statements: u64,
    rows: usize,
    events: usize,
}

impl Prepared {
    fn after(last: EventSeq) -> Self {
        let (answers, fanouts, late, updated) = (Vec::new(), Vec::new(), HashSet::new(), Updated::default());
        Self { answers, fanouts, last, late, updated, claims: Vec::new(), statements: 0, rows: 0, events: 0 }
    }

    async fn write(&mut self, on: &mut dyn JournalTransaction, rows: Rows<'_>) -> Result<Updated, StoreError> {
        self.rows += rows.count();
        let updated = on.write(rows).await?;
        self.statements += updated.statements;
        Ok(updated)
    }
}

impl Writer {
    pub(super) fn new(
        (db, host, bounds): (Arc<dyn JournalDb>, Host, JournalBounds),
        shard_set: ShardSet,
        (publishes, records): (mpsc::Receiver<Request>, mpsc::Receiver<Request>),
        last: EventSeq,
        outputs: Outputs,
    ) -> Self {
        let (tracker, cancelled) = (FanoutTracker::default(), RecentCancels::new(host.now()));
        let (postponed, deferred_publish) = (Vec::new(), None);
        Self {
            db,
            host,
            bounds,
            shard_set,
            publishes,
            records,
            tracker,
            cancelled,
            postponed,
            deferred_publish,
            last,
            outputs,
        }
    }

    /// Runs until the journal is closed and everything is written.
    pub(super) async fn run(mut self) {
        while let Some(mut batch) = self.gather().await {
            let changes = std::mem::take(&mut batch.ownership_changes);
            self.settle(batch).await;
            for change in changes {
                self.change_ownership(change).await;
            }
        }
    }

    /// Waits for the first request and takes what else is queued. If nobody waits for the commit, lingers for more
    /// outcomes.
    async fn gather(&mut self) -> Option<Batch> {
        let mut batch = Batch { records: std::mem::take(&mut self.postponed), ..Batch::default() };
        let have_waited = !batch.records.is_empty();
        batch.publishes.extend(self.deferred_publish.take());
        if !have_waited && batch.publishes.is_empty() {
            batch.add(self.next().await?);
        }
        self.take_waiting(&mut batch);
        let mut patience = pin!(self.host.sleep(self.bounds.linger));
        while batch.can_wait() && batch.records.len() < self.bounds.records {
            tokio::select! {
                biased;
                () = &mut patience => break,
                Some(request) = self.next() => batch.add(request),
                else => break,
            }
            self.take_waiting(&mut batch);
        }
        if !have_waited && batch.may_postpone_records() {
            self.postponed = std::mem::take(&mut batch.records);
        }
        if batch.closing {
            self.records.close();
            self.publishes.close();
        }
        Some(batch)
    }

    async fn next(&mut self) -> Option<Request> {
        tokio::select! {
            biased;
            Some(request) = self.records.recv() => Some(request),
            Some(request) = self.publishes.recv() => Some(request),
            else => None,
        }
    }

    fn take_waiting(&mut self, batch: &mut Batch) {
        while batch.publishes.len() < self.bounds.publishes {
            let Ok(request) = self.publishes.try_recv() else { break };
            batch.add(request);
        }
        // Half of what waits, so that publishes without end do not starve records.
        let beside = (self.records.len() / 2).max(RECORDS_BESIDE_PUBLISHES).min(self.bounds.records);
        let most = if batch.publishes.is_empty() { self.bounds.records } else { beside };
        while batch.records.len() < most && !batch.is_large() {
            let Ok(request) = self.records.try_recv() else { break };
            batch.add(request);
        }
    }

    async fn commit(&mut self, batch: &mut Batch, end: Instant) -> Result<Prepared, Failure> {
        self.outputs.feed.discard_expected_after(self.last);
        let mut transaction = self.db.begin_batch(end).await?;
        let fence = self.check_fence(transaction.as_mut(), &batch.records).await?;
        if !fence.admits_all() {
            self.drop_lost(batch, &fence);
        }
        let mut prepared = Prepared::after(self.last);
        let mut rows = Rows::default();
        self.prepare_records(&batch.records, &mut rows);
        prepared.late = self.settled_before(transaction.as_mut(), &batch.records).await?;
        prepared.updated = prepared.write(transaction.as_mut(), rows).await?;
        prepared.claims = self.claims(transaction.as_mut(), &batch.records, &fence).await?;
        if fence.admits_events() {
            self.admit_new_publishes(batch);
        }
        let batch = &*batch;
        let mut rows = Rows::default();
        self.prepare_events(transaction.as_mut(), &batch.publishes, &mut prepared, &mut rows).await?;
        prepared.write(transaction.as_mut(), rows).await?;
        if prepared.events > 0 {
            fault::point("publish.before_commit");
        }
        if !batch.records.is_empty() {
            fault::point("outcome.before_commit");
        }
        prepared.statements += fence.statements + 2;
        match transaction.commit().await {
            Ok(()) => Ok(prepared),
            Err(error) => {
                Err(Failure::Unanswered(error, Box::new(Undecided { prepared, transaction: fence.transaction })))
            }
        }
    }

    /// Locks the node's row and the shards that the records belong to.
    async fn check_fence(
        &self,
        on: &mut dyn JournalTransaction,
        records: &[Record],
    ) -> Result<FenceResult, StoreError> {
        if self.shard_set.is_everything() {
            return Ok(FenceResult::default());
        }
        Ok(FenceResult::of(on.lock(&self.shard_set, &shards_of(records)).await?))
    }

    /// The attempts among the records whose delivery was settled before.
    async fn settled_before(
        &mut self,
        on: &mut dyn JournalTransaction,
        records: &[Record],
    ) -> Result<HashSet<DeliveryId>, StoreError> {
        let doubtful = self.cancelled.doubtful_among(records, self.host.now());
        if doubtful.is_empty() { Ok(HashSet::new()) } else { on.settled_among(&doubtful).await }
    }

    /// Admits publishes that arrived while the records were written, so that they need not wait for the next commit.
    /// Ordered events on several nodes are excluded: another node may have accepted an event before ours, in a later
    /// transaction than this batch, and scans, which go by transaction numbers, would find that event after ours.
    fn admit_new_publishes(&mut self, batch: &mut Batch) {
        while batch.publishes.len() < self.bounds.publishes && self.deferred_publish.is_none() {
            match self.publishes.try_recv() {
                Ok(Request::Publish(request)) if self.must_be_deferred(&request) => {
                    self.deferred_publish = Some(request);
                }
                Ok(request) => batch.add(request),
                Err(_) => break,
            }
        }
    }

    fn must_be_deferred(&self, request: &PublishRequest) -> bool {
        request.is_ordered() && !self.shard_set.is_everything()
    }

    /// Drops the records of lost shards, which other nodes write, and refuses publishes if this node was reaped.
    fn drop_lost(&mut self, batch: &mut Batch, fence: &FenceResult) {
        let before = batch.records.len();
        batch.records.retain(|record| fence.admits(record));
        let dropped = before - batch.records.len();
        JournalStats::add(&self.outputs.stats.fenced, dropped);
        tracing::warn!(dropped, "records of lost shards dropped; their new owners will send those deliveries again");
        if !fence.admits_events() {
            let has_diverged = self.shard_set.has_diverged();
            for request in batch.publishes.drain(..) {
                let why = if has_diverged { PublishError::Diverged } else { PublishError::Reaped };
                let _ = request.answer.send(Err(why));
            }
        }
        self.tracker.forget(|shard| fence.has_lost(shard));
    }

    async fn prepare_events(
        &self,
        on: &mut dyn JournalTransaction,
        publishes: &[PublishRequest],
        prepared: &mut Prepared,
        rows: &mut Rows<'_>,
    ) -> Result<(), StoreError> {
        if publishes.iter().any(|request| self.must_be_deferred(request)) {
            // An ordered event's key must exceed every key visible in this transaction, whatever the clock says.
            prepared.last = prepared.last.max(on.newest_event().await?);
            prepared.statements += 1;
        }
        let now = self.host.now();
        let mut callers = Callers::default();
        for request in publishes {
            if let Some(once) = &request.once
                && let Some(answer) = self.answered_before(on, once).await?
            {
                prepared.answers.push(answer);
                continue;
            }
            if let Some(sequence) = request.operational
                && !on.take_operational(sequence).await?
            {
                prepared.answers.push(Ok(PublishAnswer { published: Vec::new(), is_repeated: true }));
                continue;
            }
            let mut published = Vec::with_capacity(request.drafts.len());
            for draft in &request.drafts {
                published.push(self.prepare_event(on, draft, &mut callers, prepared, rows, now).await?);
            }
            if let Some(key) = &request.once {
                let answer = serde_json::to_vec(&published).map_err(|e| StoreError::unreadable("answer", e))?;
                let once = Once { key: key.clone(), status: 202, answer };
                on.remember(once, now).await?;
            }
            prepared.answers.push(Ok(PublishAnswer { published, is_repeated: false }));
        }
        Ok(())
    }

    async fn answered_before(
        &self,
        on: &mut dyn JournalTransaction,
        once: &OnceKey,
    ) -> Result<Option<Result<PublishAnswer, PublishError>>, StoreError> {
        let unreadable = |error: String| Some(Err(PublishError::Unreadable(error)));
        Ok(match on.seen(once).await {
            Ok(Seen::New) => None,
            Ok(Seen::Otherwise) => Some(Err(PublishError::KeyReused)),
            Ok(Seen::Before { answer, .. }) => match serde_json::from_slice(&answer) {
                Ok(published) => Some(Ok(PublishAnswer { published, is_repeated: true })),
                Err(error) => unreadable(error.to_string()),
            },
            // Only this publisher is refused; the rest of the batch is sound.
            Err(error @ StoreError::Unreadable { .. }) => unreadable(error.to_string()),
            Err(error) => return Err(error),
        })
    }

    async fn prepare_event(
        &self,
        on: &mut dyn JournalTransaction,
        draft: &Draft,
        callers: &mut Callers,
        prepared: &mut Prepared,
        rows: &mut Rows<'_>,
        now: UnixMillis,
    ) -> Result<Published, StoreError> {
        if let Some(caller) = &draft.caller
            && let Some(known) = callers.recognise(on, draft.tenant, caller).await?
        {
            return Ok(known);
        }
        prepared.last = prepared.last.next(self.shard_set.slot(), now);
        prepared.events += 1;
        let (new, receipt) = accept(draft.clone(), prepared.last, now);
        if let Some(caller) = &new.caller {
            callers.learn(draft.tenant, caller, receipt);
        }
        let (event, parts) = (new.event.clone(), self.parts_of(&new.targets));
        rows.events.push(new);
        let in_order = draft.is_ordered && !self.shard_set.is_everything();
        for (shard, targets) in parts {
            if in_order && self.is_ours(shard) {
                self.outputs.feed.expect_in_scan((prepared.last, shard));
            }
            rows.fanouts.push(((prepared.last, shard), targets.clone()));
            prepared.fanouts.push(Fanout { event: event.clone(), shard, targets, in_order });
        }
        Ok(Published::Accepted(receipt))
    }

    /// Splits the targets by shard, in order.
    fn parts_of(&self, targets: &Arc<[WebhookNum]>) -> Vec<(i16, Arc<[WebhookNum]>)> {
        if targets.is_empty() {
            return Vec::new();
        }
        if self.shard_set.is_everything() {
            return vec![(ShardNum::WHOLE.num(), targets.clone())];
        }
        let mut parts: BTreeMap<i16, Vec<WebhookNum>> = BTreeMap::new();
        for webhook in targets.iter() {
            parts.entry(self.shard_set.part_of(*webhook).num()).or_default().push(*webhook);
        }
        parts.into_iter().map(|(shard, targets)| (shard, targets.into())).collect()
    }

    /// Turns records into rows. A retry of the batch marks the same targets again, which changes nothing.
    fn prepare_records<'a>(&mut self, records: &'a [Record], rows: &mut Rows<'a>) {
        for record in records {
            match record {
                Record::Attempt(record) => {
                    rows.delivery(record.id, record.state);
                    rows.attempts.push((record.id, &record.attempt));
                    rows.operational.extend(record.tells.as_deref());
                    self.tracker.mark(record.id);
                }
                Record::Defer { id, .. } if !self.tracker.may_get_row(*id, &self.shard_set) => {}
                Record::Defer { id, next_at } => {
                    rows.deferrals.push((*id, DeliveryState::pending(Some(*next_at))));
                    self.tracker.mark(*id);
                }
                Record::Cancel { id, at, operation } => {
                    rows.deferrals.push((*id, DeliveryState::pending(Some(*at))));
                    rows.updates.push(Update::Cancel { id: *id, at: *at, operation: *operation });
                    self.tracker.mark(*id);
                }
                Record::Retry { id, at, operation } => {
                    rows.updates.push(Update::Retry { id: *id, at: *at, operation: *operation });
                }
                Record::Owe { id, at, operation } => {
                    rows.updates.push(Update::Owe { id: *id, at: *at, operation: *operation });
                }
                Record::Health { webhook, health, tells } => {
                    rows.health.insert(*webhook, health);
                    rows.operational.extend(tells.as_deref());
                }
                Record::Purge { webhook, through, except, .. } => {
                    let purge = Purge { webhook: *webhook, through: *through, except: except.clone() };
                    rows.updates.push(Update::Purge { purge, at: self.host.now() });
                }
                Record::Track { fanout } => self.tracker.track(fanout),
                Record::Mark { event, recorded, .. } => self.tracker.mark_all(*event, recorded),
                // Writes nothing: the record is answered once earlier ones are committed.
                Record::Claim { .. } => {}
            }
        }
        rows.ended.extend(self.tracker.ended());
    }

    /// Answers publishers, recorders and barriers: the batch is durable.
    async fn announce(&mut self, mut batch: Batch, prepared: Prepared) {
        let Prepared { answers, fanouts, last, late, updated, claims, statements, rows, events } = prepared;
        if events > 0 {
            fault::point("publish.after_commit");
        }
        if !batch.records.is_empty() {
            fault::point("outcome.after_commit");
        }
        self.last = last;
        self.tracker.committed();
        for (request, answer) in batch.publishes.drain(..).zip(answers) {
            // The publisher may publish again as soon as it has its answer, so its memory is free before.
            drop(request.room);
            let _ = request.answer.send(answer);
        }
        // Lets the answers leave before a large fan-out keeps every core busy.
        tokio::task::yield_now().await;
        let is_ours = |fanout: &Fanout| self.is_ours(fanout.shard);
        let (mut fanouts, foreign): (Vec<Fanout>, Vec<Fanout>) = fanouts.into_iter().partition(is_ours);
        self.outputs.remote_shards.add(foreign.iter().filter_map(|fanout| ShardNum::try_from(fanout.shard).ok()));
        self.feed(&mut fanouts, last);
        let changes = &updated.changes;
        self.tell_ledger(&Committed { fanouts: &fanouts, records: &batch.records, late: &late, changes });
        self.answer_claims(&mut batch.records, claims);
        let records = std::mem::take(&mut batch.records);
        let attempts = self.tell_recorders(records, updated.purged);
        batch.pass_barriers();
        let stats = &self.outputs.stats;
        JournalStats::add(&stats.commits, 1);
        JournalStats::add(&stats.statements, usize::try_from(statements).unwrap_or(0));
        JournalStats::add(&stats.rows, rows);
        JournalStats::add(&stats.events, events);
        JournalStats::add(&stats.attempts, attempts);
    }

    fn is_ours(&self, shard: i16) -> bool {
        ShardNum::try_from(shard).is_ok_and(|shard| self.shard_set.owns(shard))
    }

    /// Tracks the fan-outs that the dispatcher gets from memory.
    fn feed(&mut self, fanouts: &mut [Fanout], last: EventSeq) {
        let feed = &self.outputs.feed;
        fanouts.sort_by_key(|fanout| fanout.in_order);
        let (at_once, to_find) = fanouts.split_at(fanouts.partition_point(|fanout| !fanout.in_order));
        for kept in feed.push(at_once, last) {
            self.tracker.begin((kept.event.seq, kept.shard), kept.targets.clone());
        }
        if !to_find.is_empty() {
            feed.request_scan();
        }
    }

    fn tell_ledger(&mut self, committed: &Committed<'_>) {
        let now = self.host.now();
        let ended = apply(&mut self.outputs.ledger.lock(), committed, now);
        let counters = self.outputs.stats.ended.iter();
        counters.zip(ended.counts()).for_each(|(counter, count)| JournalStats::add(counter, count));
        for change in committed.changes {
            if let Change::TakenBack(taken_back) = change {
                self.cancelled.add(taken_back.id, now);
            }
        }
    }

    /// The key up to which every delivery of every event known here has a row: the log index is complete to there.
    fn complete_to(&self) -> EventSeq {
        let feed = &self.outputs.feed;
        let committed = if self.shard_set.is_everything() {
            self.last.min(feed.handed_out_through())
        } else if feed.is_idle() {
            // Other nodes give keys, too, so this node's newest key is no bound.
            EventSeq::first_at(self.host.now())
        } else {
            feed.handed_out_through()
        };
        self.tracker.oldest().map_or(committed, |oldest| EventSeq(oldest.0 - 1).min(committed))
    }

    fn tell_recorders(&mut self, records: Vec<Record>, purged: Vec<u64>) -> usize {
        let mut purged = purged.into_iter();
        let mut attempts = 0;
        let mut recorded = Vec::with_capacity(records.len());
        for record in records {
            match record {
                Record::Attempt(record) => {
                    attempts += 1;
                    if record.attempt.number == 1 {
                        recorded.push(record.id);
                    }
                }
                Record::Defer { id, .. } | Record::Cancel { id, .. } | Record::Owe { id, .. } => recorded.push(id),
                Record::Purge { answer, .. } => {
                    let _ = answer.send(purged.next().unwrap_or(0));
                }
                Record::Retry { .. } | Record::Health { .. } => {}
                Record::Track { .. } | Record::Mark { .. } | Record::Claim { .. } => {}
            }
        }
        self.outputs.log.push(&mut recorded, self.complete_to());
        attempts
    }
}
