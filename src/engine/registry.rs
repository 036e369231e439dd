//! The actor that knows the live endpoints: it activates them on demand, spreads them over the threads, passivates idle
//! ones, and restarts or quarantines crashed ones. It routes offers and questions to them. The rest of the engine calls
//! it through [`RegistryHandle`], which reads what an activation needs; the registry touches no HTTP and no SQL.

mod handle;
mod handoff;
mod marks;
mod messages;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, Addr, AsyncContext, Context, Handler, MessageResult, StreamHandler};
use futures_util::stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::domain::id::{DeliveryId, WebhookId, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::fault;
use crate::store::events::Event;
use crate::store::journal::feed::Feed;
use crate::store::leases::ShardNum;

use super::arbiters::{Arbiters, EndpointThread};
use super::context::EngineContext;
use super::endpoint::{self, ENDPOINT, Endpoint, EndpointEvent, EndpointEventKind, Passivate, SpawnArgs};
use super::endpoint_config::EndpointConfig;
use super::endpoint_stats::EndpointStats;
use super::lane::Mode;
use super::restart::{Rest, Restarts};

use self::messages::{
    Activate, Count, Crashed, Drain, Find, Forget, MarkInDoubt, Release, Remind, SetRowWatermark, Wake,
};

use self::handoff::Handoff;

pub(super) use self::handle::{Handed, RegistryHandle};
pub(super) use self::marks::Marks;
pub(super) use self::messages::{Crashes, Figures, Offer, Offered};

/// Messages that may wait for the registry. Senders wait for room.
const MAILBOX: usize = 256;

/// Marks are small and few. Each stays for at least this long, which is many scans of the store.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Registry {
    threads: Vec<EndpointThread>,
    context: Arc<EngineContext>,
    feed: Arc<Feed>,
    endpoints: HashMap<WebhookNum, Known>,
    marks: Marks,
    /// Shards with a request that was cut short. Only the registry knows of these requests.
    interrupted_shards: HashSet<ShardNum>,
    events: UnboundedSender<EndpointEvent>,
    incoming: Option<UnboundedReceiver<EndpointEvent>>,
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
    Live(Addr<Endpoint>),
    /// Was asked to end because it is idle. `wanted`: the endpoint is needed again, so its end leads to an activation.
    Passivating {
        addr: Addr<Endpoint>,
        wanted: bool,
    },
    /// Crashed; its restart is pending.
    Resting,
    /// Crashed too often; not restarted until an operator releases it.
    Quarantined,
}

/// One event for one webhook, on its way to the endpoint.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) event: Arc<Event>,
    pub(super) num: WebhookNum,
    pub(super) recovered: bool,
    /// The shard's epoch when the dispatcher took the fan-out up.
    pub(super) epoch: i64,
}

impl Item {
    pub(super) fn id(&self) -> DeliveryId {
        DeliveryId { event: self.event.seq, webhook: self.num }
    }
}

/// Starts the registry on its thread.
pub(super) fn start(arbiters: &Arbiters, context: &Arc<EngineContext>, feed: &Arc<Feed>) -> RegistryHandle {
    let (events, incoming) = unbounded_channel();
    let registry = Registry {
        threads: arbiters.threads.clone(),
        context: context.clone(),
        feed: feed.clone(),
        endpoints: HashMap::new(),
        marks: Marks::default(),
        interrupted_shards: HashSet::new(),
        events,
        incoming: Some(incoming),
        handle: None,
        started: 0,
        crashes: 0,
        handoffs: Vec::new(),
        draining: false,
        drained: None,
    };
    let addr = Registry::start_in_arbiter(&arbiters.registry, move |ctx| {
        ctx.set_mailbox_capacity(MAILBOX);
        registry
    });
    RegistryHandle::new(addr, context.clone())
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(PRUNE_EVERY, |registry, _| {
            let context = &registry.context;
            registry.marks.prune(context.offered_to(), |num| context.ledger.pending(num) > 0);
        });
        self.handle = Some(RegistryHandle::new(ctx.address(), self.context.clone()));
        if let Some(incoming) = self.incoming.take() {
            let events = stream::unfold(incoming, async |mut incoming| Some((incoming.recv().await?, incoming)));
            ctx.add_stream(Box::pin(events));
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            fault::abort("the registry");
        }
    }
}

impl Registry {
    fn spawn(&mut self, config: &Arc<EndpointConfig>, in_doubt: InDoubt) -> Addr<Endpoint> {
        self.started += 1;
        let thread = &self.threads[usize::try_from(self.started).unwrap_or(0) % self.threads.len()];
        let args = SpawnArgs {
            config: config.clone(),
            context: self.context.clone(),
            sender: thread.sender.clone(),
            start_slots: thread.start_slots.clone(),
            generation: self.started,
            registry: self.events.clone(),
            in_doubt,
        };
        Endpoint::start_in_arbiter(&thread.arbiter, move |_| Endpoint::new(args))
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
        let addr = self.spawn(config, in_doubt);
        let known = Known {
            id: config.id,
            lifecycle: Lifecycle::Live(addr),
            generation: self.started,
            since: Instant::now(),
            restarts,
            ordered: config.policy.ordered,
            stats: self.context.stats.of(config.num),
            missed_wake: false,
        };
        self.endpoints.insert(config.num, known);
    }

    fn offer(&self, item: Item, room: OwnedSemaphorePermit, answer: &mut Offered) {
        if !self.context.shard_set.serves_under(item.num, item.epoch) {
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
                let offer = endpoint::Offer { event: item.event.clone(), recovered: item.recovered, room };
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
                *missed_wake = addr.try_send(endpoint::Wake).is_err();
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
                Some(Lifecycle::Live(addr)) => drop(addr.try_send(endpoint::Remind)),
                Some(Lifecycle::Resting | Lifecycle::Quarantined) => {}
                Some(Lifecycle::Passivating { .. }) | None => asleep.push(num),
            }
        }
        asleep
    }

    fn passivate(&mut self, num: WebhookNum) {
        let Some(known) = self.endpoints.get_mut(&num) else { return };
        if let Lifecycle::Live(addr) = &known.lifecycle
            && addr.try_send(Passivate).is_ok()
        {
            known.lifecycle = Lifecycle::Passivating { addr: addr.clone(), wanted: false };
        }
    }

    fn resume(&mut self, num: WebhookNum) {
        let Some(known) = self.endpoints.get_mut(&num) else { return };
        if let Lifecycle::Passivating { addr, .. } = &known.lifecycle {
            known.missed_wake = addr.try_send(endpoint::Wake).is_err();
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
            actix::spawn(async move { handle.wake(vec![num]).await });
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
        let rest = known.restarts.crashed(known.since.elapsed());
        let wait = match rest {
            Rest::For(wait) => {
                known.lifecycle = Lifecycle::Resting;
                tracing::error!(target: ENDPOINT, webhook = %known.id, ?wait, "endpoint crashed; it will be restarted");
                Some(wait)
            }
            Rest::Quarantine => {
                known.lifecycle = Lifecycle::Quarantined;
                tracing::error!(target: ENDPOINT, webhook = %known.id, "endpoint quarantined; it crashed too often");
                None
            }
        };
        if let Some(handle) = self.handle.clone() {
            let feed = self.feed.clone();
            actix::spawn(async move { handle.restart(num, wait, &feed).await });
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
            && self.interrupted_shards.is_empty()
        {
            let _ = drained.send(());
        }
    }
}

impl StreamHandler<EndpointEvent> for Registry {
    fn handle(&mut self, event: EndpointEvent, _: &mut Self::Context) {
        let EndpointEvent { num, generation, kind } = event;
        if self.endpoints.get(&num).is_none_or(|known| known.generation != generation) {
            return;
        }
        match kind {
            EndpointEventKind::Idle => self.passivate(num),
            EndpointEventKind::Busy => self.resume(num),
            EndpointEventKind::CutShort(event) => self.interrupted(num, event),
            EndpointEventKind::Passivated => self.passivated(num),
            EndpointEventKind::Crashed => self.crashed(num),
        }
        self.tell_if_drained();
        self.report_finished_handoffs();
    }
}

impl Handler<Offer> for Registry {
    type Result = MessageResult<Offer>;

    fn handle(&mut self, Offer { items, mut room }: Offer, _: &mut Self::Context) -> Self::Result {
        let mut answer = Offered::default();
        for item in items {
            if let Some(room) = room.split(1) {
                self.offer(item, room, &mut answer);
            }
        }
        MessageResult(answer)
    }
}

impl Handler<Activate> for Registry {
    type Result = ();

    fn handle(&mut self, Activate { configs, rested }: Activate, _: &mut Self::Context) {
        for config in &configs {
            self.activate(config, rested);
        }
    }
}

impl Handler<Wake> for Registry {
    type Result = MessageResult<Wake>;

    fn handle(&mut self, Wake(nums): Wake, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.wake(nums))
    }
}

impl Handler<Remind> for Registry {
    type Result = MessageResult<Remind>;

    fn handle(&mut self, Remind(nums): Remind, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.remind(nums))
    }
}

impl Handler<Find> for Registry {
    type Result = MessageResult<Find>;

    fn handle(&mut self, Find(nums): Find, _: &mut Self::Context) -> Self::Result {
        let addr = |num: WebhookNum| match &self.endpoints.get(&num)?.lifecycle {
            Lifecycle::Live(addr) | Lifecycle::Passivating { addr, .. } => Some(addr.clone()),
            Lifecycle::Resting | Lifecycle::Quarantined => None,
        };
        MessageResult(nums.into_iter().filter_map(addr).collect())
    }
}

impl Handler<Forget> for Registry {
    type Result = ();

    fn handle(&mut self, Forget(num): Forget, _: &mut Self::Context) {
        if self
            .endpoints
            .get(&num)
            .is_some_and(|known| matches!(known.lifecycle, Lifecycle::Resting | Lifecycle::Quarantined))
        {
            self.endpoints.remove(&num);
        }
    }
}

impl Handler<SetRowWatermark> for Registry {
    type Result = ();

    fn handle(&mut self, SetRowWatermark(num, to): SetRowWatermark, _: &mut Self::Context) {
        self.marks.set_row_watermark(num, to);
    }
}

impl Handler<MarkInDoubt> for Registry {
    type Result = ();

    fn handle(&mut self, MarkInDoubt(num, in_doubt): MarkInDoubt, _: &mut Self::Context) {
        self.marks.mark_in_doubt(num, in_doubt);
    }
}

impl Handler<Release> for Registry {
    type Result = bool;

    fn handle(&mut self, Release(num): Release, _: &mut Self::Context) -> bool {
        let held = self.endpoints.get(&num).is_some_and(|known| matches!(known.lifecycle, Lifecycle::Quarantined));
        if held {
            self.endpoints.remove(&num);
        }
        held
    }
}

impl Handler<Crashed> for Registry {
    type Result = MessageResult<Crashed>;

    fn handle(&mut self, Crashed(nums): Crashed, _: &mut Self::Context) -> Self::Result {
        let crashes = |num| match self.endpoints.get(&num) {
            Some(known) => Crashes {
                recent: known.restarts.recent(),
                resting: matches!(known.lifecycle, Lifecycle::Resting),
                quarantined: matches!(known.lifecycle, Lifecycle::Quarantined),
                unreadable: false,
            },
            None => Crashes::default(),
        };
        MessageResult(nums.into_iter().map(crashes).collect())
    }
}

impl Handler<Count> for Registry {
    type Result = MessageResult<Count>;

    fn handle(&mut self, _: Count, _: &mut Self::Context) -> Self::Result {
        let is_live = |known: &&Known| matches!(known.lifecycle, Lifecycle::Live(_) | Lifecycle::Passivating { .. });
        let live = self.endpoints.values().filter(is_live).count();
        let quarantined =
            self.endpoints.values().filter(|known| matches!(known.lifecycle, Lifecycle::Quarantined)).count();
        MessageResult(Figures { live, crashes: self.crashes, quarantined })
    }
}

impl Handler<Drain> for Registry {
    type Result = ();

    fn handle(&mut self, Drain(drained): Drain, _: &mut Self::Context) {
        (self.draining, self.drained) = (true, Some(drained));
        for known in self.endpoints.values() {
            if let Lifecycle::Live(addr) | Lifecycle::Passivating { addr, .. } = &known.lifecycle {
                let addr = addr.clone();
                actix::spawn(async move {
                    let _ = addr.send(endpoint::Drain).await;
                });
            }
        }
        self.tell_if_drained();
    }
}
