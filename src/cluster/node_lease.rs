//! This node's lease: taken before anything is sent, renewed while the process runs, given up at its end. When the
//! lease cannot be renewed in time, nothing is sent any more and requests in flight are cut short, until it is renewed
//! after all.
//!
//! With SQLite there are no other nodes: the lease never ends and costs nothing.

mod terms;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::host::Host;
use crate::store::StoreError;
use crate::store::leases::{Membership, Renewal, ShardSet};

use super::db::ClusterDb;

use self::terms::LeaseTerms;

/// The longest time for giving up the lease. With a slower database, the other nodes wait for the lease to end.
const GIVE_UP: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct NodeLease {
    db: Arc<dyn ClusterDb>,
    host: Host,
    identity: NodeIdentity,
    shard_set: ShardSet,
    terms: LeaseTerms,
    /// Until when the node may act upon the lease; `None`: for ever.
    until: Option<watch::Sender<Instant>>,
    /// Another node has reaped this one.
    reaped: CancellationToken,
    /// The lease is given up, and renewed no more.
    given_up: CancellationToken,
}

/// What other nodes know this one by.
#[derive(Clone)]
pub(crate) struct NodeIdentity {
    /// For people.
    name: Arc<str>,
    /// The URL at which other nodes reach this one.
    address: Option<Arc<str>>,
}

impl NodeIdentity {
    pub(crate) fn new(name: &str, address: Option<&str>) -> Self {
        Self { name: name.into(), address: address.map(Arc::from) }
    }

    /// Names the process and its machine.
    pub(crate) fn of_this_process(address: Option<&str>) -> Self {
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let machine = match machine.trim() {
            "" => "unknown machine",
            name => name,
        };
        Self::new(&format!("process {} on {machine}", std::process::id()), address)
    }
}

impl NodeLease {
    /// Joins the cluster as a new node. With SQLite, this process owns everything. From now on the caller must run
    /// [`Self::keep`].
    pub(crate) async fn join(db: Arc<dyn ClusterDb>, host: Host, identity: NodeIdentity) -> Result<Self, StoreError> {
        let asked_at = host.steady();
        let shard_set = db.join(&identity.name, identity.address.as_deref()).await?;
        let terms = LeaseTerms::of(db.lease());
        let until = db.is_clustered().then(|| watch::Sender::new(terms.act_until(asked_at)));
        let (reaped, given_up) = (CancellationToken::new(), CancellationToken::new());
        Ok(Self { db, host, identity, shard_set, terms, until, reaped, given_up })
    }

    /// Renews the lease until it is given up, or until another node has reaped this one.
    pub(crate) async fn keep(self) {
        if let Some(until) = &self.until {
            self.given_up.run_until_cancelled(self.renew(until)).await;
        }
    }

    async fn renew(&self, until: &watch::Sender<Instant>) {
        let mut ticks = self.host.ticks(self.terms.renew_every());
        loop {
            ticks.tick().await;
            let asked_at = self.host.steady();
            match self.host.timeout(self.terms.renew_every(), self.db.renew(&self.shard_set)).await {
                Some(Ok(Renewal::Renewed)) => {
                    if *until.borrow() <= self.host.steady() {
                        tracing::warn!("node lease renewed after it had lapsed; sending goes on");
                    }
                    until.send_replace(self.terms.act_until(asked_at));
                }
                // The cluster member joins again.
                Some(Ok(Renewal::Diverged)) => {}
                Some(Ok(Renewal::Reaped)) => {
                    tracing::error!("another node has reaped this one; the process ends");
                    until.send_replace(asked_at);
                    self.reaped.cancel();
                    return;
                }
                Some(Err(error)) => self.warn(&error.to_string(), *until.borrow()),
                None => self.warn("the database does not answer", *until.borrow()),
            }
        }
    }

    fn warn(&self, error: &str, until: Instant) {
        let left = until.saturating_duration_since(self.host.steady());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(error, left_ms, "the lease could not be renewed; nothing is sent once left_ms is 0");
    }

    /// Joins again as a new node, because the database lacks transactions that this node has seen. Requests in flight
    /// are cut short, and nothing begins before [`Self::revalidate`]. Before that, the journal must get the new membership.
    pub(super) async fn rejoin(&self) -> Result<Option<Membership>, StoreError> {
        let Some(until) = &self.until else { return Ok(None) };
        until.send_replace(self.host.steady());
        self.db.rejoin(&self.shard_set, &self.identity.name, self.identity.address.as_deref()).await
    }

    /// Lets the node act upon the new lease. `asked_at`: when the node asked for it.
    pub(super) fn revalidate(&self, asked_at: Instant) {
        if let Some(until) = &self.until {
            until.send_replace(self.terms.act_until(asked_at));
        }
    }

    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.identity.name
    }

    pub(crate) fn shard_set(&self) -> &ShardSet {
        &self.shard_set
    }

    /// Whether the node may act upon the lease.
    pub(crate) fn is_valid(&self) -> bool {
        self.until.as_ref().is_none_or(|until| *until.borrow() > self.host.steady())
    }

    /// Waits until the node may act upon the lease; as a rule it already may.
    pub(crate) async fn wait_valid(&self) {
        let Some(until) = self.until.as_ref().filter(|_| !self.is_valid()) else { return };
        if until.subscribe().wait_for(|until| *until > self.host.steady()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Makes a request; `None` if the lease ended first.
    pub(crate) async fn run_within<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        let Some(until) = &self.until else { return Some(request.await) };
        tokio::select! {
            biased;
            // First, so that a request of a process that was frozen sends nothing more once the lease has ended.
            () = ended(&self.host, until.subscribe()) => None,
            answer = request => Some(answer),
        }
    }

    /// Resolves when another node has reaped this one.
    pub(crate) async fn reaped(&self) {
        self.reaped.cancelled().await;
    }

    /// Gives up the lease and the shards, so that other nodes can acquire them at once. Nothing may be sent or recorded
    /// any more. `in_doubt`: requests may have been cut short.
    pub(crate) async fn give_up(&self, in_doubt: bool) {
        self.given_up.cancel();
        let given_up = async {
            self.db.release(&self.shard_set, &self.shard_set.owned(), in_doubt).await?;
            self.db.deregister(&self.shard_set).await
        };
        match self.host.timeout(GIVE_UP, given_up).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, "node lease not given up; other nodes wait for it to expire"),
            None => tracing::warn!("node lease not given up in time; other nodes wait for it to expire"),
        }
    }
}

/// Resolves once the end of the lease has passed without a renewal.
async fn ended(host: &Host, mut until: watch::Receiver<Instant>) {
    loop {
        let end = *until.borrow_and_update();
        tokio::select! {
            biased;
            // First, so that a renewal counts that came at the last moment.
            moved = until.changed() => if moved.is_err() {
                return host.sleep_until(end).await;
            },
            () = host.sleep_until(end) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_goes_on_while_the_lease_is_renewed_and_is_cut_short_when_it_is_not() {
        let now = Instant::now();
        let (renewed, until) = watch::channel(now + Duration::from_millis(20));
        let request = tokio::spawn(async move { ended(&Host::live(), until).await });
        // It waits for the first end when the renewal comes.
        tokio::task::yield_now().await;
        renewed.send_replace(now + Duration::from_secs(3600));
        Host::live().sleep_until(now + Duration::from_millis(40)).await;
        assert!(!request.is_finished());
        renewed.send_replace(now);
        request.await.unwrap();
    }
}
