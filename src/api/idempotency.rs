//! `Idempotency-Key`: a repeated request that creates gets the first answer again. The store writes key and answer in
//! the transaction that creates. This module makes the fingerprint, looks for a first answer before, and looks again
//! after a lost race.

use std::borrow::Cow;
use std::future::Future;

use axum::extract::FromRequestParts;
use axum::http::header::{CONTENT_TYPE, ETAG, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};

use super::etag::at_version;
use super::problem::Problem;
use super::{App, BASE};
use crate::domain::id::TenantNum;
use crate::store::StoreError;
use crate::store::idempotency::{Fingerprint, Once, OnceKey, Seen};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Marks an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

const KEY_LENGTH: std::ops::RangeInclusive<usize> = 1..=255;

/// The key of a request, if it has one, and what the request asks for.
pub(super) struct IdempotencyKey(Option<Asked>);

struct Asked {
    key: String,
    method: String,
    path: String,
}

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        if values.next().is_some() || !is_key(value.as_bytes()) {
            let detail = "Idempotency-Key is given once, with 1 to 255 visible ASCII characters";
            return Err(Problem::bad_request("invalid_idempotency_key", detail));
        }
        let key = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let (method, path) = (parts.method.to_string(), parts.uri.path().to_owned());
        Ok(Self(Some(Asked { key, method, path })))
    }
}

fn is_key(value: &[u8]) -> bool {
    KEY_LENGTH.contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

impl IdempotencyKey {
    /// The key as it is stored. `tenant` is `None` where an admin acts on no tenant.
    pub(super) fn with(self, tenant: Option<TenantNum>, body: &[u8]) -> Option<OnceKey> {
        let Asked { key, method, path } = self.0?;
        let fingerprint = fingerprint([method.as_bytes(), path.as_bytes(), body], tenant);
        Some(OnceKey { tenant, key, fingerprint })
    }
}

fn fingerprint(parts: [&[u8]; 3], tenant: Option<TenantNum>) -> Fingerprint {
    let mut hash = Sha256::new_with_prefix(tenant.map_or(0, |tenant| tenant.0).to_be_bytes());
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Status and bytes of the first answer to this request, if there was one.
pub(super) async fn first_answer(app: &App, key: Option<&OnceKey>) -> Result<Option<(u16, Vec<u8>)>, Problem> {
    let Some(key) = key else { return Ok(None) };
    match app.store().seen(key).await? {
        Seen::New => Ok(None),
        Seen::Before { status, answer } => Ok(Some((status, answer))),
        Seen::Otherwise => Err(Problem::key_reused()),
    }
}

/// Creates a configuration object once, with `create`, in the list at `path`. `view` is what the answer shows of the
/// object; `exists` is the problem if the object exists already.
pub(super) async fn create<F, T>(
    app: &App,
    key: Option<OnceKey>,
    path: &str,
    view: &impl Serialize,
    exists: Problem,
    create: impl FnOnce(Option<Once>) -> F,
) -> Result<Response, Problem>
where
    F: Future<Output = Result<T, StoreError>>,
{
    answer_once(app, key, StatusCode::CREATED, path, view, exists, create).await
}

/// Like [`create`], with another status.
pub(super) async fn answer_once<F, T>(
    app: &App,
    key: Option<OnceKey>,
    status: StatusCode,
    path: &str,
    view: &impl Serialize,
    exists: Problem,
    create: impl FnOnce(Option<Once>) -> F,
) -> Result<Response, Problem>
where
    F: Future<Output = Result<T, StoreError>>,
{
    if let Some((status, answer)) = first_answer(app, key.as_ref()).await? {
        return replayed(status, path, answer);
    }
    let answer = serde_json::to_vec(view).map_err(|error| Problem::internal(&error))?;
    let once = key.clone().map(|key| Once { key, status: status.as_u16(), answer: answer.clone() });
    match create(once).await {
        Ok(_) => created(status, path, answer),
        Err(StoreError::Exists) => match first_answer(app, key.as_ref()).await? {
            Some((status, answer)) => replayed(status, path, answer),
            None => Err(exists),
        },
        Err(error) => Err(error.into()),
    }
}

/// What names a new object in its list: an id, or the name of an event type.
#[derive(Deserialize)]
struct Named<'a> {
    id: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
}

/// The answer that shows a new object of the list at `path`, at its first version if it has versions.
fn created(status: StatusCode, path: &str, answer: Vec<u8>) -> Result<Response, Problem> {
    let named: Named = serde_json::from_slice(&answer).map_err(|error| Problem::internal(&error))?;
    let location = format!("{BASE}{path}/{}", named.id.or(named.name).unwrap_or_default());
    let headers = [(CONTENT_TYPE, "application/json"), (LOCATION, &location)];
    let mut response = (status, headers, answer).into_response();
    if status == StatusCode::CREATED {
        response.headers_mut().insert(ETAG, HeaderValue::from_static("\"v1\""));
    }
    Ok(response)
}

fn replayed(status: u16, path: &str, answer: Vec<u8>) -> Result<Response, Problem> {
    let mut response = created(StatusCode::from_u16(status).unwrap_or(StatusCode::CREATED), path, answer)?;
    mark_replayed(&mut response);
    Ok(response)
}

/// A request that makes something and cannot be repeated safely. A key is refused: its sender would rely on it.
pub(super) struct NoIdempotencyKey;

impl<S: Sync> FromRequestParts<S> for NoIdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        if !parts.headers.contains_key(IDEMPOTENCY_KEY) {
            return Ok(Self);
        }
        let detail = "this request takes no Idempotency-Key: its repetition would not get the first answer";
        Err(Problem::bad_request("idempotency_key_not_taken", detail))
    }
}

/// The answer to an action on an object: what it shows, and the version of the object.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredAnswer {
    pub(super) version: i64,
    pub(super) shown: Box<RawValue>,
}

impl StoredAnswer {
    pub(super) fn new(version: i64, shown: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self { version, shown: to_raw_value(shown)? })
    }

    /// What is stored for repetitions of the request with this key.
    pub(super) fn once(&self, key: OnceKey) -> Result<Once, serde_json::Error> {
        Ok(Once { key, status: StatusCode::OK.as_u16(), answer: serde_json::to_vec(self)? })
    }

    /// The first answer to this request, if there was one.
    pub(super) async fn first(app: &App, key: Option<&OnceKey>) -> Result<Option<Response>, Problem> {
        let Some((_, answer)) = first_answer(app, key).await? else { return Ok(None) };
        let Self { version, shown } = serde_json::from_slice(&answer).map_err(|error| Problem::internal(&error))?;
        let mut response = at_version(version, &shown);
        mark_replayed(&mut response);
        Ok(Some(response))
    }
}

/// Marks an answer that was made again from what was stored.
pub(super) fn mark_replayed(response: &mut Response) {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_changes_with_every_part() {
        let of = |method: &str, path: &str, body: &str, tenant| {
            fingerprint([method.as_bytes(), path.as_bytes(), body.as_bytes()], tenant)
        };
        let first = of("POST", "/webhooks", "{}", Some(TenantNum(1)));
        assert_eq!(first, of("POST", "/webhooks", "{}", Some(TenantNum(1))));
        for other in [
            of("PUT", "/webhooks", "{}", Some(TenantNum(1))),
            of("POST", "/webhooks{", "}", Some(TenantNum(1))),
            of("POST", "/webhooks", "{} ", Some(TenantNum(1))),
            of("POST", "/webhooks", "{}", Some(TenantNum(2))),
            of("POST", "/webhooks", "{}", None),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn a_new_object_is_found_at_its_location() {
        let location = |path, answer: &str| {
            created(StatusCode::CREATED, path, answer.into()).unwrap().headers()[LOCATION].to_str().unwrap().to_owned()
        };
        assert_eq!(location("/webhooks", r#"{"id":"wh_1","name":"a b"}"#), "/api/v1/webhooks/wh_1");
        assert_eq!(location("/event-types", r#"{"name":"a.b"}"#), "/api/v1/event-types/a.b");
    }

    #[test]
    fn keys_are_visible_ascii_of_bounded_length() {
        assert!(is_key(b"a") && is_key(&[b'~'; 255]));
        for odd in [&b""[..], b"a b", b"\xc3\xa4", &[b'a'; 256]] {
            assert!(!is_key(odd));
        }
    }
}
