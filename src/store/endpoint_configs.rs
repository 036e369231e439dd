//! Reads what the engine needs of a webhook to run its endpoint. Each webhook is read or fails by itself.

use std::collections::HashMap;

use entity::webhook;
use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, IdenStatic, Iterable, QueryResult, Statement};
use secrecy::SecretString;

use crate::domain::id::{TenantId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::secrets::SealContext;

use super::dialect::{is_any_of, numbers};
use super::health::Health;
use super::pool::Pool;
use super::unreadable::key_of;
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
         s.num AS secret_num, s.sealed, s.created_at AS made_at, s.expires_at, h.webhook_num, h.consecutive_failures, h.openings, \
         h.open_until, h.opened_at, h.last_failure, h.failing_since, h.warned_at, \
         h.last_error_at, h.last_error_outcome, h.last_error_status, h.last_error_text, h.last_error_event, \
         h.last_success_at, \
         EXISTS (SELECT 1 FROM delivery d WHERE d.status = 0 AND d.webhook_num = w.num) AS has_pending_rows \
         FROM webhook w \
         LEFT JOIN webhook_secret s ON s.webhook_num = w.num AND (s.expires_at IS NULL OR s.expires_at > $2) \
         LEFT JOIN endpoint_health h ON h.webhook_num = w.num \
         WHERE {is_chosen} AND w.deleted_at IS NULL ORDER BY s.num DESC"
    )
}

#[derive(Debug, FromQueryResult)]
struct RawRow {
    #[sea_orm(nested)]
    webhook: webhook::Model,
    tenant_id: Option<Vec<u8>>,
    sealed: Option<Vec<u8>>,
    made_at: Option<i64>,
    expires_at: Option<i64>,
    has_pending_rows: bool,
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

    /// Whether this webhook is so damaged that no endpoint can serve it; for the API.
    pub async fn is_damaged(&self, num: WebhookNum) -> Result<bool, StoreError> {
        let configs = self.endpoint_configs_on(self.readers(), &[num], UnixMillis::now()).await?;
        Ok(configs.values().any(Result::is_err))
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
            let before = configs.remove(&num);
            let config = match RawRow::from_query_result(&row, "") {
                Ok(config) => self.config_of(config, self.health_in(&row), before),
                Err(error) => Err(StoreError::unreadable("webhook", error)),
            };
            if let Err(error) = &config {
                self.skip_config(&row, error);
            }
            configs.insert(num, config);
        }
        Ok(configs)
    }

    /// Logs an unreadable row under the table that is damaged.
    fn skip_config(&self, row: &QueryResult, error: &StoreError) {
        let webhook = webhook::Model::from_query_result(row, "").map_err(StoreError::from);
        if webhook.and_then(|webhook| self.webhook_of(webhook)).is_err() {
            self.pass_over_webhook(row, error);
        } else {
            self.pass_over("webhook_secret", key_of(row, &["secret_num"]), error);
        }
    }

    /// `before` holds what the rows with newer secrets said.
    fn config_of(
        &self,
        row: RawRow,
        health: Health,
        before: Option<Result<EndpointConfigRow, StoreError>>,
    ) -> Result<EndpointConfigRow, StoreError> {
        let RawRow { webhook, tenant_id, sealed, made_at, expires_at, has_pending_rows } = row;
        let mut config = match before {
            Some(before) => before?,
            None => EndpointConfigRow {
                webhook: self.webhook_of(webhook)?,
                tenant_id: tenant_id.as_deref().and_then(TenantId::from_bytes),
                secrets: Vec::new(),
                secrets_change_at: None,
                has_pending_rows,
                health,
            },
        };
        if let (Some(sealed), Some(made_at)) = (sealed, made_at) {
            let Webhook { tenant, id, .. } = config.webhook;
            let place = SealContext::Secret { tenant, webhook: id, made_at: UnixMillis(made_at) };
            config.secrets.push(self.open_secret(&place, &sealed)?);
            let ends_at = expires_at.map(UnixMillis);
            config.secrets_change_at = [config.secrets_change_at, ends_at].into_iter().flatten().min();
        }
        Ok(config)
    }
}
