//! How often and how patiently a webhook is retried, as its owner chose it. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PolicyProblem;

/// The first wait of `exponential`; each further one is twice as long.
const EXPONENTIAL_BASE: Duration = Duration::from_secs(2);

/// What `linear` adds with each try.
const LINEAR_STEP: Duration = Duration::from_secs(5);

/// How often a delivery is retried, and after which waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryPolicy {
    /// Retries after the first attempt; 0 to 20.
    pub max_retries: u8,
    pub backoff_strategy: Backoff,
    /// The waits of `schedule`, in seconds; the last one repeats. Required for `schedule` and refused otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_seconds: Option<Vec<u32>>,
    /// The longest wait of every strategy, before jitter and `Retry-After`; 1 to 86400.
    pub max_delay_seconds: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 3,
            backoff_strategy: Backoff::Exponential,
            schedule_seconds: None,
            max_delay_seconds: *RetryPolicy::DELAY_SECONDS.end(),
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
    /// The range of `maxRetries`: twenty exponential waits reach past the cap of a day.
    pub const MAX_RETRIES: std::ops::RangeInclusive<u8> = 0..=20;

    /// The range of one wait: a second to a day.
    pub const DELAY_SECONDS: std::ops::RangeInclusive<u32> = 1..=86_400;

    /// The range of a schedule's length: one entry for each possible retry.
    pub const SCHEDULE_ENTRIES: std::ops::RangeInclusive<usize> = 1..=20;

    /// Every value out of its range, with pointers into the policy.
    pub(in crate::domain) fn problems(&self) -> Vec<PolicyProblem> {
        let mut problems = Vec::new();
        problems.extend(PolicyProblem::out_of("/retryPolicy/maxRetries", self.max_retries, &RetryPolicy::MAX_RETRIES));
        problems.extend(PolicyProblem::out_of(
            "/retryPolicy/maxDelaySeconds",
            self.max_delay_seconds,
            &RetryPolicy::DELAY_SECONDS,
        ));
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
    #[must_use]
    pub(crate) fn scheduled_wait(&self, tries: u16) -> Duration {
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
    let length = PolicyProblem::out_of("/retryPolicy/scheduleSeconds", waits.len(), &RetryPolicy::SCHEDULE_ENTRIES)
        .map(|problem| PolicyProblem { message: format!("the number of waits: {}", problem.message), ..problem });
    let entries = waits.iter().enumerate().filter_map(|(place, seconds)| {
        PolicyProblem::out_of(&format!("/retryPolicy/scheduleSeconds/{place}"), *seconds, &RetryPolicy::DELAY_SECONDS)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(backoff_strategy: Backoff) -> RetryPolicy {
        RetryPolicy { backoff_strategy, max_retries: 20, ..RetryPolicy::default() }
    }

    fn schedule(waits: &[u32]) -> RetryPolicy {
        RetryPolicy { schedule_seconds: Some(waits.to_vec()), ..policy(Backoff::Schedule) }
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

    proptest! {
        #[test]
        fn waits_grow_with_the_tries_up_to_the_cap(
            strategy in prop_oneof![Just(Backoff::Exponential), Just(Backoff::Linear)], tries in 1..20_u16,
            max_delay_seconds in RetryPolicy::DELAY_SECONDS,
        ) {
            let policy = RetryPolicy { max_delay_seconds, ..policy(strategy) };
            let (earlier, later) = (policy.scheduled_wait(tries), policy.scheduled_wait(tries + 1));
            let cap = Duration::from_secs(max_delay_seconds.into());
            prop_assert!(earlier <= later && later <= cap);
            prop_assert!(earlier < later || later == cap);
        }
    }
}
