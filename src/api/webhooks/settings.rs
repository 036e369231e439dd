//! The settings that a webhook's owner chooses, apart from how they are written and how they are stored. Changes are
//! merged into the settings, and the rules of guard, headers and policy judge the result.

mod bound;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::api::fields::{At, Errors, Fault, Given};
use crate::domain::credentials::{Auth, Credentials};
use crate::domain::policy::{Backoff, BreakerSettings, Policy, RateLimit, RetryPolicy, SignatureSettings};
use crate::engine::{Guard, check_credentials, tls_digest};
use crate::store::webhooks::{Origin, Webhook};

use self::bound::Bound;
use super::credentials::{AuthChanges, TlsChanges};
use super::headers::{merge_headers, merge_public};
use super::input::{BreakerChanges, Changes, RateChanges, RetryChanges, SignatureChanges};

/// Bytes of the metadata's JSON text, after a merge.
const MAX_METADATA: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) events: Vec<String>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) public_headers: Vec<String>,
    pub(super) policy: Policy,
    pub(super) credentials: Credentials,
    /// The origin that headers and credentials may be sent to.
    pub(super) credentials_origin: Origin,
    pub(super) description: Option<String>,
    pub(super) metadata: Option<Value>,
    pub(super) is_active: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: String::new(),
            url: String::new(),
            events: Vec::new(),
            headers: BTreeMap::new(),
            public_headers: Vec::new(),
            policy: Policy::default(),
            credentials: Credentials::default(),
            credentials_origin: Origin::default(),
            description: None,
            metadata: None,
            is_active: true,
        }
    }
}

impl Settings {
    pub(super) fn of(webhook: &Webhook) -> Self {
        let Webhook {
            name,
            url,
            events,
            headers,
            public_headers,
            policy,
            credentials,
            credentials_origin,
            description,
            metadata,
            is_active,
            ..
        } = webhook.clone();
        Self {
            name,
            url,
            events,
            headers,
            public_headers,
            policy,
            // Most webhooks have none.
            credentials: credentials.unwrap_or_default(),
            credentials_origin,
            description,
            metadata,
            is_active,
        }
    }

    pub(super) fn write_to(self, webhook: &mut Webhook) {
        let Self {
            name,
            url,
            events,
            headers,
            public_headers,
            policy,
            credentials,
            credentials_origin,
            description,
            metadata,
            is_active,
        } = self;
        webhook.name = name;
        webhook.url = url;
        webhook.events = events;
        webhook.headers = headers;
        webhook.public_headers = public_headers;
        webhook.policy = policy;
        webhook.tls_digest = tls_digest(&credentials).map(Vec::from);
        webhook.credentials = credentials.non_empty();
        webhook.credentials_origin = credentials_origin;
        webhook.description = description;
        webhook.metadata = metadata;
        if is_active || webhook.is_active {
            // Once the owner has decided, the engine's reason does not apply any more.
            webhook.inactive_reason = None;
        }
        webhook.is_active = is_active;
    }

    /// Merges the changes and notes what the rules say against the result.
    pub(super) fn apply(&mut self, changes: Changes, guard: &Guard, errors: &mut Errors) {
        let bound = Bound::of(self, &changes);
        let Changes {
            name,
            url,
            events,
            headers,
            public_headers,
            retry_policy,
            timeout_ms,
            rate_limit,
            max_in_flight,
            ordered,
            filter,
            signature,
            tls,
            auth,
            breaker,
            disable_after_seconds,
            description,
            metadata,
            is_active,
        } = changes;
        let (policy, defaults) = (&mut self.policy, Policy::default());
        name.merge_into(&mut self.name, String::new);
        events.merge_into(&mut self.events, Vec::new);
        if let Given::Value(url) = url {
            match guard.check_url(&url) {
                Ok(url) => self.url = url.into(),
                Err(refused) => errors.add(&"/url", Fault::new("refused", refused.to_string())),
            }
        }
        merge_headers(&mut self.headers, headers, errors);
        merge_public(&mut self.public_headers, public_headers, &self.headers, errors);
        merge_retry(&mut policy.retry_policy, retry_policy);
        timeout_ms.merge_into(&mut policy.timeout_ms, || defaults.timeout_ms);
        merge_rate(&mut policy.rate_limit, rate_limit, errors);
        max_in_flight.merge_into(&mut policy.max_in_flight, || defaults.max_in_flight);
        ordered.merge_into(&mut policy.ordered, || defaults.ordered);
        filter.optional().merge_into(&mut policy.filter, || defaults.filter);
        merge_signature(&mut policy.signature, signature);
        TlsChanges::merge_into(tls, &mut self.credentials.tls, errors);
        AuthChanges::merge_into(auth, &mut self.credentials.auth, errors);
        normalise_token_url(&mut self.credentials, guard);
        merge_breaker(&mut policy.breaker, breaker);
        disable_after_seconds.merge_into(&mut policy.disable_after_seconds, || defaults.disable_after_seconds);
        description.optional().merge_into(&mut self.description, || None);
        merge_metadata(&mut self.metadata, metadata, errors);
        is_active.merge_into(&mut self.is_active, || true);
        for problem in self.policy.problems() {
            errors.add_new(&problem.pointer, Fault::new("out_of_range", problem.message));
        }
        for problem in check_credentials(&self.credentials, guard) {
            errors.add_new(&problem.pointer, Fault::new("invalid", problem.message));
        }
        self.note_two_authorizations(errors);
        bound.check(self, errors);
    }

    fn note_two_authorizations(&self, errors: &mut Errors) {
        let custom = self.headers.keys().find(|name| name.eq_ignore_ascii_case("authorization"));
        if let (Some(name), Some(_)) = (custom, &self.credentials.auth) {
            let at = At::Member(&At::Root, "headers");
            let message = "`auth` sets this header; one of them is accepted";
            errors.add(&At::Member(&at, name), Fault::new("conflict", message));
        }
    }
}

/// Rewrites the token URL as the guard reads it, like `url`. If the guard refuses it, the rules for credentials say so.
fn normalise_token_url(credentials: &mut Credentials, guard: &Guard) {
    if let Some(Auth::OAuth2(auth)) = &mut credentials.auth
        && let Ok(url) = guard.check_url(&auth.token_url)
    {
        auth.token_url = url.into();
    }
}

fn merge_retry(policy: &mut RetryPolicy, changes: Given<RetryChanges>) {
    let defaults = RetryPolicy::default();
    let RetryChanges { max_retries, backoff_strategy, schedule_seconds, max_delay_seconds } = match changes {
        Given::Absent | Given::Invalid => return,
        Given::Null => return *policy = defaults,
        Given::Value(changes) => changes,
    };
    max_retries.merge_into(&mut policy.max_retries, || defaults.max_retries);
    let is_new_strategy = backoff_strategy != Given::Absent;
    backoff_strategy.merge_into(&mut policy.backoff_strategy, || defaults.backoff_strategy);
    if is_new_strategy && policy.backoff_strategy != Backoff::Schedule {
        // The waits belong to the former strategy.
        policy.schedule_seconds = None;
    }
    schedule_seconds.optional().merge_into(&mut policy.schedule_seconds, || None);
    max_delay_seconds.merge_into(&mut policy.max_delay_seconds, || defaults.max_delay_seconds);
}

fn merge_rate(limit: &mut Option<RateLimit>, changes: Given<RateChanges>, errors: &mut Errors) {
    let RateChanges { requests, per_seconds, burst } = match changes {
        Given::Absent | Given::Invalid => return,
        Given::Null => return *limit = None,
        Given::Value(changes) => changes,
    };
    let is_missing = match requests {
        Given::Absent => limit.is_none(),
        Given::Null => true,
        Given::Invalid | Given::Value(_) => false,
    };
    if is_missing {
        errors.add(&"/rateLimit/requests", Fault::new("required", "missing, a value is required"));
        return;
    }
    let stored = *limit;
    let requests = requests.value().or(stored.map(|stored| stored.requests)).unwrap_or(1);
    let mut changed = stored.unwrap_or(RateLimit { requests, per_seconds: 1, burst: requests });
    changed.requests = requests;
    per_seconds.merge_into(&mut changed.per_seconds, || 1);
    burst.merge_into(&mut changed.burst, || requests);
    *limit = Some(changed);
}

fn merge_signature(signature: &mut SignatureSettings, changes: Given<SignatureChanges>) {
    let SignatureChanges { format } = match changes {
        Given::Absent | Given::Invalid => return,
        Given::Null => return *signature = SignatureSettings::default(),
        Given::Value(changes) => changes,
    };
    format.merge_into(&mut signature.format, || SignatureSettings::default().format);
}

fn merge_breaker(breaker: &mut BreakerSettings, changes: Given<BreakerChanges>) {
    let defaults = BreakerSettings::default();
    let BreakerChanges { failure_threshold, cooldown_seconds, max_cooldown_seconds } = match changes {
        Given::Absent | Given::Invalid => return,
        Given::Null => return *breaker = defaults,
        Given::Value(changes) => changes,
    };
    failure_threshold.merge_into(&mut breaker.failure_threshold, || defaults.failure_threshold);
    cooldown_seconds.merge_into(&mut breaker.cooldown_seconds, || defaults.cooldown_seconds);
    max_cooldown_seconds.merge_into(&mut breaker.max_cooldown_seconds, || defaults.max_cooldown_seconds);
}

fn merge_metadata(metadata: &mut Option<Value>, changes: Given<Value>, errors: &mut Errors) {
    let changes = match changes {
        Given::Absent | Given::Invalid => return,
        Given::Null => return *metadata = None,
        Given::Value(changes) => changes,
    };
    let mut merged = metadata.take().unwrap_or(Value::Null);
    merge(&mut merged, changes);
    if merged.to_string().len() > MAX_METADATA {
        let message = format!("merged with what is stored it exceeds {MAX_METADATA} bytes");
        errors.add(&"/metadata", Fault::new("out_of_range", message));
    }
    *metadata = Some(merged);
}

/// Merges a patch (RFC 7396). The depth of bodies bounds the recursion.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::body::read;
    use crate::api::webhooks::input::WebhookPatch;

    fn apply(settings: &mut Settings, text: &str) -> Vec<String> {
        let mut errors = Errors::default();
        let WebhookPatch(changes) = read(text.as_bytes(), &mut errors).unwrap().unwrap();
        settings.apply(changes, &Guard::new(false, Vec::new()), &mut errors);
        match errors.into_result() {
            Ok(()) => Vec::new(),
            Err(problem) => problem.into_parts().3.into_iter().map(|error| error.pointer).collect(),
        }
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name_and_null_brings_the_default_back() {
        let mut settings = Settings::default();
        let first =
            r#"{"timeoutMs":100,"retryPolicy":{"maxRetries":7,"maxDelaySeconds":60},"rateLimit":{"requests":5}}"#;
        assert_eq!(apply(&mut settings, first), [""; 0]);
        assert_eq!(apply(&mut settings, r#"{"retryPolicy":{"maxRetries":1},"timeoutMs":null}"#), [""; 0]);
        assert_eq!(settings.policy.retry_policy.max_retries, 1);
        assert_eq!(settings.policy.retry_policy.max_delay_seconds, 60);
        assert_eq!(settings.policy.timeout_ms, 5000);
        assert_eq!(settings.policy.rate_limit, Some(RateLimit { requests: 5, per_seconds: 1, burst: 5 }));
        assert_eq!(apply(&mut settings, r#"{"rateLimit":null,"retryPolicy":null}"#), [""; 0]);
        assert_eq!(settings.policy, Policy::default());
    }

    #[test]
    fn a_schedule_goes_with_its_strategy() {
        let mut settings = Settings::default();
        let scheduled = r#"{"retryPolicy":{"backoffStrategy":"schedule","scheduleSeconds":[1,2]}}"#;
        assert_eq!(
            apply(&mut settings, r#"{"retryPolicy":{"backoffStrategy":"schedule"}}"#),
            ["/retryPolicy/scheduleSeconds"]
        );
        assert_eq!(apply(&mut settings, scheduled), [""; 0]);
        assert_eq!(apply(&mut settings, r#"{"retryPolicy":{"backoffStrategy":"linear"}}"#), [""; 0]);
        assert_eq!(settings.policy.retry_policy.schedule_seconds, None);
        assert_eq!(apply(&mut settings, r#"{"rateLimit":{"burst":5}}"#), ["/rateLimit/requests"]);
    }

    #[test]
    fn headers_are_merged_whatever_their_case_and_a_hidden_value_is_kept() {
        let mut settings = Settings::default();
        assert_eq!(apply(&mut settings, r#"{"headers":{"X-Team":"a","X-Trace":"s3cret","X-Old":"o"}}"#), [""; 0]);
        assert_eq!(apply(&mut settings, r#"{"headers":{"x-team":"b","X-Trace":"[redacted]","X-Old":null}}"#), [""; 0]);
        let stored: Vec<(&str, &str)> = settings.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(stored, [("X-Trace", "s3cret"), ("x-team", "b")]);
        assert_eq!(apply(&mut settings, r#"{"headers":{"X-Token":"[redacted]"}}"#), ["/headers/X-Token"]);
        assert_eq!(apply(&mut settings, r#"{"headers":{"Host":"x","":"y"}}"#), ["/headers/", "/headers/Host"]);
    }

    #[test]
    fn credentials_are_merged_and_another_type_of_them_begins_with_nothing() {
        let mut settings = Settings::default();
        let fetched = r#"{"auth":{"type":"oauth2","tokenUrl":"HTTPS://Id.Example.com.:443/t","clientId":"a","clientSecret":"s","scope":"x"}}"#;
        let changed =
            r#"{"auth":{"clientSecret":"[redacted]","scope":null,"tokenEndpointAuthMethod":"client_secret_post"}}"#;
        assert_eq!(apply(&mut settings, fetched), [""; 0]);
        assert_eq!(apply(&mut settings, changed), [""; 0]);
        let merged = serde_json::json!({"auth": {"type": "oauth2", "tokenUrl": "https://id.example.com/t", "clientId": "a",
            "clientSecret": "s", "tokenEndpointAuthMethod": "client_secret_post"}});
        assert_eq!(serde_json::to_value(&settings.credentials).unwrap(), merged);
        let marked = r#"{"auth":{"type":"basic","username":"a","password":"[redacted]"}}"#;
        assert_eq!(apply(&mut settings, marked), ["/auth/password"]);
        let mixed = r#"{"auth":{"type":"bearer","token":"t","username":"a"}}"#;
        assert_eq!(apply(&mut settings, mixed), ["/auth/username"]);
        assert_eq!(apply(&mut settings, r#"{"auth":null,"tls":{"ca":null}}"#), [""; 0]);
        assert!(settings.credentials.is_empty());
    }

    #[test]
    fn every_rule_speaks_at_once() {
        let text = r#"{"url":"http://127.0.0.1/","headers":{"Host":"x"},"retryPolicy":{"backoffStrategy":"schedule"},"timeoutMs":1}"#;
        let mut found = apply(&mut Settings::default(), text);
        found.sort();
        assert_eq!(found, ["/headers/Host", "/retryPolicy/scheduleSeconds", "/timeoutMs", "/url"]);
    }

    #[test]
    fn metadata_is_merged_member_by_member() {
        let mut settings = Settings::default();
        assert_eq!(apply(&mut settings, r#"{"metadata":{"a":{"b":1,"c":2}}}"#), [""; 0]);
        assert_eq!(apply(&mut settings, r#"{"metadata":{"a":{"b":null},"d":[null]}}"#), [""; 0]);
        assert_eq!(settings.metadata, Some(serde_json::json!({"a": {"c": 2}, "d": [null]})));
    }
}
