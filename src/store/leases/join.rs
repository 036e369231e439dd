//! Makes a process a node, makes it another node after lost transactions, and deregisters it.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};

use crate::domain::id::{EventSeq, Slot};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::{Store, StoreError};

use super::server::{SERVER, ServerRow};
use super::{Membership, NOW, ShardSet, about, give_up_shards, nums, plain, silence};

/// How often to try for a slot, which another node may take at the same time.
const TRIES: usize = 20;

#[derive(Debug, FromQueryResult)]
struct JoinedRow {
    num: i64,
    slot: Option<i16>,
    started_at: i64,
    lease_until: i64,
    newest: i64,
    #[sea_orm(nested)]
    server: ServerRow,
}

impl Store {
    /// Joins as a node, which owns no shard yet. With SQLite, the process owns everything.
    pub async fn join(&self, name: &str, address: Option<&str>) -> Result<ShardSet, StoreError> {
        let Some(connection) = &self.inner.lease else { return Ok(ShardSet::everything()) };
        self.adopt_foreign_rows().await?;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.insert_node(connection, (name, address), None).await {
                // Another node has taken the same slot.
                Err(StoreError::Exists) if tries < TRIES => {}
                joined => return joined.map(ShardSet::nothing),
            }
        }
    }

    /// Joins as another node after the database has lost transactions. Marks in doubt every shard that the node owned,
    /// even where the database names another owner. The caller passes the membership to the journal.
    pub async fn rejoin(
        &self,
        shard_set: &ShardSet,
        name: &str,
        address: Option<&str>,
    ) -> Result<Option<Membership>, StoreError> {
        let (Some(old), Some(connection)) = (shard_set.membership(), &self.inner.lease) else { return Ok(None) };
        self.adopt_foreign_rows().await?;
        let held = shard_set.owned();
        let mut tries = 0;
        loop {
            tries += 1;
            let transaction = connection.begin().await?;
            transaction.execute_raw(plain(silence())).await?;
            deregister_as(&transaction, &old).await?;
            mark_shards_in_doubt(&transaction, &held).await?;
            match self.insert_node(&transaction, (name, address), Some(old.slot)).await {
                Err(StoreError::Exists) if tries < TRIES => transaction.rollback().await?,
                joined => {
                    let member = joined?;
                    transaction.commit().await?;
                    return Ok(Some(member));
                }
            }
        }
    }

    /// `preferred`: the slot of a node that joins again. It knows the last key that it gave there, even if the database
    /// has lost it.
    async fn insert_node<C: ConnectionTrait>(
        &self,
        on: &C,
        (name, address): (&str, Option<&str>),
        preferred: Option<Slot>,
    ) -> Result<Membership, StoreError> {
        // Numbers are not used again, so a slot comes back only after 256 nodes: a slot that was free a moment ago may
        // have been used for keys that the database has lost. A node of a version without slots has slot 0.
        let sql = format!(
            "WITH me AS (SELECT nextval(pg_get_serial_sequence('node', 'num')) AS num) \
             INSERT INTO node (num, name, address, started_at, lease_until, slot) \
             SELECT me.num, $1, $2, {NOW}, {NOW} + $3, ( \
               SELECT slot FROM generate_series(0, 255) AS slot \
               WHERE slot NOT IN (SELECT COALESCE(slot, 0) FROM node) \
               ORDER BY (slot + 256 - COALESCE($4::int8, (me.num - 1) % 256)) % 256 LIMIT 1) \
             FROM me \
             RETURNING num, slot, started_at, lease_until, \
               COALESCE((SELECT MAX(seq) FROM event), 0) AS newest, {SERVER}"
        );
        let preferred = preferred.map(|slot| i64::from(slot.0));
        let values = [name.into(), address.map(str::to_owned).into(), self.lease_ms(), preferred.into()];
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        let row = JoinedRow::find_by_statement(statement).one(on).await?;
        let row = row.ok_or_else(|| StoreError::unreadable("node", "its number was not answered"))?;
        let JoinedRow { num, slot, started_at, lease_until, newest, server } = row;
        match slot.and_then(|slot| u8::try_from(slot).ok()) {
            Some(slot) => {
                let (slot, newest, server) = (Slot(slot), EventSeq(newest), server.try_into()?);
                Ok(Membership { node: num, slot, started_at, lease_until, server, newest })
            }
            None => {
                delete_node(on, num).await?;
                Err(StoreError::unreadable(
                    "node",
                    "there are 256 nodes already, more than this database can tell apart",
                ))
            }
        }
    }

    /// Deletes the node's row and releases the shards that the node still owns, in doubt: no other node would acquire a
    /// shard whose owner is gone.
    pub async fn deregister(&self, shard_set: &ShardSet) -> Result<(), StoreError> {
        let (Some(me), Some(connection)) = (shard_set.membership(), &self.inner.lease) else { return Ok(()) };
        let transaction = connection.begin().await?;
        deregister_as(&transaction, &me).await?;
        Ok(transaction.commit().await?)
    }
}

/// Deregisters this node if its row is there. After lost transactions, another node may have its number.
async fn deregister_as<C: ConnectionTrait>(on: &C, member: &Membership) -> Result<(), DbErr> {
    let sql = "DELETE FROM node WHERE num = $1 AND started_at = $2";
    let values = [member.node.into(), member.started_at.into()];
    let left = on.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, values)).await?;
    if left.rows_affected() == 0 {
        return Ok(());
    }
    let sql = "SELECT num FROM shard WHERE owner = $1 ORDER BY num FOR UPDATE";
    on.execute_raw(about(member.node, sql)).await?;
    give_up_shards(on, member.node, None).await
}

/// Marks these shards in doubt, whichever node owns them, and those without an owner: another node may have owned them
/// in the lost transactions.
async fn mark_shards_in_doubt<C: ConnectionTrait>(on: &C, shards: &[ShardNum]) -> Result<(), DbErr> {
    let sql = format!(
        "UPDATE shard SET suspect_due_to = GREATEST(suspect_due_to, {NOW}, $1), \
         suspect_events_to = GREATEST(suspect_events_to, COALESCE((SELECT MAX(seq) FROM event), 0)) \
         WHERE num IN (SELECT num FROM shard WHERE num = ANY($2) OR owner IS NULL ORDER BY num FOR UPDATE)"
    );
    let values = [UnixMillis::now().0.into(), nums(shards)];
    on.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, values)).await?;
    Ok(())
}

async fn delete_node<C: ConnectionTrait>(on: &C, node: i64) -> Result<(), DbErr> {
    on.execute_raw(about(node, "DELETE FROM node WHERE num = $1")).await?;
    Ok(())
}
