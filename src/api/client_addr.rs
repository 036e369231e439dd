//! Finds out where a request comes from: the address of its caller and the request's id, for the audit, and whether
//! another node sends it. A node proves itself, and vouches for the address, with what only processes with the master
//! key can make; no other header is believed.
//!
//! Nodes of builds before that proof have none: a request that they forward counts as their caller's own, and may be
//! forwarded once more ([`MOST_HOPS`]).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method};
use data_encoding::HEXLOWER;

use crate::domain::moment::UnixMillis;
use crate::store::Store;

/// Says that a request was forwarded, so that it is not forwarded again, and how many rows of a list the sender wants.
pub(super) const FORWARDED: HeaderName = HeaderName::from_static("x-posthaste-forwarded");

/// `<milliseconds> <hex>`: the proof that a node sends this request, and when.
const NODE: HeaderName = HeaderName::from_static("x-posthaste-node");

/// How often a request was forwarded, as its sender says, proven or not.
const HOPS: HeaderName = HeaderName::from_static("x-posthaste-hops");

/// `<address> <hex>`, from node to node: the caller's address and its proof.
const PEER: HeaderName = HeaderName::from_static("x-posthaste-peer");

/// Maximum number of forwards: nodes that do not accept each other's proof must not send a request round in circles.
const MOST_HOPS: u32 = 2;

/// How long a proof is valid, before and after its time: the clocks of nodes follow the database's.
const VALID: Duration = Duration::from_secs(30);

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, in its extensions.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) HeaderValue);

impl RequestId {
    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// The address of a forwarded request's caller, in its extensions.
#[derive(Debug, Clone, Copy)]
struct Vouched(IpAddr);

/// In the extensions: another node has proved that it sends this request.
#[derive(Debug, Clone, Copy)]
struct FromNode;

#[derive(Debug, Clone)]
pub(super) struct ClientAddr {
    pub(super) peer: Option<IpAddr>,
    pub(super) request: Option<HeaderValue>,
}

impl ClientAddr {
    pub(super) fn of(extensions: &Extensions) -> Self {
        let vouched = extensions.get::<Vouched>().map(|Vouched(peer)| *peer);
        let request = extensions.get::<RequestId>().map(|RequestId(id)| id.clone());
        Self { peer: vouched.or_else(|| connected(extensions)), request }
    }
}

fn connected(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip().to_canonical())
}

/// The text that vouches for an address. It is bound to the request, so that the proof is of no use for another one.
fn statement(peer: &str, method: &Method, path: &str, request: &HeaderValue) -> Vec<u8> {
    [peer.as_bytes(), method.as_str().as_bytes(), path.as_bytes(), request.as_bytes()].join(&b' ')
}

/// Adds the caller's address and its proof to the headers of a request that is about to be forwarded.
pub(super) fn vouch(store: &Store, extensions: &Extensions, method: &Method, path: &str, headers: &mut HeaderMap) {
    headers.remove(PEER);
    let Some(RequestId(id)) = extensions.get::<RequestId>() else { return };
    headers.insert(X_REQUEST_ID, id.clone());
    let Some(peer) = connected(extensions).map(|peer| peer.to_string()) else { return };
    let proof = HEXLOWER.encode(&store.vouch(&statement(&peer, method, path, id)));
    if let Ok(value) = HeaderValue::from_str(&format!("{peer} {proof}")) {
        headers.insert(PEER, value);
    }
}

/// The text that a node proves: that it sends exactly this request, at this time.
fn node_statement(at: UnixMillis, method: &Method, path: &str, headers: &HeaderMap) -> Option<Vec<u8>> {
    let (wanted, request) = (headers.get(FORWARDED)?, headers.get(X_REQUEST_ID)?);
    let at = at.0.to_string();
    let parts = [&b"node"[..], at.as_bytes(), wanted.as_bytes(), method.as_str().as_bytes(), path.as_bytes()];
    Some([&parts[..], &[request.as_bytes()]].concat().join(&b' '))
}

/// Makes the headers those of a request that this node sends to another; `wanted` is the number of rows of a list.
/// `None` when the request was sent from node to node too often.
pub(super) fn sign(store: &Store, method: &Method, path: &str, headers: &mut HeaderMap, wanted: usize) -> Option<()> {
    let hops = hops(headers);
    if hops >= MOST_HOPS {
        return None;
    }
    headers.insert(HOPS, HeaderValue::from(hops + 1));
    headers.insert(FORWARDED, HeaderValue::from(wanted));
    let at = UnixMillis::now_reference();
    let proof = HEXLOWER.encode(&store.vouch(&node_statement(at, method, path, headers)?));
    headers.insert(NODE, HeaderValue::from_str(&format!("{} {proof}", at.0)).ok()?);
    Some(())
}

fn hops(headers: &HeaderMap) -> u32 {
    let said = headers.get(HOPS).map(|hops| hops.to_str().ok().and_then(|hops| hops.parse().ok()));
    said.map_or(0, |hops| hops.unwrap_or(MOST_HOPS))
}

fn is_proven(store: &Store, request: &Request, now: UnixMillis) -> Option<()> {
    let (at, proof) = request.headers().get(NODE)?.to_str().ok()?.split_once(' ')?;
    let at = UnixMillis(at.parse().ok()?);
    let proof = HEXLOWER.decode(proof.as_bytes()).ok()?;
    let path = request.uri().path_and_query()?.as_str();
    let statement = node_statement(at, request.method(), path, request.headers())?;
    let is_now = at.since(now) <= VALID && now.since(at) <= VALID;
    (is_now && store.is_vouched(&statement, &proof)).then_some(())
}

/// Notes whether a node sends a request. Without its proof, a request loses [`FORWARDED`].
pub(super) fn judge(store: &Store, request: &mut Request) {
    if request.headers().contains_key(PEER) {
        believe(store, request);
    }
    if !request.headers().contains_key(FORWARDED) {
        return;
    }
    if is_proven(store, request, UnixMillis::now_reference()).is_some() {
        request.extensions_mut().insert(FromNode);
    } else {
        tracing::debug!("request claims to be forwarded without a valid proof; it is treated as a client's");
        request.headers_mut().remove(FORWARDED);
    }
}

/// Whether another node sends a request.
pub(super) fn is_from_node(extensions: &Extensions) -> bool {
    extensions.get::<FromNode>().is_some()
}

/// Notes the caller's address of a forwarded request, if another node has proved it.
fn believe(store: &Store, request: &mut Request) {
    let peer = || {
        let (peer, proof) = request.headers().get(PEER)?.to_str().ok()?.split_once(' ')?;
        let RequestId(id) = request.extensions().get()?;
        let path = request.uri().path_and_query()?.as_str();
        let proof = HEXLOWER.decode(proof.as_bytes()).ok()?;
        let is_proven = store.is_vouched(&statement(peer, request.method(), path, id), &proof);
        peer.parse().ok().filter(|_| is_proven)
    };
    if let Some(peer) = peer() {
        request.extensions_mut().insert(Vouched(peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    async fn store(directory: &tempfile::TempDir) -> Store {
        Store::open(Options::of(format!("sqlite://{}", directory.path().join("a.db").display()))).await.unwrap()
    }

    fn request(headers: &HeaderMap, path: &str) -> Request {
        let mut request = Request::builder().uri(path).body(axum::body::Body::empty()).unwrap();
        *request.headers_mut() = headers.clone();
        request.extensions_mut().insert(RequestId(headers[X_REQUEST_ID].clone()));
        request
    }

    fn own() -> HeaderMap {
        [(X_REQUEST_ID, HeaderValue::from_static("a-request"))].into_iter().collect()
    }

    #[tokio::test]
    async fn only_a_node_can_say_that_it_forwards() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [ours, foreign] = [store(&directories[0]).await, store(&directories[1]).await];
        let signed = |store| {
            let mut headers = own();
            sign(store, &Method::GET, "/api/v1/backlogs?limit=5", &mut headers, 6).unwrap();
            headers
        };
        let judged = |headers: &HeaderMap, path: &str| {
            let mut request = request(headers, path);
            judge(&ours, &mut request);
            let is_kept = request.headers().contains_key(FORWARDED);
            assert_eq!(is_kept, is_from_node(request.extensions()));
            is_kept
        };
        let good = signed(&ours);
        assert!(judged(&good, "/api/v1/backlogs?limit=5"));
        assert!(!judged(&good, "/api/v1/backlogs?limit=500"), "it is for this path alone");
        assert!(!judged(&signed(&foreign), "/api/v1/backlogs?limit=5"), "another master key");
        for (name, value) in [(FORWARDED, "1000000"), (X_REQUEST_ID, "another"), (NODE, "1 00"), (NODE, "nonsense")] {
            let mut changed = good.clone();
            changed.insert(name.clone(), HeaderValue::from_static(value));
            assert!(!judged(&changed, "/api/v1/backlogs?limit=5"), "{name}: {value}");
        }
        let mut plain = own();
        plain.insert(FORWARDED, HeaderValue::from_static("1000000"));
        assert!(!judged(&plain, "/api/v1/backlogs?limit=5"));
    }

    #[tokio::test]
    async fn a_proof_ages_and_a_request_is_not_sent_round_in_circles() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory).await;
        let mut headers = own();
        sign(&store, &Method::GET, "/x", &mut headers, 0).unwrap();
        let sent = request(&headers, "/x");
        let now = UnixMillis::now_reference();
        let ago = |seconds: i64| is_proven(&store, &sent, UnixMillis(now.0 + seconds * 1000)).is_some();
        assert!(ago(0) && ago(25) && ago(-25));
        assert!(!ago(35) && !ago(-35));
        assert!(sign(&store, &Method::GET, "/x", &mut headers, 0).is_some());
        assert!(sign(&store, &Method::GET, "/x", &mut headers, 0).is_none());
        headers.insert(HOPS, HeaderValue::from_static("-1"));
        assert!(sign(&store, &Method::GET, "/x", &mut headers, 0).is_none());
    }
}
