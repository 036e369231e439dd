//! What the parts of one engine share and none owns: database, journal, permits, counters. The engine makes one at its
//! start; endpoints, dispatcher, cluster and config sync use it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{RwLock, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::cluster::node_lease::NodeLease;
use crate::delivery::guard::Guard;
use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::outcome::OutcomeKind;
use crate::host::Host;
use crate::journal::Journal;
use crate::journal::shared_ledger::SharedLedger;
use crate::log_limit::LogLimit;
use crate::store::leases::ShardSet;
use crate::store::notifier::Notifier;
use crate::store::unreadable::UnreadableRow;

use super::bodies::Bodies;
use super::bounds::DispatchBounds;
use super::db::EngineDb;
use super::durations::Durations;
use super::endpoint_stats::AllEndpointStats;
use super::permits::Permits;
use super::routes::RouteTable;
use super::stale::Listeners;
use super::tenant_quota::LiveEndpoints;

/// The most offers that may be in mailboxes: a few milliseconds of work for the endpoint threads, and enough to keep
/// them busy.
const OFFERS: usize = 1024;

/// Failed attempts of all endpoints that are logged in a second: some 200 KiB of text.
const LINES_ALL: u32 = 500;

/// What an engine is made of, before its parts know each other.
pub(super) struct Parts {
    pub(super) host: Host,
    pub(super) db: Arc<dyn EngineDb>,
    pub(super) bounds: DispatchBounds,
    pub(super) journal: Journal,
    pub(super) ledger: SharedLedger,
    pub(super) routes: Arc<RouteTable>,
    pub(super) guard: Arc<Guard>,
    pub(super) lease: NodeLease,
    pub(super) notifier: Notifier,
    /// How many requests may be in flight, over all endpoints.
    pub(super) max_in_flight: usize,
    /// Payload bytes in memory beyond which lanes keep only what they send now.
    pub(super) payload_memory: usize,
    /// Counts the payload bytes in memory.
    pub(super) payload_in_memory: fn() -> usize,
}

pub(super) struct EngineContext {
    pub(super) host: Host,
    pub(super) bounds: DispatchBounds,
    pub(super) db: Arc<dyn EngineDb>,
    pub(super) journal: Journal,
    /// What every webhook is owed.
    pub(super) ledger: SharedLedger,
    pub(super) routes: Arc<RouteTable>,
    pub(super) guard: Arc<Guard>,
    /// Nothing is sent while this lease is not valid.
    pub(super) lease: NodeLease,
    /// The shards that this node owns and serves.
    pub(super) shard_set: ShardSet,
    /// Sends and hears notifications between nodes.
    pub(super) notifier: Notifier,
    /// Once cancelled, nothing is sent any more.
    pub(super) draining: CancellationToken,
    /// A change holds the write lock from its commit to its entry in the route table, so that store and table see
    /// changes in one order. An activation holds the read lock from reading the webhook to starting its endpoint, so
    /// that a change finds every endpoint that it must tell.
    pub(super) changing: RwLock<()>,
    pub(super) permits: Permits,
    pub(super) stats: AllEndpointStats,
    /// One permit for each offer that may be in a mailbox. This bounds how much work every endpoint thread has before
    /// it comes to the newest offer.
    pub(super) offers: Arc<Semaphore>,
    pub(super) live_endpoints: LiveEndpoints,
    pub(super) bodies: Bodies,
    /// Payload bytes in memory beyond which lanes keep only what they send now.
    payload_memory: usize,
    payload_in_memory: fn() -> usize,
    /// Webhooks that are held while their backlog is purged, each with the number of purges that hold it.
    pub(super) holds: Mutex<HashMap<WebhookNum, usize>>,
    /// The caches of tenants and keys, to be told of changes.
    pub(super) listeners: Listeners,
    /// Webhooks that could not be activated, each with the row that cannot be read.
    pub(super) unreadable: Mutex<HashMap<WebhookNum, UnreadableRow>>,
    offered_to: AtomicI64,
    /// Bounds the log lines about failed attempts, for all endpoints together.
    pub(super) attempt_log: Mutex<LogLimit>,
    pub(super) durations: Durations,
    outcomes: [AtomicU64; OutcomeKind::ALL.len()],
}

impl EngineContext {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { host, db, bounds, journal, ledger, routes, guard, lease, notifier, .. } = parts;
        let Parts { max_in_flight, payload_memory, payload_in_memory, .. } = parts;
        Self {
            stats: AllEndpointStats::new(&host),
            bodies: Bodies::new(&host, &db, payload_memory / 2),
            attempt_log: Mutex::new(LogLimit::new(LINES_ALL, host.steady())),
            shard_set: lease.shard_set().clone(),
            permits: Permits::new(max_in_flight),
            offers: Arc::new(Semaphore::new(OFFERS)),
            live_endpoints: LiveEndpoints::new(bounds.live_endpoints),
            draining: CancellationToken::new(),
            changing: RwLock::new(()),
            holds: Mutex::default(),
            listeners: Listeners::default(),
            offered_to: AtomicI64::default(),
            unreadable: Mutex::default(),
            durations: Durations::new(),
            outcomes: Default::default(),
            host,
            db,
            bounds,
            journal,
            ledger,
            routes,
            guard,
            lease,
            notifier,
            payload_memory,
            payload_in_memory,
        }
    }

    /// Payload bytes in memory, and the budget above which lanes keep only what they send now.
    pub(super) fn payload_bytes(&self) -> (usize, usize) {
        ((self.payload_in_memory)(), self.payload_memory)
    }

    pub(super) fn is_memory_tight(&self) -> bool {
        let (bytes, most) = self.payload_bytes();
        bytes > most
    }

    /// No event up to here is offered to an endpoint any more.
    pub(super) fn offered_to(&self) -> EventSeq {
        EventSeq(self.offered_to.load(Ordering::Relaxed))
    }

    /// Notes that the dispatcher has no event up to here in hand.
    pub(super) fn note_offered(&self, to: EventSeq) {
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
