//! Reads what a webhook's owner writes: the same fields when the webhook is created and when it is changed.

use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::api::body::Input;
use crate::api::event_types::DESCRIPTION;
use crate::api::fields::{Fault, Given, Reader, any_text, boolean, given, integer, line, moment, out_of, prose, word};
use crate::api::names;
use crate::api::names::NAME;
use crate::domain::moment::UnixMillis;
use crate::domain::policy::{Backoff, BreakerSettings, Policy, RateLimit, RetryPolicy, SignatureFormat};

use super::credentials::{AuthChanges, TlsChanges};

/// Number of subscriptions of one webhook.
const EVENTS: std::ops::RangeInclusive<usize> = 1..=100;

/// Number of public headers: as many as there may be headers.
const PUBLIC_HEADERS: std::ops::RangeInclusive<usize> = 0..=20;

/// Bytes of the metadata's JSON text.
const METADATA: std::ops::RangeInclusive<usize> = 0..=16 * 1024;

const FIELDS: &[&str] = &[
    "name",
    "url",
    "events",
    "headers",
    "publicHeaders",
    "retryPolicy",
    "timeoutMs",
    "rateLimit",
    "maxInFlight",
    "ordered",
    "filter",
    "signature",
    "tls",
    "auth",
    "breaker",
    "disableAfterSeconds",
    "description",
    "metadata",
    "isActive",
];

/// The fields of a webhook that a request gives.
#[derive(Debug, Clone, ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::api) struct Changes {
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, example = "Billing sync")]
    pub(super) name: Given<String>,
    #[schema(value_type = Option<String>, example = "https://example.com/hooks")]
    pub(super) url: Given<String>,
    /// Event types to subscribe to: exact types, `prefix.*`, or `*`.
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 100, example = json!(["call.*"]))]
    pub(super) events: Given<Vec<String>>,
    /// Headers that are sent with every request. In a change, `null` removes a header. Reading the webhook shows hidden
    /// values as `[redacted]`; this text, sent back, keeps the stored value.
    #[schema(value_type = Option<std::collections::BTreeMap<String, Option<String>>>)]
    pub(super) headers: Given<Vec<(String, Option<String>)>>,
    /// Names of headers whose values are not secret: they are shown, and kept when `url` moves to another origin.
    #[schema(value_type = Option<Vec<String>>, max_items = 20, example = json!(["X-Team"]))]
    pub(super) public_headers: Given<Vec<String>>,
    #[schema(value_type = Option<RetryChanges>)]
    pub(super) retry_policy: Given<RetryChanges>,
    /// One deadline for DNS, connect, TLS, headers and body, in milliseconds.
    #[schema(value_type = Option<u32>)]
    pub(super) timeout_ms: Given<u32>,
    #[schema(value_type = Option<RateChanges>)]
    pub(super) rate_limit: Given<RateChanges>,
    /// Maximum requests in flight at once.
    #[schema(value_type = Option<u16>)]
    pub(super) max_in_flight: Given<u16>,
    /// Whether events are sent one at a time; a failed one holds back those after it.
    #[schema(value_type = Option<bool>, default = false)]
    pub(super) ordered: Given<bool>,
    /// Not available in this version: must be null.
    #[schema(value_type = Option<String>)]
    pub(super) filter: Given<String>,
    #[schema(value_type = Option<SignatureChanges>)]
    pub(super) signature: Given<SignatureChanges>,
    #[schema(value_type = Option<TlsChanges>)]
    pub(super) tls: Given<TlsChanges>,
    #[schema(value_type = Option<AuthChanges>)]
    pub(super) auth: Given<AuthChanges>,
    #[schema(value_type = Option<BreakerChanges>)]
    pub(super) breaker: Given<BreakerChanges>,
    /// Seconds of nothing but failures after which the webhook is suspended; five days by default.
    #[schema(value_type = Option<u32>)]
    pub(super) disable_after_seconds: Given<u32>,
    #[schema(value_type = Option<String>, max_length = 2000)]
    pub(super) description: Given<String>,
    /// Any members, at most 16 KiB. Changes are merged member by member.
    #[schema(value_type = Option<Object>)]
    pub(super) metadata: Given<Value>,
    #[schema(value_type = Option<bool>, default = true)]
    pub(super) is_active: Given<bool>,
}

#[derive(Debug, Clone, PartialEq, ToSchema)]
#[schema(as = RetryPolicyInput, rename_all = "camelCase")]
pub(in crate::api) struct RetryChanges {
    /// Retries after the first attempt.
    #[schema(value_type = Option<u8>)]
    pub(super) max_retries: Given<u8>,
    /// `exponential` (2, 4, 8 s, …), `linear` (5, 10, 15 s, …) or `schedule`.
    #[schema(value_type = Option<String>, default = "exponential")]
    pub(super) backoff_strategy: Given<Backoff>,
    /// The waits of `schedule`, in seconds; the last one repeats.
    #[schema(value_type = Option<Vec<u32>>)]
    pub(super) schedule_seconds: Given<Vec<u32>>,
    #[schema(value_type = Option<u32>)]
    pub(super) max_delay_seconds: Given<u32>,
}

#[derive(Debug, Clone, PartialEq, ToSchema)]
#[schema(as = RateLimitInput, rename_all = "camelCase")]
pub(in crate::api) struct RateChanges {
    /// Requests that may start in `perSeconds`.
    #[schema(value_type = Option<u32>)]
    pub(super) requests: Given<u32>,
    #[schema(value_type = Option<u32>)]
    pub(super) per_seconds: Given<u32>,
    /// Requests that may start at once; as many as `requests` by default.
    #[schema(value_type = Option<u32>)]
    pub(super) burst: Given<u32>,
}

#[derive(Debug, Clone, PartialEq, ToSchema)]
#[schema(as = SignatureInput)]
pub(in crate::api) struct SignatureChanges {
    /// `hex`, `prefixed` or `timestamped`.
    #[schema(value_type = Option<String>, default = "hex")]
    pub(super) format: Given<SignatureFormat>,
}

/// When the breaker opens for a failing receiver, and for how long.
#[derive(Debug, Clone, PartialEq, ToSchema)]
#[schema(as = BreakerInput, rename_all = "camelCase")]
pub(in crate::api) struct BreakerChanges {
    /// Failures in a row that open the breaker.
    #[schema(value_type = Option<u16>)]
    pub(super) failure_threshold: Given<u16>,
    /// Seconds for which nothing is sent at first; doubled by each failed probe.
    #[schema(value_type = Option<u32>)]
    pub(super) cooldown_seconds: Given<u32>,
    /// Maximum seconds for which nothing is sent; not below `cooldownSeconds`.
    #[schema(value_type = Option<u32>)]
    pub(super) max_cooldown_seconds: Given<u32>,
}

/// A webhook to create: `name`, `url` and `events` are required.
#[derive(Debug)]
pub(in crate::api) struct WebhookInput {
    pub(super) changes: Changes,
    pub(super) start_from: Given<UnixMillis>,
}

/// Changes of a webhook: nothing is required, but `name`, `url` and `events` cannot be removed.
#[derive(Debug, Clone)]
pub(in crate::api) struct WebhookPatch(pub(super) Changes);

impl PartialSchema for WebhookInput {
    fn schema() -> RefOr<Schema> {
        let mut schema = described("A webhook to create.", &["name", "url", "events"]);
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            let what = "Also owes it the matching events that were accepted at or after this time: an operation of the \
                        kind `owe`, which is made with the webhook.";
            let moment = ObjectBuilder::new()
                .schema_type(SchemaType::Array(vec![Type::String, Type::Null]))
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
                .description(Some(what));
            object.properties.insert("startFrom".to_owned(), moment.build().into());
        }
        schema
    }
}

impl PartialSchema for WebhookPatch {
    fn schema() -> RefOr<Schema> {
        described("Changes of a webhook. Members that are not named stay; `null` restores a default.", &[])
    }
}

/// The schema of [`Changes`] with this description and these required fields.
fn described(description: &str, required: &[&str]) -> RefOr<Schema> {
    let mut schema = Changes::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        object.description = Some(description.to_owned());
        object.required = required.iter().map(|name| (*name).to_owned()).collect();
    }
    schema
}

impl ToSchema for WebhookInput {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Changes::schemas(schemas);
    }
}

impl ToSchema for WebhookPatch {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Changes::schemas(schemas);
    }
}

/// `startFrom` and [`FIELDS`].
const NEW_FIELDS: &[&str] = &{
    let mut all = ["startFrom"; FIELDS.len() + 1];
    let mut place = 0;
    while place < FIELDS.len() {
        all[place] = FIELDS[place];
        place += 1;
    }
    all
};

impl Input for WebhookInput {
    const FIELDS: &'static [&'static str] = NEW_FIELDS;

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let changes = Changes::read(reader);
        reader.demand("name", &changes.name);
        reader.demand("url", &changes.url);
        reader.demand("events", &changes.events);
        Some(Self { changes, start_from: reader.field("startFrom", moment) })
    }
}

impl Input for WebhookPatch {
    const FIELDS: &'static [&'static str] = FIELDS;

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let changes = Changes::read(reader);
        reader.demand_if_null("name", &changes.name);
        reader.demand_if_null("url", &changes.url);
        reader.demand_if_null("events", &changes.events);
        Some(Self(changes))
    }
}

impl Changes {
    /// Whether the request says anything about this field.
    pub(super) fn gives(&self, field: &str) -> bool {
        match field {
            "name" => self.name.is_given(),
            "url" => self.url.is_given(),
            "events" => self.events.is_given(),
            "headers" => self.headers.is_given(),
            "publicHeaders" => self.public_headers.is_given(),
            "retryPolicy" => self.retry_policy.is_given(),
            "timeoutMs" => self.timeout_ms.is_given(),
            "rateLimit" => self.rate_limit.is_given(),
            "maxInFlight" => self.max_in_flight.is_given(),
            "ordered" => self.ordered.is_given(),
            "filter" => self.filter.is_given(),
            "signature" => self.signature.is_given(),
            "tls" => self.tls.is_given(),
            "auth" => self.auth.is_given(),
            "breaker" => self.breaker.is_given(),
            "disableAfterSeconds" => self.disable_after_seconds.is_given(),
            "description" => self.description.is_given(),
            "metadata" => self.metadata.is_given(),
            "isActive" => self.is_active.is_given(),
            _ => false,
        }
    }

    fn read(reader: &mut Reader<'_, '_>) -> Self {
        Self {
            name: reader.field("name", |raw| line(raw, &NAME)),
            url: reader.field("url", any_text),
            events: subscriptions(reader),
            headers: reader.map("headers", header_value),
            public_headers: reader.list("publicHeaders", &PUBLIC_HEADERS, |at, raw, errors| {
                any_text(raw).map_err(|fault| errors.add(&at, fault)).ok()
            }),
            retry_policy: reader.object("retryPolicy", RetryChanges::FIELDS, RetryChanges::read),
            timeout_ms: reader.field("timeoutMs", |raw| integer(raw, &Policy::TIMEOUT_MS)),
            rate_limit: reader.object("rateLimit", RateChanges::FIELDS, RateChanges::read),
            max_in_flight: reader.field("maxInFlight", |raw| integer(raw, &Policy::MAX_IN_FLIGHT)),
            ordered: reader.field("ordered", boolean),
            filter: reader.field("filter", |_| {
                Err(Fault::new("unsupported", "filters are not available in this version; null is accepted"))
            }),
            signature: reader.object("signature", SignatureChanges::FIELDS, SignatureChanges::read),
            tls: reader.object("tls", TlsChanges::FIELDS, TlsChanges::read),
            auth: reader.object("auth", AuthChanges::FIELDS, AuthChanges::read),
            breaker: reader.object("breaker", BreakerChanges::FIELDS, BreakerChanges::read),
            disable_after_seconds: reader
                .field("disableAfterSeconds", |raw| integer(raw, &Policy::DISABLE_AFTER_SECONDS)),
            description: reader.field("description", |raw| prose(raw, &DESCRIPTION)),
            metadata: reader.field("metadata", metadata),
            is_active: reader.field("isActive", boolean),
        }
    }
}

impl RetryChanges {
    const FIELDS: &'static [&'static str] = &["maxRetries", "backoffStrategy", "scheduleSeconds", "maxDelaySeconds"];

    fn read(reader: &mut Reader<'_, '_>) -> Self {
        let strategies =
            [("exponential", Backoff::Exponential), ("linear", Backoff::Linear), ("schedule", Backoff::Schedule)];
        Self {
            max_retries: reader.field("maxRetries", |raw| integer(raw, &RetryPolicy::MAX_RETRIES)),
            backoff_strategy: reader.field("backoffStrategy", |raw| word(raw, &strategies)),
            schedule_seconds: reader.list("scheduleSeconds", &RetryPolicy::SCHEDULE_ENTRIES, |at, raw, errors| {
                integer(raw, &RetryPolicy::DELAY_SECONDS).map_err(|fault| errors.add(&at, fault)).ok()
            }),
            max_delay_seconds: reader.field("maxDelaySeconds", |raw| integer(raw, &RetryPolicy::DELAY_SECONDS)),
        }
    }
}

impl RateChanges {
    const FIELDS: &'static [&'static str] = &["requests", "perSeconds", "burst"];

    fn read(reader: &mut Reader<'_, '_>) -> Self {
        Self {
            requests: reader.field("requests", |raw| integer(raw, &RateLimit::REQUESTS)),
            per_seconds: reader.field("perSeconds", |raw| integer(raw, &RateLimit::PER_SECONDS)),
            burst: reader.field("burst", |raw| integer(raw, &RateLimit::REQUESTS)),
        }
    }
}

impl SignatureChanges {
    const FIELDS: &'static [&'static str] = &["format"];

    fn read(reader: &mut Reader<'_, '_>) -> Self {
        let formats = [
            ("hex", SignatureFormat::Hex),
            ("prefixed", SignatureFormat::Prefixed),
            ("timestamped", SignatureFormat::Timestamped),
        ];
        Self { format: reader.field("format", |raw| word(raw, &formats)) }
    }
}

impl BreakerChanges {
    const FIELDS: &'static [&'static str] = &["failureThreshold", "cooldownSeconds", "maxCooldownSeconds"];

    fn read(reader: &mut Reader<'_, '_>) -> Self {
        Self {
            failure_threshold: reader
                .field("failureThreshold", |raw| integer(raw, &BreakerSettings::FAILURE_THRESHOLD)),
            cooldown_seconds: reader.field("cooldownSeconds", |raw| integer(raw, &BreakerSettings::COOLDOWN_SECONDS)),
            max_cooldown_seconds: reader
                .field("maxCooldownSeconds", |raw| integer(raw, &BreakerSettings::MAX_COOLDOWN_SECONDS)),
        }
    }
}

/// Reads the subscriptions; each pattern may be given once.
fn subscriptions(reader: &mut Reader<'_, '_>) -> Given<Vec<String>> {
    let mut seen: Vec<String> = Vec::new();
    reader.list("events", &EVENTS, |at, raw, errors| {
        let fault = match names::pattern(raw) {
            Ok(pattern) if seen.contains(&pattern) => Fault::new("duplicate", "given twice, once is accepted"),
            Ok(pattern) => {
                seen.push(pattern.clone());
                return Some(pattern);
            }
            Err(fault) => fault,
        };
        errors.add(&at, fault);
        None
    })
}

fn header_value(raw: &RawValue) -> Result<Option<String>, Fault> {
    if raw.get() == "null" { Ok(None) } else { any_text(raw).map(Some) }
}

fn metadata(raw: &RawValue) -> Result<Value, Fault> {
    if !raw.get().starts_with('{') {
        return Err(Fault::new("wrong_type", format!("{} was given, an object is accepted", given(raw))));
    }
    if !METADATA.contains(&raw.get().len()) {
        return Err(out_of(raw.get().len(), " bytes", &METADATA));
    }
    let unreadable = |_| Fault::new("invalid", "a number is too large or a string is not valid Unicode");
    serde_json::from_str(raw.get()).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::body::read;
    use crate::api::body::tests::faults;
    use crate::api::fields::Errors;

    fn pointers(text: &str) -> Vec<String> {
        faults::<WebhookPatch>(text).into_iter().map(|(pointer, _)| pointer).collect()
    }

    #[test]
    fn what_must_be_there_is_asked_for() {
        let missing = |name: &str| (format!("/{name}"), "required");
        assert_eq!(faults::<WebhookInput>("{}"), ["name", "url", "events"].map(missing));
        assert_eq!(faults::<WebhookPatch>("{}"), []);
        assert_eq!(faults::<WebhookPatch>(r#"{"name":null,"timeoutMs":null}"#), [missing("name")]);
    }

    #[test]
    fn a_change_tells_which_fields_it_gives() {
        for given in FIELDS {
            let text = format!(r#"{{"{given}":null}}"#);
            let WebhookPatch(changes) = read(text.as_bytes(), &mut Errors::default()).unwrap().unwrap();
            assert_eq!(FIELDS.iter().filter(|field| changes.gives(field)).collect::<Vec<_>>(), [given]);
        }
    }

    #[test]
    fn every_impossible_field_is_named() {
        let text = r#"{"name":"","url":7,"events":["*","*","a*"],"headers":{"A/B":1},
            "retryPolicy":{"maxRetries":300,"backoffStrategy":"random","scheduleSeconds":[0],"maxDelaySeconds":-1,"x":1},
            "timeoutMs":99999999999,"rateLimit":{"requests":"5"},"maxInFlight":1.5,"ordered":"no","filter":"true",
            "signature":{"format":"md5"},"tls":{"ca":1,"cert":""},"auth":{"type":"digest","token":1},"breaker":{"failureThreshold":0},"disableAfterSeconds":1,"description":[],"metadata":"x","isActive":1,"secret":"whsec_AAAA"}"#;
        let expected = [
            "/secret",
            "/name",
            "/url",
            "/events/1",
            "/events/2",
            "/headers/A~1B",
            "/retryPolicy/x",
            "/retryPolicy/maxRetries",
            "/retryPolicy/backoffStrategy",
            "/retryPolicy/scheduleSeconds/0",
            "/retryPolicy/maxDelaySeconds",
            "/timeoutMs",
            "/rateLimit/requests",
            "/maxInFlight",
            "/ordered",
            "/filter",
            "/signature/format",
            "/tls/cert",
            "/tls/ca",
            "/auth/type",
            "/auth/token",
            "/breaker/failureThreshold",
            "/disableAfterSeconds",
            "/description",
            "/metadata",
            "/isActive",
        ];
        assert_eq!(pointers(text), expected);
    }

    #[test]
    fn metadata_that_cannot_be_kept_is_refused() {
        assert_eq!(faults::<WebhookPatch>(r#"{"metadata":{"a":1e999}}"#), [("/metadata".to_owned(), "invalid")]);
        let long = format!(r#"{{"metadata":{{"a":"{}"}}}}"#, "x".repeat(16 * 1024));
        assert_eq!(faults::<WebhookPatch>(&long), [("/metadata".to_owned(), "out_of_range")]);
    }

    /// JSON with names that a JSON pointer has to escape.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z~/.*:]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::hash_map("[a-z~/]{0,8}|maxRetries|type|ca|format", inner, 0..6)
                    .prop_map(|members| members.into_iter().collect::<Value>()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_value_panics(field in 0..FIELDS.len(), value in r#"[{}\[\]",:\\ua-d0-9eE.+ \-]{0,40}"#) {
            let _ = pointers(&format!(r#"{{"{}":{value}}}"#, FIELDS[field]));
        }

        #[test]
        fn a_problem_points_at_what_was_sent_or_at_what_is_missing_there(
            members in proptest::collection::hash_map(prop::sample::select(FIELDS), any_json(), 0..8),
        ) {
            let document: Value = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            for pointer in pointers(&document.to_string()) {
                let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
                let place = document.pointer(parent);
                prop_assert!(place.is_some_and(|it| it.is_object() || it.is_array()), "{pointer} in {document}");
            }
        }
    }
}
