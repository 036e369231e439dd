//! Orders the waiters of one part: tenants in turn, within a tenant its webhooks in turn, within a webhook first come,
//! first served. Pure: the bulkhead asks for the next one.
//!
//! A tenant delays each other tenant by one turn at most, however many requests it brings, and so does a webhook within
//! its tenant. A tenant or webhook without waiters has no entry: an empty queue takes no memory.

use std::collections::BTreeMap;

use crate::domain::id::{TenantNum, WebhookNum};

/// A waiter's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) tenant: TenantNum,
    pub(super) webhook: WebhookNum,
    /// Ascends in the order of arrival; never used twice.
    pub(super) number: u64,
}

/// Waiters by number, that is in the order of arrival.
type Queue<W> = BTreeMap<u64, W>;

#[derive(Debug)]
pub(super) struct FairQueue<W> {
    tenants: Ring<TenantNum, Ring<WebhookNum, Queue<W>>>,
    waiting: usize,
}

impl<W> FairQueue<W> {
    pub(super) fn new() -> Self {
        Self { tenants: Ring::new(), waiting: 0 }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn join(&mut self, spot: Spot, waiter: W) {
        let webhooks = self.tenants.member(spot.tenant, Ring::new);
        webhooks.member(spot.webhook, Queue::new).insert(spot.number, waiter);
        self.waiting += 1;
    }

    /// Takes out the waiter that is served next.
    pub(super) fn next(&mut self) -> Option<W> {
        let (tenant, webhooks) = self.tenants.turn()?;
        let (webhook, queue) = webhooks.turn()?;
        let number = *queue.first_key_value()?.0;
        self.leave(Spot { tenant, webhook, number })
    }

    /// Takes out the waiter at `spot`.
    pub(super) fn leave(&mut self, spot: Spot) -> Option<W> {
        let webhooks = self.tenants.get(spot.tenant)?;
        let queue = webhooks.get(spot.webhook)?;
        let waiter = queue.remove(&spot.number)?;
        if queue.is_empty() {
            webhooks.leave(spot.webhook);
        }
        if webhooks.is_empty() {
            self.tenants.leave(spot.tenant);
        }
        self.waiting -= 1;
        Some(waiter)
    }
}

/// Members that take turns. A new member joins at the end.
#[derive(Debug)]
struct Ring<K, V> {
    members: BTreeMap<K, Branch<V>>,
    order: BTreeMap<u64, K>,
    next_turn: u64,
}

#[derive(Debug)]
struct Branch<V> {
    turn: u64,
    value: V,
}

impl<K: Copy + Ord, V> Ring<K, V> {
    fn new() -> Self {
        Self { members: BTreeMap::new(), order: BTreeMap::new(), next_turn: 0 }
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn get(&mut self, key: K) -> Option<&mut V> {
        self.members.get_mut(&key).map(|member| &mut member.value)
    }

    /// The member for `key`; a new one joins at the end.
    fn member(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        let member = self.members.entry(key).or_insert_with(|| {
            let turn = self.next_turn;
            self.next_turn += 1;
            self.order.insert(turn, key);
            Branch { turn, value: new() }
        });
        &mut member.value
    }

    /// The member whose turn it is; it moves to the end.
    fn turn(&mut self) -> Option<(K, &mut V)> {
        let (_, key) = self.order.pop_first()?;
        let member = self.members.get_mut(&key)?;
        member.turn = self.next_turn;
        self.next_turn += 1;
        self.order.insert(member.turn, key);
        Some((key, &mut member.value))
    }

    fn leave(&mut self, key: K) {
        if let Some(member) = self.members.remove(&key) {
            self.order.remove(&member.turn);
        }
    }
}
