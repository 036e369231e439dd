//! Carries out the items of operations whose webhooks this node serves. Keeps nothing that the rows do not say: after a
//! crash or a move to another node, what a delivery shows decides what is to be done about its item.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::pace::{Bucket, Window};
use super::*;
use crate::domain::delivery::Status;
use crate::domain::id::{EventSeq, OperationNum, WebhookNum};
use crate::domain::operation::{Item, ItemState, Progress, Step};
use crate::engine::EngineError;
use crate::journal::Record;
use crate::store::operations::ToDo;

/// Pause between two turns while an operation runs.
const TURN: Duration = Duration::from_millis(50);

/// How often the database is asked for operations that another node has made or changed, and for what is left to do.
const LOOK: Duration = Duration::from_secs(1);

/// Items of a webhook that are read at once.
const PAGE: u64 = 256;

/// Deliveries of one webhook that a turn cancels.
const CANCELLED_A_TURN: usize = 128;

/// No event has this key.
const BEFORE_ALL: EventSeq = EventSeq(-1);

/// Webhooks at which a turn asks for attempts.
const WEBHOOKS_A_TURN: usize = 64;

/// The operations that run here.
pub(super) struct Runner {
    engine: Engine,
    running: BTreeMap<OperationNum, Running>,
    looked_at: Option<Instant>,
}

/// An operation as this node carries it out.
struct Running {
    operation: Operation,
    /// The webhooks served here that have items to do.
    work: BTreeMap<WebhookNum, Work>,
    bucket: Bucket,
    /// The part of the rate that is this node's: its share of the webhooks with items to do.
    share: f64,
    /// The webhook with which the next turn begins.
    next: WebhookNum,
    /// No turn before: the last one has failed.
    rests_until: Instant,
}

/// The items of one webhook.
struct Work {
    /// Read from the store, and not begun.
    to_do: VecDeque<EventSeq>,
    /// The last event that was read.
    read_to: EventSeq,
    /// Everything was read.
    is_read: bool,
    /// What was asked for before this node began is known.
    is_begun: bool,
    /// Asked for, and not ended.
    asked_for: BTreeSet<EventSeq>,
    window: Window,
}

impl Work {
    fn new() -> Self {
        Self {
            to_do: VecDeque::new(),
            read_to: BEFORE_ALL,
            is_read: false,
            is_begun: false,
            asked_for: BTreeSet::new(),
            window: Window::new(),
        }
    }

    fn is_done(&self) -> bool {
        self.is_read && self.to_do.is_empty() && self.asked_for.is_empty()
    }
}

/// What a turn has done at one webhook.
#[derive(Default)]
struct Turn {
    asked: usize,
    ended: Vec<(DeliveryId, ItemState)>,
}

impl Runner {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine, running: BTreeMap::new(), looked_at: None }
    }

    pub(super) async fn run(mut self) {
        let engine = self.engine.clone();
        loop {
            let changed = engine.inner.operations_changed.notified();
            let wait = match self.turn().await {
                Ok(()) if self.running.is_empty() => LOOK,
                Ok(()) => TURN,
                Err(error) => {
                    tracing::warn!(%error, "operations could not go on; trying again");
                    LOOK
                }
            };
            tokio::select! {
                biased;
                () = changed => self.looked_at = None,
                () = engine.inner.context.host.sleep(wait) => {}
            }
        }
    }

    async fn turn(&mut self) -> Result<(), EngineError> {
        let now = self.engine.inner.context.host.steady();
        if self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= LOOK) {
            self.look(now).await?;
            self.looked_at = Some(now);
        }
        for running in self.running.values_mut() {
            // One that cannot go on holds up no other.
            if let Err(error) = running.turn(&self.engine, now).await {
                running.rests_until = now + LOOK;
                tracing::warn!(operation = %running.operation.id, %error, "operation could not go on; trying again");
            }
        }
        Ok(())
    }

    /// Reads which operations there are and where they have items to do; ends those that have none.
    async fn look(&mut self, now: Instant) -> Result<(), EngineError> {
        let (store, host) = (&self.engine.inner.store, &self.engine.inner.context.host);
        let open = store.open_operations().await?;
        self.running.retain(|num, _| open.iter().any(|operation| operation.num == *num));
        for operation in open {
            let which = match operation.progress {
                Progress::Running | Progress::Paused => ToDo::All,
                Progress::Cancelled => ToDo::AskedFor,
                Progress::Counting | Progress::Done | Progress::Failed => continue,
            };
            let to_do = store.webhooks_to_do(operation.num, which).await?;
            if to_do.is_empty() && operation.progress != Progress::Paused {
                if store.finish_operation(operation.num, host.now()).await? {
                    tracing::info!(operation = %operation.id, kind = operation.kind.as_str(), "operation done");
                }
                self.running.remove(&operation.num);
                continue;
            }
            let running = self.running.entry(operation.num).or_insert_with(|| Running {
                operation: operation.clone(),
                work: BTreeMap::new(),
                bucket: Bucket::new(now),
                share: 0.0,
                next: WebhookNum(0),
                rests_until: now,
            });
            running.operation = operation;
            running.take_over(&self.engine, &to_do);
        }
        Ok(())
    }
}

impl Running {
    /// Takes over the webhooks that this node serves now, and forgets the others.
    fn take_over(&mut self, engine: &Engine, to_do: &[WebhookNum]) {
        let shard_set = &engine.inner.context.shard_set;
        self.work.retain(|webhook, work| shard_set.serves(*webhook) && !work.is_done());
        let ours = to_do.iter().filter(|webhook| shard_set.serves(**webhook));
        let mut count = 0u32;
        for webhook in ours {
            count += 1;
            self.work.entry(*webhook).or_insert_with(Work::new);
        }
        let all = u32::try_from(to_do.len()).unwrap_or(u32::MAX).max(1);
        self.share = f64::from(count) / f64::from(all);
    }

    async fn turn(&mut self, engine: &Engine, now: Instant) -> Result<(), EngineError> {
        if now < self.rests_until {
            return Ok(());
        }
        let is_running = self.operation.progress == Progress::Running;
        let mut allowed = self.bucket.fill(now, f64::from(self.operation.rate) * self.share);
        if !is_running {
            allowed = 0;
        }
        let (mut ended, mut woken) = (Vec::new(), Vec::new());
        let mut room = WEBHOOKS_A_TURN;
        for webhook in self.in_turn() {
            let Some(work) = self.work.get_mut(&webhook) else { continue };
            let may_ask = if room > 0 { allowed } else { 0 };
            if work.asked_for.is_empty() && work.is_begun && may_ask == 0 {
                continue;
            }
            let Turn { asked, ended: of_webhook } = work.turn(engine, &self.operation, webhook, may_ask).await?;
            ended.extend(of_webhook);
            if asked > 0 {
                (allowed, room, self.next) = (allowed - asked, room - 1, WebhookNum(webhook.0 + 1));
                self.bucket.take(asked);
                woken.push(webhook);
            }
        }
        if !woken.is_empty() {
            engine.inner.journal.barrier().await?;
            engine.inner.registry.wake(woken).await;
        }
        if !ended.is_empty() {
            engine.inner.store.end_items(self.operation.num, &ended).await?;
        }
        Ok(())
    }

    /// The webhooks, from [`Self::next`] on and round.
    fn in_turn(&self) -> Vec<WebhookNum> {
        let (after, before) = (self.work.range(self.next..), self.work.range(..self.next));
        after.chain(before).map(|(webhook, _)| *webhook).collect()
    }
}

impl Work {
    /// Ends what was made, and asks for what may be.
    async fn turn(
        &mut self,
        engine: &Engine,
        operation: &Operation,
        webhook: WebhookNum,
        allowed: usize,
    ) -> Result<Turn, EngineError> {
        let mut turn = Turn::default();
        if !self.is_begun {
            let which = (ToDo::AskedFor, PAGE);
            self.asked_for.extend(engine.inner.store.items_to_do(operation.num, webhook, BEFORE_ALL, which).await?);
            self.is_begun = true;
        }
        let asked_before = self.asked_for.len();
        if asked_before > 0 {
            let events: Vec<EventSeq> = self.asked_for.iter().copied().collect();
            for (event, step) in steps(engine, operation, webhook, &events).await? {
                match step {
                    Step::Wait => {}
                    // The record was lost with the shard that it was for.
                    Step::Ask => {
                        self.asked_for.remove(&event);
                        self.to_do.push_front(event);
                    }
                    Step::End(state) => {
                        self.asked_for.remove(&event);
                        turn.ended.push((DeliveryId { event, webhook }, state));
                    }
                }
            }
            self.window.note(asked_before, self.asked_for.len());
        }
        // A cancellation makes no request.
        let room =
            if operation.kind == Kind::Purge { CANCELLED_A_TURN } else { self.window.room(self.asked_for.len()) };
        let may_ask = room.min(allowed);
        if may_ask > 0 {
            self.ask(engine, operation, webhook, may_ask, &mut turn).await?;
        }
        Ok(turn)
    }

    async fn ask(
        &mut self,
        engine: &Engine,
        operation: &Operation,
        webhook: WebhookNum,
        most: usize,
        turn: &mut Turn,
    ) -> Result<(), EngineError> {
        if self.to_do.is_empty() && !self.is_read {
            let read = engine.inner.store.items_to_do(operation.num, webhook, self.read_to, (ToDo::All, PAGE)).await?;
            self.is_read = (read.len() as u64) < PAGE;
            self.read_to = read.last().copied().unwrap_or(self.read_to);
            self.to_do.extend(read);
        }
        let next: Vec<EventSeq> = self.to_do.drain(..most.min(self.to_do.len())).collect();
        let owed = match (operation.kind, next.last()) {
            (Kind::Owe, Some(last)) => engine.inner.store.owed_only_by_fanout(webhook, *last).await?,
            _ => Vec::new(),
        };
        let mut asked = Vec::new();
        for (event, step) in steps(engine, operation, webhook, &next).await? {
            match step {
                Step::Wait => drop(self.asked_for.insert(event)),
                Step::End(state) => turn.ended.push((DeliveryId { event, webhook }, state)),
                // A fan-out owes it by now.
                Step::Ask if owed.contains(&event) => {
                    turn.ended.push((DeliveryId { event, webhook }, ItemState::Skipped));
                }
                Step::Ask => asked.push(event),
            }
        }
        turn.asked = asked.len();
        match operation.kind {
            Kind::Retry | Kind::Owe => {
                for event in asked {
                    ask_for(engine, operation, DeliveryId { event, webhook }).await?;
                    self.asked_for.insert(event);
                }
            }
            Kind::Purge => {
                let (ended, in_flight) = cancel(engine, operation, webhook, asked).await?;
                turn.ended.extend(ended);
                self.to_do.extend(in_flight);
            }
        }
        Ok(())
    }
}

/// What is to be done about the items of these events.
async fn steps(
    engine: &Engine,
    operation: &Operation,
    webhook: WebhookNum,
    events: &[EventSeq],
) -> Result<Vec<(EventSeq, Step)>, EngineError> {
    let items = engine.inner.store.items(operation.num, webhook, events).await?;
    let sendable = engine.inner.store.events_with_payload(events).await?;
    let step = |item: Item| match operation.next_step(&item) {
        // Its event was deleted for its age, or its payload was erased.
        Step::Ask if operation.kind != Kind::Purge && !sendable.contains(&item.event) => {
            (item.event, Step::End(ItemState::Skipped))
        }
        step => (item.event, step),
    };
    Ok(items.into_iter().map(step).collect())
}

/// Records that the operation asks for an attempt.
async fn ask_for(engine: &Engine, operation: &Operation, id: DeliveryId) -> Result<(), EngineError> {
    let (at, num) = (engine.inner.context.host.now(), operation.num);
    let record = match operation.kind {
        Kind::Owe => Record::Owe { id, at, operation: num },
        Kind::Retry | Kind::Purge => Record::Retry { id, at, operation: Some(num) },
    };
    Ok(engine.inner.journal.record(record).await?)
}

/// Cancels deliveries, which share commits. Answers how their items have ended, and which deliveries are being sent: their
/// turn comes again.
async fn cancel(
    engine: &Engine,
    operation: &Operation,
    webhook: WebhookNum,
    events: Vec<EventSeq>,
) -> Result<(Vec<(DeliveryId, ItemState)>, Vec<EventSeq>), EngineError> {
    let ops = engine.ops();
    let calls = events.iter().map(|event| ops.cancel(DeliveryId { event: *event, webhook }));
    let mut in_flight = Vec::new();
    for (event, called) in events.iter().zip(join_all(calls).await) {
        match called {
            Ok(()) => {}
            Err(EngineError::InFlight) => in_flight.push(*event),
            Err(error) => return Err(error),
        }
    }
    let items = engine.inner.store.items(operation.num, webhook, &events).await?;
    let is_cancelled = |item: &Item| item.delivery.is_some_and(|shown| shown.status == Status::Cancelled);
    let ended = items.iter().filter(|item| !in_flight.contains(&item.event)).map(|item| {
        let state = if is_cancelled(item) { ItemState::Success } else { ItemState::Skipped };
        (DeliveryId { event: item.event, webhook }, state)
    });
    Ok((ended.collect(), in_flight))
}
