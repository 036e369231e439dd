//! The composition root: Config → Store → Engine → API, and the order of starting and stopping.

use std::io;
use std::net::SocketAddr;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiConfig};
use crate::config::Config;
use crate::engine::{Engine, EngineConfig, StartError};
use crate::store::{OpenError, Store, StoreError};

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("listen: cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("signals: {0}")]
    Signals(io::Error),
}

/// A running posthaste.
pub struct App {
    pub engine: Engine,
    pub address: SocketAddr,
    /// Shown once, when one had to be made.
    pub new_admin_key: Option<String>,
    store: Store,
    server: JoinHandle<io::Result<()>>,
    stopping: CancellationToken,
    stop_grace: std::time::Duration,
}

impl App {
    pub async fn start(config: Config) -> Result<Self, AppError> {
        let store = Store::open(config.database()).await?;
        let engine_config = EngineConfig {
            allow_http: config.allow_http,
            egress_allow: config.egress_allow,
            arbiters: config.endpoint_threads,
            max_in_flight: config.max_in_flight,
            payload_memory: config.payload_memory_bytes,
            address: config.advertise_url,
        };
        let listen = |source| AppError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let reached_at = engine_config.address.unwrap_or_else(|| format!("http://{address}"));
        let engine_config = EngineConfig { address: Some(reached_at), ..engine_config };
        let engine = Engine::start(store.clone(), engine_config).await?;
        // Last, so that a start that fails has not used up the one moment at which the key is shown.
        let new_admin_key = match &config.admin_key {
            Some(_) => None,
            None => admin_key_on_first_start(&store).await?,
        };
        let api_config = ApiConfig { admin_key: config.admin_key, body_limit: config.body_limit_bytes };
        let stopping = CancellationToken::new();
        let server = serve(listener, api::router(engine.clone(), api_config), stopping.clone());
        Ok(Self { engine, address, new_admin_key, store, server, stopping, stop_grace: config.stop_grace })
    }

    /// Resolves when another process has taken over the database, and all that is left to do is to stop.
    pub async fn deposed(&self) {
        self.engine.deposed().await;
    }

    /// Takes no new requests and begins no attempt, lets those under way end within one grace, flushes, closes the
    /// database.
    pub async fn stop(self) {
        let by = Instant::now() + self.stop_grace;
        self.stopping.cancel();
        let (answered, drained) = tokio::join!(tokio::time::timeout_at(by, self.server), self.engine.drain(by));
        if answered.is_err() {
            tracing::warn!("requests to the API were cut off");
        }
        self.engine.close(drained).await;
        self.store.close().await;
    }
}

fn serve(listener: TcpListener, router: axum::Router, stopping: CancellationToken) -> JoinHandle<io::Result<()>> {
    let listener = listener.tap_io(|connection| {
        // Answers are small; waiting to fill a segment would only add delay.
        let _ = connection.set_nodelay(true);
    });
    tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned()).await })
}

async fn admin_key_on_first_start(store: &Store) -> Result<Option<String>, StoreError> {
    if store.first_admin_key().await?.is_some() {
        return Ok(None);
    }
    let (key, row) = api::auth::new_admin_key();
    store.create_key(row, None).await?;
    Ok(Some(key))
}

/// The signals that ask the process to stop, caught from now on.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub fn catch() -> Result<Self, AppError> {
        let catch = |kind| signal(kind).map_err(AppError::Signals);
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    /// Resolves when the process is asked to stop.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
