//! The live half of a webhook: a thin actor around its [`Lane`]. The registry activates, passivates and restarts the
//! actor. The actor makes attempts in tasks of their own and records outcomes in the journal; it decides nothing.

mod attempt;
mod disable;
mod messages;
mod report;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, MessageResult, SpawnHandle, WrapFuture,
};
use tokio::sync::mpsc::UnboundedSender;
use tracing::field::display;

use crate::delivery::breaker::ViewState as BreakerState;
use crate::delivery::sender::{Report, Sender};
use crate::domain::id::{DeliveryId, EventSeq};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::Outcome;
use crate::fault;
use crate::log_limit::LogLimit;
use crate::store::deliveries::Wanted;
use crate::store::journal::Record;

use super::context::EngineContext;
use super::endpoint_config::{self, EndpointConfig};
use super::endpoint_stats::{EndpointStats, Live};
use super::lane::{Effect, Entry, HORIZON, Input, Lane, Mode, Now, Reason, Said};
use super::operational::{self, FAILING_EVENT};
use super::permits::Share;
use super::start_slots::StartSlots;
use super::tenant_quota::LiveGuard;

use self::attempt::{AbortOnDrop, Attempted, Ended, Means};
use self::watch::DeathWatch;

pub(super) use self::messages::{
    Configure, Detach, Drain, Offer, Passivate, Probe, Remind, SendNow, Wake, Withdraw, WithdrawAll,
};
pub(super) use self::report::ENDPOINT;
pub(super) use self::watch::{EndpointEvent, EndpointEventKind};

/// Offers that may wait for the actor.
pub(super) const MAILBOX: usize = 64;

/// An endpoint with nothing to do lives on for this long, so that a steady trickle of events never waits for an
/// activation.
const IDLE: Duration = Duration::from_secs(30);

/// Pause after the store failed, before it is asked again.
pub(super) const STORE_PAUSE: Duration = Duration::from_millis(500);

/// The longest wait of one timer. If a secret ends later, the webhook is read again after this time and the timer set
/// anew.
const LONGEST_TIMER: Duration = Duration::from_secs(3600);

/// The runtime's timers tick in milliseconds. With one more, the clock has surely passed the due moment.
const TIMER_GRAIN: Duration = Duration::from_millis(1);

/// A secret may sign for this long past its grace, so that a failing store is not asked all the time.
const SHORTEST_SECRET_WAIT: Duration = Duration::from_secs(1);

/// What the registry hands to a new endpoint.
pub(super) struct SpawnArgs {
    pub(super) config: Arc<EndpointConfig>,
    pub(super) context: Arc<EngineContext>,
    pub(super) sender: Sender,
    pub(super) start_slots: StartSlots,
    pub(super) generation: u64,
    pub(super) registry: UnboundedSender<EndpointEvent>,
    pub(super) in_doubt: InDoubt,
}

pub(super) struct Endpoint {
    config: Arc<EndpointConfig>,
    lane: Lane,
    context: Arc<EngineContext>,
    sender: Sender,
    start_slots: StartSlots,
    timer: Option<(Instant, SpawnHandle)>,
    secrets_timer: Option<SpawnHandle>,
    /// How many writes are under way, such as deferrals, warnings and switch-offs. Attempts do not count.
    recording: usize,
    draining: bool,
    busy_at: Instant,
    in_doubt: InDoubt,
    watch: DeathWatch,
    stats: Arc<EndpointStats>,
    live_guard: LiveGuard,
    born: UnixMillis,
    /// The state of the breaker that was logged last.
    breaker: BreakerState,
    log_limit: LogLimit,
}

impl Endpoint {
    pub(super) fn new(args: SpawnArgs) -> Self {
        let SpawnArgs { config, context, sender, start_slots, generation, registry, in_doubt } = args;
        let (stats, health) = (context.stats.of(config.num), config.health.clone());
        let member = context.live_endpoints.join(config.tenant);
        let watch = DeathWatch::new(config.num, generation, registry, stats.clone());
        let lane = Lane::new(config.policy.clone(), config.mode_now(&context), config.has_rows, health);
        let born = UnixMillis::now();
        Self {
            breaker: lane.breaker(born).state,
            log_limit: report::new_limit(),
            lane,
            config,
            context,
            sender,
            start_slots,
            timer: None,
            secrets_timer: None,
            recording: 0,
            draining: false,
            busy_at: Instant::now(),
            in_doubt,
            watch,
            stats,
            live_guard: member,
            born,
        }
    }

    fn now(&self) -> Now {
        Now { wall: UnixMillis::now(), steady: Instant::now(), tight: self.context.is_memory_tight() }
    }

    fn id(&self, event: EventSeq) -> DeliveryId {
        DeliveryId { event, webhook: self.config.num }
    }

    fn drive(&mut self, input: Input, ctx: &mut Context<Self>) {
        self.step(input, None, ctx);
        self.leave_if_it_must();
    }

    /// Asks for passivation if the webhook is deleted or its tenant has many live endpoints. Not called when the actor
    /// starts: what the endpoint was activated for is still on its way then.
    fn leave_if_it_must(&self) {
        let must_leave = self.lane.mode() == Mode::Deleted || self.live_guard.is_tight();
        if must_leave && self.can_rest() {
            self.watch.say(EndpointEventKind::Idle);
        }
    }

    /// One step: the lane decides, the actor carries out. `attempted` is the attempt whose end is the input, if any.
    fn step(&mut self, input: Input, mut attempted: Option<Attempted>, ctx: &mut Context<Self>) {
        let now = self.now();
        self.busy_at = now.steady;
        let mut effects = Vec::new();
        self.lane.on(input, now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Start { entry, share } => self.begin(entry, share, ctx),
                Effect::Settle { entry, state } => {
                    if let Some(attempted) = attempted.take() {
                        self.settle(&entry, state, attempted);
                    }
                }
                Effect::Save { health } => self.record(Record::Health { webhook: self.config.num, health }, ctx),
                Effect::Warn { failing_since } => self.warn(failing_since, ctx),
                Effect::Disable { reason } => self.disable(reason, ctx),
                Effect::Defer { event } => self.record(Record::Defer { id: self.id(event), next_at: now.wall }, ctx),
                Effect::Cancel { event } => self.record(Record::Cancel { id: self.id(event), at: now.wall }, ctx),
                Effect::Load { limit, known } => self.load(limit, known, ctx),
            }
        }
        self.set_timer(now, ctx);
        self.show(now);
        self.end_if_drained(ctx);
    }

    fn show(&mut self, now: Now) {
        let breaker = self.lane.breaker(now.wall);
        self.note_breaker(breaker);
        self.stats.publish(Live { since: Some(self.born), gauge: self.lane.gauge(), breaker: Some(breaker) });
    }

    fn begin(&self, entry: Entry, share: Share, ctx: &mut Context<Self>) {
        let (event, called) = (entry.event.seq, self.config.clone());
        let (context, start_slots) = (self.context.clone(), self.start_slots.clone());
        let means = Means { context, start_slots, sender: self.sender.clone(), stats: self.stats.clone() };
        let run = attempt::run(means, self.config.clone(), entry, share);
        let ended = AbortOnDrop::spawn(run).into_actor(self).map(move |ended, actor, ctx| match ended {
            Some(Ended::Made(attempted)) => actor.attempted(event, &called, attempted, ctx),
            Some(Ended::CutShort) => {
                actor.watch.say(EndpointEventKind::CutShort(event));
                actor.in_doubt = actor.in_doubt.and(InDoubt { events_to: event, due_to: UnixMillis::now() });
                actor.drive(Input::CutShort { event }, ctx);
            }
            None => actor.drive(Input::NotSent { event }, ctx),
        });
        ctx.spawn(ended);
    }

    fn attempted(&mut self, event: EventSeq, called: &EndpointConfig, attempted: Attempted, ctx: &mut Context<Self>) {
        let outcome = match &attempted.report.outcome {
            // The URL has changed since: a `410` from the old receiver says nothing about the new one.
            Outcome::Gone if called.url != self.config.url => Outcome::Rejected,
            outcome => outcome.clone(),
        };
        let Report { status, error, duration_us, .. } = &attempted.report;
        let said = Said { status: *status, error: error.clone() };
        let (took, jitter) = (Duration::from_micros((*duration_us).into()), rand::random());
        self.step(Input::Finished { event, outcome, said, took, jitter }, Some(attempted), ctx);
        self.leave_if_it_must();
    }

    fn record(&mut self, record: Record, ctx: &mut Context<Self>) {
        // At once if the journal has room, so that the next read sees the record.
        let Err(record) = self.context.journal.try_record(record) else { return };
        self.recording += 1;
        let journal = self.context.journal.clone();
        let record = async move { journal.record(record).await };
        ctx.spawn(record.into_actor(self).map(|_, actor, ctx| actor.recorded(ctx)));
    }

    fn recorded(&mut self, ctx: &mut Context<Self>) {
        self.recording -= 1;
        self.end_if_drained(ctx);
    }

    /// Reads rows once everything recorded so far is committed: otherwise a delivery that has just succeeded would
    /// still look pending.
    fn load(&self, limit: usize, known: Vec<EventSeq>, ctx: &mut Context<Self>) {
        let (context, num, ordered) = (self.context.clone(), self.config.num, self.config.policy.ordered);
        let read = async move {
            let _ = context.journal.barrier().await;
            let wanted = Wanted { horizon: UnixMillis::now().plus(HORIZON), ordered, limit, known: &known };
            let read = context.store.due(&context.shard_set, num, wanted).await;
            if let Err(error) = &read {
                tracing::warn!(%error, "pending deliveries could not be read; trying again");
                tokio::time::sleep(STORE_PAUSE).await;
            }
            read
        };
        let loaded = read.into_actor(self).map(move |read, actor, ctx| {
            let Ok(due) = read else {
                return actor.drive(Input::LoadFailed, ctx);
            };
            let entries = due.rows.into_iter().map(|row| Entry::stored(row, actor.in_doubt)).collect();
            actor.drive(Input::Loaded { entries, next: due.next }, ctx);
        });
        ctx.spawn(loaded);
    }

    fn warn(&mut self, failing_since: UnixMillis, ctx: &mut Context<Self>) {
        self.recording += 1;
        let (context, config) = (self.context.clone(), self.config.clone());
        let warned = async move {
            let EndpointConfig { id, tenant_id, name, .. } = &*config;
            let tenant = tenant_id.map(display);
            tracing::warn!(target: ENDPOINT, tenant, webhook = %id, name, %failing_since, "every attempt fails; the webhook will be switched off");
            let reason = format!("every attempt has failed since {failing_since}; it is going to be switched off");
            operational::tell(&context, &config, FAILING_EVENT, &reason).await;
        };
        ctx.spawn(warned.into_actor(self).map(|(), actor, ctx| actor.recorded(ctx)));
    }

    fn disable(&mut self, reason: Reason, ctx: &mut Context<Self>) {
        self.recording += 1;
        let disabled = disable::switch_off(self.context.clone(), self.config.clone(), reason);
        ctx.spawn(disabled.into_actor(self).map(|config, actor, ctx| {
            if let Some(config) = config {
                actor.configure(config, ctx);
            }
            actor.recorded(ctx);
        }));
    }

    fn set_timer(&mut self, now: Now, ctx: &mut Context<Self>) {
        let wanted = self.lane.wake_at(now).filter(|at| *at > now.steady);
        let current = self.timer.map(|(at, _)| at);
        if current == wanted {
            return;
        }
        if let Some((_, handle)) = self.timer.take() {
            ctx.cancel_future(handle);
        }
        if let Some(at) = wanted {
            let wait = at.saturating_duration_since(now.steady).min(LONGEST_TIMER) + TIMER_GRAIN;
            let handle = ctx.run_later(wait, |actor, ctx| {
                actor.timer = None;
                actor.drive(Input::Tick, ctx);
            });
            self.timer = Some((at, handle));
        }
    }

    /// Reads the webhook again when one of its secrets stops signing.
    fn watch_secrets(&mut self, ctx: &mut Context<Self>) {
        if let Some(handle) = self.secrets_timer.take() {
            ctx.cancel_future(handle);
        }
        let Some(at) = self.config.changes_at else { return };
        let wait = at.since(UnixMillis::now()).clamp(SHORTEST_SECRET_WAIT, LONGEST_TIMER);
        let handle = ctx.run_later(wait, |actor, ctx| {
            let (context, num) = (actor.context.clone(), actor.config.num);
            let read = async move { endpoint_config::load_one(&context, num).await };
            ctx.spawn(read.into_actor(actor).map(move |read, actor, ctx| match read {
                Ok(config) => actor.configure(config, ctx),
                Err(error) => {
                    tracing::warn!(webhook = %actor.config.name, %error, "webhook could not be read again after a secret ended; trying again");
                    actor.watch_secrets(ctx);
                }
            }));
        });
        self.secrets_timer = Some(handle);
    }

    /// Adopts a config that was just read, unless the endpoint has a newer one.
    fn configure(&mut self, config: Option<Arc<EndpointConfig>>, ctx: &mut Context<Self>) {
        let is_old = config.as_ref().is_some_and(|config| config.version < self.config.version);
        if is_old || self.lane.mode() == Mode::Deleted {
            return;
        }
        let mut mode = Mode::Deleted;
        if let Some(config) = config {
            mode = config.mode_now(&self.context);
            if config.starts_anew_after(&self.config) {
                self.drive(Input::Renew, ctx);
            }
            self.config = config;
            self.watch_secrets(ctx);
        }
        if self.draining {
            mode = Mode::Stopping;
        }
        self.drive(Input::Configure { policy: self.config.policy.clone(), mode }, ctx);
    }

    fn is_idle(&self) -> bool {
        self.recording == 0 && self.lane.is_idle(self.now())
    }

    fn can_rest(&self) -> bool {
        self.recording == 0 && self.lane.can_rest(self.now())
    }

    fn end(&mut self, ctx: &mut Context<Self>) {
        if self.live_guard.is_tight() {
            self.context.stats.forget(self.config.num);
        }
        self.end_log();
        self.watch.expect_end();
        ctx.stop();
    }

    fn end_if_drained(&mut self, ctx: &mut Context<Self>) {
        if self.draining && self.is_idle() {
            self.end(ctx);
        }
    }
}

impl Actor for Endpoint {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.watch_secrets(ctx);
        ctx.run_interval(IDLE, |actor, _| {
            if actor.can_rest() && actor.busy_at.elapsed() >= IDLE {
                actor.watch.say(EndpointEventKind::Idle);
            }
        });
        self.step(Input::Tick, None, ctx);
    }
}

impl Handler<Offer> for Endpoint {
    type Result = ();

    fn handle(&mut self, offer: Offer, ctx: &mut Self::Context) {
        drop(offer.room);
        self.stats.taken();
        fault::point_of("endpoint.handle", &self.config.name);
        self.drive(Input::Offer(Entry::offered(offer.event, offer.recovered)), ctx);
    }
}

impl Handler<Wake> for Endpoint {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        self.drive(Input::Wake, ctx);
    }
}

impl Handler<Remind> for Endpoint {
    type Result = ();

    fn handle(&mut self, _: Remind, ctx: &mut Self::Context) {
        self.drive(Input::Remind, ctx);
    }
}

impl Handler<Configure> for Endpoint {
    type Result = ();

    fn handle(&mut self, Configure(config): Configure, ctx: &mut Self::Context) {
        self.configure(config, ctx);
    }
}

impl Handler<Detach> for Endpoint {
    type Result = MessageResult<Detach>;

    fn handle(&mut self, Detach(event): Detach, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.lane.detach(event))
    }
}

impl Handler<Withdraw> for Endpoint {
    type Result = MessageResult<Withdraw>;

    fn handle(&mut self, Withdraw(event): Withdraw, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.lane.withdraw(event))
    }
}

impl Handler<WithdrawAll> for Endpoint {
    type Result = MessageResult<WithdrawAll>;

    fn handle(&mut self, WithdrawAll(to): WithdrawAll, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.lane.withdraw_all(to))
    }
}

impl Handler<Probe> for Endpoint {
    type Result = ();

    fn handle(&mut self, _: Probe, ctx: &mut Self::Context) {
        self.drive(Input::Probe, ctx);
    }
}

impl Handler<SendNow> for Endpoint {
    type Result = ();

    fn handle(&mut self, SendNow(event): SendNow, ctx: &mut Self::Context) {
        self.lane.expect_send_now(event);
        let (context, id) = (self.context.clone(), self.id(event));
        let read = async move {
            let _ = context.journal.barrier().await;
            context.store.due_one(&context.shard_set, id).await
        };
        ctx.spawn(read.into_actor(self).map(move |read, actor, ctx| match read {
            Ok(Some(due)) => actor.drive(Input::SendNow(Entry::stored(due, actor.in_doubt)), ctx),
            Ok(None) => {
                actor.lane.cancel_send_now(event);
            }
            Err(error) => {
                tracing::warn!(%error, "delivery to be sent now could not be read; it waits for its turn");
                actor.lane.cancel_send_now(event);
                actor.drive(Input::Wake, ctx);
            }
        }));
    }
}

impl Handler<Passivate> for Endpoint {
    type Result = ();

    fn handle(&mut self, _: Passivate, ctx: &mut Self::Context) {
        if self.can_rest() {
            self.end(ctx);
        } else {
            self.watch.say(EndpointEventKind::Busy);
        }
    }
}

impl Handler<Drain> for Endpoint {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        self.draining = true;
        let policy = self.config.policy.clone();
        self.drive(Input::Configure { policy, mode: Mode::Stopping }, ctx);
    }
}
