//! Starts sleeping endpoints for what they are offered, a few at a time, tenants in turns. As long as one is being
//! started, everything for it goes this way, so that nothing overtakes.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::id::{TenantNum, WebhookNum};
use crate::engine::registry::{Handed, Item};

use super::active_tenants::ActiveTenants;
use super::{Blocked, Dispatcher, PAUSE, tenant_of};

/// Endpoints that are started together: a few milliseconds' work is ahead of another tenant's.
const SLICE: usize = 128;

/// The same while there are others, who would notice even that.
const SMALL_SLICE: usize = 16;

/// For how long the activator rests for the sake of others, in parts of the time that it has just worked: what it has started
/// sends, records and ends in this time, on the same cores.
const REST: u32 = 6;

/// It never rests for longer, whatever took so long.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// Whoever sends to fewer webhooks at once has little to send.
const LITTLE: usize = 64;

/// Deliveries of one tenant that may wait here; beyond it, its fan-outs wait.
const MOST: usize = 1024;

/// How long a tenant with a large crowd waits for some of it to leave before more of its endpoints are started: not for
/// long, since others are waiting too, and since those that wait for their receivers do not leave.
const CROWDED: Duration = Duration::from_millis(2);

#[derive(Default)]
pub(super) struct Activator {
    state: Mutex<State>,
    /// Something was enqueued.
    enqueued: Notify,
    /// Something was taken from the queue.
    drained: Arc<Notify>,
}

#[derive(Default)]
struct State {
    tenants: VecDeque<(TenantNum, VecDeque<Item>)>,
    /// How many deliveries for each webhook are here.
    activating: HashMap<WebhookNum, usize>,
    active_tenants: ActiveTenants,
}

impl State {
    fn add(&mut self, tenant: TenantNum, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        for item in &items {
            *self.activating.entry(item.num).or_default() += 1;
        }
        match self.tenants.iter_mut().find(|(known, _)| *known == tenant) {
            Some((_, waiting)) => waiting.extend(items),
            None => self.tenants.push_back((tenant, items.into())),
        }
    }

    /// What comes next; it counts as here until it is [`Self::gone`].
    fn next(&mut self) -> Vec<Item> {
        let Some((tenant, mut waiting)) = self.tenants.pop_front() else { return Vec::new() };
        let most = if self.active_tenants.has_others(tenant, Instant::now()) { SMALL_SLICE } else { SLICE };
        let slice = waiting.drain(..waiting.len().min(most)).collect();
        if !waiting.is_empty() {
            self.tenants.push_back((tenant, waiting));
        }
        slice
    }

    /// Whether more of this tenant waits while others are there: only a crowd gives way.
    fn is_large_beside_active(&self, tenant: TenantNum) -> bool {
        self.tenants.iter().any(|(known, _)| *known == tenant) && self.active_tenants.has_others(tenant, Instant::now())
    }

    fn gone(&mut self, nums: &[WebhookNum]) {
        for num in nums {
            if let Some(left) = self.activating.get_mut(num) {
                *left -= 1;
                if *left == 0 {
                    self.activating.remove(num);
                }
            }
        }
    }
}

impl Activator {
    /// Tenants that have enough here, and what ends when some of it is drained away.
    pub(super) fn full(&self) -> (Blocked, impl Future<Output = ()> + use<>) {
        let drained = self.drained.clone();
        let is_full = |(tenant, waiting): &(TenantNum, VecDeque<Item>)| (waiting.len() >= MOST).then_some(*tenant);
        let blocked = self.state.lock().tenants.iter().filter_map(is_full).collect();
        (blocked, async move { drained.notified().await })
    }

    /// Nothing is here, and nothing is being started.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.tenants.is_empty() && state.activating.is_empty()
    }

    /// Sees who has little to send.
    pub(super) fn notice(&self, items: &[Item]) {
        if items.len() < LITTLE
            && let Some(tenant) = tenant_of(items)
        {
            self.state.lock().active_tenants.note(tenant, Instant::now());
        }
    }

    /// Takes those out whose endpoints are being started.
    pub(super) fn take_over(&self, items: &mut Vec<Item>) {
        let Some(tenant) = tenant_of(items) else { return };
        let mut state = self.state.lock();
        if state.activating.is_empty() {
            return;
        }
        let (mine, others) =
            std::mem::take(items).into_iter().partition(|item| state.activating.contains_key(&item.num));
        *items = others;
        state.add(tenant, mine);
        drop(state);
        self.enqueued.notify_one();
    }

    /// Takes those whose endpoints sleep.
    pub(super) fn enqueue(&self, items: Vec<Item>) {
        if let Some(tenant) = tenant_of(&items) {
            self.state.lock().add(tenant, items);
            self.enqueued.notify_one();
        }
    }

    pub(super) async fn run(&self, dispatcher: &Dispatcher) {
        loop {
            let items = self.state.lock().next();
            if items.is_empty() {
                self.enqueued.notified().await;
                continue;
            }
            let (tenant, began) = (tenant_of(&items), Instant::now());
            if tenant.is_some_and(|tenant| dispatcher.context.live_endpoints.is_exhausted(tenant)) {
                tokio::time::sleep(CROWDED).await;
            }
            let nums: Vec<WebhookNum> = items.iter().map(|item| item.num).collect();
            let Handed { refused, deleted } = dispatcher.registry.offer_to_sleeping(items).await;
            while let Err(error) = hand_on(dispatcher, &refused, &deleted).await {
                tracing::warn!(%error, "deliveries could not be deferred; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            self.state.lock().gone(&nums);
            self.drained.notify_one();
            if tenant.is_some_and(|tenant| self.state.lock().is_large_beside_active(tenant)) {
                tokio::time::sleep((began.elapsed() * REST).min(LONGEST_REST)).await;
            }
        }
    }
}

async fn hand_on(dispatcher: &Dispatcher, refused: &[Item], deleted: &[Item]) -> Result<(), super::DispatchError> {
    dispatcher.defer(refused.to_vec()).await?;
    dispatcher.cancel(deleted.to_vec()).await
}
