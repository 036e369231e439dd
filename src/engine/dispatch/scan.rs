//! Scans a store in which other nodes commit, too, for the fan-outs that the feed does not hand out: those that other
//! nodes have committed for this node's shards; those that were there when this node activated a shard; and those that
//! this node has committed for ordered webhooks, or while the feed was full. Only the journal's writer knows which of
//! them are new.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::domain::id::{EventSeq, WebhookNum};
use crate::journal::{Record, Stopped};
use crate::store::fanout_scan::{ScanCursor, ScannedFanout, Which};
use crate::store::fanouts::Fanout;

use super::fair_queue::FairQueue;
use super::page_size::PageSize;
use super::{DispatchError, Dispatcher, PAUSE, Progress};

/// How far the store was scanned.
pub(super) struct ScanState {
    cursor: ScanCursor,
    page_size: PageSize,
}

impl ScanState {
    /// `most`: how many fan-outs are read at once at most.
    pub(super) fn new(most: usize) -> Self {
        Self { cursor: ScanCursor::default(), page_size: PageSize::new(most) }
    }
}

impl Dispatcher {
    /// Takes in a page of what other nodes have committed since the last scan, and of what this node has committed for
    /// ordered webhooks.
    pub(super) async fn scan_new(&self, progress: &mut Progress) -> Result<(), DispatchError> {
        let Progress { queue, turns, scan } = progress;
        match self.scan(Which::New(&|| self.feed.expected_events()), scan, queue).await {
            Ok(true) => turns.scan_goes_on(),
            Ok(false) => {}
            Err(error) => {
                self.feed.request_scan();
                turns.scan_goes_on();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes in a page of the gap, where other nodes commit, too: of all open fan-outs, what is new to the writer. Of what
    /// waits in the queue, the writer knows all.
    pub(super) async fn catch_up_by_scan(&self, progress: &mut Progress) -> Result<(), DispatchError> {
        let Progress { queue, scan, .. } = progress;
        let Some(gap) = self.feed.catch_up() else { return Ok(()) };
        if gap.starts_over {
            scan.cursor.restart();
        }
        if !self.scan(Which::All, scan, queue).await? {
            self.feed.close_gap();
        }
        Ok(())
    }

    /// Reads one page and queues what is new; answers whether there is more.
    async fn scan(
        &self,
        which: Which<'_>,
        state: &mut ScanState,
        queue: &mut FairQueue,
    ) -> Result<bool, DispatchError> {
        let ScanState { cursor, page_size } = state;
        let (shard_set, rows) = (&self.context.shard_set, page_size.rows());
        let news = page_size.learn(self.context.db.visible_fanouts(shard_set, cursor, which, rows).await)?;
        if !news.found.is_empty() {
            let new = self.claim_new(news.found).await?;
            self.start_on(new, queue).await?;
        }
        Ok(news.is_cut)
    }

    /// Claims the fan-outs that are new. Answers these, each with the tag under which the writer tracks it: by
    /// the time it is queued, the shard may have gone and come back, and then another scan finds the fan-out again.
    async fn claim_new(&self, found: Vec<ScannedFanout>) -> Result<Vec<(ScannedFanout, i64)>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.context.journal.record(Record::Claim { fanouts: found.clone(), answer }).await?;
        let new = answered.await.map_err(|_| Stopped)?;
        Ok(found.into_iter().zip(new).filter_map(|(found, tag)| Some((found, tag?))).collect())
    }

    /// Queues new fan-outs. The writer tracks them from now on, so they must be queued whatever happens.
    async fn start_on(&self, new: Vec<(ScannedFanout, i64)>, queue: &mut FairQueue) -> Result<(), Stopped> {
        let mut recorded: BTreeMap<EventSeq, Vec<WebhookNum>> = BTreeMap::new();
        for (ScannedFanout { fanout, is_new_from_peer }, tag) in new {
            // Of a fan-out that was there when the shard was activated, an earlier owner may have made rows.
            let fanout = if is_new_from_peer { fanout } else { self.without_recorded(fanout, &mut recorded).await? };
            if is_new_from_peer {
                queue.push(fanout, false, tag);
            } else {
                self.push_read(fanout, tag, queue);
            }
        }
        Ok(())
    }

    async fn without_recorded(
        &self,
        fanout: Fanout,
        known: &mut BTreeMap<EventSeq, Vec<WebhookNum>>,
    ) -> Result<Fanout, Stopped> {
        let event = fanout.event.seq;
        while !known.contains_key(&event) {
            match self.context.db.recorded_targets(event).await {
                Ok(recorded) => drop(known.insert(event, recorded)),
                Err(error) => {
                    tracing::warn!(%error, "recorded targets of a fan-out could not be read; trying again");
                    self.context.host.sleep(PAUSE).await;
                }
            }
        }
        let recorded = known.get(&event).map(Vec::as_slice).unwrap_or_default();
        let of_it = recorded.iter().filter(|num| fanout.targets.binary_search(num).is_ok()).copied().collect();
        self.mark(fanout, of_it).await
    }
}
