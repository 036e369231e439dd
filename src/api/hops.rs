//! Requests that are deliveries of engines, this one included: what comes back is refused before anything else, and what
//! is published says through which engines it has come.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::App;
use super::problem::Problem;
use crate::engine::{CDN_LOOP, Trail};

/// The engines that a request has come through.
#[derive(Debug, Clone)]
pub(super) struct Hops(pub(super) Option<Trail>);

pub(super) async fn refuse_loops(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if request.headers().contains_key(CDN_LOOP) {
        match app.engine().name().trail(request.headers().get_all(CDN_LOOP).iter()) {
            Ok(trail) => _ = request.extensions_mut().insert(Hops(trail)),
            Err(refused) => return Problem::from(refused).into_response(),
        }
    }
    next.run(request).await
}

impl<S: Sync> FromRequestParts<S> for Hops {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or(Self(None)))
    }
}
