//! The log index, by which a webhook's deliveries are found. It follows the delivery rows in large sorted batches: one
//! index entry per delivery, spread over all webhooks, would cost more than the rest of the commit.
//!
//! After a crash the index is rebuilt from `engine_state.log_indexed_to`: every event up to there is indexed. With
//! PostgreSQL each shard has a mark of its own, and the node that acquires the shard continues from there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sea_orm::{FromQueryResult, Statement, Value};
use tokio::sync::Mutex as AsyncMutex;

use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;

use super::leases::ShardSet;
use super::rows::{RowStatement, int8};
use super::{Store, StoreError, dialect, state};

/// How far the index may lag while nobody reads a log.
pub const EVERY: Duration = Duration::from_secs(2);

/// Entries per transaction. Each may be on a page of its own; at this size the writer is held for about one commit's
/// time.
const CHUNK: usize = 256;

/// Entries per transaction when many have gathered: a reader then waits for the work itself, and fewer commits leave
/// more time for it.
const LARGE_CHUNK: usize = 1024;

/// Entries that gather in [`EVERY`] at some thousand deliveries a second.
const MUCH: usize = 16 * 1024;

/// After this time an event that has its key from another node is visible, or its transaction was ended.
const TURNS_UP_MS: i64 = 60_000;

/// How far the marks of shards may lag. Each update is one small statement for the marks of all shards.
const MARK_EVERY_MS: i64 = 15_000;

/// Deliveries that are recorded but not indexed yet. The journal's writer fills it.
#[derive(Default)]
pub struct LogBuffer {
    new: Mutex<Vec<DeliveryId>>,
    /// Every row of every event up to here is committed and was handed to `new`.
    complete_to: AtomicI64,
}

impl LogBuffer {
    pub(crate) fn push(&self, recorded: &mut Vec<DeliveryId>, complete_to: EventSeq) {
        self.new.lock().append(recorded);
        self.complete_to.store(complete_to.0, Ordering::Release);
    }

    fn take(&self) -> (Vec<DeliveryId>, EventSeq) {
        let complete_to = EventSeq(self.complete_to.load(Ordering::Acquire));
        (std::mem::take(&mut *self.new.lock()), complete_to)
    }
}

/// Moves entries from the buffer into the index.
pub struct LogIndex {
    store: Store,
    buffer: Arc<LogBuffer>,
    insert: RowStatement,
    /// One flush at a time; a reader that waits for a flush finds its entries indexed.
    turn: AsyncMutex<Progress>,
    /// Shards whose earlier deliveries are in the index.
    indexed_shards: Mutex<BTreeSet<ShardNum>>,
}

/// Kept between flushes: a flush that is dropped half-way leaves the rest to the next.
struct Progress {
    indexed_to: EventSeq,
    to_do: Vec<DeliveryId>,
}

#[derive(Debug, FromQueryResult)]
struct KeyRow {
    event_seq: i64,
    webhook_num: i64,
}

impl LogIndex {
    /// Indexes what the last process left unindexed.
    pub async fn open(store: &Store, buffer: Arc<LogBuffer>) -> Result<Self, StoreError> {
        let indexed_to = store.log_indexed_to().await?;
        let columns = [int8("webhook_num"), int8("event_seq")];
        let insert = RowStatement::insert(store.backend(), "delivery_log", &columns, "ON CONFLICT DO NOTHING");
        let turn = AsyncMutex::new(Progress { indexed_to, to_do: Vec::new() });
        let index = Self { store: store.clone(), buffer, insert, turn, indexed_shards: Mutex::default() };
        if !store.is_clustered() {
            index.catch_up(indexed_to, None).await?;
        }
        Ok(index)
    }

    /// Indexes what earlier owners of these shards left unindexed.
    pub async fn index_shards(&self, shards: &[ShardNum]) -> Result<(), StoreError> {
        self.catch_up(self.store.shards_indexed_to(shards).await?, Some(shards)).await?;
        self.indexed_shards.lock().extend(shards);
        Ok(())
    }

    /// Forgets which shards are indexed: that was true of another history of the database.
    pub fn detach_all(&self) {
        self.indexed_shards.lock().clear();
    }

    /// Forgets shards that this node releases: it does not index what their next owners record, so they are incomplete
    /// when they come back.
    pub fn detach(&self, shards: &[ShardNum]) {
        self.indexed_shards.lock().retain(|shard| !shards.contains(shard));
    }

    #[cfg(test)]
    pub(super) fn covers(&self) -> Vec<ShardNum> {
        self.indexed_shards.lock().iter().copied().collect()
    }

    async fn catch_up(&self, indexed_to: EventSeq, shards: Option<&[ShardNum]>) -> Result<(), StoreError> {
        let backend = self.store.backend();
        let is_ours = if shards.is_some() { "AND (webhook_num & 255) = ANY($4)" } else { "" };
        let shards = shards.map(|shards| dialect::numbers(backend, shards.iter().map(|shard| i64::from(shard.num()))));
        let mut after = DeliveryId { event: EventSeq(indexed_to.0 + 1), webhook: WebhookNum(0) };
        loop {
            let sql = format!(
                "SELECT event_seq, webhook_num FROM delivery WHERE (event_seq, webhook_num) > ($1, $2) {is_ours} \
                 ORDER BY event_seq, webhook_num LIMIT $3"
            );
            let values = [after.event.0.into(), after.webhook.0.into(), (LARGE_CHUNK as i64).into()];
            let values = values.into_iter().chain(shards.clone());
            let statement = Statement::from_sql_and_values(backend, sql, values);
            let rows = KeyRow::find_by_statement(statement).all(self.store.engine_readers()).await?;
            let id = |row: &KeyRow| DeliveryId { event: EventSeq(row.event_seq), webhook: WebhookNum(row.webhook_num) };
            let ids: Vec<DeliveryId> = rows.iter().map(id).collect();
            let Some(last) = ids.last() else { return Ok(()) };
            self.insert(&ids).await?;
            after = *last;
        }
    }

    /// Afterwards every delivery that was recorded before the call is in the index. For readers, who must not pay for a
    /// commit that they do not need: it does not record how far the index has come.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let mut progress = self.turn.lock().await;
        self.move_entries(&mut progress).await?;
        Ok(())
    }

    /// A flush that also records how far the index has come, from where the next process continues.
    pub async fn follow(&self, shard_set: &ShardSet) -> Result<(), StoreError> {
        let mut progress = self.turn.lock().await;
        let complete_to = self.move_entries(&mut progress).await?;
        if shard_set.is_everything() {
            if complete_to > progress.indexed_to {
                self.store.write(async |on| state::set_log_indexed_to(on, complete_to).await).await?;
                progress.indexed_to = complete_to;
            }
            return Ok(());
        }
        // Events of other nodes with keys newer than this may still become visible.
        let complete_to = complete_to.min(EventSeq::first_at(UnixMillis(UnixMillis::now().0 - TURNS_UP_MS)));
        if EventSeq::accepted_at(complete_to).0 - EventSeq::accepted_at(progress.indexed_to).0 > MARK_EVERY_MS {
            let held = shard_set.owned();
            self.indexed_shards.lock().retain(|shard| held.contains(shard));
            let covered: Vec<ShardNum> = self.indexed_shards.lock().iter().copied().collect();
            self.store.set_shards_indexed_to(shard_set, &covered, complete_to).await?;
            progress.indexed_to = complete_to;
        }
        Ok(())
    }

    /// Returns the event up to which every row is now in the index.
    async fn move_entries(&self, progress: &mut Progress) -> Result<EventSeq, StoreError> {
        let (mut new, complete_to) = self.buffer.take();
        progress.to_do.append(&mut new);
        progress.to_do.sort_unstable_by_key(|id| (id.webhook, id.event));
        let chunk = if progress.to_do.len() > MUCH { LARGE_CHUNK } else { CHUNK };
        while !progress.to_do.is_empty() {
            let from = progress.to_do.len().saturating_sub(chunk);
            self.insert(&progress.to_do[from..]).await?;
            progress.to_do.truncate(from);
        }
        Ok(complete_to)
    }

    async fn insert(&self, ids: &[DeliveryId]) -> Result<(), StoreError> {
        let values: Vec<Value> = ids.iter().flat_map(|id| [id.webhook.0.into(), id.event.0.into()]).collect();
        self.store
            .write_async_commit(async |on| {
                self.insert.run(on, values).await?;
                Ok(())
            })
            .await
    }
}
