//! What this process owns, as everything in it sees it: the shards that it may write for, which of them it serves, and
//! what an earlier owner may have sent. After the database has lost transactions, the set is empty until the node has
//! joined again.
//!
//! Every part reads the set. The engine's start notes what is in doubt where the process has the database alone. The
//! cluster member stops serving shards. The journal's writer activates and detaches them between two batches, and joins
//! again. The statements of `leases` note renewals and judge each server that answers: one that lacks transactions ends
//! all serving.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::domain::id::{EventSeq, Slot, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::shard::{SHARDS, ShardNum};

use super::AcquiredShard;
use super::server::{Continuity, Server};
use super::snapshot::Snapshot;

/// Bits of a tag that hold the epoch: a shard changes its owner less often than that in the life of a database.
const EPOCH_BITS: u32 = 40;

/// The errors of a query that was answered by a server that this node must not rely on.
pub(super) const DIVERGED: &str = "the server lacks transactions that this node has seen; this node joins again";
pub(super) const SUPERSEDED: &str = "the server was left behind by a promotion; its answers are not used";

/// The shards that this process owns. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ShardSet(Arc<Ownership>);

#[derive(Debug)]
enum Ownership {
    /// No other process uses the database.
    Everything(RwLock<InDoubt>),
    Part(OwnedShards),
}

#[derive(Debug)]
struct OwnedShards {
    /// When both are locked, `member` is locked first.
    member: RwLock<Membership>,
    shards: RwLock<Box<[Option<OwnedShard>; SHARDS]>>,
    /// Set when a server has answered that lacks transactions which this node has seen, until the node has joined
    /// again.
    has_diverged: watch::Sender<bool>,
    /// How often the node has joined again; a shard may get an epoch that it had in the lost history.
    rejoined: AtomicI64,
}

/// A node's identity in one history of the database.
#[derive(Debug, Clone)]
pub struct Membership {
    pub(super) node: i64,
    pub(super) slot: Slot,
    /// Together with the number, tells this node from another one that got the same number in another history.
    pub(super) started_at: i64,
    /// The end of the lease, as of the last renewal that was answered.
    pub(super) lease_until: i64,
    pub(super) server: Server,
    /// The newest event that was visible when the node joined.
    pub(crate) newest: EventSeq,
}

#[derive(Debug, Clone)]
struct OwnedShard {
    epoch: i64,
    /// Tells two ownerships of the shard by this process apart: the epoch, unique also over rejoins.
    tag: i64,
    /// False once a hand-off of the shard has begun.
    serves: bool,
    in_doubt: InDoubt,
    /// The snapshot in which it was read what the shard's webhooks are owed.
    activated_at: Arc<Snapshot>,
}

impl ShardSet {
    /// The set of a process that has the database alone.
    #[must_use]
    pub fn everything() -> Self {
        Self(Arc::new(Ownership::Everything(RwLock::new(InDoubt::NOTHING))))
    }

    /// The set of a node that has just joined.
    pub(super) fn nothing(member: Membership) -> Self {
        let shards = RwLock::new(Box::new([const { None }; SHARDS]));
        let (member, has_diverged) = (RwLock::new(member), watch::Sender::new(false));
        Self(Arc::new(Ownership::Part(OwnedShards { member, shards, has_diverged, rejoined: AtomicI64::new(0) })))
    }

    fn among_others(&self) -> Option<&OwnedShards> {
        match self.0.as_ref() {
            Ownership::Everything(_) => None,
            Ownership::Part(owned) => Some(owned),
        }
    }

    /// This node's number; `None` if the process has the database alone.
    #[must_use]
    pub fn node(&self) -> Option<i64> {
        self.among_others().map(|owned| owned.member.read().node)
    }

    /// The slot in the keys of this node's events.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.among_others().map_or(Slot::ALONE, |owned| owned.member.read().slot)
    }

    /// The shard of the fan-out row that lists this webhook.
    #[must_use]
    pub fn part_of(&self, webhook: WebhookNum) -> ShardNum {
        match self.among_others() {
            None => ShardNum::WHOLE,
            Some(_) => ShardNum::of(webhook),
        }
    }

    /// Whether this node sends what the webhook is owed.
    #[must_use]
    pub fn serves(&self, webhook: WebhookNum) -> bool {
        self.serves_shard(ShardNum::of(webhook))
    }

    /// Whether this node serves the webhook and no other node has owned the shard since it got this tag.
    #[must_use]
    pub fn serves_under(&self, webhook: WebhookNum, tag: i64) -> bool {
        let is_same = self.owned_shard(ShardNum::of(webhook), |shard| shard.serves && shard.tag == tag);
        is_same.unwrap_or(self.among_others().is_none())
    }

    /// The tag under which this node owns the shard; 0 if it does not, or if the process has the database alone.
    #[must_use]
    pub fn tag_of(&self, shard: ShardNum) -> i64 {
        self.owned_shard(shard, |shard| shard.tag).unwrap_or(0)
    }

    #[must_use]
    pub fn serves_shard(&self, shard: ShardNum) -> bool {
        self.owned_shard(shard, |shard| shard.serves).unwrap_or(self.among_others().is_none())
    }

    /// Whether only this node may write for the shard.
    #[must_use]
    pub fn owns(&self, shard: ShardNum) -> bool {
        self.owned_shard(shard, |_| ()).is_some() || self.among_others().is_none()
    }

    /// The shards that this node serves, in order; none if the process has the database alone.
    #[must_use]
    pub fn served(&self) -> Vec<ShardNum> {
        let Some(owned) = self.among_others() else { return Vec::new() };
        let shards = owned.shards.read();
        ShardNum::all().filter(|shard| shards[shard.place()].as_ref().is_some_and(|shard| shard.serves)).collect()
    }

    /// The shards that this node owns, in order; none if the process has the database alone.
    #[must_use]
    pub fn owned(&self) -> Vec<ShardNum> {
        let Some(owned) = self.among_others() else { return Vec::new() };
        let shards = owned.shards.read();
        ShardNum::all().filter(|shard| shards[shard.place()].is_some()).collect()
    }

    /// The shards that this node owns, with their epochs.
    #[must_use]
    pub fn owned_with_epochs(&self) -> Vec<(ShardNum, i64)> {
        let Some(owned) = self.among_others() else { return Vec::new() };
        let shards = owned.shards.read();
        let epoch = |shard: ShardNum| shards[shard.place()].as_ref().map(|owned| (shard, owned.epoch));
        ShardNum::all().filter_map(epoch).collect()
    }

    /// What an earlier owner may have sent to this webhook without recording it.
    #[must_use]
    pub fn in_doubt_of(&self, webhook: WebhookNum) -> InDoubt {
        match self.0.as_ref() {
            Ownership::Everything(in_doubt) => *in_doubt.read(),
            Ownership::Part(_) => {
                self.owned_shard(ShardNum::of(webhook), |shard| shard.in_doubt).unwrap_or(InDoubt::NOTHING)
            }
        }
    }

    /// Whether another node has accepted the event since this node activated the shard: the snapshot of the activation
    /// does not show the transaction that wrote the fan-out.
    #[must_use]
    pub fn is_new_from_peer(&self, shard: ShardNum, transaction: u64, event: EventSeq) -> bool {
        let had = self.owned_shard(shard, |shard| shard.activated_at.shows(transaction)).unwrap_or(true);
        !had && event.slot() != self.slot()
    }

    fn owned_shard<T>(&self, shard: ShardNum, look: impl FnOnce(&OwnedShard) -> T) -> Option<T> {
        self.among_others()?.shards.read()[shard.place()].as_ref().map(look)
    }

    /// Sets what the previous process may have sent; only where the process has the database alone.
    pub(crate) fn set_in_doubt(&self, in_doubt: InDoubt) {
        if let Ownership::Everything(known) = self.0.as_ref() {
            *known.write() = in_doubt;
        }
    }

    /// Serves these shards from now on.
    pub(crate) fn activate(&self, acquired: &[AcquiredShard], activated_at: &Arc<Snapshot>) {
        let Some(owned) = self.among_others() else { return };
        let mut shards = owned.shards.write();
        let rejoined = owned.rejoined.load(Ordering::Relaxed);
        // A shard that was being acquired when the server was found to have diverged is not served.
        let serves = !*owned.has_diverged.borrow();
        for AcquiredShard { shard, epoch, in_doubt } in acquired {
            let (epoch, in_doubt, activated_at) = (*epoch, *in_doubt, activated_at.clone());
            let tag = epoch + (rejoined << EPOCH_BITS);
            shards[shard.place()] = Some(OwnedShard { epoch, tag, serves, in_doubt, activated_at });
        }
    }

    /// Stops serving these shards: nothing begins for them any more.
    pub fn stop_serving(&self, stopped: &[ShardNum]) {
        let Some(owned) = self.among_others() else { return };
        let mut shards = owned.shards.write();
        for shard in stopped {
            if let Some(shard) = &mut shards[shard.place()] {
                shard.serves = false;
            }
        }
    }

    /// Forgets these shards, so that other nodes may own them.
    pub(crate) fn detach(&self, detached: &[ShardNum]) {
        let Some(owned) = self.among_others() else { return };
        let mut shards = owned.shards.write();
        for shard in detached {
            shards[shard.place()] = None;
        }
    }

    /// The node's identity; `None` if the process has the database alone.
    pub(super) fn membership(&self) -> Option<Membership> {
        self.among_others().map(|owned| owned.member.read().clone())
    }

    /// The epoch that the shard's row must have for this node to own it.
    pub(super) fn epoch_in_row(&self, shard: ShardNum) -> Option<i64> {
        self.owned_shard(shard, |shard| shard.epoch)
    }

    /// Pretends that the known server has an older timeline.
    #[cfg(test)]
    pub(crate) fn pretend_a_promotion(&self) {
        if let Some(owned) = self.among_others() {
            let server = &mut owned.member.write().server;
            (server.timeline, server.started) = (0, "before".to_owned());
        }
    }

    /// Whether a server has answered that lacks transactions which this node has seen. Nothing is written for owned
    /// shards then.
    #[must_use]
    pub fn has_diverged(&self) -> bool {
        self.among_others().is_some_and(|owned| *owned.has_diverged.borrow())
    }

    /// Resolves once [`Self::has_diverged`] is true.
    pub async fn diverged(&self) {
        match self.among_others() {
            Some(owned) => drop(owned.has_diverged.subscribe().wait_for(|has_diverged| *has_diverged).await),
            None => std::future::pending().await,
        }
    }

    /// The node has joined again, and owns no shard yet.
    pub(crate) fn rejoin(&self, member: Membership) {
        let Some(owned) = self.among_others() else { return };
        owned.rejoined.fetch_add(1, Ordering::Relaxed);
        **owned.shards.write() = [const { None }; SHARDS];
        *owned.member.write() = member;
        owned.has_diverged.send_replace(false);
    }

    /// The lease was renewed by the known server.
    pub(super) fn renewed(&self, lease_until: i64, flushed: i64) {
        let Some(owned) = self.among_others() else { return };
        let mut member = owned.member.write();
        member.lease_until = lease_until;
        member.server.flushed = member.server.flushed.max(flushed);
    }

    /// Judges the server that has answered, and keeps the result. `lease_there`: the end of this node's lease in its
    /// rows.
    pub(super) fn judge(&self, now: Server, lease_there: Option<i64>) -> Continuity {
        let Some(owned) = self.among_others() else { return Continuity::Unbroken };
        let mut member = owned.member.write();
        let continuity = member.server.continuity(&now, (member.lease_until, lease_there));
        match continuity {
            Continuity::Unbroken => member.server = now,
            Continuity::Diverged => {
                let was_known = owned.has_diverged.send_replace(true);
                // The server's rows may owe deliveries that were sent already. `has_diverged` is set first, so that
                // shards which are being acquired now are not served either.
                owned.shards.write().iter_mut().flatten().for_each(|shard| shard.serves = false);
                if !was_known {
                    tracing::error!(known = ?member.server, ?now, "{DIVERGED}");
                }
            }
            Continuity::Superseded => tracing::warn!(known = ?member.server, ?now, "{SUPERSEDED}"),
        }
        continuity
    }

    /// When the server that this node relies on was started, as `server::STARTED` has it.
    pub(in crate::store) fn server_started(&self) -> Option<String> {
        self.among_others().map(|owned| owned.member.read().server.started.clone())
    }

    /// Whether the process has the database alone, so that there is no lock to take.
    pub(crate) fn is_everything(&self) -> bool {
        self.among_others().is_none()
    }
}
