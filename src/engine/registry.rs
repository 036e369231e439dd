//! Knows the live endpoints: starts them on demand, spreads them over the threads, lets idle ones go, makes crashed
//! ones again. Routes offers and questions to them. Touches no HTTP and no SQL; [`RegistryHandle`] does the reading
//! that a start needs.

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

use crate::fault;
use crate::id::{DeliveryId, WebhookId, WebhookNum};
use crate::store::events::Event;
use crate::store::journal::feed::Feed;
use crate::store::leases::ShardNum;
use crate::store::state::InDoubt;

use super::arbiters::{Arbiters, Place};
use super::endpoint::{self, Birth, ENDPOINT, Endpoint, Notice, Retire, Sign};
use super::lane::Mode;
use super::pulse::Pulse;
use super::restart::{Rest, Restarts};
use super::serving::Serving;
use super::shared::Shared;

use self::messages::{Count, Cover, Crashed, Drain, Find, Forget, Introduce, MarkInDoubt, Release, Remind, Wake};

use self::handoff::Handoff;

pub(super) use self::handle::{Handed, RegistryHandle};
pub(super) use self::marks::Marks;
pub(super) use self::messages::{Crashes, Figures, Offer, Offered};

/// Messages that may wait for the registry. Senders wait for room.
const MAILBOX: usize = 256;

/// Marks are small, and there are few of them. Each stays for this long at least, which is many looks at the store.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Registry {
    places: Vec<Place>,
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    endpoints: HashMap<WebhookNum, Known>,
    marks: Marks,
    /// Shards of which requests were cut short: nobody else knows which.
    interrupted_shards: HashSet<ShardNum>,
    notices: UnboundedSender<Notice>,
    incoming: Option<UnboundedReceiver<Notice>>,
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
    life: Life,
    generation: u64,
    since: Instant,
    restarts: Restarts,
    /// Ordered endpoints take their work from rows alone.
    ordered: bool,
    /// Its mailbox was too full to tell it of rows that it does not know of.
    unheard: bool,
    pulse: Arc<Pulse>,
}

enum Life {
    Live(Addr<Endpoint>),
    /// Was asked to end because it is idle. `wanted` once somebody needs it again.
    Retiring {
        addr: Addr<Endpoint>,
        wanted: bool,
    },
    /// Crashed and not made again yet.
    Resting,
    /// Crashed too often; waits for somebody to release it.
    Quarantined,
}

/// One event for one webhook, on its way to the endpoint.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) event: Arc<Event>,
    pub(super) num: WebhookNum,
    pub(super) recovered: bool,
    /// Under which its shard was held when it was started on.
    pub(super) epoch: i64,
}

impl Item {
    pub(super) fn id(&self) -> DeliveryId {
        DeliveryId { event: self.event.seq, webhook: self.num }
    }
}

/// Starts the registry on its thread.
pub(super) fn start(arbiters: &Arbiters, shared: &Arc<Shared>, feed: &Arc<Feed>) -> RegistryHandle {
    let (notices, incoming) = unbounded_channel();
    let registry = Registry {
        places: arbiters.places.clone(),
        shared: shared.clone(),
        feed: feed.clone(),
        endpoints: HashMap::new(),
        marks: Marks::default(),
        interrupted_shards: HashSet::new(),
        notices,
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
    RegistryHandle::new(addr, shared.clone())
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(PRUNE_EVERY, |registry, _| {
            let shared = &registry.shared;
            registry.marks.prune(shared.offered_to(), |num| shared.ledger.pending(num) > 0);
        });
        self.handle = Some(RegistryHandle::new(ctx.address(), self.shared.clone()));
        if let Some(incoming) = self.incoming.take() {
            let notices = stream::unfold(incoming, async |mut incoming| Some((incoming.recv().await?, incoming)));
            ctx.add_stream(Box::pin(notices));
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
    fn bear(&mut self, serving: &Arc<Serving>, in_doubt: InDoubt) -> Addr<Endpoint> {
        self.started += 1;
        let place = &self.places[usize::try_from(self.started).unwrap_or(0) % self.places.len()];
        let birth = Birth {
            serving: serving.clone(),
            shared: self.shared.clone(),
            sender: place.sender.clone(),
            turns: place.turns.clone(),
            generation: self.started,
            registry: self.notices.clone(),
            in_doubt,
        };
        Endpoint::start_in_arbiter(&place.arbiter, move |_| Endpoint::new(birth))
    }

    fn introduce(&mut self, serving: &Arc<Serving>, rested: bool) {
        let restarts = match self.endpoints.get_mut(&serving.num) {
            Some(Known { life: Life::Live(_), ordered, .. }) => {
                *ordered = serving.policy.ordered;
                return;
            }
            Some(Known { life: Life::Retiring { wanted, .. }, .. }) => {
                *wanted = true;
                return;
            }
            // Only the end of its rest makes it again.
            Some(Known { life: Life::Resting, restarts, .. }) if rested => *restarts,
            Some(Known { life: Life::Resting, .. }) => return,
            Some(Known { life: Life::Quarantined, .. }) => return,
            None => Restarts::default(),
        };
        if serving.mode_now(&self.shared) != Mode::Open || self.draining || !self.shared.shard_set.serves(serving.num) {
            self.endpoints.remove(&serving.num);
            return;
        }
        let known = self.shared.shard_set.in_doubt_of(serving.num);
        let in_doubt = self.marks.in_doubt_of(serving.num, known);
        let addr = self.bear(serving, in_doubt);
        let known = Known {
            id: serving.id,
            life: Life::Live(addr),
            generation: self.started,
            since: Instant::now(),
            restarts,
            ordered: serving.policy.ordered,
            pulse: self.shared.pulses.of(serving.num),
            unheard: false,
        };
        self.endpoints.insert(serving.num, known);
    }

    fn offer(&self, item: Item, room: OwnedSemaphorePermit, answer: &mut Offered) {
        if !self.shared.shard_set.serves_under(item.num, item.epoch) {
            // Whoever took the shard since finds what its fan-out still owes, also if that was this node again.
            return;
        }
        if self.marks.covers(item.num, item.event.seq) {
            // It has a row, unless another node has committed it meanwhile: then it gets one.
            return answer.refused.push(item);
        }
        let Some(known) = self.endpoints.get(&item.num) else { return answer.unknown.push(item) };
        match &known.life {
            Life::Live(addr) if !known.ordered => {
                let offer = endpoint::Offer { event: item.event.clone(), recovered: item.recovered, room };
                if addr.try_send(offer).is_ok() {
                    known.pulse.offered();
                } else {
                    known.pulse.passed_by();
                    answer.refused.push(item);
                }
            }
            Life::Live(_) | Life::Retiring { .. } | Life::Resting | Life::Quarantined => {
                known.pulse.passed_by();
                answer.refused.push(item);
            }
        }
    }

    fn wake(&mut self, mut nums: Vec<WebhookNum>) -> Vec<WebhookNum> {
        nums.retain(|num| match self.endpoints.get_mut(num) {
            Some(Known { life: Life::Live(addr), unheard, .. }) => {
                *unheard = addr.try_send(endpoint::Wake).is_err();
                false
            }
            Some(Known { life: Life::Resting | Life::Quarantined, .. }) => false,
            Some(Known { life: Life::Retiring { .. }, .. }) | None => true,
        });
        nums
    }

    /// As often as rows fall due, so it matters little when a mailbox is too full for it.
    fn remind(&mut self, nums: Vec<WebhookNum>) -> Vec<WebhookNum> {
        let unheard = |num: &WebhookNum| self.endpoints.get(num).is_some_and(|known| known.unheard);
        let (to_wake, to_remind): (Vec<_>, Vec<_>) = nums.into_iter().partition(unheard);
        let mut asleep = self.wake(to_wake);
        for num in to_remind {
            match self.endpoints.get(&num).map(|known| &known.life) {
                Some(Life::Live(addr)) => drop(addr.try_send(endpoint::Remind)),
                Some(Life::Resting | Life::Quarantined) => {}
                Some(Life::Retiring { .. }) | None => asleep.push(num),
            }
        }
        asleep
    }

    fn retire(&mut self, num: WebhookNum) {
        let Some(known) = self.endpoints.get_mut(&num) else { return };
        if let Life::Live(addr) = &known.life
            && addr.try_send(Retire).is_ok()
        {
            known.life = Life::Retiring { addr: addr.clone(), wanted: false };
        }
    }

    fn resume(&mut self, num: WebhookNum) {
        let Some(known) = self.endpoints.get_mut(&num) else { return };
        if let Life::Retiring { addr, .. } = &known.life {
            known.unheard = addr.try_send(endpoint::Wake).is_err();
            known.life = Life::Live(addr.clone());
        }
    }

    fn retired(&mut self, num: WebhookNum) {
        let gone = self.endpoints.remove(&num);
        let wanted = gone.is_some_and(|known| {
            known.pulse.ended();
            matches!(known.life, Life::Retiring { wanted: true, .. })
        });
        if wanted && let Some(handle) = self.handle.clone() {
            actix::spawn(async move { handle.wake(vec![num]).await });
        }
    }

    fn crashed(&mut self, num: WebhookNum) {
        let Some(known) = self.endpoints.get_mut(&num) else { return };
        known.pulse.ended();
        if self.draining {
            // It was cut off by the stop, which is not a clean one then.
            known.life = Life::Resting;
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
                known.life = Life::Resting;
                tracing::error!(target: ENDPOINT, webhook = %known.id, ?wait, "endpoint crashed; it will be restarted");
                Some(wait)
            }
            Rest::Quarantine => {
                known.life = Life::Quarantined;
                tracing::error!(target: ENDPOINT, webhook = %known.id, "endpoint quarantined; it crashed too often");
                None
            }
        };
        if let Some(handle) = self.handle.clone() {
            let feed = self.feed.clone();
            actix::spawn(async move { handle.revive(num, wait, &feed).await });
        }
    }

    fn tell_if_drained(&mut self) {
        if self.drained.is_none() {
            return;
        }
        let is_gone = |known: &Known| matches!(known.life, Life::Resting | Life::Quarantined);
        let all_gone = self.endpoints.values().all(is_gone);
        // Of one that crashed and rests, or of what was cut short, nobody else knows: that stop is not a clean one.
        if all_gone
            && let Some(drained) = self.drained.take()
            && self.endpoints.is_empty()
            && self.interrupted_shards.is_empty()
        {
            let _ = drained.send(());
        }
    }
}

impl StreamHandler<Notice> for Registry {
    fn handle(&mut self, notice: Notice, _: &mut Self::Context) {
        let Notice { num, generation, sign } = notice;
        if self.endpoints.get(&num).is_none_or(|known| known.generation != generation) {
            return;
        }
        match sign {
            Sign::Idle => self.retire(num),
            Sign::Busy => self.resume(num),
            Sign::CutShort(event) => self.interrupted(num, event),
            Sign::Retired => self.retired(num),
            Sign::Crashed => self.crashed(num),
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

impl Handler<Introduce> for Registry {
    type Result = ();

    fn handle(&mut self, Introduce { servings, rested }: Introduce, _: &mut Self::Context) {
        for serving in &servings {
            self.introduce(serving, rested);
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
        let addr = |num: WebhookNum| match &self.endpoints.get(&num)?.life {
            Life::Live(addr) | Life::Retiring { addr, .. } => Some(addr.clone()),
            Life::Resting | Life::Quarantined => None,
        };
        MessageResult(nums.into_iter().filter_map(addr).collect())
    }
}

impl Handler<Forget> for Registry {
    type Result = ();

    fn handle(&mut self, Forget(num): Forget, _: &mut Self::Context) {
        if self.endpoints.get(&num).is_some_and(|known| matches!(known.life, Life::Resting | Life::Quarantined)) {
            self.endpoints.remove(&num);
        }
    }
}

impl Handler<Cover> for Registry {
    type Result = ();

    fn handle(&mut self, Cover(num, to): Cover, _: &mut Self::Context) {
        self.marks.cover(num, to);
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
        let held = self.endpoints.get(&num).is_some_and(|known| matches!(known.life, Life::Quarantined));
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
                resting: matches!(known.life, Life::Resting),
                quarantined: matches!(known.life, Life::Quarantined),
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
        let is_live = |known: &&Known| matches!(known.life, Life::Live(_) | Life::Retiring { .. });
        let live = self.endpoints.values().filter(is_live).count();
        let quarantined = self.endpoints.values().filter(|known| matches!(known.life, Life::Quarantined)).count();
        MessageResult(Figures { live, crashes: self.crashes, quarantined })
    }
}

impl Handler<Drain> for Registry {
    type Result = ();

    fn handle(&mut self, Drain(drained): Drain, _: &mut Self::Context) {
        (self.draining, self.drained) = (true, Some(drained));
        for known in self.endpoints.values() {
            if let Life::Live(addr) | Life::Retiring { addr, .. } = &known.life {
                let addr = addr.clone();
                actix::spawn(async move {
                    let _ = addr.send(endpoint::Drain).await;
                });
            }
        }
        self.tell_if_drained();
    }
}
