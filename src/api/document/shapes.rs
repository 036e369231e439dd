//! Adds to the schemas what the types of the handlers do not say: which texts have a fixed set of values, which objects
//! take any members, that what an input requires is never null, and that an answer has each of its members.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde_json::Value;
use utoipa::Number;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{AdditionalProperties, ArrayItems, Object, Schema, SchemaType, Type};
use utoipa::openapi::{Content, OpenApi as Document, Ref, RefOr};

use crate::domain::policy::{BreakerSettings, Policy, RateLimit, RetryPolicy};
use crate::domain::retention::Retention;

use super::enums::{self, Named};

/// Members whose content is the publisher's or the webhook owner's own.
const FREE: [&str; 2] = ["data", "metadata"];

/// Members of answers that may be absent. All others are always present, if need be as null.
const LEFT_OUT: [&str; 4] = ["errors", "rewrapped", "scheduleSeconds", "warnings"];

/// Names of alternatives that the types of the handlers leave without one, in the order of the alternatives.
const ALTERNATIVES: [(&str, &[&str]); 2] =
    [("Auth", &["BasicAuth", "BearerAuth", "OAuth2Auth"]), ("PublishResult", &["PublishedEvent", "RefusedEvent"])];

pub(super) fn refine(document: &mut Document) {
    let mut named = Named::new();
    if let Some(components) = &mut document.components {
        name_items(&mut components.schemas);
        name_alternatives(&mut components.schemas);
        for (name, schema) in &mut components.schemas {
            walk(schema, is_input(name), &mut named);
        }
        say_defaults(&mut components.schemas);
    }
    for path in document.paths.paths.values_mut() {
        let PathItem { get, put, post, delete, patch, .. } = path;
        for operation in [get, put, post, delete, patch].into_iter().flatten() {
            parameters(operation, &mut named);
            body(operation);
        }
    }
    document.components.get_or_insert_default().schemas.extend(named);
}

/// Gives the alternatives of a schema a name.
fn name_alternatives(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    for (name, alternatives) in ALTERNATIVES {
        let Some(RefOr::T(Schema::OneOf(whole))) = schemas.get_mut(name) else { continue };
        let mut moved = Vec::new();
        for (alternative, item) in alternatives.iter().zip(&mut whole.items) {
            let reference = RefOr::Ref(Ref::from_schema_name(*alternative));
            match std::mem::replace(item, reference) {
                RefOr::Ref(other) => *item = RefOr::Ref(other),
                RefOr::T(schema) => moved.push(((*alternative).to_owned(), RefOr::T(schema))),
            }
        }
        schemas.extend(moved);
    }
}

/// Says the defaults of inputs in words. With a `default` in the schema, some generated clients would send it, which
/// undoes in a change what it does not name, and others would ask for the member.
fn say_defaults(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    for (_, schema) in schemas.iter_mut().filter(|(name, _)| is_input(name)) {
        if let RefOr::T(Schema::Object(object)) = schema {
            object.properties.values_mut().for_each(say_default);
        }
    }
}

/// Whether a schema with this name is part of a body that is sent.
fn is_input(schema: &str) -> bool {
    schema.ends_with("Input") || schema.ends_with("Patch")
}

fn say_default(property: &mut RefOr<Schema>) {
    let (default, description) = match property {
        RefOr::T(Schema::Object(object)) => (&mut object.default, &mut object.description),
        RefOr::T(Schema::OneOf(parts)) => (&mut parts.default, &mut parts.description),
        RefOr::T(_) | RefOr::Ref(_) => return,
    };
    let Some(default) = default.take() else { return };
    let value = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
    let what = description.take().unwrap_or_default();
    let said = if what.contains("default") { what } else { format!("{what}\n\n`{value}` by default.") };
    *description = Some(said.trim_start().to_owned());
}

/// Makes a page refer to the schema of its items instead of repeating it.
fn name_items(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    let named: BTreeSet<String> = schemas.keys().cloned().collect();
    for (name, schema) in schemas {
        let item = name.strip_prefix("Page_").filter(|item| named.contains(*item));
        if let (Some(item), RefOr::T(Schema::Object(page))) = (item, schema)
            && let Some(RefOr::T(Schema::Array(data))) = page.properties.get_mut("data")
        {
            data.items = ArrayItems::RefOrSchema(Box::new(Ref::from_schema_name(item).into()));
        }
    }
}

/// A body may be absent, but never null.
fn body(operation: &mut Operation) {
    let Some(RefOr::T(body)) = &mut operation.request_body else { return };
    for content in body.content.values_mut() {
        if let RefOr::T(Content { schema: Some(schema), .. }) = content {
            forbid_null(schema);
        }
    }
}

fn parameters(operation: &mut Operation, named: &mut Named) {
    let lists_webhooks = operation.operation_id.as_deref() == Some("listWebhooks");
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        if let (Some(values), Some(schema)) =
            (enums::of_parameter(&parameter.name, lists_webhooks), &mut parameter.schema)
        {
            values.restrict(schema, named);
        }
    }
}

fn walk(schema: &mut RefOr<Schema>, is_input: bool, named: &mut Named) {
    match schema {
        RefOr::T(Schema::Object(object)) => refine_object(object, is_input, named),
        RefOr::T(Schema::Array(array)) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                walk(items, is_input, named);
            }
        }
        RefOr::T(Schema::OneOf(parts)) => parts.items.iter_mut().for_each(|part| walk(part, is_input, named)),
        RefOr::T(Schema::AllOf(parts)) => parts.items.iter_mut().for_each(|part| walk(part, is_input, named)),
        RefOr::T(Schema::AnyOf(parts)) => parts.items.iter_mut().for_each(|part| walk(part, is_input, named)),
        RefOr::T(_) | RefOr::Ref(_) => {}
    }
}

fn refine_object(object: &mut Object, is_input: bool, named: &mut Named) {
    let siblings: BTreeSet<String> = object.properties.keys().cloned().collect();
    if !is_input {
        let always = object.properties.keys().filter(|name| !LEFT_OUT.contains(&name.as_str()));
        object.required = always.cloned().collect();
    }
    for (name, property) in &mut object.properties {
        if is_input && object.required.contains(name) {
            forbid_null(property);
        }
        if FREE.contains(&name.as_str()) {
            open(property);
        }
        if is_input {
            limit(name, property);
        }
        if let Some(values) = enums::of_property(name, &siblings) {
            values.restrict(property, named);
        }
        walk(property, is_input, named);
    }
}

/// Takes the limits and the default of a setting from where they are checked: the policy, or the retention.
fn limit(name: &str, schema: &mut RefOr<Schema>) {
    let Some((least, most, default)) = limits_of(name) else { return };
    match schema {
        RefOr::T(Schema::Object(object)) => {
            (object.minimum, object.maximum) = (Some(Number::UInt(least)), Some(Number::UInt(most)));
            object.default = default.map(Value::from);
        }
        RefOr::T(Schema::Array(array)) => (array.min_items, array.max_items) = (Some(least), Some(most)),
        RefOr::T(_) | RefOr::Ref(_) => {}
    }
}

/// The least and the greatest value, and the default; of a list, how many items it may have.
fn limits_of(name: &str) -> Option<(usize, usize, Option<u32>)> {
    let Policy { retry_policy, timeout_ms, max_in_flight, breaker, disable_after_seconds, .. } = Policy::default();
    let (least, most, default): (u32, u32, Option<u32>) = match name {
        "maxRetries" => within(RetryPolicy::MAX_RETRIES, Some(retry_policy.max_retries)),
        "maxDelaySeconds" => within(RetryPolicy::DELAY_SECONDS, Some(retry_policy.max_delay_seconds)),
        "timeoutMs" => within(Policy::TIMEOUT_MS, Some(timeout_ms)),
        "maxInFlight" => within(Policy::MAX_IN_FLIGHT, Some(max_in_flight)),
        "disableAfterSeconds" => within(Policy::DISABLE_AFTER_SECONDS, Some(disable_after_seconds)),
        "requests" | "burst" => within(RateLimit::REQUESTS, None),
        "perSeconds" => within(RateLimit::PER_SECONDS, Some(RateLimit::DEFAULT_PER_SECONDS)),
        "failureThreshold" => within(BreakerSettings::FAILURE_THRESHOLD, Some(breaker.failure_threshold)),
        "cooldownSeconds" => within(BreakerSettings::COOLDOWN_SECONDS, Some(breaker.cooldown_seconds)),
        "maxCooldownSeconds" => within(BreakerSettings::MAX_COOLDOWN_SECONDS, Some(breaker.max_cooldown_seconds)),
        "eventsSeconds" | "responsesSeconds" => within(Retention::OF_TENANT, None),
        "scheduleSeconds" => {
            let (least, most) = RetryPolicy::SCHEDULE_ENTRIES.into_inner();
            return Some((least, most, None));
        }
        _ => return None,
    };
    Some((least as usize, most as usize, default))
}

fn within<T: Copy + Into<u32>>(range: RangeInclusive<T>, default: Option<T>) -> (u32, u32, Option<u32>) {
    let (least, most) = range.into_inner();
    (least.into(), most.into(), default.map(Into::into))
}

/// Lets an object take any members.
fn open(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(object)) = schema
        && has(&object.schema_type, &Type::Object)
        && object.properties.is_empty()
    {
        object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(true)));
    }
}

fn forbid_null(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => without_null(&mut object.schema_type),
        RefOr::T(Schema::Array(array)) => without_null(&mut array.schema_type),
        RefOr::T(Schema::OneOf(parts)) => {
            parts.items.retain(|part| !is_null(part));
            if let [only] = parts.items.as_slice() {
                *schema = only.clone();
            }
        }
        RefOr::T(_) | RefOr::Ref(_) => {}
    }
}

fn is_null(schema: &RefOr<Schema>) -> bool {
    matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null))
}

fn without_null(types: &mut SchemaType) {
    if let SchemaType::Array(several) = types {
        several.retain(|one| *one != Type::Null);
        if let [only] = several.as_slice() {
            *types = SchemaType::Type(only.clone());
        }
    }
}

fn has(types: &SchemaType, wanted: &Type) -> bool {
    match types {
        SchemaType::Type(one) => one == wanted,
        SchemaType::Array(several) => several.contains(wanted),
        SchemaType::AnyValue => false,
    }
}
