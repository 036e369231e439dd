//! Tells the dispatcher which of the fan-outs that a scan has found are new. Only the writer knows which fan-outs are
//! tracked. Nobody else deletes them, so a fan-out that is neither tracked nor stored has ended.

use std::collections::HashSet;

use sea_orm::{ConnectionTrait, FromQueryResult, Statement};

use crate::domain::id::EventSeq;
use crate::store::leases::ShardNum;
use crate::store::{StoreError, dialect};

use super::outstanding::FanoutKey;
use super::writer::Writer;
use super::{Record, ScannedFanout};

#[derive(Debug, FromQueryResult)]
struct KeyRow {
    event_seq: i64,
    shard: i16,
}

impl Writer {
    /// For each [`Record::Watch`], which of its fan-outs are new.
    pub(super) async fn new_among<C: ConnectionTrait>(
        &self,
        on: &C,
        records: &[Record],
    ) -> Result<Vec<Vec<bool>>, StoreError> {
        let mut answers = Vec::new();
        for record in records {
            if let Record::Watch { fanouts, .. } = record {
                let there = there_are(on, fanouts).await?;
                let is_new = |found: &ScannedFanout| self.is_new(found, &there);
                answers.push(fanouts.iter().map(is_new).collect());
            }
        }
        Ok(answers)
    }

    fn is_new(&self, found: &ScannedFanout, there: &HashSet<FanoutKey>) -> bool {
        let key = (found.fanout.event.seq, found.fanout.shard);
        let is_ours = ShardNum::read(key.1).is_ok_and(|shard| self.shard_set.owns(shard));
        is_ours && there.contains(&key) && !self.watched.knows(key)
    }

    /// Tracks the new fan-outs, and answers.
    pub(super) fn watch(&mut self, records: &mut Vec<Record>, new: Vec<Vec<bool>>) {
        let is_watch = |record: &mut Record| matches!(record, Record::Watch { .. });
        for (record, new) in records.extract_if(.., is_watch).zip(new) {
            let Record::Watch { fanouts, answer } = record else { continue };
            let epochs = fanouts.iter().zip(new).map(|(found, is_new)| self.start_to_watch(found, is_new));
            let _ = answer.send(epochs.collect());
        }
    }

    /// A fan-out that two records name is new once.
    fn start_to_watch(&mut self, ScannedFanout { fanout, is_news }: &ScannedFanout, is_new: bool) -> Option<i64> {
        if !is_new || !self.watched.watch(fanout) {
            return None;
        }
        self.outputs.feed.note_scanned((fanout.event.seq, fanout.shard));
        if *is_news {
            self.outputs.ledger.lock().owe_all(&fanout.targets, fanout.event.seq);
        }
        Some(self.shard_set.epoch_of(fanout.shard))
    }
}

async fn there_are<C: ConnectionTrait>(on: &C, fanouts: &[ScannedFanout]) -> Result<HashSet<FanoutKey>, StoreError> {
    let sql = "SELECT f.event_seq, f.shard FROM fanout f \
               JOIN unnest($1, $2) AS found (event_seq, shard) ON f.event_seq = found.event_seq AND f.shard = found.shard";
    let backend = on.get_database_backend();
    let events = dialect::numbers(backend, fanouts.iter().map(|found| found.fanout.event.seq.0));
    let shards = dialect::numbers(backend, fanouts.iter().map(|found| i64::from(found.fanout.shard)));
    let statement = Statement::from_sql_and_values(backend, sql, [events, shards]);
    let rows = KeyRow::find_by_statement(statement).all(on).await?;
    Ok(rows.into_iter().map(|row| (EventSeq(row.event_seq), row.shard)).collect())
}
