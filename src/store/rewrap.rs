//! Rewrap: seals again every value that is sealed under an earlier master key or in an older layout. Runs beside a live
//! server, batch by batch. A value is replaced only if it is still what was read, and a row that another transaction is
//! changing is left for the next pass. An interrupted run starts again with what is left.

use data_encoding::HEXLOWER;
use entity::{idempotency, webhook, webhook_secret as secret};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
    Statement, Value,
};

use crate::domain::id::{TenantNum, WebhookId};
use crate::domain::moment::UnixMillis;
use crate::secrets::{CursorKeys, HEAD_BYTES, SealContext, SealError};

use super::audit::{self, Action, Author, Deed};
use super::decode::webhook_id_of;
use super::webhooks::{Origin, unsealed_origin};
use super::{Store, StoreError, state};

/// Values read at a time, and replaced in one transaction.
const BATCH: u64 = 128;

/// Passes over all values. Each pass finds what others have sealed meanwhile.
const LOOKS: usize = 3;

/// A column with sealed values.
#[derive(Debug, Clone, Copy)]
struct Column {
    what: &'static str,
    table: &'static str,
    column: &'static str,
    /// The key columns of a row.
    keys: &'static [&'static str],
}

const COLUMNS: [Column; 4] = [HEADERS, CREDENTIALS, SECRETS, ANSWERS];

const HEADERS: Column = Column { what: "headers", table: "webhook", column: "headers", keys: &["num"] };

const CREDENTIALS: Column = Column { what: "credentials", table: "webhook", column: "credentials", keys: &["num"] };

const SECRETS: Column = Column { what: "secrets", table: "webhook_secret", column: "sealed", keys: &["num"] };

const ANSWERS: Column =
    Column { what: "answers", table: "idempotency", column: "answer", keys: &["tenant_num", "idempotency_key"] };

/// How many values of a kind are sealed in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// `headers`, `credentials`, `secrets` or `answers`
    pub what: &'static str,
    /// Id of the key, in hex.
    pub key_id: String,
    pub layout: u8,
    pub count: u64,
    /// Whether one of this process's keys opens them.
    pub opens: bool,
    /// Whether they would be sealed differently today.
    pub is_old: bool,
}

#[derive(Debug, FromQueryResult)]
struct HeadRow {
    head: Vec<u8>,
    count: i64,
}

/// Number, id, tenant, URLs and sealed value of a webhook.
type WebhookRow = (i64, Vec<u8>, i64, String, Option<String>, Option<Vec<u8>>);

/// Number of a secret, id and tenant of its webhook, when the secret was made, and the sealed value.
type SecretRow = (i64, Vec<u8>, i64, i64, Vec<u8>);

/// A value that would be sealed differently today.
struct Old {
    keys: Vec<Value>,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// The values to replace among some rows, and where the next rows start.
struct Batch<P> {
    old: Vec<Old>,
    next: Option<P>,
}

impl Store {
    /// The ids of the keys: the master key's, then those of earlier ones.
    #[must_use]
    pub fn master_key_ids(&self) -> Vec<String> {
        self.seal().key_ids()
    }

    /// Proves to other processes on this database that one of them says this.
    #[must_use]
    pub fn vouch(&self, text: &[u8]) -> Vec<u8> {
        self.seal().vouch(text)
    }

    /// Whether a process on this database has said this.
    #[must_use]
    pub fn is_vouched(&self, text: &[u8], proof: &[u8]) -> bool {
        self.seal().is_vouched(text, proof)
    }

    /// The keys that sign the cursors of lists.
    #[must_use]
    pub fn cursor_keys(&self) -> CursorKeys {
        self.seal().cursor_keys()
    }

    /// How all sealed values are sealed.
    pub async fn sealed(&self) -> Result<Vec<Sealed>, StoreError> {
        let mut all = Vec::new();
        for Column { what, table, column, .. } in COLUMNS {
            let sql = format!(
                "SELECT substr({column}, 1, {HEAD_BYTES}) AS head, COUNT(*) AS count FROM {table} \
                 WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 1"
            );
            let statement = Statement::from_string(self.backend(), sql);
            for HeadRow { head, count } in
                HeadRow::find_by_statement(statement).all(&self.readers().for_scans()).await?
            {
                all.push(Sealed {
                    what,
                    key_id: HEXLOWER.encode(head.get(1..).unwrap_or_default()),
                    layout: head.first().copied().unwrap_or(0),
                    count: count.cast_unsigned(),
                    opens: !self.seal().is_foreign(&head),
                    is_old: self.seal().is_old(&head),
                });
            }
        }
        Ok(all)
    }

    /// Seals every value as it would be sealed today; returns how many were replaced.
    pub async fn rewrap(&self, by: &Author) -> Result<u64, StoreError> {
        self.write(async |on| {
            state::note_newest_layout(on).await?;
            let subject = self.seal().key_ids().into_iter().next().unwrap_or_default();
            audit::enter(on, by, Deed::new(Action::RewrapSecrets, None, subject), UnixMillis::now()).await
        })
        .await?;
        self.seal().bind();
        let mut replaced = 0;
        for _ in 0..LOOKS {
            let (found, done) = self.rewrap_once().await?;
            replaced += done;
            if found == done {
                break;
            }
        }
        Ok(replaced)
    }

    /// One pass: returns how many values needed to be replaced, and how many were.
    async fn rewrap_once(&self) -> Result<(u64, u64), StoreError> {
        let (mut found, mut done) = (0, 0);
        let mut take = async |column: Column, old: Vec<Old>| -> Result<(), StoreError> {
            found += old.len() as u64;
            done += self.replace(column, old).await?;
            Ok(())
        };
        let mut next = Some(0);
        while let Some(after) = next {
            let place = |tenant, webhook| SealContext::Headers { tenant, webhook };
            let batch = self.old_of_webhooks(webhook::Column::Headers, place, after).await?;
            (next, _) = (batch.next, take(HEADERS, batch.old).await?);
        }
        let mut next = Some(0);
        while let Some(after) = next {
            let place = |tenant, webhook| SealContext::Credentials { tenant, webhook };
            let batch = self.old_of_webhooks(webhook::Column::Credentials, place, after).await?;
            (next, _) = (batch.next, take(CREDENTIALS, batch.old).await?);
        }
        let mut next = Some(0);
        while let Some(after) = next {
            let batch = self.old_secrets(after).await?;
            (next, _) = (batch.next, take(SECRETS, batch.old).await?);
        }
        let mut next = Some((i64::MIN, String::new()));
        while let Some(after) = next {
            let batch = self.old_answers(after).await?;
            (next, _) = (batch.next, take(ANSWERS, batch.old).await?);
        }
        Ok((found, done))
    }

    /// For a sealed column of `webhook`, which may be null.
    async fn old_of_webhooks(
        &self,
        column: webhook::Column,
        place: fn(TenantNum, WebhookId) -> SealContext<'static>,
        after: i64,
    ) -> Result<Batch<i64>, StoreError> {
        let rows: Vec<WebhookRow> = webhook::Entity::find()
            .select_only()
            .columns([webhook::Column::Num, webhook::Column::Id, webhook::Column::TenantNum])
            .columns([webhook::Column::Url, webhook::Column::BoundUrl, column])
            .filter(webhook::Column::Num.gt(after))
            .order_by_asc(webhook::Column::Num)
            .limit(BATCH)
            .into_tuple()
            .all(self.readers())
            .await?;
        let next = rows.last().map(|(num, ..)| *num);
        let mut old = Vec::new();
        for (num, id, tenant, url, bound_url, sealed) in rows {
            if let Some(sealed) = sealed {
                let place = place(TenantNum(tenant), webhook_id_of(&id)?);
                let keys = vec![num.into()];
                old.extend(self.sealed_anew(keys, sealed, |before| {
                    let (origin, plain) = self.seal().open_for(&place, before)?;
                    // Keeps the origin that was sealed or noted, even if the row has another URL by now.
                    let origin = origin.map_or_else(|| unsealed_origin(bound_url.as_deref(), &url), Origin::from);
                    self.seal().close_for(&place, origin.as_str(), &plain)
                }));
            }
        }
        Ok(Batch { old, next })
    }

    async fn old_secrets(&self, after: i64) -> Result<Batch<i64>, StoreError> {
        let rows = secret_rows(self, after).await?;
        let next = rows.last().map(|(num, ..)| *num);
        let mut old = Vec::new();
        for (num, id, tenant, made_at, sealed) in rows {
            let (tenant, made_at) = (TenantNum(tenant), UnixMillis(made_at));
            let place = SealContext::Secret { tenant, webhook: webhook_id_of(&id)?, made_at };
            old.extend(self.sealed_anew(vec![num.into()], sealed, |before| self.closed_anew(&place, before)));
        }
        Ok(Batch { old, next })
    }

    async fn old_answers(&self, after: (i64, String)) -> Result<Batch<(i64, String)>, StoreError> {
        use idempotency::Column as Key;
        let beyond = Key::TenantNum.gt(after.0).or(Key::TenantNum.eq(after.0).and(Key::IdempotencyKey.gt(after.1)));
        let rows: Vec<(i64, String, Vec<u8>)> = idempotency::Entity::find()
            .select_only()
            .columns([Key::TenantNum, Key::IdempotencyKey, Key::Answer])
            .filter(beyond)
            .order_by_asc(Key::TenantNum)
            .order_by_asc(Key::IdempotencyKey)
            .limit(BATCH)
            .into_tuple()
            .all(self.readers())
            .await?;
        let next = rows.last().map(|(tenant, key, _)| (*tenant, key.clone()));
        let mut old = Vec::new();
        for (tenant, key, sealed) in rows {
            let place = SealContext::Answer { tenant, key: &key };
            let keys = vec![tenant.into(), key.clone().into()];
            old.extend(self.sealed_anew(keys, sealed, |before| self.closed_anew(&place, before)));
        }
        Ok(Batch { old, next })
    }

    /// `None` if the value is up to date, or if it cannot be opened; [`Store::sealed`] still counts a value that cannot
    /// be opened as old.
    fn sealed_anew(
        &self,
        keys: Vec<Value>,
        before: Vec<u8>,
        closed_anew: impl FnOnce(&[u8]) -> Result<Vec<u8>, SealError>,
    ) -> Option<Old> {
        if !self.seal().is_old(&before) || self.seal().is_foreign(&before) {
            return None;
        }
        match closed_anew(&before) {
            Ok(after) => Some(Old { keys, before, after }),
            Err(error) => {
                let error = StoreError::from(error);
                tracing::warn!(%error, "a sealed value cannot be read; it stays as it is");
                None
            }
        }
    }

    fn closed_anew(&self, place: &SealContext<'_>, before: &[u8]) -> Result<Vec<u8>, SealError> {
        self.seal().close(place, &self.seal().open(place, before)?)
    }

    /// Replaces each value, unless it was changed or another transaction is changing its row; returns how many.
    async fn replace(&self, column: Column, old: Vec<Old>) -> Result<u64, StoreError> {
        if old.is_empty() {
            return Ok(0);
        }
        let backend = self.backend();
        let Column { table, column, keys, .. } = column;
        let row: Vec<String> = keys.iter().zip(3..).map(|(key, place)| format!("{key} = ${place}")).collect();
        let row = row.join(" AND ");
        // A transaction that skips locked rows never waits for one, so it is part of no deadlock.
        let free = match backend {
            DbBackend::Postgres => {
                let names = keys.join(", ");
                format!("({names}) IN (SELECT {names} FROM {table} WHERE {row} FOR UPDATE SKIP LOCKED)")
            }
            _ => row,
        };
        let sql = format!("UPDATE {table} SET {column} = $1 WHERE {column} = $2 AND {free}");
        self.write(async |on| {
            let mut replaced = 0;
            for Old { keys, before, after } in old {
                let values: Vec<Value> = [after.into(), before.into()].into_iter().chain(keys).collect();
                let done = on.execute_raw(Statement::from_sql_and_values(backend, &sql, values)).await?;
                replaced += done.rows_affected();
            }
            Ok(replaced)
        })
        .await
    }
}

async fn secret_rows(store: &Store, after: i64) -> Result<Vec<SecretRow>, StoreError> {
    let rows = secret::Entity::find()
        .filter(secret::Column::Num.gt(after))
        .order_by_asc(secret::Column::Num)
        .limit(BATCH)
        .all(store.readers())
        .await?;
    let mut nums: Vec<i64> = rows.iter().map(|row| row.webhook_num).collect();
    nums.sort_unstable();
    nums.dedup();
    let owners: Vec<(i64, Vec<u8>, i64)> = webhook::Entity::find()
        .select_only()
        .columns([webhook::Column::Num, webhook::Column::Id, webhook::Column::TenantNum])
        .filter(super::dialect::is_one_of(store.backend(), webhook::Column::Num, &nums))
        .into_tuple()
        .all(store.readers())
        .await?;
    let owned = |row: secret::Model| {
        let (_, id, tenant) = owners.iter().find(|(num, ..)| *num == row.webhook_num)?;
        Some((row.num, id.clone(), *tenant, row.created_at, row.sealed))
    };
    Ok(rows.into_iter().filter_map(owned).collect())
}
