//! Lets pages of other origins call the API from a browser: none by default, and each one by its configured origin.
//! Answers their preflight requests; every other `OPTIONS` is answered by the router.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LINK, LOCATION,
    RETRY_AFTER,
};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember the answer to a preflight request.
const MAX_AGE: Duration = Duration::from_hours(1);

/// `None` without origins: no answer then has a CORS header, and every browser keeps pages of other origins out.
pub(super) fn layer(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<_> = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    if origins.is_empty() {
        return None;
    }
    let named = HeaderName::from_static;
    let sent = [AUTHORIZATION, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH]
        .into_iter()
        .chain(["x-api-key", "x-tenant-id", "x-request-id", "idempotency-key"].map(named));
    let seen = [ETAG, LINK, LOCATION, RETRY_AFTER]
        .into_iter()
        .chain(["x-request-id", "idempotency-replayed", "ratelimit", "ratelimit-policy"].map(named));
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers(sent.collect::<Vec<_>>())
        .expose_headers(seen.collect::<Vec<_>>())
        .max_age(MAX_AGE);
    Some(layer)
}

pub(super) async fn answer(State(cors): State<CorsLayer>, request: Request, next: Next) -> Response {
    let is_options = request.method() == Method::OPTIONS;
    if is_options && !request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        // The layer takes every `OPTIONS` for a preflight request.
        return next.run(request).await;
    }
    let answered: Result<Response, Infallible> = cors.layer(next).oneshot(request).await;
    answered.unwrap_or_else(|never| match never {})
}
