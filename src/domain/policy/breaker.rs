//! When an endpoint is left alone, as its owner chose it. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PolicyProblem;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BreakerSettings {
    /// Failures in a row that open the breaker; 1 to 1000.
    pub failure_threshold: u16,
    /// The first cool-down, doubled by each failed probe; 1 to 3600.
    pub cooldown_seconds: u32,
    /// The longest cool-down; `cooldownSeconds` to 86400.
    pub max_cooldown_seconds: u32,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failure_threshold: 20, cooldown_seconds: 30, max_cooldown_seconds: 300 }
    }
}

impl BreakerSettings {
    /// The range of `failureThreshold`: more than a thousand failures in a row prove nothing that a thousand do not.
    pub const FAILURE_THRESHOLD: std::ops::RangeInclusive<u16> = 1..=1000;

    /// The range of `cooldownSeconds`: a receiver that is back should not wait for longer than an hour at first.
    pub const COOLDOWN_SECONDS: std::ops::RangeInclusive<u32> = 1..=3_600;

    /// The range of `maxCooldownSeconds`, which is also not below `cooldownSeconds`: even a receiver that seems dead is
    /// probed once a day.
    pub const MAX_COOLDOWN_SECONDS: std::ops::RangeInclusive<u32> = 1..=86_400;

    /// Every value out of its range, with pointers into the policy.
    pub(in crate::domain) fn problems(&self) -> impl Iterator<Item = PolicyProblem> + use<> {
        let shortest = self.cooldown_seconds.clamp(*Self::COOLDOWN_SECONDS.start(), *Self::COOLDOWN_SECONDS.end());
        let max_cooldown = shortest..=*Self::MAX_COOLDOWN_SECONDS.end();
        [
            PolicyProblem::out_of("/breaker/failureThreshold", self.failure_threshold, &Self::FAILURE_THRESHOLD),
            PolicyProblem::out_of("/breaker/cooldownSeconds", self.cooldown_seconds, &Self::COOLDOWN_SECONDS),
            PolicyProblem::out_of("/breaker/maxCooldownSeconds", self.max_cooldown_seconds, &max_cooldown),
        ]
        .into_iter()
        .flatten()
    }

    /// The cool-down after this many openings without a success.
    #[must_use]
    pub(crate) fn cooldown(&self, openings: u16) -> Duration {
        let doublings = u32::from(openings.saturating_sub(1));
        let seconds = self.cooldown_seconds.saturating_mul(2_u32.saturating_pow(doublings));
        Duration::from_secs(seconds.min(self.max_cooldown_seconds).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_chosen_is_the_promised_default_and_edges_are_accepted() {
        let read = |json| serde_json::from_str::<BreakerSettings>(json);
        assert_eq!(read("{}").unwrap(), BreakerSettings::default());
        let edges = [
            r#"{"failureThreshold":1,"cooldownSeconds":1,"maxCooldownSeconds":1}"#,
            r#"{"failureThreshold":1000,"cooldownSeconds":3600,"maxCooldownSeconds":86400}"#,
        ];
        for json in edges {
            assert_eq!(read(json).unwrap().problems().count(), 0, "{json}");
            assert_eq!(serde_json::to_string(&read(json).unwrap()).unwrap(), json);
        }
    }

    #[test]
    fn every_value_out_of_range_is_named() {
        let problems = |failure_threshold, cooldown_seconds, max_cooldown_seconds| {
            BreakerSettings { failure_threshold, cooldown_seconds, max_cooldown_seconds }.problems()
        };
        let pointers: Vec<_> = problems(0, 0, 0).map(|problem| problem.pointer).collect();
        assert_eq!(pointers, ["/breaker/failureThreshold", "/breaker/cooldownSeconds", "/breaker/maxCooldownSeconds"]);
        assert_eq!(problems(1001, 3601, 86_401).count(), 3);
        let shorter: Vec<_> = problems(1, 60, 59).map(|problem| problem.message).collect();
        assert_eq!(shorter, ["59 was given, 60 to 86400 are accepted"]);
        let absurd: Vec<_> = problems(1, u32::MAX, 300).map(|problem| problem.message).collect();
        assert_eq!(absurd[1], "300 was given, 3600 to 86400 are accepted");
    }
}
