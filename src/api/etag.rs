//! Versions of configuration objects: `ETag` on answers, `If-Match` on changes (RFC 9110 §13.1.1), `If-None-Match` on
//! reads (§13.1.2). The tag of an object that is read is `"v3-…"`: its version, and a digest of the answer, because an
//! answer also shows what changes without a new version, such as the last success of a webhook. `If-Match` looks at the
//! version alone.

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::engine::EngineError;
use crate::store::StoreError;

/// How often a change is tried when another change comes first each time.
const TRIES: usize = 5;

/// Bytes of an answer's digest in its tag: two answers of one version that differ have the same tag once in 2⁶⁴.
const DIGEST: usize = 8;

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

/// Makes the answer that shows an object as it is read.
pub(super) fn tagged(version: i64, view: &impl Serialize) -> Result<Response, Problem> {
    let answer = serde_json::to_vec(view).map_err(|error| Problem::internal(&error))?;
    let tag = format!("\"v{version}-{}\"", HEXLOWER.encode(&Sha256::digest(&answer)[..DIGEST]));
    Ok(([(CONTENT_TYPE, "application/json"), (ETAG, tag.as_str())], answer).into_response())
}

/// Makes the answer of an action, which shows an object together with other things, or an object's secret.
pub(super) fn at_version(version: i64, view: &impl Serialize) -> Response {
    ([(ETAG, format!("\"v{version}\""))], axum::Json(view)).into_response()
}

/// The tags of the answers that the caller of a read has already.
pub(super) struct IfNoneMatch(Vec<HeaderValue>);

impl IfNoneMatch {
    /// `None` for a request that changes something, or has no tags.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let tags: Vec<_> = request.headers().get_all(IF_NONE_MATCH).iter().cloned().collect();
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        (reads && !tags.is_empty()).then_some(Self(tags))
    }

    /// Leaves out the body of an answer that the caller has already.
    pub(super) fn answer(&self, response: &mut Response) {
        let is_known = response.headers().get(ETAG).is_some_and(|tag| self.contains(tag.as_bytes()));
        if response.status() == StatusCode::OK && is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Body::empty();
            response.headers_mut().remove(CONTENT_TYPE);
            response.headers_mut().remove(CONTENT_LENGTH);
        }
    }

    /// Compares weakly (RFC 9110 §8.8.3.2), as reads do: a cache may have marked a tag as weak. No tag of ours has a comma.
    fn contains(&self, tag: &[u8]) -> bool {
        let mut given = self.0.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        given.any(|given| {
            let given = given.trim_ascii();
            given == b"*" || given.strip_prefix(b"W/").unwrap_or(given) == tag
        })
    }
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

    /// The version that the object must keep until an action begins; `None` if any will do.
    pub(super) fn only(&self, version: Option<i64>) -> Result<Option<i64>, Problem> {
        match (self, version) {
            (Self::Any, _) => Ok(None),
            (Self::Only(_), Some(version)) => self.check(version).map(|()| Some(version)),
            (Self::Only(_), None) => {
                let detail = "If-Match names a version; the version of the object cannot be read";
                Err(Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail))
            }
        }
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
    let digits = inner.strip_prefix('v').map(|rest| rest.split_once('-').map_or(rest, |(digits, _)| digits));
    let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
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
        assert_eq!(read(&["\"v3-0123456789abcdef\""]).unwrap(), IfMatch::Only(vec![3]));
    }

    /// Status and body of an answer to a request with these headers.
    async fn read_with(method: Method, tags: &[&str], answer: Response) -> (u16, usize) {
        let mut request = Request::builder().method(method).body(Body::empty()).unwrap();
        for tag in tags {
            request.headers_mut().append(IF_NONE_MATCH, tag.parse().unwrap());
        }
        let mut answer = answer;
        if let Some(known) = IfNoneMatch::of(&request) {
            known.answer(&mut answer);
        }
        let status = answer.status().as_u16();
        (status, axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap().len())
    }

    #[tokio::test]
    async fn an_answer_that_the_caller_has_is_not_sent_again() {
        let shown = || tagged(3, &"shown").unwrap();
        let tag = shown().headers()[ETAG].to_str().unwrap().to_owned();
        assert!(tag.starts_with("\"v3-"), "{tag}");
        assert_ne!(tag, tagged(3, &"changed").unwrap().headers()[ETAG].to_str().unwrap());
        for known in [&[tag.as_str()][..], &["\"x\"", &format!("\"y\" , W/{tag}")], &["*"]] {
            assert_eq!(read_with(Method::GET, known, shown()).await, (304, 0), "{known:?}");
            assert_eq!(read_with(Method::HEAD, known, shown()).await, (304, 0), "{known:?}");
        }
        for other in [&[][..], &["\"v3\""], &["v3"], &[""]] {
            assert_eq!(read_with(Method::GET, other, shown()).await, (200, 7), "{other:?}");
        }
        assert_eq!(read_with(Method::PATCH, &["*"], shown()).await, (200, 7));
        let refused = (StatusCode::CONFLICT, [(ETAG, tag.clone())], "no").into_response();
        assert_eq!(read_with(Method::GET, &[&tag], refused).await, (409, 2));
        assert_eq!(read_with(Method::GET, &["*"], "untagged".into_response()).await, (200, 8));
    }

    #[test]
    fn foreign_and_weak_tags_match_nothing() {
        assert_eq!(
            read(&["W/\"v3\", \"abc\", \"v-1\", \"v\", \"v+2\", \"v+2-7\""]).unwrap(),
            IfMatch::Only(Vec::new())
        );
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
        for odd in ["v3", "", "\"v3", "\"v3-\"1\"", "\"v3\" \"v4\"", "\"v3\",", "3"] {
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
