//! The transactions of a simulated store: they draw numbers in order, end in any order, and keep rows locked until
//! then. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::shard::ShardNum;
use crate::store::leases::Snapshot;

/// Mirrors `leases::SILENCE`.
const SILENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Default)]
pub(crate) struct Transactions {
    last: u64,
    open: BTreeMap<u64, Open>,
}

/// A transaction under way.
#[derive(Clone)]
struct Open {
    node: Option<i64>,
    /// Locked `FOR SHARE`.
    shards: BTreeSet<ShardNum>,
    began: Duration,
}

impl Transactions {
    pub(super) fn begin(&mut self, node: Option<i64>, shards: BTreeSet<ShardNum>, began: Duration) -> u64 {
        self.last += 1;
        self.open.insert(self.last, Open { node, shards, began });
        self.last
    }

    /// Ends the transaction, committed or not. Returns whether the server still had it.
    pub(crate) fn end(&mut self, transaction: u64) -> bool {
        self.open.remove(&transaction).is_some()
    }

    /// A server that takes over has no transaction under way, and counts on from the last one that it has.
    pub(crate) fn fail_over(&mut self) {
        self.open.clear();
    }

    /// A new cluster has counted up to `last`.
    pub(crate) fn begin_anew(&mut self, last: u64) {
        *self = Self { last, open: BTreeMap::new() };
    }

    /// Mirrors `idle_in_transaction_session_timeout`.
    pub(crate) fn end_silent(&mut self, now: Duration) {
        self.open.retain(|_, open| open.began + SILENCE > now);
    }

    /// Whether a batch of this node keeps others from reaping it.
    pub(crate) fn has_node(&self, node: i64) -> bool {
        self.open.values().any(|open| open.node == Some(node))
    }

    /// Whether a batch keeps others from changing this shard.
    pub(crate) fn has_shard(&self, shard: ShardNum) -> bool {
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
