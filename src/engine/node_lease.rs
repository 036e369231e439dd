//! This node's lease: taken before anything is sent, renewed while it runs, given up at its end. When it cannot be renewed
//! in time nothing is sent any more, and what is under way is cut short, until it is renewed after all.
//!
//! With SQLite there is nobody else: it holds for ever and costs nothing.

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

/// A database that takes longer to hear of it will see the lease end instead.
const GIVE_UP: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct NodeLease {
    store: Store,
    name: Arc<str>,
    /// Where the others reach it.
    address: Option<Arc<str>>,
    shard_set: ShardSet,
    terms: LeaseTerms,
    /// Until when it may be acted upon; `None`: for ever.
    until: Option<watch::Sender<Instant>>,
    /// Another node has taken over.
    lost: CancellationToken,
    /// It is given up, and renewed no more.
    given_up: CancellationToken,
}

impl NodeLease {
    /// Becomes one of the nodes. With SQLite: takes everything.
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

    /// Becomes another node, after the database has turned out to lack what this one relies on. What is under way is cut short,
    /// and nothing begins before [`Self::resume`]; before that, the journal must have been told the answer.
    pub(super) async fn rejoin(&self) -> Result<Option<Membership>, StoreError> {
        let Some(until) = &self.until else { return Ok(None) };
        until.send_replace(Instant::now());
        self.store.rejoin(&self.shard_set, &self.name, self.address.as_deref()).await
    }

    /// The new lease may be acted upon; `asked_at`: when it was asked for.
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

    /// Whether it may be acted upon.
    pub(super) fn is_valid(&self) -> bool {
        self.until.as_ref().is_none_or(|until| *until.borrow() > Instant::now())
    }

    /// Waits until it may be acted upon, which is at once as a rule.
    pub(super) async fn wait_valid(&self) {
        let Some(until) = self.until.as_ref().filter(|_| !self.is_valid()) else { return };
        if until.subscribe().wait_for(|until| *until > Instant::now()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Makes a request; `None` if it may not be waited for any longer.
    pub(super) async fn run_within<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        match &self.until {
            None => Some(request.await),
            Some(until) => tokio::select! {
                answer = request => Some(answer),
                () = ended(until.subscribe()) => None,
            },
        }
    }

    /// Resolves when another node has taken over.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Lets others take over at once. Nothing is sent or recorded any more; `in_doubt`: something may have been cut short.
    pub(super) async fn release(&self, in_doubt: bool) {
        self.given_up.cancel();
        let given_up = async {
            self.store.release(&self.shard_set, &self.shard_set.owned(), in_doubt).await?;
            self.store.deregister(&self.shard_set).await
        };
        match tokio::time::timeout(GIVE_UP, given_up).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease was not given up; others wait for its end"),
            Err(_) => tracing::warn!("the lease was not given up in time; others wait for its end"),
        }
    }
}

/// Resolves once the moment has passed without having been moved.
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

/// Renews until another node has taken over.
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
                        tracing::warn!("the lease is renewed; going on to send");
                    }
                    renewed.send_replace(terms.act_until(asked_at));
                }
                // The look at other nodes sees to it.
                Ok(Ok(Renewed::Diverged)) => {}
                Ok(Ok(Renewed::Reaped)) => {
                    tracing::error!("another node has taken over; this one ends");
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
    tracing::warn!(error, left_ms, "the lease could not be renewed; when none is left, nothing is sent");
}

/// For people: which machine, which process.
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
