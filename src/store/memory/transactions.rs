//! The transactions of the database in memory: they draw numbers in order, end in any order, and keep rows locked until
//! then. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::leases::Snapshot;

/// Mirrors `leases::SILENCE`.
const SILENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Default)]
pub(crate) struct Transactions {
    /// Rises when another server takes over, which knows no transaction of the one before.
    server: u32,
    last: u64,
    open: BTreeMap<u64, Open>,
    /// Those that were not committed.
    undone: BTreeSet<u64>,
    /// Tells those who wait for a lock that a transaction has ended.
    ended: Arc<Notify>,
}

/// A transaction of one server; two servers may give the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TransactionKey {
    server: u32,
    pub(super) number: u64,
}

/// A transaction under way.
#[derive(Clone)]
struct Open {
    node: Option<i64>,
    /// Locked `FOR SHARE`.
    shards: BTreeSet<ShardNum>,
    began: UnixMillis,
}

impl Transactions {
    /// Begins a transaction that keeps this node from being reaped, and these shards from being acquired.
    pub(super) fn begin(&mut self, node: Option<i64>, shards: BTreeSet<ShardNum>, began: UnixMillis) -> TransactionKey {
        self.last += 1;
        self.open.insert(self.last, Open { node, shards, began });
        TransactionKey { server: self.server, number: self.last }
    }

    /// Ends the transaction. Returns whether the server still had it.
    pub(crate) fn end(&mut self, transaction: TransactionKey, is_committed: bool) -> bool {
        let TransactionKey { server, number } = transaction;
        if server != self.server || self.open.remove(&number).is_none() {
            return false;
        }
        if !is_committed {
            self.undone.insert(number);
        }
        self.ended.notify_waiters();
        true
    }

    /// Mirrors `pg_xact_status`: whether the transaction was committed; `None` if it is under way.
    pub(super) fn status(&self, number: u64) -> Option<bool> {
        let is_over = !self.open.contains_key(&number);
        is_over.then(|| number <= self.last && !self.undone.contains(&number))
    }

    /// Is notified when a transaction ends.
    pub(super) fn ended(&self) -> Arc<Notify> {
        self.ended.clone()
    }

    /// A server that takes over from `primary` has no transaction under way, and counts on from the last one that it
    /// has.
    pub(super) fn fail_over(&mut self, primary: &Self) {
        self.server = primary.server + 1;
        self.undone.extend(std::mem::take(&mut self.open).into_keys());
        self.ended.notify_waiters();
    }

    /// A new cluster, in place of `lost`, has counted up to `last`.
    pub(super) fn begin_anew(&mut self, lost: &Self, last: u64) {
        *self = Self { server: lost.server + 1, last, ended: self.ended.clone(), ..Self::default() };
        self.ended.notify_waiters();
    }

    /// Mirrors `idle_in_transaction_session_timeout`.
    pub(crate) fn end_silent(&mut self, now: UnixMillis) {
        let silent = self.open.extract_if(.., |_, open| open.began.plus(SILENCE) <= now);
        let before = self.undone.len();
        self.undone.extend(silent.map(|(number, _)| number));
        if self.undone.len() > before {
            self.ended.notify_waiters();
        }
    }

    /// Whether a batch of this node keeps others from reaping it.
    pub(super) fn has_node(&self, node: i64) -> bool {
        self.open.values().any(|open| open.node == Some(node))
    }

    /// Whether a batch keeps others from changing this shard.
    pub(super) fn has_shard(&self, shard: ShardNum) -> bool {
        self.open.values().any(|open| open.shards.contains(&shard))
    }

    /// Mirrors `pg_current_snapshot()`.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let to = self.last + 1;
        let from = self.open.keys().next().copied().unwrap_or(to);
        let under_way: Vec<String> = self.open.keys().map(u64::to_string).collect();
        Snapshot::parse(&format!("{from}:{to}:{}", under_way.join(","))).expect("a valid snapshot")
    }
}
