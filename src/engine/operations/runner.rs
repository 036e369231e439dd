//! Carries out the items of operations whose webhooks this node serves. Keeps nothing that the rows do not say: after a
//! crash or a move to another node, what a delivery shows decides what is to be done about its item.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::pace::{Bucket, Window};
use super::*;
use crate::domain::id::{EventSeq, OperationNum, WebhookNum};
use crate::domain::operation::{ItemState, Progress, Shown, Step, next_step};
use crate::engine::EngineError;
use crate::journal::Record;

/// Pause between two turns while an operation runs.
const TURN: Duration = Duration::from_millis(50);

/// How often the database is asked for operations that another node has made or changed, and for what is left to do.
const LOOK: Duration = Duration::from_secs(1);

/// Items of a webhook that are read at once.
const PAGE: u64 = 256;

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
    /// Asked for, and not ended.
    asked_for: BTreeSet<EventSeq>,
    window: Window,
}

impl Work {
    fn new() -> Self {
        Self {
            to_do: VecDeque::new(),
            read_to: EventSeq(-1),
            is_read: false,
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
        self.running.retain(|num, running| {
            let is_open = open.iter().any(|operation| operation.num == *num);
            is_open || running.ends_what_was_asked_for()
        });
        for operation in open {
            if !matches!(operation.progress, Progress::Running | Progress::Paused) {
                continue;
            }
            let to_do = store.webhooks_to_do(operation.num).await?;
            if to_do.is_empty() && operation.progress == Progress::Running {
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
    /// The operation was cancelled: what was asked for still ends, and nothing more is asked for.
    fn ends_what_was_asked_for(&mut self) -> bool {
        self.operation.progress = Progress::Cancelled;
        self.work.retain(|_, work| {
            work.to_do.clear();
            work.is_read = true;
            !work.asked_for.is_empty()
        });
        !self.work.is_empty()
    }

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
            if work.asked_for.is_empty() && may_ask == 0 {
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
        let may_ask = self.window.room(self.asked_for.len()).min(allowed);
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
            let read = engine.inner.store.items_to_do(operation.num, webhook, self.read_to, PAGE).await?;
            self.is_read = (read.len() as u64) < PAGE;
            self.read_to = read.last().copied().unwrap_or(self.read_to);
            self.to_do.extend(read);
        }
        let next: Vec<EventSeq> = self.to_do.drain(..most.min(self.to_do.len())).collect();
        let owed = match (operation.kind, next.last()) {
            (Kind::Owe, Some(last)) => engine.inner.store.owed_only_by_fanout(webhook, *last).await?,
            _ => Vec::new(),
        };
        for (event, step) in steps(engine, operation, webhook, &next).await? {
            let id = DeliveryId { event, webhook };
            match step {
                Step::Wait => drop(self.asked_for.insert(event)),
                Step::End(state) => turn.ended.push((id, state)),
                // A fan-out owes it by now.
                Step::Ask if owed.contains(&event) => turn.ended.push((id, ItemState::Skipped)),
                Step::Ask => match carry_out(engine, operation, id).await {
                    Ok(()) => {
                        turn.asked += 1;
                        self.asked_for.insert(event);
                    }
                    // It is being sent; its next turn comes later.
                    Err(EngineError::InFlight) => self.to_do.push_back(event),
                    Err(error) => return Err(error),
                },
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
    let shown = engine.inner.store.shown(webhook, events).await?;
    let shown: BTreeMap<EventSeq, Shown> = shown.into_iter().map(|shown| (shown.event, shown)).collect();
    let sendable = engine.inner.store.events_with_payload(events).await?;
    let step = |event: &EventSeq| match next_step(operation.kind, operation.num, shown.get(event)) {
        // Its event was deleted for its age, or its payload was erased.
        Step::Ask if operation.kind != Kind::Purge && !sendable.contains(event) => {
            (*event, Step::End(ItemState::Skipped))
        }
        step => (*event, step),
    };
    Ok(events.iter().map(step).collect())
}

async fn carry_out(engine: &Engine, operation: &Operation, id: DeliveryId) -> Result<(), EngineError> {
    match operation.kind {
        Kind::Retry => {
            let at = engine.inner.context.host.now();
            let record = Record::Retry { id, at, operation: Some(operation.num) };
            Ok(engine.inner.journal.record(record).await?)
        }
        Kind::Owe => {
            let at = engine.inner.context.host.now();
            let record = Record::Owe { id, at, operation: operation.num };
            Ok(engine.inner.journal.record(record).await?)
        }
        Kind::Purge => engine.ops().cancel(id).await,
    }
}
