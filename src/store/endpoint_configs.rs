//! Reads what the engine needs of a webhook to run its endpoint. Each webhook is read or fails by itself.

use std::collections::HashMap;

use entity::webhook;
use sea_orm::{ConnectionTrait, DbBackend, IdenStatic, Iterable, QueryResult, Statement};
use secrecy::SecretString;

use crate::domain::health::Health;
use crate::domain::id::{TenantId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::secrets::SealContext;

use super::dialect::{is_any_of, numbers};
use super::pool::Pool;
use super::unreadable::{UnreadableRow, key_of};
use super::webhooks::Webhook;
use super::{Store, StoreError};

/// What an endpoint needs of its webhook's rows.
#[derive(Debug, Clone)]
pub struct EndpointConfigRow {
    pub webhook: Webhook,
    /// The tenant's public id.
    pub tenant_id: Option<TenantId>,
    /// The secrets that still sign, newest first.
    pub secrets: Vec<SecretString>,
    /// When the first of them expires.
    pub secrets_change_at: Option<UnixMillis>,
    /// Whether the webhook has a pending row.
    pub has_pending_rows: bool,
    pub health: Health,
}

/// One statement for everything: a caller that activates a hundred endpoints waits for each row to cross threads. A
/// webhook has one row for each secret that still signs. The columns are named, because PostgreSQL refuses a prepared
/// `SELECT *` once a newer version has added a column.
fn configs_sql(backend: DbBackend) -> String {
    let is_chosen = is_any_of(backend, "w.num", "$1");
    let columns = webhook::Column::iter().map(|column| format!("w.{}", column.as_str())).collect::<Vec<_>>().join(", ");
    format!(
        "SELECT {columns}, (SELECT t.id FROM tenant t WHERE t.num = w.tenant_num) AS tenant_id, \
         s.num AS secret_num, s.sealed, s.created_at AS made_at, s.expires_at, {}, \
         EXISTS (SELECT 1 FROM delivery d WHERE d.status = 0 AND d.webhook_num = w.num) AS has_pending_rows \
         FROM webhook w \
         LEFT JOIN webhook_secret s ON s.webhook_num = w.num AND (s.expires_at IS NULL OR s.expires_at > $2) \
         LEFT JOIN endpoint_health h ON h.webhook_num = w.num \
         WHERE {is_chosen} AND w.deleted_at IS NULL ORDER BY s.num DESC",
        super::health::COLUMNS
    )
}

impl Store {
    /// What endpoints need for these webhooks. Deleted webhooks are missing. A webhook that cannot be read has an error
    /// of its own, so that the others are served.
    pub async fn endpoint_configs(
        &self,
        nums: &[WebhookNum],
        now: UnixMillis,
    ) -> Result<HashMap<WebhookNum, Result<EndpointConfigRow, StoreError>>, StoreError> {
        self.endpoint_configs_on(self.engine_readers(), nums, now).await
    }

    /// The row that keeps this webhook from being served, if one cannot be read; for the API.
    pub async fn unreadable_row_of(&self, num: WebhookNum) -> Result<Option<UnreadableRow>, StoreError> {
        let mut configs = self.endpoint_configs_on(self.readers(), &[num], UnixMillis::now()).await?;
        let error = configs.remove(&num).and_then(Result::err);
        Ok(error.map(|error| UnreadableRow::of_webhook(num, &error)))
    }

    async fn endpoint_configs_on(
        &self,
        readers: &Pool,
        nums: &[WebhookNum],
        now: UnixMillis,
    ) -> Result<HashMap<WebhookNum, Result<EndpointConfigRow, StoreError>>, StoreError> {
        let backend = self.backend();
        let values = [numbers(backend, nums.iter().map(|num| num.0)), now.0.into()];
        let statement = Statement::from_sql_and_values(backend, configs_sql(backend), values);
        let mut configs = HashMap::with_capacity(nums.len());
        for row in readers.query_all_raw(statement).await? {
            let num = WebhookNum(row.try_get("", "num")?);
            let config = self.config_of(&row, configs.remove(&num));
            configs.insert(num, config);
        }
        Ok(configs)
    }

    /// `before` holds what the rows with newer secrets said. An unreadable row is logged, and named by the error.
    fn config_of(
        &self,
        row: &QueryResult,
        before: Option<Result<EndpointConfigRow, StoreError>>,
    ) -> Result<EndpointConfigRow, StoreError> {
        let mut config = match before {
            Some(before) => before?,
            None => EndpointConfigRow {
                webhook: self.webhook_in(row)?,
                tenant_id: row.try_get("", "tenant_id").ok().and_then(|id: Vec<u8>| TenantId::from_bytes(&id)),
                secrets: Vec::new(),
                secrets_change_at: None,
                has_pending_rows: row.try_get("", "has_pending_rows")?,
                health: self.health_in(row),
            },
        };
        let added = self.add_secret_in(row, &mut config);
        added.map_err(|error| {
            let key = key_of(row, &["secret_num"]);
            self.pass_over("webhook_secret", &key, &error);
            error.in_row("webhook_secret", key)
        })?;
        Ok(config)
    }

    /// Adds the secret in the row, if there is one.
    fn add_secret_in(&self, row: &QueryResult, config: &mut EndpointConfigRow) -> Result<(), StoreError> {
        let Some(sealed) = row.try_get::<Option<Vec<u8>>>("", "sealed")? else { return Ok(()) };
        let made_at = row.try_get("", "made_at").map_err(|error| StoreError::unreadable("created_at", error))?;
        let ends_at = row.try_get::<Option<i64>>("", "expires_at")?.map(UnixMillis);
        let Webhook { tenant, id, .. } = config.webhook;
        let place = SealContext::Secret { tenant, webhook: id, made_at: UnixMillis(made_at) };
        config.secrets.push(self.open_secret(&place, &sealed)?);
        config.secrets_change_at = [config.secrets_change_at, ends_at].into_iter().flatten().min();
        Ok(())
    }
}
