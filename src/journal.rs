//! Group commit: one writer makes durable everything that the hot path records, such as accepted events with their
//! fan-outs, outcomes and deferrals. The engine calls the [`Journal`].
//!
//! Bounded queues stand in front of the writer. A batch is what gathered during the previous commit; an idle journal
//! commits at once. Requests are answered after the commit. A full queue pushes back: publishes are refused, and
//! recorders reserve a [`JournalSlot`] before they act, so that every outcome has room.

pub mod feed;
pub mod ledger;
pub mod outage;
mod outstanding;
pub mod remote_shards;
pub mod shared_ledger;

mod answers;
mod assign;
mod batch;
mod fanout_tracker;
mod fence;
mod ledger_load;
mod ledger_updates;
mod recent_cancels;
mod running;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::domain::delivery::{Attempt, DeliveryState, Status};
use crate::domain::health::Health;
use crate::domain::id::{DeliveryId, EventSeq, OperationNum, TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::operational_event::OperationalEvent;
use crate::domain::shard::ShardNum;
use crate::store::StoreError;
use crate::store::events::{Caller, Receipt};
use crate::store::fanout_scan::ScannedFanout;
use crate::store::fanouts::Fanout;
use crate::store::idempotency::OnceKey;
use crate::store::leases::{AcquiredShard, Membership};

pub use self::running::{Running, WriterTask};

use self::answers::Answers;
use self::outage::Outage;

/// Bounds on what waits for the writer, and on one transaction, for which the next batch waits.
#[derive(Debug, Clone, Copy)]
pub struct JournalBounds {
    /// Publish requests that may wait for the next batch.
    pub publish_queue: usize,
    /// Records that may wait. An attempt in flight occupies one place.
    pub record_queue: usize,
    /// Publish requests in one transaction.
    pub publishes: usize,
    /// Records in one transaction.
    pub records: usize,
    /// No caller waits for the commit of an outcome, so outcomes gather this long for fewer and larger commits. A crash in
    /// this time sends that much more again.
    pub linger: Duration,
    /// Bytes of bodies and targets that wait in the feed.
    pub feed_bytes: usize,
}

impl JournalBounds {
    pub const LIVE: Self = Self {
        publish_queue: 4096,
        record_queue: 16_384,
        publishes: 1024,
        records: 2048,
        linger: Duration::from_millis(10),
        feed_bytes: 32 * 1024 * 1024,
    };
}

/// Memory for waiting publishes, in KiB: 64 MiB.
const PUBLISH_QUEUE_KIB: usize = 64 * 1024;

/// An event before it is accepted. The writer makes its key and body, in the order of commit.
#[derive(Debug, Clone)]
pub struct Draft {
    pub tenant: TenantNum,
    pub kind: Arc<str>,
    /// `None` stands for the moment of acceptance.
    pub occurred_at: Option<UnixMillis>,
    /// The publisher's JSON, byte for byte.
    pub data: Box<RawValue>,
    pub caller: Option<Caller>,
    /// The engines that the event has come through.
    pub trail: Option<Arc<str>>,
    /// The webhooks that the event is owed to, ascending.
    pub targets: Arc<[WebhookNum]>,
    /// Whether a target is an ordered webhook. The event's key must then exceed the key of every event that any node
    /// has accepted before.
    pub is_ordered: bool,
}

impl Draft {
    /// Roughly the memory that the draft takes.
    fn bytes(&self) -> usize {
        self.data.get().len() + self.targets.len() * size_of::<WebhookNum>()
    }
}

/// What became of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Published {
    Accepted(Receipt),
    /// The caller id was used before, with the same content.
    Duplicate(Receipt),
    /// The caller id was used before, with other content.
    Conflict,
}

/// Why a publish was not committed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The queue is full; nothing was kept.
    #[error("the journal is full")]
    Full,
    #[error("the journal has stopped")]
    Stopped,
    /// Other nodes have reaped this one; nothing was kept.
    #[error("other nodes have reaped this one")]
    Reaped,
    /// The database has lost transactions, and this node has not joined again yet; nothing was kept.
    #[error("the database lacks transactions that it had; what this node knows is read again")]
    Diverged,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The stored answer to this idempotency key cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// The database refused the batch and nothing was kept, or it did not say in time whether it committed.
    #[error("{0}")]
    Store(String),
}

/// What happened to a delivery or an endpoint.
#[derive(Debug)]
pub enum Record {
    /// An attempt was made; `state` is the delivery's state after it.
    Attempt(Box<AttemptRecord>),
    /// The delivery cannot be served from memory now and becomes a row that is due at `next_at`.
    Defer { id: DeliveryId, next_at: UnixMillis },
    /// The delivery is cancelled, unless it is settled.
    Cancel { id: DeliveryId, at: UnixMillis, operation: Option<OperationNum> },
    /// A person or an operation asks for an attempt now. The row keeps what the delivery falls back to.
    Retry { id: DeliveryId, at: UnixMillis, operation: Option<OperationNum> },
    /// An operation owes an event to a webhook that it was never owed to.
    Owe { id: DeliveryId, at: UnixMillis, operation: OperationNum },
    /// What an endpoint has learnt of its receiver, and what the tenant is told of it.
    Health { webhook: WebhookNum, health: Box<Health>, tells: Option<Box<OperationalEvent>> },
    /// Cancels the webhook's pending rows up to `through`, oldest first and a bounded number in each batch. Leaves out
    /// `except`, whose requests are under way. A settled delivery that waits for a manual retry becomes what it was.
    /// Answers how many deliveries this batch took back; the caller repeats the record until the answer is 0.
    Purge { webhook: WebhookNum, through: EventSeq, except: Vec<EventSeq>, answer: oneshot::Sender<u64> },
    /// The dispatcher has read this fan-out from the store: it is tracked from now on.
    Track { fanout: Fanout },
    /// The dispatcher has found these fan-outs in a scan and claims those that are new. Answers, for each new
    /// one, the tag under which its shard is tracked from now on, and `None` for the others.
    Claim { fanouts: Vec<ScannedFanout>, answer: oneshot::Sender<Vec<Option<i64>>> },
    /// These targets of a fan-out have rows. Ignored unless the fan-out is tracked.
    Mark { event: EventSeq, shard: i16, recorded: Vec<WebhookNum> },
}

#[derive(Debug)]
pub struct AttemptRecord {
    pub id: DeliveryId,
    pub attempt: Attempt,
    pub state: DeliveryState,
    /// What the tenant is told of it.
    pub tells: Option<Box<OperationalEvent>>,
    counted: Option<answers::Counted>,
}

impl AttemptRecord {
    #[must_use]
    pub fn new(id: DeliveryId, attempt: Attempt, state: DeliveryState) -> Self {
        Self { id, attempt, state, tells: None, counted: None }
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
    /// Deliveries that have ended, with each status of [`Status::FINAL`]. One that is retried by hand may end again.
    pub ended: [AtomicU64; Status::FINAL.len()],
    /// Records that the fence dropped, because another node owns their shard.
    pub fenced: AtomicU64,
    /// Deliveries and fan-outs that were ended because their event is gone.
    pub orphans: AtomicU64,
    /// How often the database lacked transactions that it had before.
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
    /// Answered once everything before it is committed.
    Barrier(oneshot::Sender<()>),
    /// Carried out once everything before it is committed.
    Ownership(OwnershipChange),
    /// Accept nothing new, write what is queued, end.
    Close,
}

/// A change of the shards that this node owns.
enum OwnershipChange {
    /// Activates acquired shards. Answers whether what they are owed could be counted.
    Activate(Vec<AcquiredShard>, oneshot::Sender<Result<(), StoreError>>),
    /// Detaches shards; nothing is recorded for them after this.
    Detach(Vec<ShardNum>, oneshot::Sender<()>),
    /// The database has lost transactions: detaches every shard and continues as this new member.
    Rejoin(Membership, oneshot::Sender<()>),
}

/// What became of the drafts of a publish, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishAnswer {
    pub published: Vec<Published>,
    /// Whether the answer was given before, to a request with the same key.
    pub is_repeated: bool,
}

struct PublishRequest {
    drafts: Vec<Draft>,
    once: Option<OnceKey>,
    /// The operational event that the draft is made of.
    operational: Option<i64>,
    answer: oneshot::Sender<Result<PublishAnswer, PublishError>>,
    room: OwnedSemaphorePermit,
}

impl PublishRequest {
    fn is_ordered(&self) -> bool {
        self.drafts.iter().any(|draft| draft.is_ordered)
    }
}

/// The handle of the writer. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    publishes: mpsc::Sender<Request>,
    records: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
    answers: Answers,
    stats: Arc<JournalStats>,
}

/// A reserved place in the queue.
pub struct JournalSlot {
    place: mpsc::OwnedPermit<Request>,
    answers: Answers,
}

impl JournalSlot {
    pub fn record(self, mut record: Record) {
        self.answers.admit(&mut record);
        self.place.send(Request::Record(record));
    }
}

/// The writer has ended because the process is stopping.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the journal has stopped")]
pub struct Stopped;

impl Journal {
    /// Commits the drafts and their fan-outs in one batch.
    pub async fn publish(&self, drafts: Vec<Draft>, once: Option<OnceKey>) -> Result<PublishAnswer, PublishError> {
        self.request(drafts, once, None).await
    }

    /// Publishes an operational event and deletes its row in one batch. Without a row nothing is published: another node
    /// was first.
    pub async fn publish_operational(&self, draft: Draft, sequence: i64) -> Result<(), PublishError> {
        self.request(vec![draft], None, Some(sequence)).await.map(drop)
    }

    async fn request(
        &self,
        drafts: Vec<Draft>,
        once: Option<OnceKey>,
        operational: Option<i64>,
    ) -> Result<PublishAnswer, PublishError> {
        let kib = drafts.iter().map(Draft::bytes).sum::<usize>().div_ceil(1024);
        let kib = u32::try_from(kib.min(PUBLISH_QUEUE_KIB)).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_many_owned(kib).map_err(|_| PublishError::Full)?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Publish(PublishRequest { drafts, once, operational, answer, room });
        self.publishes.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PublishError::Full,
            mpsc::error::TrySendError::Closed(_) => PublishError::Stopped,
        })?;
        answered.await.unwrap_or(Err(PublishError::Stopped))
    }

    /// Waits for a place in the queue.
    pub async fn reserve(&self) -> Result<JournalSlot, Stopped> {
        let place = self.records.clone().reserve_owned().await.map_err(|_| Stopped)?;
        Ok(JournalSlot { place, answers: self.answers.clone() })
    }

    pub async fn record(&self, mut record: Record) -> Result<(), Stopped> {
        self.answers.admit(&mut record);
        self.records.send(Request::Record(record)).await.map_err(|_| Stopped)
    }

    /// Like [`Self::record`], but does not wait for room.
    ///
    /// Returns the record if the queue is full.
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

    /// Cancels the webhook's pending rows up to `through`, except those of `except`, in several batches so that other
    /// requests have their turn in between. Returns how many deliveries were taken back.
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

    /// Waits until every earlier record is committed.
    pub async fn barrier(&self) -> Result<(), Stopped> {
        let (done, told) = oneshot::channel();
        self.records.send(Request::Barrier(done)).await.map_err(|_| Stopped)?;
        told.await.map_err(|_| Stopped)
    }

    /// Activates acquired shards between two batches.
    pub async fn activate(&self, acquired: Vec<AcquiredShard>) -> Result<Result<(), StoreError>, Stopped> {
        let (done, told) = oneshot::channel();
        self.records.send(Request::Ownership(OwnershipChange::Activate(acquired, done))).await.map_err(|_| Stopped)?;
        told.await.map_err(|_| Stopped)
    }

    /// Detaches these shards: nothing is recorded for them after this, and they may be released.
    pub async fn detach(&self, shards: Vec<ShardNum>) -> Result<(), Stopped> {
        let (done, told) = oneshot::channel();
        self.records.send(Request::Ownership(OwnershipChange::Detach(shards, done))).await.map_err(|_| Stopped)?;
        told.await.map_err(|_| Stopped)
    }

    /// Detaches every shard after the database has lost transactions; publishes are accepted as `member` from now on.
    pub async fn rejoin(&self, member: Membership) -> Result<(), Stopped> {
        let (done, told) = oneshot::channel();
        self.records.send(Request::Ownership(OwnershipChange::Rejoin(member, done))).await.map_err(|_| Stopped)?;
        told.await.map_err(|_| Stopped)
    }

    /// Stops accepting requests and lets the writer finish.
    pub async fn close(&self) {
        let _ = self.records.send(Request::Close).await;
    }

    #[must_use]
    pub fn stats(&self) -> &JournalStats {
        &self.stats
    }

    /// How many records wait, and how many may.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        (self.records.max_capacity() - self.records.capacity(), self.records.max_capacity())
    }
}
