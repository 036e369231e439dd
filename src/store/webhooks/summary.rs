//! Webhooks as backlogs and metrics show them: their identity and their state. Reads no secrets, headers or
//! credentials, so that a long list opens no seal.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement};

use crate::domain::health::Health;
use crate::domain::id::{TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::Policy;
use crate::store::dialect::{is_any_of, numbers};
use crate::store::unreadable::UnreadableRow;
use crate::store::{Store, StoreError};

use crate::store::decode::{json, webhook_id_of};

/// Webhooks per statement.
const CHUNK: usize = 500;

/// What a backlog shows of its webhook.
#[derive(Debug, Clone)]
pub struct WebhookSummary {
    pub num: WebhookNum,
    pub id: WebhookId,
    pub tenant: TenantNum,
    pub name: String,
    /// Limits and retries as the owner chose them.
    pub policy: Policy,
    pub is_active: bool,
    /// Why the engine switched the webhook off, if it did.
    pub inactive_reason: Option<String>,
    /// Since when an operator has paused its deliveries.
    pub paused_at: Option<UnixMillis>,
    pub health: Health,
    /// The webhook's own row, if not all of this could be read. A field that could not has the value of a new webhook.
    pub unreadable: Option<UnreadableRow>,
}

fn summaries_sql(backend: DbBackend) -> String {
    let is_chosen = is_any_of(backend, "w.num", "$1");
    format!(
        "SELECT w.num, w.id, w.tenant_num, w.name, w.policy, w.is_active, w.inactive_reason, w.paused_at, {} \
         FROM webhook w LEFT JOIN endpoint_health h ON h.webhook_num = w.num \
         WHERE {is_chosen} AND w.deleted_at IS NULL",
        crate::store::health::COLUMNS
    )
}

impl Store {
    /// Deleted webhooks are missing. Of a damaged webhook the answer holds what can be read, usually its identity, so
    /// that its backlog is shown.
    pub async fn webhook_summaries(
        &self,
        nums: &[WebhookNum],
    ) -> Result<HashMap<WebhookNum, WebhookSummary>, StoreError> {
        let (backend, mut summaries) = (self.backend(), HashMap::with_capacity(nums.len()));
        for some in nums.chunks(CHUNK) {
            let values = [numbers(backend, some.iter().map(|num| num.0))];
            let statement = Statement::from_sql_and_values(backend, summaries_sql(backend), values);
            for row in self.readers().query_all_raw(statement).await? {
                match self.summary_of(&row) {
                    Ok(summary) => _ = summaries.insert(summary.num, summary),
                    Err(error) => self.pass_over_webhook(&row, error),
                }
            }
        }
        Ok(summaries)
    }

    fn summary_of(&self, row: &QueryResult) -> Result<WebhookSummary, StoreError> {
        let id: Vec<u8> = row.try_get("", "id")?;
        let mut summary = WebhookSummary {
            num: WebhookNum(row.try_get("", "num")?),
            id: webhook_id_of(&id)?,
            tenant: TenantNum(row.try_get("", "tenant_num")?),
            name: String::new(),
            policy: Policy::default(),
            is_active: true,
            inactive_reason: None,
            paused_at: None,
            health: self.health_in(row),
            unreadable: None,
        };
        if let Err(error) = summary.read_rest(row) {
            self.pass_over_webhook(row, &error);
            let error = error.in_row("webhook", summary.num.0);
            summary.unreadable = Some(UnreadableRow::of_webhook(summary.num, &error));
        }
        Ok(summary)
    }
}

impl WebhookSummary {
    /// Reads the fields in turn, up to the first that cannot be read.
    fn read_rest(&mut self, row: &QueryResult) -> Result<(), StoreError> {
        self.is_active = row.try_get("", "is_active")?;
        self.paused_at = row.try_get::<Option<i64>>("", "paused_at")?.map(UnixMillis);
        self.name = row.try_get("", "name")?;
        self.inactive_reason = row.try_get("", "inactive_reason")?;
        let policy: String = row.try_get("", "policy")?;
        self.policy = json("policy", &policy)?;
        Ok(())
    }
}
