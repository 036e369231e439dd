//! Tests the ledger by itself, and against plain sets: a store that is ahead of the ledger, and look-ups that are
//! answered late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const WEBHOOK: WebhookNum = WebhookNum(7);

fn events(range: std::ops::Range<i64>) -> Vec<EventSeq> {
    range.map(EventSeq).collect()
}

fn owing(range: std::ops::Range<i64>) -> Ledger {
    let mut ledger = Ledger::default();
    events(range).into_iter().for_each(|event| ledger.owe(WEBHOOK, event));
    ledger
}

fn settled(mut ledger: Ledger, range: std::ops::Range<i64>) -> Ledger {
    events(range).into_iter().for_each(|event| ledger.settle(WEBHOOK, event));
    ledger
}

#[test]
fn a_webhook_whose_deliveries_are_all_settled_has_no_account() {
    let ledger = settled(owing(0..100), 0..100);
    assert_eq!((ledger.pending(WEBHOOK), ledger.oldest(WEBHOOK)), (0, None));
    assert_eq!((ledger.total_pending(), ledger.backlogged(), ledger.accounts.len()), (0, 0, 0));
}

#[test]
fn the_oldest_event_of_a_long_backlog_is_known_until_the_front_is_settled() {
    let front = i64::try_from(FRONT).unwrap();
    let ledger = settled(owing(0..1000), 0..front - 1);
    assert_eq!(ledger.oldest(WEBHOOK), Some(Oldest::Known(EventSeq(front - 1))));
    let ledger = settled(ledger, front - 1..front);
    assert_eq!(ledger.oldest(WEBHOOK), Some(Oldest::Unknown { not_before: EventSeq(front) }));
}

#[test]
fn a_look_makes_the_oldest_known_again() {
    let mut ledger = settled(owing(0..1000), 0..500);
    let look = ledger.look_up(WEBHOOK).unwrap();
    assert!(look.after < EventSeq(500));
    assert_eq!(ledger.learn(look, &events(500..532)), Some(Oldest::Known(EventSeq(500))));
    assert!(ledger.look_up(WEBHOOK).is_none());
}

#[test]
fn an_answer_is_put_right_by_what_changed_since_the_look_began() {
    let mut ledger = settled(owing(0..1000), 0..500);
    let look = ledger.look_up(WEBHOOK).unwrap();
    let mut ledger = settled(ledger, 500..503);
    ledger.again(WEBHOOK, EventSeq(501));
    assert_eq!(ledger.learn(look, &events(500..532)), Some(Oldest::Known(EventSeq(501))));
}

#[test]
fn an_answer_that_came_too_late_changes_nothing() {
    let mut ledger = settled(owing(0..1000), 0..500);
    let (first, second) = (ledger.look_up(WEBHOOK).unwrap(), ledger.look_up(WEBHOOK).unwrap());
    let unknown = ledger.oldest(WEBHOOK);
    assert_eq!(ledger.learn(first, &events(500..532)), unknown, "a later look-up has replaced it");
    let mut ledger = settled(ledger, 500..600);
    assert_eq!(ledger.learn(second, &events(500..532)), unknown, "more changes than can be noted");
}

#[test]
fn an_answer_that_no_longer_joins_the_front_changes_nothing() {
    let mut ledger = settled(owing(0..1000), 0..500);
    let look = ledger.look_up(WEBHOOK).unwrap();
    ledger.learn(look, &events(500..532));
    ledger = settled(ledger, 500..532);
    let look = ledger.look_up(WEBHOOK).unwrap();
    events(0..40).into_iter().for_each(|event| ledger.again(WEBHOOK, event));
    ledger.learn(look, &events(532..564));
    let ledger = settled(ledger, 0..32);
    assert_eq!(ledger.oldest(WEBHOOK), Some(Oldest::Unknown { not_before: EventSeq(32) }));
}

#[test]
fn a_backlog_that_has_shrunk_to_the_front_is_known_as_a_whole() {
    let mut ledger = settled(owing(0..40), 31..40);
    ledger.owe(WEBHOOK, EventSeq(50));
    let ledger = settled(ledger, 0..31);
    assert_eq!(ledger.oldest(WEBHOOK), Some(Oldest::Known(EventSeq(50))));
}

#[test]
fn what_is_told_twice_counts_once_while_the_front_holds_all() {
    let mut ledger = owing(0..10);
    ledger.owe(WEBHOOK, EventSeq(3));
    assert_eq!(ledger.pending(WEBHOOK), 10);
    let ledger = settled(settled(ledger, 3..4), 3..4);
    assert_eq!(ledger.pending(WEBHOOK), 9);
}

#[test]
fn of_a_deleted_webhook_nothing_is_known() {
    let mut ledger = owing(0..1000);
    ledger.schedule(WEBHOOK, UnixMillis(90_000), UnixMillis(0));
    ledger.forget(WEBHOOK);
    assert_eq!((ledger.pending(WEBHOOK), ledger.oldest(WEBHOOK)), (0, None));
    assert_eq!((ledger.scheduled(WEBHOOK, UnixMillis(0)), ledger.backlogged(), ledger.total_pending()), (0, 0, 0));
    ledger.owe(WEBHOOK, EventSeq(1000));
    let ledger = settled(ledger, 0..1000);
    assert_eq!(ledger.pending(WEBHOOK), 1, "what it was owed before no longer counts");
}

#[test]
fn a_backlog_is_loaded_with_its_oldest_event_and_forgets_what_was_before() {
    let mut ledger = owing(0..3);
    ledger.load(WEBHOOK, 1_000_000, EventSeq(40));
    assert_eq!((ledger.pending(WEBHOOK), ledger.oldest(WEBHOOK)), (1_000_000, Some(Oldest::Known(EventSeq(40)))));
    ledger.owe(WEBHOOK, EventSeq(39));
    assert_eq!(ledger.oldest(WEBHOOK), Some(Oldest::Known(EventSeq(39))));
    ledger.load(WEBHOOK, 0, EventSeq::ZERO);
    assert_eq!(ledger.total_pending(), 0);
}

#[test]
fn the_deepest_and_the_oldest_backlogs_come_first() {
    let mut ledger = Ledger::default();
    for (webhook, pending, oldest) in [(1, 5, 100), (2, 50, 90), (3, 5, 80), (4, 500, 300)] {
        ledger.load(WebhookNum(webhook), pending, EventSeq(oldest));
    }
    ledger.settle(WebhookNum(3), EventSeq(80));
    assert_eq!(ledger.deepest(Among::All, 2), [(WebhookNum(4), 500), (WebhookNum(2), 50)]);
    let unknown = Oldest::Unknown { not_before: EventSeq(81) };
    assert_eq!(ledger.deepest(Among::These(&[WebhookNum(2), WebhookNum(77)]), 9), [(WebhookNum(2), 50)]);
    assert_eq!(
        ledger.oldest_first(Among::All, 2),
        [(WebhookNum(3), unknown), (WebhookNum(2), Oldest::Known(EventSeq(90)))]
    );
    assert_eq!(ledger.deepest(Among::All, 9).len(), 4);
}

/// Bytes of an account with its key and its allocations.
fn bytes(ledger: &Ledger, webhook: WebhookNum) -> usize {
    let account = &ledger.accounts[&webhook];
    let schedule = account.schedule.as_ref().map_or(0, |schedule| size_of::<Schedule>() + schedule.heap_bytes());
    size_of::<(WebhookNum, Account)>() + account.front.heap_bytes() + schedule
}

#[test]
fn an_account_takes_72_bytes_with_one_pending_delivery_and_under_a_kilobyte_with_a_million() {
    assert_eq!(bytes(&owing(0..1), WEBHOOK), 72);
    let mut ledger = owing(0..1_000_000);
    assert_eq!(bytes(&ledger, WEBHOOK), 72 + 256);
    ledger = settled(ledger, 0..32);
    let look = ledger.look_up(WEBHOOK).unwrap();
    ledger = settled(ledger, 32..64);
    assert_eq!(bytes(&ledger, WEBHOOK), 72 + 256 + 552, "during a look-up");
    ledger.learn(look, &events(64..96));
    assert_eq!(bytes(&ledger, WEBHOOK), 72 + 256);
}

#[test]
fn scheduled_deliveries_count_until_the_second_of_their_moment() {
    let mut ledger = owing(0..3);
    for at in [10_700, 10_900, 12_000] {
        ledger.schedule(WEBHOOK, UnixMillis(at), UnixMillis(0));
    }
    let counts = [0, 9_999, 10_000, 11_999, 12_000].map(|now| ledger.scheduled(WEBHOOK, UnixMillis(now)));
    assert_eq!(counts, [3, 3, 1, 1, 0]);
    ledger.unschedule(WEBHOOK, UnixMillis(10_800), UnixMillis(9_000));
    assert_eq!(ledger.scheduled(WEBHOOK, UnixMillis(9_000)), 2);
}

/// A committed change, as the ledger gets it.
#[derive(Debug, Clone)]
enum Change {
    Owe(Vec<WebhookNum>, EventSeq),
    Again(WebhookNum, EventSeq),
    Settle(WebhookNum, EventSeq),
    Forget(WebhookNum),
}

#[derive(Debug, Clone)]
enum Op {
    /// Publishes this many events to the webhooks of these bits.
    Publish(usize, u8),
    /// Publishes an event out of order.
    PublishLate(usize, Index),
    SettleSome(usize, Index),
    SettleOldest(usize, usize),
    Again(usize, Index),
    Forget(usize),
    Tell(usize),
    Look(usize),
    Read(Index),
    Answer(Index),
}

const WEBHOOKS: usize = 2;

fn op() -> impl Strategy<Value = Op> {
    let webhook = || 0..WEBHOOKS;
    let index = any::<Index>;
    prop_oneof![
        4 => (1usize..80, 0u8..4).prop_map(|(count, bits)| Op::Publish(count, bits)),
        2 => (webhook(), index()).prop_map(|(webhook, index)| Op::PublishLate(webhook, index)),
        6 => (webhook(), index()).prop_map(|(webhook, index)| Op::SettleSome(webhook, index)),
        6 => (webhook(), 1usize..60).prop_map(|(webhook, count)| Op::SettleOldest(webhook, count)),
        3 => (webhook(), index()).prop_map(|(webhook, index)| Op::Again(webhook, index)),
        1 => webhook().prop_map(Op::Forget),
        6 => (1usize..10).prop_map(Op::Tell),
        3 => Just(Op::Tell(1000)),
        8 => webhook().prop_map(Op::Look),
        6 => index().prop_map(Op::Read),
        3 => index().prop_map(Op::Answer),
    ]
}

type Pending = BTreeMap<WebhookNum, BTreeSet<EventSeq>>;

fn of(pending: &mut Pending, webhook: WebhookNum) -> &mut BTreeSet<EventSeq> {
    pending.entry(webhook).or_default()
}

/// Applies a change to the sets.
fn apply(pending: &mut Pending, change: &Change) {
    match change {
        Change::Owe(webhooks, event) => {
            webhooks.iter().for_each(|webhook| assert!(of(pending, *webhook).insert(*event)));
        }
        Change::Again(webhook, event) => assert!(of(pending, *webhook).insert(*event)),
        Change::Settle(webhook, event) => assert!(of(pending, *webhook).remove(event)),
        Change::Forget(webhook) => of(pending, *webhook).clear(),
    }
}

struct Look {
    question: LookUp,
    told: usize,
    /// The rows that were read, and the number of commits that they show.
    read: Option<(Vec<EventSeq>, usize)>,
}

#[derive(Default)]
struct World {
    ledger: Ledger,
    committed: Pending,
    commits: usize,
    told: Pending,
    tells: usize,
    untold: VecDeque<Change>,
    settled: Pending,
    newest: i64,
    looks: Vec<Look>,
}

fn num(webhook: usize) -> WebhookNum {
    WebhookNum(i64::try_from(webhook).unwrap() + 1)
}

fn pick(set: &BTreeSet<EventSeq>, index: Index) -> Option<EventSeq> {
    (!set.is_empty()).then(|| *set.iter().nth(index.index(set.len())).unwrap())
}

impl World {
    fn pending(&mut self, webhook: WebhookNum) -> &BTreeSet<EventSeq> {
        self.committed.entry(webhook).or_default()
    }

    fn commit(&mut self, change: Change) {
        if let Change::Settle(webhook, event) = &change {
            self.settled.entry(*webhook).or_default().insert(*event);
        }
        apply(&mut self.committed, &change);
        self.commits += 1;
        self.untold.push_back(change);
    }

    fn tell(&mut self) {
        let Some(change) = self.untold.pop_front() else { return };
        self.tells += 1;
        apply(&mut self.told, &change);
        match change {
            Change::Owe(webhooks, event) => self.ledger.owe_all(&webhooks, event),
            Change::Again(webhook, event) => self.ledger.again(webhook, event),
            Change::Settle(webhook, event) => self.ledger.settle(webhook, event),
            Change::Forget(webhook) => self.ledger.forget(webhook),
        }
        self.check();
    }

    fn on(&mut self, op: Op) {
        match op {
            Op::Publish(count, bits) => {
                let targets: Vec<_> = (0..WEBHOOKS).filter(|bit| bits & (1 << bit) != 0).map(num).collect();
                for _ in 0..count {
                    self.newest += 10;
                    self.commit(Change::Owe(targets.clone(), EventSeq(self.newest)));
                }
            }
            Op::PublishLate(webhook, index) => {
                let event = EventSeq(index.index(usize::try_from(self.newest).unwrap() + 1) as i64);
                if !self.pending(num(webhook)).contains(&event) {
                    self.commit(Change::Owe(vec![num(webhook)], event));
                }
            }
            Op::SettleSome(webhook, index) => {
                if let Some(event) = pick(self.pending(num(webhook)), index) {
                    self.commit(Change::Settle(num(webhook), event));
                }
            }
            Op::SettleOldest(webhook, count) => {
                let oldest: Vec<_> = self.pending(num(webhook)).iter().copied().take(count).collect();
                for event in oldest {
                    self.commit(Change::Settle(num(webhook), event));
                }
            }
            Op::Again(webhook, index) => {
                let settled = self.settled.entry(num(webhook)).or_default();
                let Some(event) = pick(settled, index) else { return };
                settled.remove(&event);
                if !self.pending(num(webhook)).contains(&event) {
                    self.commit(Change::Again(num(webhook), event));
                }
            }
            Op::Forget(webhook) => self.commit(Change::Forget(num(webhook))),
            Op::Tell(count) => (0..count).for_each(|_| self.tell()),
            Op::Look(..) | Op::Read(..) | Op::Answer(..) => self.look(op),
        }
    }

    fn look(&mut self, op: Op) {
        match op {
            Op::Look(webhook) => {
                if let Some(question) = self.ledger.look_up(num(webhook)) {
                    self.looks.push(Look { question, told: self.tells, read: None });
                }
            }
            Op::Read(index) if !self.looks.is_empty() => self.read(index.index(self.looks.len())),
            Op::Answer(index) if !self.looks.is_empty() => self.answer(index.index(self.looks.len())),
            _ => {}
        }
    }

    fn read(&mut self, index: usize) {
        let look = &mut self.looks[index];
        let rows = self.committed.get(&look.question.webhook).into_iter().flatten();
        let rows = rows.filter(|event| **event > look.question.after).take(FRONT).copied().collect();
        look.read.get_or_insert((rows, self.commits));
    }

    /// Waits for the barrier, then gives the answer.
    fn answer(&mut self, index: usize) {
        self.read(index);
        let look = self.looks.swap_remove(index);
        let (rows, commits) = look.read.unwrap();
        while self.tells < commits {
            self.tell();
        }
        let webhook = look.question.webhook;
        let newest_look = look.question.number == self.ledger.look_ups;
        let answer = self.ledger.learn(look.question, &rows);
        if self.tells == look.told && newest_look {
            assert!(matches!(answer, Some(Oldest::Known(_))), "nothing changed meanwhile");
        }
        assert_eq!(answer, self.ledger.oldest(webhook));
        self.check();
    }

    fn check(&self) {
        for webhook in (0..WEBHOOKS).map(num) {
            let empty = BTreeSet::new();
            let told = self.told.get(&webhook).unwrap_or(&empty);
            assert_eq!(self.ledger.pending(webhook), told.len() as u64);
            match (self.ledger.oldest(webhook), told.first()) {
                (None, None) => {}
                (Some(Oldest::Known(event)), Some(oldest)) => assert_eq!(event, *oldest),
                (Some(Oldest::Unknown { not_before }), Some(oldest)) => assert!(not_before <= *oldest),
                (known, oldest) => panic!("{known:?} instead of {oldest:?}"),
            }
            if let Some(account) = self.ledger.accounts.get(&webhook) {
                let (known, upto) = account.front.known();
                assert_eq!(known, told.range(..=upto).copied().collect::<Vec<_>>());
                assert!(known.len() <= FRONT && account.front.heap_bytes() < 1024 - 72);
            }
        }
        let backlogged = self.told.values().filter(|told| !told.is_empty()).count();
        let total: usize = self.told.values().map(BTreeSet::len).sum();
        assert_eq!((self.ledger.backlogged(), self.ledger.total_pending()), (backlogged, total as u64));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn counts_are_exact_and_a_known_oldest_event_is_right_however_late_a_look_is_answered(
        ops in prop::collection::vec(op(), 0..120)
    ) {
        let mut world = World::default();
        for op in ops {
            world.on(op);
        }
        while !world.untold.is_empty() {
            world.tell();
        }
        world.looks.clear();
        for webhook in (0..WEBHOOKS).map(num) {
            if let Some(question) = world.ledger.look_up(webhook) {
                world.looks.push(Look { question, told: world.tells, read: None });
                world.answer(0);
            }
            let unknown = matches!(world.ledger.oldest(webhook), Some(Oldest::Unknown { .. }));
            prop_assert!(!unknown);
        }
    }
}
