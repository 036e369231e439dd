//! The journal's writer over tables in memory, for simulations of the engine: queues, feed, ledger, fence, fan-out
//! tracker and recent cancels are the real ones, and [`Tables`] replace the database. The simulation decides when a
//! batch is gathered, begun, prepared, committed, refused and announced, so that a process can die and other nodes can
//! commit in between.
//!
//! Mirrors [`super::writer`]; what its statements do to rows is in [`tables`].

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::store::fanouts::Fanout;
use crate::store::leases::{ShardNum, ShardSet};
use crate::store::ledger::Ledger;

use super::answers::Answers;
use super::fanout_tracker::FanoutTracker;
use super::feed::Feed;
use super::fence::{FenceResult, shards_of};
use super::ledger_updates::{Committed, apply};
use super::recent_cancels::RecentCancels;
use super::rows::{Change, Updated};
use super::{
    Journal, JournalStats, OwnershipChange, PublishError, PublishRequest, Published, Record, Request, ScannedFanout,
};

mod ownership;
mod rows;
mod tables;
mod transactions;

pub(crate) use self::tables::Tables;

use self::rows::{Rows, Update};

/// Events of this type are so large that two of them fill the feed.
pub(crate) const HUGE: &str = "huge";

static HUGE_BODY: [u8; 17 << 20] = [0; 17 << 20];

/// A process's parts of its journal.
pub(crate) struct Model {
    pub(crate) journal: Journal,
    pub(crate) feed: Arc<Feed>,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) writer: Writer,
}

pub(crate) struct Writer {
    shard_set: ShardSet,
    publishes: mpsc::Receiver<Request>,
    records: mpsc::Receiver<Request>,
    watched: FanoutTracker,
    cancelled: RecentCancels,
    last: EventSeq,
    feed: Arc<Feed>,
    ledger: Arc<Mutex<Ledger>>,
    batch: Batch,
    prepared: Option<(Rows, Written)>,
    written: Option<Written>,
}

#[derive(Default)]
struct Batch {
    publishes: Vec<PublishRequest>,
    records: Vec<Record>,
    barriers: Vec<oneshot::Sender<()>>,
    shifts: Vec<OwnershipChange>,
}

/// What a commit has made true and has not announced yet.
struct Written {
    answers: Vec<Vec<Published>>,
    fanouts: Vec<Fanout>,
    last: EventSeq,
    late: HashSet<DeliveryId>,
    /// Mirrors `Prepared::new`.
    new: Vec<Vec<bool>>,
    updated: Updated,
    purged: Vec<DeliveryId>,
}

impl Model {
    /// Mirrors `Journal::start`; at most `room` records may wait.
    pub(crate) fn start(tables: &Tables, shard_set: &ShardSet, room: usize, now: UnixMillis) -> Self {
        let (publishes, publish_queue) = mpsc::channel(room);
        let (records, record_queue) = mpsc::channel(room);
        let (last, is_clustered) = (tables.last_event(), shard_set.node().is_some());
        let ledger = if is_clustered { Ledger::default() } else { tables.ledger(|_| true, now) };
        let (feed, ledger) =
            (Arc::new(Feed::behind(last, is_clustered, super::Bounds::LIVE.feed_bytes)), Arc::new(Mutex::new(ledger)));
        let writer = Writer {
            shard_set: shard_set.clone(),
            publishes: publish_queue,
            records: record_queue,
            watched: FanoutTracker::default(),
            cancelled: RecentCancels::new(now),
            last,
            feed: feed.clone(),
            ledger: ledger.clone(),
            batch: Batch::default(),
            prepared: None,
            written: None,
        };
        let stats = Arc::new(JournalStats { commits: AtomicU64::new(0), ..JournalStats::default() });
        let room = Arc::new(Semaphore::new(super::PUBLISH_QUEUE_KIB));
        Self { journal: Journal { publishes, records, room, answers: Answers::default(), stats }, feed, ledger, writer }
    }
}

/// A batch, from its first request to its commit.
impl Writer {
    /// Takes up to `most` queued requests of each kind. Returns whether there is a batch; `None` once the journal is
    /// closed and everything is written.
    pub(crate) fn gather(&mut self, most: usize) -> Option<bool> {
        let mut ended = false;
        for _ in 0..most {
            match self.records.try_recv() {
                Ok(Request::Close) => {
                    self.records.close();
                    self.publishes.close();
                }
                Ok(Request::Record(record)) => self.batch.records.push(record),
                Ok(Request::Ownership(shift)) => self.batch.shifts.push(shift),
                Ok(Request::Barrier(done)) => self.batch.barriers.push(done),
                Ok(Request::Publish(_)) | Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    ended = true;
                    break;
                }
            }
        }
        while self.batch.publishes.len() < most
            && let Ok(Request::Publish(request)) = self.publishes.try_recv()
        {
            self.batch.publishes.push(request);
        }
        let Batch { publishes, records, barriers, shifts } = &self.batch;
        let some = !(publishes.is_empty() && records.is_empty() && barriers.is_empty() && shifts.is_empty());
        (some || !ended).then_some(some)
    }

    pub(crate) fn batch(&self) -> &[Record] {
        &self.batch.records
    }

    /// Mirrors `fence::check_fence` and what follows: locks the shards and drops the records of lost ones. Returns the
    /// transaction's number; 0 where transactions have none.
    pub(crate) fn begin(&mut self, tables: &mut Tables, at: Duration) -> u64 {
        if self.shard_set.is_everything() {
            return 0;
        }
        let mut shards = shards_of(&self.batch.records);
        let fence = FenceResult::of(tables.leases.lock(&self.shard_set, &shards));
        shards.retain(|shard| !fence.has_lost(shard.num()));
        let transaction = tables.transactions.begin(self.shard_set.node(), shards, at);
        if !fence.admits_all() {
            self.drop_lost(&fence);
        }
        transaction
    }

    /// Mirrors `Store::resolve_commit` for a batch that the server may have lost: looks for its last event.
    pub(crate) fn is_there(&self, tables: &Tables) -> bool {
        self.accepted().last().is_some_and(|event| tables.has_event(event))
    }

    /// The batch was not committed after all.
    pub(crate) fn take_back(&mut self) {
        self.written = None;
    }

    /// Mirrors `Writer::drop_lost`.
    fn drop_lost(&mut self, fence: &FenceResult) {
        self.batch.records.retain(|record| fence.admits(record));
        if !fence.admits_events() {
            for request in self.batch.publishes.drain(..) {
                let _ = request.answer.send(Err(PublishError::Superseded));
            }
        }
        self.watched.forget(|shard| fence.has_lost(shard));
    }

    /// Mirrors what `Writer::commit` prepares and reads within the transaction.
    pub(crate) fn prepare(&mut self, tables: &Tables, now: UnixMillis) {
        self.feed.discard_expected_after(self.last);
        let mut rows = Rows::default();
        self.prepare_records(&mut rows);
        let mut written = self.prepare_events(tables, &mut rows, now);
        written.late = self.late(tables, now);
        written.new = self.new_among(tables);
        self.prepared = Some((rows, written));
    }

    /// Mirrors `Statements::run` and the commit: all or nothing.
    pub(crate) fn commit(&mut self, tables: &mut Tables, transaction: u64, now: UnixMillis) {
        let Some((rows, mut written)) = self.prepared.take() else { return };
        self.must_be_ours(tables);
        for (event, targets) in rows.events {
            tables.accept(event, targets);
        }
        for fanout in &written.fanouts {
            tables.open_fanout(fanout, transaction);
        }
        for (id, state) in rows.deferrals {
            tables.insert_delivery(id, state);
        }
        for record in &self.batch.records {
            if let Record::Attempt(record) = record {
                tables.upsert_delivery(record.id, record.state);
                tables.insert_attempt(record.id, record.attempt.clone());
            }
        }
        for update in rows.updates {
            match update {
                Update::Cancel(id, at) => written.updated.changes.extend(tables.cancel(id, at)),
                Update::Retry(id, at) => written.updated.changes.extend(tables.retry(id, at)),
                Update::Purge(purge) => {
                    let changes = tables.purge(&purge, now);
                    written.updated.purged.push(changes.len() as u64);
                    written.purged.extend(changes.iter().filter_map(taken_back));
                    written.updated.changes.extend(changes);
                }
            }
        }
        for key in self.watched.ended() {
            tables.end_fanout(*key);
        }
        for record in &self.batch.records {
            if let Record::Health { webhook, health } = record {
                tables.set_health(*webhook, health.clone());
            }
        }
        self.written = Some(written);
    }

    /// Asserts that this node owns, at this moment, every shard that the batch writes to.
    fn must_be_ours(&self, tables: &Tables) {
        let owner = |shard: &ShardNum| tables.leases.owner(WebhookNum(shard.num().into()));
        let shards = shards_of(&self.batch.records);
        let foreign =
            shards.iter().find(|shard| !self.shard_set.is_everything() && owner(shard) != self.shard_set.node());
        assert_eq!(foreign, None, "{:?} writes for a shard of {:?}", self.shard_set.node(), foreign.and_then(owner));
    }

    /// Mirrors what `Writer::settle` does when the database refuses: publishers are told, records are kept. Returns
    /// whether to try the batch again.
    pub(crate) fn refuse(&mut self) -> bool {
        self.prepared = None;
        self.refuse_publishes();
        if self.batch.records.is_empty() {
            self.pass_barriers();
            return false;
        }
        true
    }

    /// The publishers' time is over, whatever becomes of the batch.
    pub(crate) fn refuse_publishes(&mut self) {
        for request in self.batch.publishes.drain(..) {
            let _ = request.answer.send(Err(PublishError::Store("refused".to_owned())));
        }
    }
}

/// What follows a commit.
impl Writer {
    /// The deliveries that purges took back in the committed batch.
    pub(crate) fn purged(&self) -> &[DeliveryId] {
        self.written.as_ref().map_or(&[], |written| &written.purged)
    }

    /// The events that the batch has committed.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = EventSeq> {
        let answers = self.written.iter().flat_map(|written| written.answers.iter().flatten());
        answers.filter_map(|published| match published {
            Published::Accepted(receipt) => Some(receipt.seq),
            Published::Duplicate(_) | Published::Conflict => None,
        })
    }

    /// The first half of `Writer::announce`: publishers are answered before anybody else learns of the commit.
    pub(crate) fn answer(&mut self) {
        let Some(written) = &mut self.written else { return };
        self.watched.committed();
        for (request, answer) in self.batch.publishes.drain(..).zip(written.answers.drain(..)) {
            let _ = request.answer.send(Ok(answer));
        }
    }

    /// The second half of `Writer::announce`. Returns the shards of other nodes that are owed something.
    pub(crate) fn announce(&mut self, now: UnixMillis) -> BTreeSet<ShardNum> {
        let Some(Written { fanouts, last, late, new, updated, .. }) = self.written.take() else {
            return BTreeSet::new();
        };
        self.last = last;
        let is_ours = |fanout: &Fanout| ShardNum::read(fanout.shard).is_ok_and(|shard| self.shard_set.owns(shard));
        let (mut fanouts, foreign): (Vec<Fanout>, Vec<Fanout>) = fanouts.into_iter().partition(is_ours);
        self.feed(&mut fanouts, last);
        let mut records = std::mem::take(&mut self.batch.records);
        let changes = &updated.changes;
        let committed = Committed { fanouts: &fanouts, records: &records, late: &late, changes };
        apply(&mut self.ledger.lock(), &committed, now);
        for id in changes.iter().filter_map(taken_back) {
            self.cancelled.add(id, now);
        }
        self.watch(&mut records, new);
        let mut purged = updated.purged.into_iter();
        for record in records {
            if let Record::Purge { answer, .. } = record {
                let _ = answer.send(purged.next().unwrap_or(0));
            }
        }
        self.pass_barriers();
        foreign.iter().filter_map(|fanout| ShardNum::read(fanout.shard).ok()).collect()
    }

    /// Mirrors `Writer::feed`.
    fn feed(&mut self, fanouts: &mut [Fanout], last: EventSeq) {
        fanouts.sort_by_key(|fanout| fanout.in_order);
        let (at_once, to_find) = fanouts.split_at(fanouts.partition_point(|fanout| !fanout.in_order));
        for kept in self.feed.push(at_once, last) {
            self.watched.begin((kept.event.seq, kept.shard), kept.targets.clone());
        }
        if !to_find.is_empty() {
            self.feed.request_scan();
        }
    }

    /// Mirrors `Writer::watch`.
    fn watch(&mut self, records: &mut Vec<Record>, new: Vec<Vec<bool>>) {
        let is_watch = |record: &mut Record| matches!(record, Record::Watch { .. });
        for (record, new) in records.extract_if(.., is_watch).zip(new) {
            let Record::Watch { fanouts, answer } = record else { continue };
            let epochs = fanouts.iter().zip(new).map(|(found, is_new)| self.start_to_watch(found, is_new));
            let _ = answer.send(epochs.collect());
        }
    }

    /// Mirrors `Writer::start_to_watch`.
    fn start_to_watch(&mut self, ScannedFanout { fanout, is_news }: &ScannedFanout, is_new: bool) -> Option<i64> {
        if !is_new || !self.watched.watch(fanout) {
            return None;
        }
        self.feed.note_scanned((fanout.event.seq, fanout.shard));
        if *is_news {
            self.ledger.lock().owe_all(&fanout.targets, fanout.event.seq);
        }
        Some(self.shard_set.epoch_of(fanout.shard))
    }

    fn pass_barriers(&mut self) {
        for done in self.batch.barriers.drain(..) {
            let _ = done.send(());
        }
    }

    /// Whether this node tracks the event's fan-out for the webhook's shard.
    pub(crate) fn watches(&self, event: EventSeq, webhook: WebhookNum) -> bool {
        self.watched.knows((event, self.shard_set.part_of(webhook).num()))
    }
}

fn taken_back(change: &Change) -> Option<DeliveryId> {
    match change {
        Change::TakenBack(taken_back) => Some(taken_back.id),
        Change::Again(_) | Change::Hastened { .. } => None,
    }
}
