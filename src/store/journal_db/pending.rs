//! What webhooks are owed, as the journal asks for it and as the database reads it from rows and fan-outs. Plain data.

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;

/// A part of what webhooks are owed. Of the pending deliveries, [`Rows`](Self::Rows) counts those with a row, and
/// [`Targets`](Self::Targets) names those without one.
#[derive(Debug, Clone, Copy)]
pub enum Pending<'a> {
    /// The pending rows of a webhook, and the oldest of their events.
    Rows { webhook: WebhookNum, count: u64, oldest: EventSeq },
    /// How many of these rows wait until this second.
    Waiting { webhook: WebhookNum, until: UnixMillis, count: u32 },
    /// Targets of an open fan-out that have no row.
    Targets { event: EventSeq, webhooks: &'a [WebhookNum] },
}

/// Takes the parts one by one, so that nothing holds all of them in memory.
pub type PendingSink<'a> = dyn FnMut(Pending<'_>) + Send + 'a;

/// Asks for the smallest pending events of `webhook` after `after`.
#[derive(Debug, Clone, Copy)]
pub struct PendingAfter {
    pub webhook: WebhookNum,
    pub after: EventSeq,
}
