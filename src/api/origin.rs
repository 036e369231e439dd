//! From where a request comes, for the audit: the address of its caller and the request's id. A node that forwards a
//! request vouches for the address with what only processes with the master key can make; whatever else says so is not
//! believed.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method};
use data_encoding::HEXLOWER;

use crate::store::Store;

/// `<address> <hex>`, from node to node.
const PEER: HeaderName = HeaderName::from_static("x-posthaste-peer");

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, in its extensions.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) HeaderValue);

/// The caller of a forwarded request, in its extensions.
#[derive(Debug, Clone, Copy)]
struct Vouched(IpAddr);

#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) peer: Option<IpAddr>,
    pub(super) request: Option<HeaderValue>,
}

impl Origin {
    pub(super) fn of(extensions: &Extensions) -> Self {
        let vouched = extensions.get::<Vouched>().map(|Vouched(peer)| *peer);
        let request = extensions.get::<RequestId>().map(|RequestId(id)| id.clone());
        Self { peer: vouched.or_else(|| connected(extensions)), request }
    }
}

fn connected(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip().to_canonical())
}

/// What a vouched address is bound to: it is of no use for another request.
fn statement(peer: &str, method: &Method, path: &str, request: &HeaderValue) -> Vec<u8> {
    [peer.as_bytes(), method.as_str().as_bytes(), path.as_bytes(), request.as_bytes()].join(&b' ')
}

/// Adds to the headers of a request that is about to be forwarded who sent it.
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

/// Notes who sent a request that another node has forwarded, if it can prove that it is one.
pub(super) fn believe(store: &Store, request: &mut Request) {
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
