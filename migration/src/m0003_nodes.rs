//! What PostgreSQL needs beyond SQLite: which node may send for which webhooks, the order of texts, and free space in
//! pages whose rows change often.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};
use sea_orm_migration::sea_orm::DbBackend;

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &[&str] = &[
    // A process from its start to its end. `lease_until`: Unix milliseconds of the database's clock; afterwards other
    // nodes may acquire its shards.
    "CREATE TABLE node (
        num {key},
        name TEXT NOT NULL,
        started_at BIGINT NOT NULL,
        lease_until BIGINT NOT NULL
    ) WITH (fillfactor = 50)",
    // A 256th of the webhooks. `owner` is the number of a node; null while no node owns the shard. `epoch` rises with
    // every change of owner, which tells writes under an earlier owner apart.
    "CREATE TABLE shard (
        num SMALLINT NOT NULL PRIMARY KEY,
        owner BIGINT,
        epoch BIGINT NOT NULL
    ) WITH (fillfactor = 50)",
    "INSERT INTO shard (num, owner, epoch) SELECT num, NULL, 0 FROM generate_series(0, 255) AS num",
    // Ordered by bytes, as in SQLite: a list continues where its last page ended, whatever the language of the server.
    "ALTER TABLE event_type ALTER COLUMN name TYPE TEXT COLLATE \"C\"",
    "ALTER TABLE event_caller_id ALTER COLUMN caller_id TYPE TEXT COLLATE \"C\"",
    "ALTER TABLE idempotency ALTER COLUMN idempotency_key TYPE TEXT COLLATE \"C\"",
    "ALTER TABLE engine_state ALTER COLUMN name TYPE TEXT COLLATE \"C\"",
    // A fan-out lives for moments: vacuum runs after a fixed number of dead rows, whatever the table's size.
    "ALTER TABLE fanout SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)",
    "ALTER TABLE endpoint_health SET (fillfactor = 70)",
    "ALTER TABLE engine_state SET (fillfactor = 20)",
];

const DOWN: &[&str] = &[
    "ALTER TABLE engine_state RESET (fillfactor)",
    "ALTER TABLE endpoint_health RESET (fillfactor)",
    "ALTER TABLE fanout RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)",
    "ALTER TABLE engine_state ALTER COLUMN name TYPE TEXT COLLATE \"default\"",
    "ALTER TABLE idempotency ALTER COLUMN idempotency_key TYPE TEXT COLLATE \"default\"",
    "ALTER TABLE event_caller_id ALTER COLUMN caller_id TYPE TEXT COLLATE \"default\"",
    "ALTER TABLE event_type ALTER COLUMN name TYPE TEXT COLLATE \"default\"",
    "DROP TABLE shard",
    "DROP TABLE node",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// SQLite needs none of this: it has one process, ensured by a file lock, and orders texts by bytes.
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        match manager.get_database_backend() {
            DbBackend::Postgres => run(manager, UP).await,
            _ => Ok(()),
        }
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        match manager.get_database_backend() {
            DbBackend::Postgres => run(manager, DOWN).await,
            _ => Ok(()),
        }
    }
}
