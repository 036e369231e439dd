//! Tells the dispatcher which of the fan-outs that a scan has found are new. Only the writer knows which fan-outs are
//! tracked. Only the writer ends fan-outs, so one that is neither tracked nor stored has ended.

use std::collections::HashSet;

use crate::domain::shard::ShardNum;
use crate::store::StoreError;

use super::{FenceResult, JournalTransaction, Record, Writer};
use crate::journal::feed::Behind;
use crate::store::fanout_scan::ScannedFanout;
use crate::store::fanouts::FanoutKey;

impl Writer {
    /// For each [`Record::Claim`], which of its fan-outs are new. While the feed is behind anywhere, none is,
    /// until the dispatcher has begun to read the store from its beginning: a scan that was under way when a shard was
    /// activated goes on behind the shard's older fan-outs.
    pub(super) async fn claims(
        &self,
        on: &mut dyn JournalTransaction,
        records: &[Record],
        fence: &FenceResult,
    ) -> Result<Vec<Vec<bool>>, StoreError> {
        if self.outputs.feed.status().behind == Some(Behind::Anywhere) {
            return Ok(scanned_in(records).map(|fanouts| vec![false; fanouts.len()]).collect());
        }
        let keys: Vec<FanoutKey> = scanned_in(records).flatten().map(key_of).collect();
        let open = if keys.is_empty() { HashSet::new() } else { on.open_among(&keys).await? };
        let is_new = |found: &ScannedFanout| !fence.has_lost(found.fanout.shard) && self.is_new(found, &open);
        Ok(scanned_in(records).map(|fanouts| fanouts.iter().map(is_new).collect()).collect())
    }

    fn is_new(&self, found: &ScannedFanout, open: &HashSet<FanoutKey>) -> bool {
        let key = key_of(found);
        let is_ours = ShardNum::try_from(key.1).is_ok_and(|shard| self.shard_set.owns(shard));
        is_ours && open.contains(&key) && !self.tracker.knows(key)
    }

    /// Tracks the new fan-outs, and answers.
    pub(super) fn answer_claims(&mut self, records: &mut Vec<Record>, claims: Vec<Vec<bool>>) {
        let is_claim = |record: &mut Record| matches!(record, Record::Claim { .. });
        for (record, new) in records.extract_if(.., is_claim).zip(claims) {
            let Record::Claim { fanouts, answer } = record else { continue };
            let tags = fanouts.iter().zip(new).map(|(found, is_new)| self.claim(found, is_new));
            let _ = answer.send(tags.collect());
        }
    }

    /// A fan-out that two records name is new once.
    fn claim(&mut self, ScannedFanout { fanout, is_new_from_peer }: &ScannedFanout, is_new: bool) -> Option<i64> {
        let shard = ShardNum::try_from(fanout.shard).ok()?;
        if !is_new || !self.tracker.claim(fanout) {
            return None;
        }
        self.outputs.feed.note_scanned((fanout.event.seq, fanout.shard));
        // The count at the shard's activation has all others.
        if *is_new_from_peer {
            self.outputs.ledger.lock().owe_all(&fanout.targets, fanout.event.seq);
        }
        Some(self.shard_set.tag_of(shard))
    }
}

/// The fan-outs of each [`Record::Claim`].
fn scanned_in(records: &[Record]) -> impl Iterator<Item = &Vec<ScannedFanout>> {
    records.iter().filter_map(|record| {
        let Record::Claim { fanouts, .. } = record else { return None };
        Some(fanouts)
    })
}

fn key_of(found: &ScannedFanout) -> FanoutKey {
    (found.fanout.event.seq, found.fanout.shard)
}
