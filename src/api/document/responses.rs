//! Describes the answer of each problem status once. All operations refer to these answers.

use axum::http::StatusCode;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Components, Content, Ref, RefOr};

use super::examples;

/// Moves the problems of one operation to the shared answers.
pub(super) fn share(operation: &mut Operation, components: &mut Components) {
    for (status, response) in &mut operation.responses.responses {
        let Some(status) = status.parse().ok().and_then(|status| StatusCode::from_u16(status).ok()) else { continue };
        let Some(name) = name_of(status) else { continue };
        let reference = Ref::from_response_name(&name).into();
        let RefOr::T(mut described) = std::mem::replace(response, reference) else { continue };
        for content in described.content.values_mut() {
            if let RefOr::T(Content { example, .. }) = content {
                *example = Some(examples::problem(status));
            }
        }
        components.responses.entry(name).or_insert(RefOr::T(described));
    }
}

/// The phrase of an error status as one word, such as `NotFound`.
fn name_of(status: StatusCode) -> Option<String> {
    let is_error = status.is_client_error() || status.is_server_error();
    let phrase = status.canonical_reason().filter(|_| is_error)?;
    Some(phrase.split(' ').collect())
}
