//! Completes the parameters of all operations: headers that many operations take are described once, ids say what they
//! look like, and times say that they are times.

use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{Components, KnownFormat, Ref, RefOr, Required};

use crate::api::BASE;

/// First segments of paths on which no tenant acts.
const WITHOUT_TENANT: [&str; 4] = ["tenants", "admin-keys", "engine", "session"];

/// Headers of requests: name, maximum length, description.
const HEADERS: [(&str, usize, &str); 4] = [
    (
        "Idempotency-Key",
        255,
        "1 to 255 visible ASCII characters. For 24 hours a repeat with the same key and body does nothing and gets the \
         first answer again; the key with another body gets 422.",
    ),
    ("If-Match", 1024, "`ETag` that the object must still have; otherwise the answer is 412."),
    ("If-None-Match", 1024, "`ETag`s of answers that the caller has; if one is still right, the answer is 304."),
    (
        "X-Tenant-Id",
        64,
        "The tenant that an admin key acts for. Not needed where the path names a webhook, an event or a delivery; \
         with the key of a tenant, at most that tenant.",
    ),
];

/// Describes the shared headers.
pub(super) fn describe(components: &mut Components) {
    let described = HEADERS.map(|(name, longest, what)| {
        let mut header = Parameter::new(name);
        header.parameter_in = ParameterIn::Header;
        header.required = Required::False;
        header.description = Some(what.to_owned());
        let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(longest));
        let text = text.pattern((name == "Idempotency-Key").then_some("^[!-~]+$"));
        header.schema = Some(text.into());
        (name.to_owned(), RefOr::T(header))
    });
    components.parameters.extend(described);
}

/// A reference to one of the shared headers.
pub(super) fn header(name: &str) -> RefOr<Parameter> {
    RefOr::Ref(Ref::new(format!("#/components/parameters/{name}")))
}

/// Whether the operation takes one of the shared headers.
pub(super) fn takes(operation: &Operation, name: &str) -> bool {
    operation.parameters.iter().flatten().any(|parameter| *parameter == header(name))
}

/// Completes the parameters of one operation.
pub(super) fn complete(path: &str, operation: &mut Operation) {
    let is_open = operation.security.is_some();
    let parameters = operation.parameters.get_or_insert_default();
    for parameter in parameters.iter_mut() {
        let RefOr::T(described) = parameter else { continue };
        match described.parameter_in {
            ParameterIn::Header => *parameter = header(&described.name),
            ParameterIn::Path => name_id(path, described),
            ParameterIn::Query => name_value(described),
            ParameterIn::Cookie | ParameterIn::QueryString => {}
        }
    }
    if !is_open && is_of_tenant(path) {
        parameters.push(header("X-Tenant-Id"));
    }
    if parameters.is_empty() {
        operation.parameters = None;
    }
}

fn is_of_tenant(path: &str) -> bool {
    let mut segments = path.strip_prefix(BASE).into_iter().flat_map(|path| path.split('/').skip(1));
    segments.next().is_some_and(|first| !WITHOUT_TENANT.contains(&first))
}

/// Says which kind of id a part of the path is: the part before it tells.
fn name_id(path: &str, parameter: &mut Parameter) {
    let placeholder = format!("{{{}}}", parameter.name);
    let before = path.split('/').zip(path.split('/').skip(1)).find(|(_, part)| *part == placeholder);
    let kind = before.and_then(|(before, _)| kind_in(before));
    if let Some((what, prefix)) = kind {
        parameter.description = Some(format!("Id of the {what}."));
        set_pattern(parameter, prefix);
    }
}

/// The object that a path names after this segment, and the prefix of its ids.
fn kind_in(segment: &str) -> Option<(&'static str, &'static str)> {
    Some(match segment {
        "tenants" => ("tenant", "ten_"),
        "keys" => ("key", "key_"),
        "sessions" => ("session", "ses_"),
        "webhooks" => ("webhook", "wh_"),
        "secrets" => ("secret", "sec_"),
        "events" => ("event", "evt_"),
        "deliveries" => ("delivery", "dlv_"),
        "operations" => ("operation", "op_"),
        _ => return None,
    })
}

fn name_value(parameter: &mut Parameter) {
    match parameter.name.as_str() {
        "webhookId" => set_pattern(parameter, "wh_"),
        "eventId" => set_pattern(parameter, "evt_"),
        "since" | "until" => {
            if let Some(text) = text_of(parameter) {
                text.format = Some(SchemaFormat::KnownFormat(KnownFormat::DateTime));
            }
        }
        _ => {}
    }
}

fn set_pattern(parameter: &mut Parameter, prefix: &str) {
    if let Some(text) = text_of(parameter) {
        text.pattern = Some(format!("^{prefix}[0-9a-v]{{26}}$"));
    }
}

/// The schema of a parameter that is a text.
fn text_of(parameter: &mut Parameter) -> Option<&mut Object> {
    match &mut parameter.schema {
        Some(RefOr::T(Schema::Object(text))) if text.schema_type == Type::String.into() => Some(text),
        _ => None,
    }
}
