//! What operators do to backlogs and deliveries, below the checks and the audit of the API's calls: purge, retry,
//! cancel, and the cancellation of what deleted webhooks were owed.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::id::{DeliveryId, EventSeq, OperationNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::journal::Record;
use crate::journal::feed::Feed;

use super::EngineError;
use super::context::EngineContext;
use super::endpoint::STORE_PAUSE;
use super::lane::InLane;
use super::registry::RegistryHandle;

/// How long a purge waits until the fan-outs that were committed before it have been scanned. After shards were
/// acquired, a catch-up may have very much to read.
const FINDING: Duration = Duration::from_secs(10);

/// A scan takes a few milliseconds.
const FIND_POLL: Duration = Duration::from_millis(5);

pub(super) struct Ops {
    pub(super) context: Arc<EngineContext>,
    pub(super) registry: RegistryHandle,
    pub(super) feed: Arc<Feed>,
}

/// Backlogs.
impl Ops {
    /// Cancels the webhook's pending deliveries: all, or those accepted before `before`. Requests in flight end; those
    /// that fail are not retried, and the answer does not count them. Answers how many deliveries were cancelled.
    pub(super) async fn purge(&self, webhook: WebhookNum, before: Option<UnixMillis>) -> Result<u64, EngineError> {
        let hold = Hold::new(&self.context, webhook);
        self.registry.reconfigure(webhook).await;
        let purged = self.purge_held(webhook, before).await;
        drop(hold);
        self.registry.reconfigure(webhook).await;
        purged
    }

    async fn purge_held(&self, webhook: WebhookNum, before: Option<UnixMillis>) -> Result<u64, EngineError> {
        let journal = &self.context.journal;
        // The feed learns of an event a moment after its publisher is answered.
        journal.barrier().await?;
        self.find_all().await?;
        let newest = self.feed.seen_watermark();
        let through = before.map_or(newest, |before| newest.min(EventSeq(EventSeq::first_at(before).0 - 1)));
        self.registry.set_row_watermark(webhook, through).await;
        let under_way = self.registry.withdraw_all(webhook, through).await;
        // Rows that the endpoint has just recorded must be committed before the purge reads.
        journal.barrier().await?;
        self.record_owed(webhook, through, &under_way).await?;
        Ok(journal.purge(webhook, through, &under_way).await?)
    }

    /// Defers the deliveries that only a fan-out knows, so that the purge finds their rows. The row watermark keeps
    /// later offers of them from the endpoint.
    async fn record_owed(
        &self,
        webhook: WebhookNum,
        through: EventSeq,
        under_way: &[EventSeq],
    ) -> Result<(), EngineError> {
        let (journal, next_at) = (&self.context.journal, self.context.host.now());
        for event in self.owed_only_by_fanout(webhook, through).await? {
            if !under_way.contains(&event) {
                journal.record(Record::Defer { id: DeliveryId { event, webhook }, next_at }).await?;
            }
        }
        Ok(journal.barrier().await?)
    }

    /// Waits, for [`FINDING`] at most, until everything committed so far has been scanned. An event that is scanned
    /// later is not purged.
    async fn find_all(&self) -> Result<(), EngineError> {
        let EngineContext { host, db, draining, .. } = &*self.context;
        let (newest, end) = (self.feed.committed(), host.steady() + FINDING);
        while db.is_clustered() && !self.feed.has_scanned(newest) && host.steady() < end {
            draining.run_until_cancelled(host.sleep(FIND_POLL)).await.ok_or(EngineError::Stopping)?;
        }
        Ok(())
    }

    /// Retries until the store answers: the row watermark already turns later offers into rows, so the purge must see
    /// these targets.
    async fn owed_only_by_fanout(&self, webhook: WebhookNum, through: EventSeq) -> Result<Vec<EventSeq>, EngineError> {
        let EngineContext { host, db, draining, .. } = &*self.context;
        loop {
            match db.owed_only_by_fanout(webhook, through).await {
                Ok(owed) => return Ok(owed),
                Err(error) => tracing::warn!(%error, "the deliveries to purge could not be read; trying again"),
            }
            draining.run_until_cancelled(host.sleep(STORE_PAUSE)).await.ok_or(EngineError::Stopping)?;
        }
    }

    /// Cancels the pending deliveries of deleted webhooks. After a crash the due poller finishes the work.
    pub(super) async fn forget(&self, nums: Vec<WebhookNum>) -> Result<(), EngineError> {
        self.registry.dismiss(nums.clone()).await;
        // The node that serves the webhook does this for the others, once it learns of the change.
        for num in nums.iter().filter(|num| self.context.ledger.pending(**num) > 0) {
            self.context.journal.purge(*num, EventSeq(i64::MAX), &[]).await?;
        }
        self.context.ledger.forget(&nums).await;
        Ok(())
    }
}

/// Deliveries.
impl Ops {
    /// Makes one more attempt now. `is_pending`: whether the delivery was pending when the caller read it.
    pub(super) async fn retry(&self, id: DeliveryId, is_pending: bool) -> Result<(), EngineError> {
        let now = self.context.host.now();
        self.take_out(id).await?;
        if is_pending {
            self.context.journal.record(Record::Defer { id, next_at: now }).await?;
        }
        // Due at the event's acceptance, so that a long backlog does not go first.
        self.record(id, Record::Retry { id, at: now.min(id.event.accepted_at()), operation: None }).await?;
        let found = self.registry.take_out(id).await;
        self.registry.send_now(id).await;
        if found == (InLane::Started { manual: false }) { Err(EngineError::InFlight) } else { Ok(()) }
    }

    /// Cancels a pending delivery, for an operation if one asks for it. An outcome that is recorded meanwhile wins, which
    /// the caller must look for.
    pub(super) async fn cancel(&self, id: DeliveryId, operation: Option<OperationNum>) -> Result<(), EngineError> {
        self.take_out(id).await?;
        self.record(id, Record::Cancel { id, at: self.context.host.now(), operation }).await?;
        // A request that has begun meanwhile ends, and only its success still counts.
        self.registry.withdraw(id).await;
        Ok(())
    }

    /// Takes a delivery out of its lane before its row is changed. A delivery that is neither in a lane nor in a row is
    /// being offered to its endpoint, and the call is refused. The caller looks again after the change, because the
    /// lane may have read the row before it.
    async fn take_out(&self, id: DeliveryId) -> Result<(), EngineError> {
        match self.registry.take_out(id).await {
            InLane::Waiting => Ok(()),
            InLane::Absent if self.context.db.has_row(id).await? => Ok(()),
            InLane::Started { .. } | InLane::Absent => Err(EngineError::InFlight),
        }
    }

    /// Records, waits for the commit, and answers `Moved` if the shard is no longer served here: the record may have
    /// been dropped.
    async fn record(&self, id: DeliveryId, record: Record) -> Result<(), EngineError> {
        let EngineContext { journal, shard_set, .. } = &*self.context;
        journal.record(record).await?;
        journal.barrier().await?;
        if shard_set.serves(id.webhook) { Ok(()) } else { Err(EngineError::Moved) }
    }
}

/// While this lives, the endpoint of the webhook sends nothing, even if it is activated meanwhile.
struct Hold {
    context: Arc<EngineContext>,
    webhook: WebhookNum,
}

impl Hold {
    fn new(context: &Arc<EngineContext>, webhook: WebhookNum) -> Self {
        *context.holds.lock().entry(webhook).or_default() += 1;
        Self { context: context.clone(), webhook }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Entry::Occupied(mut holders) = self.context.holds.lock().entry(self.webhook) {
            *holders.get_mut() -= 1;
            if *holders.get() == 0 {
                holders.remove();
            }
        }
    }
}
