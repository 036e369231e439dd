//! Reads path parameters: ids and names.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::problem::Problem;
use crate::domain::id::{DeliveryId, EventId, IdError, KeyId, OperationId, SecretId, SessionId, TenantId, WebhookId};

/// A type that a path segment can be read into.
pub(super) trait Segment: Sized + Send {
    fn read(text: String) -> Result<Self, Problem>;
}

macro_rules! id_segments {
    ($($id:ty),*) => {$(
        impl Segment for $id {
            fn read(text: String) -> Result<Self, Problem> {
                text.parse().map_err(unknown_id)
            }
        }
    )*};
}

id_segments!(TenantId, KeyId, SessionId, WebhookId, SecretId, EventId, DeliveryId, OperationId);

impl Segment for String {
    /// Refuses NUL: no stored text has one, and PostgreSQL takes none.
    fn read(text: String) -> Result<Self, Problem> {
        if text.contains('\0') { Err(Problem::no_such("object")) } else { Ok(text) }
    }
}

/// An id of another kind is a mistake that the answer names; a malformed id simply does not exist.
fn unknown_id(error: IdError) -> Problem {
    match error {
        IdError::WrongKind { .. } => Problem::bad_request("invalid_id", error.to_string()),
        IdError::Malformed { .. } => Problem::no_such("object"),
    }
}

fn unreadable() -> Problem {
    Problem::bad_request("invalid_path", "the path is not percent-encoded UTF-8")
}

/// The only parameter of a path.
pub(super) struct One<A>(pub(super) A);

impl<A: Segment, S: Send + Sync> FromRequestParts<S> for One<A> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| unreadable())?;
        A::read(text).map(Self)
    }
}

/// Both parameters of a path.
pub(super) struct Two<A, B>(pub(super) A, pub(super) B);

impl<A: Segment, B: Segment, S: Send + Sync> FromRequestParts<S> for Two<A, B> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((a, b)) = path.map_err(|_| unreadable())?;
        Ok(Self(A::read(a)?, B::read(b)?))
    }
}
