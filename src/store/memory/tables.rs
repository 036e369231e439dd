//! The tables of the database in memory, with the statements that change them; [`reads`] has the queries. Each names
//! what it mirrors. Pure.

mod reads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::domain::delivery::{Attempt, DeliveryState, Fallback, Status};
use crate::domain::event::{Body, Event};
use crate::domain::health::Health;
use crate::domain::id::{DeliveryId, EventSeq, OperationNum, TenantNum, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::operational_event::OperationalEvent;
use crate::domain::shard::ShardNum;
use crate::store::cancel::{Purge, TakenBack};
use crate::store::events::Receipt;
use crate::store::fanouts::FanoutKey;
use crate::store::idempotency::{Once, OnceKey};
use crate::store::journal_db::rows::{Change, NewEvent};
use crate::store::leases::memory::Leases;
use crate::store::payload::LARGE;

use super::transactions::Transactions;

/// Deliveries that one batch purges: so few that a purge takes several batches.
const PURGED_AT_ONCE: usize = 3;

/// An event's row.
struct EventRow {
    /// As it is read: a large body stays in the row.
    event: Arc<Event>,
    body: Bytes,
    targets: Arc<[WebhookNum]>,
    receipt: Receipt,
}

#[derive(Clone, Default)]
pub(crate) struct Tables {
    events: BTreeMap<EventSeq, Arc<EventRow>>,
    callers: BTreeMap<(TenantNum, String), (EventSeq, [u8; 32])>,
    /// The answers to requests with an idempotency key; tenant 0 is none.
    answers: BTreeMap<(i64, String), Once>,
    /// Each with the transaction that wrote it.
    fanouts: BTreeMap<FanoutKey, (u64, Arc<[WebhookNum]>)>,
    deliveries: BTreeMap<DeliveryId, DeliveryState>,
    attempts: BTreeMap<DeliveryId, BTreeMap<u16, Attempt>>,
    health: BTreeMap<WebhookNum, Health>,
    operational: BTreeMap<i64, OperationalEvent>,
    last_operational: i64,
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
    pub(super) fn accept(&mut self, new: &NewEvent) {
        let NewEvent { event, body, occurred_at, caller, targets } = new;
        let (seq, bytes) = (event.seq, body.len());
        let as_read = if bytes > LARGE { Body::Stored { bytes } } else { Body::InMemory(body.clone()) };
        let matched = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        let row = EventRow {
            event: Arc::new(Event { body: as_read, ..event.as_ref().clone() }),
            body: body.clone(),
            targets: targets.clone(),
            receipt: Receipt { seq, occurred_at: *occurred_at, matched },
        };
        assert!(self.events.insert(seq, Arc::new(row)).is_none(), "two events have the key {seq:?}");
        if let Some(caller) = caller {
            self.callers.insert((event.tenant, caller.id.clone()), (seq, caller.digest));
        }
    }

    pub(super) fn remember(&mut self, once: Once) {
        self.answers.insert(answer_key(&once.key), once);
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
    pub(super) fn cancel(&mut self, id: DeliveryId, at: UnixMillis) -> Option<TakenBack> {
        let mut state = *self.deliveries.get(&id).filter(|state| state.status == Status::Pending)?;
        let next_at = state.next_at.take();
        match state.manual.take() {
            Some(Fallback { status, .. }) if status != Status::Pending => state.status = status,
            Some(_) | None => (state.status, state.settled_at) = (Status::Cancelled, Some(at)),
        }
        self.set(id, state);
        Some(TakenBack { id, next_at, status: state.status })
    }

    /// Mirrors `updates::retry`.
    pub(super) fn retry(&mut self, id: DeliveryId, at: UnixMillis, operation: Option<OperationNum>) -> Option<Change> {
        self.events.get(&id.event)?;
        let before = *self.deliveries.get(&id).filter(|state| state.manual.is_none())?;
        let is_replay = operation.is_some();
        let manual = Some(Fallback { status: before.status, next_at: before.next_at, is_replay });
        self.set(id, DeliveryState { status: Status::Pending, next_at: Some(at), manual, ..before });
        match before.status {
            Status::Pending => before.next_at.map(|next_at| Change::Hastened { id, next_at }),
            Status::Success | Status::Failed | Status::Cancelled => Some(Change::Again(id)),
        }
    }

    /// Mirrors `updates::owe`.
    pub(super) fn owe(&mut self, id: DeliveryId, at: UnixMillis) -> Option<Change> {
        if !self.events.contains_key(&id.event) || self.deliveries.contains_key(&id) {
            return None;
        }
        self.set(id, DeliveryState::pending(Some(at)));
        Some(Change::Again(id))
    }

    /// Mirrors `cancel::purge`.
    pub(super) fn purge(&mut self, purge: &Purge, at: UnixMillis) -> Vec<TakenBack> {
        let Purge { webhook, through, except } = purge;
        let pending = self.pending.get(webhook).into_iter().flatten();
        let pending = pending.filter(|event| **event <= *through && !except.contains(event));
        let found: Vec<EventSeq> = pending.take(PURGED_AT_ONCE).copied().collect();
        found.into_iter().filter_map(|event| self.cancel(DeliveryId { event, webhook: *webhook }, at)).collect()
    }

    pub(super) fn end_fanout(&mut self, key: FanoutKey) {
        self.fanouts.remove(&key);
    }

    pub(super) fn set_health(&mut self, webhook: WebhookNum, health: Health) {
        self.health.insert(webhook, health);
    }

    /// Mirrors `operational_events::write`.
    pub(super) fn add_operational(&mut self, event: OperationalEvent) {
        self.last_operational += 1;
        self.operational.insert(self.last_operational, event);
    }

    /// Mirrors `operational_events::take`.
    pub(super) fn take_operational(&mut self, sequence: i64) {
        self.operational.remove(&sequence);
    }

    pub(super) fn has_operational(&self, sequence: i64) -> bool {
        self.operational.contains_key(&sequence)
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

/// What a process notes when it starts and stops, and operators' statements.
impl Tables {
    /// Mirrors `Store::begin_alone`.
    pub(crate) fn begin_alone(&mut self, now: UnixMillis) -> InDoubt {
        if self.started && !self.stopped_cleanly {
            self.in_doubt = Some(InDoubt { events_to: self.last_event(), due_to: now });
        }
        (self.started, self.stopped_cleanly) = (true, false);
        self.in_doubt.unwrap_or(InDoubt::NOTHING)
    }

    /// Mirrors `Store::mark_all_in_doubt`, for a process that has the database alone.
    pub(crate) fn mark_all_in_doubt(&mut self, in_doubt: InDoubt) {
        self.in_doubt = Some(self.in_doubt.unwrap_or(InDoubt::NOTHING).and(in_doubt));
    }

    /// Mirrors `Store::mark_stopped_cleanly`.
    pub(crate) fn mark_stopped_cleanly(&mut self) {
        self.stopped_cleanly = true;
    }

    /// Mirrors `health::forget`.
    pub(crate) fn forget_health(&mut self, webhook: WebhookNum) {
        self.health.remove(&webhook);
    }
}

/// Repairs.
impl Tables {
    /// Deletes the row of an event, as a database that has lost its last transactions may lack it.
    pub(crate) fn lose_event(&mut self, event: EventSeq) {
        self.events.remove(&event);
    }

    /// Mirrors `Store::end_orphans`.
    pub(super) fn end_orphans(&mut self, shards: &[ShardNum], now: UnixMillis) -> usize {
        let is_ours = |shard: ShardNum| shards.contains(&shard);
        let pending = self.pending.iter().filter(|(webhook, _)| is_ours(ShardNum::of(**webhook)));
        let pending = pending.flat_map(|(webhook, events)| events.iter().map(|event| (*event, *webhook)));
        let orphans: Vec<_> = pending.filter(|(event, _)| !self.has_event(*event)).collect();
        for (event, webhook) in &orphans {
            self.cancel(DeliveryId { event: *event, webhook: *webhook }, now);
        }
        let before = self.fanouts.len();
        let events = &self.events;
        let is_orphan =
            |(event, shard): &FanoutKey| !events.contains_key(event) && ShardNum::try_from(*shard).is_ok_and(is_ours);
        self.fanouts.retain(|key, _| !is_orphan(key));
        orphans.len() + before - self.fanouts.len()
    }

    /// Mirrors `Store::adopt_foreign_rows`, and returns how many rows these are. `now`: by the database's clock.
    pub(crate) fn adopt_foreign_rows(&mut self, now: UnixMillis) -> u64 {
        let snapshot = self.transactions.snapshot();
        let numbered = self.fanouts.iter().map(|(key, (transaction, _))| (*key, *transaction));
        let foreign: Vec<FanoutKey> =
            numbered.filter(|(_, transaction)| !snapshot.shows(*transaction)).map(|(key, _)| key).collect();
        if foreign.is_empty() {
            return 0;
        }
        let adopting = self.transactions.begin(None, BTreeSet::new(), now);
        foreign.iter().for_each(|key| self.number(*key, adopting.number));
        self.transactions.end(adopting, true);
        self.leases.mark_all_in_doubt(InDoubt { events_to: self.last_event(), due_to: now });
        foreign.len() as u64
    }

    /// Gives a fan-out the number of another transaction.
    pub(crate) fn number(&mut self, key: FanoutKey, number: u64) {
        if let Some((transaction, _)) = self.fanouts.get_mut(&key) {
            *transaction = number;
        }
    }

    /// Mirrors `Store::divide_fanouts`.
    pub(crate) fn divide_fanouts(&mut self, now: UnixMillis) {
        let is_whole = |(key, (_, targets)): &(&FanoutKey, &(u64, Arc<[WebhookNum]>))| {
            let is_foreign = |webhook: &WebhookNum| ShardNum::of(*webhook) != ShardNum::WHOLE;
            key.1 == ShardNum::WHOLE.num() && targets.iter().any(is_foreign)
        };
        let whole: Vec<_> =
            self.fanouts.iter().filter(is_whole).map(|(key, (_, targets))| (*key, targets.clone())).collect();
        for (key, targets) in whole {
            self.fanouts.remove(&key);
            let dividing = self.transactions.begin(None, BTreeSet::new(), now);
            let mut parts: BTreeMap<i16, Vec<WebhookNum>> = BTreeMap::new();
            targets.iter().for_each(|webhook| parts.entry(ShardNum::of(*webhook).num()).or_default().push(*webhook));
            for (shard, targets) in parts {
                self.open_fanout((key.0, shard), targets.into(), dividing.number);
            }
            self.transactions.end(dividing, true);
        }
    }
}

/// What becomes of the rows on another server.
impl Tables {
    /// The rows as they are on a standby that takes over from `primary`.
    pub(crate) fn promote(&mut self, primary: &Self) {
        self.leases.promote(&primary.leases);
        self.transactions.fail_over(&primary.transactions);
    }

    /// The rows in a new cluster that has counted transactions up to `last`, and takes the place of `lost`.
    pub(crate) fn restore(&mut self, lost: &Self, last: u64) {
        self.leases.restore(&lost.leases);
        self.transactions.begin_anew(&lost.transactions, last);
    }
}

fn answer_key(key: &OnceKey) -> (i64, String) {
    (key.tenant_num(), key.key.clone())
}
