//! Mirrors `crate::engine::dispatch::scan` around the real cursor: fan-outs that other nodes have committed for this
//! one, and those that existed when a shard was activated.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::domain::id::{EventSeq, WebhookNum};
use crate::engine::dispatch::fair_queue::FairQueue;
use crate::store::fanout_scan::Which;
use crate::store::fanouts::Fanout;
use crate::store::journal::{Record, ScannedFanout, Stopped};
use crate::store::leases::ShardNum;

use super::dispatcher::Failed;
use super::process::{Process, STORE_PAUSE};
use super::trace;
use super::world::Unreadable;

impl Process {
    /// `Dispatcher::scan_new`.
    pub(super) async fn scan_new(&self, queue: &mut FairQueue) -> Result<(), Failed> {
        match self.look_for_fanouts(Which::New(&self.feed), queue).await {
            Ok(true) => self.feed.continue_scan(),
            Ok(false) => {}
            Err(failed) => {
                self.feed.request_scan();
                self.feed.continue_scan();
                return Err(failed);
            }
        }
        Ok(())
    }

    /// `Dispatcher::catch_up`.
    pub(super) async fn catch_up(&self, queue: &mut FairQueue) -> Result<(), Failed> {
        if self.feed.take_rescan() {
            self.cursor.borrow_mut().restart();
        }
        if !self.look_for_fanouts(Which::All, queue).await? {
            self.feed.caught_up(self.committed.get());
        }
        Ok(())
    }

    /// `Dispatcher::scan`.
    async fn look_for_fanouts(&self, which: Which<'_>, queue: &mut FairQueue) -> Result<bool, Failed> {
        if self.cursor.borrow().scan().is_none() {
            self.committed.set(self.feed.committed());
        }
        let (found, is_cut) = self.visible_fanouts(which).await?;
        if !found.is_empty() {
            let names = || found.iter().map(|found| trace::fanout(&found.fanout)).collect::<Vec<_>>();
            self.world.note(|| format!("process {} finds {:?}", self.incarnation, names()));
        }
        if !found.is_empty() {
            let new = self.only_new(found).await?;
            self.start_on(new, queue).await?;
        }
        Ok(is_cut)
    }

    /// `Store::visible_fanouts`.
    async fn visible_fanouts(&self, which: Which<'_>) -> Result<(Vec<ScannedFanout>, bool), Unreadable> {
        let (served, slot) = (self.shard_set.served(), self.shard_set.slot());
        if served.is_empty() {
            self.cursor.borrow_mut().restart();
            return Ok((Vec::new(), false));
        }
        let under_way = self.cursor.borrow().scan();
        let look = match under_way {
            Some(look) => look,
            None => {
                let read = self.read(|tables| (tables.transactions.snapshot(), self.is_unbroken(tables)));
                let (now, is_unbroken) = read.await?;
                if !is_unbroken {
                    return Err(Unreadable);
                }
                self.cursor.borrow().begin(now)
            }
        };
        let limit = self.world.bounds.read;
        let read = self.read(|tables| tables.page_of_news((&served, slot), look.after, which, limit));
        let (mut page, cut_at) = read.await?;
        page.retain(|(tx, _)| look.shows(*tx));
        let is_news = |tx: u64, fanout: &Fanout| {
            let shard = ShardNum::read(fanout.shard).expect("a shard");
            self.shard_set.is_new_to_ledger(shard, tx, fanout.event.seq)
        };
        let found =
            page.into_iter().map(|(tx, fanout)| ScannedFanout { is_news: is_news(tx, &fanout), fanout }).collect();
        self.cursor.borrow_mut().has_read(look, cut_at);
        Ok((found, cut_at.is_some()))
    }

    /// `Dispatcher::only_new`.
    async fn only_new(&self, found: Vec<ScannedFanout>) -> Result<Vec<(ScannedFanout, i64)>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.journal.record(Record::Watch { fanouts: found.clone(), answer }).await?;
        let new = answered.await.map_err(|_| Stopped)?;
        Ok(found.into_iter().zip(new).filter_map(|(found, epoch)| Some((found, epoch?))).collect())
    }

    /// `Dispatcher::start_on`.
    async fn start_on(&self, new: Vec<(ScannedFanout, i64)>, queue: &mut FairQueue) -> Result<(), Stopped> {
        let mut recorded = BTreeMap::new();
        for (ScannedFanout { fanout, is_news }, epoch) in new {
            if is_news {
                queue.push(fanout, false, epoch);
            } else {
                let fanout = self.without_recorded(fanout, &mut recorded).await?;
                self.push_read(fanout, epoch, queue);
            }
        }
        Ok(())
    }

    /// `Dispatcher::without_recorded`.
    async fn without_recorded(
        &self,
        fanout: Fanout,
        known: &mut BTreeMap<EventSeq, Vec<WebhookNum>>,
    ) -> Result<Fanout, Stopped> {
        let event = fanout.event.seq;
        while !known.contains_key(&event) {
            match self.read(|tables| tables.recorded_targets(event)).await {
                Ok(recorded) => drop(known.insert(event, recorded)),
                Err(Unreadable) => self.world.sleep(STORE_PAUSE).await,
            }
        }
        let of_it = known[&event].iter().filter(|num| fanout.targets.binary_search(num).is_ok());
        let of_it = of_it.copied().collect();
        self.mark(fanout, of_it).await
    }
}
