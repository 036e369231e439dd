//! Shares the ledger: the journal's writer updates it after each commit, and the engine reads figures from it. Looks up
//! in the store what the ledger does not keep in memory. The lock on the ledger is never held across an await.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;

use crate::store::StoreError;
use crate::store::journal_db::JournalDb;
use crate::store::journal_db::pending::PendingAfter;

use super::Journal;
use super::ledger::{Among, FRONT, Ledger, LookUp, Oldest};

/// Webhooks whose oldest events are looked up in one transaction.
const LOOKS: usize = 64;

/// Rounds of lookups that determine the oldest backlogs of all: 512 lookups at most, a fraction of a second.
const ROUNDS: usize = 8;

/// Rounds of lookups for given webhooks. A busy webhook may settle the event that a lookup found before the answer is
/// complete; after the last round, the event found is the answer.
const TRIES: usize = 3;

/// What webhooks are owed, as the engine asks for it. Cheap to clone.
#[derive(Clone)]
pub struct SharedLedger {
    ledger: Arc<Mutex<Ledger>>,
    db: Arc<dyn JournalDb>,
    journal: Journal,
}

impl SharedLedger {
    pub(super) fn new(ledger: Arc<Mutex<Ledger>>, db: Arc<dyn JournalDb>, journal: Journal) -> Self {
        Self { ledger, db, journal }
    }

    #[cfg(test)]
    pub(crate) fn lock(&self) -> parking_lot::MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }

    /// Pending deliveries of this webhook.
    #[must_use]
    pub fn pending(&self, webhook: WebhookNum) -> u64 {
        self.ledger.lock().pending(webhook)
    }

    /// Pending deliveries of this webhook that wait for a later moment; see [`Ledger::scheduled`].
    #[must_use]
    pub fn scheduled(&self, webhook: WebhookNum, now: UnixMillis) -> u64 {
        self.ledger.lock().scheduled(webhook, now)
    }

    /// Pending deliveries of all webhooks.
    #[must_use]
    pub fn total_pending(&self) -> u64 {
        self.ledger.lock().total_pending()
    }

    /// Webhooks with something pending.
    #[must_use]
    pub fn backlogged(&self) -> usize {
        self.ledger.lock().backlogged()
    }

    /// The `n` webhooks with the most pending deliveries, the longest backlog first.
    #[must_use]
    pub fn deepest(&self, among: Among<'_>, n: usize) -> Vec<(WebhookNum, u64)> {
        self.ledger.lock().deepest(among, n)
    }

    /// The oldest pending event of each of these webhooks. Webhooks with nothing pending are missing.
    pub async fn oldest_of(&self, webhooks: &[WebhookNum]) -> Result<HashMap<WebhookNum, EventSeq>, StoreError> {
        let mut seen = HashMap::new();
        for _ in 0..TRIES {
            let is_unknown = |webhook: &WebhookNum| matches!(self.known(*webhook), Some(Oldest::Unknown { .. }));
            let unknown: Vec<WebhookNum> = webhooks.iter().copied().filter(is_unknown).collect();
            if unknown.is_empty() {
                break;
            }
            for some in unknown.chunks(LOOKS) {
                seen.extend(self.look(some).await?);
            }
        }
        let oldest = |webhook: &WebhookNum| match self.known(*webhook)? {
            Oldest::Known(event) => Some((*webhook, event)),
            Oldest::Unknown { .. } => seen.get(webhook).map(|event| (*webhook, *event)),
        };
        Ok(webhooks.iter().filter_map(oldest).collect())
    }

    #[cfg(test)]
    pub(crate) async fn oldest(&self, webhook: WebhookNum) -> Result<Option<EventSeq>, StoreError> {
        Ok(self.oldest_of(&[webhook]).await?.remove(&webhook))
    }

    fn known(&self, webhook: WebhookNum) -> Option<Oldest> {
        self.ledger.lock().oldest(webhook)
    }

    /// The `n` webhooks with the oldest pending events, oldest first. If lookups could not determine an event, because
    /// too much changed or too many were unknown, the result holds a lower bound of its key.
    pub async fn oldest_first(&self, among: Among<'_>, n: usize) -> Result<Vec<(WebhookNum, EventSeq)>, StoreError> {
        for _ in 0..ROUNDS {
            // A webhook whose event is looked up moves back in the order, and others take its place. So the same
            // transaction looks up unknown ones behind the first `n`, too.
            let first = self.ledger.lock().oldest_first(among, n.max(LOOKS));
            let is_unknown = |(_, oldest): &&(WebhookNum, Oldest)| matches!(oldest, Oldest::Unknown { .. });
            if !first.iter().take(n).any(|entry| is_unknown(&entry)) {
                break;
            }
            let unknown = first.iter().filter(is_unknown).take(LOOKS).map(|(webhook, _)| *webhook);
            self.look(&unknown.collect::<Vec<_>>()).await?;
        }
        let first = self.ledger.lock().oldest_first(among, n);
        Ok(first.into_iter().map(|(webhook, oldest)| (webhook, oldest.not_before())).collect())
    }

    /// Forgets webhooks that were deleted, and what they were owed.
    pub async fn forget(&self, webhooks: &[WebhookNum]) {
        // Updates that were committed before the deletion must not reach the ledger after it.
        let _ = self.journal.barrier().await;
        let mut ledger = self.ledger.lock();
        for webhook in webhooks {
            ledger.forget(*webhook);
        }
    }

    /// Looks up the oldest events of webhooks whose oldest is unknown, returns them, and lets the ledger learn them.
    async fn look(&self, webhooks: &[WebhookNum]) -> Result<Vec<(WebhookNum, EventSeq)>, StoreError> {
        let look_ups: Vec<LookUp> = {
            let mut ledger = self.ledger.lock();
            webhooks.iter().filter_map(|webhook| ledger.look_up(*webhook)).collect()
        };
        let question = |look_up: &LookUp| PendingAfter { webhook: look_up.webhook, after: look_up.after };
        let questions: Vec<PendingAfter> = look_ups.iter().map(question).collect();
        let found = self.db.pending_after(&questions, FRONT).await?;
        let first = |(look_up, found): (&LookUp, &Vec<EventSeq>)| Some((look_up.webhook, *found.first()?));
        let seen = look_ups.iter().zip(&found).filter_map(first).collect();
        // The ledger must first have every change that the lookup has seen.
        if self.journal.barrier().await.is_ok() {
            let mut ledger = self.ledger.lock();
            for (look_up, found) in look_ups.into_iter().zip(&found) {
                ledger.learn(look_up, found);
            }
        }
        Ok(seen)
    }
}
