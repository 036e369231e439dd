//! Explains for each webhook of a tenant why an event was owed to it or not. A delivery or an open fan-out proves that it
//! was. For all others, the present configuration is asked; it is that of then if it has not changed since.

use std::collections::HashMap;

use crate::domain::delivery::Status;
use crate::domain::id::{DeliveryId, EventSeq, TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::operational_event::is_subscribed;
use crate::store::StoreError;
use crate::store::deliveries::OwedRow;
use crate::store::events::StoredEvent;
use crate::store::webhooks::{WebhookEntry, WebhookList, WebhookOrder, WebhookPosition};

use super::{Engine, TEST_EVENT};

/// Why an event is owed to a webhook, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It was owed; or, of an event that is not published, this subscription is for it.
    Matched(Option<String>),
    /// An operation has owed it later.
    OwedLater,
    /// No subscription is for the type.
    Type(Vec<String>),
    /// Switched off.
    Inactive,
    /// The webhook was created after the event was accepted.
    CreatedLater(UnixMillis),
    /// The present configuration is for the event; it was changed after the event was accepted.
    ChangedLater(UnixMillis),
    /// A test event, which is for one webhook alone.
    Test,
    /// The subscriptions cannot be read, so that no new event is owed.
    Unreadable,
}

/// What decided about an event and a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub webhook: WebhookId,
    pub reason: Reason,
    /// Whether that is known of the moment when the event was accepted; if not, it is the present configuration.
    pub is_of_then: bool,
    /// The delivery, with its status, if the event was owed.
    pub delivery: Option<(DeliveryId, Status)>,
}

/// A page of explanations, newest webhook first.
#[derive(Debug, Clone)]
pub struct ExplanationPage {
    pub explanations: Vec<Explanation>,
    pub next: Option<WebhookPosition>,
}

/// Which webhooks are asked about.
#[derive(Debug, Clone)]
pub enum Asked {
    One(WebhookNum),
    Page { after: Option<WebhookPosition>, limit: u64 },
}

impl Engine {
    /// Why the event was owed to these webhooks, or not.
    pub async fn explain(&self, event: &StoredEvent, asked: Asked) -> Result<ExplanationPage, StoreError> {
        let (entries, next) = self.asked(event.tenant, asked).await?;
        let nums: Vec<WebhookNum> = entries.iter().map(|entry| entry.num).collect();
        // Fan-outs are read before rows: a delivery that gets its row meanwhile is in at least one of the two.
        let targets = self.inner.store.fanout_targets(event.seq).await?;
        let rows = self.inner.store.owed_rows(event.seq, &nums).await?;
        let explain = |entry| explained(entry, event, &targets, &rows);
        Ok(ExplanationPage { explanations: entries.iter().filter_map(explain).collect(), next })
    }

    /// To which of these webhooks an event of this type would be owed if it were published now.
    pub async fn explain_type(
        &self,
        tenant: TenantNum,
        kind: &str,
        asked: Asked,
    ) -> Result<ExplanationPage, StoreError> {
        let (entries, next) = self.asked(tenant, asked).await?;
        let explain = |entry: &WebhookEntry| {
            let reason = obstacle(entry, kind).unwrap_or_else(|| Reason::Matched(subscription_for(entry, kind)));
            Some(Explanation { webhook: entry.id?, reason, is_of_then: false, delivery: None })
        };
        Ok(ExplanationPage { explanations: entries.iter().filter_map(explain).collect(), next })
    }

    async fn asked(
        &self,
        tenant: TenantNum,
        asked: Asked,
    ) -> Result<(Vec<WebhookEntry>, Option<WebhookPosition>), StoreError> {
        let store = &self.inner.store;
        let (after, limit) = match asked {
            Asked::One(num) => return Ok((store.webhook_entries_of(&[num]).await?, None)),
            Asked::Page { after, limit } => (after, limit),
        };
        let list = WebhookList { tenant: Some(tenant), order: WebhookOrder::Created };
        let mut entries = store.webhook_entries(&list, after.as_ref(), limit.saturating_add(1)).await?;
        let has_more = entries.len() as u64 > limit;
        entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next = entries.last().filter(|_| has_more).map(|last| last.position(list.order));
        Ok((entries, next))
    }
}

/// `None` for a webhook whose id cannot be read.
fn explained(
    entry: &WebhookEntry,
    event: &StoredEvent,
    targets: &[WebhookNum],
    rows: &HashMap<WebhookNum, OwedRow>,
) -> Option<Explanation> {
    let (webhook, id) = (entry.id?, DeliveryId { event: event.seq, webhook: entry.num });
    let is_target = targets.binary_search(&entry.num).is_ok();
    let row = rows.get(&entry.num).copied();
    let Some(row) = row.or(is_target.then_some(OwedRow { status: Status::Pending, is_of_operation: false })) else {
        let (reason, is_of_then) = not_owed(entry, event);
        return Some(Explanation { webhook, reason, is_of_then, delivery: None });
    };
    let is_later = row.is_of_operation || entry.created_at > event.seq.accepted_at();
    let reason = if is_later { Reason::OwedLater } else { Reason::Matched(None) };
    Some(Explanation { webhook, reason, is_of_then: true, delivery: Some((id, row.status)) })
}

/// Why nothing is owed, and whether that is known of the moment when the event was accepted.
fn not_owed(entry: &WebhookEntry, event: &StoredEvent) -> (Reason, bool) {
    let accepted_at = EventSeq::accepted_at(event.seq);
    if event.kind == TEST_EVENT {
        return (Reason::Test, true);
    }
    if entry.created_at > accepted_at {
        return (Reason::CreatedLater(entry.created_at), true);
    }
    let is_of_then = entry.updated_at <= accepted_at;
    match obstacle(entry, &event.kind) {
        Some(reason) => (reason, is_of_then),
        None => (Reason::ChangedLater(entry.updated_at), false),
    }
}

/// What keeps an event of this type from being owed to the webhook as it is configured.
fn obstacle(entry: &WebhookEntry, kind: &str) -> Option<Reason> {
    let Some(subscriptions) = &entry.events else { return Some(Reason::Unreadable) };
    if !entry.is_active {
        Some(Reason::Inactive)
    } else if subscription_for(entry, kind).is_none() {
        Some(Reason::Type(subscriptions.clone()))
    } else {
        None
    }
}

fn subscription_for(entry: &WebhookEntry, kind: &str) -> Option<String> {
    entry.events.iter().flatten().find(|one| is_subscribed(one, kind)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::operational_event::OperationalKind;

    const ACCEPTED: UnixMillis = UnixMillis(1_800_000_000_000);

    fn event(kind: &str) -> StoredEvent {
        StoredEvent {
            seq: EventSeq::first_at(ACCEPTED),
            tenant: TenantNum(1),
            kind: kind.to_owned(),
            occurred_at: ACCEPTED,
            caller_id: None,
            matched: 0,
            body_bytes: 2,
            erased_at: None,
        }
    }

    fn entry(events: &[&str]) -> WebhookEntry {
        WebhookEntry {
            num: WebhookNum(7),
            tenant: TenantNum(1),
            id: Some(WebhookId::generate()),
            name: "a".to_owned(),
            url: "https://a.example/".to_owned(),
            events: Some(events.iter().map(|&event| event.to_owned()).collect()),
            is_active: true,
            created_at: UnixMillis(0),
            updated_at: UnixMillis(0),
            size: 0,
        }
    }

    fn told(
        entry: &WebhookEntry,
        kind: &str,
        rows: &[(WebhookNum, OwedRow)],
        targets: &[WebhookNum],
    ) -> (Reason, bool) {
        let rows = rows.iter().copied().collect();
        let told = explained(entry, &event(kind), targets, &rows).unwrap();
        (told.reason, told.is_of_then)
    }

    #[test]
    fn what_was_owed_is_known_of_then() {
        let row = OwedRow { status: Status::Success, is_of_operation: false };
        let other = entry(&["other"]);
        assert_eq!(told(&other, "a.b", &[(other.num, row)], &[]), (Reason::Matched(None), true));
        assert_eq!(told(&other, "a.b", &[], &[other.num]), (Reason::Matched(None), true));
        let later = OwedRow { is_of_operation: true, ..row };
        assert_eq!(told(&other, "a.b", &[(other.num, later)], &[]), (Reason::OwedLater, true));
        let younger = WebhookEntry { created_at: UnixMillis(ACCEPTED.0 + 1), ..other };
        assert_eq!(told(&younger, "a.b", &[(younger.num, row)], &[]), (Reason::OwedLater, true));
    }

    #[test]
    fn a_webhook_that_was_not_changed_since_tells_of_then() {
        let unchanged = entry(&["c", "a.*"]);
        let changed = WebhookEntry { updated_at: UnixMillis(ACCEPTED.0 + 1), ..unchanged.clone() };
        let subscriptions = Reason::Type(vec!["c".to_owned(), "a.*".to_owned()]);
        assert_eq!(told(&unchanged, "b", &[], &[]), (subscriptions.clone(), true));
        assert_eq!(told(&changed, "b", &[], &[]), (subscriptions, false));
        assert_eq!(told(&changed, "a.b", &[], &[]), (Reason::ChangedLater(changed.updated_at), false));
        let off = WebhookEntry { is_active: false, ..changed };
        assert_eq!(told(&off, "b", &[], &[]), (Reason::Inactive, false));
        let unreadable = WebhookEntry { events: None, ..unchanged };
        assert_eq!(told(&unreadable, "b", &[], &[]), (Reason::Unreadable, true));
    }

    #[test]
    fn the_engines_own_events_are_not_for_those_that_want_everything() {
        let failing = OperationalKind::WebhookFailing.as_str();
        assert!(matches!(told(&entry(&["*"]), failing, &[], &[]).0, Reason::Type(_)));
        assert_eq!(subscription_for(&entry(&["*", "webhook.*"]), failing).as_deref(), Some("webhook.*"));
        assert_eq!(told(&entry(&["*"]), TEST_EVENT, &[], &[]), (Reason::Test, true));
    }
}
