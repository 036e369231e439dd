//! Adds to the answers their headers, and to reads of versioned objects `If-None-Match` with its answer. Which answers
//! have which follows from their status and their schema.

use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::{Components, Content, Ref, RefOr, Response, ResponseBuilder};

use super::parameters;

/// Schemas of answers that show an object with a version.
const TAGGED: [&str; 7] =
    ["Tenant", "EventType", "Webhook", "WebhookWithSecret", "HeldAnswer", "NewKey", "NewAdminKey"];

/// Describes the headers of answers.
pub(super) fn describe(components: &mut Components) {
    let named = [
        ("ETag", "Version of the object, for `If-Match` and `If-None-Match`."),
        ("Link", "The next page, as `rel=\"next\"`, relative to this one; absent on the last page."),
        ("Location", "Path of the new object."),
        ("Retry-After", "Seconds after which to try again; absent if that would not help."),
        (
            "RateLimit",
            "What is left of each rate limit that counts the caller, as `\"key\";r=19;t=1`: requests that may come at \
            once, and seconds until the limit is unused. Absent where no limit is set.",
        ),
        (
            "RateLimit-Policy",
            "The rate limits that count the caller, as `\"key\";q=20;w=20`: requests, and the seconds in which \
            as many are allowed again. Absent where no limit is set.",
        ),
        ("WWW-Authenticate", "`Bearer`"),
        (
            "Idempotency-Replayed",
            "`true` if this is the first answer to the `Idempotency-Key` again; otherwise absent.",
        ),
        ("X-Request-Id", "Id of the request: the caller's own if it sent a sane one."),
    ];
    components.headers.extend(named.map(|(name, what)| (name.to_owned(), RefOr::T(text(what)))));
}

fn text(what: &str) -> Header {
    HeaderBuilder::new().schema(Some(Object::with_type(Type::String))).description(Some(what)).build()
}

/// Says which headers the answers of an operation have.
pub(super) fn name(operation: &mut Operation) {
    let is_repeatable = parameters::takes(operation, "Idempotency-Key");
    let is_counted = operation.security.is_none();
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        let shown = schema_of(response);
        let is_page = shown.contains("Page_") || shown.ends_with("Page");
        let of_answer = [
            ("ETag", TAGGED.contains(&shown.as_str())),
            ("Link", is_page),
            ("Location", status == "201" || status == "202" && shown == "Operation"),
            ("Retry-After", status == "429" || status == "503"),
            ("RateLimit", is_counted && (status.starts_with('2') || status == "429")),
            ("RateLimit-Policy", is_counted && (status.starts_with('2') || status == "429")),
            ("WWW-Authenticate", status == "401"),
            ("Idempotency-Replayed", is_repeatable && status.starts_with('2')),
            ("X-Request-Id", true),
        ];
        let headers =
            of_answer.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| (name.to_owned(), by_name(name)));
        response.headers.extend(headers);
    }
}

fn by_name(header: &str) -> RefOr<Header> {
    RefOr::Ref(Ref::new(format!("#/components/headers/{header}")))
}

/// Name of the schema of an answer; empty if it has none.
fn schema_of(response: &Response) -> String {
    let schema = response.content.values().find_map(|content| match content {
        RefOr::T(Content { schema: Some(RefOr::Ref(schema)), .. }) => Some(&schema.ref_location),
        RefOr::T(_) | RefOr::Ref(_) => None,
    });
    schema.and_then(|location| location.rsplit('/').next()).unwrap_or_default().to_owned()
}

/// A read whose answer has a tag takes the tags that its caller has.
pub(super) fn take_tags(item: &mut PathItem) {
    let Some(read) = &mut item.get else { return };
    let answers = &mut read.responses.responses;
    let Some(RefOr::T(shown)) = answers.get("200") else { return };
    if !shown.headers.contains_key("ETag") {
        return;
    }
    let mut known = ResponseBuilder::new().description("Not Modified").build();
    known.headers.extend(["ETag", "X-Request-Id"].map(|name| (name.to_owned(), by_name(name))));
    answers.insert("304".to_owned(), RefOr::T(known));
    read.parameters.get_or_insert_default().push(parameters::header("If-None-Match"));
}
