//! The only door to what lives below the API: publish, steer, inspect, stop.
//!
//! Below it: the registry actor that knows the live endpoint actors, the endpoint actors with their [`lane`]s, the
//! dispatcher that offers committed fan-outs, the waker for what falls due while an endpoint sleeps, the [`routes`],
//! and the store's journal. Names no HTTP of the management API.

pub mod concurrency;
pub mod lane;
pub mod permits;
pub mod placement;
pub mod rates;
pub mod restart;
pub mod routes;

mod arbiters;
mod backlog;
mod backlog_ops;
mod bodies;
mod cluster;
mod config_sync;
mod configure;
mod context;
mod delivery_ops;
mod dispatch;
mod due_poller;
mod endpoint;
mod endpoint_config;
mod endpoint_stats;
mod inspect;
mod listing;
mod node_lease;
mod operational;
mod registry;
mod start_slots;
mod tenant_quota;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::backlog::{Actor, Backlog, BacklogOrder, EndpointState, Receiver};
pub use self::cluster::Owner;
pub use self::config_sync::Stale;
pub use self::inspect::EngineFigures;
pub use self::listing::DeliveryPage;
pub use self::operational::{DISABLED_EVENT, FAILING_EVENT};
pub use self::permits::{BulkheadView, PartView};
pub use self::rates::Percentiles;
pub use crate::delivery::breaker::{View as BreakerView, ViewState as BreakerState};
pub use crate::delivery::client::peer_client;
pub use crate::delivery::credentials::{Auth, ClientCredentials, Concealed, Credentials, TlsOptions, TokenAuthMethod};
pub use crate::delivery::guard::{Guard, GuardError, is_invisible};
pub use crate::delivery::headers::{HeaderProblem, check_headers, is_secret_header};
pub use crate::delivery::hops::{CDN_LOOP, EngineName, Loop, Trail};
pub use crate::delivery::signature::SigningSecret;

use crate::clock;
use crate::delivery::{Dns, LocalNetwork, guard};
use crate::domain::id::TenantNum;
use crate::domain::moment::UnixMillis;
use crate::fault::{note_panics, or_abort};
use crate::store::idempotency::OnceKey;
use crate::store::journal::remote_shards::RemoteShards;
use crate::store::journal::{Caller, Draft, Journal, PublishError, Published};
use crate::store::log::LogIndex;
use crate::store::notifier::Notifier;
use crate::store::{Store, StoreError, log};

use self::arbiters::Arbiters;
use self::cluster::{Cluster, Member};
use self::context::EngineContext;
use self::node_lease::NodeLease;
use self::registry::RegistryHandle;
use self::routes::RouteTable;

/// The type of the event that `test` sends. Tenants cannot publish it.
pub const TEST_EVENT: &str = "webhook.test";

/// How long the database may take for the last writes of a stop; beyond the grace, because outcomes that are not written
/// are requests that are made again.
const FLUSH_GRACE: Duration = Duration::from_secs(5);

/// An event as its publisher hands it over.
#[derive(Debug)]
pub struct NewEvent {
    pub kind: String,
    pub data: Box<RawValue>,
    pub occurred_at: Option<UnixMillis>,
    pub caller: Option<Caller>,
    /// The engines that it has come through.
    pub trail: Option<Trail>,
}

/// Why the engine could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The webhook is switched off.
    #[error("the webhook is inactive")]
    Inactive,
    /// An operator holds the webhook's deliveries back.
    #[error("the webhook is paused")]
    Paused,
    /// A request for this delivery is being made right now.
    #[error("an attempt is being made right now")]
    InFlight,
    /// The delivery is not pending any more.
    #[error("the delivery is settled")]
    Settled,
    /// No further attempt can be numbered.
    #[error("the delivery has used up its attempt numbers")]
    TooManyAttempts,
    /// There is no such delivery, or its webhook is gone.
    #[error("not found")]
    NotFound,
    /// Its webhook has just gone to another node, and what was asked for may not have been written.
    #[error("the webhook is being moved to another node")]
    Moved,
    #[error("the engine is stopping")]
    Stopping,
}

/// How the engine is set up.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub allow_http: bool,
    pub egress_allow: Vec<ipnet::IpNet>,
    /// Asked for the names of receivers; none: the system's.
    pub dns_servers: Vec<SocketAddr>,
    /// Where this process listens.
    pub listeners: Vec<SocketAddr>,
    /// Threads that endpoint actors are spread over.
    pub arbiters: usize,
    /// Requests in flight over all endpoints.
    pub max_in_flight: usize,
    /// Whether connections to receivers are kept for the next request; not by whoever has few descriptors.
    pub keeps_connections: bool,
    /// Payload bytes in memory beyond which deliveries wait as rows.
    pub payload_memory: usize,
    /// Where other nodes reach this one's API.
    pub address: Option<String>,
}

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Client(#[from] crate::delivery::client::ClientError),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
    #[error("cannot find out about the network of this machine: {0}")]
    Network(io::Error),
}

/// One in so many requests in flight may be looking up a name: twice what failing and slow endpoints can have under way,
/// so that name servers that never answer do not keep everybody from resolving.
const IN_FLIGHT_PER_LOOKUP: usize = 4;

/// The guard and the DNS client, told what is around.
fn local_network(config: &EngineConfig) -> io::Result<LocalNetwork> {
    let guard = Arc::new(Guard::new(config.allow_http, config.egress_allow.clone()));
    let lookups = (config.max_in_flight / IN_FLIGHT_PER_LOOKUP).max(1);
    let dns = Arc::new(Dns::new(config.dns_servers.clone(), lookups)?);
    let advertised = config.address.as_deref().and_then(guard::address_in);
    let local_network = LocalNetwork { guard, dns, listeners: config.listeners.clone(), advertised };
    local_network.look()?;
    Ok(local_network)
}

/// The running engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    journal: Journal,
    routes: Arc<RouteTable>,
    registry: RegistryHandle,
    guard: Arc<Guard>,
    name: EngineName,
    context: Arc<EngineContext>,
    feed: Arc<crate::store::journal::feed::Feed>,
    cluster: Cluster,
    log: Arc<LogIndex>,
    /// Tasks that end on `stopping`.
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// A stop was asked for, and has not begun yet.
    is_retiring: AtomicBool,
    writer: parking_lot::Mutex<Option<JoinHandle<()>>>,
    arbiters: Arbiters,
}

impl Engine {
    /// Starts everything; what the last process left owed is taken up by the same path as new work.
    pub async fn start(store: Store, config: EngineConfig) -> Result<Self, StartError> {
        note_panics();
        let node_lease = NodeLease::join(&store, config.address.as_deref()).await?;
        let started = Box::pin(Self::start_for(node_lease.clone(), store, config)).await;
        if started.is_err() {
            node_lease.release(false).await;
        }
        started
    }

    async fn start_for(node_lease: NodeLease, store: Store, config: EngineConfig) -> Result<Self, StartError> {
        store.mark_taken(node_lease.shard_set(), UnixMillis::now()).await?;
        let local_network = local_network(&config).map_err(StartError::Network)?;
        let guard = local_network.guard.clone();
        let running = Journal::start(&store, node_lease.shard_set()).await?;
        // What is changed from here on is news, also while the rest is read.
        let position = store.position().await?;
        let routes = Arc::new(RouteTable::load(&store).await?);
        let log = Arc::new(LogIndex::open(&store, running.log.clone()).await?);
        let name = EngineName::new(store.engine_id().await?);
        let dns = &local_network.dns;
        let arbiters = Arbiters::start(config.arbiters, &guard, dns, config.keeps_connections, &name)?;
        let cluster = Cluster::new(!store.is_clustered());
        let context =
            Arc::new(EngineContext::new(&store, &running, &routes, &guard, (node_lease, Notifier::default()), &config));
        let registry = registry::start(&arbiters, &context, &running.feed);
        let inner = Inner {
            store,
            journal: running.journal,
            routes,
            registry,
            guard,
            name,
            context,
            feed: running.feed,
            cluster,
            log,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            is_retiring: AtomicBool::new(false),
            writer: parking_lot::Mutex::new(Some(running.writer)),
            arbiters,
        };
        let engine = Self { inner: Arc::new(inner) };
        engine.spawn_tasks(local_network);
        engine.spawn_cluster_tasks(&running.remote_shards);
        engine.follow_config(position);
        engine.inner.cluster.settle().await;
        Ok(engine)
    }

    fn spawn_tasks(&self, local_network: LocalNetwork) {
        let inner = &self.inner;
        let stopping = inner.stopping.clone();
        inner.tasks.spawn(async move { stopping.run_until_cancelled(local_network.keep_looking()).await });
        let dispatcher = dispatch::Dispatcher::new(&inner.context, &inner.feed, &inner.registry);
        let stopping = inner.stopping.clone();
        let dispatcher = Box::pin(or_abort("the dispatcher", dispatcher.run()));
        inner.tasks.spawn(async move { stopping.run_until_cancelled(dispatcher).await });
        let waker = Box::pin(or_abort("the waker", due_poller::run(inner.context.clone(), inner.registry.clone())));
        let stopping = inner.stopping.clone();
        inner.tasks.spawn(async move { stopping.run_until_cancelled(waker).await });
        let follower = Box::pin(or_abort("the log follower", follow(inner.log.clone(), inner.context.clone())));
        let stopping = inner.stopping.clone();
        inner.tasks.spawn(async move { stopping.run_until_cancelled(follower).await });
        // With PostgreSQL each renewal of the lease tells the time.
        let (is_shared, stopping) = (inner.store.is_clustered(), inner.stopping.clone());
        let clock =
            async move { if is_shared { clock::watch_the_system().await } else { clock::follow_the_system().await } };
        inner.tasks.spawn(async move { stopping.run_until_cancelled(clock).await });
    }

    /// What a node among others does besides.
    fn spawn_cluster_tasks(&self, remote_shards: &Arc<RemoteShards>) {
        let inner = &self.inner;
        if !inner.store.is_clustered() {
            return;
        }
        let (context, registry, feed) = (inner.context.clone(), inner.registry.clone(), inner.feed.clone());
        let (log, cluster) = (inner.log.clone(), inner.cluster.clone());
        let member = Arc::new(Member {
            context,
            registry,
            feed: feed.clone(),
            log,
            cluster,
            leaving: Default::default(),
            delayed: Default::default(),
        });
        let stopping = inner.stopping.clone();
        let member = Box::pin(or_abort("the look at other nodes", member.run()));
        inner.tasks.spawn(async move { stopping.run_until_cancelled(member).await });
        let (notifier, shard_set) = (inner.context.notifier.clone(), inner.context.shard_set.clone());
        let listen = notifier.clone().listen(
            inner.store.clone(),
            move |shard| shard_set.serves_shard(shard),
            move || feed.request_scan(),
        );
        let (ring, tell) = (notifier.clone().run(inner.store.clone()), tell(notifier, remote_shards.clone()));
        let stopping = inner.stopping.clone();
        let calls = Box::pin(async move { tokio::join!(listen, ring, tell) });
        inner.tasks.spawn(async move { stopping.run_until_cancelled(calls).await });
    }

    /// Runs beside the engine until it stops; a stop waits for its end.
    pub fn beside<W: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(CancellationToken) -> W) {
        self.inner.tasks.spawn(work(self.inner.stopping.clone()));
    }

    /// Resolves when another node has taken over, and all that is left to do is to end.
    pub async fn superseded(&self) {
        self.inner.context.lease.lost().await;
    }

    /// What is stored, for reading.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The rules for whom the engine may call.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.inner.guard
    }

    /// By which other engines know this one.
    #[must_use]
    pub fn name(&self) -> &EngineName {
        &self.inner.name
    }

    /// Accepts events: after this returns they survive any crash. Answers in the order given.
    pub async fn publish(
        &self,
        tenant: TenantNum,
        events: Vec<NewEvent>,
        once: Option<OnceKey>,
    ) -> Result<Vec<Published>, EngineError> {
        let draft = |event: NewEvent| {
            let NewEvent { kind, data, occurred_at, caller, trail } = event;
            let routes = &self.inner.routes;
            let targets = routes.matching(tenant, &kind);
            let is_ordered = routes.is_any_ordered(tenant, &targets);
            Draft { tenant, kind: kind.into(), occurred_at, data, caller, trail, targets, is_ordered }
        };
        let drafts = events.into_iter().map(draft).collect();
        Ok(self.inner.journal.publish(drafts, once).await?)
    }

    /// Whether the engine takes work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let inner = &self.inner;
        let is_stopping = inner.is_retiring.load(Ordering::Relaxed) || inner.stopping.is_cancelled();
        !is_stopping && inner.cluster.is_settled() && !self.is_cut_off()
    }

    /// Whether nothing is sent because the database could not be reached for too long, or publishes fail because it has
    /// refused to commit for some time.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        let is_refused = self.inner.journal.stats().outage.lock().is_lasting(std::time::Instant::now());
        is_refused || !self.inner.context.lease.is_valid()
    }

    /// Says from now on that it is not ready, while everything goes on: a load balancer needs a while to hear of it.
    pub fn start_stopping(&self) {
        self.inner.is_retiring.store(true, Ordering::Relaxed);
    }

    /// Begins to stop: nothing is dispatched and no attempt begins any more. Answers whether those that were in flight
    /// have ended by then. What is still owed stays owed; no attempt is spent on it.
    pub async fn drain(&self, by: Instant) -> bool {
        let inner = &self.inner;
        inner.stopping.cancel();
        inner.tasks.close();
        let drained = tokio::time::timeout_at(by, async {
            inner.tasks.wait().await;
            inner.registry.drain(by).await
        });
        drained.await.unwrap_or(false)
    }

    /// Ends what [`Self::drain`] has quietened: drops what is still in flight, and writes everything that was recorded.
    pub async fn close(&self, drained: bool) {
        let inner = &self.inner;
        inner.arbiters.stop();
        let writer = inner.writer.lock().take();
        let flushed = tokio::time::timeout(FLUSH_GRACE, async {
            inner.journal.close().await;
            if let Some(writer) = writer {
                let _ = writer.await;
            }
            inner.log.follow(&inner.context.shard_set).await
        });
        match flushed.await {
            Err(_) => {
                tracing::error!("the database did not take the last outcomes; their deliveries will be sent again");
                return;
            }
            Ok(Err(error)) => tracing::warn!(%error, "the log index was not flushed; the next start catches up"),
            Ok(Ok(())) => {}
        }
        if drained
            && !inner.store.is_clustered()
            && let Err(error) = inner.store.mark_stopped_cleanly(UnixMillis::now()).await
        {
            tracing::warn!(%error, "the clean stop was not noted; the next start treats it as a crash");
        }
        inner.context.lease.release(!drained).await;
        inner.context.notifier.notify_shards();
        if let Err(error) = inner.context.notifier.notify_once(&inner.store).await {
            tracing::debug!(%error, "other nodes could not be called; they will look by themselves");
        }
    }
}

/// Tells other nodes what was committed for them.
async fn tell(notifier: Notifier, remote_shards: Arc<RemoteShards>) {
    loop {
        notifier.notify_fanouts(&remote_shards.next().await);
    }
}

/// Keeps the log index close behind, and forgets what has outlived its use.
async fn follow(log: Arc<LogIndex>, context: Arc<EngineContext>) {
    let mut tick = tokio::time::interval(log::EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = log.follow(&context.shard_set).await {
            tracing::warn!(%error, "the log index could not follow");
        }
        if let Err(error) = context.store.forget_ended_sessions(UnixMillis::now_reference()).await {
            tracing::warn!(%error, "ended sessions could not be forgotten");
        }
        if let Err(error) = context.store.forget_old_keys(UnixMillis::now()).await {
            tracing::warn!(%error, "old idempotency keys could not be forgotten");
        }
        if let Err(error) = context.store.forget_old_changes(UnixMillis::now()).await {
            tracing::warn!(%error, "old changes of configuration could not be forgotten");
        }
    }
}

#[cfg(test)]
mod tests;
