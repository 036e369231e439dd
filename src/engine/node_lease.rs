//! This node's lease: taken before anything is sent, renewed while the process runs, given up at its end. When the
//! lease cannot be renewed in time, nothing is sent any more and requests in flight are cut short, until it is renewed
//! after all.
//!
//! With SQLite there are no other nodes: the lease never ends and costs nothing.

mod terms;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::fault::or_abort;
use crate::store::leases::{Membership, Renewal as Renewed, ShardSet};
use crate::store::{Store, StoreError};

pub(super) use self::terms::LeaseTerms;

/// The longest time for giving up the lease. With a slower database, the other nodes wait for the lease to end.
const GIVE_UP: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct NodeLease {
    store: Store,
    name: Arc<str>,
    /// The URL at which other nodes reach this one.
    address: Option<Arc<str>>,
    shard_set: ShardSet,
    terms: LeaseTerms,
    /// Until when the node may act upon the lease; `None`: for ever.
    until: Option<watch::Sender<Instant>>,
    /// Another node has reaped this one.
    lost: CancellationToken,
    /// The lease is given up, and renewed no more.
    given_up: CancellationToken,
}

impl NodeLease {
    /// Joins the cluster as a new node. With SQLite, this process owns everything.
    pub(super) async fn join(store: &Store, address: Option<&str>) -> Result<Self, StoreError> {
        let (asked_at, name) = (Instant::now(), node_name());
        let shard_set = store.join(&name, address).await?;
        Ok(Self::begin(store, (name.into(), address.map(Arc::from)), shard_set, asked_at))
    }

    fn begin(
        store: &Store,
        (name, address): (Arc<str>, Option<Arc<str>>),
        shard_set: ShardSet,
        asked_at: Instant,
    ) -> Self {
        let terms = LeaseTerms::of(store.lease());
        let until = store.is_clustered().then(|| watch::Sender::new(terms.act_until(asked_at)));
        let (lost, given_up) = (CancellationToken::new(), CancellationToken::new());
        let node_lease = Self { store: store.clone(), name, address, shard_set, terms, until, lost, given_up };
        if let Some(renewed) = node_lease.until.clone() {
            let renewal = RenewalTask { lease: node_lease.clone(), terms, renewed };
            let given_up = node_lease.given_up.clone();
            let renewal = or_abort("the renewal of the lease", renewal.run());
            tokio::spawn(async move { given_up.run_until_cancelled(renewal).await });
        }
        node_lease
    }

    /// Joins again as a new node, because the database lacks transactions that this node has seen. Requests in flight
    /// are cut short, and nothing begins before [`Self::resume`]. Before that, the journal must get the new membership.
    pub(super) async fn rejoin(&self) -> Result<Option<Membership>, StoreError> {
        let Some(until) = &self.until else { return Ok(None) };
        until.send_replace(Instant::now());
        self.store.rejoin(&self.shard_set, &self.name, self.address.as_deref()).await
    }

    /// Lets the node act upon the new lease. `asked_at`: when the node asked for it.
    pub(super) fn resume(&self, asked_at: Instant) {
        if let Some(until) = &self.until {
            until.send_replace(self.terms.act_until(asked_at));
        }
    }

    #[must_use]
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shard_set(&self) -> &ShardSet {
        &self.shard_set
    }

    /// Whether the node may act upon the lease.
    pub(super) fn is_valid(&self) -> bool {
        self.until.as_ref().is_none_or(|until| *until.borrow() > Instant::now())
    }

    /// Waits until the node may act upon the lease; as a rule it already may.
    pub(super) async fn wait_valid(&self) {
        let Some(until) = self.until.as_ref().filter(|_| !self.is_valid()) else { return };
        if until.subscribe().wait_for(|until| *until > Instant::now()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Makes a request; `None` if the lease ended first.
    pub(super) async fn run_within<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        match &self.until {
            None => Some(request.await),
            Some(until) => tokio::select! {
                answer = request => Some(answer),
                () = ended(until.subscribe()) => None,
            },
        }
    }

    /// Resolves when another node has reaped this one.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Gives up the lease and the shards, so that other nodes can acquire them at once. Nothing may be sent or recorded
    /// any more. `in_doubt`: requests may have been cut short.
    pub(super) async fn release(&self, in_doubt: bool) {
        self.given_up.cancel();
        let given_up = async {
            self.store.release(&self.shard_set, &self.shard_set.owned(), in_doubt).await?;
            self.store.deregister(&self.shard_set).await
        };
        match tokio::time::timeout(GIVE_UP, given_up).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "node lease not given up; other nodes wait for it to expire"),
            Err(_) => tracing::warn!("node lease not given up in time; other nodes wait for it to expire"),
        }
    }
}

/// Resolves once the end of the lease has passed without a renewal.
async fn ended(mut until: watch::Receiver<Instant>) {
    loop {
        let end = *until.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(end) => return,
            moved = until.changed() => if moved.is_err() {
                return tokio::time::sleep_until(end).await;
            },
        }
    }
}

/// Renews the lease until another node has reaped this one.
struct RenewalTask {
    lease: NodeLease,
    terms: LeaseTerms,
    renewed: watch::Sender<Instant>,
}

impl RenewalTask {
    async fn run(self) {
        let Self { lease: node_lease, terms, renewed } = self;
        let mut tick = tokio::time::interval(terms.renew_every());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let asked_at = Instant::now();
            let renewal =
                tokio::time::timeout(terms.renew_every(), node_lease.store.renew(&node_lease.shard_set)).await;
            match renewal {
                Ok(Ok(Renewed::Renewed)) => {
                    if *renewed.borrow() <= Instant::now() {
                        tracing::warn!("node lease renewed after it had lapsed; sending goes on");
                    }
                    renewed.send_replace(terms.act_until(asked_at));
                }
                // The cluster member joins again.
                Ok(Ok(Renewed::Diverged)) => {}
                Ok(Ok(Renewed::Reaped)) => {
                    tracing::error!("another node has reaped this one; the process ends");
                    renewed.send_replace(asked_at);
                    node_lease.lost.cancel();
                    return;
                }
                Ok(Err(error)) => warn(&error.to_string(), *renewed.borrow()),
                Err(_) => warn("the database does not answer", *renewed.borrow()),
            }
        }
    }
}

fn warn(error: &str, until: Instant) {
    let left_ms = u64::try_from(until.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX);
    tracing::warn!(error, left_ms, "the lease could not be renewed; nothing is sent once left_ms is 0");
}

/// Names the process and its machine, for people.
fn node_name() -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = match machine.trim() {
        "" => "unknown machine",
        name => name,
    };
    format!("process {} on {machine}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_goes_on_while_the_lease_is_renewed_and_is_cut_short_when_it_is_not() {
        let now = Instant::now();
        let (renewed, until) = watch::channel(now + Duration::from_millis(20));
        let request = tokio::spawn(ended(until));
        renewed.send_replace(now + Duration::from_secs(3600));
        tokio::time::sleep_until(now + Duration::from_millis(40)).await;
        assert!(!request.is_finished());
        renewed.send_replace(now);
        request.await.unwrap();
    }
}
