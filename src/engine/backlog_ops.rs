//! What an operator does to a backlog: hold it, let it flow, throw it away, try the receiver now.

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

/// How long a purge waits for what this node has not come to yet, after it has taken shards over: a start reads very much.
const FINDING: Duration = Duration::from_secs(10);

/// A look takes a few milliseconds.
const FIND_POLL: Duration = Duration::from_millis(5);

impl Engine {
    /// Holds what the webhook is owed, now and from now on. Requests under way end as they would. Answers whether this
    /// has changed anything.
    pub async fn pause(&self, webhook: &Webhook, by: &Author) -> Result<(Webhook, bool), EngineError> {
        if webhook.paused_at.is_some() {
            return Ok((webhook.clone(), false));
        }
        let paused = Webhook { paused_at: Some(UnixMillis::now()), ..webhook.clone() };
        Ok((self.update_webhook(&paused, by).await?, true))
    }

    /// Lets what it is owed flow again, even from an endpoint that crashed too often. Answers whether this has changed
    /// anything.
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

    /// Lets the endpoint find out now whether its receiver is back: the next delivery is the probe.
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

    /// Cancels what the webhook is owed, of what was accepted before `before` if that is given. Requests under way end;
    /// those that fail are not made again, and they are not counted. Answers how many deliveries were taken back.
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
        // The feed hears of an event a moment after its publisher.
        journal.barrier().await.map_err(|_| EngineError::Stopping)?;
        self.find_all().await?;
        let newest = self.inner.feed.seen_watermark();
        let through = before.map_or(newest, |before| newest.min(EventSeq(EventSeq::first_at(before).0 - 1)));
        self.inner.registry.set_row_watermark(webhook, through).await;
        let under_way = self.inner.registry.withdraw_all(webhook, through).await;
        // What the endpoint has just made rows of must be rows.
        journal.barrier().await.map_err(|_| EngineError::Stopping)?;
        self.record_owed(webhook, through, &under_way).await?;
        journal.purge(webhook, through, &under_way).await.map_err(|_| EngineError::Stopping)
    }

    /// Makes rows of what only a fan-out knows of, for the purge to find. Its endpoint will not be offered it any more.
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
    /// Waits for what has been accepted to be found, for a while: it gets no rows before, and is left alone.
    async fn find_all(&self) -> Result<(), EngineError> {
        let (feed, quiet) = (&self.inner.feed, &self.inner.context.quiet);
        let (newest, end) = (feed.committed(), Instant::now() + FINDING);
        while self.inner.store.is_clustered() && !feed.has_scanned(newest) && Instant::now() < end {
            quiet.run_until_cancelled(tokio::time::sleep(FIND_POLL)).await.ok_or(EngineError::Stopping)?;
        }
        Ok(())
    }

    /// The registry drops offers of these from now on, so whatever happens they must be found.
    async fn owed_only_by_fanout(&self, webhook: WebhookNum, through: EventSeq) -> Result<Vec<EventSeq>, EngineError> {
        loop {
            match self.inner.store.owed_only_by_fanout(webhook, through).await {
                Ok(owed) => return Ok(owed),
                Err(error) => tracing::warn!(%error, "what is to be purged could not be read; trying again"),
            }
            let pause = tokio::time::sleep(STORE_PAUSE);
            self.inner.context.quiet.run_until_cancelled(pause).await.ok_or(EngineError::Stopping)?;
        }
    }
}

/// While this lives, the endpoint of a webhook sends nothing, whoever starts it.
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
