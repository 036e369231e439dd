//! Configuration, events and what is owed.
//!
//! Times are Unix milliseconds. `event.seq` contains the time of acceptance, and ids of deliveries and attempts are
//! derived from row keys, so none of these has a column. Events and everything that belongs to them are clustered by
//! event: a batch of the journal then appends to the end of each table instead of touching a page per webhook.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &[&str] = &[
    "CREATE TABLE tenant (
        num {key},
        id {bytes} NOT NULL UNIQUE,
        name TEXT NOT NULL,
        allow_undeclared_types BOOLEAN NOT NULL,
        version BIGINT NOT NULL,
        created_at BIGINT NOT NULL,
        updated_at BIGINT NOT NULL,
        deleted_at BIGINT
    )",
    // `tenant_num` is null for an admin key.
    "CREATE TABLE api_key (
        num {key},
        id {bytes} NOT NULL UNIQUE,
        tenant_num BIGINT,
        name TEXT NOT NULL,
        scopes TEXT NOT NULL,
        digest {bytes} NOT NULL,
        created_at BIGINT NOT NULL
    )",
    // `headers` is sealed; `policy` is JSON, whose missing members have their defaults.
    "CREATE TABLE webhook (
        num {key},
        id {bytes} NOT NULL UNIQUE,
        tenant_num BIGINT NOT NULL,
        name TEXT NOT NULL,
        url TEXT NOT NULL,
        events TEXT NOT NULL,
        headers {bytes} NOT NULL,
        policy TEXT NOT NULL,
        description TEXT,
        metadata TEXT,
        is_active BOOLEAN NOT NULL,
        inactive_reason TEXT,
        version BIGINT NOT NULL,
        created_at BIGINT NOT NULL,
        updated_at BIGINT NOT NULL,
        deleted_at BIGINT
    )",
    "CREATE INDEX webhook_by_tenant ON webhook (tenant_num, num)",
    // `expires_at` is null for the current secret.
    "CREATE TABLE webhook_secret (
        num {key},
        webhook_num BIGINT NOT NULL,
        sealed {bytes} NOT NULL,
        created_at BIGINT NOT NULL,
        expires_at BIGINT
    )",
    "CREATE INDEX webhook_secret_by_webhook ON webhook_secret (webhook_num)",
    "CREATE TABLE event_type (
        tenant_num BIGINT NOT NULL,
        name TEXT NOT NULL,
        description TEXT,
        version BIGINT NOT NULL,
        created_at BIGINT NOT NULL,
        updated_at BIGINT NOT NULL,
        PRIMARY KEY (tenant_num, name)
    ){clustered}",
    // `body` is the exact text that every webhook is sent.
    "CREATE TABLE event (
        seq {given_key},
        tenant_num BIGINT NOT NULL,
        kind TEXT NOT NULL,
        occurred_at BIGINT NOT NULL,
        caller_id TEXT,
        matched BIGINT NOT NULL,
        body {bytes} NOT NULL
    )",
    "CREATE INDEX event_by_tenant ON event (tenant_num, seq)",
    "CREATE TABLE event_caller_id (
        tenant_num BIGINT NOT NULL,
        caller_id TEXT NOT NULL,
        event_seq BIGINT NOT NULL,
        digest {bytes} NOT NULL,
        PRIMARY KEY (tenant_num, caller_id)
    ){clustered}",
    // `targets`: the webhook numbers, ascending, as LEB128 deltas.
    "CREATE TABLE fanout (
        event_seq BIGINT NOT NULL,
        shard SMALLINT NOT NULL,
        targets {bytes} NOT NULL,
        PRIMARY KEY (event_seq, shard)
    ){clustered}",
    // `tries` counts automatic attempts, `attempts` all of them. `manual_from` is set while a manual retry is pending:
    // the status to fall back to if it fails, with `manual_next_at` as the next attempt then.
    "CREATE TABLE delivery (
        event_seq BIGINT NOT NULL,
        webhook_num BIGINT NOT NULL,
        status SMALLINT NOT NULL,
        attempts SMALLINT NOT NULL,
        tries SMALLINT NOT NULL,
        next_at BIGINT,
        settled_at BIGINT,
        manual_from SMALLINT,
        manual_next_at BIGINT,
        PRIMARY KEY (event_seq, webhook_num)
    ){clustered}",
    // A delivery that is inserted as a success touches none of these indexes.
    "CREATE INDEX delivery_due ON delivery (webhook_num, next_at, event_seq) WHERE status = 0",
    "CREATE INDEX delivery_pending ON delivery (webhook_num, event_seq) WHERE status = 0",
    "CREATE INDEX delivery_failed ON delivery (webhook_num, event_seq) WHERE status = 2",
    "CREATE TABLE attempt (
        event_seq BIGINT NOT NULL,
        webhook_num BIGINT NOT NULL,
        number SMALLINT NOT NULL,
        reason SMALLINT NOT NULL,
        started_at BIGINT NOT NULL,
        duration_us BIGINT NOT NULL,
        head_us BIGINT,
        status_code SMALLINT,
        outcome SMALLINT NOT NULL,
        error TEXT,
        response_headers TEXT,
        response_body {bytes},
        PRIMARY KEY (event_seq, webhook_num, number)
    ){clustered}",
    // Follows `delivery` in large sorted batches; see docs/decisions.
    "CREATE TABLE delivery_log (
        webhook_num BIGINT NOT NULL,
        event_seq BIGINT NOT NULL,
        PRIMARY KEY (webhook_num, event_seq)
    ){clustered}",
    // Answers to requests that carried an Idempotency-Key; `answer` is sealed. Tenant 0 stands for the admin.
    "CREATE TABLE idempotency (
        tenant_num BIGINT NOT NULL,
        idempotency_key TEXT NOT NULL,
        fingerprint {bytes} NOT NULL,
        status SMALLINT NOT NULL,
        answer {bytes} NOT NULL,
        created_at BIGINT NOT NULL,
        PRIMARY KEY (tenant_num, idempotency_key)
    ){clustered}",
    "CREATE INDEX idempotency_by_age ON idempotency (created_at)",
    // Single values, such as how far the log index has followed and whether the last stop was clean.
    "CREATE TABLE engine_state (
        name TEXT NOT NULL PRIMARY KEY,
        value BIGINT NOT NULL
    )",
];

const TABLES: &[&str] = &[
    "engine_state",
    "idempotency",
    "delivery_log",
    "attempt",
    "delivery",
    "fanout",
    "event_caller_id",
    "event",
    "event_type",
    "webhook_secret",
    "webhook",
    "api_key",
    "tenant",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in TABLES {
            run(manager, &[&format!("DROP TABLE {table}")]).await?;
        }
        Ok(())
    }
}
