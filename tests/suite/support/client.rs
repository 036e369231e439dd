//! A client of the management API, as a user would write it: paths, keys, JSON. It checks the conventions that hold for
//! every answer (problem documents, request ids, cursor lists) and knows no resource.

use std::fmt;
use std::sync::Once;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::support::{contract, fact};

/// Longer than the longest answer that the contract allows: a test event to a receiver that uses its whole time limit.
const TIMEOUT: Duration = Duration::from_secs(45);

/// A node that has just started or joined takes shards over, on a machine on which many tests run at once.
const OWNED: Duration = Duration::from_secs(60);

/// A list with more pages than this goes round in circles.
const MOST_PAGES: usize = 2_000;

#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
    tenant: Option<String>,
}

impl Client {
    /// A client without a key.
    pub(crate) fn open(base: &str) -> Self {
        static CRYPTO: Once = Once::new();
        CRYPTO.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        // Without root certificates: there are more than a hundred, which each client would read again.
        let builder = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).tls_certs_only([]);
        let http = builder.build().expect("a plain client");
        Self { http, base: base.to_owned(), key: None, tenant: None }
    }

    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self.clone() }
    }

    /// The same client with the tenant header, through which an admin key acts on one tenant.
    pub(crate) fn for_tenant(&self, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..self.clone() }
    }

    /// A call below `/api/v1`, with this client's key.
    pub(crate) fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.root(method, &format!("/api/v1{path}"))
    }

    /// A call of any path, with this client's key.
    pub(crate) fn root(&self, method: Method, path: &str) -> RequestBuilder {
        let mut call = self.http.request(method, format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            call = call.bearer_auth(key);
        }
        if let Some(tenant) = &self.tenant {
            call = call.header("X-Tenant-Id", tenant);
        }
        call
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.call(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.json(Method::POST, path, body)).await
    }

    /// A POST without a body.
    pub(crate) async fn act(&self, path: &str) -> Answer {
        send(self.call(Method::POST, path)).await
    }

    /// The same, again and again until it succeeds: a webhook may be changing its owner.
    pub(crate) async fn act_once_owned(&self, path: &str) {
        fact::until_within(OWNED, &format!("{path} succeeds"), async || {
            (try_send(self.call(Method::POST, path)).await.ok()?.status == 200).then_some(())
        })
        .await;
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        send(self.json(Method::PATCH, path, body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(self.call(Method::DELETE, path)).await
    }

    /// Sends `text` as JSON, byte for byte.
    pub(crate) async fn post_text(&self, path: &str, text: impl Into<reqwest::Body>) -> Answer {
        send(self.text(Method::POST, path, text)).await
    }

    pub(crate) fn json(&self, method: Method, path: &str, body: &Value) -> RequestBuilder {
        self.text(method, path, body.to_string())
    }

    pub(crate) fn text(&self, method: Method, path: &str, text: impl Into<reqwest::Body>) -> RequestBuilder {
        self.call(method, path).header(CONTENT_TYPE, "application/json").body(text)
    }

    /// Every item of a list, page by page.
    pub(crate) async fn walk(&self, path: &str) -> Vec<Value> {
        self.pages(path, 100).await.into_iter().flatten().collect()
    }

    /// The pages of a list, read with `limit` until there is no further cursor.
    pub(crate) async fn pages(&self, path: &str, limit: usize) -> Vec<Vec<Value>> {
        let join = if path.contains('?') { '&' } else { '?' };
        let mut pages = Vec::new();
        let mut next = String::new();
        loop {
            let page = self.get(&format!("{path}{join}limit={limit}{next}")).await.expect(200);
            pages.push(page["data"].as_array().unwrap_or_else(|| panic!("{path} is no list: {page}")).clone());
            match page["nextCursor"].as_str() {
                Some(cursor) => next = format!("&cursor={cursor}"),
                None => return pages,
            }
            assert!(pages.len() < MOST_PAGES, "{path} never ends");
        }
    }
}

/// Sends a call; panics if there is no answer or the server failed.
pub(crate) async fn send(call: RequestBuilder) -> Answer {
    let answer = try_send(call).await.expect("an answer");
    assert!(answer.status < 500, "the server failed: {answer:?}");
    answer
}

/// Sends a call to a server that may be dying: no answer and 503 are allowed, 500 is not.
pub(crate) async fn try_send(call: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let (http, request) = call.build_split();
    let request = request.expect("a well-formed call");
    let what = format!("{} {}", request.method(), request.url().path());
    let (method, url) = (request.method().clone(), request.url().clone());
    let answer = http.execute(request).await?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await?;
    let answer = Answer { what, status, headers, text };
    let is_thought_of = answer.status != 500 || answer.text.contains("\"unreadable_row\"");
    assert!(is_thought_of, "an unexpected server error: {answer:?}");
    if let Some(broken) = contract::broken(&method, &url, status, &answer.headers, &answer.text) {
        panic!("the answer contradicts the OpenAPI document: {broken}: {answer:?}");
    }
    Ok(answer)
}

pub(crate) struct Answer {
    what: String,
    pub(crate) status: u16,
    headers: HeaderMap,
    pub(crate) text: String,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered {} {:?} {}", self.what, self.status, self.headers, self.text)
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON; `null` when there is none.
    pub(crate) fn json(&self) -> Value {
        if self.text.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// Any 2xx, for actions whose exact code the contract leaves open.
    pub(crate) fn succeeded(&self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.json()
    }

    /// The problem document (RFC 9457) that every refusal must be.
    pub(crate) fn problem(&self, status: u16) -> Problem {
        assert_eq!(self.status, status, "{self:?}");
        self.refusal()
    }

    /// A refusal with any 4xx status, or 508 for a loop.
    pub(crate) fn refusal(&self) -> Problem {
        assert!((400..500).contains(&self.status) || self.status == 508, "not refused: {self:?}");
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/problem+json"), "not a problem document: {self:?}");
        let body = self.json();
        for field in ["type", "title", "code", "detail", "requestId"] {
            assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "no `{field}`: {self:?}");
        }
        let problem = Problem { body };
        let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(problem.code().chars().all(snake), "`code` is not snake_case: {self:?}");
        assert_eq!(problem.body["status"], self.status, "{self:?}");
        assert_eq!(problem.body["requestId"].as_str(), self.header("x-request-id"), "{self:?}");
        problem
    }
}

#[derive(Debug)]
pub(crate) struct Problem {
    body: Value,
}

impl Problem {
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub(crate) fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }

    /// The JSON pointers of a validation error, each with its own code and message.
    pub(crate) fn pointers(&self) -> Vec<String> {
        let errors = self.body["errors"].as_array().unwrap_or_else(|| panic!("no `errors`: {self:?}"));
        let pointer = |error: &Value| {
            for field in ["pointer", "code", "message"] {
                assert!(error[field].is_string(), "an error without `{field}`: {self:?}");
            }
            error["pointer"].as_str().unwrap_or_default().to_owned()
        };
        errors.iter().map(pointer).collect()
    }
}
