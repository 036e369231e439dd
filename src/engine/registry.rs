//! Knows the live endpoints: activates them on demand, spreads them over the threads, passivates idle ones, and restarts
//! or quarantines crashed ones. It routes offers and questions to them. The rest of the engine calls it through
//! [`RegistryHandle`], which reads what an activation needs; the registry touches no HTTP and no SQL. In the live engine
//! it is an actor ([`actor`]).

mod actor;
mod handle;
mod handoff;
mod marks;
mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::field::display;

use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, TenantId, WebhookId, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::shard::ShardNum;
use crate::journal::feed::Feed;

use super::address::Address;
use super::context::EngineContext;
use super::endpoint::{DeathWatch, ENDPOINT, EndpointEvent, EndpointEventKind, EndpointMessage, EndpointSeed};
use super::endpoint_config::EndpointConfig;
use super::endpoint_stats::EndpointStats;
use super::lane::Mode;
use super::restart::{Rest, Restarts};

use self::handoff::Handoff;

pub(super) use self::actor::start;
pub(super) use self::handle::{NotHanded, RegistryHandle};
pub(super) use self::marks::Marks;
pub(super) use self::messages::{Crashes, Figures, Offered, RegistryMessage};

/// Messages that may wait for the registry before a sender has to wait, too.
const MAILBOX: usize = 256;

/// Marks are small and few. Each stays for at least this long, which is many scans of the store.
pub(super) const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Starts endpoints, each as an actor of its own.
pub(super) trait EndpointSpawner: Send {
    fn spawn(&mut self, seed: EndpointSeed) -> Address<EndpointMessage>;
}

pub(super) struct Registry {
    spawner: Box<dyn EndpointSpawner>,
    context: Arc<EngineContext>,
    feed: Arc<Feed>,
    endpoints: BTreeMap<WebhookNum, Known>,
    marks: Marks,
    /// Shards with a request that was cut short. Only the registry knows of these requests.
    cut_short_shards: BTreeSet<ShardNum>,
    events: UnboundedSender<EndpointEvent>,
    handle: Option<RegistryHandle>,
    started: u64,
    crashes: u64,
    handoffs: Vec<Handoff>,
    draining: bool,
    drained: Option<oneshot::Sender<()>>,
}

/// An endpoint that the registry knows.
struct Known {
    id: WebhookId,
    /// For the log.
    tenant: Option<TenantId>,
    lifecycle: Lifecycle,
    generation: u64,
    since: Instant,
    restarts: Restarts,
    /// Ordered endpoints take their work from rows alone.
    ordered: bool,
    /// The endpoint was not told of rows that it does not know of, because its mailbox was full.
    missed_wake: bool,
    stats: Arc<EndpointStats>,
}

enum Lifecycle {
    Live(Address<EndpointMessage>),
    /// Was asked to end because it is idle. `wanted`: the endpoint is needed again, so its end leads to an activation.
    Passivating {
        addr: Address<EndpointMessage>,
        wanted: bool,
    },
    /// Crashed; its restart is pending.
    Resting,
    /// Crashed too often; not restarted until an operator ends the quarantine.
    Quarantined,
}

/// One event for one webhook, on its way to the endpoint.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) event: Arc<Event>,
    pub(super) num: WebhookNum,
    pub(super) recovered: bool,
    /// The shard's tag when the dispatcher took the fan-out up.
    pub(super) tag: i64,
}

impl Item {
    pub(super) fn id(&self) -> DeliveryId {
        DeliveryId { event: self.event.seq, webhook: self.num }
    }
}

impl Registry {
    /// Endpoints report to `events`, whose other end must feed [`Self::on_event`].
    pub(super) fn new(
        spawner: Box<dyn EndpointSpawner>,
        context: &Arc<EngineContext>,
        feed: &Arc<Feed>,
        events: UnboundedSender<EndpointEvent>,
    ) -> Self {
        Self {
            spawner,
            context: context.clone(),
            feed: feed.clone(),
            endpoints: BTreeMap::new(),
            marks: Marks::default(),
            cut_short_shards: BTreeSet::new(),
            events,
            handle: None,
            started: 0,
            crashes: 0,
            handoffs: Vec::new(),
            draining: false,
            drained: None,
        }
    }

    /// `address`: where this registry takes its messages.
    pub(super) fn start(&mut self, address: Address<RegistryMessage>) {
        self.handle = Some(RegistryHandle::new(address, self.context.clone()));
    }

    /// Call this every [`PRUNE_EVERY`].
    pub(super) fn prune(&mut self) {
        let context = &self.context;
        self.marks.prune(context.offered_to(), |num| context.ledger.pending(num) > 0);
    }

    pub(super) fn on(&mut self, message: RegistryMessage) {
        match message {
            RegistryMessage::Offer { items, room, answer } => drop(answer.send(self.offer_all(items, room))),
            RegistryMessage::Activate { configs, rested, done } => {
                configs.iter().for_each(|config| self.activate(config, rested));
                let _ = done.send(());
            }
            RegistryMessage::Wake(nums, answer) => drop(answer.send(self.wake(nums))),
            RegistryMessage::Remind(nums, answer) => drop(answer.send(self.remind(nums))),
            RegistryMessage::Find(nums, answer) => {
                drop(answer.send(nums.into_iter().filter_map(|num| self.address_of(num)).collect()));
            }
            RegistryMessage::Count(answer) => drop(answer.send(self.figures())),
            RegistryMessage::SetRowWatermark(num, to, done) => {
                self.marks.set_row_watermark(num, to);
                let _ = done.send(());
            }
            RegistryMessage::MarkInDoubt(num, in_doubt, done) => {
                self.marks.mark_in_doubt(num, in_doubt);
                let _ = done.send(());
            }
            RegistryMessage::EndQuarantine(num, answer) => drop(answer.send(self.end_quarantine(num))),
            RegistryMessage::ListQuarantined(most, answer) => {
                drop(answer.send(self.quarantined().take(most).collect()))
            }
            RegistryMessage::Crashed(nums, answer) => {
                drop(answer.send(nums.into_iter().map(|num| self.crashes_of(num)).collect()));
            }
            RegistryMessage::Forget(num, done) => {
                self.forget(num);
                let _ = done.send(());
            }
            RegistryMessage::HandOff(shard, answer) => self.hand_off(shard, answer),
            RegistryMessage::Drain(drained) => self.drain(drained),
        }
    }

    pub(super) fn on_event(&mut self, event: EndpointEvent) {
        let EndpointEvent { num, generation, kind } = event;
        if self.endpoints.get(&num).is_none_or(|known| known.generation != generation) {
            return;
        }
        match kind {
            EndpointEventKind::Idle => self.passivate(num),
            EndpointEventKind::Busy => self.cancel_passivation(num),
            EndpointEventKind::CutShort(event) => self.cut_short(num, event),
            EndpointEventKind::Passivated => self.passivated(num),
            EndpointEventKind::Crashed => self.crashed(num),
        }
        self.tell_if_drained();
        self.report_finished_handoffs();
    }

    fn spawn(
        &mut self,
        config: &Arc<EndpointConfig>,
        in_doubt: InDoubt,
        stats: Arc<EndpointStats>,
    ) -> Address<EndpointMessage> {
        self.started += 1;
        self.spawner.spawn(EndpointSeed {
            config: config.clone(),
            context: self.context.clone(),
            watch: DeathWatch::new(config.num, self.started, self.events.clone(), stats.clone()),
            stats,
            in_doubt,
        })
    }

    fn activate(&mut self, config: &Arc<EndpointConfig>, rested: bool) {
        let restarts = match self.endpoints.get_mut(&config.num) {
            Some(Known { lifecycle: Lifecycle::Live(_), ordered, .. }) => {
                *ordered = config.policy.ordered;
                return;
            }
            Some(Known { lifecycle: Lifecycle::Passivating { wanted, .. }, .. }) => {
                *wanted = true;
                return;
            }
            // Only the end of the rest restarts the endpoint.
            Some(Known { lifecycle: Lifecycle::Resting, restarts, .. }) if rested => *restarts,
            Some(Known { lifecycle: Lifecycle::Resting, .. }) => return,
            Some(Known { lifecycle: Lifecycle::Quarantined, .. }) => return,
            None => Restarts::default(),
        };
        if config.mode_now(&self.context) != Mode::Active || self.draining || !self.context.shard_set.serves(config.num)
        {
            self.endpoints.remove(&config.num);
            return;
        }
        let known = self.context.shard_set.in_doubt_of(config.num);
        let in_doubt = self.marks.in_doubt_of(config.num, known);
        let stats = self.context.stats.of(config.num);
        let addr = self.spawn(config, in_doubt, stats.clone());
        let known = Known {
            id: config.id,
            tenant: config.tenant_id,
            lifecycle: Lifecycle::Live(addr),
            generation: self.started,
            since: self.context.host.steady(),
            restarts,
            ordered: config.policy.ordered,
            stats,
            missed_wake: false,
        };
        self.endpoints.insert(config.num, known);
    }

    fn offer(&self, item: Item, room: OwnedSemaphorePermit, answer: &mut Offered) {
        if !self.context.shard_set.serves_under(item.num, item.tag) {
            // The shard has changed hands. Its new owner, perhaps this node again, finds what the fan-out still owes.
            return;
        }
        if self.marks.has_row(item.num, item.event.seq) {
            // Up to the watermark every event has a row, unless another node committed it after the watermark was set:
            // then deferring the item makes the row. For all other events deferring changes nothing.
            return answer.refused.push(item);
        }
        let Some(known) = self.endpoints.get(&item.num) else { return answer.unknown.push(item) };
        match &known.lifecycle {
            Lifecycle::Live(addr) if !known.ordered => {
                let offer = EndpointMessage::Offer { event: item.event.clone(), recovered: item.recovered, room };
                if addr.try_send(offer).is_ok() {
                    known.stats.offered();
                } else {
                    known.stats.passed_by();
                    answer.refused.push(item);
                }
            }
            Lifecycle::Live(_) | Lifecycle::Passivating { .. } | Lifecycle::Resting | Lifecycle::Quarantined => {
                known.stats.passed_by();
                answer.refused.push(item);
            }
        }
    }

    fn wake(&mut self, mut nums: Vec<WebhookNum>) -> Vec<WebhookNum> {
        nums.retain(|num| match self.endpoints.get_mut(num) {
            Some(Known { lifecycle: Lifecycle::Live(addr), missed_wake, .. }) => {
                *missed_wake = addr.try_send(EndpointMessage::Wake).is_err();
                false
            }
            Some(Known { lifecycle: Lifecycle::Resting | Lifecycle::Quarantined, .. }) => false,
            Some(Known { lifecycle: Lifecycle::Passivating { .. }, .. }) | None => true,
        });
        nums
    }

    /// Reminders come as often as rows fall due, so one that a full mailbox refuses does little harm.
    fn remind(&mut self, nums: Vec<WebhookNum>) -> Vec<WebhookNum> {
        let missed_wake = |num: &WebhookNum| self.endpoints.get(num).is_some_and(|known| known.missed_wake);
        let (to_wake, to_remind): (Vec<_>, Vec<_>) = nums.into_iter().partition(missed_wake);
        let mut asleep = self.wake(to_wake);
        for num in to_remind {
            match self.endpoints.get(&num).map(|known| &known.lifecycle) {
                Some(Lifecycle::Live(addr)) => drop(addr.try_send(EndpointMessage::Remind)),
                Some(Lifecycle::Resting | Lifecycle::Quarantined) => {}
                Some(Lifecycle::Passivating { .. }) | None => asleep.push(num),
            }
        }
        asleep
    }

    fn passivate(&mut self, num: WebhookNum) {
        let Some(known) = self.endpoints.get_mut(&num) else { return };
        if let Lifecycle::Live(addr) = &known.lifecycle
            && addr.try_send(EndpointMessage::Passivate).is_ok()
        {
            known.lifecycle = Lifecycle::Passivating { addr: addr.clone(), wanted: false };
        }
    }

    fn cancel_passivation(&mut self, num: WebhookNum) {
        let Some(known) = self.endpoints.get_mut(&num) else { return };
        if let Lifecycle::Passivating { addr, .. } = &known.lifecycle {
            known.missed_wake = addr.try_send(EndpointMessage::Wake).is_err();
            known.lifecycle = Lifecycle::Live(addr.clone());
        }
    }

    fn passivated(&mut self, num: WebhookNum) {
        let gone = self.endpoints.remove(&num);
        let wanted = gone.is_some_and(|known| {
            known.stats.ended();
            matches!(known.lifecycle, Lifecycle::Passivating { wanted: true, .. })
        });
        if wanted && let Some(handle) = self.handle.clone() {
            self.context.host.spawn(async move { handle.wake(vec![num]).await });
        }
    }

    fn crashed(&mut self, num: WebhookNum) {
        let Some(known) = self.endpoints.get_mut(&num) else { return };
        known.stats.ended();
        if self.draining {
            // Left in the map, so that the stop does not count as clean.
            known.lifecycle = Lifecycle::Resting;
            return;
        }
        if self.crashed_during_handoff(num) {
            return;
        }
        let Some(known) = self.endpoints.get_mut(&num) else { return };
        self.crashes += 1;
        let rest = known.restarts.crashed(self.context.host.steady().saturating_duration_since(known.since));
        let (tenant, webhook) = (known.tenant.map(display), known.id);
        let wait = match rest {
            Rest::For(wait) => {
                known.lifecycle = Lifecycle::Resting;
                tracing::error!(target: ENDPOINT, tenant, %webhook, ?wait, "endpoint crashed; it will be restarted");
                Some(wait)
            }
            Rest::Quarantine => {
                known.lifecycle = Lifecycle::Quarantined;
                tracing::error!(target: ENDPOINT, tenant, %webhook, "endpoint quarantined; it crashed too often");
                None
            }
        };
        if let Some(handle) = self.handle.clone() {
            let feed = self.feed.clone();
            self.context.host.spawn(async move { handle.restart(num, wait, &feed).await });
        }
    }

    fn tell_if_drained(&mut self) {
        if self.drained.is_none() {
            return;
        }
        let is_gone = |known: &Known| matches!(known.lifecycle, Lifecycle::Resting | Lifecycle::Quarantined);
        let all_gone = self.endpoints.values().all(is_gone);
        // Only the registry knows of endpoints that crashed and of requests that were cut short. With any of them the
        // stop is not clean: dropping the sender says so.
        if all_gone
            && let Some(drained) = self.drained.take()
            && self.endpoints.is_empty()
            && self.cut_short_shards.is_empty()
        {
            let _ = drained.send(());
        }
    }
}

/// Answers to questions.
impl Registry {
    fn offer_all(&self, items: Vec<Item>, mut room: OwnedSemaphorePermit) -> Offered {
        let mut answer = Offered::default();
        for item in items {
            if let Some(room) = room.split(1) {
                self.offer(item, room, &mut answer);
            }
        }
        answer
    }

    fn address_of(&self, num: WebhookNum) -> Option<Address<EndpointMessage>> {
        match &self.endpoints.get(&num)?.lifecycle {
            Lifecycle::Live(addr) | Lifecycle::Passivating { addr, .. } => Some(addr.clone()),
            Lifecycle::Resting | Lifecycle::Quarantined => None,
        }
    }

    fn forget(&mut self, num: WebhookNum) {
        let is_ended = |known: &Known| matches!(known.lifecycle, Lifecycle::Resting | Lifecycle::Quarantined);
        if self.endpoints.get(&num).is_some_and(is_ended) {
            self.endpoints.remove(&num);
        }
    }

    fn end_quarantine(&mut self, num: WebhookNum) -> bool {
        let is_quarantined = |known: &&Known| matches!(known.lifecycle, Lifecycle::Quarantined);
        let Some(known) = self.endpoints.get(&num).filter(is_quarantined) else { return false };
        let tenant = known.tenant.map(display);
        tracing::info!(target: ENDPOINT, tenant, webhook = %known.id, "quarantine ended; the endpoint may start again");
        self.endpoints.remove(&num);
        true
    }

    fn crashes_of(&self, num: WebhookNum) -> Crashes {
        match self.endpoints.get(&num) {
            Some(known) => Crashes {
                recent: known.restarts.recent(),
                resting: matches!(known.lifecycle, Lifecycle::Resting),
                quarantined: matches!(known.lifecycle, Lifecycle::Quarantined),
            },
            None => Crashes::default(),
        }
    }

    fn figures(&self) -> Figures {
        let is_live = |known: &&Known| matches!(known.lifecycle, Lifecycle::Live(_) | Lifecycle::Passivating { .. });
        let live = self.endpoints.values().filter(is_live).count();
        Figures { live, crashes: self.crashes, quarantined: self.quarantined().count() }
    }

    fn quarantined(&self) -> impl Iterator<Item = WebhookNum> {
        let is_quarantined = |known: &Known| matches!(known.lifecycle, Lifecycle::Quarantined);
        self.endpoints.iter().filter(move |(_, known)| is_quarantined(known)).map(|(num, _)| *num)
    }

    fn drain(&mut self, drained: oneshot::Sender<()>) {
        (self.draining, self.drained) = (true, Some(drained));
        for known in self.endpoints.values() {
            if let Lifecycle::Live(addr) | Lifecycle::Passivating { addr, .. } = &known.lifecycle {
                self.context.host.spawn(addr.send(EndpointMessage::Drain));
            }
        }
        self.tell_if_drained();
    }
}
