//! Carries out the items of operations whose webhooks this node serves. Keeps nothing that the rows do not say: after a
//! crash or a move to another node, the rows of an item, its attempt and its delivery decide what is to be done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::pace::{Bucket, Window};
use super::*;
use crate::domain::id::{EventSeq, OperationNum, WebhookNum};
use crate::domain::operation::{Item, ItemState, OperationState, Step};
use crate::engine::EngineError;
use crate::journal::Record;
use crate::store::operations::ToDo;

/// Pause between two turns while an operation runs.
const TURN: Duration = Duration::from_millis(50);

/// How often the database is asked for operations that another node has made or changed, and for what is left to do.
const LOOK: Duration = Duration::from_secs(1);

/// After a look that took long, the next one comes after so many times as long.
const LOOK_REST: u32 = 10;

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
    next_look: Instant,
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

/// How items have ended.
type Ended = Vec<(DeliveryId, ItemState)>;

impl Runner {
    pub(super) fn new(engine: Engine) -> Self {
        let next_look = engine.inner.context.host.steady();
        Self { engine, running: BTreeMap::new(), next_look }
    }

    pub(super) async fn run(mut self) {
        let engine = self.engine.clone();
        let host = &engine.inner.context.host;
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
                () = changed => self.next_look = host.steady(),
                () = host.sleep(wait) => {}
            }
        }
    }

    async fn turn(&mut self) -> Result<(), EngineError> {
        let host = &self.engine.inner.context.host;
        let now = host.steady();
        if now >= self.next_look {
            self.look(now).await?;
            let host = &self.engine.inner.context.host;
            let took = host.steady().saturating_duration_since(now);
            self.next_look = host.steady() + LOOK.max(took * LOOK_REST);
        }
        for running in self.running.values_mut() {
            // One that cannot go on holds up no other.
            if let Err(error) = running.turn(&self.engine, now).await {
                running.begin_again(now + LOOK);
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
            let which = match operation.state {
                OperationState::Running | OperationState::Paused => ToDo::All,
                OperationState::Cancelled => ToDo::AskedFor,
                OperationState::Counting | OperationState::Done | OperationState::Failed => continue,
            };
            let num = operation.num;
            let to_do = store.webhooks_to_do(num, which).await?;
            if to_do.is_empty() && operation.state != OperationState::Paused {
                if store.finish_operation(num, host.now()).await? {
                    tracing::info!(operation = %operation.id, kind = operation.kind.as_str(), "operation done");
                }
                self.running.remove(&num);
                continue;
            }
            let running = self.running.entry(num).or_insert_with(|| Running::new(operation.clone(), now));
            running.operation = operation;
            if running.take_over(&self.engine, &to_do) {
                running.note_asked_for(store.items_asked_for(num).await?);
            }
        }
        Ok(())
    }
}

impl Running {
    fn new(operation: Operation, now: Instant) -> Self {
        let (work, bucket) = (BTreeMap::new(), Bucket::new(now));
        Self { operation, work, bucket, share: 0.0, next: WebhookNum(0), rests_until: now }
    }

    /// Forgets what it has in hand, which the rows say, too.
    fn begin_again(&mut self, at: Instant) {
        self.work.clear();
        self.rests_until = at;
    }

    /// Takes over the webhooks that this node serves now, and forgets the others. Answers whether there are new ones.
    fn take_over(&mut self, engine: &Engine, to_do: &[WebhookNum]) -> bool {
        let shard_set = &engine.inner.context.shard_set;
        self.work.retain(|webhook, work| shard_set.serves(*webhook) && !work.is_done());
        let before = self.work.len();
        let ours: Vec<WebhookNum> = to_do.iter().copied().filter(|webhook| shard_set.serves(*webhook)).collect();
        for webhook in &ours {
            self.work.entry(*webhook).or_insert_with(Work::new);
        }
        let count = |webhooks: &[WebhookNum]| f64::from(u32::try_from(webhooks.len()).unwrap_or(u32::MAX).max(1));
        self.share = if ours.is_empty() { 0.0 } else { count(&ours) / count(to_do) };
        self.work.len() > before
    }

    /// Takes in what was asked for before this node served the webhooks.
    fn note_asked_for(&mut self, ids: Vec<DeliveryId>) {
        for DeliveryId { event, webhook } in ids {
            if let Some(work) = self.work.get_mut(&webhook) {
                work.asked_for.insert(event);
            }
        }
    }

    async fn turn(&mut self, engine: &Engine, now: Instant) -> Result<(), EngineError> {
        if now < self.rests_until {
            return Ok(());
        }
        let mut ended = Ended::new();
        for (webhook, work) in self.work.iter_mut().filter(|(_, work)| !work.asked_for.is_empty()) {
            ended.extend(work.end_what_was_made(engine, &self.operation, *webhook).await?);
        }
        let allowed = self.bucket.fill(now, f64::from(self.operation.rate) * self.share);
        if self.operation.state == OperationState::Running {
            ended.extend(self.ask(engine, allowed).await?);
        }
        if !ended.is_empty() {
            engine.inner.store.end_items(self.operation.num, &ended).await?;
        }
        Ok(())
    }

    /// Begins with so many items at most, a few of each webhook in turn. Answers which ended at once.
    async fn ask(&mut self, engine: &Engine, mut allowed: usize) -> Result<Ended, EngineError> {
        let (mut ended, mut woken) = (Ended::new(), Vec::new());
        for webhook in self.in_turn() {
            let Some(work) = self.work.get_mut(&webhook).filter(|_| allowed > 0) else { break };
            let most = work.room(self.operation.kind).min(allowed);
            let (asked, at_once) = work.ask(engine, &self.operation, webhook, most).await?;
            ended.extend(at_once);
            if asked > 0 {
                (allowed, self.next) = (allowed - asked, WebhookNum(webhook.0 + 1));
                self.bucket.take(asked);
                woken.push(webhook);
            }
        }
        if !woken.is_empty() && self.operation.kind != Kind::Purge {
            engine.inner.journal.barrier().await?;
            engine.inner.registry.wake(woken).await;
        }
        Ok(ended)
    }

    /// The webhooks that may be asked for more, from [`Self::next`] on and round.
    fn in_turn(&self) -> Vec<WebhookNum> {
        let (after, before) = (self.work.range(self.next..), self.work.range(..self.next));
        let kind = self.operation.kind;
        let may_be_asked = after.chain(before).filter(|(_, work)| work.has_more() && work.room(kind) > 0);
        may_be_asked.map(|(webhook, _)| *webhook).take(WEBHOOKS_A_TURN).collect()
    }
}

impl Work {
    fn new() -> Self {
        Self {
            to_do: VecDeque::new(),
            read_to: BEFORE_ALL,
            is_read: false,
            asked_for: BTreeSet::new(),
            window: Window::new(),
        }
    }

    fn has_more(&self) -> bool {
        !self.is_read || !self.to_do.is_empty()
    }

    fn is_done(&self) -> bool {
        !self.has_more() && self.asked_for.is_empty()
    }

    /// How many more items may be begun. A cancellation makes no request, and nothing waits for it.
    fn room(&self, kind: Kind) -> usize {
        match kind {
            Kind::Retry | Kind::Owe => self.window.room(self.asked_for.len()),
            Kind::Purge => CANCELLED_A_TURN,
        }
    }

    async fn end_what_was_made(
        &mut self,
        engine: &Engine,
        operation: &Operation,
        webhook: WebhookNum,
    ) -> Result<Ended, EngineError> {
        let asked_for: Vec<EventSeq> = self.asked_for.iter().copied().collect();
        let mut ended = Ended::new();
        for (event, step) in steps(engine, operation, webhook, &asked_for).await? {
            match step {
                Step::Wait => continue,
                // The record was lost with the shard that it was for.
                Step::Ask => self.to_do.push_front(event),
                Step::End(state) => ended.push((DeliveryId { event, webhook }, state)),
            }
            self.asked_for.remove(&event);
        }
        self.window.note(asked_for.len(), self.asked_for.len());
        Ok(ended)
    }

    /// Begins with `most` items. Answers how many were asked for, and which ended at once.
    async fn ask(
        &mut self,
        engine: &Engine,
        operation: &Operation,
        webhook: WebhookNum,
        most: usize,
    ) -> Result<(usize, Ended), EngineError> {
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
        let (mut asked, mut ended) = (Vec::new(), Ended::new());
        for (event, step) in steps(engine, operation, webhook, &next).await? {
            match step {
                Step::Wait => drop(self.asked_for.insert(event)),
                Step::End(state) => ended.push((DeliveryId { event, webhook }, state)),
                // A fan-out owes it by now.
                Step::Ask if owed.contains(&event) => {
                    ended.push((DeliveryId { event, webhook }, ItemState::Skipped));
                }
                Step::Ask => asked.push(DeliveryId { event, webhook }),
            }
        }
        let (count, at, operation_num) = (asked.len(), engine.inner.context.host.now(), operation.num);
        match operation.kind {
            Kind::Retry => {
                let record = |id| Record::Retry { id, at, operation: Some(operation_num) };
                self.request(engine, asked, record).await?;
            }
            Kind::Owe => {
                self.request(engine, asked, |id| Record::Owe { id, at, operation: operation_num }).await?;
            }
            Kind::Purge => {
                let (cancelled, in_flight) = cancel(engine, operation, webhook, &asked).await?;
                ended.extend(cancelled);
                self.to_do.extend(in_flight);
            }
        }
        Ok((count, ended))
    }

    /// Records that the operation asks for attempts.
    async fn request(
        &mut self,
        engine: &Engine,
        ids: Vec<DeliveryId>,
        record: impl Fn(DeliveryId) -> Record,
    ) -> Result<(), EngineError> {
        for id in ids {
            engine.inner.journal.record(record(id)).await?;
            self.asked_for.insert(id.event);
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

/// Cancels deliveries, which share commits. Answers how their items have ended, and which deliveries are being sent: their
/// turn comes again.
async fn cancel(
    engine: &Engine,
    operation: &Operation,
    webhook: WebhookNum,
    ids: &[DeliveryId],
) -> Result<(Ended, Vec<EventSeq>), EngineError> {
    let ops = engine.ops();
    let calls = join_all(ids.iter().map(|id| ops.cancel(*id, Some(operation.num)))).await;
    let (mut called, mut in_flight) = (Vec::new(), Vec::new());
    for (id, result) in ids.iter().zip(calls) {
        match result {
            Ok(()) => called.push(id.event),
            Err(EngineError::InFlight) => in_flight.push(id.event),
            Err(error) => return Err(error),
        }
    }
    let ended = steps(engine, operation, webhook, &called).await?.into_iter().map(|(event, step)| {
        let state = if let Step::End(state) = step { state } else { ItemState::Skipped };
        (DeliveryId { event, webhook }, state)
    });
    Ok((ended.collect(), in_flight))
}
