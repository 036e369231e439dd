//! Handles requests that are deliveries of engines, this one included. The gate refuses deliveries that come back;
//! published events carry the trail of engines that they have come through.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;

use super::App;
use super::problem::Problem;
use crate::engine::{CDN_LOOP, Trail};

/// The engines that a request has come through.
#[derive(Debug, Clone)]
pub(super) struct Hops(pub(super) Option<Trail>);

/// Notes in the request's extensions which engines the request has come through.
///
/// # Errors
///
/// When this engine is one of them, or there are too many.
pub(super) fn refuse_loops(app: &App, request: &mut Request) -> Result<(), Problem> {
    if request.headers().contains_key(CDN_LOOP) {
        let trail = app.engine().name().trail(request.headers().get_all(CDN_LOOP).iter())?;
        request.extensions_mut().insert(Hops(trail));
    }
    Ok(())
}

impl<S: Sync> FromRequestParts<S> for Hops {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or(Self(None)))
    }
}
