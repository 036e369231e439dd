//! When a failed attempt is tried again. Pure: time and chance arrive as arguments, the lane asks, the store records.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::outcome::{Outcome, RETRY_AFTER_CAP};
use super::policy::PolicyProblem;
use crate::clock::UnixMillis;

/// The first wait of `exponential`; each further one is twice as long.
const EXPONENTIAL_BASE: Duration = Duration::from_secs(2);

/// What `linear` adds per try.
const LINEAR_STEP: Duration = Duration::from_secs(5);

/// Jitter lengthens a wait by at most this share, enough to spread receivers that failed in the same second.
const JITTER_SHARE: f64 = 0.1;

/// The limit of `maxRetries`: twenty exponential waits reach past the cap of a day.
const MAX_RETRIES: std::ops::RangeInclusive<u8> = 0..=20;

/// The limits of one wait, in seconds: a second to a day.
const DELAY_SECONDS: std::ops::RangeInclusive<u32> = 1..=86_400;

/// The limits of a schedule's length; one entry for each possible retry.
const SCHEDULE_ENTRIES: std::ops::RangeInclusive<usize> = 1..=20;

/// How often and how patiently a webhook is retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Retries after the first attempt; 0 to 20.
    pub max_retries: u8,
    pub backoff_strategy: Backoff,
    /// The waits of `schedule`, in seconds; the last one repeats. Required for `schedule` and for nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_seconds: Option<Vec<u32>>,
    /// No wait of the schedule is longer than this, before jitter; 1 to 86400.
    pub max_delay_seconds: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 3,
            backoff_strategy: Backoff::Exponential,
            schedule_seconds: None,
            max_delay_seconds: *DELAY_SECONDS.end(),
        }
    }
}

/// How the waits grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// 2, 4, 8, 16 s, …
    #[default]
    Exponential,
    /// 5, 10, 15 s, …
    Linear,
    /// As listed in `scheduleSeconds`.
    Schedule,
}

impl RetryPolicy {
    /// Every value out of its range, with pointers from the policy that holds this one.
    pub(super) fn problems(&self) -> Vec<PolicyProblem> {
        let mut problems = Vec::new();
        problems.extend(PolicyProblem::out_of("/retryPolicy/maxRetries", self.max_retries, &MAX_RETRIES));
        problems.extend(PolicyProblem::out_of("/retryPolicy/maxDelaySeconds", self.max_delay_seconds, &DELAY_SECONDS));
        problems.extend(self.schedule_problems());
        problems
    }

    fn schedule_problems(&self) -> Vec<PolicyProblem> {
        match (self.backoff_strategy, &self.schedule_seconds) {
            (Backoff::Schedule, Some(waits)) => entry_problems(waits),
            (Backoff::Schedule, None) => vec![schedule_problem("nothing was given, `schedule` needs 1 to 20 waits")],
            (Backoff::Exponential | Backoff::Linear, Some(_)) => {
                vec![schedule_problem("waits were given, only the backoff strategy `schedule` accepts them")]
            }
            (Backoff::Exponential | Backoff::Linear, None) => Vec::new(),
        }
    }

    /// The wait after the try with this number, counted from one, before jitter and hints.
    fn scheduled_wait(&self, tries: u16) -> Duration {
        let wait = match self.backoff_strategy {
            Backoff::Exponential => exponential(tries),
            Backoff::Linear => LINEAR_STEP * u32::from(tries.max(1)),
            Backoff::Schedule => self.listed(tries).unwrap_or_else(|| exponential(tries)),
        };
        wait.min(Duration::from_secs(self.max_delay_seconds.into()))
    }

    fn listed(&self, tries: u16) -> Option<Duration> {
        let waits = self.schedule_seconds.as_deref()?;
        let seconds = waits.get(usize::from(tries.saturating_sub(1))).or(waits.last())?;
        Some(Duration::from_secs((*seconds).into()))
    }
}

fn entry_problems(waits: &[u32]) -> Vec<PolicyProblem> {
    let length = PolicyProblem::out_of("/retryPolicy/scheduleSeconds", waits.len(), &SCHEDULE_ENTRIES)
        .map(|problem| PolicyProblem { message: format!("the number of waits: {}", problem.message), ..problem });
    let entries = waits.iter().enumerate().filter_map(|(place, seconds)| {
        PolicyProblem::out_of(&format!("/retryPolicy/scheduleSeconds/{place}"), *seconds, &DELAY_SECONDS)
    });
    length.into_iter().chain(entries).collect()
}

fn schedule_problem(message: &str) -> PolicyProblem {
    PolicyProblem { pointer: "/retryPolicy/scheduleSeconds".to_owned(), message: message.to_owned() }
}

fn exponential(tries: u16) -> Duration {
    let doublings = u32::from(tries.saturating_sub(1));
    EXPONENTIAL_BASE.saturating_mul(2_u32.saturating_pow(doublings))
}

/// What follows from an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The delivery is made.
    Done,
    /// Try again, not before this moment.
    RetryAt(UnixMillis),
    /// All retries are used up: the delivery has failed.
    Exhausted,
    /// The receiver is gone: the delivery has failed and the webhook is switched off.
    Disable,
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
        Outcome::Gone => return Verdict::Disable,
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

/// `wait` and up to [`JITTER_SHARE`] of it more. What is no number between 0 and 1 counts as the nearest of them.
pub(super) fn lengthened(wait: Duration, jitter: f64) -> Duration {
    let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
    wait.saturating_add(wait.mul_f64(jitter * JITTER_SHARE))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            Verdict::Done | Verdict::Exhausted | Verdict::Disable => None,
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
    fn success_ends_and_gone_disables_however_many_tries_there_were() {
        for tries in [0, 1, u16::MAX] {
            assert_eq!(decide(&RetryPolicy::default(), tries, &Outcome::Success, NOW, 1.0), Verdict::Done);
            assert_eq!(decide(&RetryPolicy::default(), tries, &Outcome::Gone, NOW, 1.0), Verdict::Disable);
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

    #[test]
    fn a_schedule_is_required_for_schedule_and_for_nothing_else() {
        let pointers = |policy: RetryPolicy| -> Vec<String> {
            policy.problems().into_iter().map(|problem| problem.pointer).collect()
        };
        assert_eq!(pointers(schedule(&[1, 86_400])), [""; 0]);
        assert_eq!(pointers(policy(Backoff::Schedule)), ["/retryPolicy/scheduleSeconds"]);
        assert_eq!(pointers(schedule(&[])), ["/retryPolicy/scheduleSeconds"]);
        assert_eq!(pointers(schedule(&[1; 21])), ["/retryPolicy/scheduleSeconds"]);
        assert_eq!(pointers(schedule(&[1, 0])), ["/retryPolicy/scheduleSeconds/1"]);
        let linear = RetryPolicy { schedule_seconds: Some(vec![1]), ..policy(Backoff::Linear) };
        assert_eq!(pointers(linear), ["/retryPolicy/scheduleSeconds"]);
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

        #[test]
        fn waits_grow_with_the_tries_up_to_the_cap(
            strategy in prop_oneof![Just(Backoff::Exponential), Just(Backoff::Linear)], tries in 1..20_u16,
            max_delay_seconds in DELAY_SECONDS,
        ) {
            let policy = RetryPolicy { max_delay_seconds, ..policy(strategy) };
            let (earlier, later) = (policy.scheduled_wait(tries), policy.scheduled_wait(tries + 1));
            let cap = Duration::from_secs(max_delay_seconds.into());
            prop_assert!(earlier <= later && later <= cap);
            prop_assert!(earlier < later || later == cap);
        }
    }
}
