//! Offers committed fan-outs to endpoints, a bounded chunk at a time. Tenants take turns; the fan-outs of one tenant go
//! in the order of publishing. What an endpoint cannot take becomes a row. A dispatcher that has fallen behind, or has
//! just started, reads its work back from the store. The [`activator`] activates sleeping endpoints, so that no tenant
//! waits for another tenant's activations.

mod activator;
mod active_tenants;
pub(super) mod fair_queue;
mod page_size;
mod scan;
mod turns;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::domain::id::{TenantNum, WebhookNum};
use crate::domain::shard::ShardNum;
use crate::fault;
use crate::journal::feed::Feed;
use crate::journal::{Record, Stopped};
use crate::store::StoreError;
use crate::store::fanouts::{Fanout, FanoutPage};

use super::context::EngineContext;
use super::registry::{Item, Offered, RegistryHandle};

use self::activator::Activator;
use self::fair_queue::FairQueue;
use self::page_size::PageSize;
use self::scan::ScanState;
use self::turns::{Step, Turns};

/// Pause after the store failed.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Dispatcher {
    context: Arc<EngineContext>,
    feed: Arc<Feed>,
    registry: RegistryHandle,
    page_size: PageSize,
    overflowed: UnboundedSender<Vec<WebhookNum>>,
    overflow: Option<UnboundedReceiver<Vec<WebhookNum>>>,
}

/// What the dispatch loop has in hand, and how far it has come.
struct Progress {
    queue: FairQueue,
    turns: Turns,
    /// How far the store was scanned; used with PostgreSQL, where other nodes commit, too.
    scan: ScanState,
}

#[derive(Debug, thiserror::Error)]
enum DispatchError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Dispatcher {
    pub(super) fn new(context: &Arc<EngineContext>, feed: &Arc<Feed>, registry: &RegistryHandle) -> Self {
        let (overflowed, overflow) = unbounded_channel();
        let (context, feed, registry) = (context.clone(), feed.clone(), registry.clone());
        let page_size = PageSize::new(context.bounds.read);
        Self { context, feed, registry, page_size, overflowed, overflow: Some(overflow) }
    }

    pub(super) async fn run(mut self) {
        let Some(overflow) = self.overflow.take() else { return };
        let poke = poke(overflow, self.context.clone(), self.registry.clone());
        let activator = Activator::new(&self.context);
        tokio::join!(self.dispatch(&activator), activator.run(&self), poke);
    }

    async fn dispatch(&self, activator: &Activator) {
        let scan = ScanState::new(self.context.bounds.scan);
        let mut progress = Progress { queue: FairQueue::default(), turns: Turns::default(), scan };
        loop {
            if let Err(error) = self.step(&mut progress, activator).await {
                tracing::warn!(%error, "fan-outs could not be dispatched; trying again");
                self.context.host.sleep(PAUSE).await;
            }
        }
    }

    /// Offers the next chunk and takes in new fan-outs; waits if there is neither.
    async fn step(&self, progress: &mut Progress, activator: &Activator) -> Result<(), DispatchError> {
        let (blocked, room) = activator.full();
        let items = progress.queue.take(self.context.bounds.chunk, &blocked);
        if !items.is_empty() {
            self.offer(items, activator).await?;
            return match self.has_room(progress).then(|| progress.turns.next(self.feed.status())).flatten() {
                Some(next) => self.take_in(next, progress).await,
                None => Ok(()),
            };
        }
        if progress.queue.is_empty() {
            // Read before the checks for idleness: an event that is committed in between may not have been offered.
            let seen = self.feed.seen_watermark();
            if activator.is_idle() && self.feed.is_idle() {
                self.context.note_offered(seen);
            }
        }
        tokio::select! {
            biased;
            next = self.next_step(progress) => self.take_in(next, progress).await,
            () = room => Ok(()),
        }
    }

    /// Whether more fan-outs may be taken in.
    fn has_room(&self, progress: &Progress) -> bool {
        progress.queue.bytes() < self.context.bounds.held
    }

    /// Waits for work, and for ever if there is no room for it.
    async fn next_step(&self, progress: &mut Progress) -> Step {
        if !self.has_room(progress) {
            return std::future::pending().await;
        }
        loop {
            if let Some(step) = progress.turns.next(self.feed.status()) {
                return step;
            }
            self.feed.changed().await;
        }
    }

    async fn take_in(&self, step: Step, progress: &mut Progress) -> Result<(), DispatchError> {
        match step {
            Step::TakeWaiting => {
                let mut fanouts = self.feed.take_waiting();
                self.context.bodies.adopt(&mut fanouts);
                fanouts.into_iter().for_each(|fanout| self.push(fanout, &mut progress.queue));
            }
            Step::CatchUp if self.context.db.is_clustered() => self.catch_up_by_scan(progress).await?,
            Step::CatchUp => self.catch_up_alone(&mut progress.queue).await?,
            Step::BeginScan => {
                self.feed.begin_scan();
                self.scan_new(progress).await?;
            }
            Step::ContinueScan => self.scan_new(progress).await?,
        }
        Ok(())
    }

    /// Takes in a page of the gap, where no other process commits: oldest first, from the last page on.
    async fn catch_up_alone(&self, queue: &mut FairQueue) -> Result<(), DispatchError> {
        let Some(gap) = self.feed.catch_up() else { return Ok(()) };
        let after = self.feed.newest_handed_out();
        let events = u64::try_from(self.page_size.rows()).unwrap_or(u64::MAX);
        let page = self.page_size.learn(self.context.db.fanouts(after, events).await)?;
        let FanoutPage { mut fanouts, to: Some(to) } = page else {
            self.feed.close_gap();
            return Ok(());
        };
        // Newer ones come from the queue.
        fanouts.retain(|fanout| fanout.event.seq <= gap.through);
        // The writer tracks the fan-outs before their rows are read: no row that is made meanwhile is missed.
        for fanout in &fanouts {
            self.context.journal.record(Record::Track { fanout: fanout.clone() }).await?;
        }
        self.context.journal.barrier().await?;
        let mut owed = Vec::with_capacity(fanouts.len());
        for fanout in fanouts {
            let recorded = self.context.db.recorded_targets(fanout.event.seq).await?;
            owed.push(self.mark(fanout, recorded).await?);
        }
        if to < gap.through {
            self.feed.read_up_to(to);
        } else {
            self.feed.close_gap();
        }
        owed.into_iter().for_each(|fanout| self.push_read(fanout, 0, queue));
        Ok(())
    }

    /// Tells the writer which targets have rows; answers the fan-out without them.
    async fn mark(&self, fanout: Fanout, recorded: Vec<WebhookNum>) -> Result<Fanout, Stopped> {
        let left = fanout.targets.iter().filter(|num| recorded.binary_search(num).is_err()).copied().collect();
        let (event, shard) = (fanout.event.seq, fanout.shard);
        self.context.journal.record(Record::Mark { event, shard, recorded }).await?;
        Ok(Fanout { targets: left, ..fanout })
    }

    /// Queues a fan-out that this node has committed.
    fn push(&self, fanout: Fanout, queue: &mut FairQueue) {
        let tag = ShardNum::try_from(fanout.shard).map_or(0, |shard| self.context.shard_set.tag_of(shard));
        queue.push(fanout, false, tag);
    }

    /// Queues a fan-out that was read from the store: one that was there before this process served its shard, and that
    /// may be in doubt, or one that this process has committed, while the feed was full or for an ordered webhook.
    fn push_read(&self, fanout: Fanout, tag: i64, queue: &mut FairQueue) {
        if let Some(first) = fanout.targets.first() {
            let recovered = fanout.event.seq <= self.context.shard_set.in_doubt_of(*first).events_to;
            queue.push(fanout, recovered, tag);
        }
    }

    /// Hands a chunk of one tenant's items to their endpoints, or to the activator.
    async fn offer(&self, mut items: Vec<Item>, activator: &Activator) -> Result<(), DispatchError> {
        activator.notice(&items);
        activator.take_over(&mut items);
        let Offered { refused, unknown } = self.registry.offer(items).await;
        activator.enqueue(unknown);
        fault::point("fanout.after_dispatch");
        self.defer(refused).await
    }

    /// Makes rows of the items that no endpoint could take, and has the endpoints told once the rows are committed.
    async fn defer(&self, refused: Vec<Item>) -> Result<(), DispatchError> {
        if refused.is_empty() {
            return Ok(());
        }
        let next_at = self.context.host.now();
        for item in &refused {
            self.context.journal.record(Record::Defer { id: item.id(), next_at }).await?;
        }
        let _ = self.overflowed.send(refused.iter().map(|item| item.num).collect());
        Ok(())
    }

    async fn cancel(&self, deleted: Vec<Item>) -> Result<(), DispatchError> {
        let at = self.context.host.now();
        for item in deleted {
            self.context.journal.record(Record::Cancel { id: item.id(), at, operation: None }).await?;
        }
        Ok(())
    }
}

/// The tenant of a chunk; all items of a chunk have the same one.
fn tenant_of(items: &[Item]) -> Option<TenantNum> {
    items.first().map(|item| item.event.tenant)
}

/// Tenants whose fan-outs must wait.
type Blocked = HashSet<TenantNum>;

/// Tells endpoints of rows that were made for them, once the rows are committed.
async fn poke(mut overflow: UnboundedReceiver<Vec<WebhookNum>>, context: Arc<EngineContext>, registry: RegistryHandle) {
    while let Some(mut nums) = overflow.recv().await {
        while let Ok(more) = overflow.try_recv() {
            nums.extend(more);
        }
        nums.sort_unstable();
        nums.dedup();
        if context.journal.barrier().await.is_err() {
            return;
        }
        registry.wake(nums).await;
    }
}
