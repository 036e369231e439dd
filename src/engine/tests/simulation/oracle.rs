//! The oracle: it outlives every process and knows every request with its end, and what operators were promised. It
//! checks what must hold at the moment of sending.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::delivery::breaker::ViewState;
use crate::domain::delivery::{DeliveryState, Status, Trigger};
use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::{Outcome, OutcomeKind};
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::lane::{self, Mode, WINDOW};
use crate::store::memory::{Hook, Tables};

use super::process::Process;
use super::tasks::Owner;
use super::world::World;

/// The index of a request.
pub(super) type RequestNum = usize;

/// How many deliveries a lane keeps for the next probe while its breaker is open.
const FOR_A_PROBE: usize = 8;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) num: RequestNum,
    pub(super) id: DeliveryId,
    pub(super) number: u16,
    pub(super) trigger: Trigger,
    pub(super) outcome: Option<OutcomeKind>,
    /// The lease ended, or the actor or the process died, before the outcome was recorded.
    pub(super) was_cut: bool,
    is_under_way: bool,
    /// The number of the database at the time of the request.
    pub(super) server: u32,
    /// Whether the process knew then which database answers.
    pub(super) knew_its_database: bool,
    /// The outcome was recorded, and lost with the database before this one.
    pub(super) forgotten_by: Option<u32>,
    /// The lane has decided what follows, and the journal was told.
    pub(super) is_decided: bool,
    pub(super) incarnation: u32,
    owner: Owner,
}

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) requests: Vec<Request>,
    by_delivery: HashMap<DeliveryId, Vec<RequestNum>>,
    /// Requests in flight, by process.
    under_way: BTreeMap<(u32, WebhookNum), usize>,
    /// The deliveries' states after the latest attempts of live processes, committed or not.
    decided: HashMap<DeliveryId, (u32, DeliveryState)>,
    /// The events that publishers were told are accepted, in order.
    pub(super) acknowledged: Vec<EventSeq>,
    /// How many events were acknowledged when this one was published.
    published_after: HashMap<EventSeq, usize>,
    /// The process that accepted each event.
    accepted_by: HashMap<EventSeq, u32>,
    /// Webhooks of which operators were told that nothing is sent any more, with the number of config changes at that
    /// time.
    closed: BTreeMap<WebhookNum, usize>,
    /// Webhooks that are being opened, by process.
    opening: BTreeMap<(u32, WebhookNum), usize>,
    /// Deliveries that an operator is changing, by process.
    meddling: BTreeMap<(u32, DeliveryId), usize>,
    /// Deliveries that were purged while in flight: the same endpoint does not send them again.
    withdrawn: BTreeSet<(DeliveryId, Owner)>,
    /// What endpoints have started, and why.
    started: BTreeMap<(Owner, EventSeq), Trigger>,
    /// How many cancellations of a delivery were asked for and not refused.
    cancellations: BTreeMap<DeliveryId, usize>,
    /// Attempts of a delivery that failed while its webhook was suspended, and used up no retry.
    probes: BTreeMap<DeliveryId, usize>,
    /// Purges under way, by process.
    purging: BTreeMap<(u32, WebhookNum), usize>,
    purged: BTreeSet<DeliveryId>,
    /// Events that were lost with a database.
    pub(super) lost_events: BTreeSet<EventSeq>,
}

/// Requests.
impl Oracle {
    /// What must hold when a lane starts an attempt.
    pub(super) fn check_start(
        &mut self,
        (process, owner): (&Process, Owner),
        called: &EndpointConfig,
        entry: &lane::Entry,
    ) {
        let (world, event) = (&process.world, entry.event.seq);
        let id = DeliveryId { event, webhook: called.num };
        self.started.insert((owner, event), entry.trigger);
        let (now, tables) = (process.wall(), world.tables.read());
        // An attempt that starts while the engine stops, without a lease, or for a shard that is not served, is never
        // sent.
        if process.context.draining.is_cancelled()
            || !process.context.lease.is_valid()
            || !process.shard_set.serves(called.num)
        {
            return;
        }
        self.check_open(process, id);
        // A clock that was set back does not delay deliveries that wait for no retry.
        let never_waited = entry.is_manual() || entry.state.tries == 0;
        let is_due = |at: Option<UnixMillis>| never_waited || at.is_none_or(|at| at <= now);
        assert!(is_due(entry.state.next_at), "{id:?} is sent early");
        if !world.knows_its_database(process) {
            return;
        }
        self.check_alone(process, id);
        let decided = self.decided.get(&id).filter(|_| !never_waited);
        assert!(decided.and_then(|(_, state)| state.next_at).is_none_or(|at| at <= now), "{id:?} is sent again early");
        if let Some(row) = tables.delivery(id).filter(|row| row.attempts >= entry.state.attempts)
            && !self.is_meddled_with(id)
        {
            assert_eq!(row.attempts, entry.state.attempts, "{id:?} is sent as it was before");
            assert_eq!(row.status, Status::Pending, "{id:?} is sent although it is settled");
            assert!(is_due(row.next_at), "{id:?} is sent before its row is due");
        }
        let is_withdrawn = self.withdrawn.contains(&(id, owner));
        assert!(!is_withdrawn || entry.is_manual(), "{id:?} is sent again although it was purged");
        if called.policy.ordered {
            self.check_order(&tables, id);
        }
    }

    /// The process has not heard that the webhook is closed.
    fn check_open(&self, process: &Process, id: DeliveryId) {
        let world = &process.world;
        let has_heard =
            |change: &usize| !world.is_clustered || *change <= world.machines[process.place].followed_to.get();
        assert!(!self.closed.get(&id.webhook).is_some_and(has_heard), "{id:?} is sent although its webhook is closed");
    }

    /// No request for this delivery is in flight here or at another process with a valid lease.
    fn check_alone(&self, process: &Process, id: DeliveryId) {
        let living = process.world.processes();
        let may_be_heard = |incarnation| {
            incarnation == process.incarnation
                || living.iter().any(|other| other.incarnation == incarnation && other.context.lease.is_valid())
        };
        // A request that was sent under another database is cut short or unknown to this one.
        let server = process.world.servers.get();
        let others = self
            .of(id)
            .filter(|request| request.is_under_way && request.server == server && may_be_heard(request.incarnation));
        let others = others.filter(|request| process.world.knows_its_database_life(request.incarnation));
        assert_eq!(others.map(|request| request.num).next(), None, "{id:?} is sent twice at once");
    }

    /// No earlier event is still owed: neither one of the same node, nor one of another node whose publisher had been
    /// answered when this event was published.
    fn check_order(&self, tables: &Tables, id: DeliveryId) {
        let by_fanouts = tables.owed_by_fanouts().filter(|(_, webhook)| *webhook == id.webhook).map(|(event, _)| event);
        let came_from_there = |event: &EventSeq| self.accepted_by.get(event) == self.accepted_by.get(&id.event);
        let known = &self.acknowledged[..self.published_after.get(&id.event).copied().unwrap_or(0)];
        let came_before = |event: &EventSeq| *event < id.event && came_from_there(event) || known.contains(event);
        let owed = tables.pending_of(id.webhook).chain(by_fanouts);
        for event in owed.filter(came_before) {
            let earlier = DeliveryId { event, ..id };
            let is_decided = self.decided.get(&earlier).is_some_and(|(_, state)| state.status != Status::Pending);
            let is_manual = tables.delivery(earlier).is_some_and(|state| state.manual.is_some());
            assert!(is_decided || is_manual, "{id:?} is sent before {event:?}");
        }
    }

    /// A request is sent, and its receiver sees it. Checks what must hold at this moment.
    pub(super) fn sent(&mut self, process: &Process, owner: Owner, id: DeliveryId, number: u16) -> RequestNum {
        let (world, incarnation, webhook) = (&process.world, process.incarnation, id.webhook);
        let trigger = self.started.get(&(owner, id.event)).copied().expect("an attempt that was started");
        let knows = world.knows_its_database(process);
        self.check_open(process, id);
        if knows {
            self.check_alone(process, id);
        }
        if world.is_clustered && knows {
            let owner = world.tables.read().leases.owner(webhook);
            assert_eq!(owner, process.shard_set.node(), "{id:?} is sent by a node that does not own its shard");
        }
        let under_way = self.under_way.entry((incarnation, webhook)).or_default();
        *under_way += 1;
        let cap = world.hooks.read().rows.get(&webhook).map_or(0, Hook::cap);
        assert!(*under_way <= cap, "{under_way} requests to {webhook:?} are under way, {cap} may be");
        let its = self.under_way.range((incarnation, WebhookNum(0))..=(incarnation, WebhookNum(i64::MAX)));
        let total: usize = its.map(|(_, under_way)| under_way).sum();
        assert!(total <= world.bounds.permits, "{total} requests are under way");
        let num = self.requests.len();
        let request = Request {
            num,
            id,
            number,
            trigger,
            outcome: None,
            was_cut: false,
            is_under_way: true,
            server: world.servers.get(),
            knew_its_database: knows,
            forgotten_by: None,
            is_decided: false,
            incarnation,
            owner,
        };
        self.by_delivery.entry(id).or_default().push(num);
        self.requests.push(request);
        num
    }

    /// The receiver has answered the request.
    pub(super) fn answered(&mut self, request: RequestNum, outcome: &Outcome) {
        self.requests[request].outcome = Some(outcome.kind());
    }

    /// The request is over. Answers whether it was answered; if not, its lease, its actor or its process has ended.
    pub(super) fn ended(&mut self, request: RequestNum) -> bool {
        let request = &mut self.requests[request];
        request.was_cut |= request.outcome.is_none();
        request.is_under_way = false;
        if let Some(under_way) = self.under_way.get_mut(&(request.incarnation, request.id.webhook)) {
            *under_way -= 1;
        }
        request.outcome.is_some()
    }

    /// The lane has decided what follows, and the journal was told. `is_owner`: whether the node still owns the shard;
    /// otherwise the outcome will be dropped.
    pub(super) fn decided(&mut self, id: DeliveryId, request: RequestNum, state: DeliveryState, is_owner: bool) {
        let request = &mut self.requests[request];
        request.is_decided = true;
        if is_owner {
            self.decided.insert(id, (request.incarnation, state));
        }
    }

    pub(super) fn is_anything_under_way(&self) -> bool {
        self.under_way.values().any(|under_way| *under_way > 0)
    }

    pub(super) fn of(&self, id: DeliveryId) -> impl Iterator<Item = &Request> {
        self.by_delivery.get(&id).into_iter().flatten().map(|request| &self.requests[*request])
    }

    /// Outcomes that the endpoint had not handed to the journal are lost.
    pub(super) fn endpoint_crashed(&mut self, owner: Owner) {
        let its = |request: &&mut Request| request.owner == owner;
        for request in self.requests.iter_mut().filter(its).filter(|request| !request.is_decided) {
            request.was_cut = true;
        }
    }

    /// Another node may send again what this process has sent for some webhooks and not recorded.
    pub(super) fn lost(&mut self, incarnation: u32, which: impl Fn(WebhookNum) -> bool) {
        self.decided.retain(|id, (decided_by, _)| *decided_by != incarnation || !which(id.webhook));
        let its =
            self.requests.iter_mut().filter(|request| request.incarnation == incarnation && which(request.id.webhook));
        its.for_each(|request| request.was_cut = true);
    }

    /// Uncommitted outcomes are lost, and so are the operations in progress.
    pub(super) fn process_died(&mut self, incarnation: u32) {
        self.lost(incarnation, |_| true);
        self.opening.retain(|(at_work, _), _| *at_work != incarnation);
        self.meddling.retain(|(at_work, _), _| *at_work != incarnation);
        self.purging.retain(|(at_work, _), _| *at_work != incarnation);
    }

    /// The database goes back to an earlier state. Later events and outcomes are lost.
    pub(super) fn goes_back(&mut self, before: &Tables, after: &Tables, server: u32) {
        let lost = before.events().map(|(event, _)| event.seq).filter(|event| !after.has_event(*event));
        self.lost_events.extend(lost);
        let is_there = |tables: &Tables, request: &Request| {
            let num = request.num.to_string();
            tables.attempts(request.id).any(|attempt| attempt.error.as_deref() == Some(num.as_str()))
        };
        for request in self.requests.iter_mut().filter(|request| request.server < server) {
            if is_there(before, request) && !is_there(after, request) {
                request.forgotten_by = Some(server);
            }
        }
    }

    /// A publisher was answered that had published when `after` events were acknowledged.
    pub(super) fn acknowledged(&mut self, event: EventSeq, after: usize) {
        self.acknowledged.push(event);
        self.published_after.insert(event, after);
    }

    /// The process has committed these events.
    pub(super) fn accepted(&mut self, incarnation: u32, events: &[EventSeq]) {
        let again = events.iter().find(|event| self.lost_events.contains(event));
        assert_eq!(again, None, "an event has the key of one that was lost");
        self.accepted_by.extend(events.iter().map(|event| (*event, incarnation)));
    }
}

/// Operators.
impl Oracle {
    pub(super) fn close(&mut self, world: &World, webhook: WebhookNum) {
        if !self.opening.keys().any(|(_, opening)| *opening == webhook) {
            self.closed.insert(webhook, world.hooks.read().changes.len());
        }
    }

    pub(super) fn begin_opening(&mut self, incarnation: u32, webhook: WebhookNum) {
        self.closed.remove(&webhook);
        *self.opening.entry((incarnation, webhook)).or_default() += 1;
    }

    pub(super) fn end_opening(&mut self, incarnation: u32, webhook: WebhookNum) {
        count_down(&mut self.opening, (incarnation, webhook));
    }

    pub(super) fn meddle(&mut self, incarnation: u32, id: DeliveryId) {
        *self.meddling.entry((incarnation, id)).or_default() += 1;
    }

    pub(super) fn meddled(&mut self, incarnation: u32, id: DeliveryId) {
        count_down(&mut self.meddling, (incarnation, id));
    }

    fn is_meddled_with(&self, id: DeliveryId) -> bool {
        self.meddling.keys().any(|(_, meddling)| *meddling == id)
    }

    /// A purge has begun while requests for these deliveries were in flight.
    pub(super) fn withdraws(&mut self, of: Owner, ids: impl Iterator<Item = DeliveryId>) {
        self.withdrawn.extend(ids.map(|id| (id, of)));
    }

    /// Purged deliveries are not in flight.
    pub(super) fn check_purged(&mut self, world: &World, purged: &[DeliveryId]) {
        // A deletion does not wait for requests in flight.
        for id in purged.iter().filter(|id| world.hook(id.webhook).is_some()) {
            let is_under_way = |request: &Request| request.is_under_way && !request.was_cut;
            assert!(!self.of(*id).any(is_under_way), "{id:?} is purged while its request is under way");
            let is_purged = self.purging.keys().any(|(_, purging)| *purging == id.webhook);
            assert!(is_purged, "{id:?} is purged without a purge of its webhook");
            self.purged.insert(*id);
        }
    }

    pub(super) fn begin_purge(&mut self, incarnation: u32, webhook: WebhookNum) {
        *self.purging.entry((incarnation, webhook)).or_default() += 1;
    }

    pub(super) fn end_purge(&mut self, incarnation: u32, webhook: WebhookNum) {
        count_down(&mut self.purging, (incarnation, webhook));
    }

    pub(super) fn probed(&mut self, id: DeliveryId) {
        *self.probes.entry(id).or_default() += 1;
    }

    pub(super) fn probes_of(&self, id: DeliveryId) -> usize {
        self.probes.get(&id).copied().unwrap_or(0)
    }

    pub(super) fn cancels(&mut self, id: DeliveryId) {
        *self.cancellations.entry(id).or_default() += 1;
    }

    /// The cancellation was refused before anything was recorded.
    pub(super) fn refuses_to_cancel(&mut self, id: DeliveryId) {
        count_down(&mut self.cancellations, id);
    }

    /// Whether an operator wanted the delivery cancelled.
    pub(super) fn may_be_cancelled(&self, id: DeliveryId) -> bool {
        let is_withdrawn = self.withdrawn.iter().any(|(withdrawn, _)| *withdrawn == id);
        self.cancellations.contains_key(&id) || self.purged.contains(&id) || is_withdrawn
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
            (Mode::Paused | Mode::Deleted, _) => 0,
            (Mode::Active | Mode::Stopping, ViewState::Closed) => WINDOW,
            (Mode::Active | Mode::Stopping, ViewState::Open | ViewState::HalfOpen) => {
                let tables = world.tables.read();
                let pending = tables.pending_of(webhook).filter(|event| {
                    tables.delivery(DeliveryId { event: *event, webhook }).is_some_and(|row| row.manual.is_some())
                });
                FOR_A_PROBE + cap + pending.count() + world.tests.get()
            }
        }
    }
}

/// One less of this; none if its process has died meanwhile.
fn count_down<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}
