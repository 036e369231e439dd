//! The rows of nodes and shards of a store that is simulated, with the statements that change them. Each says what it
//! mirrors; `now` is the database's clock. Whether somebody has rows locked, the caller sees to. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::UnixMillis;
use crate::id::{Slot, WebhookNum};
use crate::store::state::Suspect;

use super::{Grant, Holding, Locked, Node, SHARDS, ShardNum, Survey};

#[derive(Default)]
pub(crate) struct Leases {
    nodes: BTreeMap<i64, Row>,
    /// Those that somebody may take; there is no webhook in any other.
    shards: BTreeMap<ShardNum, Shard>,
    joined: i64,
}

struct Row {
    slot: Slot,
    until: UnixMillis,
}

struct Shard {
    owner: Option<i64>,
    epoch: i64,
    suspect: Suspect,
}

impl Leases {
    pub(crate) fn of(shards: impl IntoIterator<Item = ShardNum>) -> Self {
        let free = || Shard { owner: None, epoch: 0, suspect: Suspect::NOTHING };
        Self { shards: shards.into_iter().map(|shard| (shard, free())).collect(), ..Self::default() }
    }

    /// `Store::join`.
    pub(crate) fn join(&mut self, now: UnixMillis, lease: Duration) -> Holding {
        self.joined += 1;
        let is_free = |slot: &u8| self.nodes.values().all(|node| node.slot != Slot(*slot));
        let slot = Slot((0..=u8::MAX).find(is_free).expect("there are few nodes"));
        self.nodes.insert(self.joined, Row { slot, until: now.plus(lease) });
        Holding::nothing(self.joined, slot)
    }

    /// `Store::survey`.
    pub(crate) fn survey(&self, now: UnixMillis) -> Survey {
        let node = |(num, row): (&i64, &Row)| Node {
            num: *num,
            name: String::new(),
            address: None,
            started_at: now,
            lease_until: row.until,
            lives: row.until > now,
        };
        let mut shards = vec![(None, 0); SHARDS];
        for (shard, Shard { owner, epoch, .. }) in &self.shards {
            shards[shard.place()] = (*owner, *epoch);
        }
        Survey { nodes: self.nodes.iter().map(node).collect(), shards }
    }

    /// `Store::bury`.
    pub(crate) fn bury(&mut self, node: i64, now: UnixMillis, doubt: Suspect) -> bool {
        if self.nodes.get(&node).is_some_and(|row| row.until > now) {
            return false;
        }
        self.give_up(node, |_| true, Some(doubt));
        self.nodes.remove(&node);
        true
    }

    /// `Store::take`.
    pub(crate) fn take(&mut self, holding: &Holding, wanted: &[ShardNum], now: UnixMillis) -> Vec<Grant> {
        let Some(node) = holding.node() else { return Vec::new() };
        if self.nodes.get(&node).is_none_or(|row| row.until <= now) {
            return Vec::new();
        }
        let free = self.shards.iter_mut().filter(|(num, shard)| wanted.contains(num) && shard.owner.is_none());
        free.map(|(num, shard)| {
            (shard.owner, shard.epoch) = (Some(node), shard.epoch + 1);
            Grant { shard: *num, epoch: shard.epoch, suspect: shard.suspect }
        })
        .collect()
    }

    /// `Store::release`; `doubt`: what may have been cut short.
    pub(crate) fn release(&mut self, holding: &Holding, shards: &[ShardNum], doubt: Option<Suspect>) {
        if let Some(node) = holding.node() {
            self.give_up(node, |shard| shards.contains(&shard), doubt);
        }
    }

    /// `give_up`.
    fn give_up(&mut self, node: i64, which: impl Fn(ShardNum) -> bool, doubt: Option<Suspect>) {
        let its = self.shards.iter_mut().filter(|(num, shard)| which(**num) && shard.owner == Some(node));
        for (_, shard) in its {
            (shard.owner, shard.epoch) = (None, shard.epoch + 1);
            shard.suspect = doubt.map_or(shard.suspect, |doubt| shard.suspect.and(doubt));
        }
    }

    /// `Store::suspect_shard`.
    pub(crate) fn suspect(&mut self, webhook: WebhookNum, suspect: Suspect) {
        if let Some(shard) = self.shards.get_mut(&ShardNum::of(webhook)) {
            shard.suspect = shard.suspect.and(suspect);
        }
    }

    /// `Store::leave`.
    pub(crate) fn leave(&mut self, holding: &Holding, doubt: Suspect) {
        if let Some(node) = holding.node() {
            self.nodes.remove(&node);
            self.give_up(node, |_| true, Some(doubt));
        }
    }

    /// `Store::renew`.
    pub(crate) fn renew(&mut self, holding: &Holding, now: UnixMillis, lease: Duration) -> bool {
        let row = holding.node().and_then(|node| self.nodes.get_mut(&node));
        row.map(|row| row.until = now.plus(lease)).is_some()
    }

    /// What `Holding::lock` answers: whether the node is there, and which of these shards are not held as it believes.
    pub(in crate::store) fn lock(&self, holding: &Holding, shards: &BTreeSet<ShardNum>) -> Locked {
        let Some(node) = holding.node() else { return Locked::default() };
        let is_buried = !self.nodes.contains_key(&node);
        let is_held = |shard: &ShardNum| {
            let row = self.shards.get(shard).map(|row| (row.owner, row.epoch));
            row == Some((Some(node), holding.epoch_of(shard.num())))
        };
        let lost = shards.iter().filter(|shard| is_buried || !is_held(shard)).copied().collect();
        Locked { is_buried, lost, ..Locked::default() }
    }

    /// Who holds the shard of this webhook.
    pub(crate) fn owner(&self, webhook: WebhookNum) -> Option<i64> {
        self.shards.get(&ShardNum::of(webhook)).and_then(|shard| shard.owner)
    }

    /// The shards that there are, with their owners.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (ShardNum, Option<i64>)> {
        self.shards.iter().map(|(num, shard)| (*num, shard.owner))
    }

    /// When the lease of a node that is there ends.
    pub(crate) fn until(&self, node: i64) -> Option<UnixMillis> {
        self.nodes.get(&node).map(|row| row.until)
    }
}
