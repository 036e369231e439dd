//! The tables of a simulated store, with the statements that change them and the queries that read them. Each names
//! what it mirrors. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::domain::delivery::{Attempt, DeliveryState, Due, Fallback, Status};
use crate::domain::event::Event;
use crate::domain::health::Health;
use crate::domain::id::{DeliveryId, EventSeq, Slot, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::cancel::{Purge, TakenBack};
use crate::store::deliveries::{DueRows, Wanted};
use crate::store::fanout_scan::{Place, Which};
use crate::store::fanouts::Fanout;
use crate::store::fanouts::FanoutKey;
use crate::store::journal_db::pending::{Pending, PendingAfter, PendingSink};
use crate::store::journal_db::rows::Change;
use crate::store::leases::ShardSet;
use crate::store::leases::model::Leases;

use super::transactions::Transactions;

/// Deliveries that one batch purges: so few that a purge takes several batches.
const PURGED_AT_ONCE: usize = 3;

#[derive(Clone, Default)]
pub(crate) struct Tables {
    events: BTreeMap<EventSeq, (Arc<Event>, Arc<[WebhookNum]>)>,
    /// Each with the transaction that wrote it.
    fanouts: BTreeMap<FanoutKey, (u64, Arc<[WebhookNum]>)>,
    deliveries: BTreeMap<DeliveryId, DeliveryState>,
    attempts: BTreeMap<DeliveryId, BTreeMap<u16, Attempt>>,
    health: BTreeMap<WebhookNum, Health>,
    /// Mirrors the partial index of pending rows.
    pending: BTreeMap<WebhookNum, BTreeSet<EventSeq>>,
    started: bool,
    stopped_cleanly: bool,
    in_doubt: Option<InDoubt>,
    /// Only for a store that several nodes share.
    pub(crate) leases: Leases,
    pub(crate) transactions: Transactions,
}

/// The journal's statements.
impl Tables {
    pub(super) fn accept(&mut self, event: Arc<Event>, targets: Arc<[WebhookNum]>) {
        let seq = event.seq;
        assert!(self.events.insert(seq, (event, targets)).is_none(), "two events have the key {seq:?}");
    }

    pub(super) fn open_fanout(&mut self, key: FanoutKey, targets: Arc<[WebhookNum]>, transaction: u64) {
        self.fanouts.insert(key, (transaction, targets));
    }

    /// Mirrors `ON CONFLICT DO NOTHING`.
    pub(super) fn insert_delivery(&mut self, id: DeliveryId, state: DeliveryState) {
        if !self.deliveries.contains_key(&id) {
            self.set(id, state);
        }
    }

    /// Mirrors `UPSERT_DELIVERY`: a cancelled delivery stays cancelled unless an attempt that was under way succeeded.
    pub(super) fn upsert_delivery(&mut self, id: DeliveryId, new: DeliveryState) {
        let mut state = new;
        if let Some(old) = self.deliveries.get(&id).filter(|old| old.status == Status::Cancelled) {
            if new.status != Status::Success {
                state.status = Status::Cancelled;
            }
            (state.next_at, state.settled_at) = (None, old.settled_at);
        }
        self.set(id, state);
    }

    /// Mirrors `ON CONFLICT DO NOTHING`.
    pub(super) fn insert_attempt(&mut self, id: DeliveryId, attempt: Attempt) {
        self.attempts.entry(id).or_default().entry(attempt.number).or_insert(attempt);
    }

    /// Mirrors `cancel::take_back_one`.
    pub(super) fn cancel(&mut self, id: DeliveryId, at: UnixMillis) -> Option<Change> {
        let mut state = *self.deliveries.get(&id).filter(|state| state.status == Status::Pending)?;
        let next_at = state.next_at.take();
        match state.manual.take() {
            Some(Fallback { status, .. }) if status != Status::Pending => state.status = status,
            Some(_) | None => (state.status, state.settled_at) = (Status::Cancelled, Some(at)),
        }
        self.set(id, state);
        Some(Change::TakenBack(TakenBack { id, next_at }))
    }

    /// Mirrors `updates::retry`.
    pub(super) fn retry(&mut self, id: DeliveryId, at: UnixMillis) -> Option<Change> {
        let before = *self.deliveries.get(&id).filter(|state| state.manual.is_none())?;
        let manual = Some(Fallback { status: before.status, next_at: before.next_at });
        self.set(id, DeliveryState { status: Status::Pending, next_at: Some(at), manual, ..before });
        match before.status {
            Status::Pending => before.next_at.map(|next_at| Change::Hastened { id, next_at }),
            Status::Success | Status::Failed | Status::Cancelled => Some(Change::Again(id)),
        }
    }

    /// Mirrors `cancel::purge`.
    pub(super) fn purge(&mut self, purge: &Purge, at: UnixMillis) -> Vec<Change> {
        let Purge { webhook, through, except } = purge;
        let pending = self.pending.get(webhook).into_iter().flatten();
        let pending = pending.filter(|event| **event <= *through && !except.contains(event));
        let found: Vec<EventSeq> = pending.take(PURGED_AT_ONCE).copied().collect();
        found.into_iter().filter_map(|event| self.cancel(DeliveryId { event, webhook: *webhook }, at)).collect()
    }

    /// Asserts that every target has a row: until then the fan-out must stay.
    pub(super) fn end_fanout(&mut self, key: FanoutKey) {
        let Some((_, targets)) = self.fanouts.remove(&key) else { return };
        let has_row =
            |webhook: &WebhookNum| self.deliveries.contains_key(&DeliveryId { event: key.0, webhook: *webhook });
        let forgotten = targets.iter().find(|webhook| !has_row(webhook));
        assert_eq!(forgotten, None, "of {:?} there is neither a fan-out nor a row", key.0);
    }

    pub(super) fn set_health(&mut self, webhook: WebhookNum, health: Health) {
        self.health.insert(webhook, health);
    }

    fn set(&mut self, id: DeliveryId, state: DeliveryState) {
        let pending = self.pending.entry(id.webhook).or_default();
        if state.status == Status::Pending {
            pending.insert(id.event);
        } else {
            pending.remove(&id.event);
        }
        self.deliveries.insert(id, state);
    }
}

/// What a process notes and reads when it starts and stops.
impl Tables {
    /// Mirrors `Store::join` and `Store::mark_taken`, for a process that has the database alone.
    pub(crate) fn join_alone(&mut self, now: UnixMillis) -> ShardSet {
        let shard_set = ShardSet::everything();
        shard_set.set_in_doubt(self.mark_started(now));
        shard_set
    }

    /// Mirrors `Store::mark_started`.
    fn mark_started(&mut self, now: UnixMillis) -> InDoubt {
        if self.started && !self.stopped_cleanly {
            self.in_doubt = Some(InDoubt { events_to: self.last_event(), due_to: now });
        }
        (self.started, self.stopped_cleanly) = (true, false);
        self.in_doubt.unwrap_or(InDoubt::NOTHING)
    }

    /// Mirrors `Store::mark_in_doubt`, for a process that has the database alone.
    pub(crate) fn mark_all_in_doubt(&mut self, in_doubt: InDoubt) {
        self.in_doubt = Some(self.in_doubt.unwrap_or(InDoubt::NOTHING).and(in_doubt));
    }

    /// Mirrors `Store::mark_stopped_cleanly`.
    pub(crate) fn mark_stopped_cleanly(&mut self) {
        self.stopped_cleanly = true;
    }

    pub(crate) fn last_event(&self) -> EventSeq {
        self.events.last_key_value().map_or(EventSeq::ZERO, |(seq, _)| *seq)
    }

    /// Mirrors `Store::read_pending`: what some webhooks are owed at this moment.
    pub(crate) fn read_pending(&self, of: impl Fn(WebhookNum) -> bool, now: UnixMillis, found: &mut PendingSink<'_>) {
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

    /// Mirrors `health::forget`.
    pub(crate) fn forget_health(&mut self, webhook: WebhookNum) {
        self.health.remove(&webhook);
    }
}

/// What becomes of the rows on another server.
impl Tables {
    /// The rows as they are on a standby that takes over from `primary`.
    pub(crate) fn promote(&mut self, primary: &Self) {
        self.leases.promote(&primary.leases);
        self.transactions.fail_over();
    }

    /// The rows in a new cluster that has counted transactions up to `last`.
    pub(crate) fn restore(&mut self, dumped: &Self, last: u64) {
        self.leases.restore(&dumped.leases);
        self.transactions.begin_anew(last);
    }

    /// Mirrors `Store::adopt_foreign_rows`.
    pub(crate) fn adopt_foreign_rows(&mut self, at: Duration) {
        let snapshot = self.transactions.snapshot();
        let is_foreign = |(_, (transaction, _)): &(&FanoutKey, &mut (u64, _))| !snapshot.shows(*transaction);
        let mut foreign = self.fanouts.iter_mut().filter(is_foreign).peekable();
        if foreign.peek().is_none() {
            return;
        }
        let adopting = self.transactions.begin(None, BTreeSet::new(), at);
        foreign.for_each(|(_, (transaction, _))| *transaction = adopting);
        self.transactions.end(adopting);
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
            rows.sort_by_key(|due| (due.state.next_at, due.event.seq));
        }
        let near = rows.partition_point(|due| ordered || due.state.next_at.is_some_and(|at| at <= horizon));
        let later = rows.get(near).and_then(|due| due.state.next_at);
        rows.truncate(near.min(limit));
        let next = if rows.len() >= limit { rows.last().and_then(|last| last.state.next_at) } else { later };
        DueRows { rows, next }
    }

    /// Mirrors `Store::due_one`.
    pub(crate) fn due_one(&self, event: EventSeq, webhook: WebhookNum) -> Option<Due> {
        let state = *self.delivery(DeliveryId { event, webhook }).filter(|state| state.status == Status::Pending)?;
        Some(Due { event: self.events.get(&event)?.0.clone(), state })
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
    pub(crate) fn fanouts(&self, after: EventSeq, limit: usize) -> Vec<Fanout> {
        let later = self.fanouts.range((after, i16::MAX)..).filter(|((event, _), _)| *event > after);
        later.filter_map(|(key, _)| self.fanout(*key)).take(limit).collect()
    }

    fn fanout(&self, key: FanoutKey) -> Option<Fanout> {
        let (event, _) = self.events.get(&key.0)?;
        let (_, targets) = self.fanouts.get(&key)?;
        Some(Fanout { event: event.clone(), shard: key.1, targets: targets.clone(), in_order: false })
    }

    /// Mirrors `Store::visible_fanouts`, with the transactions that wrote the fan-outs, and the place where the page
    /// ends if there is more.
    pub(crate) fn page_of_news(
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

    pub(crate) fn event(&self, event: EventSeq) -> Option<&Arc<Event>> {
        self.events.get(&event).map(|(event, _)| event)
    }

    pub(crate) fn has_event(&self, event: EventSeq) -> bool {
        self.events.contains_key(&event)
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

    /// Mirrors `Store::pending_after`.
    pub(crate) fn pending_after(&self, PendingAfter { webhook, after }: PendingAfter, most: usize) -> Vec<EventSeq> {
        let by_fanouts = self.owed_by_fanouts().filter(|(_, target)| *target == webhook).map(|(event, _)| event);
        let mut found: Vec<EventSeq> = self.pending_of(webhook).chain(by_fanouts).collect();
        found.retain(|event| *event > after);
        found.sort_unstable();
        found.truncate(most);
        found
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
        self.events.values().map(|(event, targets)| (event.as_ref(), targets.as_ref()))
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
