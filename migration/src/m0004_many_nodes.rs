//! What several nodes need to share the work: who they are, which deliveries of a shard are in doubt, which fan-outs
//! have become visible, and which configuration has changed.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};
use sea_orm_migration::sea_orm::DbBackend;

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &[&str] = &[
    // `slot`, 0 to 255: tells the keys of the node's events from those of other nodes. `address`: where other nodes
    // reach it.
    "ALTER TABLE node ADD COLUMN slot SMALLINT, ADD COLUMN address TEXT",
    "CREATE UNIQUE INDEX node_by_slot ON node (slot)",
    // What is in doubt because an owner died: it may have sent events up to `suspect_events_to`, and rows that were due
    // by `suspect_due_to`. `log_indexed_to`: up to which event the log index covers the shard.
    "ALTER TABLE shard ADD COLUMN suspect_events_to BIGINT NOT NULL DEFAULT 0,
        ADD COLUMN suspect_due_to BIGINT NOT NULL DEFAULT 0,
        ADD COLUMN log_indexed_to BIGINT NOT NULL DEFAULT 0",
    "UPDATE shard SET
        suspect_events_to = COALESCE((SELECT value FROM engine_state WHERE name = 'suspect_events_to'), 0),
        suspect_due_to = COALESCE((SELECT value FROM engine_state WHERE name = 'suspect_due_to'), 0),
        log_indexed_to = COALESCE((SELECT value FROM engine_state WHERE name = 'log_indexed_to'), 0)",
    // The transaction that wrote the fan-out: a node that has seen all transactions up to one has missed no fan-out, in
    // whatever order they were committed.
    "ALTER TABLE fanout ADD COLUMN tx XID8 NOT NULL DEFAULT pg_current_xact_id()",
    "CREATE INDEX fanout_by_tx ON fanout (tx, event_seq, shard)",
    // A node changed a webhook, a tenant or a key; the other nodes follow. Old rows are deleted.
    "CREATE TABLE config_change (
        num {key},
        tx XID8 NOT NULL DEFAULT pg_current_xact_id(),
        kind SMALLINT NOT NULL,
        subject BIGINT NOT NULL,
        changed_at BIGINT NOT NULL
    )",
    "CREATE INDEX config_change_by_tx ON config_change (tx, num)",
];

const DOWN: &[&str] = &[
    "DROP TABLE config_change",
    "DROP INDEX fanout_by_tx",
    "ALTER TABLE fanout DROP COLUMN tx",
    "ALTER TABLE shard DROP COLUMN suspect_events_to, DROP COLUMN suspect_due_to, DROP COLUMN log_indexed_to",
    "ALTER TABLE node DROP COLUMN slot, DROP COLUMN address",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// SQLite has one process and needs none of this.
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
