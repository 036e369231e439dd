//! The bodies that ask for an operation or change one.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use serde_json::value::RawValue;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::api::body::Input;
use crate::api::fields::{At, Fault, Given, Reader, any_text, boolean, integer, moment, word};
use crate::api::names;
use crate::domain::delivery::Status;
use crate::domain::id::{IdError, WebhookId};
use crate::domain::moment::UnixMillis;
use crate::domain::operation::{DEFAULT_RATE, Kind, MAX_PATTERNS, MAX_RATE, MAX_WEBHOOKS};
use crate::domain::outcome::OutcomeKind;

const RATE: RangeInclusive<u32> = 1..=MAX_RATE;

const STATUS_CODE: RangeInclusive<u16> = 100..=599;

/// Which deliveries an operation is for, and what is done with them.
#[derive(Debug, ToSchema)]
#[schema(as = ReplayInput, rename_all = "camelCase")]
pub(super) struct OperationRequest {
    /// `retry` sends settled deliveries again; `purge` cancels pending ones; `owe` makes deliveries of events that were
    /// accepted before and never owed to the webhooks, and needs `webhookIds`.
    #[schema(value_type = Option<String>, default = "retry")]
    pub(super) kind: Kind,
    /// The status of the deliveries: for `retry` `failed`, which is the default, `success` or `cancelled`; for `purge`
    /// `pending`; for `owe` none.
    #[schema(value_type = Option<String>)]
    pub(super) status: Option<Status>,
    /// Only deliveries of events that were accepted at or after this time.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) since: Option<UnixMillis>,
    /// Only deliveries of events that were accepted before this time; now by default.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) until: Option<UnixMillis>,
    /// The outcome of the last attempt.
    #[schema(value_type = Option<String>)]
    pub(super) outcome: Option<OutcomeKind>,
    /// The status code of the last attempt's answer.
    #[schema(value_type = Option<u16>, minimum = 100, maximum = 599)]
    pub(super) status_code: Option<u16>,
    /// Event types, prefixes such as `call.*`, or `*`; all by default.
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 20)]
    pub(super) events: Vec<String>,
    /// Maximum deliveries started per second, over all nodes.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000, default = 100)]
    pub(super) rate_per_second: u32,
    /// Counts the deliveries and changes nothing.
    #[schema(value_type = Option<bool>, default = false)]
    pub(super) dry_run: bool,
}

macro_rules! asked_fields {
    ($($more:literal),*) => {
        &["kind", "since", "until", "status", "outcome", "statusCode", "events", "ratePerSecond", "dryRun", $($more),*]
    };
}

impl OperationRequest {
    fn of_kind(reader: &mut Reader<'_, '_>, kind: Option<Kind>) -> Option<Self> {
        let statuses = statuses(kind?);
        let words: Vec<(&str, Status)> = statuses.iter().map(|status| (status.as_str(), *status)).collect();
        let has_status = || if statuses.is_empty() { Err(no_status()) } else { Ok(()) };
        let status = reader.field("status", |raw| has_status().and_then(|()| word(raw, &words)));
        let outcomes = OutcomeKind::ALL.map(|outcome| (outcome.as_str(), outcome));
        let outcome = reader.field("outcome", |raw| has_status().and_then(|()| word(raw, &outcomes)));
        let status_code = reader.field("statusCode", |raw| has_status().and_then(|()| integer(raw, &STATUS_CODE)));
        let (since, until) = (reader.field("since", moment), reader.field("until", moment));
        let (since, until) = (since.value(), until.value());
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            let fault = Fault::new("out_of_range", format!("{until} was given, a time after since is accepted"));
            reader.errors.add(&At::Member(&At::Root, "until"), fault);
        }
        let events = reader.list("events", &(1..=MAX_PATTERNS), |at, raw, errors| {
            names::pattern(raw).map_err(|fault| errors.add(&at, fault)).ok()
        });
        let rate = reader.field("ratePerSecond", |raw| integer(raw, &RATE));
        let dry_run = reader.field("dryRun", boolean);
        Some(Self {
            kind: kind?,
            status: status.value().or(statuses.first().copied()),
            since,
            until,
            outcome: outcome.value(),
            status_code: status_code.value(),
            events: events.value().unwrap_or_default(),
            rate_per_second: rate.value().unwrap_or(DEFAULT_RATE),
            dry_run: dry_run.value().unwrap_or_default(),
        })
    }
}

/// The statuses that the deliveries of an operation may have; the first is meant if none is given.
fn statuses(kind: Kind) -> &'static [Status] {
    match kind {
        Kind::Retry => &[Status::Failed, Status::Success, Status::Cancelled],
        Kind::Purge => &[Status::Pending],
        Kind::Owe => &[],
    }
}

fn no_status() -> Fault {
    Fault::new("invalid", "owe makes deliveries, which have no status and no attempt; null is accepted")
}

fn kind(raw: &RawValue) -> Result<Kind, Fault> {
    let kinds: Vec<(&str, Kind)> = Kind::ALL.iter().map(|kind| (kind.as_str(), *kind)).collect();
    word(raw, &kinds)
}

fn webhook_id(raw: &RawValue) -> Result<WebhookId, Fault> {
    any_text(raw)?.parse().map_err(|error: IdError| Fault::new("invalid_id", error.to_string()))
}

#[derive(Debug)]
pub(super) struct OperationInput {
    pub(super) webhook_ids: Vec<WebhookId>,
    pub(super) asked: OperationRequest,
}

impl Input for OperationInput {
    const FIELDS: &'static [&'static str] = asked_fields!("webhookIds");

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let mut seen = HashSet::new();
        let webhook_ids = reader.list("webhookIds", &(1..=MAX_WEBHOOKS), |at, raw, errors| {
            let id = webhook_id(raw).map_err(|fault| errors.add(&at, fault)).ok()?;
            if !seen.insert(id) {
                errors.add(&at, Fault::new("duplicate_item", "given twice, once is accepted"));
            }
            Some(id)
        });
        let kind = reader.required("kind", kind);
        reader.demand_if_null("webhookIds", &webhook_ids);
        if kind == Some(Kind::Owe) && !webhook_ids.is_given() {
            reader.demand("webhookIds", &webhook_ids);
        }
        Some(Self {
            asked: OperationRequest::of_kind(reader, kind)?,
            webhook_ids: webhook_ids.value().unwrap_or_default(),
        })
    }
}

/// The members of [`OperationRequest`], of which `kind` is required, and the webhooks.
impl PartialSchema for OperationInput {
    fn schema() -> RefOr<Schema> {
        let mut schema = OperationRequest::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            let id = ObjectBuilder::new().schema_type(Type::String);
            let ids = ArrayBuilder::new().items(id).min_items(Some(1)).max_items(Some(MAX_WEBHOOKS));
            let ids = ids.description(Some("The webhooks whose deliveries it is for; without it, all of the tenant."));
            object.properties.insert("webhookIds".to_owned(), ids.build().into());
            // Without the default, because it is required.
            if let Some(RefOr::T(Schema::Object(kind))) = object.properties.get_mut("kind") {
                (kind.default, kind.schema_type) = (None, Type::String.into());
            }
            object.required.push("kind".to_owned());
        }
        schema
    }
}

impl ToSchema for OperationInput {
    fn name() -> std::borrow::Cow<'static, str> {
        "OperationInput".into()
    }
}

impl Input for OperationRequest {
    const FIELDS: &'static [&'static str] = asked_fields!();

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let kind = match reader.field("kind", kind) {
            Given::Absent | Given::Null => Some(Kind::Retry),
            Given::Invalid => None,
            Given::Value(kind) => Some(kind),
        };
        Self::of_kind(reader, kind)
    }
}

#[derive(Debug, ToSchema)]
#[schema(as = OperationPatch)]
pub(super) struct OperationPatch {
    /// Maximum deliveries started per second, over all nodes.
    #[schema(rename = "ratePerSecond", minimum = 1, maximum = 10_000)]
    pub(super) rate: u32,
}

impl Input for OperationPatch {
    const FIELDS: &'static [&'static str] = &["ratePerSecond"];

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        Some(Self { rate: reader.required("ratePerSecond", |raw| integer(raw, &RATE))? })
    }
}
