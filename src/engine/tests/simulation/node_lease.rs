//! Mirrors `crate::engine::node_lease`: the lease is renewed as the real terms say, and nothing is sent after the terms
//! forbid it. With SQLite the lease never ends.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::in_doubt::InDoubt;
use crate::engine::node_lease::LeaseTerms;
use crate::store::journal::model::Tables;
use crate::store::leases::Renewal;

use super::process::Process;
use super::world::{Unreadable, World};

/// The default.
pub(super) const LEASE: Duration = Duration::from_secs(15);

fn terms() -> LeaseTerms {
    LeaseTerms::of(LEASE)
}

/// Until when a lease that is requested now may be acted upon.
pub(super) fn act_until(world: &World) -> Duration {
    if !world.is_clustered {
        return Duration::MAX;
    }
    world.since_epoch(terms().act_until(Instant::from_std(world.steady())).into_std())
}

impl Process {
    pub(super) fn is_held(&self) -> bool {
        self.until.get() > self.world.elapsed()
    }

    /// `NodeLease::wait_valid`.
    pub(super) async fn held(&self) {
        self.world.tasks.until(|| self.is_held().then_some(())).await;
    }

    /// `NodeLease::run_within`, for a request that takes `wait`. Answers whether the request ended in time. If both
    /// moments have passed, either may be seen first.
    pub(super) async fn within(&self, wait: Duration) -> bool {
        let end = self.world.elapsed() + wait;
        self.world.wake_at(end);
        let look = || match (end <= self.world.elapsed(), self.is_held()) {
            (true, true) => Some(true),
            (true, false) => Some(self.world.happens(500)),
            (false, false) => Some(false),
            (false, true) => None,
        };
        self.world.tasks.until(look).await
    }

    /// `RenewalTask::run`.
    pub(super) async fn renew(self: Rc<Self>) {
        loop {
            let (asked_at, until) = (self.world.elapsed(), act_until(&self.world));
            let now = || self.world.true_now();
            match self.write(|tables| tables.leases.renew(&self.shard_set, now(), LEASE)).await {
                Ok(Renewal::Renewed) if self.renews_in_vain.get() => {}
                Ok(Renewal::Renewed) => self.until.set(until),
                Ok(Renewal::Diverged) => {}
                Ok(Renewal::Reaped) => {
                    self.world.note(|| format!("process {} is superseded", self.incarnation));
                    self.until.set(asked_at);
                    return self.spawn(self.clone().stop());
                }
                Err(Unreadable) => {}
            }
            let next = asked_at + terms().renew_every();
            self.world.sleep(next.saturating_sub(self.world.elapsed())).await;
        }
    }

    /// `NodeLease::release`.
    pub(super) async fn give_up(&self, in_doubt: bool) {
        let held = self.shard_set.owned();
        if self.release_shards(&held, in_doubt).await.is_ok() {
            let _ = self.write(|tables| tables.leases.deregister(&self.shard_set, self.in_doubt(tables))).await;
        }
    }

    /// What may have been cut short is in doubt, as `leases::give_up_shards` has it.
    pub(super) fn in_doubt(&self, tables: &Tables) -> InDoubt {
        InDoubt { events_to: tables.last_event(), due_to: self.world.true_now().max(self.wall()) }
    }
}
