//! The journal's writer over tables in memory, for simulations of the engine: the real queues, feed, ledger, open
//! fan-outs and late outcomes, and in place of the database [`Tables`]. Whoever drives it decides when a batch is
//! gathered, committed, refused and announced, so that a process can die in between.
//!
//! Mirrors [`super::writer`]; what its statements do to rows is in [`tables`].

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::clock::UnixMillis;
use crate::id::{DeliveryId, EventSeq, Slot, WebhookNum};
use crate::store::cancel::Purge;
use crate::store::deliveries::DeliveryState;
use crate::store::events::Event;
use crate::store::fanouts::Fanout;
use crate::store::ledger::Ledger;

use super::assign::accept;
use super::feed::Feed;
use super::late::Cancelled;
use super::open::{FanoutKey, OpenFanouts};
use super::tell::{Committed, tell};
use super::updates::Updated;
use super::{Journal, JournalStats, PublishError, PublishRequest, Published, Record, Request};

mod tables;

pub(crate) use self::tables::Tables;

/// Events of this type are so large that two of them fill the feed.
pub(crate) const HUGE: &str = "huge";

static HUGE_BODY: [u8; 17 << 20] = [0; 17 << 20];

/// What a process has of its journal.
pub(crate) struct Model {
    pub(crate) journal: Journal,
    pub(crate) feed: Arc<Feed>,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) writer: Writer,
}

pub(crate) struct Writer {
    publishes: mpsc::Receiver<Request>,
    records: mpsc::Receiver<Request>,
    open: OpenFanouts,
    ended: Vec<FanoutKey>,
    cancelled: Cancelled,
    last: EventSeq,
    feed: Arc<Feed>,
    ledger: Arc<Mutex<Ledger>>,
    batch: Batch,
    written: Option<Written>,
}

#[derive(Default)]
struct Batch {
    publishes: Vec<PublishRequest>,
    records: Vec<Record>,
    barriers: Vec<oneshot::Sender<()>>,
}

/// What a commit has made true and nobody was told of yet.
struct Written {
    answers: Vec<Vec<Published>>,
    fanouts: Vec<Fanout>,
    last: EventSeq,
    late: HashSet<DeliveryId>,
    updated: Updated,
}

/// What a batch writes.
#[derive(Default)]
struct Rows {
    events: Vec<(Arc<Event>, Arc<[WebhookNum]>)>,
    deferrals: Vec<(DeliveryId, DeliveryState)>,
    updates: Vec<Update>,
}

enum Update {
    Cancel(DeliveryId, UnixMillis),
    Retry(DeliveryId, UnixMillis),
    Purge(Purge),
}

impl Model {
    /// Mirrors `Journal::start`; at most `room` records may wait.
    pub(crate) fn start(tables: &Tables, room: usize, now: UnixMillis) -> Self {
        let (publishes, publish_queue) = mpsc::channel(room);
        let (records, record_queue) = mpsc::channel(room);
        let last = tables.last_event();
        let (feed, ledger) = (Arc::new(Feed::behind(last, false)), Arc::new(Mutex::new(tables.ledger(now))));
        let writer = Writer {
            publishes: publish_queue,
            records: record_queue,
            open: OpenFanouts::default(),
            ended: Vec::new(),
            cancelled: Cancelled::new(now),
            last,
            feed: feed.clone(),
            ledger: ledger.clone(),
            batch: Batch::default(),
            written: None,
        };
        let stats = Arc::new(JournalStats { commits: AtomicU64::new(0), ..JournalStats::default() });
        let room = Arc::new(Semaphore::new(super::PUBLISH_QUEUE_KIB));
        Self { journal: Journal { publishes, records, room, stats }, feed, ledger, writer }
    }
}

impl Writer {
    /// Takes at most so many requests that wait, of each kind. Answers whether there is a batch now; `None` once the
    /// journal is closed and everything is written.
    pub(crate) fn gather(&mut self, most: usize) -> Option<bool> {
        let mut ended = false;
        for _ in 0..most {
            match self.records.try_recv() {
                Ok(Request::Close) => {
                    self.records.close();
                    self.publishes.close();
                }
                Ok(Request::Record(record)) => self.batch.records.push(record),
                Ok(Request::Shift(_)) => unreachable!("one process has everything"),
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
        let Batch { publishes, records, barriers } = &self.batch;
        let some = !(publishes.is_empty() && records.is_empty() && barriers.is_empty());
        (some || !ended).then_some(some)
    }

    /// What is in the batch.
    pub(crate) fn batch(&self) -> &[Record] {
        &self.batch.records
    }

    /// Mirrors `Writer::commit`: all or nothing.
    pub(crate) fn commit(&mut self, tables: &mut Tables, now: UnixMillis) {
        let mut rows = Rows::default();
        let mut written = self.prepare_events(&mut rows, now);
        self.prepare_records(&mut rows);
        written.late = self.late(tables, now);
        for (event, targets) in rows.events {
            tables.accept(event, targets);
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
                    written.updated.changes.extend(changes);
                }
            }
        }
        for key in &self.ended {
            tables.end_fanout(*key);
        }
        for record in &self.batch.records {
            if let Record::Health { webhook, health } = record {
                tables.set_health(*webhook, *health);
            }
        }
        self.written = Some(written);
    }

    /// Mirrors what `Writer::settle` does when the database refuses: publishers are told, records are kept. Answers
    /// whether the batch is to be tried again.
    pub(crate) fn refuse(&mut self, after_preparing: bool) -> bool {
        if after_preparing {
            self.prepare_records(&mut Rows::default());
        }
        for request in self.batch.publishes.drain(..) {
            let _ = request.answer.send(Err(PublishError::Store("refused".to_owned())));
        }
        if self.batch.records.is_empty() {
            self.pass_barriers();
            return false;
        }
        true
    }

    /// The first half of `Writer::announce`: publishers are answered before anybody else hears of the commit.
    pub(crate) fn answer(&mut self) {
        let Some(written) = &mut self.written else { return };
        for (request, answer) in self.batch.publishes.drain(..).zip(written.answers.drain(..)) {
            let _ = request.answer.send(Ok(answer));
        }
    }

    /// The second half of `Writer::announce`.
    pub(crate) fn announce(&mut self, now: UnixMillis) {
        let Some(Written { answers: _, fanouts, last, late, updated }) = self.written.take() else { return };
        self.last = last;
        self.ended.clear();
        for kept in self.feed.push(&fanouts, last) {
            self.open.insert((kept.event.seq, kept.shard), kept.targets.clone());
        }
        let records = std::mem::take(&mut self.batch.records);
        let changes = &updated.changes;
        let committed = Committed { fanouts: &fanouts, records: &records, late: &late, changes };
        tell(&mut self.ledger.lock(), &committed, now);
        for change in changes {
            if let super::updates::Change::TakenBack(taken_back) = change {
                self.cancelled.add(taken_back.id, now);
            }
        }
        let mut purged = updated.purged.into_iter();
        for record in records {
            if let Record::Purge { answer, .. } = record {
                let _ = answer.send(purged.next().unwrap_or(0));
            }
        }
        self.pass_barriers();
    }

    fn pass_barriers(&mut self) {
        for done in self.batch.barriers.drain(..) {
            let _ = done.send(());
        }
    }

    fn prepare_events(&self, rows: &mut Rows, now: UnixMillis) -> Written {
        let mut written = Written {
            answers: Vec::new(),
            fanouts: Vec::new(),
            last: self.last,
            late: HashSet::new(),
            updated: Updated::default(),
        };
        for request in &self.batch.publishes {
            let mut answers = Vec::new();
            for draft in &request.drafts {
                written.last = written.last.next(Slot::ALONE, now);
                let (new, receipt) = accept(draft.clone(), written.last, now);
                let mut event = new.event;
                if event.kind == HUGE {
                    event = Arc::new(Event { body: Bytes::from_static(&HUGE_BODY), ..Event::clone(&event) });
                }
                rows.events.push((event.clone(), new.targets.clone()));
                if !new.targets.is_empty() {
                    written.fanouts.push(Fanout { event, shard: 0, targets: new.targets });
                }
                answers.push(Published::Accepted(receipt));
            }
            written.answers.push(answers);
        }
        written
    }

    /// Mirrors `Writer::prepare_records`.
    fn prepare_records(&mut self, rows: &mut Rows) {
        let records = std::mem::take(&mut self.batch.records);
        for record in &records {
            match record {
                Record::Attempt(record) => self.mark(record.id),
                Record::Defer { id, next_at } => {
                    rows.deferrals.push((*id, DeliveryState::pending(Some(*next_at))));
                    self.mark(*id);
                }
                Record::Cancel { id, at } => {
                    rows.deferrals.push((*id, DeliveryState::pending(Some(*at))));
                    rows.updates.push(Update::Cancel(*id, *at));
                    self.mark(*id);
                }
                Record::Retry { id, at } => rows.updates.push(Update::Retry(*id, *at)),
                Record::Purge { webhook, through, except, .. } => {
                    let (webhook, through, except) = (*webhook, *through, except.clone());
                    rows.updates.push(Update::Purge(Purge { webhook, through, except }));
                }
                Record::Adopt { fanout } => self.adopt(fanout),
                Record::Mark { event, shard, recorded } => self.mark_all((*event, *shard), recorded),
                Record::Watch { .. } | Record::Health { .. } => {}
            }
        }
        self.batch.records = records;
    }

    fn mark(&mut self, id: DeliveryId) {
        self.ended.extend(self.open.record(id.event, id.webhook));
    }

    fn adopt(&mut self, fanout: &Fanout) {
        let key = (fanout.event.seq, fanout.shard);
        if !self.ended.contains(&key) {
            self.open.insert(key, fanout.targets.clone());
        }
    }

    fn mark_all(&mut self, key: FanoutKey, recorded: &[WebhookNum]) {
        for webhook in recorded {
            self.mark(DeliveryId { event: key.0, webhook: *webhook });
        }
    }

    /// Mirrors `Cancelled::late`.
    fn late(&mut self, tables: &Tables, now: UnixMillis) -> HashSet<DeliveryId> {
        self.cancelled.forget_old(now);
        let attempts = self.batch.records.iter().filter_map(|record| match record {
            Record::Attempt(record) => Some(record.id),
            _ => None,
        });
        attempts.filter(|id| self.cancelled.may_include(*id) && tables.is_settled(*id)).collect()
    }
}
