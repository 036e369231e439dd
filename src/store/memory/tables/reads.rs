//! What the engine, the journal and the simulation read of the tables. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::domain::delivery::{Attempt, DeliveryState, Due, Status};
use crate::domain::event::Event;
use crate::domain::health::Health;
use crate::domain::id::{DeliveryId, EventSeq, Slot, TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::deliveries::{DueRows, Wanted};
use crate::store::fanout_scan::{Place, Which};
use crate::store::fanouts::{Fanout, FanoutKey, FanoutPage};
use crate::store::idempotency::{Once, OnceKey, Seen};
use crate::store::journal_db::KnownCaller;
use crate::store::journal_db::pending::{Pending, PendingAfter, PendingSink};

use super::{EventRow, Tables, answer_key};

/// What the journal reads.
impl Tables {
    pub(crate) fn last_event(&self) -> EventSeq {
        self.events.last_key_value().map_or(EventSeq::ZERO, |(seq, _)| *seq)
    }

    /// Mirrors `journal_db::known_caller`.
    pub(in crate::store::memory) fn known_caller(&self, tenant: TenantNum, id: &str) -> Option<KnownCaller> {
        let (event, digest) = self.callers.get(&(tenant, id.to_owned()))?;
        Some(KnownCaller { digest: *digest, receipt: self.events.get(event)?.receipt })
    }

    /// Mirrors `Store::seen`.
    pub(in crate::store::memory) fn seen(&self, key: &OnceKey) -> Seen {
        self.answers.get(&answer_key(key)).map_or(Seen::New, |once| Self::seen_as(once, key))
    }

    /// What the answer of a request with the same key means for this one.
    pub(in crate::store::memory) fn seen_as(once: &Once, key: &OnceKey) -> Seen {
        if once.key.fingerprint != key.fingerprint {
            return Seen::Otherwise;
        }
        Seen::Before { status: once.status, answer: once.answer.clone() }
    }

    /// Mirrors `Store::read_pending`: what some webhooks are owed at this moment.
    pub(in crate::store::memory) fn read_pending(
        &self,
        of: impl Fn(WebhookNum) -> bool,
        now: UnixMillis,
        found: &mut PendingSink<'_>,
    ) {
        for (&webhook, pending) in self.pending.iter().filter(|(webhook, _)| of(**webhook)) {
            let Some(&oldest) = pending.first() else { continue };
            found(Pending::Rows { webhook, count: pending.len() as u64, oldest });
            for at in self.due_moments(webhook).filter(|at| *at > now) {
                found(Pending::Waiting { webhook, until: UnixMillis(at.unix_seconds() * 1000), count: 1 });
            }
        }
        for (event, webhook) in self.owed_by_fanouts().filter(|(_, webhook)| of(*webhook)) {
            found(Pending::Targets { event, webhooks: &[webhook] });
        }
    }

    /// Mirrors `Store::pending_after`.
    pub(in crate::store::memory) fn pending_after(&self, question: PendingAfter, most: usize) -> Vec<EventSeq> {
        let PendingAfter { webhook, after } = question;
        let by_fanouts = self.owed_by_fanouts().filter(|(_, target)| *target == webhook).map(|(event, _)| event);
        let mut found: Vec<EventSeq> = self.pending_of(webhook).chain(by_fanouts).collect();
        found.retain(|event| *event > after);
        found.sort_unstable();
        found.truncate(most);
        found
    }
}

/// What the engine and the simulation read.
impl Tables {
    /// Mirrors `Store::due`.
    pub(crate) fn due(&self, webhook: WebhookNum, wanted: Wanted<'_>) -> DueRows {
        let Wanted { horizon, ordered, limit, known } = wanted;
        let unknown = self.pending_of(webhook).filter(|event| !known.contains(event));
        let mut rows: Vec<Due> = unknown.filter_map(|event| self.due_one(event, webhook)).collect();
        if !ordered {
            rows.retain(|due| due.state.next_at.is_some_and(|at| at <= horizon));
            rows.sort_by_key(|due| (due.state.next_at, due.event.seq));
        }
        rows.truncate(limit);
        let next = match rows.last() {
            Some(last) if rows.len() >= limit => last.state.next_at,
            Some(_) | None if ordered => None,
            Some(_) | None => self.due_moments(webhook).filter(|at| *at > horizon).min(),
        };
        DueRows { rows, next }
    }

    /// Mirrors `Store::due_one`.
    pub(crate) fn due_one(&self, event: EventSeq, webhook: WebhookNum) -> Option<Due> {
        let state = *self.delivery(DeliveryId { event, webhook }).filter(|state| state.status == Status::Pending)?;
        Some(Due { event: self.events.get(&event)?.event.clone(), state })
    }

    /// The moments at which pending rows of this webhook fall due.
    pub(crate) fn due_moments(&self, webhook: WebhookNum) -> impl Iterator<Item = UnixMillis> {
        self.pending_of(webhook).filter_map(move |event| self.delivery(DeliveryId { event, webhook })?.next_at)
    }

    /// Webhooks with pending rows, which `Store::webhooks_with_due` finds by a skip scan.
    pub(crate) fn with_pending_rows(&self) -> impl Iterator<Item = WebhookNum> {
        self.pending.iter().filter(|(_, events)| !events.is_empty()).map(|(webhook, _)| *webhook)
    }

    pub(crate) fn has_pending_rows(&self, webhook: WebhookNum) -> bool {
        self.pending_of(webhook).next().is_some()
    }

    /// Mirrors `Store::fanouts`.
    pub(crate) fn fanouts(&self, after: EventSeq, limit: usize) -> FanoutPage {
        let later = || self.fanouts.keys().filter(|(event, _)| *event > after);
        let mut events: Vec<EventSeq> = later().map(|(event, _)| *event).collect();
        events.dedup();
        events.truncate(limit);
        let to = events.last().copied();
        let looked_at = later().filter(|(event, _)| Some(*event) <= to);
        FanoutPage { fanouts: looked_at.filter_map(|key| self.fanout(*key)).collect(), to }
    }

    fn fanout(&self, key: FanoutKey) -> Option<Fanout> {
        let event = self.events.get(&key.0)?.event.clone();
        let (_, targets) = self.fanouts.get(&key)?;
        Some(Fanout { event, shard: key.1, targets: targets.clone(), in_order: false })
    }

    /// Mirrors `Store::visible_fanouts`, with the transactions that wrote the fan-outs, and the place where the page
    /// ends if there is more.
    pub(crate) fn scan(
        &self,
        (served, slot): (&[ShardNum], Slot),
        after: Place,
        which: Which<'_>,
        limit: usize,
    ) -> (Vec<(u64, Fanout)>, Option<Place>) {
        let place = |((event, shard), (tx, _)): (&FanoutKey, &(u64, _))| (*tx, event.0, *shard);
        let own = match which {
            Which::All => Vec::new(),
            Which::New(expected) => expected(),
        };
        let is_wanted = |(tx, event, shard): &Place| {
            let is_served = ShardNum::try_from(*shard).is_ok_and(|shard| served.contains(&shard));
            let event = EventSeq(*event);
            let is_wanted = match which {
                Which::All => true,
                Which::New(_) => event.slot() != slot || own.contains(&event),
            };
            (*tx, event.0, *shard) > after && is_served && is_wanted
        };
        let mut places: Vec<Place> = self.fanouts.iter().map(place).filter(is_wanted).collect();
        places.sort_unstable();
        places.truncate(limit);
        let found =
            places.iter().filter_map(|(tx, event, shard)| Some((*tx, self.fanout((EventSeq(*event), *shard))?)));
        (found.collect(), places.last().copied().filter(|_| places.len() >= limit))
    }

    /// The transaction that wrote the fan-out.
    pub(crate) fn written_by(&self, key: FanoutKey) -> Option<u64> {
        self.fanouts.get(&key).map(|(transaction, _)| *transaction)
    }

    /// Mirrors `Store::body`.
    pub(crate) fn body(&self, event: EventSeq) -> Option<Bytes> {
        self.events.get(&event).map(|row| row.body.clone())
    }

    pub(crate) fn has_event(&self, event: EventSeq) -> bool {
        self.events.contains_key(&event)
    }

    /// The targets of the fan-out, if it is open.
    pub(crate) fn targets(&self, key: FanoutKey) -> Option<Arc<[WebhookNum]>> {
        self.fanouts.get(&key).map(|(_, targets)| targets.clone())
    }

    /// Whether the fan-out is open.
    pub(crate) fn has_fanout(&self, key: FanoutKey) -> bool {
        self.fanouts.contains_key(&key)
    }

    /// Mirrors `Store::recorded_targets`.
    pub(crate) fn recorded_targets(&self, event: EventSeq) -> Vec<WebhookNum> {
        let all = DeliveryId { event, webhook: WebhookNum(0) }..=DeliveryId { event, webhook: WebhookNum(i64::MAX) };
        self.deliveries.range(all).map(|(id, _)| id.webhook).collect()
    }

    /// Mirrors `Store::owed_only_by_fanout`.
    pub(crate) fn owed_only_by_fanout(&self, webhook: WebhookNum, to: EventSeq) -> Vec<EventSeq> {
        let owed = self.owed_by_fanouts().filter(|(event, target)| *target == webhook && *event <= to);
        owed.map(|(event, _)| event).collect()
    }

    pub(crate) fn health(&self, webhook: WebhookNum) -> Health {
        self.health.get(&webhook).cloned().unwrap_or_default()
    }

    pub(crate) fn delivery(&self, id: DeliveryId) -> Option<&DeliveryState> {
        self.deliveries.get(&id)
    }

    pub(crate) fn deliveries(&self) -> impl Iterator<Item = (DeliveryId, DeliveryState)> {
        self.deliveries.iter().map(|(id, state)| (*id, *state))
    }

    /// Oldest first.
    pub(crate) fn attempts(&self, id: DeliveryId) -> impl Iterator<Item = &Attempt> {
        self.attempts.get(&id).into_iter().flat_map(BTreeMap::values)
    }

    /// Every accepted event, with the webhooks that it was owed to.
    pub(crate) fn events(&self) -> impl Iterator<Item = (&Event, &[WebhookNum])> {
        self.events.values().map(|row: &Arc<EventRow>| (row.event.as_ref(), row.targets.as_ref()))
    }

    pub(crate) fn is_settled(&self, id: DeliveryId) -> bool {
        self.delivery(id).is_some_and(|state| state.status != Status::Pending)
    }

    /// The event keys of the open fan-outs.
    pub(crate) fn open_fanouts(&self) -> impl Iterator<Item = EventSeq> {
        self.fanouts.keys().map(|(event, _)| *event)
    }

    /// Targets of open fan-outs that have no row.
    pub(crate) fn owed_by_fanouts(&self) -> impl Iterator<Item = (EventSeq, WebhookNum)> {
        let targets = |(&(event, _), (_, targets)): (&FanoutKey, &(u64, Arc<[WebhookNum]>))| {
            let targets: Vec<WebhookNum> = targets.to_vec();
            targets.into_iter().map(move |webhook| (event, webhook))
        };
        let owed = self.fanouts.iter().flat_map(targets);
        owed.filter(|(event, webhook)| self.delivery(DeliveryId { event: *event, webhook: *webhook }).is_none())
    }

    /// Pending rows of this webhook, oldest event first.
    pub(crate) fn pending_of(&self, webhook: WebhookNum) -> impl Iterator<Item = EventSeq> {
        self.pending.get(&webhook).into_iter().flatten().copied()
    }
}
