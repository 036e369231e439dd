//! Which problems an operation may answer, for the OpenAPI document: one set for each kind of operation.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

fn problems(statuses: &[u16]) -> BTreeMap<String, RefOr<Response>> {
    let problem = |status: &u16| {
        let reason = StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason());
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().description(reason.unwrap_or("Problem"));
        (status.to_string(), RefOr::T(response.content("application/problem+json", content).build()))
    };
    statuses.iter().map(problem).collect()
}

macro_rules! problem_sets {
    ($($(#[$doc:meta])* $name:ident: $($status:literal)*;)*) => {$(
        $(#[$doc])*
        pub(super) enum $name {}

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                problems(&[$($status),*])
            }
        }
    )*};
}

problem_sets! {
    /// Problems of operations that read.
    ReadProblems: 400 401 403 404 429 500 503;
    /// Problems of operations that create.
    CreateProblems: 400 401 403 404 408 409 413 415 422 429 500 503;
    /// Problems of operations that publish.
    PublishProblems: 400 401 403 404 408 409 413 415 422 429 500 503 508;
    /// Problems of operations that change an object with a version.
    ChangeProblems: 400 401 403 404 408 409 412 413 415 422 429 500 503;
    /// Problems of operations that delete an object with a version.
    DeleteProblems: 400 401 403 404 409 412 429 500 503;
    /// Problems of operations that remove an object without a version, or erase a payload.
    RemoveProblems: 400 401 403 404 409 429 500 503;
    /// Problems of actions on what has no version.
    ActionProblems: 400 401 403 404 408 409 413 415 422 429 500 503;
    /// The problem of `/livez`.
    NotUnderstood: 400;
    /// The problems of `/readyz`.
    NotReady: 400 503;
}
