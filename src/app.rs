//! The composition root: builds store, engine and API from the configuration, and orders their start and stop. Called
//! by the commands that run a server.

use std::io;
use std::time::Duration;

use axum::http::Extensions;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::api::{self, ApiConfig, ConnectionFigures, KnownCaller, RequestRate, Routers};
use crate::config::{Config, Rate, TlsSettings};
use crate::engine::{Engine, EngineConfig, StartError};
use crate::listener::{self, ListenError, Listener, ServerHandle, Shares, TlsFiles};
use crate::store::{OpenError, Store, StoreError};

/// Connections to the metrics listener at once: some scrapers, and people who look.
const METRICS_CONNECTIONS: usize = 32;

/// Time for API requests under way when the attempts have used up the grace.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("signals: {0}")]
    Signals(io::Error),
}

/// A running server.
pub struct App {
    pub engine: Engine,
    /// Where the API listens.
    pub url: String,
    /// Made on the first start if none is configured; to be shown once.
    pub new_admin_key: Option<String>,
    store: Store,
    server: ServerHandle,
    metrics_server: Option<ServerHandle>,
    stop_delay: Duration,
    stop_grace: Duration,
}

impl App {
    pub async fn start(config: Config) -> Result<Self, AppError> {
        let Shares { connections, requests } = affordable(&config);
        let options = config.database();
        let database = options.place();
        let store = Store::open(options).await?;
        let tls = config.api.tls.map(|TlsSettings { certificate, key }| TlsFiles { certificate, key });
        let listener = Listener::bind(config.listen, connections, tls).await?;
        let metrics = match config.api.metrics_listen {
            Some(address) => Some(Listener::bind(address, METRICS_CONNECTIONS, None).await?),
            None => None,
        };
        let url = listener.url();
        let engine_config = EngineConfig {
            allow_http: config.allow_http,
            egress_allow: config.egress_allow,
            dns_servers: config.dns_servers,
            listeners: [Some(&listener), metrics.as_ref()].into_iter().flatten().map(Listener::address).collect(),
            arbiters: config.endpoint_threads,
            max_in_flight: requests,
            keeps_connections: requests == config.max_in_flight,
            payload_memory: config.payload_memory_bytes,
            retention: config.retention,
            address: Some(config.advertise_url.unwrap_or_else(|| url.clone())),
        };
        let engine = Engine::start(store.clone(), engine_config).await?;
        // Last: a failed start must not use up the one moment at which the key is shown.
        let new_admin_key = match &config.admin_key {
            Some(_) => None,
            None => admin_key_on_first_start(&store).await?,
        };
        let rate = |Rate { per_second, burst }| RequestRate { per_second, burst };
        let api_config = ApiConfig {
            admin_key: config.admin_key,
            body_limit: config.body_limit_bytes,
            key_rate: config.api.key_rate.map(rate),
            tenant_rate: config.api.tenant_rate.map(rate),
            cors_origins: config.api.cors_origins,
        };
        let figures = listener.figures();
        let connections = move || ConnectionFigures { open: figures.open(), refused: figures.refused() };
        let Routers { api, metrics: metrics_routes } = api::routers(engine.clone(), api_config, connections);
        let is_known = |answer: &Extensions| answer.get::<KnownCaller>().is_some();
        let server = listener.serve(api, is_known).map_err(ListenError::Tls)?;
        let metrics_server = match metrics {
            Some(listener) => {
                tracing::info!(url = listener.url(), "metrics listener started; it asks for no key");
                Some(listener.serve(metrics_routes, |_| false).map_err(ListenError::Tls)?)
            }
            None => None,
        };
        let (stop_delay, stop_grace) = (config.stop_delay, config.stop_grace);
        log_start(&engine, &database, &url).await;
        Ok(Self { engine, url, new_admin_key, store, server, metrics_server, stop_delay, stop_grace })
    }

    /// Resolves when another node has reaped this one; the process must stop then.
    pub async fn reaped(&self) {
        self.engine.reaped().await;
    }

    /// Reports that the process is not ready and waits for the stop delay, so that a load balancer notices in time. A
    /// reaped node does not wait.
    pub async fn start_stopping(&self) {
        self.engine.start_stopping();
        tokio::select! {
            () = tokio::time::sleep(self.stop_delay) => {}
            () = self.reaped() => {}
        }
    }

    /// Starts no attempt and lets those under way end within the grace, while the API still answers. Then takes no new
    /// requests, flushes, and closes the database.
    pub async fn stop(self) {
        self.engine.start_stopping();
        let by = Instant::now() + self.stop_grace;
        let drained = self.engine.drain(by).await;
        let by = by.max(Instant::now() + LAST_ANSWERS);
        let metrics_stopped = async {
            if let Some(server) = self.metrics_server {
                server.stop(by).await;
            }
        };
        let (answered, ()) = tokio::join!(self.server.stop(by), metrics_stopped);
        if !answered {
            tracing::warn!("stop grace ended; requests to the API were cut off");
        }
        self.engine.close(drained).await;
        self.store.close().await;
    }
}

/// `nodes`: how many nodes are alive by this node's first survey, itself included.
async fn log_start(engine: &Engine, database: &str, url: &str) {
    let nodes = engine.cluster().map(|(survey, _)| survey.nodes.iter().filter(|node| node.is_alive).count());
    // A node acquires its shards after its start, so it cannot know what they owe yet.
    let pending = if engine.node().is_none() { Some(engine.figures().await.pending) } else { None };
    tracing::info!(
        target: "posthaste::start", version = env!("CARGO_PKG_VERSION"), database, url, node = engine.node(), nodes,
        engine = engine.name().as_str(), pending, "started"
    );
}

/// Connections and requests as the settings ask for them, reduced if this process may not open so many files.
fn affordable(config: &Config) -> Shares {
    let wanted = Shares { connections: config.api.max_connections, requests: config.max_in_flight };
    let limit = listener::raise_limit();
    let shares = Shares::of(limit, wanted);
    if shares != wanted {
        let Shares { connections, requests } = shares;
        tracing::warn!(
            max_connections = connections,
            max_in_flight = requests,
            "no more than {limit} files may be open (`ulimit -n`); connections and requests are reduced"
        );
    }
    shares
}

async fn admin_key_on_first_start(store: &Store) -> Result<Option<String>, StoreError> {
    let (key, row) = api::auth::new_first_admin_key();
    Ok(store.create_first_admin_key(row).await?.map(|_| key))
}

/// The signals that ask the process to stop; caught from [`Self::catch`] on.
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
