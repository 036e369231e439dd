//! Forwards requests to the node that serves a webhook, with the caller's own key, for what only that node knows or can
//! do. Which node a caller talks to makes no difference. The gate calls it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;

use super::auth::{X_API_KEY, acting_for};
use super::body::collect;
use super::budget::Sender;
use super::client_addr::{self, FORWARDED};
use super::cost::Cost;
use super::problem::Problem;
use super::{App, BASE};
use crate::domain::id::{DeliveryId, TenantNum, WebhookId, WebhookNum};
use crate::engine::{Owner, peer_client};

/// Maximum wait for an answer: a test waits for its receiver, which may take 30 s.
const LONGEST_ANSWER: Duration = Duration::from_secs(40);

/// Maximum wait for a connection: a node that takes longer counts as gone.
const CONNECT: Duration = Duration::from_secs(2);

/// The HTTP client for other nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    client: Option<reqwest::Client>,
}

/// The part of a list that is needed here.
#[derive(Debug, Deserialize)]
struct ListBody {
    data: Vec<serde_json::Value>,
}

impl Peers {
    pub(super) fn new() -> Self {
        let client = peer_client(CONNECT, LONGEST_ANSWER);
        if let Err(error) = &client {
            tracing::warn!(%error, "HTTP client for other nodes cannot be built; requests are not forwarded");
        }
        Self { client: client.ok() }
    }

    async fn ask(&self, address: &str, request: Call) -> Result<Response, Problem> {
        let Call { method, path, mut headers, body } = request;
        // This node reads lists, and compresses for its caller itself.
        for name in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, ACCEPT_ENCODING] {
            headers.remove(name);
        }
        let client = self.client.as_ref().ok_or_else(|| Problem::owner_unreachable(&"this node has no HTTP client"))?;
        let asked = client.request(method, format!("{address}{path}")).headers(headers).body(body).send().await;
        let answer = asked.map_err(|error| Problem::owner_unreachable(&error))?;
        let (status, mut headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.map_err(|error| Problem::owner_unreachable(&error))?;
        for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            headers.remove(name);
        }
        let mut response = (status, Body::from(body)).into_response();
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// Asks every other node for its part of a list. `merge` gets the rows of one node at a time; a node that does not
    /// answer is left out.
    pub(super) async fn lists(
        &self,
        app: &App,
        path: &str,
        headers: &HeaderMap,
        wanted: usize,
        mut merge: impl FnMut(Vec<serde_json::Value>),
    ) {
        for address in app.engine().peers() {
            let mut headers = headers.clone();
            if client_addr::sign(app.store(), &Method::GET, path, &mut headers, wanted).is_none() {
                continue;
            }
            let call = Call { method: Method::GET, path: path.to_owned(), headers, body: Bytes::new() };
            match self.ask(&address, call).await {
                Ok(answer) if answer.status().is_success() => merge(rows_of(answer).await),
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    tracing::warn!(address, status, "node refused a part of a list; what it serves is left out");
                }
                Err(_) => tracing::warn!(address, "node did not answer a part of a list; what it serves is left out"),
            }
        }
    }
}

async fn rows_of(answer: Response) -> Vec<serde_json::Value> {
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap_or_default();
    serde_json::from_slice(&body).map_or_else(|_| Vec::new(), |list: ListBody| list.data)
}

struct Call {
    method: Method,
    /// Includes the query.
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// How many rows of a list another node wants; `None` for a client's request, from which [`client_addr::judge`] has
/// removed the header.
pub(super) fn wanted_by_a_node(headers: &HeaderMap) -> Option<usize> {
    headers.get(FORWARDED)?.to_str().ok()?.parse().ok()
}

/// Answers a request here, or lets the node answer that serves its webhook.
pub(super) async fn answer(app: &App, mut request: Request, next: Next) -> Response {
    client_addr::judge(app.store(), &mut request);
    if app.engine().is_alone() || !has_key(request.headers()) {
        return next.run(request).await;
    }
    let Some(subject) = subject_of(request.method(), request.uri().path()) else { return next.run(request).await };
    // A caller that lacks the scope or names no tenant is refused by the handler here, wherever the webhook is served.
    let (path, headers, extensions) = (request.uri().path(), request.headers(), request.extensions());
    let Ok(Some(tenant)) = acting_for(app, path, headers, extensions).await else {
        return next.run(request).await;
    };
    request.extensions_mut().insert(Sender(tenant));
    let owner = match owner_of(app, tenant, subject).await {
        Ok(owner) => owner,
        Err(problem) => return problem.into_response(),
    };
    match owner {
        Owner::Here => next.run(request).await,
        Owner::Elsewhere(address) if !client_addr::is_from_node(request.extensions()) => {
            sent_on(app, tenant, &address, request).await.unwrap_or_else(IntoResponse::into_response)
        }
        Owner::Elsewhere(_) | Owner::Unreachable => {
            Problem::owner_unreachable(&"its shard is changing owner").into_response()
        }
    }
}

async fn sent_on(app: &App, tenant: TenantNum, address: &Arc<str>, request: Request) -> Result<Response, Problem> {
    Cost::charge_forwarded(&request, app, tenant)?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let (method, mut headers) = (request.method().clone(), request.headers().clone());
    client_addr::vouch(app.store(), request.extensions(), &method, &path, &mut headers);
    client_addr::sign(app.store(), &method, &path, &mut headers, 0).ok_or_else(|| {
        Problem::owner_unreachable(&"the request was forwarded too often; the nodes do not accept each other's proof")
    })?;
    let (body, _share) = collect(request, app).await?;
    app.peers().ask(address, Call { method, path, headers, body }).await
}

fn has_key(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION) || headers.contains_key(X_API_KEY)
}

/// The subject of a request that not every node can answer.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    Webhook(WebhookId),
    Delivery(DeliveryId),
}

fn subject_of(method: &Method, path: &str) -> Option<Subject> {
    let mut parts = path.strip_prefix(BASE)?.strip_prefix('/')?.split('/');
    let (kind, id, action) = (parts.next()?, parts.next()?, parts.next());
    match (kind, method, action) {
        ("webhooks", &Method::GET, Some("backlog" | "logs")) | ("webhooks", &Method::DELETE, None) => {
            id.parse().ok().map(Subject::Webhook)
        }
        ("webhooks", &Method::POST, Some("test" | "pause" | "resume" | "purge" | "probe")) => {
            id.parse().ok().map(Subject::Webhook)
        }
        ("deliveries", &Method::POST, Some("retry" | "cancel")) => id.parse().ok().map(Subject::Delivery),
        _ => None,
    }
}

async fn owner_of(app: &App, tenant: TenantNum, subject: Subject) -> Result<Owner, Problem> {
    let num: Option<WebhookNum> = match subject {
        Subject::Webhook(id) => app.store().webhook_num(tenant, id).await?,
        Subject::Delivery(id) => Some(id.webhook),
    };
    // The handler here refuses a webhook that this tenant does not have.
    Ok(num.map_or(Owner::Here, |num| app.engine().owner_of(num)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_endpoint_must_do_or_say_is_forwarded() {
        let id = WebhookId::generate();
        let path = |rest: &str| format!("{BASE}/webhooks/{id}{rest}");
        let of = |method: Method, path: &str| subject_of(&method, path).is_some();
        for action in ["/pause", "/resume", "/purge", "/probe", "/test"] {
            assert!(of(Method::POST, &path(action)), "{action}");
        }
        assert!(of(Method::GET, &path("/backlog")) && of(Method::GET, &path("/logs")) && of(Method::DELETE, &path("")));
        assert!(!of(Method::GET, &path("")) && !of(Method::PATCH, &path("")));
        assert!(!of(Method::POST, "/api/v1/webhooks/nonsense/pause") && !of(Method::POST, "/api/v1/events"));
    }
}
