//! Tests of the bulkhead on its own, and against a model of plain lists.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;

fn ask(tenant: i64, webhook: i64, share: Share) -> Ask {
    Ask { tenant: TenantNum(tenant), webhook: WebhookNum(webhook), share }
}

fn granted(bulkhead: &mut Bulkhead<usize>, ask: Ask) -> Grant {
    match bulkhead.ask(ask) {
        Answer::Granted(grant) => grant,
        Answer::Full(_) => panic!("there is room"),
    }
}

fn queued(bulkhead: &mut Bulkhead<usize>, ask: Ask, waiter: usize) -> Ticket {
    match bulkhead.ask(ask) {
        Answer::Granted(_) => panic!("there is no room"),
        Answer::Full(full) => full.wait(waiter),
    }
}

/// A bulkhead whose part for `share` is full.
fn crowded(total: usize, share: Share) -> (Bulkhead<usize>, Vec<Grant>) {
    let mut bulkhead = Bulkhead::new(total);
    let places = bulkhead.part(share).places;
    let grants = (0..places).map(|_| granted(&mut bulkhead, ask(1, 1, share))).collect();
    (bulkhead, grants)
}

#[test]
fn ailing_endpoints_fill_an_eighth_and_healthy_ones_the_rest() {
    for (total, healthy, ailing) in [(0, 1, 1), (1, 1, 1), (2, 1, 1), (15, 14, 1), (16, 14, 2), (1024, 896, 128)] {
        let view = Bulkhead::<usize>::new(total).view();
        assert_eq!((view.healthy.places, view.ailing.places), (healthy, ailing));
    }
    let (mut bulkhead, _grants) = crowded(16, Share::Ailing);
    queued(&mut bulkhead, ask(1, 1, Share::Ailing), 0);
    let _grant = granted(&mut bulkhead, ask(2, 2, Share::Healthy));
}

#[test]
fn requests_that_hang_free_the_healthy_part_until_the_ailing_one_is_full() {
    let (mut bulkhead, mut grants) = crowded(16, Share::Healthy);
    for waiter in 0..3 {
        queued(&mut bulkhead, ask(2, 2, Share::Healthy), waiter);
    }
    let next: Vec<_> = grants.iter_mut().map(|grant| bulkhead.overdue(grant).map(|(waiter, _)| waiter)).collect();
    assert_eq!(next[..3], [Some(0), Some(1), None]);
    let PartView { in_use, waiting, .. } = bulkhead.view().healthy;
    assert_eq!((in_use, waiting, bulkhead.view().ailing.in_use), (14, 1, 2));
    assert_eq!(grants.iter().filter(|grant| grant.part() == Share::Ailing).count(), 2);
}

#[test]
fn a_hundred_thousand_waiting_requests_delay_another_tenants_single_one_by_one_turn() {
    let (mut bulkhead, mut grants) = crowded(16, Share::Healthy);
    for waiter in 0..100_000 {
        queued(&mut bulkhead, ask(1, i64::try_from(waiter % 100).unwrap(), Share::Healthy), waiter);
    }
    queued(&mut bulkhead, ask(2, 1000, Share::Healthy), 100_000);
    let next: Vec<_> = grants.drain(..2).filter_map(|grant| bulkhead.give_back(grant)).map(|next| next.0).collect();
    assert_eq!(next, [0, 100_000]);
}

#[test]
fn webhooks_of_a_tenant_take_turns_and_each_is_served_first_come_first_served() {
    let (mut bulkhead, mut grants) = crowded(16, Share::Healthy);
    for (waiter, webhook) in [7, 7, 7, 8, 9, 8].into_iter().enumerate() {
        queued(&mut bulkhead, ask(1, webhook, Share::Healthy), waiter);
    }
    let next: Vec<_> = grants.drain(..6).filter_map(|grant| bulkhead.give_back(grant)).map(|next| next.0).collect();
    assert_eq!(next, [0, 3, 4, 1, 5, 2]);
}

#[test]
fn a_waiter_that_was_served_cannot_be_forgotten() {
    let (mut bulkhead, mut grants) = crowded(16, Share::Healthy);
    let ticket = queued(&mut bulkhead, ask(1, 1, Share::Healthy), 5);
    let next = bulkhead.give_back(grants.pop().unwrap());
    assert_eq!((next.map(|next| next.0), bulkhead.forget(ticket)), (Some(5), None));
}

/// Tenants in turn, their webhooks in turn, the waiters of each.
type PlainQueue = Vec<(TenantNum, Vec<(WebhookNum, Vec<usize>)>)>;

/// What has happened while a waiter waited.
#[derive(Debug, Default)]
struct Wait {
    ahead: usize,
    turns: usize,
    most_tenants: usize,
    most_webhooks: usize,
}

#[derive(Debug, Default)]
struct Model {
    in_use: [usize; 2],
    queues: [PlainQueue; 2],
    waits: BTreeMap<usize, (usize, TenantNum, Wait)>,
}

impl Model {
    fn join(&mut self, ask: Ask, waiter: usize) {
        let queue = &mut self.queues[ask.share as usize];
        if !queue.iter().any(|(tenant, _)| *tenant == ask.tenant) {
            queue.push((ask.tenant, Vec::new()));
        }
        let webhooks = &mut queue.iter_mut().find(|(tenant, _)| *tenant == ask.tenant).unwrap().1;
        if !webhooks.iter().any(|(webhook, _)| *webhook == ask.webhook) {
            webhooks.push((ask.webhook, Vec::new()));
        }
        let queue = &mut webhooks.iter_mut().find(|(webhook, _)| *webhook == ask.webhook).unwrap().1;
        let wait = Wait { ahead: queue.len(), ..Wait::default() };
        queue.push(waiter);
        self.waits.insert(waiter, (ask.share as usize, ask.tenant, wait));
        self.see_competition();
    }

    fn see_competition(&mut self) {
        for (share, tenant, wait) in self.waits.values_mut() {
            let queue = &self.queues[*share];
            let webhooks = queue.iter().find(|(other, _)| other == tenant).map_or(0, |(_, webhooks)| webhooks.len());
            wait.most_tenants = wait.most_tenants.max(queue.len());
            wait.most_webhooks = wait.most_webhooks.max(webhooks);
        }
    }

    fn prune(queue: &mut PlainQueue) {
        for (_, webhooks) in queue.iter_mut() {
            webhooks.retain(|(_, queue)| !queue.is_empty());
        }
        queue.retain(|(_, webhooks)| !webhooks.is_empty());
    }

    /// The next waiter of a part; panics if it waited for too many turns.
    fn next(&mut self, share: usize) -> Option<usize> {
        let queue = &mut self.queues[share];
        if queue.is_empty() {
            self.in_use[share] -= 1;
            return None;
        }
        let webhooks = &mut queue[0].1;
        let waiter = webhooks[0].1.remove(0);
        webhooks.rotate_left(1);
        queue.rotate_left(1);
        Self::prune(queue);
        for (_, _, wait) in self.waits.values_mut().filter(|(of, _, _)| *of == share) {
            wait.turns += 1;
        }
        let (_, _, wait) = self.waits.remove(&waiter).unwrap();
        assert!(wait.turns <= (wait.ahead + 1) * wait.most_tenants * wait.most_webhooks, "starved: {wait:?}");
        Some(waiter)
    }

    fn forget(&mut self, waiter: usize) -> bool {
        for queue in &mut self.queues {
            for (_, queue) in queue.iter_mut().flat_map(|(_, webhooks)| webhooks) {
                queue.retain(|other| *other != waiter);
            }
            Self::prune(queue);
        }
        self.waits.remove(&waiter).is_some()
    }
}

#[derive(Debug, Clone)]
enum Op {
    Ask { tenant: i64, webhook: i64, share: Share },
    GiveBack(prop::sample::Index),
    Overdue(prop::sample::Index),
    Forget(prop::sample::Index),
}

fn op() -> impl Strategy<Value = Op> {
    let share = prop_oneof![3 => Just(Share::Healthy), 2 => Just(Share::Ailing)];
    prop_oneof![
        8 => (0i64..4, 0i64..3, share).prop_map(|(tenant, webhook, share)| Op::Ask { tenant, webhook, share }),
        4 => any::<prop::sample::Index>().prop_map(Op::GiveBack),
        1 => any::<prop::sample::Index>().prop_map(Op::Overdue),
        2 => any::<prop::sample::Index>().prop_map(Op::Forget),
    ]
}

/// The bulkhead, the model, and the requests for places so far.
struct World {
    bulkhead: Bulkhead<usize>,
    model: Model,
    grants: Vec<Grant>,
    tickets: Vec<(usize, Ticket)>,
    served: HashSet<usize>,
    asked: usize,
}

impl World {
    fn new(total: usize) -> Self {
        Self {
            bulkhead: Bulkhead::new(total),
            model: Model::default(),
            grants: Vec::new(),
            tickets: Vec::new(),
            served: HashSet::new(),
            asked: 0,
        }
    }

    fn on(&mut self, op: Op) {
        match op {
            Op::Ask { tenant, webhook, share } => self.ask(ask(tenant, tenant * 10 + webhook, share)),
            Op::GiveBack(index) if !self.grants.is_empty() => self.give_back(index.index(self.grants.len())),
            Op::Overdue(index) if !self.grants.is_empty() => self.overdue(index.index(self.grants.len())),
            Op::Forget(index) if !self.tickets.is_empty() => {
                let (waiter, ticket) = self.tickets.swap_remove(index.index(self.tickets.len()));
                let waited = self.model.forget(waiter);
                assert_eq!(self.bulkhead.forget(ticket), waited.then_some(waiter));
            }
            Op::GiveBack(_) | Op::Overdue(_) | Op::Forget(_) => {}
        }
        self.check();
    }

    fn ask(&mut self, ask: Ask) {
        let waiter = self.asked;
        self.asked += 1;
        match self.bulkhead.ask(ask) {
            Answer::Granted(grant) => {
                assert!(self.model.queues[ask.share as usize].is_empty(), "nobody is passed over");
                self.model.in_use[ask.share as usize] += 1;
                self.grants.push(grant);
            }
            Answer::Full(full) => {
                self.tickets.push((waiter, full.wait(waiter)));
                self.model.join(ask, waiter);
            }
        }
    }

    fn give_back(&mut self, index: usize) {
        let grant = self.grants.swap_remove(index);
        let expected = self.model.next(grant.part() as usize);
        let next = self.bulkhead.give_back(grant);
        self.hand_out(expected, next);
    }

    fn overdue(&mut self, index: usize) {
        let (was, room) = (self.grants[index].part(), self.model.in_use[1] < self.bulkhead.ailing.places);
        let moves = was == Share::Healthy && room;
        let expected = if moves { self.model.next(0) } else { None };
        self.model.in_use[1] += usize::from(moves);
        let next = self.bulkhead.overdue(&mut self.grants[index]);
        assert_eq!(self.grants[index].part(), if moves { Share::Ailing } else { was });
        self.hand_out(expected, next);
    }

    fn hand_out(&mut self, expected: Option<usize>, next: Option<(usize, Grant)>) {
        assert_eq!(next.as_ref().map(|(waiter, _)| *waiter), expected);
        if let Some((waiter, grant)) = next {
            assert!(self.served.insert(waiter), "served twice");
            self.grants.push(grant);
        }
    }

    fn check(&self) {
        let view = self.bulkhead.view();
        for (part, share) in [(view.healthy, 0), (view.ailing, 1)] {
            let waiting = self.model.waits.values().filter(|(of, _, _)| *of == share).count();
            assert_eq!((part.in_use, part.waiting), (self.model.in_use[share], waiting));
            assert!(part.in_use <= part.places);
            assert!(part.waiting == 0 || part.in_use == part.places, "a free place beside a waiter");
        }
        assert_eq!(view.in_use(), self.grants.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn places_are_bounded_turns_are_fair_and_nothing_is_lost(
        total in 0usize..20, ops in prop::collection::vec(op(), 0..200)
    ) {
        let mut world = World::new(total);
        for op in ops {
            world.on(op);
        }
        while !world.grants.is_empty() {
            world.give_back(0);
        }
        prop_assert_eq!(world.bulkhead.view().waiting(), 0, "all who wait are served in the end");
        prop_assert_eq!(world.bulkhead.view().in_use(), 0);
    }
}
