//! Fan-outs that have become visible since somebody looked, in whatever order they were committed. Every fan-out carries
//! the number of the transaction that wrote it. Numbers are given in order and committed in any: whoever has looked knows
//! from which number on something may still turn up, and begins there the next time.
//!
//! PostgreSQL alone; with SQLite there is nobody who would commit anything behind one's back.

use std::sync::Arc;

use sea_orm::{DbBackend, FromQueryResult, Statement};

use crate::id::{EventSeq, TenantNum};

use super::events::Event;
use super::fanouts::Fanout;
use super::journal::Found;
use super::leases::{Holding, ShardNum};
use super::{Store, StoreError, dialect, payload, targets};

/// How far somebody has looked.
#[derive(Debug, Default)]
pub struct Cursor {
    /// Nothing can turn up before this transaction.
    settled: u64,
    /// A look that is under way: where the next page begins, and what will be settled at its end.
    look: Option<Look>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Where the next page begins.
    pub(crate) after: Place,
    settles: u64,
}

#[derive(Debug, FromQueryResult)]
struct NewsRow {
    tx: i64,
    event_seq: i64,
    shard: i16,
    targets: Vec<u8>,
    tenant_num: i64,
    kind: String,
    body: Vec<u8>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct News {
    pub found: Vec<Found>,
    /// Whether there is more to be read right now.
    pub is_cut: bool,
}

/// A place among the fan-outs: transaction, event, shard.
pub(crate) type Place = (u64, i64, i16);

impl Cursor {
    /// The look that is under way.
    pub(crate) fn look(&self) -> Option<Look> {
        self.look
    }

    /// A look that begins now. `settles` was asked for before any page is read: what is committed in between is found by
    /// the next look as well.
    pub(crate) fn begin(&self, settles: u64) -> Look {
        Look { after: (self.settled, 0, -1), settles }
    }

    /// A page was read, up to there if there is more.
    pub(crate) fn has_read(&mut self, look: Look, cut_at: Option<Place>) {
        match cut_at {
            Some(after) => self.look = Some(Look { after, ..look }),
            None => *self = Self { settled: look.settles, look: None },
        }
    }

    pub fn begin_anew(&mut self) {
        *self = Self::default();
    }
}

impl Store {
    /// The next `limit` open fan-outs of the shards that are served: those of other nodes, or `all`.
    pub async fn visible_fanouts(
        &self,
        holding: &Holding,
        cursor: &mut Cursor,
        all: bool,
        limit: usize,
    ) -> Result<News, StoreError> {
        let shards = holding.served();
        if shards.is_empty() {
            return Ok(News::default());
        }
        let look = match cursor.look() {
            Some(look) => look,
            None => cursor.begin(self.snapshot(self.engine_readers()).await?.settled_to()),
        };
        let rows = self.page_of_news(&shards, holding, look, all, limit).await?;
        let is_cut = rows.len() >= limit;
        let last = rows.last().map(|row| (row.tx.cast_unsigned(), row.event_seq, row.shard));
        let found: Result<Vec<Found>, StoreError> = rows.into_iter().map(|row| self.found(holding, row)).collect();
        let found = found?;
        cursor.has_read(look, last.filter(|_| is_cut));
        Ok(News { found, is_cut })
    }

    async fn page_of_news(
        &self,
        shards: &[ShardNum],
        holding: &Holding,
        look: Look,
        all: bool,
        limit: usize,
    ) -> Result<Vec<NewsRow>, StoreError> {
        // Bits 13 to 20 of an event's key are the slot of the node that accepted it.
        let sql = "SELECT f.tx::text::int8 AS tx, f.event_seq, f.shard, f.targets, e.tenant_num, e.kind, e.body \
                   FROM fanout f JOIN event e ON e.seq = f.event_seq \
                   WHERE (f.tx, f.event_seq, f.shard) > ($1::text::xid8, $2, $3) AND f.shard = ANY($4) \
                     AND ($5 OR ((f.event_seq >> 13) & 255) <> $6) \
                   ORDER BY f.tx, f.event_seq, f.shard LIMIT $7";
        let (tx, event, shard) = look.after;
        let values = [
            tx.to_string().into(),
            event.into(),
            shard.into(),
            dialect::numbers(DbBackend::Postgres, shards.iter().map(|shard| i64::from(shard.num()))),
            all.into(),
            i64::from(holding.slot().0).into(),
            i64::try_from(limit).unwrap_or(i64::MAX).into(),
        ];
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        Ok(NewsRow::find_by_statement(statement).all(self.engine_readers()).await?)
    }

    fn found(&self, holding: &Holding, row: NewsRow) -> Result<Found, StoreError> {
        let NewsRow { tx, event_seq, shard, targets, tenant_num, kind, body } = row;
        let (seq, tenant, body) = (EventSeq(event_seq), TenantNum(tenant_num), payload::counted(body));
        let event: Arc<Event> = self.share(Event { seq, tenant, kind, body });
        let fanout = Fanout { event, shard, targets: targets::decode(&targets)?.into() };
        Ok(Found { fanout, is_news: holding.is_news(ShardNum::read(shard)?, tx.cast_unsigned(), seq) })
    }
}
