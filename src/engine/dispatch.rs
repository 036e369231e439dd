//! Offers committed fan-outs to the endpoints, a bounded chunk at a time: tenants take turns, each goes by publishing. What
//! an endpoint cannot take becomes a row. One that has fallen behind, or has just started, reads its work back from the
//! store. Endpoints that sleep are started by the [`porter`], so that nobody waits for the starts of another tenant.

pub(super) mod line;
mod others;
mod page_size;
mod porter;
mod shared;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::clock::UnixMillis;
use crate::fault;
use crate::id::{EventSeq, TenantNum, WebhookNum};
use crate::store::StoreError;
use crate::store::fanouts::{Fanout, FanoutPage};
use crate::store::journal::feed::{Feed, Next};
use crate::store::journal::{Record, Stopped};

use super::registry::{Item, Offered, RegistryHandle};
use super::shared::Shared;

use self::line::Line;
use self::page_size::PageSize;
use self::porter::Porter;
use self::shared::Sight;

/// Targets offered at once.
const CHUNK: usize = 256;

/// Events whose fan-outs are read back at once, at most.
const READ: usize = 64;

/// Payload and target bytes that are being worked through; beyond it, the next ones wait in the feed.
const HELD: usize = 32 * 1024 * 1024;

/// Pause after the store failed.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Dispatcher {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    registry: RegistryHandle,
    /// How far the store was looked through, where other nodes commit, too.
    sight: AsyncMutex<Sight>,
    page_size: PageSize,
    overflowed: UnboundedSender<Vec<WebhookNum>>,
    overflow: Option<UnboundedReceiver<Vec<WebhookNum>>>,
}

#[derive(Debug, thiserror::Error)]
enum DispatchError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Dispatcher {
    pub(super) fn new(shared: &Arc<Shared>, feed: &Arc<Feed>, registry: &RegistryHandle) -> Self {
        let (overflowed, overflow) = unbounded_channel();
        let (shared, feed, registry) = (shared.clone(), feed.clone(), registry.clone());
        let sight = AsyncMutex::new(Sight::new());
        let page_size = PageSize::new(READ);
        Self { shared, feed, registry, sight, page_size, overflowed, overflow: Some(overflow) }
    }

    pub(super) async fn run(mut self) {
        let Some(overflow) = self.overflow.take() else { return };
        let poke = poke(overflow, self.shared.clone(), self.registry.clone());
        let porter = Porter::default();
        tokio::join!(self.dispatch(&porter), porter.run(&self), poke);
    }

    async fn dispatch(&self, porter: &Porter) {
        let mut line = Line::default();
        loop {
            if let Err(error) = self.step(&mut line, porter).await {
                tracing::warn!(%error, "fan-outs could not be dispatched; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Takes in what is new and offers what comes next; waits if there is neither.
    async fn step(&self, line: &mut Line, porter: &Porter) -> Result<(), DispatchError> {
        let (blocked, room) = porter.full();
        let items = line.take(CHUNK, &blocked);
        if !items.is_empty() {
            self.offer(items, porter).await?;
            return match (line.bytes() < HELD).then(|| self.feed.try_next()).flatten() {
                Some(next) => self.take_in(next, line).await,
                None => Ok(()),
            };
        }
        if line.is_empty() {
            // Asked first: what is heard of meanwhile may not have been offered.
            let heard_of = self.feed.heard_of();
            if porter.is_idle() && self.feed.is_idle() {
                self.shared.has_offered(heard_of);
            }
        }
        let next = async { if line.bytes() < HELD { self.feed.next().await } else { std::future::pending().await } };
        tokio::select! {
            next = next => self.take_in(next, line).await,
            () = room => Ok(()),
        }
    }

    async fn take_in(&self, next: Next, line: &mut Line) -> Result<(), DispatchError> {
        match next {
            Next::Dispatch(mut fanouts) => {
                self.shared.bodies.adopt(&mut fanouts);
                fanouts.into_iter().for_each(|fanout| self.push(fanout, line));
            }
            Next::ReadAfter(_) if self.shared.store.is_shared() => self.catch_up(line).await?,
            Next::ReadAfter(after) => self.read_back(after, line).await?,
            Next::LookForNews => self.look_for_news(line).await?,
        }
        Ok(())
    }

    async fn read_back(&self, after: EventSeq, line: &mut Line) -> Result<(), DispatchError> {
        let seen = self.feed.committed();
        let events = u64::try_from(self.page_size.rows()).unwrap_or(u64::MAX);
        let page = self.page_size.learn(self.shared.store.fanouts(after, events).await)?;
        let FanoutPage { fanouts, to: Some(to) } = page else {
            self.feed.caught_up(seen);
            return Ok(());
        };
        // Watched first: rows that are made from here on are noticed, those that were made before are found.
        for fanout in &fanouts {
            self.shared.journal.record(Record::Adopt { fanout: fanout.clone() }).await?;
        }
        self.shared.journal.barrier().await?;
        let mut owed = Vec::with_capacity(fanouts.len());
        for fanout in fanouts {
            let recorded = self.shared.store.recorded_targets(fanout.event.seq).await?;
            owed.push(self.mark(fanout, recorded).await?);
        }
        self.feed.read_up_to(to);
        owed.into_iter().for_each(|fanout| self.push_read(fanout, 0, line));
        Ok(())
    }

    /// Tells the writer which targets have rows; answers what is left.
    async fn mark(&self, fanout: Fanout, recorded: Vec<WebhookNum>) -> Result<Fanout, Stopped> {
        let left = fanout.targets.iter().filter(|num| recorded.binary_search(num).is_err()).copied().collect();
        let (event, shard) = (fanout.event.seq, fanout.shard);
        self.shared.journal.record(Record::Mark { event, shard, recorded }).await?;
        Ok(Fanout { targets: left, ..fanout })
    }

    /// It was committed here.
    fn push(&self, fanout: Fanout, line: &mut Line) {
        let epoch = self.shared.shard_set.epoch_of(fanout.shard);
        line.push(fanout, false, epoch);
    }

    /// It was in the store before this process served it.
    fn push_read(&self, fanout: Fanout, epoch: i64, line: &mut Line) {
        if let Some(first) = fanout.targets.first() {
            let recovered = fanout.event.seq <= self.shared.shard_set.in_doubt_of(*first).events_to;
            line.push(fanout, recovered, epoch);
        }
    }

    /// Hands a chunk of one tenant to its endpoints, or to the porter.
    async fn offer(&self, mut items: Vec<Item>, porter: &Porter) -> Result<(), DispatchError> {
        porter.notice(&items);
        porter.take_over(&mut items);
        let Offered { refused, unknown } = self.registry.offer(items).await;
        porter.carry(unknown);
        fault::point("fanout.after_dispatch");
        self.defer(refused).await
    }

    /// Makes rows of what no endpoint could take, and tells the endpoints once these are committed.
    async fn defer(&self, refused: Vec<Item>) -> Result<(), DispatchError> {
        if refused.is_empty() {
            return Ok(());
        }
        let next_at = UnixMillis::now();
        for item in &refused {
            self.shared.journal.record(Record::Defer { id: item.id(), next_at }).await?;
        }
        let _ = self.overflowed.send(refused.iter().map(|item| item.num).collect());
        Ok(())
    }

    async fn cancel(&self, deleted: Vec<Item>) -> Result<(), DispatchError> {
        let at = UnixMillis::now();
        for item in deleted {
            self.shared.journal.record(Record::Cancel { id: item.id(), at }).await?;
        }
        Ok(())
    }
}

/// The tenant of a chunk; all of one chunk have the same.
fn tenant_of(items: &[Item]) -> Option<TenantNum> {
    items.first().map(|item| item.event.tenant)
}

/// Tenants that must wait.
type Blocked = HashSet<TenantNum>;

/// Tells endpoints of rows that were made for them, once those are committed.
async fn poke(mut overflow: UnboundedReceiver<Vec<WebhookNum>>, shared: Arc<Shared>, registry: RegistryHandle) {
    while let Some(mut nums) = overflow.recv().await {
        while let Ok(more) = overflow.try_recv() {
            nums.extend(more);
        }
        nums.sort_unstable();
        nums.dedup();
        if shared.journal.barrier().await.is_err() {
            return;
        }
        registry.wake(nums).await;
    }
}
