//! Drives the breaker step by step; [`model`] drives it at random.

use std::time::Duration;

use super::*;

mod model;

const NOON: UnixMillis = UnixMillis(1_795_521_600_000);
const REFUSED: OutcomeKind = OutcomeKind::ConnectFailed;

fn after(seconds: u64) -> UnixMillis {
    NOON.plus(Duration::from_secs(seconds))
}

/// Opens after three failures, for 10, 20, 40 and then always 60 seconds.
fn settings() -> BreakerSettings {
    BreakerSettings { failure_threshold: 3, cooldown_seconds: 10, max_cooldown_seconds: 60 }
}

fn closed() -> Breaker {
    Breaker::new(settings(), Saved::default())
}

fn fail(breaker: &mut Breaker, times: usize, at: UnixMillis) -> Option<Change> {
    (0..times).map(|_| breaker.finished(EventSeq(1), REFUSED, at, 0.0)).last().flatten()
}

/// Opened at noon, for ten seconds.
fn opened() -> Breaker {
    let mut breaker = closed();
    assert_eq!(fail(&mut breaker, 3, NOON), Some(Change::Opened));
    breaker
}

/// A breaker whose probe began after this many seconds and has not ended.
fn probing(seconds: u64) -> Breaker {
    let mut breaker = opened();
    assert_eq!(breaker.may_start(after(seconds)), Permission::Probe);
    breaker.started(EventSeq(7));
    breaker
}

#[test]
fn as_many_failures_in_a_row_as_the_threshold_open_it() {
    let mut breaker = closed();
    assert_eq!(fail(&mut breaker, 2, NOON), None);
    assert_eq!(breaker.may_start(NOON), Permission::Free);
    assert_eq!(breaker.finished(EventSeq(3), OutcomeKind::Gone, NOON, 0.0), Some(Change::Opened));
    assert_eq!(breaker.may_start(NOON), Permission::Wait { until: after(10) });
    let view = View {
        state: ViewState::Open,
        consecutive_failures: 3,
        next_probe_at: Some(after(10)),
        opened_at: Some(NOON),
        last_failure: Some(OutcomeKind::Gone),
        suspension: None,
    };
    assert_eq!(breaker.view(after(9)), view);
}

#[test]
fn a_success_in_between_starts_the_count_over() {
    let mut breaker = closed();
    fail(&mut breaker, 2, NOON);
    assert_eq!(breaker.finished(EventSeq(2), OutcomeKind::Success, NOON, 0.0), None);
    assert_eq!(breaker.saved(), Saved::default());
    assert_eq!(fail(&mut breaker, 2, NOON), None);
}

#[test]
fn every_outcome_but_success_and_our_own_crash_is_a_failure() {
    let settings = BreakerSettings { failure_threshold: 1, ..settings() };
    for kind in OutcomeKind::ALL {
        let counts = !matches!(kind, OutcomeKind::Success | OutcomeKind::Crashed);
        let change = Breaker::new(settings, Saved::default()).finished(EventSeq(1), kind, NOON, 0.0);
        assert_eq!(change.is_some(), counts, "{kind:?}");
    }
}

#[test]
fn a_crash_of_ours_neither_counts_nor_interrupts_a_row_of_failures() {
    let mut breaker = closed();
    fail(&mut breaker, 2, NOON);
    assert_eq!(breaker.finished(EventSeq(1), OutcomeKind::Crashed, NOON, 0.0), None);
    assert_eq!(fail(&mut breaker, 1, NOON), Some(Change::Opened));
}

#[test]
fn after_the_cool_down_there_is_one_probe_at_a_time() {
    let mut breaker = opened();
    assert_eq!(breaker.may_start(after(10)), Permission::Probe);
    assert_eq!(breaker.view(after(10)).state, ViewState::HalfOpen);
    breaker.started(EventSeq(7));
    assert_eq!(breaker.may_start(after(10)), Permission::ProbeUnderWay);
    assert_eq!(breaker.view(after(10)).next_probe_at, None);
}

#[test]
fn a_probe_that_succeeds_closes_and_forgets_everything() {
    let mut breaker = probing(10);
    assert_eq!(breaker.finished(EventSeq(7), OutcomeKind::Success, after(11), 0.0), Some(Change::Closed));
    assert_eq!(breaker.may_start(after(11)), Permission::Free);
    assert!(breaker.is_closed());
    assert_eq!(breaker.saved(), Saved::default());
}

#[test]
fn each_probe_that_fails_doubles_the_cool_down_up_to_the_longest() {
    let (mut breaker, mut now) = (opened(), after(10));
    for seconds in [20, 40, 60, 60] {
        assert_eq!(breaker.may_start(now), Permission::Probe);
        breaker.started(EventSeq(7));
        assert_eq!(breaker.finished(EventSeq(7), REFUSED, now, 0.0), Some(Change::Reopened));
        let until = now.plus(Duration::from_secs(seconds));
        assert_eq!(breaker.may_start(now), Permission::Wait { until });
        now = until;
    }
    assert_eq!(breaker.view(now).opened_at, Some(NOON));
}

#[test]
fn a_late_failure_changes_nothing_while_open() {
    let mut breaker = opened();
    let before = breaker.saved();
    assert_eq!(fail(&mut breaker, 100, after(9)), None);
    assert_eq!(breaker.saved(), before);
}

#[test]
fn a_late_failure_does_not_end_the_probe() {
    let mut breaker = probing(10);
    assert_eq!(fail(&mut breaker, 1, after(11)), None);
    assert_eq!(breaker.may_start(after(11)), Permission::ProbeUnderWay);
}

#[test]
fn a_late_success_closes_while_the_probe_is_still_under_way() {
    let mut breaker = probing(10);
    assert_eq!(breaker.finished(EventSeq(1), OutcomeKind::Success, after(11), 0.0), Some(Change::Closed));
    assert_eq!(breaker.finished(EventSeq(7), REFUSED, after(12), 0.0), None);
    assert_eq!(breaker.view(after(12)).consecutive_failures, 1);
}

#[test]
fn a_probe_that_was_never_made_may_be_made_again_at_once() {
    let mut breaker = probing(10);
    breaker.not_sent(EventSeq(1));
    assert_eq!(breaker.may_start(after(10)), Permission::ProbeUnderWay);
    breaker.not_sent(EventSeq(7));
    assert_eq!(breaker.may_start(after(10)), Permission::Probe);

    let mut breaker = probing(10);
    assert_eq!(breaker.finished(EventSeq(7), OutcomeKind::Crashed, after(11), 0.0), None);
    assert_eq!(breaker.may_start(after(11)), Permission::Probe);
}

#[test]
fn an_operator_ends_the_cool_down_of_an_open_breaker_only() {
    let mut breaker = opened();
    assert!(breaker.probe_now());
    assert_eq!(breaker.may_start(NOON), Permission::Probe);
    assert!(!closed().probe_now());
    assert!(!probing(10).probe_now());
}

#[test]
fn after_a_restart_it_is_open_until_the_same_moment() {
    let breaker = Breaker::new(settings(), opened().saved());
    assert_eq!(breaker.may_start(after(9)), Permission::Wait { until: after(10) });
    assert_eq!(breaker.may_start(after(10)), Permission::Probe);
}

#[test]
fn after_a_restart_a_probe_that_was_under_way_is_due() {
    let mut breaker = Breaker::new(settings(), probing(10).saved());
    assert_eq!(breaker.may_start(NOON), Permission::Probe);
    breaker.started(EventSeq(8));
    assert_eq!(breaker.finished(EventSeq(8), REFUSED, NOON, 0.0), Some(Change::Reopened));
    assert_eq!(breaker.may_start(NOON), Permission::Wait { until: after(20) });
}

#[test]
fn a_threshold_that_is_lowered_below_the_count_opens_with_the_next_failure() {
    let mut breaker = closed();
    fail(&mut breaker, 2, NOON);
    breaker.set_settings(BreakerSettings { failure_threshold: 1, ..settings() });
    assert_eq!(breaker.may_start(NOON), Permission::Free);
    assert_eq!(fail(&mut breaker, 1, NOON), Some(Change::Opened));
}

#[test]
fn a_threshold_that_is_raised_leaves_an_open_breaker_to_its_probe() {
    let mut breaker = opened();
    breaker.set_settings(BreakerSettings { failure_threshold: 1000, ..settings() });
    assert_eq!(breaker.may_start(NOON), Permission::Wait { until: after(10) });
}

#[test]
fn a_cool_down_is_not_lengthened_and_is_over_once_a_shorter_one_is_wanted() {
    let mut breaker = opened();
    breaker.set_settings(BreakerSettings { cooldown_seconds: 60, ..settings() });
    assert_eq!(breaker.may_start(NOON), Permission::Wait { until: after(10) });
    breaker.set_settings(settings());
    assert_eq!(breaker.may_start(after(9)), Permission::Probe);
}

#[test]
fn a_cool_down_that_was_shortened_during_a_restart_is_over() {
    let shorter = BreakerSettings { cooldown_seconds: 2, ..settings() };
    assert_eq!(Breaker::new(shorter, opened().saved()).may_start(NOON), Permission::Probe);
}

#[test]
fn a_clock_that_goes_back_by_a_day_does_not_keep_it_open_for_a_day() {
    let yesterday = UnixMillis(NOON.0 - 86_400_000);
    assert_eq!(opened().may_start(yesterday), Permission::Probe);
}

fn suspended(cause: SuspensionCause) -> Breaker {
    let mut breaker = opened();
    breaker.suspend(Suspension { since: after(5), cause }, 0.0);
    breaker
}

#[test]
fn a_suspended_breaker_is_probed_once_an_hour_whatever_its_settings_say() {
    const HOUR: u64 = 3600;
    let mut breaker = suspended(SuspensionCause::Failing);
    assert_eq!(breaker.view(after(5)).suspension, breaker.suspension());
    for hours in 1..=3 {
        let due = after(5 + hours * HOUR);
        assert_eq!(breaker.may_start(after(4 + hours * HOUR)), Permission::Wait { until: due });
        breaker.set_settings(BreakerSettings { cooldown_seconds: 1, ..settings() });
        breaker = Breaker::new(settings(), breaker.saved());
        assert_eq!(breaker.may_start(due), Permission::Probe);
        breaker.started(EventSeq(7));
        assert_eq!(breaker.finished(EventSeq(7), REFUSED, due, 0.0), Some(Change::Reopened));
    }
    assert!(breaker.probe_now());
    breaker.started(EventSeq(8));
    assert_eq!(breaker.finished(EventSeq(8), OutcomeKind::Success, after(HOUR), 0.0), Some(Change::Closed));
    assert_eq!(breaker.saved(), Saved::default());
}

#[test]
fn a_receiver_that_is_gone_is_probed_only_when_a_person_asks() {
    let mut breaker = suspended(SuspensionCause::Gone);
    let year = after(365 * 24 * 3600);
    for _ in 0..2 {
        assert_eq!(breaker.may_start(year), Permission::Held);
        assert_eq!((breaker.view(year).state, breaker.view(year).next_probe_at), (ViewState::Open, None));
        breaker = Breaker::new(settings(), breaker.saved());
        assert!(breaker.probe_now());
        assert_eq!(breaker.may_start(year), Permission::Probe);
        breaker.started(EventSeq(7));
        assert_eq!(breaker.finished(EventSeq(7), OutcomeKind::Gone, year, 0.0), Some(Change::Reopened));
    }
    assert_eq!(breaker.finished(EventSeq(7), OutcomeKind::Success, year, 0.0), Some(Change::Closed), "a late success");
    assert_eq!(breaker.may_start(year), Permission::Free);
}
