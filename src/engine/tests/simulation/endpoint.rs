//! Mirrors [`crate::engine::endpoint`]: an actor around a real lane, with its mailbox, its timer, the tasks that end
//! with it, and what it does with the lane's effects.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::oneshot;

use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::{Outcome, OutcomeKind};
use crate::engine::endpoint::{EndpointEvent, EndpointEventKind};
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::lane::{Effect, Entry, Gauge, Input, Lane, Mode, Said};
use crate::store::deliveries::{Attempt, DeliveryState};
use crate::store::journal::{AttemptRecord, Record};

use super::attempt::{self, Attempted, Ended};
use super::messages::Message;
use super::process::Process;
use super::tasks::Owner;
use super::trace;

/// As in the actor.
const IDLE: Duration = Duration::from_secs(30);
const TIMER_GRAIN: Duration = Duration::from_millis(1);

pub(super) struct Endpoint {
    pub(super) num: WebhookNum,
    pub(super) generation: u64,
    pub(super) process: Rc<Process>,
    mailbox: RefCell<VecDeque<Message>>,
    incarnations: Cell<bool>,
    pub(super) lane: RefCell<Lane>,
    pub(super) config: RefCell<Arc<EndpointConfig>>,
    timer: Cell<Option<Instant>>,
    pub(super) recording: Cell<usize>,
    draining: Cell<bool>,
    busy_at: Cell<Instant>,
    idle_said_at: Cell<Instant>,
    pub(super) in_doubt: Cell<InDoubt>,
    /// The end of the breaker's cool-down, as it was last saved.
    left_alone: Cell<Option<UnixMillis>>,
}

impl Endpoint {
    pub(super) fn start(
        process: &Rc<Process>,
        config: &Arc<EndpointConfig>,
        generation: u64,
        in_doubt: InDoubt,
    ) -> Rc<Self> {
        let now = process.world.steady();
        let endpoint = Rc::new(Self {
            num: config.num,
            generation,
            process: process.clone(),
            mailbox: RefCell::default(),
            incarnations: Cell::new(true),
            lane: RefCell::new(Lane::new(
                config.policy.clone(),
                process.mode_now(config),
                config.has_rows,
                config.health.clone(),
            )),
            config: RefCell::new(config.clone()),
            timer: Cell::new(None),
            recording: Cell::new(0),
            draining: Cell::new(false),
            busy_at: Cell::new(now),
            idle_said_at: Cell::new(now),
            in_doubt: Cell::new(in_doubt),
            left_alone: Cell::new(config.health.open_until),
        });
        process.world.note(|| format!("{:?} starts, generation {generation}, {:?}", config.num, config.mode));
        endpoint.spawn(endpoint.clone().live());
        endpoint
    }

    pub(super) fn owner(&self) -> Owner {
        Owner::Endpoint(self.process.incarnation, self.generation)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.process.world.tasks.spawn(self.owner(), task);
    }

    /// A full or closed mailbox refuses the message.
    pub(super) fn try_send(&self, message: Message) -> Result<(), Message> {
        if !self.incarnations.get() || self.mailbox.borrow().len() >= self.process.world.bounds.mailbox {
            return Err(message);
        }
        self.mailbox.borrow_mut().push_back(message);
        Ok(())
    }

    /// Waits for room in the mailbox and for the answer; `None` if the actor is dead or dies.
    pub(super) async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Option<T> {
        let (told, answer) = oneshot::channel();
        let has_room = || !self.incarnations.get() || self.mailbox.borrow().len() < self.process.world.bounds.mailbox;
        self.process.world.tasks.until(|| has_room().then_some(())).await;
        self.try_send(message(told)).ok()?;
        answer.await.ok()
    }

    /// The registry asks the endpoint to end; it starts nothing more.
    pub(super) async fn drain(&self) {
        self.ask(Message::Drain).await;
    }

    async fn live(self: Rc<Self>) {
        self.hear(Input::Tick);
        loop {
            match self.process.world.tasks.until(|| self.next()).await {
                Some(message) => self.handle(message),
                None => self.hear(Input::Tick),
            }
        }
    }

    /// The next message, or `Some(None)` when the timer has fired.
    fn next(&self) -> Option<Option<Message>> {
        if !self.incarnations.get() {
            return None;
        }
        let now = self.process.world.steady();
        if self.timer.get().is_some_and(|at| at + TIMER_GRAIN <= now) {
            self.timer.set(None);
            return Some(None);
        }
        if now.duration_since(self.idle_said_at.get()) >= IDLE {
            self.idle_said_at.set(now);
            if self.can_rest() && now.duration_since(self.busy_at.get()) >= IDLE {
                self.say(EndpointEventKind::Idle);
            }
        }
        self.mailbox.borrow_mut().pop_front().map(Some)
    }

    fn handle(self: &Rc<Self>, message: Message) {
        match message {
            Message::Offer(item) => self.hear(Input::Offer(Entry::offered(item.event, item.recovered))),
            Message::Wake => self.hear(Input::Wake),
            Message::Remind => self.hear(Input::Remind),
            Message::Configure(config, told) => {
                self.configure(config);
                let _ = told.send(());
            }
            Message::Detach(event, told) => drop(told.send(self.lane.borrow_mut().detach(event))),
            Message::Withdraw(event, told) => drop(told.send(self.lane.borrow_mut().withdraw(event))),
            Message::WithdrawAll(to, told) => drop(told.send(self.lane.borrow_mut().withdraw_all(to))),
            Message::Probe(told) => {
                self.hear(Input::Probe);
                let _ = told.send(());
            }
            Message::SendNow(event, told) => {
                self.send_now(event);
                let _ = told.send(());
            }
            Message::Passivate => {
                if self.can_rest() {
                    self.end(EndpointEventKind::Passivated);
                } else {
                    self.say(EndpointEventKind::Busy);
                }
            }
            Message::Drain(told) => {
                self.draining.set(true);
                let policy = self.config.borrow().policy.clone();
                self.hear(Input::Configure { policy, mode: Mode::Stopping });
                let _ = told.send(());
            }
        }
    }

    pub(super) fn hear(self: &Rc<Self>, input: Input) {
        self.turn(input, None);
    }

    /// `Endpoint::step`.
    fn turn(self: &Rc<Self>, input: Input, mut attempted: Option<Attempted>) {
        if !self.incarnations.get() {
            return;
        }
        let world = &self.process.world;
        let now = self.process.now();
        self.busy_at.set(now.steady);
        let heard = world.history_is_kept().then(|| trace::input(&input));
        let mut effects = Vec::new();
        self.lane.borrow_mut().on(input, now, &mut effects);
        if let Some(heard) = heard {
            world.note(|| format!("w{} hears {heard}; {}", self.num.0, trace::effects(&effects)));
        }
        let panics_at = world.happens(world.trouble.get().panics).then(|| world.pick(effects.len() + 1));
        for (index, effect) in effects.into_iter().enumerate() {
            if panics_at == Some(index) {
                return self.crash();
            }
            self.act(effect, &mut attempted, now.wall);
        }
        if panics_at.is_some() {
            return self.crash();
        }
        let wake_at = self.lane.borrow().wake_at(now).filter(|at| *at > now.steady);
        self.timer.set(wake_at);
        if let Some(at) = wake_at {
            world.wake_at(world.since_epoch(at) + TIMER_GRAIN);
        }
        self.check();
        self.end_if_drained();
        if self.lane.borrow().mode() == Mode::Deleted && self.can_rest() {
            self.say(EndpointEventKind::Idle);
        }
    }

    fn act(self: &Rc<Self>, effect: Effect, attempted: &mut Option<Attempted>, now: UnixMillis) {
        let id = |event| DeliveryId { event, webhook: self.num };
        match effect {
            Effect::Start { entry, share } => {
                let called = self.config.borrow().clone();
                self.check_breaker(&entry, now);
                let oracle = self.process.world.oracle.borrow();
                oracle.check_start((&self.process, self.generation), &called, &entry);
                drop(oracle);
                let (actor, world) = (self.clone(), self.process.world.clone());
                self.spawn(async move {
                    let event = entry.event.seq;
                    let ended = attempt::run(&actor, &called, entry, share).await;
                    world.tasks.pause().await;
                    match ended {
                        Some(Ended::Made(attempted)) => actor.attempted(event, &called, attempted),
                        Some(Ended::CutShort) => {
                            actor.say(EndpointEventKind::CutShort(event));
                            let cut = InDoubt { events_to: event, due_to: actor.process.wall() };
                            actor.in_doubt.set(actor.in_doubt.get().and(cut));
                            actor.hear(Input::CutShort { event });
                        }
                        None => actor.hear(Input::NotSent { event }),
                    }
                });
            }
            Effect::Settle { entry, state } => {
                if let Some(attempted) = attempted.take() {
                    self.settle(&entry, state, attempted);
                }
            }
            Effect::Save { health } => {
                self.left_alone.set(health.open_until);
                self.record(Record::Health { webhook: self.num, health });
            }
            Effect::Warn { .. } => {}
            Effect::Disable { reason } => self.disable(reason),
            Effect::Defer { event } => self.record(Record::Defer { id: id(event), next_at: now }),
            Effect::Cancel { event } => self.record(Record::Cancel { id: id(event), at: now }),
            Effect::Load { limit, known } => self.load(limit, known),
        }
    }

    /// `Endpoint::attempted`.
    fn attempted(self: &Rc<Self>, event: EventSeq, called: &EndpointConfig, attempted: Attempted) {
        let outcome = match &attempted.outcome {
            Outcome::Gone if called.url != self.config.borrow().url => Outcome::Rejected,
            outcome => outcome.clone(),
        };
        let (took, jitter) = (attempted.took, self.process.world.chance.borrow_mut().random());
        self.turn(Input::Finished { event, outcome, said: Said::default(), took, jitter }, Some(attempted));
    }

    /// `Endpoint::settle`. The attempt's error is the number of the request, by which the oracle finds it in the
    /// tables.
    fn settle(&self, entry: &Entry, state: DeliveryState, attempted: Attempted) {
        let id = DeliveryId { event: entry.event.seq, webhook: self.num };
        let Attempted { request, outcome, took, started_at, slot } = attempted;
        self.process.world.oracle.borrow_mut().decided(id, request, state);
        let attempt = Attempt {
            number: state.attempts,
            trigger: entry.trigger,
            started_at,
            duration_us: u32::try_from(took.as_micros()).unwrap_or(u32::MAX),
            head_us: None,
            status_code: None,
            outcome: OutcomeKind::code(outcome.kind()),
            error: Some(request.to_string()),
            response_headers: Vec::new(),
            response_body: Vec::new(),
        };
        slot.record(Record::Attempt(Box::new(AttemptRecord::new(id, attempt, state))));
    }

    fn record(self: &Rc<Self>, record: Record) {
        let Err(record) = self.process.journal.try_record(record) else { return };
        let (actor, journal) = (self.clone(), self.process.journal.clone());
        self.busy(async move { journal.record(record).await.is_ok() }, move |_| actor.recorded());
        self.recording.set(self.recording.get() + 1);
    }

    /// Spawns a task that ends with this actor, and what the actor does with its answer.
    pub(super) fn busy<T: 'static>(&self, task: impl Future<Output = T> + 'static, then: impl FnOnce(T) + 'static) {
        self.spawn(async move { then(task.await) });
    }

    pub(super) fn recorded(&self) {
        self.recording.set(self.recording.get() - 1);
        self.end_if_drained();
    }

    /// `Endpoint::configure`.
    pub(super) fn configure(self: &Rc<Self>, config: Option<Arc<EndpointConfig>>) {
        let is_old = config.as_ref().is_some_and(|config| config.version < self.config.borrow().version);
        if is_old || self.lane.borrow().mode() == Mode::Deleted {
            return;
        }
        let mut mode = Mode::Deleted;
        if let Some(config) = config {
            mode = self.process.mode_now(&config);
            if config.starts_anew_after(&self.config.borrow()) {
                self.left_alone.set(None);
                self.hear(Input::Renew);
            }
            *self.config.borrow_mut() = config;
        }
        if self.draining.get() {
            mode = Mode::Stopping;
        }
        let policy = self.config.borrow().policy.clone();
        self.hear(Input::Configure { policy, mode });
    }

    fn is_idle(&self) -> bool {
        self.recording.get() == 0 && self.lane.borrow().is_idle(self.process.now())
    }

    fn can_rest(&self) -> bool {
        self.recording.get() == 0 && self.lane.borrow().can_rest(self.process.now())
    }

    fn end_if_drained(&self) {
        if self.draining.get() && self.is_idle() {
            self.end(EndpointEventKind::Passivated);
        }
    }

    /// Ends the actor with its tasks and its mailbox, and tells the registry how.
    fn end(&self, sign: EndpointEventKind) {
        if !self.incarnations.replace(false) {
            return;
        }
        self.mailbox.borrow_mut().clear();
        self.process.world.tasks.kill(self.owner());
        self.say(sign);
    }

    /// A handler panics.
    pub(super) fn crash(&self) {
        self.process.world.note(|| format!("{:?} crashes", self.num));
        self.process.world.oracle.borrow_mut().endpoint_crashed(self.process.incarnation, self.generation);
        self.end(EndpointEventKind::Crashed);
    }

    fn say(&self, sign: EndpointEventKind) {
        let notice = EndpointEvent { num: self.num, generation: self.generation, kind: sign };
        self.process.notices.borrow_mut().push_back(notice);
    }

    /// A delivery that is sent before the end of the cool-down is manual, or the clocks differ.
    fn check_breaker(&self, entry: &Entry, now: UnixMillis) {
        let is_over = self.left_alone.get().is_none_or(|until| until <= now);
        let may_start = is_over || entry.is_manual() || self.process.world.clocks_differ();
        assert!(may_start, "{:?} of {:?} is sent although its breaker is open", entry.event.seq, self.num);
    }

    /// What must hold after each step.
    fn check(&self) {
        let (lane, config) = (self.lane.borrow(), self.config.borrow());
        let Gauge { in_flight, window, .. } = lane.gauge();
        let cap = if config.policy.ordered { 1 } else { usize::from(config.policy.max_in_flight) };
        assert!(in_flight <= cap, "{in_flight} requests of {:?} are under way, {cap} may be", self.num);
        let world = &self.process.world;
        let breaker = lane.breaker(self.process.wall()).state;
        let most = world.oracle.borrow().most_in_memory(world, self.num, lane.mode(), breaker, cap);
        assert!(window <= most, "{:?} keeps {window} deliveries in memory, {most} may be", self.num);
    }
}
