//! The outermost layer: gives every request its id and its log line, counts it, catches panics, writes problems out,
//! and limits what browsers may do with an answer. It leaves out the body of an answer that its caller has. Handlers
//! know none of this.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio_util::task::AbortOnDropHandle;

use super::client_addr::{RequestId, X_REQUEST_ID};
use super::etag::IfNoneMatch;
use super::host;
use super::problem::{Hint, Problem};
use super::request_figures::RequestFigures;
use super::request_log::{Answered, Begun, RequestLog};

/// Lets a browser only read an answer. Answers are never cached, since they belong to their caller, and never rendered,
/// since texts in them come from others. An answer that has one of these headers keeps its own.
const PRUDENT: [(HeaderName, &str); 4] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CACHE_CONTROL, "no-store"),
    (REFERRER_POLICY, "no-referrer"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];

/// Maximum length of a caller's request id; a longer one would fill the log and is replaced.
const MAX_REQUEST_ID: usize = 128;

/// In the extensions of an answer: the key or the session of its request is valid. The listener reads it.
#[derive(Debug, Clone, Copy)]
pub struct KnownCaller;

/// Where the layer reports every answer.
#[derive(Debug)]
pub(super) struct Reports {
    log: RequestLog,
    figures: Arc<RequestFigures>,
}

impl Reports {
    pub(super) fn new(figures: Arc<RequestFigures>) -> Self {
        Self { log: RequestLog::new(), figures }
    }
}

pub(super) async fn finish(State(reports): State<Arc<Reports>>, mut request: Request, next: Next) -> Response {
    let id = RequestId(request_id(request.headers()));
    request.extensions_mut().insert(id.clone());
    request.headers_mut().insert(X_REQUEST_ID, id.0.clone());
    let (begun, known) = (Begun::of(&mut request), IfNoneMatch::of(&request));
    let mut response = match host::require(&request) {
        Ok(()) => handled(request, next).await,
        Err(problem) => problem.into_response(),
    };
    let problem = response.extensions_mut().remove::<Problem>();
    if let Some(problem) = &problem {
        write(&mut response, problem, &id);
    }
    if let Some(known) = known {
        known.answer(&mut response);
    }
    let (code, reason) = (problem.as_ref().map(Problem::code), problem.as_ref().and_then(Problem::reason));
    let status = response.status();
    reports.log.write(&begun, &Answered { status, code, reason, request: &id });
    reports.figures.count(begun.method(), begun.route(), status, begun.elapsed());
    if begun.is_known() {
        response.extensions_mut().insert(KnownCaller);
    }
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id.0);
    for (name, value) in PRUDENT {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Runs the request in a task of its own: a change that has begun is finished even if its caller hangs up. A request
/// that only reads stops with its caller.
async fn handled(request: Request, next: Next) -> Response {
    let is_safe = request.method().is_safe();
    let answer = match tokio::spawn(next.run(request)) {
        reading if is_safe => AbortOnDropHandle::new(reading).await,
        changing => changing.await,
    };
    answer.unwrap_or_else(|_| Problem::internal(&"a handler panicked").into_response())
}

/// Fills in the body and the headers of an answer that is a problem. Existing headers, such as `Allow`, stay.
fn write(response: &mut Response, problem: &Problem, id: &RequestId) {
    let body = serde_json::to_vec(&problem.view(id.as_str())).unwrap_or_default();
    *response.body_mut() = Body::from(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    match problem.hint() {
        Hint::None => {}
        Hint::RetrySoon => _ = headers.insert(RETRY_AFTER, HeaderValue::from_static("1")),
        Hint::RetryIn(seconds) => _ = headers.insert(RETRY_AFTER, HeaderValue::from(seconds)),
        Hint::Authenticate => _ = headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
    }
}

/// The caller's id if it is sane, otherwise a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let is_sane =
        |value: &&HeaderValue| (1..=MAX_REQUEST_ID).contains(&value.len()) && value.as_bytes().iter().all(is_plain);
    headers.get(X_REQUEST_ID).filter(is_sane).cloned().unwrap_or_else(new_request_id)
}

fn new_request_id() -> HeaderValue {
    let mut text = [0; 32];
    let random: [u8; 16] = rand::random();
    data_encoding::HEXLOWER.encode_mut(&random, &mut text);
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("unknown"))
}

pub(super) async fn no_such_route() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_such_route", "there is nothing at this path; see /openapi.json")
}

pub(super) async fn no_such_method() -> Problem {
    let detail = "this path does not take this method; the header Allow lists those it takes";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::Method;
    use tower::ServiceExt;

    use super::*;

    fn id_for(given: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_str(given).unwrap());
        request_id(&headers).to_str().unwrap().to_owned()
    }

    /// Sends a request of this method to a handler that never ends, and hangs up. Returns whether the handler was
    /// stopped.
    async fn is_stopped(method: Method) -> bool {
        let (began, mut begun) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>(1);
        let handler = async move || {
            let (alive, ended) = tokio::sync::oneshot::channel();
            let _ = began.send(alive).await;
            let _ = ended.await;
            StatusCode::OK
        };
        let router = axum::Router::new().route("/", axum::routing::any(handler));
        let router = router.layer(axum::middleware::from_fn_with_state(Arc::new(Reports::new(Arc::default())), finish));
        let request = Request::builder().method(method).uri("/").header("host", "x").body(Body::empty()).unwrap();
        let answer = tokio::spawn(router.oneshot(request));
        let mut alive = begun.recv().await.unwrap();
        answer.abort();
        assert!(answer.await.unwrap_err().is_cancelled());
        tokio::time::timeout(Duration::from_millis(500), alive.closed()).await.is_ok()
    }

    #[tokio::test]
    async fn what_only_reads_stops_with_its_caller_and_a_change_does_not() {
        assert!(is_stopped(Method::GET).await && is_stopped(Method::HEAD).await);
        assert!(!is_stopped(Method::POST).await && !is_stopped(Method::PATCH).await);
    }

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced() {
        assert_eq!(id_for("a-B_3.x"), "a-B_3.x");
        assert_eq!(id_for(&"a".repeat(128)), "a".repeat(128));
        for odd in ["", "a b", "<script>", &"a".repeat(129)] {
            assert_eq!(id_for(odd).len(), 32, "{odd:?}");
        }
    }
}
