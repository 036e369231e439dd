//! The live half of a webhook: a thin actor around its [`Lane`]. The registry activates, passivates and restarts the
//! actor. The actor makes attempts in tasks of their own and records outcomes in the journal; it decides nothing. What
//! is here runs in actix ([`actor`]) and in the simulation: the [`Shell`] spawns its tasks and sets its timers.

mod actor;
mod attempt;
mod messages;
mod recall;
mod report;
mod shell;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tracing::field::display;

use crate::delivery::breaker::ViewState as BreakerState;
use crate::delivery::sender::Report;
use crate::domain::delivery::Due;
use crate::domain::id::{DeliveryId, EventSeq};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::fault;
use crate::journal::Record;
use crate::log_limit::LogLimit;
use crate::store::StoreError;
use crate::store::deliveries::Wanted;

use super::context::EngineContext;
use super::endpoint_config::{self, EndpointConfig};
use super::endpoint_stats::{EndpointStats, Live};
use super::lane::{Effect, Entry, HORIZON, Input, Lane, Mode, Now, Said};
use super::operational;
use super::permits::Share;
use super::start_slots::StartSlots;
use super::tenant_quota::LiveGuard;

use self::attempt::{AttemptEnd, Attempted, Means};
use self::recall::Recall;

pub(super) use self::actor::EndpointActor;
pub(super) use self::attempt::Transport;
pub(super) use self::messages::EndpointMessage;
pub(super) use self::report::ENDPOINT;
pub(super) use self::shell::{Completion, Decided, Shell, Timer};
pub(super) use self::watch::{DeathWatch, EndpointEvent, EndpointEventKind};

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

/// What a new endpoint gets: from the registry, and from its thread.
pub(super) struct SpawnArgs {
    pub(super) seed: EndpointSeed,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) start_slots: StartSlots,
}

/// What the registry gives to a new endpoint.
pub(super) struct EndpointSeed {
    pub(super) config: Arc<EndpointConfig>,
    pub(super) context: Arc<EngineContext>,
    /// Reports the end of the endpoint, also if it ends before it has begun.
    pub(super) watch: DeathWatch,
    pub(super) stats: Arc<EndpointStats>,
    pub(super) in_doubt: InDoubt,
}

/// Decides nothing; see the module.
pub(super) struct Endpoint {
    config: Arc<EndpointConfig>,
    lane: Lane,
    context: Arc<EngineContext>,
    transport: Arc<dyn Transport>,
    start_slots: StartSlots,
    /// When the lane's timer fires.
    timer: Option<Instant>,
    /// The attempts that have not ended, each once.
    attempts: Vec<(EventSeq, Recall)>,
    /// How many writes are under way, such as deferrals. Attempts do not count.
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
        let SpawnArgs { seed, transport, start_slots } = args;
        let EndpointSeed { config, context, watch, stats, in_doubt } = seed;
        let health = config.health.clone();
        let live_guard = context.live_endpoints.join(config.tenant);
        let lane = Lane::new(config.policy.clone(), config.mode_now(&context), config.has_rows, health);
        let (born, now) = (context.host.now(), context.host.steady());
        Self {
            breaker: lane.breaker(born).state,
            log_limit: report::new_limit(now),
            lane,
            config,
            context,
            transport,
            start_slots,
            timer: None,
            attempts: Vec::new(),
            recording: 0,
            draining: false,
            busy_at: now,
            in_doubt,
            watch,
            stats,
            live_guard,
            born,
        }
    }

    fn now(&self) -> Now {
        let host = &self.context.host;
        Now { wall: host.now(), steady: host.steady(), tight: self.context.is_memory_tight() }
    }

    fn id(&self, event: EventSeq) -> DeliveryId {
        DeliveryId { event, webhook: self.config.num }
    }

    pub(super) fn start(&mut self, shell: &mut impl Shell) {
        self.watch_secrets(shell);
        shell.set_timer(Timer::Idle, Some(IDLE));
        self.step(Input::Tick, None, shell);
    }

    pub(super) fn on(&mut self, message: EndpointMessage, shell: &mut impl Shell) {
        match message {
            EndpointMessage::Offer { event, recovered, room } => {
                drop(room);
                self.stats.taken();
                fault::point_of("endpoint.handle", &self.config.name);
                self.drive(Input::Offer(Entry::offered(event, recovered)), shell);
            }
            EndpointMessage::Wake => self.drive(Input::Wake, shell),
            EndpointMessage::Remind => self.drive(Input::Remind, shell),
            EndpointMessage::Configure(config, done) => {
                self.configure(config, shell);
                let _ = done.send(());
            }
            EndpointMessage::Halt(done) => {
                self.halt(shell);
                let _ = done.send(());
            }
            EndpointMessage::TakeOut(event, answer) => {
                self.take_back(event);
                // The next step comes with what the caller records, which a read must not precede.
                let _ = answer.send(self.lane.take_out(event));
            }
            EndpointMessage::Withdraw(event, done) => {
                self.take_back(event);
                self.lane.withdraw(event);
                let _ = done.send(());
                self.drive(Input::Tick, shell);
            }
            EndpointMessage::WithdrawAll(to, answer) => drop(answer.send(self.lane.withdraw_all(to))),
            EndpointMessage::Probe(done) => {
                self.drive(Input::Probe, shell);
                let _ = done.send(());
            }
            EndpointMessage::SendNow(event, done) => {
                self.send_now(event, shell);
                let _ = done.send(());
            }
            EndpointMessage::Passivate if self.can_rest() => self.end(shell),
            EndpointMessage::Passivate => self.watch.say(EndpointEventKind::Busy),
            EndpointMessage::Drain => {
                self.draining = true;
                let policy = self.config.policy.clone();
                self.drive(Input::Configure { policy, mode: Mode::Stopping }, shell);
            }
        }
    }

    pub(super) fn on_timer(&mut self, timer: Timer, shell: &mut impl Shell) {
        match timer {
            Timer::Lane => {
                self.timer = None;
                self.drive(Input::Tick, shell);
            }
            Timer::Secrets => self.read_again(shell),
            Timer::Idle => {
                let idle_for = self.context.host.steady().saturating_duration_since(self.busy_at);
                if self.can_rest() && idle_for >= IDLE {
                    self.watch.say(EndpointEventKind::Idle);
                }
                shell.set_timer(Timer::Idle, Some(IDLE));
            }
        }
    }

    pub(super) fn on_completed(&mut self, completed: Completion, shell: &mut impl Shell) {
        match completed {
            // The lane knows already that nothing was sent, and may have begun another attempt.
            Completion::Attempt { recall, .. } if recall.is_recalled() => {}
            Completion::Attempt { event, called, recall, ended } => {
                if let Some(place) = self.attempts.iter().position(|(_, other)| other.is_of(&recall)) {
                    self.forget_attempt(place);
                }
                self.attempt_ended(event, &called, ended, shell);
            }
            Completion::Recorded => self.recorded(shell),
            Completion::Loaded(Ok(due)) => {
                let entries = due.rows.into_iter().map(|row| Entry::stored(row, self.in_doubt)).collect();
                self.drive(Input::Loaded { entries, next: due.next }, shell);
            }
            Completion::Loaded(Err(_)) => self.drive(Input::LoadFailed, shell),
            Completion::FoundToSend { event, row } => self.found_to_send(event, row, shell),
            Completion::ReadAgain(Ok(config)) => self.configure(config, shell),
            Completion::ReadAgain(Err(error)) => {
                let EndpointConfig { id, tenant_id, .. } = &*self.config;
                let tenant = tenant_id.map(display);
                tracing::warn!(tenant, webhook = %id, %error, "webhook could not be read again after a secret ended; trying again");
                self.watch_secrets(shell);
            }
        }
    }

    fn drive(&mut self, input: Input, shell: &mut impl Shell) {
        self.step(input, None, shell);
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
    fn step(&mut self, input: Input, mut attempted: Option<Attempted>, shell: &mut impl Shell) {
        let now = self.now();
        self.busy_at = now.steady;
        let mut effects = Vec::new();
        shell.hears(&input);
        self.lane.on(input, now, &mut effects);
        let mut recalled = Vec::new();
        let (config, lane, attempt) = (&self.config, &self.lane, attempted.as_ref());
        shell.decided(&Decided { config, lane, effects: &effects, attempted: attempt });
        for effect in effects {
            fault::point("endpoint.effect");
            match effect {
                Effect::Start { entry, share } => self.begin(entry, share, shell),
                Effect::Settle { entry, state } => {
                    if let Some(attempted) = attempted.take() {
                        self.settle(&entry, state, attempted);
                    }
                }
                Effect::Save { health, news } => {
                    let tells = news.map(|news| {
                        self.log_news(news);
                        Box::new(operational::of_webhook(&self.config, news, now.wall))
                    });
                    self.record(Record::Health { webhook: self.config.num, health: Box::new(health), tells }, shell);
                }
                Effect::Defer { event } => self.record(Record::Defer { id: self.id(event), next_at: now.wall }, shell),
                Effect::Cancel { event } => {
                    self.record(Record::Cancel { id: self.id(event), at: now.wall, operation: None }, shell)
                }
                Effect::Load { limit, known } => self.load(limit, known, shell),
                Effect::Recall { events } => recalled.extend(events),
            }
        }
        for event in recalled {
            if self.recall(event) {
                self.step(Input::NotSent { event }, None, shell);
            }
        }
        self.set_timer(now, shell);
        self.show(now);
        self.end_if_drained(shell);
    }

    fn show(&mut self, now: Now) {
        let breaker = self.lane.breaker(now.wall);
        self.note_breaker(breaker);
        self.stats.publish(Live { since: Some(self.born), gauge: self.lane.gauge(), breaker: Some(breaker) });
    }

    fn begin(&mut self, entry: Entry, share: Share, shell: &mut impl Shell) {
        let (event, called, recall) = (entry.event.seq, self.config.clone(), Recall::default());
        self.attempts.push((event, recall.clone()));
        let means = Means {
            context: self.context.clone(),
            start_slots: self.start_slots.clone(),
            transport: self.transport.clone(),
            stats: self.stats.clone(),
            recall: recall.clone(),
        };
        let attempt = attempt::run(means, called.clone(), entry, share);
        // Mapped: an async block would have room for the future twice.
        shell.spawn(attempt.map(move |ended| Completion::Attempt { event, called, recall, ended }));
    }

    fn attempt_ended(
        &mut self,
        event: EventSeq,
        called: &EndpointConfig,
        ended: Option<AttemptEnd>,
        shell: &mut impl Shell,
    ) {
        match ended {
            Some(AttemptEnd::Made(attempted)) => self.attempted(event, called, attempted, shell),
            Some(AttemptEnd::CutShort) => {
                self.watch.say(EndpointEventKind::CutShort(event));
                let due_to = self.context.host.now();
                self.in_doubt = self.in_doubt.and(InDoubt { events_to: event, due_to });
                self.drive(Input::CutShort { event }, shell);
            }
            None => self.drive(Input::NotSent { event }, shell),
        }
    }

    /// Stops the attempt of this delivery, if nothing of its request was sent. Answers whether it was stopped.
    fn recall(&mut self, event: EventSeq) -> bool {
        let place = self.attempts.iter().position(|(of, recall)| *of == event && recall.recall());
        place.map(|place| self.forget_attempt(place)).is_some()
    }

    /// An endpoint without attempts has no memory for them.
    fn forget_attempt(&mut self, place: usize) {
        self.attempts.swap_remove(place);
        if self.attempts.is_empty() {
            self.attempts = Vec::new();
        }
    }

    /// Makes the delivery wait again in the lane, if nothing of its request was sent.
    fn take_back(&mut self, event: EventSeq) {
        if self.recall(event) {
            self.lane.put_back(event, self.now());
        }
    }

    fn attempted(&mut self, event: EventSeq, called: &EndpointConfig, attempted: Attempted, shell: &mut impl Shell) {
        let Report { outcome, status, error, duration_us, .. } = &attempted.report;
        let (outcome, from_former_url) = (outcome.clone(), called.url != self.config.url);
        let said = Said { status: *status, error: error.clone() };
        let (took, jitter) = (Duration::from_micros((*duration_us).into()), self.context.host.unit_random());
        self.step(Input::Finished { event, outcome, said, from_former_url, took, jitter }, Some(attempted), shell);
        self.leave_if_it_must();
    }

    fn record(&mut self, record: Record, shell: &mut impl Shell) {
        // At once if the journal has room, so that the next read sees the record.
        let Err(record) = self.context.journal.try_record(record) else { return };
        self.recording += 1;
        let journal = self.context.journal.clone();
        shell.spawn(async move {
            let _ = journal.record(record).await;
            Completion::Recorded
        });
    }

    fn recorded(&mut self, shell: &mut impl Shell) {
        self.recording -= 1;
        self.end_if_drained(shell);
    }

    /// Reads rows once everything recorded so far is committed: otherwise a delivery that has just succeeded would
    /// still look pending.
    fn load(&self, limit: usize, known: Vec<EventSeq>, shell: &mut impl Shell) {
        let (context, num, ordered) = (self.context.clone(), self.config.num, self.config.policy.ordered);
        shell.spawn(async move {
            let _ = context.journal.barrier().await;
            let wanted = Wanted { horizon: context.host.now().plus(HORIZON), ordered, limit, known: &known };
            let read = context.db.due(&context.shard_set, num, wanted).await;
            if let Err(error) = &read {
                tracing::warn!(%error, "pending deliveries could not be read; trying again");
                context.host.sleep(STORE_PAUSE).await;
            }
            Completion::Loaded(read)
        });
    }

    fn send_now(&mut self, event: EventSeq, shell: &mut impl Shell) {
        self.lane.expect_send_now(event);
        let (context, id) = (self.context.clone(), self.id(event));
        shell.spawn(async move {
            let _ = context.journal.barrier().await;
            Completion::FoundToSend { event, row: context.db.due_one(&context.shard_set, id).await }
        });
    }

    fn found_to_send(&mut self, event: EventSeq, row: Result<Option<Due>, StoreError>, shell: &mut impl Shell) {
        match row {
            Ok(Some(due)) => self.drive(Input::SendNow(Entry::stored(due, self.in_doubt)), shell),
            Ok(None) => {
                self.lane.cancel_send_now(event);
            }
            Err(error) => {
                tracing::warn!(%error, "delivery to be sent now could not be read; it waits for its turn");
                self.lane.cancel_send_now(event);
                self.drive(Input::Wake, shell);
            }
        }
    }

    fn set_timer(&mut self, now: Now, shell: &mut impl Shell) {
        let wanted = self.lane.wake_at(now).filter(|at| *at > now.steady);
        if self.timer == wanted {
            return;
        }
        let wait = wanted.map(|at| at.saturating_duration_since(now.steady).min(LONGEST_TIMER) + TIMER_GRAIN);
        shell.set_timer(Timer::Lane, wait);
        self.timer = wanted;
    }

    /// Sets the timer for the end of the next secret that stops signing.
    fn watch_secrets(&mut self, shell: &mut impl Shell) {
        let wait = |at: UnixMillis| at.since(self.context.host.now()).clamp(SHORTEST_SECRET_WAIT, LONGEST_TIMER);
        shell.set_timer(Timer::Secrets, self.config.changes_at.map(wait));
    }

    fn read_again(&self, shell: &mut impl Shell) {
        let (context, num) = (self.context.clone(), self.config.num);
        shell.spawn(async move { Completion::ReadAgain(endpoint_config::load_one(&context, num).await) });
    }

    /// Adopts a config that was just read, unless the endpoint has a newer one.
    fn configure(&mut self, config: Option<Arc<EndpointConfig>>, shell: &mut impl Shell) {
        let is_old = config.as_ref().is_some_and(|config| config.version < self.config.version);
        if is_old || self.lane.mode() == Mode::Deleted {
            return;
        }
        let is_known = |config: &Arc<EndpointConfig>| {
            config.is_as(&self.config) && config.mode_now(&self.context) == self.lane.mode()
        };
        if config.as_ref().is_some_and(is_known) {
            return;
        }
        let mut mode = Mode::Deleted;
        if let Some(config) = config {
            mode = config.mode_now(&self.context);
            if config.starts_anew_after(&self.config) {
                self.drive(Input::Renew, shell);
            }
            self.config = config;
            self.watch_secrets(shell);
        }
        if self.draining {
            mode = Mode::Stopping;
        }
        self.drive(Input::Configure { policy: self.config.policy.clone(), mode }, shell);
    }

    /// Sends nothing until a config comes that could be read.
    fn halt(&mut self, shell: &mut impl Shell) {
        if self.lane.mode() != Mode::Deleted {
            let mode = if self.draining { Mode::Stopping } else { Mode::Paused };
            self.drive(Input::Configure { policy: self.config.policy.clone(), mode }, shell);
        }
    }

    fn is_idle(&self) -> bool {
        self.recording == 0 && self.lane.is_idle(self.now())
    }

    fn can_rest(&self) -> bool {
        self.recording == 0 && self.lane.can_rest(self.now())
    }

    fn end(&mut self, shell: &mut impl Shell) {
        if self.live_guard.is_tight() {
            self.context.stats.forget(self.config.num);
        }
        self.end_log();
        self.watch.expect_end();
        shell.end();
    }

    fn end_if_drained(&mut self, shell: &mut impl Shell) {
        if self.draining && self.is_idle() {
            self.end(shell);
        }
    }
}
