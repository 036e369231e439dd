//! Webhooks as backlogs and metrics show them: who they are and how they stand. Neither secrets, headers nor credentials
//! are read, so that a long list opens no seal.

use std::collections::HashMap;

use entity::endpoint_health;
use sea_orm::{DbBackend, FromQueryResult, Statement};

use crate::clock::UnixMillis;
use crate::id::{TenantNum, WebhookId, WebhookNum};
use crate::store::dialect::{is_any_of, numbers};
use crate::store::health::Health;
use crate::store::{Store, StoreError};

use super::{json, webhook_id_of};

/// Webhooks of one statement.
const CHUNK: usize = 500;

/// What a backlog says of its webhook.
#[derive(Debug, Clone)]
pub struct WebhookSummary {
    pub num: WebhookNum,
    pub id: WebhookId,
    pub tenant: TenantNum,
    pub name: String,
    /// What the owner chose of limits and retries; the store does not look inside.
    pub policy: serde_json::Value,
    pub is_active: bool,
    /// Why the engine switched it off, if it did.
    pub inactive_reason: Option<String>,
    /// Since when an operator holds its deliveries back.
    pub paused_at: Option<UnixMillis>,
    pub health: Health,
}

#[derive(Debug, FromQueryResult)]
struct SummaryRow {
    num: i64,
    id: Vec<u8>,
    tenant_num: i64,
    name: String,
    policy: String,
    is_active: bool,
    inactive_reason: Option<String>,
    paused_at: Option<i64>,
    #[sea_orm(nested)]
    health: Option<endpoint_health::Model>,
}

fn summaries_sql(backend: DbBackend) -> String {
    let is_chosen = is_any_of(backend, "w.num", "$1");
    format!(
        "SELECT w.num, w.id, w.tenant_num, w.name, w.policy, w.is_active, w.inactive_reason, w.paused_at, \
         h.webhook_num, h.consecutive_failures, h.openings, h.open_until, h.opened_at, h.last_failure, \
         h.failing_since, h.warned_at, h.last_error_at, h.last_error_outcome, h.last_error_status, \
         h.last_error_text, h.last_error_event, h.last_success_at \
         FROM webhook w LEFT JOIN endpoint_health h ON h.webhook_num = w.num \
         WHERE {is_chosen} AND w.deleted_at IS NULL"
    )
}

impl Store {
    /// These webhooks; those that are deleted are missing, and so are those that cannot be read, which the log names.
    pub async fn webhook_summaries(
        &self,
        nums: &[WebhookNum],
    ) -> Result<HashMap<WebhookNum, WebhookSummary>, StoreError> {
        let (backend, mut summaries) = (self.backend(), HashMap::with_capacity(nums.len()));
        for some in nums.chunks(CHUNK) {
            let values = [numbers(backend, some.iter().map(|num| num.0))];
            let statement = Statement::from_sql_and_values(backend, summaries_sql(backend), values);
            let rows: Vec<SummaryRow> = self.all_readable(self.readers(), ("webhook", &["num"]), statement).await?;
            for row in rows {
                let num = WebhookNum(row.num);
                match WebhookSummary::try_from(row) {
                    Ok(summary) => _ = summaries.insert(num, summary),
                    Err(error) => self.pass_over("webhook", num.0, error),
                }
            }
        }
        Ok(summaries)
    }
}

impl TryFrom<SummaryRow> for WebhookSummary {
    type Error = StoreError;

    fn try_from(row: SummaryRow) -> Result<Self, StoreError> {
        let SummaryRow { num, id, tenant_num, name, policy, is_active, inactive_reason, paused_at, health } = row;
        Ok(Self {
            num: WebhookNum(num),
            id: webhook_id_of(&id)?,
            tenant: TenantNum(tenant_num),
            name,
            policy: json("policy", &policy)?,
            is_active,
            inactive_reason,
            paused_at: paused_at.map(UnixMillis),
            health: health.map(Health::from).unwrap_or_default(),
        })
    }
}
