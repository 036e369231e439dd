//! Activates sleeping endpoints for what is offered to them, a few at a time, tenants in turn. The dispatcher hands the
//! items over. While an endpoint is being activated, every item for it comes here, so that no item overtakes another.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::id::{TenantNum, WebhookNum};
use crate::engine::bounds::DispatchBounds;
use crate::engine::context::EngineContext;
use crate::engine::registry::{Item, NotHanded};
use crate::host::Host;

use super::active_tenants::ActiveTenants;
use super::{Blocked, Dispatcher, PAUSE, tenant_of};

/// How long the activator rests while other tenants are active, as a multiple of the time that it has just worked. In
/// this time the endpoints that it has activated send, record and end, on the same cores.
const REST: u32 = 6;

/// The longest rest, however long the work took.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// A tenant whose chunk has fewer items has little to send.
const LITTLE: usize = 64;

/// How long the activator waits for endpoints to end before it activates more of a tenant that has too many live ones.
/// The wait is short, since other tenants wait, too, and since endpoints that wait for their receivers do not end.
const LIVE_ENDPOINTS_PAUSE: Duration = Duration::from_millis(2);

pub(super) struct Activator {
    host: Host,
    bounds: DispatchBounds,
    state: Mutex<State>,
    /// Items were enqueued.
    enqueued: Notify,
    /// A slice was handed on, so that the queue is shorter.
    drained: Arc<Notify>,
}

#[derive(Default)]
struct State {
    tenants: VecDeque<(TenantNum, VecDeque<Item>)>,
    /// How many items for each webhook are here, queued or being handed on.
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

    /// The next slice; its items count as here until [`Self::gone`].
    fn next(&mut self, bounds: DispatchBounds, now: Instant) -> Vec<Item> {
        let Some((tenant, mut waiting)) = self.tenants.pop_front() else { return Vec::new() };
        let most = if self.active_tenants.has_others(tenant, now) { bounds.small_slice } else { bounds.slice };
        let slice = waiting.drain(..waiting.len().min(most)).collect();
        if !waiting.is_empty() {
            self.tenants.push_back((tenant, waiting));
        }
        slice
    }

    /// Whether this tenant has more items here while other tenants are active: only a large fan-out gives way.
    fn is_large_beside_active(&self, tenant: TenantNum, now: Instant) -> bool {
        self.tenants.iter().any(|(known, _)| *known == tenant) && self.active_tenants.has_others(tenant, now)
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
    pub(super) fn new(context: &EngineContext) -> Self {
        let (state, enqueued, drained) = (Mutex::default(), Notify::new(), Arc::default());
        Self { host: context.host.clone(), bounds: context.bounds, state, enqueued, drained }
    }

    /// Tenants with as many items here as may wait, and a future that resolves when a slice was handed on.
    pub(super) fn full(&self) -> (Blocked, impl Future<Output = ()> + use<>) {
        let drained = self.drained.clone();
        let is_full = |(tenant, waiting): &(TenantNum, VecDeque<Item>)| {
            (waiting.len() >= self.bounds.activator).then_some(*tenant)
        };
        let blocked = self.state.lock().tenants.iter().filter_map(is_full).collect();
        (blocked, async move { drained.notified().await })
    }

    /// Whether no item is here, queued or being handed on.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.tenants.is_empty() && state.activating.is_empty()
    }

    /// Notes the tenant of a small chunk as active.
    pub(super) fn notice(&self, items: &[Item]) {
        if items.len() < LITTLE
            && let Some(tenant) = tenant_of(items)
        {
            self.state.lock().active_tenants.note(tenant, self.host.steady());
        }
    }

    /// Takes the items whose endpoints are being activated out of a chunk.
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

    /// Takes items whose endpoints sleep.
    pub(super) fn enqueue(&self, items: Vec<Item>) {
        if let Some(tenant) = tenant_of(&items) {
            self.state.lock().add(tenant, items);
            self.enqueued.notify_one();
        }
    }

    pub(super) async fn run(&self, dispatcher: &Dispatcher) {
        loop {
            let items = self.state.lock().next(self.bounds, self.host.steady());
            if items.is_empty() {
                self.enqueued.notified().await;
                continue;
            }
            let (tenant, began) = (tenant_of(&items), self.host.steady());
            if tenant.is_some_and(|tenant| dispatcher.context.live_endpoints.is_exhausted(tenant)) {
                self.host.sleep(LIVE_ENDPOINTS_PAUSE).await;
            }
            let nums: Vec<WebhookNum> = items.iter().map(|item| item.num).collect();
            let NotHanded { refused, deleted } = dispatcher.registry.offer_to_sleeping(items).await;
            while let Err(error) = hand_on(dispatcher, &refused, &deleted).await {
                tracing::warn!(%error, "refused deliveries could not be recorded; trying again");
                self.host.sleep(PAUSE).await;
            }
            self.state.lock().gone(&nums);
            self.drained.notify_one();
            let now = self.host.steady();
            if tenant.is_some_and(|tenant| self.state.lock().is_large_beside_active(tenant, now)) {
                self.host.sleep((now.saturating_duration_since(began) * REST).min(LONGEST_REST)).await;
            }
        }
    }
}

async fn hand_on(dispatcher: &Dispatcher, refused: &[Item], deleted: &[Item]) -> Result<(), super::DispatchError> {
    dispatcher.defer(refused.to_vec()).await?;
    dispatcher.cancel(deleted.to_vec()).await
}
