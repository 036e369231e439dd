//! The book of what was sent, which no process takes along: every request with its end, what operators were promised,
//! and what must hold at the moment when something is sent.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::clock::UnixMillis;
use crate::delivery::breaker::ViewState;
use crate::delivery::outcome::{Outcome, OutcomeKind};
use crate::engine::lane::{Entry, Mode, WINDOW};
use crate::engine::serving::Serving;
use crate::id::{DeliveryId, EventSeq, WebhookNum};
use crate::store::deliveries::{DeliveryState, Status, Trigger};
use crate::store::journal::model::Tables;

use super::process::Process;
use super::world::World;

/// The place of a request in the book.
pub(super) type RequestNum = usize;

/// What a lane keeps for the next probe while its receiver is left alone.
const FOR_A_PROBE: usize = 8;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) num: RequestNum,
    pub(super) id: DeliveryId,
    pub(super) number: u16,
    pub(super) trigger: Trigger,
    pub(super) outcome: Option<OutcomeKind>,
    /// Its actor or its process died, so that its outcome may be lost.
    pub(super) was_cut: bool,
    is_under_way: bool,
    /// Its lane has decided what follows, and the journal was told.
    pub(super) is_decided: bool,
    pub(super) life: u32,
    generation: u64,
}

#[derive(Default)]
pub(super) struct Book {
    pub(super) requests: Vec<Request>,
    by_delivery: HashMap<DeliveryId, Vec<RequestNum>>,
    under_way: BTreeMap<WebhookNum, usize>,
    /// Where the latest attempts of the living process have left their deliveries, committed or not.
    decided: HashMap<DeliveryId, DeliveryState>,
    /// What publishers were told is accepted.
    pub(super) acknowledged: Vec<EventSeq>,
    /// Operators were told that these are sent nothing any more.
    closed: BTreeSet<WebhookNum>,
    opening: BTreeMap<WebhookNum, usize>,
    /// Deliveries that an operator is changing.
    meddling: HashMap<DeliveryId, usize>,
    pub(super) cancellations: BTreeSet<DeliveryId>,
    pub(super) manual_retries: BTreeSet<DeliveryId>,
    purged: BTreeMap<WebhookNum, EventSeq>,
}

/// What is sent.
impl Book {
    /// What must hold when a lane starts an attempt.
    pub(super) fn check_start(&self, process: &Process, called: &Serving, entry: &Entry) {
        let (world, event) = (&process.world, entry.event.seq);
        let id = DeliveryId { event, webhook: called.num };
        let (now, tables) = (world.wall(), world.tables.borrow());
        // What begins while the engine stops is never sent.
        let is_closed = self.closed.contains(&called.num) && !process.quiet.is_cancelled();
        assert!(!is_closed, "{id:?} is sent although its webhook is closed");
        // A clock that was set back does not hold up what waits for no retry.
        let never_waited = entry.is_asked_for() || entry.state.tries == 0;
        let is_due = |at: Option<UnixMillis>| never_waited || at.is_none_or(|at| at <= now);
        assert!(is_due(entry.state.next_at), "{id:?} is sent early");
        assert!(self.of(id).all(|request| !request.is_under_way), "{id:?} is sent twice at once");
        let decided = self.decided.get(&id).filter(|_| !never_waited);
        assert!(decided.and_then(|state| state.next_at).is_none_or(|at| at <= now), "{id:?} is sent again early");
        if let Some(row) = tables.delivery(id).filter(|row| row.attempts >= entry.state.attempts)
            && !self.meddling.contains_key(&id)
        {
            assert_eq!(row.attempts, entry.state.attempts, "{id:?} is sent as it was before");
            assert_eq!(row.status, Status::Pending, "{id:?} is sent although it is settled");
            assert!(is_due(row.next_at), "{id:?} is sent before its row is due");
        }
        if called.policy.ordered {
            self.check_order(&tables, id);
        }
    }

    /// Nothing that was published before is still owed.
    fn check_order(&self, tables: &Tables, id: DeliveryId) {
        let by_fanouts = tables.owed_by_fanouts().filter(|(_, webhook)| *webhook == id.webhook).map(|(event, _)| event);
        for event in tables.pending_of(id.webhook).chain(by_fanouts).filter(|event| *event < id.event) {
            let earlier = DeliveryId { event, ..id };
            let is_decided = self.decided.get(&earlier).is_some_and(|state| state.status != Status::Pending);
            let is_manual = tables.delivery(earlier).is_some_and(|state| state.manual.is_some());
            assert!(is_decided || is_manual, "{id:?} is sent before {event:?}");
        }
    }

    pub(super) fn sent(
        &mut self,
        world: &World,
        (life, generation): (u32, u64),
        webhook: WebhookNum,
        entry: &Entry,
    ) -> RequestNum {
        let id = DeliveryId { event: entry.event.seq, webhook };
        let under_way = self.under_way.entry(webhook).or_default();
        *under_way += 1;
        let cap = world.hooks.borrow().get(&webhook).map_or(0, super::world::Hook::cap);
        assert!(*under_way <= cap, "{under_way} requests to {webhook:?} are under way, {cap} may be");
        let total: usize = self.under_way.values().sum();
        assert!(total <= world.bounds.permits, "{total} requests are under way");
        let num = self.requests.len();
        let request = Request {
            num,
            id,
            number: entry.state.attempts + 1,
            trigger: entry.trigger,
            outcome: None,
            was_cut: false,
            is_under_way: true,
            is_decided: false,
            life,
            generation,
        };
        self.by_delivery.entry(id).or_default().push(num);
        self.requests.push(request);
        num
    }

    /// The receiver has answered.
    pub(super) fn answered(&mut self, request: RequestNum, outcome: &Outcome) {
        self.requests[request].outcome = Some(outcome.kind());
    }

    /// The request is over, answered or not.
    pub(super) fn ended(&mut self, request: RequestNum) {
        let request = &mut self.requests[request];
        request.is_under_way = false;
        if let Some(under_way) = self.under_way.get_mut(&request.id.webhook) {
            *under_way -= 1;
        }
    }

    /// The lane has decided what follows, and the journal was told.
    pub(super) fn decided(&mut self, id: DeliveryId, request: RequestNum, state: DeliveryState) {
        self.requests[request].is_decided = true;
        self.decided.insert(id, state);
    }

    pub(super) fn is_anything_under_way(&self) -> bool {
        self.under_way.values().any(|under_way| *under_way > 0)
    }

    pub(super) fn of(&self, id: DeliveryId) -> impl Iterator<Item = &Request> {
        self.by_delivery.get(&id).into_iter().flatten().map(|request| &self.requests[*request])
    }

    /// What it had not handed to the journal is lost.
    pub(super) fn endpoint_crashed(&mut self, life: u32, generation: u64) {
        let its = |request: &&mut Request| request.life == life && request.generation == generation;
        for request in self.requests.iter_mut().filter(its).filter(|request| !request.is_decided) {
            request.was_cut = true;
        }
    }

    /// What was not committed is lost.
    pub(super) fn process_died(&mut self, life: u32) {
        self.decided.clear();
        for request in self.requests.iter_mut().filter(|request| request.life == life && !request.was_cut) {
            request.was_cut = true;
        }
    }
}

/// What operators want.
impl Book {
    pub(super) fn close(&mut self, webhook: WebhookNum) {
        if !self.opening.contains_key(&webhook) {
            self.closed.insert(webhook);
        }
    }

    pub(super) fn begin_opening(&mut self, webhook: WebhookNum) {
        self.closed.remove(&webhook);
        *self.opening.entry(webhook).or_default() += 1;
    }

    pub(super) fn end_opening(&mut self, webhook: WebhookNum) {
        let left = self.opening.remove(&webhook).unwrap_or(1) - 1;
        if left > 0 {
            self.opening.insert(webhook, left);
        }
    }

    pub(super) fn meddle(&mut self, id: DeliveryId) {
        *self.meddling.entry(id).or_default() += 1;
    }

    pub(super) fn meddled(&mut self, id: DeliveryId) {
        let left = self.meddling.remove(&id).unwrap_or(1) - 1;
        if left > 0 {
            self.meddling.insert(id, left);
        }
    }

    pub(super) fn purges(&mut self, webhook: WebhookNum, through: EventSeq) {
        let purged = self.purged.entry(webhook).or_insert(through);
        *purged = through.max(*purged);
    }

    /// Whether somebody wanted it taken back.
    pub(super) fn may_be_cancelled(&self, id: DeliveryId) -> bool {
        self.cancellations.contains(&id) || self.purged.get(&id.webhook).is_some_and(|through| id.event <= *through)
    }

    /// The process has died with whatever operators were doing.
    pub(super) fn forget_operators(&mut self) {
        self.opening.clear();
        self.meddling.clear();
    }

    /// How many deliveries a lane may keep in memory.
    pub(super) fn most_in_memory(
        &self,
        world: &World,
        webhook: WebhookNum,
        mode: Mode,
        breaker: ViewState,
        cap: usize,
    ) -> usize {
        match (mode, breaker) {
            (Mode::Held | Mode::Gone, _) => 0,
            (Mode::Open | Mode::Stopping, ViewState::Closed) => WINDOW,
            (Mode::Open | Mode::Stopping, ViewState::Open | ViewState::HalfOpen) => {
                let tables = world.tables.borrow();
                let pending = tables.pending_of(webhook).filter(|event| {
                    tables.delivery(DeliveryId { event: *event, webhook }).is_some_and(|row| row.manual.is_some())
                });
                FOR_A_PROBE + cap + pending.count() + world.tests.get()
            }
        }
    }
}
