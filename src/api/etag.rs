//! Versions of configuration objects: `ETag: "v3"` on answers, `If-Match` on changes (RFC 9110 §13.1.1).

use axum::extract::FromRequestParts;
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::problem::Problem;
use crate::engine::EngineError;
use crate::store::StoreError;

/// How often a change is tried when another change comes first each time.
const TRIES: usize = 5;

/// Runs `change`, which reads an object and writes it back, and repeats it while other changes come between.
pub(super) async fn changed<T, F>(change: impl Fn() -> F) -> Result<T, Problem>
where
    F: Future<Output = Result<Changed<T>, Problem>>,
{
    for _ in 0..TRIES {
        if let Changed::Now(changed) = change().await? {
            return Ok(changed);
        }
    }
    Err(StoreError::Stale.into())
}

/// The result of one try.
pub(super) enum Changed<T> {
    Now(T),
    /// The object was changed after it was read.
    Stale,
}

impl<T> Changed<T> {
    pub(super) fn of(result: Result<T, impl Into<EngineError>>) -> Result<Self, Problem> {
        match result.map_err(Into::into) {
            Ok(changed) => Ok(Self::Now(changed)),
            Err(EngineError::Store(StoreError::Stale)) => Ok(Self::Stale),
            Err(error) => Err(error.into()),
        }
    }
}

/// Makes the answer that shows an object with its version.
pub(super) fn tagged(status: StatusCode, version: i64, view: &impl Serialize) -> Response {
    (status, [(ETAG, format!("\"v{version}\""))], axum::Json(view)).into_response()
}

/// The versions that the caller is willing to change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// Any version: no header, or `*`.
    Any,
    /// Only these versions. Tags that are not ours match nothing.
    Only(Vec<i64>),
}

impl IfMatch {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut versions = Vec::new();
        let mut is_given = false;
        for value in headers.get_all(IF_MATCH) {
            is_given = true;
            let text = value.to_str().map_err(|_| malformed())?.trim();
            if text == "*" {
                return Ok(Self::Any);
            }
            for tag in text.split(',') {
                versions.extend(version(tag.trim())?);
            }
        }
        Ok(if is_given { Self::Only(versions) } else { Self::Any })
    }

    /// Refuses a change of an object that has another version.
    pub(super) fn check(&self, version: i64) -> Result<(), Problem> {
        match self {
            Self::Any => Ok(()),
            Self::Only(versions) if versions.contains(&version) => Ok(()),
            Self::Only(_) => {
                let detail = format!("If-Match names another version; the object is at \"v{version}\" now");
                Err(Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail))
            }
        }
    }
}

/// The version in a tag; `None` for a tag that we never gave. Weak tags never match here.
fn version(tag: &str) -> Result<Option<i64>, Problem> {
    let opaque = tag.strip_prefix("W/").unwrap_or(tag);
    let inner = opaque.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(malformed)?;
    if inner.contains('"') || tag != opaque {
        return if inner.contains('"') { Err(malformed()) } else { Ok(None) };
    }
    let digits = inner.strip_prefix('v').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    Ok(digits.and_then(|digits| digits.parse().ok()))
}

fn malformed() -> Problem {
    Problem::bad_request("invalid_if_match", "If-Match takes `*` or a list of entity tags such as \"v3\"")
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::read(&parts.headers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&str]) -> Result<IfMatch, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IF_MATCH, value.parse().unwrap());
        }
        IfMatch::read(&headers)
    }

    #[test]
    fn lists_and_the_asterisk_are_read() {
        assert_eq!(read(&[]).unwrap(), IfMatch::Any);
        assert_eq!(read(&["*"]).unwrap(), IfMatch::Any);
        assert_eq!(read(&["\"v3\""]).unwrap(), IfMatch::Only(vec![3]));
        assert_eq!(read(&["\"v3\", \"v4\"", "\"v5\""]).unwrap(), IfMatch::Only(vec![3, 4, 5]));
    }

    #[test]
    fn foreign_and_weak_tags_match_nothing() {
        assert_eq!(read(&["W/\"v3\", \"abc\", \"v-1\", \"v\", \"v+2\""]).unwrap(), IfMatch::Only(Vec::new()));
        assert!(read(&["\"abc\""]).unwrap().check(1).is_err());
    }

    #[tokio::test]
    async fn a_change_is_made_again_when_another_came_first_but_not_for_ever() {
        let came_first = async |times: usize| {
            let tries = std::cell::Cell::new(0);
            let changed = changed(|| async {
                tries.set(tries.get() + 1);
                Changed::of(if tries.get() > times { Ok(tries.get()) } else { Err(StoreError::Stale) })
            });
            changed.await.map_err(|problem| problem.into_parts().1)
        };
        assert_eq!(came_first(0).await, Ok(1));
        assert_eq!(came_first(TRIES - 1).await, Ok(TRIES));
        assert_eq!(came_first(TRIES).await, Err("changed_meanwhile"));
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        for odd in ["v3", "", "\"v3", "\"v3\" \"v4\"", "\"v3\",", "3"] {
            assert!(read(&[odd]).is_err(), "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(value in "[ -~]{0,30}") {
            let _ = read(&[&value]);
        }
    }
}
