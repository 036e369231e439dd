//! Tracks how far the connection of an attempt has come, so that a stalled TLS handshake is told apart from a receiver
//! that is slow to connect or to answer. The HTTP client says only that it is not done. The sender and token requests
//! ask.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::Connection;
use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use tower::{Layer, Service};

use crate::delivery::called_address;
use crate::delivery::peer_check::remote_of;

/// TLS sessions that one client remembers; rustls's own default.
const SESSIONS: usize = 256;

const ELSEWHERE: u8 = 0;
const CONNECTING: u8 = 1;
const SHAKING_HANDS: u8 = 2;

tokio::task_local! {
    static STAGE: Arc<AtomicU8>;
}

/// Runs an attempt and tracks its stage, for [`was_stalled`].
pub(in crate::delivery) fn watched<T>(attempt: impl Future<Output = T>) -> impl Future<Output = T> {
    STAGE.scope(Arc::new(AtomicU8::new(ELSEWHERE)), attempt)
}

/// Whether this attempt was in a TLS handshake when its deadline passed. Resets the stage.
pub(in crate::delivery) fn was_stalled() -> bool {
    STAGE.try_with(|stage| stage.swap(ELSEWHERE, Ordering::Relaxed) == SHAKING_HANDS).unwrap_or(false)
}

/// A session store that notes when a handshake begins: rustls asks for a key exchange hint at the start of each.
#[derive(Debug)]
pub(super) struct Sessions(ClientSessionMemoryCache);

impl Sessions {
    pub(super) fn new() -> Self {
        Self(ClientSessionMemoryCache::new(SESSIONS))
    }
}

impl ClientSessionStore for Sessions {
    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        let begin = |stage: &Arc<AtomicU8>| {
            stage.compare_exchange(CONNECTING, SHAKING_HANDS, Ordering::Relaxed, Ordering::Relaxed)
        };
        // An error means that the connection outlived its attempt, so that there is no stage to set.
        let _ = STAGE.try_with(begin);
        self.0.kx_hint(name)
    }

    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(name, group);
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.0.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(name)
    }
}

/// A connector layer that notes when connecting begins and ends, and at which address.
#[derive(Debug, Clone, Copy)]
pub(super) struct WatchConnects;

impl<S> Layer<S> for WatchConnects {
    type Service = Watched<S>;

    fn layer(&self, connect: S) -> Watched<S> {
        Watched(connect)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Watched<S>(S);

impl<S, R> Service<R> for Watched<S>
where
    S: Service<R>,
    S::Response: Connection,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let connect = self.0.call(request);
        let Ok(stage) = STAGE.try_with(Arc::clone) else { return Box::pin(connect) };
        stage.store(CONNECTING, Ordering::Relaxed);
        Box::pin(async move {
            let connected = while_waited_for(&stage, connect).await;
            stage.store(ELSEWHERE, Ordering::Relaxed);
            if let Ok(connection) = &connected {
                called_address::note(remote_of(&connection.connected()));
            }
            connected
        })
    }
}

/// The client may hand the request to a connection that has become free, and finish this connection in a task of its
/// own. From then on the attempt no longer waits for this connection.
async fn while_waited_for<F: Future>(stage: &Arc<AtomicU8>, connect: F) -> F::Output {
    let mut connect = pin!(connect);
    std::future::poll_fn(|context| {
        let is_ours = STAGE.try_with(|ours| Arc::ptr_eq(ours, stage)).unwrap_or(false);
        if !is_ours {
            stage.store(ELSEWHERE, Ordering::Relaxed);
        }
        connect.as_mut().poll(context)
    })
    .await
}
