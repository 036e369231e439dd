//! Completes the OpenAPI document that the handlers describe: what all operations share. Runs when the routers are
//! built and for the command that prints the document; it serves no request.

mod enums;
mod examples;
mod headers;
mod parameters;
mod receiver;
mod responses;
mod shapes;

use axum::http::StatusCode;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{OpenApi as Document, RefOr};
use utoipa::{Modify, OpenApi};

use super::problem::{FieldError, ProblemView};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Posthaste",
        description = "Webhook delivery. Times are RFC 3339 in UTC with milliseconds. Lists are paged by cursors. \
            Every problem is `application/problem+json` (RFC 9457). An admin key acts on the tenant that the header \
            `X-Tenant-Id` names. `POST`s that create take an `Idempotency-Key`; changes take `If-Match`. Every answer \
            carries `X-Request-Id`.",
        contact(name = "the operator of this server"),
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/", description = "This server")),
    components(schemas(ProblemView, FieldError)),
    modifiers(&SecuritySchemes, &Tags),
    security(("bearer" = []), ("apiKey" = []), ("session" = []))
)]
pub(super) struct ApiDocument;

/// Adds what the attributes of the handlers do not say: what is known of values, parameters and headers, examples, and
/// the requests that receivers get.
pub(super) fn describe_all(mut document: Document) -> Document {
    shapes::refine(&mut document);
    let mut components = document.components.take().unwrap_or_default();
    for (path, item) in &mut document.paths.paths {
        let PathItem { get, put, post, delete, patch, .. } = item;
        for operation in [get, put, post, delete, patch].into_iter().flatten() {
            describe(operation);
            parameters::complete(path, operation);
            headers::name(operation);
            examples::add(operation);
            responses::share(operation, &mut components);
        }
        headers::take_tags(item);
    }
    headers::describe(&mut components);
    parameters::describe(&mut components);
    document.webhooks = Some(receiver::describe(&mut components));
    document.components = Some(components);
    document
}

/// Gives every answer a description, as OpenAPI requires: the phrase of its status, if there is no better one.
fn describe(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            let status = status.parse().ok().and_then(|status| StatusCode::from_u16(status).ok());
            response.description = status.and_then(|status| status.canonical_reason()).unwrap_or("Answer").to_owned();
        }
    }
}

/// The groups of operations, in the order in which a reader needs them.
struct Tags;

impl Tags {
    const RECEIVERS: &str = "receivers";

    const ALL: [(&str, &str); 14] = [
        ("events", "Publishes events, and shows what became of them."),
        ("webhooks", "Who gets which events, where, and how: subscriptions, secrets, and actions on them."),
        ("deliveries", "One event for one webhook, with every attempt."),
        ("backlogs", "What waits for a webhook, since when, and why."),
        ("operations", "Work on many deliveries at once: replay, purge, and events that were never owed."),
        ("event types", "The event types that a tenant declares."),
        ("tenants", "Tenants and their keys, for admin keys."),
        ("admin keys", "Keys that act for all tenants."),
        ("session", "Exchanges a key for a cookie that scripts cannot read."),
        ("audit", "Who changed what, from where, and when."),
        ("engine", "The state of the engine, for admin keys."),
        ("health", "Liveness and readiness, without a key."),
        ("metrics", "Figures for Prometheus."),
        (Self::RECEIVERS, "What the receivers of webhooks get."),
    ];
}

impl Modify for Tags {
    fn modify(&self, document: &mut Document) {
        let described = Self::ALL.map(|(name, what)| TagBuilder::new().name(name).description(Some(what)).build());
        document.tags = Some(described.into());
    }
}

struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, document: &mut Document) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let header = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
        components.add_security_scheme("apiKey", SecurityScheme::ApiKey(header));
        let cookie = ApiKey::Cookie(ApiKeyValue::new("posthaste_session"));
        components.add_security_scheme("session", SecurityScheme::ApiKey(cookie));
    }
}
