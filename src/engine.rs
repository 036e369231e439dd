//! The door to everything that is sent or owed: publishes events, changes webhooks, carries out what operators ask for,
//! inspects and stops. `app` starts it, `api` calls it. Configuration that no endpoint depends on (tenants, keys, event
//! types) the API writes to the store itself. The engine never names the HTTP of the management API.
//!
//! An engine is made of the registry actor, which knows the live endpoint actors; the endpoint actors with their
//! [`lane`]s; the dispatcher, which offers committed fan-outs to them; the due poller, which finds rows that fall due;
//! and the [`routes`]. Below it are `cluster`, with this node's lease and shards; `delivery`, which makes one request;
//! the `journal`, which makes everything durable; and the `store`.

pub mod concurrency;
pub mod lane;
pub mod permits;
pub mod rates;
pub mod restart;
pub mod routes;

mod address;
mod arbiters;
mod backlog;
mod backlog_ops;
mod bodies;
mod bounds;
mod cluster_view;
mod config_sync;
mod configure;
mod context;
mod db;
mod delivery_ops;
mod dispatch;
mod due_poller;
mod durations;
mod endpoint;
mod endpoint_config;
mod endpoint_stats;
mod explain;
mod inspect;
mod listing;
mod operational;
mod operations;
mod ops;
mod registry;
mod retention;
mod search;
mod served_shards;
mod stale;
mod start_slots;
mod tenant_quota;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::backlog::{
    Actor, Backlog, BacklogOrder, EndpointState, Receiver, Standing, TroubleKind, cannot_be_served,
};
pub use self::cluster_view::Owner;
pub use self::delivery_ops::tested;
pub use self::durations::DurationFigures;
pub use self::explain::{Asked, Explanation, ExplanationPage, Reason};
pub use self::inspect::EngineFigures;
pub use self::listing::DeliveryPage;
pub use self::operations::Preview;
pub use self::permits::{BulkheadView, PartView};
pub use self::rates::Percentiles;
pub use self::search::{WebhookHits, WebhookSearch};
pub use self::stale::Stale;
pub use crate::delivery::breaker::{View as BreakerView, ViewState as BreakerState};
pub use crate::delivery::client::peer_client;
pub use crate::delivery::credentials::{certificate_ends_at, check_credentials, tls_digest};
pub use crate::delivery::guard::{Guard, GuardError, is_invisible};
pub use crate::delivery::headers::{HeaderProblem, check_headers, is_secret_header};
pub use crate::delivery::hops::{CDN_LOOP, EngineName, Loop, Trail};
pub use crate::delivery::signature::SigningSecret;

use crate::clock;
use crate::cluster::db::ClusterDb;
use crate::cluster::member::{self, Member};
use crate::cluster::node_lease::{NodeIdentity, NodeLease};
use crate::cluster::notifications;
use crate::cluster::state::ClusterState;
use crate::delivery::{Dns, LocalNetwork, guard};
use crate::domain::id::TenantNum;
use crate::domain::moment::UnixMillis;
use crate::domain::retention::Retention;
use crate::fault::{note_panics, or_abort};
use crate::host::Host;
use crate::journal::remote_shards::RemoteShards;
use crate::journal::{Draft, Journal, JournalBounds, PublishAnswer, PublishError, Stopped};
use crate::store::events::Caller;
use crate::store::idempotency::OnceKey;
use crate::store::log::LogIndex;
use crate::store::notifier::Notifier;
use crate::store::{Store, StoreError, log, payload};

use self::arbiters::Arbiters;
use self::context::{EngineContext, Parts};
use self::db::EngineDb;
use self::ops::Ops;
use self::registry::RegistryHandle;
use self::routes::RouteTable;
use self::served_shards::ServedShards;

/// The type of the event that `test` sends. Tenants cannot publish it.
pub const TEST_EVENT: &str = "webhook.test";

/// How long the database may take for the last writes of a stop. This comes on top of the stop's grace, because a
/// request whose outcome is not written is made again.
const FLUSH_GRACE: Duration = Duration::from_secs(5);

/// An event as its publisher hands it over.
#[derive(Debug)]
pub struct NewEvent {
    pub kind: String,
    pub data: Box<RawValue>,
    pub occurred_at: Option<UnixMillis>,
    pub caller: Option<Caller>,
    /// The engines that the event has come through.
    pub trail: Option<Trail>,
}

/// Why the engine refused a call or failed at it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The webhook is switched off.
    #[error("the webhook is inactive")]
    Inactive,
    /// An operator has paused the webhook.
    #[error("the webhook is paused")]
    Paused,
    /// Its endpoint is not served: its actor crashed too often, or a row cannot be read. Says which and what ends it.
    #[error("the webhook is quarantined: {0}")]
    Quarantined(String),
    /// An attempt for this delivery is in flight.
    #[error("an attempt is being made right now")]
    InFlight,
    /// The delivery is not pending any more.
    #[error("the delivery is settled")]
    Settled,
    /// The delivery has used all attempt numbers.
    #[error("the delivery has used up its attempt numbers")]
    TooManyAttempts,
    /// The payload of the event was erased.
    #[error("the payload was erased")]
    PayloadErased,
    /// The webhook of the delivery is deleted.
    #[error("the webhook is deleted")]
    WebhookDeleted,
    /// The delivery does not exist.
    #[error("not found")]
    NotFound,
    /// The webhook's shard has just moved to another node, and the change may not have been written.
    #[error("the webhook is being moved to another node")]
    Moved,
    #[error("the engine is stopping")]
    Stopping,
}

impl From<Stopped> for EngineError {
    fn from(_: Stopped) -> Self {
        Self::Stopping
    }
}

/// How the engine is set up.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub allow_http: bool,
    pub egress_allow: Vec<ipnet::IpNet>,
    /// DNS servers that resolve the names of receivers; if empty, the system's.
    pub dns_servers: Vec<SocketAddr>,
    /// The addresses that this process listens on.
    pub listeners: Vec<SocketAddr>,
    /// How many threads run endpoint actors.
    pub arbiters: usize,
    /// How many requests may be in flight, over all endpoints.
    pub max_in_flight: usize,
    /// Whether connections to receivers are kept for the next request. A process with few descriptors keeps none.
    pub keeps_connections: bool,
    /// The number of payload bytes in memory beyond which deliveries wait as rows.
    pub payload_memory: usize,
    /// The URL at which other nodes reach this node's API.
    pub address: Option<String>,
    /// How long what is settled is kept.
    pub retention: Retention,
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

/// One name lookup may be under way for every so many requests in flight. That is twice what failing and slow endpoints
/// can have in flight, so name servers that never answer do not keep healthy endpoints from resolving.
const IN_FLIGHT_PER_LOOKUP: usize = 4;

/// Makes the guard and the DNS client, and reads the machine's own addresses for them.
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
    feed: Arc<crate::journal::feed::Feed>,
    cluster: ClusterState,
    cluster_db: Arc<dyn ClusterDb>,
    log: Arc<LogIndex>,
    /// Notified when an operation was made or changed here.
    operations_changed: Notify,
    /// What the sweeper has deleted.
    swept: Arc<retention::Counts>,
    /// Tasks that end on `stopping`.
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// Set by [`Engine::start_stopping`]: a stop will follow.
    is_retiring: AtomicBool,
    writer: parking_lot::Mutex<Option<JoinHandle<()>>>,
    arbiters: Arbiters,
}

impl Engine {
    /// Joins the cluster and starts every task. What the last process left owed takes the same path as new work.
    pub async fn start(store: Store, config: EngineConfig) -> Result<Self, StartError> {
        note_panics();
        let (host, db): (_, Arc<dyn ClusterDb>) = (Host::live(), Arc::new(store.clone()));
        let identity = NodeIdentity::of_this_process(config.address.as_deref());
        let node_lease = NodeLease::join(db.clone(), host.clone(), identity).await?;
        host.spawn(or_abort("the renewal of the lease", node_lease.clone().keep()));
        let started = Box::pin(Self::start_for(node_lease.clone(), host, store, config)).await;
        if started.is_err() {
            node_lease.give_up(false).await;
        }
        started
    }

    async fn start_for(
        node_lease: NodeLease,
        host: Host,
        store: Store,
        config: EngineConfig,
    ) -> Result<Self, StartError> {
        let db: Arc<dyn EngineDb> = Arc::new(store.clone());
        let cluster_db: Arc<dyn ClusterDb> = Arc::new(store.clone());
        if !store.is_clustered() {
            node_lease.shard_set().set_in_doubt(store.begin_alone(host.now()).await?);
        }
        let local_network = local_network(&config).map_err(StartError::Network)?;
        let guard = local_network.guard.clone();
        let (running, writer) =
            Journal::start(Arc::new(store.clone()), host.clone(), node_lease.shard_set(), JournalBounds::LIVE).await?;
        let writer = tokio::spawn(or_abort("the journal's writer", writer));
        // Read before the routes, so that config sync also finds changes that commit while the routes are read.
        let position = db.position().await?;
        let routes = Arc::new(RouteTable::load(db.as_ref()).await?);
        let log = Arc::new(LogIndex::open(&store, running.log.clone()).await?);
        let name = EngineName::new(store.engine_id().await?);
        let dns = &local_network.dns;
        let arbiters = Arbiters::start(config.arbiters, &guard, dns, config.keeps_connections, &name)?;
        let cluster = ClusterState::new(!store.is_clustered(), host.clone());
        let context = Arc::new(EngineContext::new(Parts {
            host,
            db,
            bounds: bounds::DispatchBounds::LIVE,
            journal: running.journal.clone(),
            ledger: running.ledger.clone(),
            routes: routes.clone(),
            guard: guard.clone(),
            lease: node_lease,
            notifier: Notifier::default(),
            max_in_flight: config.max_in_flight,
            payload_memory: config.payload_memory,
            payload_in_memory: payload::in_memory,
        }));
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
            cluster_db,
            log,
            operations_changed: Notify::new(),
            swept: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            is_retiring: AtomicBool::new(false),
            writer: parking_lot::Mutex::new(Some(writer)),
            arbiters,
        };
        let engine = Self { inner: Arc::new(inner) };
        engine.spawn_tasks(local_network, config.retention);
        engine.spawn_cluster_tasks(&running.remote_shards);
        engine.follow_config(position);
        engine.inner.cluster.wait_converged().await;
        Ok(engine)
    }

    fn spawn_tasks(&self, local_network: LocalNetwork, retention: Retention) {
        self.spawn_sweeper(retention);
        self.spawn_operations();
        let inner = &self.inner;
        let operational = operational::publish(inner.context.clone(), inner.store.clone());
        let (operational, stopping) =
            (Box::pin(or_abort("the operational events", operational)), inner.stopping.clone());
        inner.tasks.spawn(async move { stopping.run_until_cancelled(operational).await });
        let stopping = inner.stopping.clone();
        inner.tasks.spawn(async move { stopping.run_until_cancelled(local_network.keep_looking()).await });
        let dispatcher = dispatch::Dispatcher::new(&inner.context, &inner.feed, &inner.registry);
        let stopping = inner.stopping.clone();
        let dispatcher = Box::pin(or_abort("the dispatcher", dispatcher.run()));
        inner.tasks.spawn(async move { stopping.run_until_cancelled(dispatcher).await });
        let poller =
            Box::pin(or_abort("the due poller", due_poller::run(inner.context.clone(), inner.registry.clone())));
        let stopping = inner.stopping.clone();
        inner.tasks.spawn(async move { stopping.run_until_cancelled(poller).await });
        let maintenance = Box::pin(or_abort(
            "the maintenance of the store",
            maintain(inner.store.clone(), inner.log.clone(), inner.context.clone()),
        ));
        let stopping = inner.stopping.clone();
        inner.tasks.spawn(async move { stopping.run_until_cancelled(maintenance).await });
        // With PostgreSQL each renewal of the lease reads the reference clock.
        let (is_clustered, stopping) = (inner.store.is_clustered(), inner.stopping.clone());
        let clock = async move {
            if is_clustered { clock::watch_the_system().await } else { clock::follow_the_system().await }
        };
        inner.tasks.spawn(async move { stopping.run_until_cancelled(clock).await });
    }

    fn spawn_sweeper(&self, keep: Retention) {
        let inner = &self.inner;
        let sweeper = retention::Sweeper::new(inner.context.clone(), inner.store.clone(), keep, inner.swept.clone());
        let (sweeper, stopping) = (Box::pin(or_abort("the sweeper", sweeper.run())), inner.stopping.clone());
        inner.tasks.spawn(async move { stopping.run_until_cancelled(sweeper).await });
    }

    /// Starts the tasks that only a node with PostgreSQL needs.
    fn spawn_cluster_tasks(&self, remote_shards: &Arc<RemoteShards>) {
        let inner = &self.inner;
        if !inner.store.is_clustered() {
            return;
        }
        let (context, feed) = (inner.context.clone(), inner.feed.clone());
        let member = Member::new(member::Parts {
            host: context.host.clone(),
            db: inner.cluster_db.clone(),
            lease: context.lease.clone(),
            journal: inner.journal.clone(),
            feed: feed.clone(),
            notifier: context.notifier.clone(),
            log: inner.log.clone(),
            state: inner.cluster.clone(),
            runtime: Arc::new(ServedShards { context, registry: inner.registry.clone() }),
        });
        let stopping = inner.stopping.clone();
        let member = Box::pin(or_abort("the cluster member", member.run()));
        inner.tasks.spawn(async move { stopping.run_until_cancelled(member).await });
        let (notifier, shard_set) = (inner.context.notifier.clone(), inner.context.shard_set.clone());
        let listen = notifier.clone().listen(
            inner.store.clone(),
            move |shard| shard_set.serves_shard(shard),
            move || feed.request_scan(),
        );
        let send = notifications::run(notifier.clone(), inner.cluster_db.clone(), inner.context.host.clone());
        let ask = notifications::ask_for_fanouts(notifier, remote_shards.clone());
        let stopping = inner.stopping.clone();
        let notifying = Box::pin(async move { tokio::join!(listen, send, ask) });
        inner.tasks.spawn(async move { stopping.run_until_cancelled(notifying).await });
    }

    /// Runs a task beside the engine. A stop cancels the token that the task gets, and waits for the task to end.
    pub fn beside<W: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(CancellationToken) -> W) {
        self.inner.tasks.spawn(work(self.inner.stopping.clone()));
    }

    /// Resolves when another node has reaped this one. The process must end then.
    pub async fn reaped(&self) {
        self.inner.context.lease.reaped().await;
    }

    fn ops(&self) -> Ops {
        let Inner { context, registry, feed, .. } = &*self.inner;
        Ops { context: context.clone(), registry: registry.clone(), feed: feed.clone() }
    }

    /// The store, for reading.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The rules for whom the engine may call.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.inner.guard
    }

    /// The name by which other engines know this one.
    #[must_use]
    pub fn name(&self) -> &EngineName {
        &self.inner.name
    }

    /// Accepts events. Once this returns, the events survive any crash. The answers are in the order of the events.
    pub async fn publish(
        &self,
        tenant: TenantNum,
        events: Vec<NewEvent>,
        once: Option<OnceKey>,
    ) -> Result<PublishAnswer, EngineError> {
        let draft = |event: NewEvent| {
            let NewEvent { kind, data, occurred_at, caller, trail } = event;
            let routes = &self.inner.routes;
            let targets = routes.matching(tenant, &kind);
            let is_ordered = routes.is_any_ordered(tenant, &targets);
            Draft { tenant, kind: kind.into(), occurred_at, data, caller, trail, targets, is_ordered }
        };
        let drafts = events.into_iter().map(draft).collect();
        let context = &self.inner.context;
        let began = context.host.steady();
        let answer = self.inner.journal.publish(drafts, once).await?;
        context.durations.published(context.host.steady().saturating_duration_since(began));
        Ok(answer)
    }

    /// Whether the engine takes work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let inner = &self.inner;
        let is_stopping = inner.is_retiring.load(Ordering::Relaxed) || inner.stopping.is_cancelled();
        !is_stopping && inner.cluster.is_converged() && !self.is_cut_off()
    }

    /// Whether nothing is sent because the lease could not be renewed in time, or publishes fail because the database
    /// has committed no batch for some time.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        let is_refused = self.inner.journal.stats().outage.lock().is_lasting(std::time::Instant::now());
        is_refused || !self.inner.context.lease.is_valid()
    }

    /// Makes [`Self::is_ready`] false while everything goes on: a load balancer needs a while to notice.
    pub fn start_stopping(&self) {
        self.inner.is_retiring.store(true, Ordering::Relaxed);
    }

    /// Begins the stop: from now on nothing is dispatched and no attempt begins. Answers whether all attempts in flight
    /// have ended by `by`. What is still owed stays owed; no attempt is spent on it.
    pub async fn drain(&self, by: Instant) -> bool {
        let inner = &self.inner;
        inner.stopping.cancel();
        inner.tasks.close();
        let drained = tokio::time::timeout_at(by, async {
            inner.tasks.wait().await;
            inner.registry.drain(by.into_std()).await
        });
        drained.await.unwrap_or(false)
    }

    /// Completes the stop after [`Self::drain`]: drops the attempts still in flight, and writes everything recorded.
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
                tracing::error!("last outcomes not written in time; their deliveries will be sent again");
                return;
            }
            Ok(Err(error)) => tracing::warn!(%error, "log index not flushed; the next start catches up"),
            Ok(Ok(())) => {}
        }
        if drained
            && !inner.store.is_clustered()
            && let Err(error) = inner.store.mark_stopped_cleanly(UnixMillis::now()).await
        {
            tracing::warn!(%error, "clean stop not noted; the next start treats it as a crash");
        }
        inner.context.lease.give_up(!drained).await;
        inner.context.notifier.notify_shards();
        if let Err(error) = notifications::send(inner.cluster_db.as_ref(), &inner.context.notifier.take()).await {
            tracing::debug!(%error, "other nodes not notified; their next survey shows the released shards");
        }
    }
}

/// Keeps the log index close behind the delivery rows; deletes ended sessions, items of old operations and old config
/// changes.
async fn maintain(store: Store, log: Arc<LogIndex>, context: Arc<EngineContext>) {
    let mut tick = tokio::time::interval(log::EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = log.follow(&context.shard_set).await {
            tracing::warn!(%error, "log index not updated; trying again");
        }
        if let Err(error) = store.forget_ended_sessions(UnixMillis::now_reference()).await {
            tracing::warn!(%error, "ended sessions could not be deleted; trying again");
        }
        if let Err(error) = store.forget_old_items(UnixMillis::now()).await {
            tracing::warn!(%error, "items of old operations could not be deleted; trying again");
        }
        if let Err(error) = store.forget_old_changes(UnixMillis::now()).await {
            tracing::warn!(%error, "old config changes could not be deleted; trying again");
        }
    }
}

#[cfg(test)]
mod tests;
