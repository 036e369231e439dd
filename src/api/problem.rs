//! Problems as the caller sees them: RFC 9457 `application/problem+json`. Only this module turns the errors of the
//! layers below into a status. [`super::response_layer`] writes a problem out and adds the request's id.

mod kinds;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::{EngineError, Loop, cannot_be_served};
use crate::journal::PublishError;
use crate::store::StoreError;
use crate::store::unreadable::UnreadableRow;
use crate::store::webhooks::MAX_TLS_OPTIONS;

pub(super) use self::kinds::ProblemKind;

/// The answer of a handler that cannot do what it was asked for.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    hint: Hint,
    /// For the request's log line, and never for its caller.
    reason: Option<Arc<str>>,
}

/// A header that goes with a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    None,
    /// `Retry-After: 1`
    RetrySoon,
    /// `Retry-After` with this many seconds.
    RetryIn(u64),
    /// `WWW-Authenticate: Bearer`
    Authenticate,
}

/// One field that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// JSON pointer (RFC 6901) into the body that was sent.
    #[schema(example = "/retryPolicy/maxRetries")]
    pub(super) pointer: String,
    #[schema(value_type = String, example = "out_of_range")]
    pub(super) code: &'static str,
    /// What was given and what is accepted.
    pub(super) message: String,
}

/// RFC 9457 problem details.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub(super) struct ProblemView<'a> {
    /// `/problems/`, followed by the code: the page that explains the problem.
    #[schema(format = "uri-reference", example = "/problems/validation_failed")]
    #[serde(rename = "type")]
    kind: String,
    title: String,
    #[schema(example = 422)]
    status: u16,
    /// Stable identifier, for programs.
    #[schema(example = "validation_failed")]
    code: &'a str,
    detail: &'a str,
    /// The same as in the header `X-Request-Id`.
    request_id: &'a str,
    /// The fields of the body that are at fault; absent if none is.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), hint: Hint::None, reason: None }
    }

    pub(super) fn bad_request(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(super) fn conflict(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// Fields of the body cannot be accepted.
    pub(super) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [only] if only.pointer.is_empty() => only.message.clone(),
            [only] => format!("{}: {}", only.pointer, only.message),
            several => format!("{} fields cannot be accepted", several.len()),
        };
        let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", detail);
        Self { errors, ..problem }
    }

    /// The object does not exist, or belongs to another tenant.
    pub(super) fn no_such(what: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    pub(super) fn unauthenticated(code: &'static str, detail: &'static str) -> Self {
        Self { hint: Hint::Authenticate, ..Self::new(StatusCode::UNAUTHORIZED, code, detail) }
    }

    /// A fault of our own. The log has the details; the caller gets none.
    pub(super) fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "request failed with an internal error");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed on our side; the log knows why")
    }

    /// Damage to our own state, which no retry repairs. The log and `posthaste check` have the details; the caller gets
    /// none.
    pub(super) fn unreadable_row(error: &dyn std::fmt::Display) -> Self {
        tracing::warn!(%error, "request failed: a stored row that it needs cannot be read");
        let detail =
            "a stored row that this request needs cannot be read, and no retry helps; `posthaste check` names it";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable_row", detail)
    }

    /// The same, for a webhook: says where the damage is, and which call ends it.
    pub(super) fn unreadable_webhook(row: &UnreadableRow) -> Self {
        Self { detail: cannot_be_served(row).into(), ..Self::unreadable_row(row) }
    }

    fn unavailable(code: &'static str, detail: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// The node that serves the webhook cannot act now.
    pub(super) fn owner_unreachable(why: &dyn std::fmt::Display) -> Self {
        tracing::warn!(%why, "node that serves the webhook cannot be asked; the request is refused");
        let detail = "the node that serves this webhook cannot be reached, or another one is taking over";
        Self { hint: Hint::RetrySoon, ..Self::unavailable("owner_unreachable", detail) }
    }

    /// Nothing is accepted until the database is back.
    pub(super) fn cut_off() -> Self {
        let problem =
            Self::unavailable("storage_unavailable", "the database could not be reached lately, or refuses to write");
        Self { hint: Hint::RetrySoon, ..problem }
    }

    /// A failed read has nothing to keep. After a failed change the result is unknown if the database fell silent over
    /// its commit.
    fn storage_unavailable(reason: &str) -> Self {
        let detail = "the database refused the request or did not answer; repeat it later: a change is certain only once it is \
                      answered with success";
        let problem = Self::unavailable("storage_unavailable", detail);
        Self { hint: Hint::RetrySoon, reason: Some(reason.into()), ..problem }
    }

    /// Too many requests; the caller may try again after this wait.
    pub(super) fn rate_limited(detail: &'static str, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail);
        Self { hint: Hint::RetryIn(seconds.max(1)), ..problem }
    }

    pub(super) fn key_reused() -> Self {
        let detail = "this Idempotency-Key was used for another request in the last 24 hours";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail)
    }

    pub(super) fn overloaded(detail: &'static str) -> Self {
        Self { hint: Hint::RetrySoon, ..Self::unavailable("overloaded", detail) }
    }

    pub(super) fn stopping() -> Self {
        Self::unavailable("stopping", "the engine is stopping; nothing was kept")
    }

    /// The `type` of the problems with this code: where they are explained.
    pub(super) fn type_of(code: &str) -> String {
        format!("/problems/{code}")
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    pub(super) fn hint(&self) -> Hint {
        self.hint
    }

    /// Status, code, detail and fields, for a problem that is part of an answer.
    pub(super) fn into_parts(self) -> (StatusCode, &'static str, Cow<'static, str>, Vec<FieldError>) {
        let Self { status, code, detail, errors, hint: _, reason: _ } = self;
        (status, code, detail, errors)
    }

    pub(super) fn view<'a>(&'a self, request_id: &'a str) -> ProblemView<'a> {
        let Self { status, code, detail, errors, hint: _, reason: _ } = self;
        ProblemView {
            kind: Self::type_of(code),
            title: title(code),
            status: status.as_u16(),
            code,
            detail,
            request_id,
            errors,
        }
    }
}

/// The code in words: `webhook_inactive` becomes `Webhook inactive`.
pub(super) fn title(code: &str) -> String {
    let words = code.replace('_', " ");
    let first = words.chars().next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(words.chars().skip(1)).collect()
}

impl IntoResponse for Problem {
    /// [`super::response_layer::finish`] writes the body, because it knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists => Self::conflict("already_exists", "an object with this name exists"),
            StoreError::Stale => Self::conflict("changed_meanwhile", "the object was changed meanwhile; read it again"),
            StoreError::TooManyTlsOptions => {
                let message = format!(
                    "the webhooks of this tenant have {MAX_TLS_OPTIONS} different `tls` already, and no more are accepted; \
                     webhooks with the same certificates count once"
                );
                Self::invalid(vec![FieldError { pointer: "/tls".to_owned(), code: "too_many", message }])
            }
            StoreError::Unreadable { row: Some(row), .. } if row.table.starts_with("webhook") => {
                Self::unreadable_webhook(&row)
            }
            StoreError::Unreadable { .. } => Self::unreadable_row(&error),
            error @ (StoreError::Deadlock | StoreError::InUse(_)) => Self::storage_unavailable(&error.to_string()),
            StoreError::Database(text) => Self::storage_unavailable(&text),
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Full => Self::overloaded("the journal is full; nothing was kept"),
            PublishError::Stopped | PublishError::Reaped => Self::stopping(),
            error @ PublishError::Diverged => Self::storage_unavailable(&error.to_string()),
            PublishError::KeyReused => Self::key_reused(),
            PublishError::Unreadable(text) => Self::unreadable_row(&text),
            PublishError::Store(text) => Self::storage_unavailable(&text),
        }
    }
}

impl From<Loop> for Problem {
    fn from(refused: Loop) -> Self {
        Self::new(StatusCode::LOOP_DETECTED, "loop_detected", refused.to_string())
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Store(error) => error.into(),
            EngineError::Publish(error) => error.into(),
            EngineError::Inactive => Self::conflict("webhook_inactive", "the webhook is switched off"),
            EngineError::Paused => Self::conflict("webhook_paused", "the webhook is paused; resume it first"),
            EngineError::Quarantined(why) => {
                Self::conflict("webhook_quarantined", format!("the webhook is quarantined: {why}"))
            }
            EngineError::InFlight => {
                Self::conflict("delivery_in_flight", "a request for this delivery is being made right now")
            }
            EngineError::Settled => Self::conflict("delivery_settled", "the delivery is not pending any more"),
            EngineError::TooManyAttempts => {
                Self::conflict("too_many_attempts", "the delivery has used up its attempt numbers")
            }
            EngineError::PayloadErased => {
                Self::conflict("payload_erased", "the payload of the event was erased, and cannot be sent again")
            }
            EngineError::WebhookDeleted => {
                let detail = "the webhook is deleted, and nothing is sent for it any more";
                Self::new(StatusCode::NOT_FOUND, "not_found", detail)
            }
            EngineError::NotFound => Self::no_such("delivery"),
            EngineError::Moved => Self::owner_unreachable(&"its shard is changing owner"),
            EngineError::Stopping => Self::stopping(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_type_its_code_and_its_fields() {
        let error = FieldError { pointer: "/name".to_owned(), code: "required", message: "missing".to_owned() };
        let problem = Problem::invalid(vec![error]);
        let view = serde_json::to_value(problem.view("r-1")).unwrap();
        assert_eq!(view["type"], "/problems/validation_failed");
        assert_eq!(view["title"], "Validation failed");
        assert_eq!(view["status"], 422);
        assert_eq!(view["detail"], "/name: missing");
        assert_eq!(view["requestId"], "r-1");
        assert_eq!(view["errors"][0]["pointer"], "/name");
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_never_too_short() {
        let hint = |millis| Problem::rate_limited("too many", Duration::from_millis(millis)).hint();
        assert_eq!([0, 1, 1000, 1001].map(hint), [1, 1, 1, 2].map(Hint::RetryIn));
    }

    #[test]
    fn a_full_journal_asks_for_patience_and_an_unreadable_row_asks_for_none_and_tells_nothing() {
        let full = Problem::from(PublishError::Full);
        assert_eq!((full.status.as_u16(), full.hint()), (503, Hint::RetrySoon));
        let error = StoreError::unreadable("secret", "hunter2");
        let problem = Problem::from(error);
        assert_eq!((problem.status.as_u16(), problem.code, problem.hint()), (500, "unreadable_row", Hint::None));
        assert!(!serde_json::to_string(&problem.view("r")).unwrap().contains("hunter2"));
    }

    #[test]
    fn why_the_database_refused_is_for_the_log_and_not_for_the_caller() {
        let problem = Problem::from(StoreError::Database("disk full at /var/lib/x.db".to_owned()));
        assert_eq!((problem.status.as_u16(), problem.reason()), (503, Some("disk full at /var/lib/x.db")));
        let view = serde_json::to_value(problem.view("r")).unwrap();
        assert_eq!(view["code"], "storage_unavailable");
        assert!(!view["detail"].as_str().unwrap().contains("disk"), "{view}");
    }
}
