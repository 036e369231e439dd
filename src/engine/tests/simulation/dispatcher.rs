//! Mirrors `crate::engine::dispatch` around the real fair queue and feed: chunks of fan-outs, the activator that
//! activates sleeping endpoints, and the pokes for rows that were made instead of offers.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use crate::domain::id::{EventSeq, TenantNum, WebhookNum};
use crate::engine::dispatch::fair_queue::FairQueue;
use crate::engine::registry::{Item, Offered};
use crate::store::fanouts::Fanout;
use crate::store::journal::feed::Next;
use crate::store::journal::{Record, Stopped};

use super::handle::Handed;
use super::process::Process;
use super::trace;
use super::world::Unreadable;

/// As in the dispatcher.
const PAUSE: Duration = Duration::from_millis(500);
const HELD: usize = 32 * 1024 * 1024;

/// `DispatchError`.
pub(super) struct Failed;

impl From<Unreadable> for Failed {
    fn from(_: Unreadable) -> Self {
        Self
    }
}

impl From<Stopped> for Failed {
    fn from(_: Stopped) -> Self {
        Self
    }
}

/// `activator::State`.
#[derive(Default)]
struct Activator {
    tenants: VecDeque<(TenantNum, VecDeque<Item>)>,
    here: BTreeMap<WebhookNum, usize>,
}

impl Activator {
    fn add(&mut self, items: Vec<Item>) {
        let Some(tenant) = items.first().map(|item| item.event.tenant) else { return };
        for item in &items {
            *self.here.entry(item.num).or_default() += 1;
        }
        match self.tenants.iter_mut().find(|(known, _)| *known == tenant) {
            Some((_, waiting)) => waiting.extend(items),
            None => self.tenants.push_back((tenant, items.into())),
        }
    }

    fn next(&mut self, slice: usize) -> Option<Vec<Item>> {
        let (tenant, mut waiting) = self.tenants.pop_front()?;
        let items = waiting.drain(..waiting.len().min(slice)).collect();
        if !waiting.is_empty() {
            self.tenants.push_back((tenant, waiting));
        }
        Some(items)
    }

    fn gone(&mut self, nums: &[WebhookNum]) {
        for num in nums {
            if let Some(left) = self.here.get_mut(num) {
                *left -= 1;
                if *left == 0 {
                    self.here.remove(num);
                }
            }
        }
    }

    /// Takes out the items whose endpoints are being activated.
    fn take_over(&mut self, items: &mut Vec<Item>) {
        let (mine, others) = std::mem::take(items).into_iter().partition(|item| self.here.contains_key(&item.num));
        *items = others;
        self.add(mine);
    }

    fn is_idle(&self) -> bool {
        self.tenants.is_empty() && self.here.is_empty()
    }

    fn full(&self, most: usize) -> HashSet<TenantNum> {
        self.tenants.iter().filter(|(_, waiting)| waiting.len() >= most).map(|(tenant, _)| *tenant).collect()
    }
}

impl Process {
    /// `Dispatcher::run`.
    pub(super) async fn dispatch(self: Rc<Self>) {
        let activator = Rc::new(RefCell::new(Activator::default()));
        self.flow(self.clone().enqueue(activator.clone()));
        self.flow(self.clone().poke());
        let mut queue = FairQueue::default();
        loop {
            if self.step(&mut queue, &activator).await.is_err() {
                self.world.sleep(PAUSE).await;
            }
        }
    }

    /// `Dispatcher::step`.
    async fn step(&self, queue: &mut FairQueue, activator: &RefCell<Activator>) -> Result<(), Failed> {
        let most = self.world.bounds.activator;
        let blocked = activator.borrow().full(most);
        let items = queue.take(self.world.bounds.chunk, &blocked);
        if !items.is_empty() {
            self.offer_chunk(items, activator).await?;
            return match (queue.bytes() < HELD).then(|| self.feed.try_next()).flatten() {
                Some(next) => self.take_in(next, queue).await,
                None => Ok(()),
            };
        }
        if queue.is_empty() {
            let seen = self.feed.seen_watermark();
            if activator.borrow().is_idle() && self.feed.is_idle() {
                self.offered_to.set(seen.max(self.offered_to.get()));
            }
        }
        let has_room = queue.bytes() < HELD;
        let next = || has_room.then(|| self.feed.try_next()).flatten().map(Some);
        let unblocked = || (activator.borrow().full(most) != blocked).then_some(None);
        match self.world.tasks.until(|| next().or_else(unblocked)).await {
            Some(next) => self.take_in(next, queue).await,
            None => Ok(()),
        }
    }

    async fn take_in(&self, next: Next, queue: &mut FairQueue) -> Result<(), Failed> {
        match next {
            Next::Dispatch(fanouts) => fanouts.into_iter().for_each(|fanout| self.push(fanout, queue)),
            Next::ReadAfter(_) if self.world.is_clustered => self.catch_up(queue).await?,
            Next::ReadAfter(after) => self.read_back(after, queue).await?,
            Next::Scan => self.scan_new(queue).await?,
        }
        Ok(())
    }

    /// `Dispatcher::read_back`.
    async fn read_back(&self, after: EventSeq, queue: &mut FairQueue) -> Result<(), Failed> {
        let seen = self.feed.committed();
        let read = self.world.bounds.read;
        let fanouts = self.read(|tables| tables.fanouts(after, read)).await?;
        let Some(last) = fanouts.last().map(|fanout| fanout.event.seq) else {
            self.feed.caught_up(seen);
            return Ok(());
        };
        for fanout in &fanouts {
            self.journal.record(Record::Adopt { fanout: fanout.clone() }).await?;
        }
        self.journal.barrier().await?;
        let mut owed = Vec::with_capacity(fanouts.len());
        for fanout in fanouts {
            let event = fanout.event.seq;
            let recorded = self.read(|tables| tables.recorded_targets(event)).await?;
            owed.push(self.mark(fanout, recorded).await?);
        }
        self.feed.read_up_to(last);
        owed.into_iter().for_each(|fanout| self.push_read(fanout, 0, queue));
        Ok(())
    }

    /// `Dispatcher::mark`.
    pub(super) async fn mark(&self, fanout: Fanout, recorded: Vec<WebhookNum>) -> Result<Fanout, Stopped> {
        let left = fanout.targets.iter().filter(|num| recorded.binary_search(num).is_err()).copied().collect();
        let (event, shard) = (fanout.event.seq, fanout.shard);
        self.journal.record(Record::Mark { event, shard, recorded }).await?;
        Ok(Fanout { targets: left, ..fanout })
    }

    /// `Dispatcher::push`.
    fn push(&self, fanout: Fanout, queue: &mut FairQueue) {
        let epoch = self.shard_set.epoch_of(fanout.shard);
        queue.push(fanout, false, epoch);
    }

    /// `Dispatcher::push_read`.
    pub(super) fn push_read(&self, fanout: Fanout, epoch: i64, queue: &mut FairQueue) {
        if let Some(first) = fanout.targets.first() {
            let recovered = fanout.event.seq <= self.shard_set.in_doubt_of(*first).events_to;
            queue.push(fanout, recovered, epoch);
        }
    }

    /// `Dispatcher::offer`.
    async fn offer_chunk(&self, mut items: Vec<Item>, activator: &RefCell<Activator>) -> Result<(), Failed> {
        let events = || items.iter().map(|item| format!("w{} {}", item.num.0, trace::event(item.event.seq)));
        self.world.note(|| format!("offered: {:?}", events().collect::<Vec<_>>()));
        activator.borrow_mut().take_over(&mut items);
        let Offered { refused, unknown } = self.offer(items).await;
        activator.borrow_mut().add(unknown);
        self.defer(&refused).await.map_err(Failed::from)
    }

    /// `Dispatcher::defer`.
    async fn defer(&self, refused: &[Item]) -> Result<(), Stopped> {
        let next_at = self.wall();
        for item in refused {
            self.journal.record(Record::Defer { id: item.id(), next_at }).await?;
        }
        self.overflow.borrow_mut().extend(refused.iter().map(|item| item.num));
        Ok(())
    }

    /// `Activator::run`.
    async fn enqueue(self: Rc<Self>, activator: Rc<RefCell<Activator>>) {
        let slice = self.world.bounds.slice;
        loop {
            let items = self.world.tasks.until(|| activator.borrow_mut().next(slice)).await;
            let nums: Vec<WebhookNum> = items.iter().map(|item| item.num).collect();
            let Handed { refused, deleted } = self.offer_to_sleeping(items).await;
            while self.hand_on(&refused, &deleted).await.is_err() {
                self.world.sleep(PAUSE).await;
            }
            activator.borrow_mut().gone(&nums);
        }
    }

    async fn hand_on(&self, refused: &[Item], deleted: &[Item]) -> Result<(), Stopped> {
        self.defer(refused).await?;
        let at = self.wall();
        for item in deleted {
            self.journal.record(Record::Cancel { id: item.id(), at }).await?;
        }
        Ok(())
    }

    /// `poke`: wakes endpoints for rows that were made for them, once those rows are committed.
    async fn poke(self: Rc<Self>) {
        let some = || Some(std::mem::take(&mut *self.overflow.borrow_mut())).filter(|nums| !nums.is_empty());
        loop {
            let mut nums = self.world.tasks.until(some).await;
            nums.sort_unstable();
            nums.dedup();
            if self.journal.barrier().await.is_err() {
                return;
            }
            self.wake(nums).await;
        }
    }
}
