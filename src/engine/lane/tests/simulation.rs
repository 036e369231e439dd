//! Drives the lane with random steps against a model of the store, with stale reads and crashes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;

/// The answer to a read of the store.
struct Read {
    rows: Vec<Due>,
    next: Option<UnixMillis>,
}

/// The rows that the store would hold, and the requests that were sent.
#[derive(Default)]
struct Model {
    rows: BTreeMap<EventSeq, DeliveryState>,
    /// Deliveries without a row, owed by a fan-out.
    owed: BTreeSet<EventSeq>,
    sending: BTreeSet<EventSeq>,
    sent: HashMap<EventSeq, u32>,
    cut_short: HashMap<EventSeq, u32>,
    reads: Vec<Read>,
    /// Events in the order of their first attempts.
    order: Vec<EventSeq>,
}

impl Model {
    fn apply(&mut self, effects: Vec<Effect>, now: Now, ordered: bool) -> Result<(), TestCaseError> {
        for effect in effects {
            match effect {
                Effect::Start { entry, .. } => {
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
                Effect::Save { .. } | Effect::Recall { .. } => {}
                Effect::Load { limit, known } => self.read(limit, &known, now, ordered),
            }
        }
        Ok(())
    }

    /// Reads now; the lane gets the answer later.
    fn read(&mut self, limit: usize, known: &[EventSeq], now: Now, ordered: bool) {
        let horizon = now.wall.plus(HORIZON);
        let wanted =
            |(seq, state): &(&EventSeq, &DeliveryState)| state.status == Status::Pending && !known.contains(seq);
        let pending = self.rows.iter().filter(wanted);
        let mut rows: Vec<Due> = pending.map(|(seq, state)| Due { event: event(seq.0), state: *state }).collect();
        if !ordered {
            rows.sort_by_key(|due| (due.state.next_at, due.event.seq));
        }
        let near = |due: &Due| ordered || due.state.next_at.is_some_and(|at| at <= horizon);
        let later = rows.iter().find(|due| !near(due)).and_then(|due| due.state.next_at);
        rows.retain(near);
        rows.truncate(limit);
        let next = if rows.len() == limit { rows.last().and_then(|last| last.state.next_at) } else { later };
        self.reads.push(Read { rows, next });
    }

    fn unsettled(&self) -> usize {
        self.owed.len() + self.rows.values().filter(|state| state.status == Status::Pending).count()
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish,
    Finish { ok: bool, nth: usize },
    AnswerRead,
    Advance { ms: u64 },
    Wake,
    Remind,
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
        1 => Just(Step::Remind),
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
        prop_assert!(self.bench.lane.window.len() <= WINDOW);
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
        self.hear(finished(event.0, outcome))
    }

    fn answer_read(&mut self) -> Result<(), TestCaseError> {
        if self.model.reads.is_empty() {
            return Ok(());
        }
        let Read { rows, next } = self.model.reads.remove(0);
        let entries = rows.into_iter().map(|due| Entry::stored(due, InDoubt::NOTHING)).collect();
        self.hear(Input::Loaded { entries, next })
    }

    fn configure(&mut self, mode: Mode) -> Result<(), TestCaseError> {
        let policy = self.bench.lane.policy.clone();
        self.hear(Input::Configure { policy, mode })
    }

    /// The actor dies: its requests are cut short, its offers become rows, and a new actor starts.
    fn crash(&mut self) -> Result<(), TestCaseError> {
        for event in std::mem::take(&mut self.model.sending) {
            *self.model.cut_short.entry(event).or_default() += 1;
        }
        let now = self.bench.now().wall;
        for event in std::mem::take(&mut self.model.owed) {
            self.model.rows.entry(event).or_insert(pending(now));
        }
        self.model.reads.clear();
        self.bench.lane = Lane::new(self.bench.lane.policy.clone(), Mode::Active, true, Health::default());
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
            Step::Remind => self.hear(Input::Remind),
            Step::SwitchOff => self.configure(Mode::Paused),
            Step::SwitchOn => self.configure(Mode::Active),
            Step::Crash => self.crash(),
        }
    }

    /// Runs until every delivery is settled; the receiver accepts everything.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        self.configure(Mode::Active)?;
        for _ in 0..5000 {
            if self.model.unsettled() == 0 {
                return Ok(());
            }
            self.finish(true, 0)?;
            self.answer_read()?;
            self.bench.elapsed += Duration::from_millis(200);
            self.hear(Input::Tick)?;
        }
        prop_assert!(false, "{} deliveries never end", self.model.unsettled());
        Ok(())
    }
}

#[test]
fn steady_new_work_beyond_what_can_be_sent_does_not_starve_older_rows() {
    let mut world = World::new(false);
    let old = 1..=400;
    world.model.rows.extend(old.clone().map(|seq| (EventSeq(seq), pending(START))));
    world.next = seq_at(Duration::ZERO, 0);
    world.hear(Input::Wake).unwrap();
    for _ in 0..800 {
        world.publish().unwrap();
        world.publish().unwrap();
        world.bench.elapsed += Duration::from_millis(10);
        world.finish(true, 0).unwrap();
        world.answer_read().unwrap();
    }
    let missing = old.filter(|seq| !world.model.sent.contains_key(&EventSeq(*seq))).count();
    assert_eq!(missing, 0, "of 400 old rows were never sent");
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
