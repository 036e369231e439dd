//! The rows of nodes and shards in the database in memory, with the statements that change them. Each names what it
//! mirrors; `now` is by the database's clock. The caller sees to locks. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::id::{EventSeq, Slot, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::shard::{SHARDS, ShardNum};
use crate::store::StoreError;

use super::server::{Continuity, Server};
use super::{AcquiredShard, Locked, Membership, Node, Renewal, ShardSet, Survey};

#[derive(Clone)]
pub(crate) struct Leases {
    nodes: BTreeMap<i64, Row>,
    /// The shards in use; no webhook of the simulation is in any other.
    shards: BTreeMap<ShardNum, Shard>,
    joined: i64,
    /// Counts nodes over all histories: no two start at the same moment.
    starts: i64,
    server: Server,
}

#[derive(Clone)]
struct Row {
    name: String,
    address: Option<String>,
    slot: Slot,
    until: UnixMillis,
    started_at: i64,
}

/// A node that joins.
pub(crate) struct Joining<'a> {
    pub(crate) name: &'a str,
    pub(crate) address: Option<&'a str>,
    /// The end of its first lease.
    pub(crate) until: UnixMillis,
    /// The newest event that is visible.
    pub(crate) newest: EventSeq,
}

#[derive(Clone)]
struct Shard {
    owner: Option<i64>,
    epoch: i64,
    in_doubt: InDoubt,
}

impl Default for Leases {
    fn default() -> Self {
        let server = Server { started: String::new(), system: 1, timeline: 1, flushed: 0 };
        Self { nodes: BTreeMap::new(), shards: BTreeMap::new(), joined: 0, starts: 0, server }
    }
}

impl Leases {
    pub(crate) fn of(shards: impl IntoIterator<Item = ShardNum>) -> Self {
        let free = || Shard { owner: None, epoch: 0, in_doubt: InDoubt::NOTHING };
        Self { shards: shards.into_iter().map(|shard| (shard, free())).collect(), ..Self::default() }
    }

    /// The rows on a standby that takes over from `primary`.
    pub(crate) fn promote(&mut self, primary: &Self) {
        let Server { system, timeline, .. } = primary.server;
        self.server = Server { started: format!("{timeline}"), system, timeline: timeline + 1, flushed: 0 };
        self.starts = primary.starts;
        // A standby's sequences are at or ahead of the primary's, as a rule.
        self.joined = primary.joined;
    }

    /// The rows in a new cluster that was filled from `dumped`.
    pub(crate) fn restore(&mut self, dumped: &Self) {
        self.server.system = dumped.server.system + 1;
        self.starts = dumped.starts;
    }

    /// Mirrors `of_known_server` of `deliveries::due`: whether rows of this server may be used, as far as their answer
    /// tells.
    pub(crate) fn is_answer_of_known(&self, shard_set: &ShardSet) -> bool {
        shard_set.server_started().is_none_or(|known| known == self.server.started)
    }

    /// Mirrors `ShardSet::must_be_unbroken`.
    pub(crate) fn must_be_unbroken(&self, shard_set: &ShardSet) -> Result<(), StoreError> {
        match self.continuity(shard_set) {
            Continuity::Unbroken if !shard_set.has_diverged() => Ok(()),
            Continuity::Unbroken | Continuity::Diverged | Continuity::Superseded => {
                Err(StoreError::Database("another server has answered".to_owned()))
            }
        }
    }

    /// Whether the node knows this server.
    pub(crate) fn is_known_to(&self, shard_set: &ShardSet) -> bool {
        shard_set.membership().is_none_or(|member| member.server == self.server) && !shard_set.has_diverged()
    }

    /// Mirrors `ShardSet::continuity`.
    pub(crate) fn continuity(&self, shard_set: &ShardSet) -> Continuity {
        let Some(member) = shard_set.membership() else { return Continuity::Unbroken };
        if member.server == self.server {
            return Continuity::Unbroken;
        }
        shard_set.judge(self.server.clone(), self.row_of(shard_set).map(|(_, row)| row.until.0))
    }

    /// Mirrors `Store::join`.
    pub(crate) fn join(&mut self, joining: &Joining<'_>) -> ShardSet {
        ShardSet::nothing(self.insert_node(joining, None))
    }

    /// Mirrors `Store::rejoin`.
    pub(crate) fn rejoin(&mut self, shard_set: &ShardSet, joining: &Joining<'_>, in_doubt: InDoubt) -> Membership {
        self.deregister(shard_set, in_doubt);
        let held = shard_set.owned();
        for (_, row) in self.shards.iter_mut().filter(|(num, row)| held.contains(num) || row.owner.is_none()) {
            row.in_doubt = row.in_doubt.and(in_doubt);
        }
        self.insert_node(joining, Some(shard_set.slot()))
    }

    fn insert_node(&mut self, joining: &Joining<'_>, preferred: Option<Slot>) -> Membership {
        let Joining { name, address, until, newest } = *joining;
        (self.joined, self.starts) = (self.joined + 1, self.starts + 1);
        let is_free = |slot: &u8| self.nodes.values().all(|node| node.slot != Slot(*slot));
        let first = preferred.unwrap_or(Slot((self.joined - 1).to_le_bytes()[0]));
        let mut slots = (0..=u8::MAX).map(|by| first.0.wrapping_add(by));
        let slot = Slot(slots.find(is_free).expect("fewer than 256 nodes"));
        let (node, started_at, server) = (self.joined, self.starts, self.server.clone());
        let (name, address) = (name.to_owned(), address.map(str::to_owned));
        self.nodes.insert(node, Row { name, address, slot, until, started_at });
        Membership { node, slot, started_at, lease_until: until.0, server, newest }
    }

    /// Mirrors `Store::survey`.
    pub(crate) fn survey(&self, now: UnixMillis) -> Survey {
        let node = |(num, row): (&i64, &Row)| Node {
            num: *num,
            name: row.name.clone(),
            address: row.address.clone(),
            started_at: UnixMillis(row.started_at),
            lease_until: row.until,
            is_alive: row.until > now,
        };
        let mut shards = vec![(None, 0); SHARDS];
        for (shard, Shard { owner, epoch, .. }) in &self.shards {
            shards[shard.place()] = (*owner, *epoch);
        }
        Survey { nodes: self.nodes.iter().map(node).collect(), shards }
    }

    /// Mirrors `Store::reap_expired`.
    pub(crate) fn reap_expired(&mut self, node: i64, now: UnixMillis, in_doubt: InDoubt) -> bool {
        if self.nodes.get(&node).is_some_and(|row| row.until > now) {
            return false;
        }
        self.give_up(node, |_| true, Some(in_doubt));
        self.nodes.remove(&node);
        true
    }

    /// Mirrors `Store::acquire`.
    pub(crate) fn acquire(&mut self, shard_set: &ShardSet, wanted: &[ShardNum], now: UnixMillis) -> Vec<AcquiredShard> {
        let Some(node) = self.row_of(shard_set).filter(|(_, row)| row.until > now).map(|(node, _)| node) else {
            return Vec::new();
        };
        let free = self.shards.iter_mut().filter(|(num, shard)| wanted.contains(num) && shard.owner.is_none());
        free.map(|(num, shard)| {
            (shard.owner, shard.epoch) = (Some(node), shard.epoch + 1);
            AcquiredShard { shard: *num, epoch: shard.epoch, in_doubt: shard.in_doubt }
        })
        .collect()
    }

    /// Mirrors `Store::release`; `in_doubt`: what may have been cut short.
    pub(crate) fn release(&mut self, shard_set: &ShardSet, shards: &[ShardNum], in_doubt: Option<InDoubt>) {
        if let Some((node, _)) = self.row_of(shard_set) {
            self.give_up(node, |shard| shards.contains(&shard), in_doubt);
        }
    }

    /// The row of this node, not of another one that got its number.
    fn row_of(&self, shard_set: &ShardSet) -> Option<(i64, &Row)> {
        let me = shard_set.membership()?;
        self.nodes.get(&me.node).filter(|row| row.started_at == me.started_at).map(|row| (me.node, row))
    }

    /// Mirrors `give_up_shards`.
    fn give_up(&mut self, node: i64, which: impl Fn(ShardNum) -> bool, in_doubt: Option<InDoubt>) {
        let its = self.shards.iter_mut().filter(|(num, shard)| which(**num) && shard.owner == Some(node));
        for (_, shard) in its {
            (shard.owner, shard.epoch) = (None, shard.epoch + 1);
            shard.in_doubt = in_doubt.map_or(shard.in_doubt, |in_doubt| shard.in_doubt.and(in_doubt));
        }
    }

    /// Marks every shard, as `Store::adopt_foreign_rows` does.
    pub(crate) fn mark_all_in_doubt(&mut self, in_doubt: InDoubt) {
        self.shards.values_mut().for_each(|shard| shard.in_doubt = shard.in_doubt.and(in_doubt));
    }

    /// Mirrors `Store::mark_shard_in_doubt`.
    pub(crate) fn mark_in_doubt(&mut self, webhook: WebhookNum, in_doubt: InDoubt) {
        if let Some(shard) = self.shards.get_mut(&ShardNum::of(webhook)) {
            shard.in_doubt = shard.in_doubt.and(in_doubt);
        }
    }

    /// Mirrors `Store::deregister`.
    pub(crate) fn deregister(&mut self, shard_set: &ShardSet, in_doubt: InDoubt) {
        if let Some((node, _)) = self.row_of(shard_set) {
            self.nodes.remove(&node);
            self.give_up(node, |_| true, Some(in_doubt));
        }
    }

    /// Mirrors `Store::renew`.
    pub(crate) fn renew(&mut self, shard_set: &ShardSet, now: UnixMillis, lease: Duration) -> Renewal {
        let Some(member) = shard_set.membership() else { return Renewal::Renewed };
        let continuity = self.continuity(shard_set);
        let row = self.nodes.get_mut(&member.node).filter(|row| row.started_at == member.started_at);
        let until = row.map(|row| {
            row.until = now.plus(lease);
            row.until
        });
        if continuity != Continuity::Unbroken || shard_set.has_diverged() {
            return Renewal::Diverged;
        }
        until.map_or(Renewal::Reaped, |until| {
            shard_set.renewed(until.0, 0);
            Renewal::Renewed
        })
    }

    /// Mirrors `ShardSet::lock`: whether the node is there, and which of these shards it does not own as it believes.
    pub(crate) fn lock(&self, shard_set: &ShardSet, shards: &BTreeSet<ShardNum>) -> Locked {
        let Some(node) = shard_set.node() else { return Locked::default() };
        let has_diverged = self.continuity(shard_set) != Continuity::Unbroken || shard_set.has_diverged();
        let is_reaped = has_diverged || !self.nodes.contains_key(&node);
        let is_held = |shard: &ShardNum| {
            let row = self.shards.get(shard).map(|row| (row.owner, row.epoch));
            row == Some((Some(node), shard_set.epoch_in_row(*shard).unwrap_or(-1)))
        };
        let lost = shards.iter().filter(|shard| is_reaped || !is_held(shard)).copied().collect();
        Locked { is_reaped, lost, ..Locked::default() }
    }

    /// The owner of this webhook's shard.
    pub(crate) fn owner(&self, webhook: WebhookNum) -> Option<i64> {
        self.shards.get(&ShardNum::of(webhook)).and_then(|shard| shard.owner)
    }

    /// The shards in use, with their owners.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (ShardNum, Option<i64>)> {
        self.shards.iter().map(|(num, shard)| (*num, shard.owner))
    }

    /// Whether the node has not been reaped or deregistered.
    pub(crate) fn has_node(&self, node: i64) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Ends the leases of all nodes.
    pub(crate) fn expire(&mut self) {
        self.nodes.values_mut().for_each(|row| row.until = UnixMillis(1));
    }

    /// Those of these shards that the node owns.
    pub(crate) fn owned_among(&self, node: Option<i64>, shards: &[ShardNum]) -> Vec<ShardNum> {
        let is_owned = |shard: &ShardNum| self.shards.get(shard).is_some_and(|row| row.owner == node);
        shards.iter().copied().filter(|shard| node.is_some() && is_owned(shard)).collect()
    }
}
