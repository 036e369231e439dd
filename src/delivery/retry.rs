//! Decides when a failed attempt is tried again. Pure: time and jitter are arguments. The lane asks, the store keeps
//! the result.

use std::time::Duration;

use crate::domain::moment::UnixMillis;
use crate::domain::outcome::{Outcome, RETRY_AFTER_CAP};
use crate::domain::policy::RetryPolicy;

/// Jitter lengthens a wait by at most this share: enough to spread retries to receivers that failed in the same second.
const JITTER_SHARE: f64 = 0.1;

/// What follows from an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The delivery has succeeded.
    Done,
    /// Try again, not before this moment.
    RetryAt(UnixMillis),
    /// All retries are used up: the delivery has failed.
    Exhausted,
    /// The receiver is gone: the delivery has failed.
    Gone,
}

/// Decides what follows from an attempt.
///
/// `tries` counts the automatic attempts made so far, this one included, so it is 1 after the first. `jitter`
/// between 0.0 and 1.0 lengthens the wait by up to 10 % and never shortens it. A throttled attempt waits for the
/// schedule or for the receiver's hint, whichever is longer.
#[must_use]
pub fn decide(policy: &RetryPolicy, tries: u16, outcome: &Outcome, now: UnixMillis, jitter: f64) -> Verdict {
    let hint = match outcome {
        Outcome::Success => return Verdict::Done,
        Outcome::Gone => return Verdict::Gone,
        Outcome::Throttled { retry_after } => retry_after.unwrap_or_default().min(RETRY_AFTER_CAP),
        Outcome::Rejected
        | Outcome::TimedOut
        | Outcome::ConnectFailed
        | Outcome::TlsFailed
        | Outcome::DnsFailed
        | Outcome::Blocked
        | Outcome::ProtocolError
        | Outcome::Crashed => Duration::ZERO,
    };
    if tries > u16::from(policy.max_retries) {
        return Verdict::Exhausted;
    }
    Verdict::RetryAt(now.plus(lengthened(policy.scheduled_wait(tries).max(hint), jitter)))
}

/// `wait` and up to [`JITTER_SHARE`] of it more. `jitter` is clamped to 0 to 1; NaN counts as 0.
pub(super) fn lengthened(wait: Duration, jitter: f64) -> Duration {
    let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
    wait.saturating_add(wait.mul_f64(jitter * JITTER_SHARE))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::policy::Backoff;

    const NOW: UnixMillis = UnixMillis(1_764_000_000_000);

    fn policy(backoff_strategy: Backoff) -> RetryPolicy {
        RetryPolicy { backoff_strategy, max_retries: 20, ..RetryPolicy::default() }
    }

    fn schedule(waits: &[u32]) -> RetryPolicy {
        RetryPolicy { schedule_seconds: Some(waits.to_vec()), ..policy(Backoff::Schedule) }
    }

    fn wait(policy: &RetryPolicy, tries: u16, outcome: &Outcome, jitter: f64) -> Option<Duration> {
        match decide(policy, tries, outcome, NOW, jitter) {
            Verdict::RetryAt(at) => Some(at.since(NOW)),
            Verdict::Done | Verdict::Exhausted | Verdict::Gone => None,
        }
    }

    fn first_waits(policy: &RetryPolicy) -> Vec<u64> {
        (1..=4).filter_map(|tries| wait(policy, tries, &Outcome::Rejected, 0.0)).map(|wait| wait.as_secs()).collect()
    }

    fn throttled(seconds: u64) -> Outcome {
        Outcome::Throttled { retry_after: Some(Duration::from_secs(seconds)) }
    }

    #[test]
    fn waits_follow_the_promised_schedules() {
        assert_eq!(first_waits(&policy(Backoff::Exponential)), [2, 4, 8, 16]);
        assert_eq!(first_waits(&policy(Backoff::Linear)), [5, 10, 15, 20]);
        assert_eq!(first_waits(&schedule(&[1, 60])), [1, 60, 60, 60]);
    }

    #[test]
    fn three_retries_are_four_attempts() {
        let policy = RetryPolicy::default();
        assert!(wait(&policy, 3, &Outcome::TimedOut, 0.0).is_some());
        assert_eq!(decide(&policy, 4, &Outcome::TimedOut, NOW, 0.0), Verdict::Exhausted);
    }

    #[test]
    fn no_retries_is_one_attempt() {
        let policy = RetryPolicy { max_retries: 0, ..RetryPolicy::default() };
        assert_eq!(decide(&policy, 1, &throttled(1), NOW, 0.0), Verdict::Exhausted);
    }

    #[test]
    fn success_and_gone_end_it_however_many_tries_there_were() {
        for tries in [0, 1, u16::MAX] {
            assert_eq!(decide(&RetryPolicy::default(), tries, &Outcome::Success, NOW, 1.0), Verdict::Done);
            assert_eq!(decide(&RetryPolicy::default(), tries, &Outcome::Gone, NOW, 1.0), Verdict::Gone);
        }
    }

    #[test]
    fn a_throttled_attempt_waits_for_the_longer_of_schedule_and_hint() {
        let policy = policy(Backoff::Exponential);
        assert_eq!(wait(&policy, 1, &throttled(30), 0.0), Some(Duration::from_secs(30)));
        assert_eq!(wait(&policy, 4, &throttled(1), 0.0), Some(Duration::from_secs(16)));
        assert_eq!(wait(&policy, 1, &throttled(u64::MAX), 0.0), Some(RETRY_AFTER_CAP));
    }

    #[test]
    fn the_longest_wait_caps_the_schedule_but_not_the_hint() {
        let policy = RetryPolicy { max_delay_seconds: 3, ..policy(Backoff::Exponential) };
        assert_eq!(first_waits(&policy), [2, 3, 3, 3]);
        assert_eq!(wait(&policy, 4, &throttled(60), 0.0), Some(Duration::from_secs(60)));
    }

    fn any_policy() -> impl Strategy<Value = RetryPolicy> {
        let backoff = prop_oneof![Just(Backoff::Exponential), Just(Backoff::Linear), Just(Backoff::Schedule)];
        let waits = proptest::option::of(proptest::collection::vec(any::<u32>(), 0..25));
        (any::<u8>(), backoff, waits, any::<u32>()).prop_map(
            |(max_retries, backoff_strategy, waits, max_delay_seconds)| RetryPolicy {
                max_retries,
                backoff_strategy,
                schedule_seconds: waits,
                max_delay_seconds,
            },
        )
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Success),
            Just(Outcome::Gone),
            Just(Outcome::Rejected),
            Just(Outcome::Blocked),
            proptest::option::of(any::<Duration>()).prop_map(|retry_after| Outcome::Throttled { retry_after }),
        ]
    }

    proptest! {
        #[test]
        fn no_input_panics_and_no_retry_lies_in_the_past(
            policy in any_policy(), tries: u16, outcome in any_outcome(), now in 0..253_402_300_799_999_i64,
            jitter in proptest::num::f64::ANY,
        ) {
            if let Verdict::RetryAt(at) = decide(&policy, tries, &outcome, UnixMillis(now), jitter) {
                prop_assert!(at >= UnixMillis(now));
                prop_assert!(tries <= u16::from(policy.max_retries));
            }
        }

        #[test]
        fn jitter_lengthens_a_wait_by_at_most_a_tenth(policy in any_policy(), tries: u16, jitter in 0.0..=1.0) {
            let plain = wait(&policy, tries, &Outcome::Rejected, 0.0);
            let jittered = wait(&policy, tries, &Outcome::Rejected, jitter);
            prop_assert_eq!(plain.is_some(), jittered.is_some());
            if let (Some(plain), Some(jittered)) = (plain, jittered) {
                prop_assert!(jittered >= plain);
                prop_assert!(jittered <= plain + plain / 10 + Duration::from_millis(1));
            }
        }

        #[test]
        fn a_retry_after_only_ever_delays(
            policy in any_policy(), tries: u16, hint: Duration, jitter in 0.0..=1.0,
        ) {
            let without = wait(&policy, tries, &Outcome::Throttled { retry_after: None }, jitter);
            let with = wait(&policy, tries, &Outcome::Throttled { retry_after: Some(hint) }, jitter);
            prop_assert_eq!(without.is_some(), with.is_some());
            if let (Some(without), Some(with)) = (without, with) {
                prop_assert!(with >= without);
                prop_assert!(with + Duration::from_millis(1) >= hint.min(RETRY_AFTER_CAP));
            }
        }
    }
}
