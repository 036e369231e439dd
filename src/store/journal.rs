//! Group commit. Everything that the hot path makes durable goes through one writer: accepted events with their
//! fan-outs, outcomes, deferrals, finished fan-outs.
//!
//! A bounded queue on this side, a writer on the other. A batch is what gathered while the last commit was under
//! way; an idle journal commits at once. Answers are given after the commit. A full queue pushes back: publishers are
//! refused, and whoever wants to record something reserves its [`Slot`] before it acts, so an outcome that happened
//! always has room.

pub mod feed;
pub mod outage;
pub mod outstanding;
pub mod remote_shards;

mod answers;
mod assign;
mod batch;
mod claim;
mod fanout_tracker;
mod fence;
mod ledger_updates;
#[cfg(test)]
pub(crate) mod model;
mod ownership;
mod recent_cancels;
mod statements;
mod updates;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::domain::id::{DeliveryId, EventSeq, TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;

use self::answers::Answers;
use self::feed::Feed;
use self::outage::Outage;
use self::remote_shards::RemoteShards;
use super::backlog::Backlog;
use super::deliveries::{Attempt, DeliveryState};
use super::fanouts::Fanout;
use super::health::Health;
use super::idempotency::OnceKey;
use super::leases::{AcquiredShard, Membership, ShardNum, ShardSet};
use super::log::LogBuffer;
use super::{Store, StoreError};
use crate::fault::or_abort;

/// Publish requests that may wait for the next batch.
const PUBLISH_QUEUE: usize = 4096;

/// Outcomes and deferrals that may wait. An attempt in flight holds one place.
const RECORD_QUEUE: usize = 16_384;

/// What publishes that wait may keep in memory, in KiB: 64 MiB.
const PUBLISH_QUEUE_KIB: usize = 64 * 1024;

/// An event that is about to be accepted. Its key and its body are made by the writer, in the order of commit.
#[derive(Debug, Clone)]
pub struct Draft {
    pub tenant: TenantNum,
    pub kind: Arc<str>,
    /// `None`: the moment of acceptance.
    pub occurred_at: Option<UnixMillis>,
    /// The caller's JSON, to the byte.
    pub data: Box<RawValue>,
    pub caller: Option<Caller>,
    /// The engines that it has come through.
    pub trail: Option<Arc<str>>,
    /// Whom it is owed to, ascending.
    pub targets: Arc<[WebhookNum]>,
    /// One of them gets its events in order: of the nodes that share a database, none may have accepted one before and this
    /// one come first.
    pub is_ordered: bool,
}

impl Draft {
    /// What it costs to keep in memory, roughly.
    fn bytes(&self) -> usize {
        self.data.get().len() + self.targets.len() * size_of::<WebhookNum>()
    }
}

/// The id by which the caller knows the event, and a digest of what it said under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub id: String,
    pub digest: [u8; 32],
}

/// What became of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Published {
    Accepted(Receipt),
    /// The caller's id was seen before, with the same content.
    Duplicate(Receipt),
    /// The caller's id was seen before, with other content.
    Conflict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub seq: EventSeq,
    pub occurred_at: UnixMillis,
    pub matched: u32,
}

/// Why a publish was not committed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The queue is full; nothing was kept.
    #[error("the journal is full")]
    Full,
    #[error("the journal has stopped")]
    Stopped,
    /// Another node has taken over; nothing was kept.
    #[error("another node has taken over")]
    Deposed,
    /// The database has lost transactions, and what follows of that is not read yet; nothing was kept.
    #[error("the database lacks transactions that it had; what this node knows is read again")]
    Diverged,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// What was answered to this idempotency key before cannot be read any more.
    #[error("{0}")]
    Unreadable(String),
    /// The database refused the batch, and nothing was kept; or it did not say in time whether it took it.
    #[error("{0}")]
    Store(String),
}

/// Something that happened to a delivery.
#[derive(Debug)]
pub enum Record {
    /// An attempt was made; `state` is where it leaves the delivery.
    Attempt(Box<AttemptRecord>),
    /// It cannot be served from memory now and becomes a row that is due at `next_at`.
    Defer { id: DeliveryId, next_at: UnixMillis },
    /// It will never be sent. What is settled already stays as it is.
    Cancel { id: DeliveryId, at: UnixMillis },
    /// A manual retry is wanted now; what the delivery falls back to is kept beside it.
    Retry { id: DeliveryId, at: UnixMillis },
    /// What an endpoint has learnt of its receiver.
    Health { webhook: WebhookNum, health: Health },
    /// What rows owe this webhook up to `through` is cancelled or, where merely one more
    /// attempt was wanted, again what it was: the oldest of it, a bounded number at a time. Not `except`, whose
    /// requests are under way. The answer is how many deliveries that were; whoever purges asks until it is none.
    Purge { webhook: WebhookNum, through: EventSeq, except: Vec<EventSeq>, answer: oneshot::Sender<u64> },
    /// The dispatcher starts on a fan-out that it read back from the store.
    Adopt { fanout: Fanout },
    /// The same with fan-outs of which it does not know whether it has started on them; the answer is, of those that are
    /// new, under which epoch of their shards they are watched from now on.
    Watch { fanouts: Vec<ScannedFanout>, answer: oneshot::Sender<Vec<Option<i64>>> },
    /// These targets of a fan-out have rows, as far as the fan-out is watched.
    Mark { event: EventSeq, shard: i16, recorded: Vec<WebhookNum> },
}

/// A fan-out that was found in the store.
#[derive(Debug, Clone)]
pub struct ScannedFanout {
    pub fanout: Fanout,
    /// Whether it became visible after its shard was gained, and is no event of this node.
    pub is_news: bool,
}

#[derive(Debug)]
pub struct AttemptRecord {
    pub id: DeliveryId,
    pub attempt: Attempt,
    pub state: DeliveryState,
    counted: Option<answers::Counted>,
}

impl AttemptRecord {
    #[must_use]
    pub fn new(id: DeliveryId, attempt: Attempt, state: DeliveryState) -> Self {
        Self { id, attempt, state, counted: None }
    }
}

/// Counts since the start, for the metrics and the benchmark.
#[derive(Debug, Default)]
pub struct JournalStats {
    pub commits: AtomicU64,
    pub failed_commits: AtomicU64,
    pub statements: AtomicU64,
    pub rows: AtomicU64,
    pub events: AtomicU64,
    pub attempts: AtomicU64,
    /// Records that were another node's to write.
    pub fenced: AtomicU64,
    /// Rows whose event is gone that were ended.
    pub orphans: AtomicU64,
    /// How often the database was found to lack transactions that it had.
    pub divergences: AtomicU64,
    pub outage: Mutex<Outage>,
}

impl JournalStats {
    fn add(counter: &AtomicU64, by: usize) {
        counter.fetch_add(by as u64, Ordering::Relaxed);
    }
}

enum Request {
    Publish(PublishRequest),
    Record(Record),
    /// Told when everything before it is committed.
    Barrier(oneshot::Sender<()>),
    /// To be done when everything before it is committed.
    Ownership(OwnershipChange),
    /// Take nothing new, write what is there, end.
    Close,
}

/// A change of what this node holds.
enum OwnershipChange {
    /// These were taken, and are served from now on. Answers whether what they are owed could be counted.
    Activate(Vec<AcquiredShard>, oneshot::Sender<Result<(), StoreError>>),
    /// Nothing is recorded for these any more.
    Detach(Vec<ShardNum>, oneshot::Sender<()>),
    /// The database is at another history: everything that is held is parted with, and the node is another one.
    Rejoin(Membership, oneshot::Sender<()>),
}

struct PublishRequest {
    drafts: Vec<Draft>,
    once: Option<OnceKey>,
    answer: oneshot::Sender<Result<Vec<Published>, PublishError>>,
    room: OwnedSemaphorePermit,
}

impl PublishRequest {
    fn is_ordered(&self) -> bool {
        self.drafts.iter().any(|draft| draft.is_ordered)
    }
}

/// The way into the writer. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    publishes: mpsc::Sender<Request>,
    records: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
    answers: Answers,
    stats: Arc<JournalStats>,
}

/// The writer's task and what it produces.
pub struct Running {
    pub journal: Journal,
    /// Committed fan-outs, in order.
    pub feed: Arc<Feed>,
    /// Shards of other nodes that events were committed for.
    pub remote_shards: Arc<RemoteShards>,
    /// Delivery rows that the log index does not show yet.
    pub log: Arc<LogBuffer>,
    /// What every webhook is owed.
    pub ledger: Backlog,
    /// Ends after [`Journal::close`], when everything is written and every reserved [`Slot`] is used or dropped.
    pub writer: JoinHandle<()>,
}

/// A reserved place in the queue.
pub struct Slot {
    place: mpsc::OwnedPermit<Request>,
    answers: Answers,
}

impl Slot {
    pub fn record(self, mut record: Record) {
        self.answers.admit(&mut record);
        self.place.send(Request::Record(record));
    }
}

/// The writer has ended: the process is stopping.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the journal has stopped")]
pub struct Stopped;

impl Journal {
    /// Starts the writer behind `store`, for what this process holds.
    pub async fn start(store: &Store, shard_set: &ShardSet) -> Result<Running, StoreError> {
        let (publishes, publish_queue) = mpsc::channel(PUBLISH_QUEUE);
        let (records, record_queue) = mpsc::channel(RECORD_QUEUE);
        let stats = Arc::new(JournalStats::default());
        let last = store.last_event().await?;
        let (feed, remote_shards) =
            (Arc::new(Feed::behind(last, store.is_clustered())), Arc::new(RemoteShards::default()));
        let log = Arc::new(LogBuffer::default());
        let ledger = Arc::new(Mutex::new(store.ledger(&shard_set.served(), UnixMillis::now()).await?.0));
        let outputs = writer::Outputs {
            feed: feed.clone(),
            remote_shards: remote_shards.clone(),
            log: log.clone(),
            ledger: ledger.clone(),
            stats: stats.clone(),
        };
        let queues = (publish_queue, record_queue);
        let writer = writer::Writer::new(store.clone(), shard_set.clone(), queues, last, outputs);
        let writer = tokio::spawn(or_abort("the journal's writer", writer.run()));
        let room = Arc::new(Semaphore::new(PUBLISH_QUEUE_KIB));
        let journal = Self { publishes, records, room, answers: Answers::default(), stats };
        let ledger = Backlog::new(ledger, store.clone(), journal.clone());
        Ok(Running { journal, feed, remote_shards, log, ledger, writer })
    }

    /// Commits the drafts together with their fan-outs and whatever else is in their batch.
    pub async fn publish(&self, drafts: Vec<Draft>, once: Option<OnceKey>) -> Result<Vec<Published>, PublishError> {
        let kib = drafts.iter().map(Draft::bytes).sum::<usize>().div_ceil(1024);
        let kib = u32::try_from(kib.min(PUBLISH_QUEUE_KIB)).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_many_owned(kib).map_err(|_| PublishError::Full)?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Publish(PublishRequest { drafts, once, answer, room });
        self.publishes.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PublishError::Full,
            mpsc::error::TrySendError::Closed(_) => PublishError::Stopped,
        })?;
        answered.await.unwrap_or(Err(PublishError::Stopped))
    }

    /// Waits for a place in the queue.
    pub async fn reserve(&self) -> Result<Slot, Stopped> {
        let place = self.records.clone().reserve_owned().await.map_err(|_| Stopped)?;
        Ok(Slot { place, answers: self.answers.clone() })
    }

    pub async fn record(&self, mut record: Record) -> Result<(), Stopped> {
        self.answers.admit(&mut record);
        self.records.send(Request::Record(record)).await.map_err(|_| Stopped)
    }

    /// Like [`Self::record`], if there is room right now.
    ///
    /// # Errors
    ///
    /// The record, when there is not.
    pub fn try_record(&self, mut record: Record) -> Result<(), Record> {
        match self.records.try_reserve() {
            Ok(place) => {
                self.answers.admit(&mut record);
                place.send(Request::Record(record));
                Ok(())
            }
            Err(_) => Err(record),
        }
    }

    /// Cancels what rows owe this webhook up to `through`, but not `except`, in steps between which others have their
    /// turn. Answers how many deliveries that were.
    pub async fn purge(&self, webhook: WebhookNum, through: EventSeq, except: &[EventSeq]) -> Result<u64, Stopped> {
        let mut purged = 0;
        loop {
            let (answer, answered) = oneshot::channel();
            self.record(Record::Purge { webhook, through, except: except.to_vec(), answer }).await?;
            match answered.await.map_err(|_| Stopped)? {
                0 => return Ok(purged),
                some => purged += some,
            }
        }
    }

    /// Waits until everything that was recorded before is committed.
    pub async fn barrier(&self) -> Result<(), Stopped> {
        let (done, told) = oneshot::channel();
        self.records.send(Request::Barrier(done)).await.map_err(|_| Stopped)?;
        told.await.map_err(|_| Stopped)
    }

    /// Serves what was taken, from now on.
    pub async fn activate(&self, acquired: Vec<AcquiredShard>) -> Result<Result<(), StoreError>, Stopped> {
        let (done, told) = oneshot::channel();
        self.records.send(Request::Ownership(OwnershipChange::Activate(acquired, done))).await.map_err(|_| Stopped)?;
        told.await.map_err(|_| Stopped)
    }

    /// After this nothing is recorded for these shards, and they may be given up.
    pub async fn detach(&self, shards: Vec<ShardNum>) -> Result<(), Stopped> {
        let (done, told) = oneshot::channel();
        self.records.send(Request::Ownership(OwnershipChange::Detach(shards, done))).await.map_err(|_| Stopped)?;
        told.await.map_err(|_| Stopped)
    }

    /// After this nothing is recorded for what was held in another history, and publishes are accepted as this member.
    pub async fn rejoin(&self, member: Membership) -> Result<(), Stopped> {
        let (done, told) = oneshot::channel();
        self.records.send(Request::Ownership(OwnershipChange::Rejoin(member, done))).await.map_err(|_| Stopped)?;
        told.await.map_err(|_| Stopped)
    }

    /// Lets the writer finish: nothing new is taken from now on.
    pub async fn close(&self) {
        let _ = self.records.send(Request::Close).await;
    }

    #[must_use]
    pub fn stats(&self) -> &JournalStats {
        &self.stats
    }

    /// Records that wait, and how many may.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        (self.records.max_capacity() - self.records.capacity(), self.records.max_capacity())
    }
}
