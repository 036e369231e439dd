//! The operations on a backlog: pause, resume, probe, purge. The API calls them.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::store::audit::{Action, Author, Deed};
use crate::store::journal::Record;
use crate::store::webhooks::Webhook;

use super::context::EngineContext;
use super::endpoint::STORE_PAUSE;
use super::{Engine, EngineError};

/// How long a purge waits until the fan-outs that were committed before it have been scanned. After shards were
/// acquired, a catch-up may have very much to read.
const FINDING: Duration = Duration::from_secs(10);

/// A scan takes a few milliseconds.
const FIND_POLL: Duration = Duration::from_millis(5);

impl Engine {
    /// Holds the webhook's deliveries, pending and new ones. Requests in flight end as they would. Answers whether the
    /// call has changed anything.
    pub async fn pause(&self, webhook: &Webhook, by: &Author) -> Result<(Webhook, bool), EngineError> {
        if webhook.paused_at.is_some() {
            return Ok((webhook.clone(), false));
        }
        let paused = Webhook { paused_at: Some(UnixMillis::now()), ..webhook.clone() };
        Ok((self.update_webhook(&paused, by).await?, true))
    }

    /// Lets the webhook's deliveries flow again, and releases a quarantined endpoint. Answers whether the call has
    /// changed anything.
    pub async fn resume(&self, webhook: &Webhook, by: &Author) -> Result<(Webhook, bool), EngineError> {
        if webhook.paused_at.is_none() {
            self.enter(by, Action::ResumeWebhook, webhook).await?;
        }
        let was_quarantined = self.inner.registry.release(webhook.num).await;
        if webhook.paused_at.is_none() {
            return Ok((webhook.clone(), was_quarantined));
        }
        Ok((self.update_webhook(&Webhook { paused_at: None, ..webhook.clone() }, by).await?, true))
    }

    /// Ends the cool-down: the next delivery is the probe.
    pub async fn probe(&self, webhook: &Webhook, by: &Author) -> Result<(), EngineError> {
        if !webhook.is_active {
            return Err(EngineError::Inactive);
        }
        if webhook.paused_at.is_some() {
            return Err(EngineError::Paused);
        }
        self.enter(by, Action::ProbeWebhook, webhook).await?;
        self.inner.registry.release(webhook.num).await;
        self.inner.registry.probe(webhook.num).await;
        Ok(())
    }

    /// Cancels the webhook's pending deliveries: all, or those accepted before `before`. Requests in flight end; those
    /// that fail are not retried, and the answer does not count them. Answers how many deliveries were cancelled.
    pub async fn purge(&self, webhook: &Webhook, before: Option<UnixMillis>, by: &Author) -> Result<u64, EngineError> {
        self.enter(by, Action::PurgeWebhook, webhook).await?;
        let hold = Hold::new(&self.inner.context, webhook.num);
        self.inner.registry.reconfigure(webhook.num).await;
        let purged = self.purge_held(webhook.num, before).await;
        drop(hold);
        self.inner.registry.reconfigure(webhook.num).await;
        purged
    }

    pub(super) async fn enter(&self, by: &Author, action: Action, webhook: &Webhook) -> Result<(), EngineError> {
        Ok(self.inner.store.enter(by, Deed::new(action, Some(webhook.tenant), webhook.id)).await?)
    }

    async fn purge_held(&self, webhook: WebhookNum, before: Option<UnixMillis>) -> Result<u64, EngineError> {
        let journal = &self.inner.journal;
        // The feed learns of an event a moment after its publisher is answered.
        journal.barrier().await.map_err(|_| EngineError::Stopping)?;
        self.find_all().await?;
        let newest = self.inner.feed.seen_watermark();
        let through = before.map_or(newest, |before| newest.min(EventSeq(EventSeq::first_at(before).0 - 1)));
        self.inner.registry.set_row_watermark(webhook, through).await;
        let under_way = self.inner.registry.withdraw_all(webhook, through).await;
        // Rows that the endpoint has just recorded must be committed before the purge reads.
        journal.barrier().await.map_err(|_| EngineError::Stopping)?;
        self.record_owed(webhook, through, &under_way).await?;
        journal.purge(webhook, through, &under_way).await.map_err(|_| EngineError::Stopping)
    }

    /// Defers the deliveries that only a fan-out knows, so that the purge finds their rows. The row watermark keeps
    /// later offers of them from the endpoint.
    async fn record_owed(
        &self,
        webhook: WebhookNum,
        through: EventSeq,
        under_way: &[EventSeq],
    ) -> Result<(), EngineError> {
        let next_at = UnixMillis::now();
        for event in self.owed_only_by_fanout(webhook, through).await? {
            if !under_way.contains(&event) {
                let record = Record::Defer { id: DeliveryId { event, webhook }, next_at };
                self.inner.journal.record(record).await.map_err(|_| EngineError::Stopping)?;
            }
        }
        self.inner.journal.barrier().await.map_err(|_| EngineError::Stopping)
    }
}

impl Engine {
    /// Waits, for [`FINDING`] at most, until everything committed so far has been scanned. An event that is scanned
    /// later is not purged.
    async fn find_all(&self) -> Result<(), EngineError> {
        let (feed, quiet) = (&self.inner.feed, &self.inner.context.draining);
        let (newest, end) = (feed.committed(), Instant::now() + FINDING);
        while self.inner.store.is_clustered() && !feed.has_scanned(newest) && Instant::now() < end {
            quiet.run_until_cancelled(tokio::time::sleep(FIND_POLL)).await.ok_or(EngineError::Stopping)?;
        }
        Ok(())
    }

    /// Retries until the store answers: the row watermark already turns later offers into rows, so the purge must see
    /// these targets.
    async fn owed_only_by_fanout(&self, webhook: WebhookNum, through: EventSeq) -> Result<Vec<EventSeq>, EngineError> {
        loop {
            match self.inner.store.owed_only_by_fanout(webhook, through).await {
                Ok(owed) => return Ok(owed),
                Err(error) => tracing::warn!(%error, "the deliveries to purge could not be read; trying again"),
            }
            let pause = tokio::time::sleep(STORE_PAUSE);
            self.inner.context.draining.run_until_cancelled(pause).await.ok_or(EngineError::Stopping)?;
        }
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
