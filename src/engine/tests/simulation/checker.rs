//! Checks the tables, the ledger and the oracle: in part while a simulation runs, and completely once everything has
//! come to rest.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::placement;
use crate::domain::delivery::{DeliveryState, Status, Trigger};
use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::outcome::OutcomeKind;
use crate::domain::shard::ShardNum;
use crate::engine::TEST_EVENT;
use crate::journal::ledger::Oldest;
use crate::store::memory::{Hook, Tables};

use super::oracle::{Oracle, Request};
use super::process::Process;
use super::trace;
use super::world::World;

/// Every target of every event has a row or a fan-out.
fn fanouts_cover(tables: &Tables) {
    let open: BTreeSet<EventSeq> = tables.open_fanouts().collect();
    for (event, targets) in tables.events().filter(|(event, _)| !open.contains(&event.seq)) {
        for webhook in targets {
            let id = DeliveryId { event: event.seq, webhook: *webhook };
            assert!(tables.delivery(id).is_some(), "{id:?} is forgotten: no fan-out, no row");
        }
    }
}

/// The ledger agrees with a recount, if it was told of every commit.
pub(super) fn ledger_agrees(process: &Process) {
    if !process.commits.are_announced() {
        return;
    }
    if !process.world.knows_its_database(process) {
        return;
    }
    let (world, ledger) = (&process.world, process.ledger.lock());
    let (tables, now) = (world.tables.read(), process.wall());
    let mut owed: BTreeMap<WebhookNum, BTreeSet<EventSeq>> = BTreeMap::new();
    for (event, webhook) in tables.owed_by_fanouts().filter(|owed| !is_news(process, &tables, *owed)) {
        owed.entry(webhook).or_default().insert(event);
    }
    for hook in world.hooks.read().rows.values().filter(|hook| !hook.is_deleted) {
        if !process.shard_set.owns(ShardNum::of(hook.num)) {
            assert_eq!(ledger.pending(hook.num), 0, "{:?} is another node's to count", hook.num);
            continue;
        }
        if !is_owner(process, &tables, hook.num) {
            continue;
        }
        let mut pending = owed.remove(&hook.num).unwrap_or_default();
        pending.extend(tables.pending_of(hook.num));
        let known: Vec<String> = pending.iter().map(|event| trace::event(*event)).collect();
        assert_eq!(
            ledger.pending(hook.num),
            pending.len() as u64,
            "the ledger of {:?}: it is owed {known:?}",
            hook.num
        );
        match (ledger.oldest(hook.num), pending.first()) {
            (Some(Oldest::Known(oldest)), first) => assert_eq!(Some(&oldest), first, "the oldest of {:?}", hook.num),
            (Some(Oldest::Unknown { not_before }), first) => assert!(first.is_some_and(|first| *first >= not_before)),
            (None, first) => assert_eq!(first, None),
        }
        if !world.clocks_differ() {
            let later = |than: i64| tables.due_moments(hook.num).filter(|at| at.0 > than).count() as u64;
            let scheduled = ledger.scheduled(hook.num, now);
            assert!((later(now.0 + 60_000)..=later(now.0)).contains(&scheduled), "{scheduled} wait of {:?}", hook.num);
        }
    }
}

fn is_owner(process: &Process, tables: &Tables, webhook: WebhookNum) -> bool {
    !process.world.is_clustered || tables.leases.owner(webhook) == process.shard_set.node()
}

/// Whether another node has committed the event and this process has not scanned it yet.
fn is_news(process: &Process, tables: &Tables, (event, webhook): (EventSeq, WebhookNum)) -> bool {
    let shard = process.shard_set.part_of(webhook);
    let transaction = tables.written_by((event, shard.num())).unwrap_or(0);
    process.shard_set.is_new_from_peer(shard, transaction, event) && !process.commits.has_claimed((event, shard.num()))
}

/// Every shard is owned by the node that placement names, and served.
pub(super) fn all_is_served(world: &World) -> bool {
    let tables = world.tables.read();
    let nodes: Vec<i64> = world.processes().iter().filter_map(|process| process.shard_set.node()).collect();
    let is_served = |(shard, owner): (ShardNum, Option<i64>)| {
        let should = placement::owner(shard, &nodes);
        let serves =
            |node| world.process_of(&tables, node).is_some_and(|process| process.shard_set.serves_shard(shard));
        owner == should && owner.is_some_and(serves)
    };
    tables.leases.owners().all(is_served)
}

/// What must hold once everything has come to rest.
pub(super) fn all_is_well(world: &World) {
    let (tables, oracle, hooks) = (world.tables.read(), world.oracle.borrow(), world.hooks.read());
    assert_eq!(tables.open_fanouts().next(), None, "a fan-out is left although every target has a row");
    fanouts_cover(&tables);
    let accepted: BTreeSet<EventSeq> = tables.events().map(|(event, _)| event.seq).collect();
    let is_known = |event: &EventSeq| accepted.contains(event) || oracle.lost_events.contains(event);
    assert!(oracle.acknowledged.iter().all(is_known), "an event was lost");
    let kinds: BTreeMap<EventSeq, &str> = tables.events().map(|(event, _)| (event.seq, event.kind.as_str())).collect();
    for (id, state) in tables.deliveries() {
        let found = Found { id, state, hook: &hooks.rows[&id.webhook], is_test: kinds[&id.event] == TEST_EVENT };
        found.is_where_it_should_be(&oracle);
        found.attempts_rise(&tables, &oracle);
        found.requests_are_explained(&tables, &oracle, world);
    }
    for request in &oracle.requests {
        let is_explained = tables.delivery(request.id).is_some() || oracle.lost_events.contains(&request.id.event);
        assert!(is_explained, "{:?} was sent and has no row", request.id);
    }
}

/// Whether both outcomes were lost at once: with their process, or with a database. The sender of the next request may
/// not have noticed the loss yet.
fn is_one_loss(request: &Request, next: &Request) -> bool {
    let is_before = |server: u32| next.server < server || !next.knew_its_database;
    let with_process = next.incarnation == request.incarnation && is_before(request.server + 1);
    with_process || request.forgotten_by.is_some_and(is_before)
}

/// A delivery at the end of a simulation.
struct Found<'a> {
    id: DeliveryId,
    state: DeliveryState,
    hook: &'a Hook,
    is_test: bool,
}

impl Found<'_> {
    fn is_where_it_should_be(&self, oracle: &Oracle) {
        let Self { id, state, hook, is_test } = self;
        let came_to = |kind| oracle.of(*id).any(|request| request.outcome == Some(kind));
        let is_exhausted = state.tries > u16::from(hook.policy.retry_policy.max_retries);
        match state.status {
            Status::Success => assert!(came_to(OutcomeKind::Success), "{id:?} did not arrive: {state:?}"),
            Status::Failed => {
                let given_up = is_exhausted || came_to(OutcomeKind::Gone) || *is_test;
                assert!(given_up && state.attempts > 0, "{id:?} was given up too early: {state:?}");
            }
            Status::Cancelled => {
                assert!(oracle.may_be_cancelled(*id) || hook.is_deleted, "nobody wanted {id:?} cancelled: {state:?}");
            }
            Status::Pending => assert!(!hook.is_open() && !hook.is_deleted, "{id:?} never ends: {state:?}"),
        }
        let (is_pending, is_due) = (state.status == Status::Pending, state.next_at.is_some());
        assert_eq!(is_pending, is_due, "{id:?}: {state:?}");
        assert!(is_pending || state.manual.is_none(), "{id:?}: {state:?}");
    }

    /// Attempts are numbered without gaps. Automatic attempts end with the policy; manual ones and probes of a suspended
    /// webhook do not count among them.
    fn attempts_rise(&self, tables: &Tables, oracle: &Oracle) {
        let Self { id, state, hook, .. } = self;
        let numbers: Vec<u16> = tables.attempts(*id).map(|attempt| attempt.number).collect();
        assert_eq!(numbers, (1..=state.attempts).collect::<Vec<_>>(), "the attempts of {id:?}");
        let automatic = tables.attempts(*id).filter(|attempt| attempt.trigger != Trigger::Manual).count();
        // What was decided may be lost with its process.
        let (tries, probes) = (usize::from(state.tries), oracle.probes_of(*id));
        assert!((tries..=tries + probes).contains(&automatic), "{automatic} of {id:?}: {tries} tries, {probes} probes");
        assert!(state.tries <= u16::from(hook.policy.retry_policy.max_retries) + 1, "{id:?} is tried too often");
    }

    /// Each request is a recorded attempt or was cut short; then the next request for the delivery says that it may be
    /// the second.
    fn requests_are_explained(&self, tables: &Tables, oracle: &Oracle, world: &World) {
        let id = self.id;
        let recorded: BTreeSet<&str> = tables.attempts(id).filter_map(|attempt| attempt.error.as_deref()).collect();
        let is_recorded = |request: &Request| recorded.contains(request.num.to_string().as_str());
        let requests: Vec<&Request> = oracle.of(id).collect();
        assert_eq!(requests.iter().filter(|request| is_recorded(request)).count(), recorded.len());
        for (index, request) in requests.iter().enumerate() {
            let next = requests.get(index + 1);
            if is_recorded(request) {
                let rises = next.is_none_or(|next| next.number > request.number);
                assert!(rises, "{id:?} is attempted twice under number {}", request.number);
                continue;
            }
            assert!(request.was_cut, "request {} for {id:?} was made and not recorded", request.num);
            match next {
                // The manual retry itself was lost with the database.
                _ if request.trigger == Trigger::Manual
                    && (next.map_or(world.servers.get(), |next| next.server) > request.server
                        || !request.knew_its_database) => {}
                // Its outcome was lost later, together with that of the next request.
                Some(next) if request.is_decided && is_one_loss(request, next) => {}
                Some(next) => {
                    assert!(next.number <= request.number, "{id:?} was cut short and is attempted as another one");
                    let says_so = matches!(next.trigger, Trigger::Recovery | Trigger::Manual);
                    // Once a clock was set back, rows that were due cannot be told from others.
                    let cannot_know = world.was_set_back();
                    assert!(says_so || cannot_know, "{id:?} was cut short and is sent again as {:?}", next.trigger);
                }
                None => self.is_not_to_be_sent_again(oracle),
            }
        }
    }

    fn is_not_to_be_sent_again(&self, oracle: &Oracle) {
        let Self { id, state, hook, .. } = self;
        let taken_back = state.status != Status::Pending && (oracle.may_be_cancelled(*id) || hook.is_deleted);
        let is_held = state.status == Status::Pending && !hook.is_open();
        assert!(taken_back || is_held, "{id:?} was cut short and never sent again: {state:?}");
    }
}
