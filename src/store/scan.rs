//! Reads every row of every table once, and reports the rows that cannot be read. For `posthaste check`, on a database
//! that may be in use.

use entity::{
    api_key, attempt, audit, delivery, endpoint_health, engine_state, event, event_type, fanout, idempotency,
    operation, operation_item, tenant, webhook,
};
use futures_util::StreamExt;
use sea_orm::{DbBackend, EntityTrait, FromQueryResult, QueryResult, QueryTrait, Statement, StreamTrait};
use serde::de::IgnoredAny;

use crate::domain::health::SuspensionCause;
use crate::domain::id::TenantNum;
use crate::domain::moment::UnixMillis;
use crate::domain::operation::Operation;
use crate::domain::outcome::OutcomeKind;
use crate::domain::policy::Policy;
use crate::domain::request::SentRequest;
use crate::secrets::SealContext;

use super::audit::entry_of;
use super::decode::{json, shard_of, webhook_id_of};
use super::deliveries::{attempt_of, state_of_row};
use super::keys::ApiKey;
use super::operations::item_state_of;
use super::pool::Transaction;
use super::tenants::Tenant;
use super::unreadable::{key_of, webhook_id_in};
use super::{Store, StoreError, operational_events, targets};

/// Bytes of a SHA-256.
const DIGEST: usize = 32;

/// Unreadable rows reported by name. Further ones are only counted.
const NAMED: usize = 100;

/// Tables that are checked by the types of their columns alone, or nearly so: name, key, columns.
const PLAIN: [(&str, &[&str], &str); 3] = [
    ("event_caller_id", &["tenant_num", "caller_id"], "tenant_num, caller_id, event_seq, digest"),
    ("delivery_log", &["webhook_num", "event_seq"], "webhook_num, event_seq"),
    ("operational_event", &["num"], "num, tenant_num, kind, data, at"),
];

/// Nothing reads the secrets of a deleted webhook.
const SECRETS: &str = "SELECT s.num, s.sealed, s.created_at, s.expires_at, w.tenant_num, w.id \
                       FROM webhook_secret s JOIN webhook w ON w.num = s.webhook_num WHERE w.deleted_at IS NULL";

/// Nothing reads the health of a deleted webhook.
const HEALTHS: &str = "SELECT h.* FROM endpoint_health h LEFT JOIN webhook w ON w.num = h.webhook_num \
                       WHERE w.deleted_at IS NULL";

#[derive(FromQueryResult)]
struct SecretRow {
    sealed: Vec<u8>,
    created_at: i64,
    #[expect(dead_code, reason = "decoded to check its type")]
    expires_at: Option<i64>,
    tenant_num: i64,
    id: Vec<u8>,
}

/// Whether a text is a scope of keys, which the API knows.
type IsScope = fn(&str) -> bool;

struct Scan<'a> {
    on: &'a Transaction,
    backend: DbBackend,
    found: Vec<String>,
    more: usize,
}

impl Store {
    /// The rows that cannot be read, each with its table, its key, and why.
    pub async fn unreadable(&self, is_scope: IsScope) -> Result<Vec<String>, StoreError> {
        let moment = self.readers().for_scans().begin_moment().await?;
        let mut scan = Scan { on: &moment, backend: self.backend(), found: Vec::new(), more: 0 };
        self.scan_configuration(&mut scan, is_scope).await?;
        scan_events(&mut scan).await?;
        if self.is_clustered() {
            scan_nodes(&mut scan).await?;
        }
        let Scan { mut found, more, .. } = scan;
        if more > 0 {
            found.push(format!("and {more} more"));
        }
        moment.commit().await?;
        Ok(found)
    }

    /// Of a deleted webhook, nothing but the id is read any more.
    fn judge_webhook(&self, row: &QueryResult) -> Result<(), StoreError> {
        if column::<Option<i64>>(row, "deleted_at")?.is_some() {
            return webhook_id_of(&column::<Vec<u8>>(row, "id")?).map(drop);
        }
        let row: webhook::Model = read(row)?;
        if self.opens_seals() {
            return self.webhook_of(row).map(drop);
        }
        webhook_id_of(&row.id)?;
        json::<Vec<String>>("events", &row.events)?;
        row.public_headers.map_or(Ok(()), |names| json::<Vec<String>>("public_headers", &names).map(drop))?;
        row.metadata.map_or(Ok(()), |metadata| json::<IgnoredAny>("metadata", &metadata).map(drop))?;
        json::<Policy>("policy", &row.policy).map(drop)
    }

    /// Without a master key only the rest of a row is checked.
    fn opens_seals(&self) -> bool {
        !self.master_key_ids().is_empty()
    }

    async fn scan_configuration(&self, scan: &mut Scan<'_>, is_scope: IsScope) -> Result<(), StoreError> {
        scan.table::<tenant::Entity>("tenant", &["num"], |row| Tenant::try_from(row).map(drop)).await?;
        scan.table::<api_key::Entity>("api_key", &["num"], |row| judge_key(row, is_scope)).await?;
        let webhooks = webhook::Entity::find().build(self.backend());
        scan.run("webhook", &["num"], webhooks, |row| self.judge_webhook(row)).await?;
        scan.rows("webhook_secret", &["num"], SECRETS, |row| {
            let SecretRow { sealed, created_at, tenant_num, id, .. } = read(row)?;
            let (tenant, webhook) = (TenantNum(tenant_num), webhook_id_of(&id)?);
            if !self.opens_seals() {
                return Ok(());
            }
            self.open_secret(&SealContext::Secret { tenant, webhook, made_at: UnixMillis(created_at) }, &sealed)
                .map(drop)
        })
        .await?;
        scan.table::<event_type::Entity>("event_type", &["tenant_num", "name"], |_| Ok(())).await?;
        scan.table::<idempotency::Entity>("idempotency", &["tenant_num", "idempotency_key"], |row| {
            if !self.opens_seals() {
                return Ok(());
            }
            let place = SealContext::Answer { tenant: row.tenant_num, key: &row.idempotency_key };
            let opened = self.seal().open(&place, &row.answer);
            opened.map(drop).map_err(|error| StoreError::unreadable("answer", error))
        })
        .await?;
        scan.table::<audit::Entity>("audit", &["num"], |row| entry_of(row).map(drop)).await?;
        scan.table::<operation::Entity>("operation", &["num"], |row| Operation::try_from(row).map(drop)).await?;
        scan.table::<operation_item::Entity>("operation_item", &["operation", "webhook_num", "event_seq"], |row| {
            item_state_of(row.state).map(drop)
        })
        .await?;
        scan.rows("endpoint_health", &["webhook_num"], HEALTHS, |row| judge_health(read(row)?)).await?;
        scan.table::<engine_state::Entity>("engine_state", &["name"], |_| Ok(())).await
    }
}

fn judge_key(row: api_key::Model, is_scope: IsScope) -> Result<(), StoreError> {
    let key = ApiKey::try_from(row)?;
    if key.digest.len() != DIGEST {
        return Err(StoreError::unreadable("digest", "not 32 bytes"));
    }
    let unknown = key.scopes.iter().find(|scope| !is_scope(scope));
    unknown.map_or(Ok(()), |scope| Err(StoreError::unreadable("scopes", format_args!("{scope:?} is none"))))
}

fn judge_health(row: endpoint_health::Model) -> Result<(), StoreError> {
    let codes = [("last_failure", row.last_failure), ("last_error_outcome", row.last_error_outcome)];
    let is_unknown = |code: &i16| OutcomeKind::from_code(*code).is_none();
    let unknown = codes.into_iter().find_map(|(column, code)| Some((column, code.filter(is_unknown)?)));
    if let Some((column, code)) = unknown {
        return Err(StoreError::unreadable(column, code));
    }
    let unknown_cause = row.suspension_cause.filter(|code| SuspensionCause::from_code(*code).is_none());
    unknown_cause.map_or(Ok(()), |code| Err(StoreError::unreadable("suspension_cause", code)))
}

async fn scan_events(scan: &mut Scan<'_>) -> Result<(), StoreError> {
    scan.table::<event::Entity>("event", &["seq"], |row| {
        if row.erased_at.is_some() {
            return Ok(());
        }
        serde_json::from_slice::<IgnoredAny>(&row.body).map(drop).map_err(|error| StoreError::unreadable("body", error))
    })
    .await?;
    scan.table::<fanout::Entity>("fanout", &["event_seq", "shard"], |row| {
        shard_of(row.shard)?;
        targets::count(&row.targets).map(drop)
    })
    .await?;
    scan.table::<delivery::Entity>("delivery", &["event_seq", "webhook_num"], |row| state_of_row(&row).map(drop))
        .await?;
    let key = &["event_seq", "webhook_num", "number"];
    scan.table::<attempt::Entity>("attempt", key, |row| {
        let request = row.request.clone().map(SentRequest::try_new).transpose();
        request.map_err(|error| StoreError::unreadable("request", error))?;
        attempt_of(row).map(drop)
    })
    .await?;
    for (table, key, columns) in PLAIN {
        scan.rows(table, key, &format!("SELECT {columns} FROM {table}"), |row| match table {
            "event_caller_id" => {
                let digest: Vec<u8> = column(row, "digest")?;
                let is_whole = digest.len() == DIGEST;
                is_whole.then_some(()).ok_or_else(|| StoreError::unreadable("digest", "not 32 bytes"))
            }
            "operational_event" => {
                let _: (i64, i64) = (column(row, "tenant_num")?, column(row, "at")?);
                operational_events::judge(&column::<String>(row, "kind")?, &column::<String>(row, "data")?)
            }
            _ => column::<i64>(row, "event_seq").map(drop),
        })
        .await?;
    }
    Ok(())
}

async fn scan_nodes(scan: &mut Scan<'_>) -> Result<(), StoreError> {
    let sql = "SELECT num, owner, epoch FROM shard";
    scan.rows("shard", &["num"], sql, |row| shard_of(column(row, "num")?).map(drop)).await?;
    let sql = "SELECT num, name, slot FROM node";
    scan.rows("node", &["num"], sql, |row| {
        let slot: Option<i16> = column(row, "slot")?;
        let is_one = slot.is_none_or(|slot| u8::try_from(slot).is_ok());
        is_one.then_some(()).ok_or_else(|| StoreError::unreadable("slot", "not 0 to 255"))
    })
    .await?;
    let sql = "SELECT num, kind, subject, changed_at FROM config_change";
    scan.rows("config_change", &["num"], sql, |row| column::<i16>(row, "kind").map(drop)).await
}

impl Scan<'_> {
    async fn table<E: EntityTrait>(
        &mut self,
        table: &str,
        key: &[&str],
        read_model: impl Fn(E::Model) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let statement = E::find().build(self.backend);
        self.run(table, key, statement, |row| read_model(read(row)?)).await
    }

    async fn rows(
        &mut self,
        table: &str,
        key: &[&str],
        sql: &str,
        read_row: impl Fn(&QueryResult) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.run(table, key, Statement::from_string(self.backend, sql), read_row).await
    }

    async fn run(
        &mut self,
        table: &str,
        key: &[&str],
        statement: Statement,
        read_row: impl Fn(&QueryResult) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut rows = self.on.stream_raw(statement).await?;
        while let Some(row) = rows.next().await {
            let row = row?;
            match read_row(&row) {
                Ok(()) => {}
                Err(_) if self.found.len() >= NAMED => self.more += 1,
                Err(error) => self.found.push(found(table, &row, key, error)),
            }
        }
        Ok(())
    }
}

/// Names the row: table, key, the public id of its webhook, and the column, as far as they are known.
fn found(table: &str, row: &QueryResult, key: &[&str], error: StoreError) -> String {
    let id = webhook_id_in(row).filter(|_| table.starts_with("webhook"));
    let id = id.map_or_else(String::new, |id| format!(" ({id})"));
    let row = format!("{table} {}{id}", key_of(row, key));
    match error {
        StoreError::Unreadable { what, why, .. } => format!("{row}, {what}: {why}"),
        error => format!("{row}: {error}"),
    }
}

fn read<T: FromQueryResult>(row: &QueryResult) -> Result<T, StoreError> {
    Ok(T::from_query_result(row, "")?)
}

fn column<T: sea_orm::TryGetable>(row: &QueryResult, name: &str) -> Result<T, StoreError> {
    Ok(row.try_get("", name)?)
}
