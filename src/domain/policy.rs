//! The settings that a webhook's owner may choose, as stored and as shown. The API refuses a policy with problems, so
//! the engine can apply any policy that it finds in a row. A member that a newer version has written is passed over.
//! Pure.

mod breaker;
mod retry;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::breaker::BreakerSettings;
pub use self::retry::{Backoff, RetryPolicy};

/// The settings of one webhook. Every field has a default, so that rows written by older versions can still be read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    pub retry_policy: RetryPolicy,
    /// One deadline over DNS, connect, TLS, headers and body; 100 to 30000 ms.
    pub timeout_ms: u32,
    /// How many requests may start in a period; `None`: no limit.
    pub rate_limit: Option<RateLimit>,
    /// How many requests may be under way at once; 1 to 256.
    pub max_in_flight: u16,
    /// Strict order: one delivery at a time, and a failing delivery blocks those behind it. The store also keeps this
    /// field as a column, which the route table reads without the policy.
    pub ordered: bool,
    /// Reserved for a condition on events: always `None`, because the API accepts only null.
    pub filter: Option<String>,
    pub signature: SignatureSettings,
    /// When a failing receiver gets no more requests.
    pub breaker: BreakerSettings,
    /// A webhook with nothing but failures for this long is suspended; an hour to a year.
    pub disable_after_seconds: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retry_policy: RetryPolicy::default(),
            timeout_ms: 5_000,
            rate_limit: None,
            max_in_flight: 16,
            ordered: false,
            filter: None,
            signature: SignatureSettings::default(),
            breaker: BreakerSettings::default(),
            disable_after_seconds: 5 * 24 * 3600,
        }
    }
}

impl Policy {
    /// The range of `timeoutMs`: below 100 ms a TLS handshake across a continent cannot finish, above 30 s a hanging
    /// receiver would hold its permits for too long.
    pub const TIMEOUT_MS: std::ops::RangeInclusive<u32> = 100..=30_000;

    /// No request takes longer.
    pub const LONGEST_TIMEOUT: Duration = Duration::from_millis(*Self::TIMEOUT_MS.end() as u64);

    /// The range of `maxInFlight`: more than 256 requests at once look like an attack to most receivers.
    pub const MAX_IN_FLIGHT: std::ops::RangeInclusive<u16> = 1..=256;

    /// The range of `disableAfterSeconds`: a receiver may be down for an hour, and after a year nobody waits for it.
    pub const DISABLE_AFTER_SECONDS: std::ops::RangeInclusive<u32> = 3_600..=31_536_000;

    /// Every value out of its range; empty when the policy can be applied.
    #[must_use]
    pub fn problems(&self) -> Vec<PolicyProblem> {
        let mut problems = self.retry_policy.problems();
        problems.extend(PolicyProblem::out_of("/timeoutMs", self.timeout_ms, &Self::TIMEOUT_MS));
        problems.extend(PolicyProblem::out_of("/maxInFlight", self.max_in_flight, &Self::MAX_IN_FLIGHT));
        problems.extend(self.rate_limit.iter().flat_map(RateLimit::problems));
        problems.extend(self.breaker.problems());
        problems.extend(PolicyProblem::out_of(
            "/disableAfterSeconds",
            self.disable_after_seconds,
            &Self::DISABLE_AFTER_SECONDS,
        ));
        problems
    }
}

/// At most `requests` per `perSeconds` in the long run, and at most `burst` at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RateLimitInput")]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    pub requests: u32,
    pub per_seconds: u32,
    /// Defaults to `requests`.
    pub burst: u32,
}

impl RateLimit {
    /// The range of `requests` and `burst`: far more than one receiver takes, and small enough that a full burst at the
    /// slowest rate still fits into 64-bit nanoseconds.
    pub const REQUESTS: std::ops::RangeInclusive<u32> = 1..=100_000;

    /// A rate limit that names no time is per second.
    pub const DEFAULT_PER_SECONDS: u32 = 1;

    /// The range of `perSeconds`: the longest period of a quota is a day.
    pub const PER_SECONDS: std::ops::RangeInclusive<u32> = 1..=86_400;

    fn problems(&self) -> impl Iterator<Item = PolicyProblem> + use<> {
        [
            PolicyProblem::out_of("/rateLimit/requests", self.requests, &Self::REQUESTS),
            PolicyProblem::out_of("/rateLimit/perSeconds", self.per_seconds, &Self::PER_SECONDS),
            PolicyProblem::out_of("/rateLimit/burst", self.burst, &Self::REQUESTS),
        ]
        .into_iter()
        .flatten()
    }
}

/// A rate limit as given, where `burst` may be left out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RateLimitInput {
    requests: u32,
    #[serde(default = "default_per_seconds")]
    per_seconds: u32,
    burst: Option<u32>,
}

fn default_per_seconds() -> u32 {
    RateLimit::DEFAULT_PER_SECONDS
}

impl From<RateLimitInput> for RateLimit {
    fn from(RateLimitInput { requests, per_seconds, burst }: RateLimitInput) -> Self {
        Self { requests, per_seconds, burst: burst.unwrap_or(requests) }
    }
}

/// The form of `X-Webhook-Signature`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignatureFormat {
    /// `<hex>`, over the body.
    #[default]
    Hex,
    /// `sha256=<hex>`, over the body.
    Prefixed,
    /// `t=<unix>,v1=<hex>`, over `{t}.{body}`.
    Timestamped,
}

/// How a webhook's requests are signed, besides Standard Webhooks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SignatureSettings {
    pub format: SignatureFormat,
}

/// A setting that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblem {
    /// Where, as a JSON pointer (RFC 6901) into the policy: `/retryPolicy/maxRetries`.
    pub pointer: String,
    /// What was given and what is accepted.
    pub message: String,
}

impl PolicyProblem {
    /// A problem unless `given` is among the `accepted`.
    pub(crate) fn out_of<T>(pointer: &str, given: T, accepted: &std::ops::RangeInclusive<T>) -> Option<Self>
    where
        T: PartialOrd + std::fmt::Display,
    {
        (!accepted.contains(&given)).then(|| Self {
            pointer: pointer.to_owned(),
            message: format!("{given} was given, {} to {} are accepted", accepted.start(), accepted.end()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Policy {
        serde_json::from_str(json).unwrap()
    }

    fn pointers(policy: &Policy) -> Vec<String> {
        policy.problems().into_iter().map(|problem| problem.pointer).collect()
    }

    #[test]
    fn nothing_chosen_is_the_promised_default() {
        let policy = read("{}");
        assert_eq!(policy, Policy::default());
        assert_eq!(policy.timeout_ms, 5_000);
        assert_eq!(policy.max_in_flight, 16);
        assert_eq!(policy.retry_policy.max_retries, 3);
        assert_eq!(policy.retry_policy.backoff_strategy, Backoff::Exponential);
        assert_eq!(policy.signature.format, SignatureFormat::Hex);
        assert!(policy.rate_limit.is_none() && policy.filter.is_none() && !policy.ordered);
        assert_eq!(policy.problems(), []);
    }

    #[test]
    fn a_policy_reads_as_it_was_written() {
        let json = r#"{"retryPolicy":{"maxRetries":5,"backoffStrategy":"schedule","scheduleSeconds":[1,60],"maxDelaySeconds":600},
            "timeoutMs":100,"rateLimit":{"requests":50,"perSeconds":2,"burst":9},"maxInFlight":1,"ordered":true,
            "filter":"data.amount > 100","signature":{"format":"timestamped"},
            "breaker":{"failureThreshold":5,"cooldownSeconds":10,"maxCooldownSeconds":60},"disableAfterSeconds":3600}"#;
        let policy = read(json);
        assert_eq!(policy.problems(), []);
        let written = serde_json::to_value(&policy).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(json).unwrap());
    }

    #[test]
    fn a_partly_given_retry_policy_keeps_the_other_defaults() {
        let policy = read(r#"{"retryPolicy":{"maxRetries":0}}"#);
        assert_eq!(policy.retry_policy, RetryPolicy { max_retries: 0, ..RetryPolicy::default() });
    }

    #[test]
    fn a_burst_left_out_is_the_number_of_requests() {
        let limit = read(r#"{"rateLimit":{"requests":50}}"#).rate_limit;
        assert_eq!(limit, Some(RateLimit { requests: 50, per_seconds: 1, burst: 50 }));
    }

    #[test]
    fn a_setting_of_a_newer_version_is_passed_over_and_a_value_that_is_none_refused() {
        for json in [
            r#"{"timeout":1}"#,
            r#"{"retryPolicy":{"retries":1}}"#,
            r#"{"rateLimit":{"requests":1,"per":1}}"#,
            r#"{"breaker":{"threshold":1}}"#,
        ] {
            assert!(serde_json::from_str::<Policy>(json).is_ok(), "{json}");
        }
        assert!(serde_json::from_str::<Policy>(r#"{"signature":{"format":"sha1"}}"#).is_err());
    }

    #[test]
    fn every_value_out_of_range_is_named() {
        let mut policy = read(r#"{"timeoutMs":99,"maxInFlight":0,"rateLimit":{"requests":0,"perSeconds":0}}"#);
        policy.retry_policy.max_retries = 21;
        policy.retry_policy.max_delay_seconds = 0;
        assert_eq!(
            pointers(&policy),
            [
                "/retryPolicy/maxRetries",
                "/retryPolicy/maxDelaySeconds",
                "/timeoutMs",
                "/maxInFlight",
                "/rateLimit/requests",
                "/rateLimit/perSeconds",
                "/rateLimit/burst"
            ]
        );
        assert_eq!(policy.problems()[2].message, "99 was given, 100 to 30000 are accepted");
    }

    #[test]
    fn the_edges_of_every_range_are_accepted() {
        assert_eq!(read(r#"{"timeoutMs":100,"maxInFlight":1,"rateLimit":{"requests":1}}"#).problems(), []);
        assert_eq!(read(r#"{"timeoutMs":30000,"maxInFlight":256}"#).problems(), []);
        assert_eq!(read(r#"{"timeoutMs":30001,"maxInFlight":257}"#).problems().len(), 2);
    }
}
