//! The lane by itself, and driven by a seeded scheduler against a model of the store, with stale reads and crashes.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::id::TenantNum;
use crate::store::deliveries::Fallback;

const START: UnixMillis = UnixMillis(1_800_000_000_000);

fn event(seq: i64) -> Arc<Event> {
    let kind = "message.sent".to_owned();
    Arc::new(Event { seq: EventSeq(seq), tenant: TenantNum(1), kind, body: Bytes::new() })
}

fn offer(seq: i64) -> Input {
    Input::Offer(Entry::offered(event(seq), false))
}

fn policy(change: impl FnOnce(&mut Policy)) -> Arc<Policy> {
    let mut policy = Policy::default();
    change(&mut policy);
    Arc::new(policy)
}

/// A lane with a clock.
struct Bench {
    lane: Lane,
    epoch: Instant,
    elapsed: Duration,
}

impl Bench {
    fn new(policy: Arc<Policy>) -> Self {
        Self { lane: Lane::new(policy, Mode::Open, false), epoch: Instant::now(), elapsed: Duration::ZERO }
    }

    fn now(&self) -> Now {
        Now { wall: START.plus(self.elapsed), steady: self.epoch + self.elapsed }
    }

    fn on(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.lane.on(input, self.now(), &mut effects);
        effects
    }

    fn finish(&mut self, seq: i64, outcome: Outcome) -> DeliveryState {
        let effects = self.on(Input::Finished { event: EventSeq(seq), outcome, jitter: 0.0 });
        let settled = effects.into_iter().find_map(|effect| match effect {
            Effect::Settle { state, .. } => Some(state),
            Effect::Start { .. } | Effect::Defer { .. } | Effect::Cancel { .. } | Effect::Load { .. } => None,
        });
        settled.expect("a finished attempt is settled")
    }
}

fn started(effects: &[Effect]) -> Vec<i64> {
    let seq = |effect: &Effect| match effect {
        Effect::Start { entry } => Some(entry.event.seq.0),
        Effect::Settle { .. } | Effect::Defer { .. } | Effect::Cancel { .. } | Effect::Load { .. } => None,
    };
    effects.iter().filter_map(seq).collect()
}

fn deferred(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Defer { .. })).count()
}

#[test]
fn an_offer_starts_at_once_and_a_success_ends_it() {
    let mut bench = Bench::new(policy(|_| ()));
    assert_eq!(started(&bench.on(offer(1))), [1]);
    let state = bench.finish(1, Outcome::Success);
    assert_eq!((state.status, state.attempts, state.tries), (Status::Success, 1, 1));
    assert!(bench.lane.is_idle());
}

#[test]
fn a_failure_waits_for_its_time_and_wakes_the_lane_then() {
    let mut bench = Bench::new(policy(|_| ()));
    bench.on(offer(1));
    let state = bench.finish(1, Outcome::TimedOut);
    assert_eq!(state.next_at, Some(START.plus(Duration::from_secs(2))));
    assert_eq!(bench.lane.wake_at(bench.now()), Some(bench.epoch + Duration::from_secs(2)));
    bench.elapsed = Duration::from_millis(1999);
    assert!(started(&bench.on(Input::Tick)).is_empty());
    bench.elapsed = Duration::from_secs(2);
    assert_eq!(started(&bench.on(Input::Tick)), [1]);
}

#[test]
fn no_more_than_the_cap_are_in_flight() {
    let mut bench = Bench::new(policy(|policy| policy.max_in_flight = 2));
    let starts: Vec<_> = (1..=4).flat_map(|seq| started(&bench.on(offer(seq)))).collect();
    assert_eq!(starts, [1, 2]);
    let effects = bench.on(Input::Finished { event: EventSeq(2), outcome: Outcome::Success, jitter: 0.0 });
    assert_eq!(started(&effects), [3]);
    assert!(started(&bench.on(Input::Tick)).is_empty());
}

#[test]
fn a_full_window_makes_rows_and_reads_them_back_when_it_has_room() {
    let mut bench = Bench::new(policy(|policy| policy.max_in_flight = 1));
    let all: i64 = i64::try_from(WINDOW).unwrap() + 11;
    let rows: usize = (1..=all).map(|seq| deferred(&bench.on(offer(seq)))).sum();
    assert_eq!(rows, 10, "one is in flight, a window waits");
    assert!(!bench.lane.is_idle());
}

#[test]
fn switching_off_makes_rows_of_what_waits_and_deleting_cancels_it() {
    let mut bench = Bench::new(policy(|policy| policy.max_in_flight = 1));
    (1..=3).for_each(|seq| drop(bench.on(offer(seq))));
    let policy = bench.lane.policy.clone();
    assert_eq!(deferred(&bench.on(Input::Configure { policy: policy.clone(), mode: Mode::Held })), 2);
    assert_eq!(deferred(&bench.on(offer(4))), 1);
    let effects = bench.on(Input::Configure { policy, mode: Mode::Gone });
    assert!(effects.is_empty());
    assert!(matches!(bench.on(offer(5)).as_slice(), [Effect::Cancel { event: EventSeq(5) }]));
}

#[test]
fn gone_switches_the_lane_off() {
    let mut bench = Bench::new(policy(|policy| policy.max_in_flight = 1));
    bench.on(offer(1));
    bench.on(offer(2));
    let effects = bench.on(Input::Finished { event: EventSeq(1), outcome: Outcome::Gone, jitter: 0.0 });
    assert!(matches!(effects.first(), Some(Effect::Settle { disable: true, .. })));
    assert_eq!((deferred(&effects), started(&effects).len()), (1, 0));
}

#[test]
fn a_failed_manual_retry_leaves_the_automatic_ones_as_they_were() {
    let mut bench = Bench::new(policy(|_| ()));
    let next_at = Some(START.plus(Duration::from_secs(20)));
    let manual = Some(Fallback { status: Status::Pending, next_at });
    let state = DeliveryState {
        status: Status::Pending,
        attempts: 2,
        tries: 2,
        next_at: Some(START),
        settled_at: None,
        manual,
    };
    let due = Due { event: event(1), state };
    let entries = vec![Entry::stored(due, Suspect::NOTHING)];
    assert_eq!(started(&bench.on(Input::Loaded { entries, complete: true })), [1]);
    let after = bench.finish(1, Outcome::Rejected);
    assert_eq!((after.status, after.attempts, after.tries, after.next_at), (Status::Pending, 3, 2, next_at));
    assert_eq!(bench.lane.wake_at(bench.now()), Some(bench.epoch + Duration::from_secs(20)));
}

#[test]
fn the_head_of_an_ordered_lane_blocks_however_long_it_waits() {
    let settings = serde_json::json!({
        "ordered": true, "retryPolicy": { "backoffStrategy": "schedule", "scheduleSeconds": [60] }
    });
    let mut bench = Bench::new(Arc::new(serde_json::from_value(settings).unwrap()));
    let rows = [1, 2].map(|seq| Entry::stored(Due { event: event(seq), state: pending(START) }, Suspect::NOTHING));
    assert_eq!(started(&bench.on(Input::Loaded { entries: rows.to_vec(), complete: true })), [1]);
    let effects = bench.on(Input::Finished { event: EventSeq(1), outcome: Outcome::Rejected, jitter: 0.0 });
    assert!(started(&effects).is_empty());
    bench.elapsed = Duration::from_secs(60);
    assert_eq!(started(&bench.on(Input::Tick)), [1]);
}

#[test]
fn a_failed_attempt_of_a_deleted_webhook_leaves_nothing_pending() {
    let mut bench = Bench::new(policy(|_| ()));
    bench.on(offer(1));
    let policy = bench.lane.policy.clone();
    bench.on(Input::Configure { policy, mode: Mode::Gone });
    assert_eq!(bench.finish(1, Outcome::TimedOut).status, Status::Cancelled);
}

#[test]
fn a_rate_limit_spaces_starts_and_says_when_to_come_back() {
    let limit = serde_json::json!({ "rateLimit": { "requests": 1, "perSeconds": 1, "burst": 1 } });
    let mut bench = Bench::new(Arc::new(serde_json::from_value(limit).unwrap()));
    assert_eq!(started(&bench.on(offer(1))), [1]);
    assert!(started(&bench.on(offer(2))).is_empty());
    let at = bench.lane.wake_at(bench.now()).unwrap();
    bench.elapsed = at - bench.epoch;
    assert_eq!(started(&bench.on(Input::Tick)), [2]);
    assert!(bench.elapsed >= Duration::from_millis(900), "{:?}", bench.elapsed);
}

/// What the store would hold, and what was sent.
#[derive(Default)]
struct Model {
    rows: BTreeMap<EventSeq, DeliveryState>,
    /// Owed by a fan-out and without a row.
    owed: BTreeSet<EventSeq>,
    sending: BTreeSet<EventSeq>,
    sent: HashMap<EventSeq, u32>,
    cut_short: HashMap<EventSeq, u32>,
    reads: Vec<(usize, Vec<Due>)>,
    /// In the order of first starts.
    order: Vec<EventSeq>,
}

impl Model {
    fn apply(&mut self, effects: Vec<Effect>, now: Now, ordered: bool) -> Result<(), TestCaseError> {
        for effect in effects {
            match effect {
                Effect::Start { entry } => {
                    let seq = entry.event.seq;
                    prop_assert!(self.sending.insert(seq), "{seq:?} is sent twice at once");
                    if let Some(row) = self.rows.get(&seq) {
                        prop_assert_eq!(row.status, Status::Pending, "a settled delivery is sent again");
                        prop_assert!(row.next_at.is_some_and(|at| at <= now.wall), "sent early");
                    }
                    if self.sent.insert(seq, self.sent.get(&seq).unwrap_or(&0) + 1).is_none() {
                        self.order.push(seq);
                    }
                }
                Effect::Settle { entry, state, .. } => {
                    self.sending.remove(&entry.event.seq);
                    self.owed.remove(&entry.event.seq);
                    self.rows.insert(entry.event.seq, state);
                }
                Effect::Defer { event } => {
                    self.owed.remove(&event);
                    self.rows.entry(event).or_insert(pending(now.wall));
                }
                Effect::Cancel { .. } => prop_assert!(false, "nothing was deleted"),
                Effect::Load { limit } => self.read(limit, now, ordered),
            }
        }
        Ok(())
    }

    /// Reads now; the lane hears of it later.
    fn read(&mut self, limit: usize, now: Now, ordered: bool) {
        let horizon = now.wall.plus(HORIZON);
        let due = |state: &&DeliveryState| {
            state.status == Status::Pending && (ordered || state.next_at.is_some_and(|at| at <= horizon))
        };
        let mut rows: Vec<Due> = self
            .rows
            .iter()
            .filter(|(_, state)| due(state))
            .map(|(seq, state)| Due { event: event(seq.0), state: *state })
            .collect();
        if !ordered {
            rows.sort_by_key(|due| (due.state.next_at, due.event.seq));
        }
        rows.truncate(limit);
        self.reads.push((limit, rows));
    }

    fn unsettled(&self) -> usize {
        self.owed.len() + self.rows.values().filter(|state| state.status == Status::Pending).count()
    }
}

fn pending(next_at: UnixMillis) -> DeliveryState {
    DeliveryState::pending(Some(next_at))
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish,
    Finish { ok: bool, nth: usize },
    AnswerRead,
    Advance { ms: u64 },
    Wake,
    SwitchOff,
    SwitchOn,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Publish),
        6 => (any::<bool>(), 0usize..8).prop_map(|(ok, nth)| Step::Finish { ok, nth }),
        3 => Just(Step::AnswerRead),
        3 => (1u64..5000).prop_map(|ms| Step::Advance { ms }),
        1 => Just(Step::Wake),
        1 => Just(Step::SwitchOff),
        1 => Just(Step::SwitchOn),
        1 => Just(Step::Crash),
    ]
}

struct World {
    bench: Bench,
    model: Model,
    next: i64,
    ordered: bool,
}

impl World {
    fn new(ordered: bool) -> Self {
        let policy = policy(|policy| {
            policy.ordered = ordered;
            policy.max_in_flight = 3;
        });
        Self { bench: Bench::new(policy), model: Model::default(), next: 1, ordered }
    }

    fn hear(&mut self, input: Input) -> Result<(), TestCaseError> {
        let effects = self.bench.on(input);
        let cap = if self.ordered { 1 } else { 3 };
        self.model.apply(effects, self.bench.now(), self.ordered)?;
        prop_assert!(self.model.sending.len() <= cap);
        prop_assert!(self.bench.lane.ready.len() <= WINDOW + 3);
        Ok(())
    }

    fn publish(&mut self) -> Result<(), TestCaseError> {
        let seq = EventSeq(self.next);
        self.next += 1;
        if self.ordered {
            self.model.rows.insert(seq, pending(self.bench.now().wall));
            return self.hear(Input::Wake);
        }
        self.model.owed.insert(seq);
        self.hear(offer(seq.0))
    }

    fn finish(&mut self, ok: bool, nth: usize) -> Result<(), TestCaseError> {
        let Some(event) = self.model.sending.iter().nth(nth).copied() else { return Ok(()) };
        let outcome = if ok { Outcome::Success } else { Outcome::Rejected };
        self.hear(Input::Finished { event, outcome, jitter: 0.0 })
    }

    fn answer_read(&mut self) -> Result<(), TestCaseError> {
        if self.model.reads.is_empty() {
            return Ok(());
        }
        let (limit, rows) = self.model.reads.remove(0);
        let complete = rows.len() < limit;
        let entries = rows.into_iter().map(|due| Entry::stored(due, Suspect::NOTHING)).collect();
        self.hear(Input::Loaded { entries, complete })
    }

    fn configure(&mut self, mode: Mode) -> Result<(), TestCaseError> {
        let policy = self.bench.lane.policy.clone();
        self.hear(Input::Configure { policy, mode })
    }

    /// The actor dies: its requests are cut, what it was offered becomes rows, a new one starts.
    fn crash(&mut self) -> Result<(), TestCaseError> {
        for event in std::mem::take(&mut self.model.sending) {
            *self.model.cut_short.entry(event).or_default() += 1;
        }
        let now = self.bench.now().wall;
        for event in std::mem::take(&mut self.model.owed) {
            self.model.rows.entry(event).or_insert(pending(now));
        }
        self.model.reads.clear();
        self.bench.lane = Lane::new(self.bench.lane.policy.clone(), Mode::Open, true);
        self.hear(Input::Tick)
    }

    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Publish => self.publish(),
            Step::Finish { ok, nth } => self.finish(ok, nth),
            Step::AnswerRead => self.answer_read(),
            Step::Advance { ms } => {
                self.bench.elapsed += Duration::from_millis(ms);
                self.hear(Input::Tick)
            }
            Step::Wake => self.hear(Input::Wake),
            Step::SwitchOff => self.configure(Mode::Held),
            Step::SwitchOn => self.configure(Mode::Open),
            Step::Crash => self.crash(),
        }
    }

    /// Lets everything come to an end, with a receiver that accepts.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        self.configure(Mode::Open)?;
        for _ in 0..5000 {
            if self.model.unsettled() == 0 {
                return Ok(());
            }
            self.finish(true, 0)?;
            self.answer_read()?;
            self.bench.elapsed += Duration::from_millis(200);
            self.hear(Input::Wake)?;
        }
        prop_assert!(false, "{} deliveries never end", self.model.unsettled());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_delivery_ends_once_whatever_happens(
        ordered: bool,
        steps in proptest::collection::vec(step(), 1..300),
    ) {
        let mut world = World::new(ordered);
        for step in steps {
            world.run(step)?;
        }
        world.settle()?;
        for (seq, state) in &world.model.rows {
            let sent = world.model.sent.get(seq).copied().unwrap_or(0);
            let cut = world.model.cut_short.get(seq).copied().unwrap_or(0);
            prop_assert_eq!(u32::from(state.attempts) + cut, sent, "{:?}: every request is explained", seq);
            prop_assert!(state.tries <= 4, "never past the policy");
        }
        if ordered {
            prop_assert!(world.model.order.is_sorted(), "ordered endpoints go by publishing");
        }
    }
}
