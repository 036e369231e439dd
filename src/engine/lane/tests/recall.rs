//! What a lane takes back, and what becomes of it.

use super::*;

fn recalled(effects: &[Effect]) -> Vec<i64> {
    let events = |effect: &Effect| match effect {
        Effect::Recall { events } => events.iter().map(|event| event.0).collect(),
        _ => Vec::new(),
    };
    effects.iter().flat_map(events).collect()
}

fn not_sent(seq: i64) -> Input {
    Input::NotSent { event: EventSeq(seq) }
}

fn configure(bench: &Bench, mode: Mode) -> Input {
    Input::Configure { policy: bench.lane.policy.clone(), mode }
}

#[test]
fn every_change_takes_back_what_is_not_sent_and_an_active_lane_starts_it_again() {
    let mut bench = Bench::new(policy(|_| ()));
    (1..=3).for_each(|seq| drop(bench.on(offer(seq))));
    let effects = bench.on(configure(&bench, Mode::Active));
    assert_eq!((recalled(&effects), started(&effects).len()), (vec![1, 2, 3], 0));
    assert_eq!(started(&bench.on(not_sent(2))), [2]);
}

#[test]
fn what_a_pause_takes_back_becomes_a_row_and_what_a_deletion_takes_back_is_cancelled() {
    let mut bench = Bench::new(policy(|_| ()));
    (1..=2).for_each(|seq| drop(bench.on(offer(seq))));
    assert_eq!(recalled(&bench.on(configure(&bench, Mode::Paused))), [1, 2]);
    assert!(matches!(bench.on(not_sent(1)).as_slice(), [Effect::Defer { event: EventSeq(1) }]));
    assert_eq!(recalled(&bench.on(configure(&bench, Mode::Deleted))), [2]);
    assert!(matches!(bench.on(not_sent(2)).as_slice(), [Effect::Cancel { event: EventSeq(2) }]));
    assert!(bench.lane.is_idle(bench.now()));
}

#[test]
fn a_breaker_that_opens_takes_back_all_but_what_a_person_asked_for() {
    let mut bench = Bench::new(policy(|policy| policy.breaker.failure_threshold = 1));
    (1..=2).for_each(|seq| drop(bench.on(offer(seq))));
    let manual = Some(Fallback { status: Status::Pending, next_at: None, is_replay: false });
    let state = DeliveryState { manual, ..pending(START) };
    bench.on(Input::Loaded {
        entries: vec![Entry::stored(Due { event: event(3), state }, InDoubt::NOTHING)],
        next: None,
    });
    assert_eq!(recalled(&bench.on(finished(1, Outcome::TimedOut))), [2]);
    assert!(started(&bench.on(not_sent(2))).is_empty(), "it waits for the probe");
}

#[test]
fn a_webhook_that_is_suspended_takes_back_what_was_not_sent() {
    let mut bench = Bench::new(policy(|_| ()));
    (1..=2).for_each(|seq| drop(bench.on(offer(seq))));
    assert_eq!(recalled(&bench.on(finished(1, Outcome::Gone))), [2]);
    assert!(started(&bench.on(not_sent(2))).is_empty());
}

#[test]
fn a_cancelled_delivery_that_was_not_sent_stays_cancelled() {
    let mut bench = Bench::new(policy(|_| ()));
    bench.on(offer(1));
    bench.lane.withdraw_all(EventSeq(1));
    assert!(matches!(bench.on(not_sent(1)).as_slice(), [Effect::Cancel { event: EventSeq(1) }]));
    assert!(bench.lane.is_idle(bench.now()));
}

#[test]
fn a_delivery_that_was_taken_back_can_be_taken_out() {
    let mut bench = Bench::new(policy(|_| ()));
    bench.on(offer(1));
    assert_eq!(bench.lane.take_out(EventSeq(1)), InLane::Started { manual: false });
    bench.lane.put_back(EventSeq(1), bench.now());
    assert_eq!(bench.lane.take_out(EventSeq(1)), InLane::Waiting);
    assert!(bench.lane.is_idle(bench.now()));
}
