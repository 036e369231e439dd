//! The actor around an [`Endpoint`]: its mailbox, its timers, and the tasks that end with it. It checks each decision
//! of the lane, and crashes when the world wants it to.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::oneshot;

use crate::domain::delivery::DeliveryState;
use crate::domain::health::Health;
use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::engine::address::Address;
use crate::engine::endpoint::EndpointSeed;
use crate::engine::endpoint::{Completion, Decided, Endpoint, EndpointMessage, Shell, SpawnArgs, Timer};
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::lane::{Effect, Entry, Gauge, Input};
use crate::engine::registry::EndpointSpawner;
use crate::engine::start_slots::StartSlots;

use super::attempt::{Receivers, request_of};
use super::oracle::RequestNum;
use super::process::Process;
use super::tasks::{Owner, pause};
use super::trace;
use super::world::{self, Sleep, sleep};

/// The panic of an actor that the world lets crash.
pub(super) struct Crash;

/// Starts the endpoints of one process.
pub(super) struct Actors {
    pub(super) place: usize,
    pub(super) incarnation: u32,
    pub(super) start_slots: StartSlots,
    /// How many were started.
    pub(super) started: u64,
}

impl EndpointSpawner for Actors {
    fn spawn(&mut self, seed: EndpointSeed) -> Address<EndpointMessage> {
        self.started += 1;
        let (num, world) = (seed.config.num, world::current());
        let owner = Owner::Endpoint(self.incarnation, self.started);
        world.note(|| format!("{num:?} starts as {owner:?}, {:?}", seed.config.mode));
        let (completions, completed) = unbounded_channel();
        let (left_alone, is_suspended) = left_alone(&seed.config.health);
        let shell = Actor {
            num,
            place: self.place,
            owner,
            completions,
            timers: [const { None }; Timer::ALL.len()],
            is_over: false,
            left_alone,
            is_suspended,
        };
        let transport = Arc::new(Receivers { place: self.place, owner });
        let args = SpawnArgs { seed, transport, start_slots: self.start_slots.clone() };
        let (address, mailbox) = channel(world.bounds.mailbox);
        world.tasks.spawn(owner, live(Alive::new(owner), shell, args, mailbox, completed));
        Arc::new(address)
    }
}

/// Lists the actor among the live ones until this is dropped.
struct Alive(Owner);

impl Alive {
    fn new(owner: Owner) -> Self {
        world::current().live.borrow_mut().insert(owner);
        Self(owner)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        world::current().live.borrow_mut().remove(&self.0);
    }
}

enum Wakeup {
    Start,
    Message(EndpointMessage),
    Completed(Completion),
    Timer(Timer),
}

async fn live(
    _alive: Alive,
    mut shell: Actor,
    args: SpawnArgs,
    mut mailbox: Receiver<EndpointMessage>,
    mut completed: UnboundedReceiver<Completion>,
) {
    let mut endpoint = Endpoint::new(args);
    let mut wakeup = Wakeup::Start;
    while !shell.is_over {
        let step = AssertUnwindSafe(|| match wakeup {
            Wakeup::Start => endpoint.start(&mut shell),
            Wakeup::Message(EndpointMessage::WithdrawAll(to, answer)) => {
                withdraw_all(&mut endpoint, &mut shell, to, answer)
            }
            Wakeup::Message(message) => endpoint.on(message, &mut shell),
            Wakeup::Completed(completed) => endpoint.on_completed(completed, &mut shell),
            Wakeup::Timer(timer) => endpoint.on_timer(timer, &mut shell),
        });
        if let Err(panic) = catch_unwind(step) {
            return if panic.is::<Crash>() { crash(shell.owner) } else { resume_unwind(panic) };
        }
        wakeup = shell.next(&mut mailbox, &mut completed).await;
    }
}

/// Notes what the endpoint has promised not to send again.
fn withdraw_all(endpoint: &mut Endpoint, shell: &mut Actor, to: EventSeq, answer: oneshot::Sender<Vec<EventSeq>>) {
    let (own, mut withdrawn) = oneshot::channel();
    endpoint.on(EndpointMessage::WithdrawAll(to, own), shell);
    let events = withdrawn.try_recv().unwrap_or_default();
    let ids = events.iter().map(|event| DeliveryId { event: *event, webhook: shell.num });
    world::current().oracle.borrow_mut().withdraws(shell.owner, ids);
    let _ = answer.send(events);
}

/// Ends an actor as a panic does.
pub(super) fn crash(owner: Owner) {
    let world = world::current();
    world.note(|| format!("{owner:?} crashes"));
    world.oracle.borrow_mut().endpoint_crashed(owner);
    world.tasks.kill(owner);
}

/// What the oracle checks or notes when an effect of the step under way is carried out.
pub(super) enum Due {
    Start { owner: Owner, config: Arc<EndpointConfig>, entry: Entry },
    Settled { owner: Owner, id: DeliveryId, request: RequestNum, state: DeliveryState },
    Nothing,
}

/// Called at every fault point. An endpoint passes one before it carries out each effect, and may crash there.
pub(super) fn at_fault_point(name: &str) {
    if name != "endpoint.effect" {
        return;
    }
    let world = world::current();
    if world.happens(world.trouble.get().panics) {
        resume_unwind(Box::new(Crash));
    }
    let due = world.effects.borrow_mut().pop_front();
    match due {
        Some(Due::Start { owner, config, entry }) => {
            if let Some(process) = world.process(owner.incarnation()) {
                world.oracle.borrow_mut().check_start((&process, owner), &config, &entry);
            }
        }
        Some(Due::Settled { owner, id, request, state }) => {
            let node = world.process(owner.incarnation()).and_then(|process| process.shard_set.node());
            let is_owner = !world.is_clustered || world.tables.read().leases.owner(id.webhook) == node;
            world.oracle.borrow_mut().decided(id, request, state, is_owner);
        }
        Some(Due::Nothing) | None => {}
    }
}

/// What is around the endpoint.
struct Actor {
    num: WebhookNum,
    place: usize,
    owner: Owner,
    completions: UnboundedSender<Completion>,
    timers: [Option<Pin<Box<Sleep>>>; Timer::ALL.len()],
    is_over: bool,
    /// The end of the breaker's cool-down, as it was last saved.
    left_alone: Option<UnixMillis>,
    is_suspended: bool,
}

/// Until when a receiver is left alone, and whether its webhook is suspended. One that is gone is left alone until a
/// person asks for a probe.
fn left_alone(health: &Health) -> (Option<UnixMillis>, bool) {
    let held = health.suspension.map(|_| UnixMillis(i64::MAX));
    (health.open_until.or(held), health.suspension.is_some())
}

impl Shell for Actor {
    fn spawn(&mut self, task: impl Future<Output = Completion> + 'static) {
        let completions = self.completions.clone();
        world::current().tasks.spawn(self.owner, async move {
            let completion = task.await;
            pause().await;
            let _ = completions.send(completion);
        });
    }

    fn set_timer(&mut self, timer: Timer, wait: Option<Duration>) {
        self.timers[timer as usize] = wait.map(|wait| Box::pin(sleep(wait)));
    }

    fn end(&mut self) {
        self.is_over = true;
        world::current().tasks.kill(self.owner);
    }

    fn hears(&mut self, input: &Input) {
        if matches!(input, Input::Renew) {
            (self.left_alone, self.is_suspended) = (None, false);
        }
        world::current().note(|| format!("w{} hears {}", self.num.0, trace::input(input)));
    }

    fn decided(&mut self, decided: &Decided<'_>) {
        let world = world::current();
        world.note(|| format!("w{} decides {}", self.num.0, trace::effects(decided.effects)));
        let Some(process) = world.machines[self.place].process.borrow().clone() else { return };
        let request = decided.attempted.and_then(|attempted| request_of(&attempted.report));
        let mut due = VecDeque::new();
        for effect in decided.effects {
            due.push_back(match effect {
                Effect::Start { entry, .. } => {
                    self.check_breaker(&process, entry);
                    Due::Start { owner: self.owner, config: decided.config.clone(), entry: entry.clone() }
                }
                Effect::Settle { entry, state } => match request {
                    Some(request) => {
                        let id = DeliveryId { event: entry.event.seq, webhook: self.num };
                        if entry.state.manual.is_none() && state.tries == entry.state.tries {
                            assert!(self.is_suspended, "a failure of {id:?} uses up no retry");
                            world.oracle.borrow_mut().probed(id);
                        }
                        Due::Settled { owner: self.owner, id, request, state: *state }
                    }
                    None => Due::Nothing,
                },
                Effect::Save { health, .. } => {
                    (self.left_alone, self.is_suspended) = left_alone(health);
                    Due::Nothing
                }
                _ => Due::Nothing,
            });
        }
        *world.effects.borrow_mut() = due;
        if decided.effects.is_empty() && world.happens(world.trouble.get().panics) {
            resume_unwind(Box::new(Crash));
        }
        self.check(&process, decided);
    }
}

impl Actor {
    /// The next message, completion or timer, at random.
    async fn next(
        &mut self,
        mailbox: &mut Receiver<EndpointMessage>,
        completed: &mut UnboundedReceiver<Completion>,
    ) -> Wakeup {
        poll_fn(|context| {
            let first = world::current().pick(3);
            for which in (first..first + 3).map(|which| which % 3) {
                match which {
                    0 => {
                        if let Poll::Ready(Some(message)) = mailbox.poll_recv(context) {
                            return Poll::Ready(Wakeup::Message(message));
                        }
                    }
                    1 => {
                        if let Poll::Ready(Some(completion)) = completed.poll_recv(context) {
                            return Poll::Ready(Wakeup::Completed(completion));
                        }
                    }
                    _ => {
                        for timer in Timer::ALL {
                            let place = &mut self.timers[timer as usize];
                            if place.as_mut().is_some_and(|sleep| sleep.as_mut().poll(context).is_ready()) {
                                *place = None;
                                return Poll::Ready(Wakeup::Timer(timer));
                            }
                        }
                    }
                }
            }
            Poll::Pending
        })
        .await
    }

    /// A delivery that is sent before the end of the cool-down is manual, or the clocks differ.
    fn check_breaker(&self, process: &Process, entry: &Entry) {
        let is_over = self.left_alone.is_none_or(|until| until <= process.wall());
        let may_start = is_over || entry.is_manual() || process.world.clocks_differ();
        assert!(may_start, "{:?} of {:?} is sent although its breaker is open", entry.event.seq, self.num);
    }

    /// What must hold after each decision.
    fn check(&self, process: &Process, Decided { config, lane, .. }: &Decided<'_>) {
        let Gauge { attempts, window, .. } = lane.gauge();
        let cap = if config.policy.ordered { 1 } else { usize::from(config.policy.max_in_flight) };
        assert!(attempts <= cap, "{attempts} attempts of {:?} have started, {cap} may be", self.num);
        let breaker = lane.breaker(process.wall()).state;
        let world = world::current();
        let most = world.oracle.borrow().most_in_memory(&world, self.num, lane.mode(), breaker, cap);
        assert!(window <= most, "{:?} keeps {window} deliveries in memory, {most} may be", self.num);
    }
}

/// A queue as an actor's mailbox.
impl<M: Send + 'static> crate::engine::address::Recipient<M> for Sender<M> {
    fn try_send(&self, message: M) -> Result<(), M> {
        Sender::try_send(self, message).map_err(tokio::sync::mpsc::error::TrySendError::into_inner)
    }

    fn send(&self, message: M) -> futures_util::future::BoxFuture<'static, ()> {
        let sender = self.clone();
        Box::pin(async move {
            pause().await;
            let _ = sender.send(message).await;
            pause().await;
        })
    }
}
