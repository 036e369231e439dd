//! Backlogs that do not fit into the window: their rows are read in the right order, no more often than needed, and
//! never forgotten.

use super::*;

/// A store that answers every read at once.
struct Store {
    rows: Vec<Entry>,
    reads: usize,
    /// How many rows fit into one read, because of their size.
    fit: usize,
}

impl Store {
    fn new(rows: std::ops::Range<i64>, due: impl Fn(i64) -> UnixMillis) -> Self {
        let row = |seq| Entry::stored(Due { event: event(seq), state: pending(due(seq)) }, InDoubt::NOTHING);
        Self { rows: rows.map(row).collect(), reads: 0, fit: usize::MAX }
    }

    /// Answers reads until the lane asks for none. Answers all deliveries that started meanwhile.
    fn serve(&mut self, bench: &mut Bench, mut effects: Vec<Effect>) -> Vec<i64> {
        let mut all = started(&effects);
        while let Some((limit, known)) = effects.iter().find_map(asked) {
            self.reads += 1;
            assert!(self.reads < 100, "rows are read again and again");
            let unknown = self.rows.iter().filter(|row| !known.contains(&row.event.seq));
            let entries: Vec<Entry> = unknown.take(limit.min(self.fit)).cloned().collect();
            let is_cut = entries.len() == limit.min(self.fit);
            let next = entries.last().filter(|_| is_cut).and_then(|last| last.state.next_at);
            effects = bench.on(Input::Loaded { entries, next });
            all.extend(started(&effects));
        }
        all
    }
}

fn asked(effect: &Effect) -> Option<(usize, Vec<EventSeq>)> {
    if let Effect::Load { limit, known } = effect { Some((*limit, known.clone())) } else { None }
}

fn slow() -> Bench {
    Bench::new(policy(|policy| policy.max_in_flight = 1))
}

#[test]
fn new_work_beside_an_old_backlog_does_not_make_it_read_without_end() {
    let mut bench = slow();
    bench.elapsed = Duration::from_secs(60);
    let mut store = Store::new(1..2000, |_| START);
    let first = bench.on(Input::Wake);
    let new = |number| seq_at(Duration::from_secs(60), number);
    let deferrals: usize = (0..200).map(|number| deferred(&bench.on(offer(new(number))))).sum();
    store.serve(&mut bench, first);
    assert!(store.reads <= 2, "{}", store.reads);
    assert!(deferrals > 0);
    assert_eq!(bench.lane.window.len(), WINDOW);
    assert_eq!(bench.lane.window.first().unwrap().1.event.seq, EventSeq(1));
}

#[test]
fn many_rows_with_the_same_moment_are_read_once_each() {
    let mut bench = slow();
    let mut store = Store::new(1..2000, |_| START);
    let first = bench.on(Input::Wake);
    store.serve(&mut bench, first);
    assert!(store.reads <= 2, "{}", store.reads);
}

#[test]
fn a_lane_that_is_too_full_to_read_still_keeps_its_other_times() {
    let limit = serde_json::json!({ "rateLimit": { "requests": 1, "perSeconds": 1, "burst": 1 } });
    let mut bench = Bench::new(Arc::new(serde_json::from_value(limit).unwrap()));
    let mut store = Store::new(1..2000, |_| START);
    let effects = bench.on(Input::Wake);
    assert_eq!(store.serve(&mut bench, effects), [1]);
    bench.on(finished(1, Outcome::Success));
    let next = bench.lane.wake_at(bench.now()).expect("the next permit");
    assert_eq!(next, bench.epoch + Duration::from_secs(1));
}

#[test]
fn a_full_lane_without_rows_is_not_read_for_at_every_reminder() {
    let mut bench = slow();
    bench.on(offer(seq_at(Duration::ZERO, 0)));
    for number in 1..=300 {
        bench.on(offer(seq_at(Duration::ZERO, number)));
    }
    bench.elapsed = Duration::from_secs(1);
    let reads = (0..10).filter(|_| bench.on(Input::Remind).iter().any(|effect| asked(effect).is_some())).count();
    assert_eq!(reads, 0);
}

#[test]
fn what_is_taken_out_of_an_ordered_lane_comes_back_before_the_others_go() {
    let mut bench = Bench::new(policy(|policy| policy.ordered = true));
    let mut store = Store::new(1..4, |_| START);
    let effects = bench.on(Input::Wake);
    assert_eq!(store.serve(&mut bench, effects), [1]);
    bench.on(finished(1, Outcome::Rejected));
    assert_eq!(bench.lane.take_out(EventSeq(1)), InLane::Waiting);
    bench.elapsed = Duration::from_secs(1);
    let effects = bench.on(Input::Tick);
    assert!(started(&effects).is_empty(), "2 must not overtake 1");
    assert_eq!(store.serve(&mut bench, effects), [1]);
}

#[test]
fn a_cancelled_delivery_that_was_under_way_is_not_sent_again() {
    let mut bench = slow();
    bench.on(offer(1));
    bench.lane.withdraw(EventSeq(1));
    assert_eq!(bench.finish(1, Outcome::TimedOut).status, Status::Cancelled);
    assert!(bench.lane.is_idle(bench.now()));
}

#[test]
fn an_attempt_that_was_cut_short_spends_no_try_and_is_made_again_under_the_same_number() {
    let mut bench = Bench::new(policy(|policy| policy.retry_policy.max_retries = 0));
    bench.on(offer(1));
    let effects = bench.on(Input::CutShort { event: EventSeq(1) });
    let [Effect::Start { entry, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((entry.trigger, entry.state.attempts, entry.state.tries), (Trigger::Recovery, 0, 0));
    let state = bench.finish(1, Outcome::TimedOut);
    assert_eq!((state.status, state.attempts, state.tries), (Status::Failed, 1, 1));
}

#[test]
fn a_cancelled_delivery_whose_request_was_cut_short_is_not_sent_again() {
    let mut bench = slow();
    bench.on(offer(1));
    bench.lane.withdraw_all(EventSeq(1));
    let effects = bench.on(Input::CutShort { event: EventSeq(1) });
    assert!(matches!(effects[..], [Effect::Cancel { event: EventSeq(1) }]), "{effects:?}");
    assert!(bench.lane.is_idle(bench.now()));
}

#[test]
fn while_memory_is_tight_only_what_can_be_sent_at_once_stays_in_memory() {
    let mut bench = slow();
    bench.tight = true;
    let stays = |effects: &[Effect]| effects.iter().all(|effect| !matches!(effect, Effect::Defer { .. }));
    assert!(stays(&bench.on(offer(1))), "it is sent");
    let second = bench.on(offer(2));
    assert!(!stays(&second) && bench.lane.window.len() == 0);
}

#[test]
fn a_window_that_was_full_when_memory_became_tight_gets_smaller_and_nothing_is_lost() {
    let mut bench = slow();
    (1..=100).for_each(|seq| drop(bench.on(offer(seq))));
    bench.tight = true;
    let effects = bench.on(Input::Tick);
    let deferred = effects.iter().filter(|effect| matches!(effect, Effect::Defer { .. })).count();
    assert_eq!((bench.lane.window.len(), deferred), (FEW, 99 - FEW));
    assert!(bench.lane.window.unread().is_some(), "they are read back");
}

#[test]
fn rows_of_which_few_fit_into_a_read_are_each_read_once() {
    let mut bench = slow();
    let mut store = Store { fit: 4, ..Store::new(1..1000, |_| START) };
    let effects = bench.on(Input::Wake);
    assert_eq!(store.serve(&mut bench, effects), [1]);
    let held = bench.lane.window.len();
    assert!(held >= WINDOW / 2 && store.reads <= held.div_ceil(4) + 1, "{} reads for {held} rows", store.reads);
}
