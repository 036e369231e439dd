//! Compresses long answers for callers that accept gzip (RFC 9110 §12.5.3).
//!
//! A compressed answer that has a secret beside a text of an attacker's choice tells by its length how much of the
//! secret the text repeats (BREACH). Every answer with a secret is an answer to a change. So only answers to reads are
//! compressed, none that sets a cookie, and none with an `ETag`, because a strong tag must not stand for two sequences
//! of bytes. What remains are lists, events and backlogs. Compressing takes time, so that only callers with a key get
//! it: none of the other paths needs a key.

use std::convert::Infallible;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, ETAG, SET_COOKIE};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use tower::{Layer, ServiceExt, service_fn};
use tower_http::CompressionLevel;
use tower_http::compression::{CompressionLayer, Predicate};

use super::BASE;

/// Maximum bytes of an answer that is sent as it is: it fits into the first packet, or nearly.
const SHORT: u64 = 1024;

/// Compresses JSON that is long enough.
#[derive(Debug, Clone, Copy)]
struct CompressLongJson;

impl Predicate for CompressLongJson {
    fn should_compress<B: HttpBody>(&self, response: &axum::http::Response<B>) -> bool {
        let headers = response.headers();
        // A body without a known length is a stream, whose pieces must not wait for each other.
        response.status() == StatusCode::OK
            && response.body().size_hint().exact().is_some_and(|bytes| bytes > SHORT)
            && headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json")
            && ![ETAG, SET_COOKIE].iter().any(|name| headers.contains_key(name))
    }
}

/// Whether the answer to a request may be compressed.
pub(super) fn is_possible(request: &Request) -> bool {
    request.method() == Method::GET && request.uri().path().starts_with(BASE)
}

/// Answers a request with `handle`, and compresses a long answer. Pieces are compressed when the caller takes them, with
/// the least effort: no other request waits for long.
pub(super) async fn answer<F>(request: Request, mut handle: impl FnMut(Request) -> F) -> Response
where
    F: Future<Output = Response>,
{
    let handled = service_fn(|request| {
        let answer = handle(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let layer = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(CompressLongJson);
    let answered = layer.layer(handled).oneshot(request).await;
    answered.unwrap_or_else(|never| match never {}).map(Body::new)
}
