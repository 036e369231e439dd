//! Scans the store for fan-outs that have become visible since the last scan; to catch up, for all that are open. Every
//! fan-out carries the number of the transaction that wrote it. Transactions get numbers in order and commit in any
//! order. So a scan knows from which number on fan-outs may still become visible, and the next scan begins there. The
//! dispatcher scans; the journal's writer decides which of the fan-outs are new.
//!
//! PostgreSQL only: with SQLite no other process commits.

use std::sync::Arc;

use sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement};

use crate::domain::id::EventSeq;
use crate::domain::shard::ShardNum;

use super::decode::shard_of;
use super::fanouts::{self, FANOUT_COLUMNS, Fanout};
use super::leases::{ShardSet, Snapshot};
use super::{Store, StoreError, dialect};

/// The fan-outs that a scan looks for.
#[derive(Clone, Copy)]
pub enum Which<'a> {
    /// Every open fan-out, to catch up.
    All,
    /// What other nodes have committed, and the events that this node has committed and expects in a scan.
    New(&'a (dyn Fn() -> Vec<EventSeq> + Send + Sync)),
}

/// How far a node has scanned.
#[derive(Debug, Default)]
pub struct ScanCursor {
    /// No fan-out of a transaction before this one can become visible any more.
    settled: u64,
    /// The scan under way.
    scan: Option<Scan>,
}

/// Finds what was visible when it began, page by page, in the order of transaction numbers. So of two events, one of
/// which was published after the other was accepted, no scan finds the later one first. What is committed during a scan
/// is found by the next one.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    /// The place after which the next page begins.
    pub(crate) after: Place,
    began: Arc<Snapshot>,
}

impl Scan {
    /// Whether the scan finds what this transaction has written.
    pub(crate) fn shows(&self, transaction: u64) -> bool {
        self.began.shows(transaction)
    }
}

/// A fan-out that a scan has found in the store.
#[derive(Debug, Clone)]
pub struct ScannedFanout {
    pub fanout: Fanout,
    /// Whether another node has accepted the event since this node activated the shard.
    pub is_new_from_peer: bool,
}

impl ScannedFanout {
    /// `tx`: the number of the transaction that wrote the fan-out.
    pub(crate) fn of(shard_set: &ShardSet, tx: u64, fanout: Fanout) -> Result<Self, StoreError> {
        let is_new_from_peer = shard_set.is_new_from_peer(shard_of(fanout.shard)?, tx, fanout.event.seq);
        Ok(Self { fanout, is_new_from_peer })
    }
}

#[derive(Debug, Default)]
pub struct ScanPage {
    pub found: Vec<ScannedFanout>,
    /// Whether the scan has more pages.
    pub is_cut: bool,
}

/// A place in the order of the scan: transaction, event, shard.
pub(crate) type Place = (u64, i64, i16);

impl ScanCursor {
    /// The scan under way.
    pub(crate) fn scan(&self) -> Option<Scan> {
        self.scan.clone()
    }

    /// Begins a scan with this snapshot.
    pub(crate) fn begin(&self, now: Snapshot) -> Scan {
        Scan { after: (self.settled, 0, -1), began: Arc::new(now) }
    }

    /// Notes that a page was read, up to `cut_at` if there are more.
    pub(crate) fn note_read(&mut self, scan: Scan, cut_at: Option<Place>) {
        match cut_at {
            Some(after) => self.scan = Some(Scan { after, ..scan }),
            None => *self = Self { settled: scan.began.settled_to(), scan: None },
        }
    }

    pub fn restart(&mut self) {
        *self = Self::default();
    }
}

impl Store {
    /// Reads the next page of a scan: open fan-outs of the served shards, `limit` at most, fewer if they are large.
    /// Reads keys and targets first, then each body once.
    pub async fn visible_fanouts(
        &self,
        shard_set: &ShardSet,
        cursor: &mut ScanCursor,
        which: Which<'_>,
        limit: usize,
    ) -> Result<ScanPage, StoreError> {
        let shards = shard_set.served();
        if shards.is_empty() {
            // The scan under way was for shards that this node no longer serves.
            cursor.restart();
            return Ok(ScanPage::default());
        }
        let scan = match cursor.scan() {
            Some(scan) => scan,
            None => cursor.begin(self.scan_snapshot(shard_set).await?),
        };
        let rows = self.scan_rows(&shards, shard_set, &scan, which, limit).await?;
        let mut is_cut = rows.len() >= limit;
        let mut last = rows.last().map(place_of).transpose()?;
        let mut listed = self.listed(&rows);
        listed.retain(|listed| scan.shows(listed.tx));
        let shown = listed.len();
        let listed = fanouts::cut(listed);
        if listed.len() < shown {
            (is_cut, last) = (true, listed.last().map(|last| (last.tx, last.head.seq.0, last.shard)));
        }
        let found = self.with_events(listed).await?.into_iter();
        let found: Result<Vec<ScannedFanout>, StoreError> =
            found.map(|(tx, fanout)| ScannedFanout::of(shard_set, tx, fanout)).collect();
        let found = found?;
        cursor.note_read(scan, last.filter(|_| is_cut));
        Ok(ScanPage { found, is_cut })
    }

    /// The snapshot in which a scan begins. Transaction numbers of a server that lacks transactions would mislead the
    /// scan.
    async fn scan_snapshot(&self, shard_set: &ShardSet) -> Result<Snapshot, StoreError> {
        let (now, started) = self.server_snapshot(self.engine_readers()).await?;
        shard_set.must_be_unbroken(self.engine_readers(), &started).await?;
        Ok(now)
    }

    async fn scan_rows(
        &self,
        shards: &[ShardNum],
        shard_set: &ShardSet,
        scan: &Scan,
        which: Which<'_>,
        limit: usize,
    ) -> Result<Vec<QueryResult>, StoreError> {
        // Bits 13 to 20 of an event's key are the slot of the node that accepted it.
        let sql = format!(
            "SELECT f.tx::text::int8 AS tx, {FANOUT_COLUMNS} FROM fanout f LEFT JOIN event e ON e.seq = f.event_seq \
             WHERE (f.tx, f.event_seq, f.shard) > ($1::text::xid8, $2, $3) AND f.shard = ANY($4) \
               AND ($5 OR ((f.event_seq >> 13) & 255) <> $6 OR f.event_seq = ANY($8)) \
             ORDER BY f.tx, f.event_seq, f.shard LIMIT $7"
        );
        let (tx, event, shard) = scan.after;
        let (all, own) = match which {
            Which::All => (true, Vec::new()),
            // Read after the scan has begun: every event that the scan shows was expected before it was committed.
            Which::New(expected) => (false, expected()),
        };
        let values = [
            tx.to_string().into(),
            event.into(),
            shard.into(),
            dialect::numbers(DbBackend::Postgres, shards.iter().map(|shard| i64::from(shard.num()))),
            all.into(),
            i64::from(shard_set.slot().0).into(),
            i64::try_from(limit).unwrap_or(i64::MAX).into(),
            dialect::numbers(DbBackend::Postgres, own.iter().map(|event| event.0)),
        ];
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        Ok(self.engine_readers().query_all_raw(statement).await?)
    }
}

fn place_of(row: &QueryResult) -> Result<Place, StoreError> {
    let tx: i64 = row.try_get("", "tx")?;
    Ok((tx.cast_unsigned(), row.try_get("", "event_seq")?, row.try_get("", "shard")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_finds_what_could_be_seen_when_it_began_and_the_next_one_the_rest() {
        let mut cursor = ScanCursor::default();
        let scan = cursor.begin(Snapshot::parse("10:20:10,15").unwrap());
        let shown: Vec<u64> = [9, 10, 11, 15, 19, 20].into_iter().filter(|tx| scan.shows(*tx)).collect();
        assert_eq!((scan.after, shown), ((0, 0, -1), vec![9, 11, 19]));
        cursor.note_read(scan, Some((12, 1, 0)));
        let scan = cursor.scan().expect("the scan goes on");
        assert!(scan.after == (12, 1, 0) && !scan.shows(15), "15 may be over by now, and is the next scan's");
        cursor.note_read(scan, None);
        assert!(cursor.scan().is_none());
        assert_eq!(cursor.begin(Snapshot::parse("30:30:").unwrap()).after, (10, 0, -1));
    }
}
