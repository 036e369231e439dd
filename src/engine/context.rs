//! What every endpoint uses and none owns.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{RwLock, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::delivery::guard::Guard;
use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::outcome::OutcomeKind;
use crate::log_limit::LogLimit;
use crate::store::backlog::Backlog;
use crate::store::journal::{Journal, Running};
use crate::store::leases::ShardSet;
use crate::store::notifier::Notifier;
use crate::store::{Store, payload};

use super::EngineConfig;
use super::bodies::Bodies;
use super::config_sync::Listeners;
use super::endpoint::LINES_ALL;
use super::endpoint_stats::AllEndpointStats;
use super::node_lease::NodeLease;
use super::permits::Permits;
use super::routes::RouteTable;
use super::tenant_quota::LiveEndpoints;

/// A few milliseconds' work for the endpoint threads, and enough to keep them busy.
const OFFERS: usize = 1024;

pub(super) struct EngineContext {
    pub(super) store: Store,
    pub(super) journal: Journal,
    /// What every webhook is owed.
    pub(super) ledger: Backlog,
    pub(super) routes: Arc<RouteTable>,
    pub(super) guard: Arc<Guard>,
    /// Nothing is sent for longer than this holds.
    pub(super) lease: NodeLease,
    /// Whom it is sent for.
    pub(super) shard_set: ShardSet,
    /// How nodes call each other.
    pub(super) notifier: Notifier,
    /// Once cancelled, nothing is sent any more.
    pub(super) quiet: CancellationToken,
    /// Held by a change from its commit to its entry in the route table, so that both see changes in one order. Shared by
    /// those who start endpoints from what they read, so that a change finds every endpoint that it must tell.
    pub(super) changing: RwLock<()>,
    pub(super) permits: Permits,
    pub(super) stats: AllEndpointStats,
    /// Offers that may be in mailboxes. Bounds how much every endpoint thread has to do before it comes to the newest.
    pub(super) offers: Arc<Semaphore>,
    pub(super) live_endpoints: LiveEndpoints,
    pub(super) bodies: Bodies,
    /// Payload bytes in memory beyond which lanes keep only what they send now.
    pub(super) payload_memory: usize,
    /// Endpoints that are held while their backlog is purged, by how many hold them.
    pub(super) holds: Mutex<HashMap<WebhookNum, usize>>,
    /// Who keeps tenants and keys in memory.
    pub(super) listeners: Listeners,
    /// Webhooks that were to be served and whose rows cannot be read.
    pub(super) unreadable: Mutex<HashSet<WebhookNum>>,
    offered_to: AtomicI64,
    /// Failed attempts of all endpoints that are logged.
    pub(super) attempt_log: Mutex<LogLimit>,
    outcomes: [AtomicU64; OutcomeKind::ALL.len()],
}

impl EngineContext {
    pub(super) fn new(
        store: &Store,
        running: &Running,
        routes: &Arc<RouteTable>,
        guard: &Arc<Guard>,
        (node_lease, notifier): (NodeLease, Notifier),
        config: &EngineConfig,
    ) -> Self {
        Self {
            store: store.clone(),
            journal: running.journal.clone(),
            ledger: running.ledger.clone(),
            routes: routes.clone(),
            guard: guard.clone(),
            shard_set: node_lease.shard_set().clone(),
            lease: node_lease,
            notifier,
            quiet: CancellationToken::new(),
            changing: RwLock::new(()),
            permits: Permits::new(config.max_in_flight),
            stats: AllEndpointStats::new(),
            offers: Arc::new(Semaphore::new(OFFERS)),
            live_endpoints: LiveEndpoints::default(),
            bodies: Bodies::new(store, config.payload_memory / 2),
            payload_memory: config.payload_memory,
            holds: Mutex::default(),
            listeners: Listeners::default(),
            offered_to: AtomicI64::default(),
            unreadable: Mutex::default(),
            attempt_log: Mutex::new(LogLimit::new(LINES_ALL, Instant::now())),
            outcomes: Default::default(),
        }
    }

    pub(super) fn is_memory_tight(&self) -> bool {
        payload::in_memory() > self.payload_memory
    }

    /// No event up to here is offered to an endpoint any more.
    pub(super) fn offered_to(&self) -> EventSeq {
        EventSeq(self.offered_to.load(Ordering::Relaxed))
    }

    /// The dispatcher has nothing of events up to here in hand.
    pub(super) fn has_offered(&self, to: EventSeq) {
        self.offered_to.fetch_max(to.0, Ordering::Relaxed);
    }

    pub(super) fn count(&self, outcome: OutcomeKind) {
        if let Some(counter) =
            OutcomeKind::ALL.iter().position(|kind| *kind == outcome).and_then(|at| self.outcomes.get(at))
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn outcome_counts(&self) -> Vec<(&'static str, u64)> {
        let counts = self.outcomes.iter().map(|counter| counter.load(Ordering::Relaxed));
        OutcomeKind::ALL.iter().map(|kind| kind.as_str()).zip(counts).collect()
    }
}
