//! The ledger as it is shared: the journal's writer tells it what it commits, and whoever shows figures asks. Reads from
//! the store what the ledger cannot know. Locked for a moment, never across a wait.

mod load;
mod look;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;

use super::journal::Journal;
use super::ledger::{Ledger, LookUp, Oldest};

pub use super::ledger::Among;
use super::{Store, StoreError};

/// Webhooks whose oldest events are looked up at once, in one transaction.
const LOOKS: usize = 64;

/// How often the next few are looked up to find which are the oldest of all: 512 looks, a fraction of a second.
const ROUNDS: usize = 8;

/// A webhook that is busy may use up what was found before the answer is given; then what was found is the answer.
const TRIES: usize = 3;

/// What webhooks are owed. Cheap to clone.
#[derive(Clone)]
pub struct Backlog {
    ledger: Arc<Mutex<Ledger>>,
    store: Store,
    journal: Journal,
}

impl Backlog {
    pub(super) fn new(ledger: Arc<Mutex<Ledger>>, store: Store, journal: Journal) -> Self {
        Self { ledger, store, journal }
    }

    /// Pending deliveries of this webhook.
    #[must_use]
    pub fn pending(&self, webhook: WebhookNum) -> u64 {
        self.ledger.lock().pending(webhook)
    }

    /// Those of them that wait for a later moment; see [`Ledger::scheduled`].
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

    /// The oldest pending events of these webhooks; those that nothing is pending for are missing.
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
    pub(super) async fn oldest(&self, webhook: WebhookNum) -> Result<Option<EventSeq>, StoreError> {
        Ok(self.oldest_of(&[webhook]).await?.remove(&webhook))
    }

    fn known(&self, webhook: WebhookNum) -> Option<Oldest> {
        self.ledger.lock().oldest(webhook)
    }

    /// The `n` webhooks with the oldest pending events, the oldest first. Where the store was asked in vain, because too
    /// much changed or too many are unknown, this is where the oldest may be at the earliest.
    pub async fn oldest_first(&self, among: Among<'_>, n: usize) -> Result<Vec<(WebhookNum, EventSeq)>, StoreError> {
        for _ in 0..ROUNDS {
            // Who is known now may stand behind others that are unknown: these are looked up with it.
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

    /// These webhooks were deleted, and whatever they were owed with them.
    pub async fn forget(&self, webhooks: &[WebhookNum]) {
        // What was committed before the deletion must not be told after it.
        let _ = self.journal.barrier().await;
        let mut ledger = self.ledger.lock();
        for webhook in webhooks {
            ledger.forget(*webhook);
        }
    }

    /// Looks for the oldest events of webhooks whose oldest is unknown, answers what it saw, and lets the ledger learn.
    async fn look(&self, webhooks: &[WebhookNum]) -> Result<Vec<(WebhookNum, EventSeq)>, StoreError> {
        let questions: Vec<LookUp> = {
            let mut ledger = self.ledger.lock();
            webhooks.iter().filter_map(|webhook| ledger.look_up(*webhook)).collect()
        };
        let found = self.store.pending_after(&questions).await?;
        let first = |(question, found): (&LookUp, &Vec<EventSeq>)| Some((question.webhook, *found.first()?));
        let seen = questions.iter().zip(&found).filter_map(first).collect();
        // The ledger must have been told of everything that was seen.
        if self.journal.barrier().await.is_ok() {
            let mut ledger = self.ledger.lock();
            for (question, found) in questions.into_iter().zip(&found) {
                ledger.learn(question, found);
            }
        }
        Ok(seen)
    }
}
