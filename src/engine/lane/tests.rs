//! Tests of the lane on its own.

mod backlog;
mod recall;
mod simulation;
mod suspension;

use bytes::Bytes;

use super::window::WINDOW;
use super::*;
use crate::domain::delivery::{DeliveryState, Due, Fallback};
use crate::domain::event::{Body, Event};
use crate::domain::id::TenantNum;
use crate::domain::in_doubt::InDoubt;
use crate::engine::permits::Share;

const START: UnixMillis = UnixMillis(1_800_000_000_000);

/// The key of an event that was accepted at this time after [`START`].
fn seq_at(elapsed: Duration, number: i64) -> i64 {
    EventSeq::first_at(START.plus(elapsed)).0 + number
}

fn pending(next_at: UnixMillis) -> DeliveryState {
    DeliveryState::pending(Some(next_at))
}

fn event(seq: i64) -> Arc<Event> {
    let kind = "message.sent".to_owned();
    Arc::new(Event { seq: EventSeq(seq), tenant: TenantNum(1), kind, body: Body::InMemory(Bytes::new()), trail: None })
}

fn finished(seq: i64, outcome: Outcome) -> Input {
    Input::Finished {
        event: EventSeq(seq),
        outcome,
        said: Said::default(),
        from_former_url: false,
        took: Duration::from_millis(5),
        jitter: 0.0,
    }
}

fn offer(seq: i64) -> Input {
    Input::Offer(Entry::offered(event(seq), false))
}

fn policy(change: impl FnOnce(&mut Policy)) -> Arc<Policy> {
    let mut policy = Policy::default();
    change(&mut policy);
    Arc::new(policy)
}

/// A lane and its clock.
struct Bench {
    lane: Lane,
    epoch: Instant,
    elapsed: Duration,
    tight: bool,
}

impl Bench {
    fn new(policy: Arc<Policy>) -> Self {
        Self {
            lane: Lane::new(policy, Mode::Active, false, Health::default()),
            epoch: Instant::now(),
            elapsed: Duration::ZERO,
            tight: false,
        }
    }

    fn now(&self) -> Now {
        Now { wall: START.plus(self.elapsed), steady: self.epoch + self.elapsed, tight: self.tight }
    }

    fn on(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.lane.on(input, self.now(), &mut effects);
        effects
    }

    fn finish(&mut self, seq: i64, outcome: Outcome) -> DeliveryState {
        let effects = self.on(finished(seq, outcome));
        let settled = effects.into_iter().find_map(|effect| match effect {
            Effect::Settle { state, .. } => Some(state),
            _ => None,
        });
        settled.expect("a finished attempt is settled")
    }
}

fn started(effects: &[Effect]) -> Vec<i64> {
    let seq = |effect: &Effect| match effect {
        Effect::Start { entry, .. } => Some(entry.event.seq.0),
        _ => None,
    };
    effects.iter().filter_map(seq).collect()
}

fn news(effects: &[Effect]) -> Option<News> {
    effects.iter().find_map(|effect| if let Effect::Save { news, .. } = effect { *news } else { None })
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
    assert!(bench.lane.is_idle(bench.now()));
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
    let effects = bench.on(finished(2, Outcome::Success));
    assert_eq!(started(&effects), [3]);
    assert!(started(&bench.on(Input::Tick)).is_empty());
}

#[test]
fn a_full_window_makes_rows_and_reads_them_back_when_it_has_room() {
    let mut bench = Bench::new(policy(|policy| policy.max_in_flight = 1));
    let all: i64 = i64::try_from(WINDOW).unwrap() + 11;
    let rows: usize = (1..=all).map(|seq| deferred(&bench.on(offer(seq)))).sum();
    assert_eq!(rows, 10, "one is in flight, a window waits");
    assert!(!bench.lane.is_idle(bench.now()));
}

/// Rows that were due at [`START`].
fn old_rows(seqs: std::ops::Range<i64>) -> Vec<Entry> {
    let due = START.plus(Duration::ZERO);
    seqs.map(|seq| Entry::stored(Due { event: event(seq), state: pending(due) }, InDoubt::NOTHING)).collect()
}

#[test]
fn new_work_does_not_overtake_rows_that_wait_for_longer() {
    let mut bench = Bench::new(policy(|policy| policy.max_in_flight = 1));
    bench.elapsed = Duration::from_secs(10);
    assert_eq!(started(&bench.on(offer(seq_at(bench.elapsed, 0)))).len(), 1);
    bench.on(offer(seq_at(bench.elapsed, 1)));
    bench.on(Input::Loaded { entries: old_rows(1..2), next: None });
    let effects = bench.on(finished(seq_at(bench.elapsed, 0), Outcome::Success));
    assert_eq!(started(&effects), [1]);
}

#[test]
fn a_window_full_of_later_retries_still_serves_what_is_due_now() {
    let mut bench = Bench::new(policy(|policy| policy.max_in_flight = 1));
    let later = DeliveryState { attempts: 1, tries: 1, ..pending(START.plus(Duration::from_secs(20))) };
    let all = 1..=i64::try_from(WINDOW).unwrap();
    let retries = all.map(|seq| Entry::stored(Due { event: event(seq), state: later }, InDoubt::NOTHING)).collect();
    bench.on(Input::Loaded { entries: retries, next: None });
    let now = seq_at(Duration::ZERO, 1000);
    assert_eq!(started(&bench.on(offer(now))), [now]);
    assert_eq!(deferred(&bench.on(offer(now + 1))), 0, "a later retry makes room");
    assert!(bench.on(Input::Wake).iter().any(|effect| matches!(effect, Effect::Load { .. })));
}

#[test]
fn a_blocked_lane_does_not_read_its_rows_again_at_every_reminder() {
    let limit = serde_json::json!({ "rateLimit": { "requests": 1, "perSeconds": 3600, "burst": 1 } });
    let mut bench = Bench::new(Arc::new(serde_json::from_value(limit).unwrap()));
    bench.on(Input::Loaded { entries: old_rows(1..4), next: None });
    assert!(bench.on(Input::Remind).is_empty(), "the rows are here");
    let mut empty = Bench::new(policy(|_| ()));
    assert!(matches!(empty.on(Input::Remind).as_slice(), [Effect::Load { .. }]));
}

#[test]
fn a_retry_beyond_the_horizon_is_read_back_in_time() {
    let settings = serde_json::json!({ "retryPolicy": { "backoffStrategy": "schedule", "scheduleSeconds": [600] } });
    let mut bench = Bench::new(Arc::new(serde_json::from_value(settings).unwrap()));
    bench.on(offer(1));
    bench.finish(1, Outcome::Rejected);
    assert!(bench.lane.can_rest(bench.now()), "the due poller wakes it");
    assert_eq!(bench.lane.wake_at(bench.now()), Some(bench.epoch + Duration::from_secs(600) - AHEAD));
    bench.elapsed = Duration::from_secs(598);
    assert!(matches!(bench.on(Input::Tick).as_slice(), [Effect::Load { .. }]));
}

#[test]
fn what_waits_for_long_gets_a_row_and_stays() {
    let limit = serde_json::json!({ "rateLimit": { "requests": 1, "perSeconds": 100, "burst": 1 } });
    let mut bench = Bench::new(Arc::new(serde_json::from_value(limit).unwrap()));
    let first = seq_at(Duration::ZERO, 0);
    assert_eq!(started(&bench.on(offer(first))), [first]);
    bench.on(offer(first + 1));
    bench.elapsed = bench.lane.wake_at(bench.now()).unwrap() - bench.epoch;
    assert_eq!(deferred(&bench.on(Input::Tick)), 1);
    assert!(bench.lane.unrecorded().iter().all(|seq| seq.0 == first), "only what is in flight has no row");
    bench.elapsed = Duration::from_secs(100);
    assert_eq!(started(&bench.on(Input::Tick)), [first + 1]);
}

#[test]
fn an_endpoint_does_not_sleep_before_its_limiter_is_rested() {
    let limit = serde_json::json!({ "rateLimit": { "requests": 1, "perSeconds": 600, "burst": 1 } });
    let mut bench = Bench::new(Arc::new(serde_json::from_value(limit).unwrap()));
    bench.on(offer(1));
    bench.finish(1, Outcome::Success);
    bench.elapsed = Duration::from_secs(599);
    assert!(bench.lane.is_idle(bench.now()) && !bench.lane.can_rest(bench.now()));
    bench.elapsed = Duration::from_secs(600);
    assert!(bench.lane.can_rest(bench.now()));
}

#[test]
fn a_clock_that_is_set_back_holds_up_nothing_new() {
    let mut bench = Bench::new(policy(|policy| policy.max_in_flight = 1));
    bench.elapsed = Duration::from_secs(3600);
    let (one, two) = (seq_at(bench.elapsed, 1), seq_at(bench.elapsed, 2));
    bench.on(offer(one));
    bench.on(offer(two));
    bench.elapsed = Duration::ZERO;
    let effects = bench.on(finished(one, Outcome::Success));
    assert_eq!(started(&effects), [two]);
}

#[test]
fn switching_off_makes_rows_of_what_waits_and_deleting_cancels_it() {
    let mut bench = Bench::new(policy(|policy| policy.max_in_flight = 1));
    (1..=3).for_each(|seq| drop(bench.on(offer(seq))));
    let policy = bench.lane.policy.clone();
    assert_eq!(deferred(&bench.on(Input::Configure { policy: policy.clone(), mode: Mode::Paused })), 2);
    assert_eq!(deferred(&bench.on(offer(4))), 1);
    let effects = bench.on(Input::Configure { policy, mode: Mode::Deleted });
    assert!(matches!(effects.as_slice(), [Effect::Recall { .. }]));
    assert!(matches!(bench.on(offer(5)).as_slice(), [Effect::Cancel { event: EventSeq(5) }]));
}

#[test]
fn a_failed_manual_retry_leaves_the_automatic_ones_as_they_were() {
    let mut bench = Bench::new(policy(|_| ()));
    let next_at = Some(START.plus(Duration::from_secs(20)));
    let manual = Some(Fallback { status: Status::Pending, next_at, is_replay: false });
    let state = DeliveryState {
        status: Status::Pending,
        attempts: 2,
        tries: 2,
        next_at: Some(START),
        settled_at: None,
        manual,
    };
    let due = Due { event: event(1), state };
    let entries = vec![Entry::stored(due, InDoubt::NOTHING)];
    assert_eq!(started(&bench.on(Input::Loaded { entries, next: None })), [1]);
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
    let rows = [1, 2].map(|seq| Entry::stored(Due { event: event(seq), state: pending(START) }, InDoubt::NOTHING));
    assert_eq!(started(&bench.on(Input::Loaded { entries: rows.to_vec(), next: None })), [1]);
    let effects = bench.on(finished(1, Outcome::Rejected));
    assert!(started(&effects).is_empty());
    bench.elapsed = Duration::from_secs(60);
    assert_eq!(started(&bench.on(Input::Tick)), [1]);
}

#[test]
fn a_failed_attempt_of_a_deleted_webhook_leaves_nothing_pending() {
    let mut bench = Bench::new(policy(|_| ()));
    bench.on(offer(1));
    let policy = bench.lane.policy.clone();
    bench.on(Input::Configure { policy, mode: Mode::Deleted });
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

/// A lane whose breaker opens at the second failure, for 30 s, after its first two events have failed.
fn broken() -> Bench {
    let mut bench = Bench::new(policy(|policy| policy.breaker.failure_threshold = 2));
    bench.on(offer(1));
    bench.on(offer(2));
    bench.on(offer(3));
    bench.finish(1, Outcome::TimedOut);
    bench.finish(2, Outcome::TimedOut);
    bench
}

#[test]
fn a_receiver_that_only_fails_is_left_alone_and_its_work_waits_as_rows() {
    let mut bench = broken();
    assert_eq!(bench.lane.breaker(bench.now().wall).consecutive_failures, 2);
    assert_eq!(deferred(&bench.on(offer(4))), 1);
    bench.elapsed = Duration::from_secs(20);
    assert!(started(&bench.on(Input::Tick)).is_empty(), "retries are due, and wait");
    assert!(bench.lane.window.len() < 4);
}

#[test]
fn one_probe_is_sent_when_the_cool_down_is_over_and_its_success_lets_all_flow() {
    let mut bench = broken();
    assert_eq!(bench.finish(3, Outcome::TimedOut).status, Status::Pending);
    bench.elapsed = bench.lane.wake_at(bench.now()).unwrap() - bench.epoch;
    assert_eq!(bench.elapsed, Duration::from_secs(30) - AHEAD, "rows are read before they are needed");
    bench.on(Input::Tick);
    bench.on(Input::Loaded { entries: old_rows(10..14), next: None });
    bench.elapsed = Duration::from_secs(30);
    let probe = started(&bench.on(Input::Tick));
    assert_eq!(probe.len(), 1);
    assert!(started(&bench.on(offer(20))).is_empty(), "one probe at a time");
    let effects = bench.on(finished(probe[0], Outcome::Success));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Save { health, .. } if health.failing_since.is_none() && health.open_until.is_none())));
    assert!(started(&effects).len() > 1);
}

#[test]
fn what_a_person_asks_for_is_sent_although_the_receiver_is_left_alone() {
    let mut bench = broken();
    let manual = Some(Fallback { status: Status::Failed, next_at: None, is_replay: false });
    let state = DeliveryState { manual, ..pending(START) };
    let entry = Entry::stored(Due { event: event(7), state }, InDoubt::NOTHING);
    bench.lane.expect_send_now(EventSeq(7));
    assert_eq!(started(&bench.on(Input::SendNow(entry.clone()))), [7]);
    assert_eq!(bench.finish(7, Outcome::TimedOut).status, Status::Failed);
    let until = START.plus(Duration::from_secs(30));
    assert_eq!(
        bench.lane.breaker(bench.now().wall).next_probe_at,
        Some(until),
        "a failed manual attempt does not lengthen the cool-down"
    );
    assert!(started(&bench.on(Input::SendNow(entry))).is_empty(), "the delivery is not expected any more");
}

#[test]
fn a_probe_that_an_operator_asks_for_is_sent_at_once() {
    let mut bench = broken();
    bench.finish(3, Outcome::TimedOut);
    bench.elapsed = Duration::from_secs(10);
    let effects = bench.on(Input::Probe);
    assert_eq!(started(&effects).len(), 1, "the retry that came last is here and due");
}

#[test]
fn a_breaker_that_was_open_is_open_after_a_restart() {
    let mut bench = broken();
    let health = bench.lane.receiver.health();
    bench.lane = Lane::new(policy(|_| ()), Mode::Active, true, health);
    assert!(started(&bench.on(offer(9))).is_empty());
    assert!(!started_or_loaded(&bench.on(Input::Tick)));
    bench.elapsed = Duration::from_secs(30);
    assert!(started_or_loaded(&bench.on(Input::Tick)));
}

fn started_or_loaded(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Start { .. } | Effect::Load { .. }))
}

#[test]
fn another_receiver_starts_without_the_past_of_the_one_before() {
    let mut bench = broken();
    bench.on(Input::Renew);
    assert_eq!(started(&bench.on(offer(9))), [9]);
}

#[test]
fn few_requests_at_first_and_more_as_they_are_answered_well() {
    let mut bench = Bench::new(policy(|_| ()));
    let at_first: usize = (1..=40).map(|seq| started(&bench.on(offer(seq))).len()).sum();
    assert_eq!(at_first, 4);
    assert_eq!(started(&bench.on(finished(1, Outcome::Success))).len(), 2);
    assert_eq!(started(&bench.on(finished(2, Outcome::TimedOut))).len(), 0, "and fewer when it cannot take them");
}

#[test]
fn a_410_from_a_former_url_is_retried_and_does_not_suspend_the_webhook() {
    let mut bench = Bench::new(policy(|_| ()));
    bench.on(offer(1));
    let mut from_former_url = finished(1, Outcome::Gone);
    if let Input::Finished { from_former_url, .. } = &mut from_former_url {
        *from_former_url = true;
    }
    let effects = bench.on(from_former_url);
    assert_eq!(news(&effects), None);
    let state =
        effects.iter().find_map(|effect| if let Effect::Settle { state, .. } = effect { Some(*state) } else { None });
    assert_eq!(state.map(|state| state.status), Some(Status::Pending));
    assert_eq!(bench.lane.mode(), Mode::Active);
}

#[test]
fn a_slow_or_failing_receiver_shares_a_small_part_until_it_is_well() {
    let mut bench = Bench::new(policy(|_| ()));
    let share = |effects: &[Effect]| {
        effects.iter().find_map(|effect| if let Effect::Start { share, .. } = effect { Some(*share) } else { None })
    };
    assert_eq!(share(&bench.on(offer(1))), Some(Share::Healthy));
    let took = SLOW + Duration::from_millis(1);
    bench.on(Input::Finished {
        event: EventSeq(1),
        outcome: Outcome::Success,
        said: Said::default(),
        from_former_url: false,
        took,
        jitter: 0.0,
    });
    assert_eq!(share(&bench.on(offer(2))), Some(Share::Ailing), "slow");
    bench.on(finished(2, Outcome::Success));
    assert_eq!(share(&bench.on(offer(3))), Some(Share::Healthy));
    bench.on(finished(3, Outcome::Rejected));
    assert_eq!(share(&bench.on(offer(4))), Some(Share::Ailing), "failing");
}
