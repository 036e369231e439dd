//! Finds the deliveries that an operation selects: those that are there, or those that it would make of events that were
//! never owed to a webhook. Page by page, newest event first.

use std::collections::HashSet;

use super::*;
use crate::domain::delivery::Status;
use crate::domain::id::{EventSeq, WebhookId, WebhookNum};
use crate::domain::operation::is_any_for;
use crate::domain::operational_event::OperationalKind;
use crate::engine::TEST_EVENT;
use crate::engine::inspect::without_row;
use crate::store::deliveries::DeliveryFilter;
use crate::store::events::EventFilter;

/// Deliveries or events that are read at once.
const PAGE: u64 = 1000;

/// A walk over the deliveries that a selection admits, page by page.
pub(super) struct Walk {
    engine: Engine,
    tenant: TenantNum,
    selection: Selection,
    of: Source,
}

/// What is still to be listed.
enum Source {
    /// Deliveries that are there.
    Deliveries { filters: Vec<DeliveryFilter>, before: Option<DeliveryId> },
    /// Events, for deliveries that are to be made. `before` is `None` at first, and `is_read` at the end.
    Events { subscribers: Vec<Subscriber>, before: Option<EventSeq>, is_read: bool },
}

/// A webhook to which events may be owed that were never owed to it.
struct Subscriber {
    num: WebhookNum,
    id: WebhookId,
    subscriptions: Vec<String>,
    /// Owed by fan-outs that are open.
    owed: HashSet<EventSeq>,
}

impl Walk {
    pub(super) async fn begin(engine: &Engine, tenant: TenantNum, selection: &Selection) -> Result<Self, StoreError> {
        let store = &engine.inner.store;
        let of = match selection.status {
            Some(status) => {
                let filters = filters(store, tenant, selection, status).await?;
                Source::Deliveries { filters, before: None }
            }
            None => {
                let subscribers = subscribers(store, tenant, selection).await?;
                Source::Events { is_read: subscribers.is_empty(), subscribers, before: None }
            }
        };
        Ok(Self { engine: engine.clone(), tenant, selection: selection.clone(), of })
    }

    /// The next page, which may be empty; `None` at the end.
    pub(super) async fn next_page(&mut self) -> Result<Option<Vec<Delivery>>, StoreError> {
        let store = &self.engine.inner.store;
        match &mut self.of {
            Source::Deliveries { filters, before } => {
                let Some(filter) = filters.last() else { return Ok(None) };
                let page = self.engine.deliveries(self.tenant, filter, *before, PAGE).await?;
                *before = page.next;
                if before.is_none() {
                    filters.pop();
                }
                let mut found = page.deliveries;
                found.retain(|delivery| self.selection.admits(&delivery.kind));
                Ok(Some(found))
            }
            Source::Events { is_read: true, .. } => Ok(None),
            Source::Events { subscribers, before, is_read } => {
                let filter = EventFilter {
                    since: self.selection.since,
                    until: Some(self.selection.until),
                    ..EventFilter::default()
                };
                let page = store.events(self.tenant, &filter, *before, PAGE).await?;
                (*before, *is_read) = (page.next.map(EventSeq), page.next.is_none());
                let mut events: Vec<(EventSeq, String)> =
                    page.items.into_iter().map(|event| (event.seq, event.kind)).collect();
                events.retain(|(_, kind)| self.selection.admits(kind) && !is_of_engine(kind));
                let mut found = Vec::new();
                for subscriber in subscribers {
                    found.extend(subscriber.never_owed(store, &events).await?);
                }
                Ok(Some(found))
            }
        }
    }
}

impl Subscriber {
    async fn never_owed(&self, store: &Store, events: &[(EventSeq, String)]) -> Result<Vec<Delivery>, StoreError> {
        let is_for =
            |(seq, kind): &&(EventSeq, String)| is_any_for(&self.subscriptions, kind) && !self.owed.contains(seq);
        let matching: Vec<&(EventSeq, String)> = events.iter().filter(is_for).collect();
        let seqs: Vec<EventSeq> = matching.iter().map(|(seq, _)| *seq).collect();
        let recorded: HashSet<EventSeq> = store.delivered(self.num, &seqs).await?.into_iter().collect();
        let missing = matching.into_iter().filter(|(seq, _)| !recorded.contains(seq));
        let delivery = |(seq, kind): &(EventSeq, String)| {
            without_row(DeliveryId { event: *seq, webhook: self.num }, self.id, kind.clone())
        };
        Ok(missing.map(delivery).collect())
    }
}

/// Tests and warnings of the engine are for one webhook each.
fn is_of_engine(kind: &str) -> bool {
    kind == TEST_EVENT || OperationalKind::is_one(kind)
}

async fn filters(
    store: &Store,
    tenant: TenantNum,
    selection: &Selection,
    status: Status,
) -> Result<Vec<DeliveryFilter>, StoreError> {
    let Selection { webhooks, since, until, status: _, outcome, status_code, events: _ } = selection;
    let all = DeliveryFilter {
        webhook: None,
        event: None,
        status: Some(status),
        outcome: *outcome,
        status_code: *status_code,
        attempts: None,
        kind: None,
        since: *since,
        until: Some(*until),
    };
    if webhooks.is_empty() {
        return Ok(vec![all]);
    }
    let mut filters = Vec::new();
    for id in webhooks {
        let webhook = store.webhook_num(tenant, *id).await?;
        filters.extend(webhook.map(|webhook| DeliveryFilter { webhook: Some(webhook), ..all.clone() }));
    }
    Ok(filters)
}

async fn subscribers(store: &Store, tenant: TenantNum, selection: &Selection) -> Result<Vec<Subscriber>, StoreError> {
    let mut found = Vec::new();
    for id in &selection.webhooks {
        let Some(webhook) = store.webhook(tenant, *id).await? else { continue };
        let owed = store.owed_only_by_fanout(webhook.num, EventSeq::first_at(selection.until)).await?;
        found.push(Subscriber {
            num: webhook.num,
            id: *id,
            subscriptions: webhook.events,
            owed: owed.into_iter().collect(),
        });
    }
    Ok(found)
}
