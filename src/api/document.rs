//! Completes the OpenAPI document that the handlers describe: what all operations share. Runs when the routers are
//! built and for the command that prints the document; it serves no request.

mod headers;
mod shapes;

use axum::http::StatusCode;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
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
            carries `X-Request-Id`."
    ),
    components(schemas(ProblemView, FieldError)),
    modifiers(&SecuritySchemes),
    security(("bearer" = []), ("apiKey" = []), ("session" = []))
)]
pub(super) struct ApiDocument;

/// Gives every answer a description, as OpenAPI requires: the phrase of its status, if there is no better one. Then
/// adds to the schemas everything that is known of their values, and to the answers their headers.
pub(super) fn describe_all(mut document: Document) -> Document {
    for path in document.paths.paths.values_mut() {
        let PathItem { get, put, post, delete, patch, .. } = path;
        [get, put, post, delete, patch].into_iter().flatten().for_each(describe);
    }
    shapes::refine(&mut document);
    headers::add(&mut document);
    document
}

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
