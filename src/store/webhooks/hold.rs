//! Pauses and resumes a webhook. Neither needs to read the row, so that both work for a row that cannot be read.

use entity::webhook::{Column, Entity};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect, QueryTrait,
};
use serde_json::json;

use crate::domain::id::{TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::operational_event::{OperationalEvent, OperationalKind};
use crate::store::audit::{self, Action, Author, Deed};
use crate::store::config_changes::{self, Change};
use crate::store::{Store, StoreError, operational_events};

use super::Webhook;

/// The parts of a webhook by which it is found, paused and deleted. They suffice if the rest of its row cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookRef {
    pub num: WebhookNum,
    pub id: WebhookId,
    pub tenant: TenantNum,
    /// `None` if it cannot be read.
    pub version: Option<i64>,
}

impl From<&Webhook> for WebhookRef {
    fn from(webhook: &Webhook) -> Self {
        let Webhook { num, id, tenant, version, .. } = *webhook;
        Self { num, id, tenant, version: Some(version) }
    }
}

impl Store {
    /// `None` if there is no such webhook.
    pub async fn webhook_ref(&self, tenant: TenantNum, id: WebhookId) -> Result<Option<WebhookRef>, StoreError> {
        let query = Entity::find()
            .select_only()
            .columns([Column::Num, Column::Version])
            .filter(Column::Id.eq(id.bytes()))
            .filter(Column::TenantNum.eq(tenant.0))
            .filter(Column::DeletedAt.is_null());
        let Some(row) = self.readers().query_one_raw(query.build(self.backend())).await? else { return Ok(None) };
        let (num, version) = (WebhookNum(row.try_get("", "num")?), row.try_get("", "version").ok());
        Ok(Some(WebhookRef { num, id, tenant, version }))
    }

    /// Answers whether the webhook was not paused before. If `only` is given, the webhook must have that version.
    pub async fn pause_webhook(
        &self,
        webhook: impl Into<WebhookRef>,
        only: Option<i64>,
        now: UnixMillis,
        by: &Author,
    ) -> Result<bool, StoreError> {
        self.set_paused((webhook.into(), only), true, now, by).await
    }

    /// Answers whether the webhook was paused before. If `only` is given, the webhook must have that version.
    pub async fn resume_webhook(
        &self,
        webhook: impl Into<WebhookRef>,
        only: Option<i64>,
        now: UnixMillis,
        by: &Author,
    ) -> Result<bool, StoreError> {
        self.set_paused((webhook.into(), only), false, now, by).await
    }

    async fn set_paused(
        &self,
        (webhook, only): (WebhookRef, Option<i64>),
        is_paused: bool,
        now: UnixMillis,
        by: &Author,
    ) -> Result<bool, StoreError> {
        let (paused_at, is_other, action, kind) = if is_paused {
            (Some(now.0), Column::PausedAt.is_null(), Action::PauseWebhook, OperationalKind::WebhookPaused)
        } else {
            (None, Column::PausedAt.is_not_null(), Action::ResumeWebhook, OperationalKind::WebhookResumed)
        };
        let [previous, current] = if is_paused { ["active", "paused"] } else { ["paused", "active"] };
        let data = json!({
            "webhookId": webhook.id, "previous": previous, "current": current, "by": by.who.to_string(),
            "reason": by.reason,
        });
        let told = OperationalEvent::new(webhook.tenant, kind, &format!("/webhooks/{}", webhook.id), data, now);
        let is_wanted = Condition::all()
            .add(Column::Num.eq(webhook.num.0))
            .add(Column::DeletedAt.is_null())
            .add_option(only.map(|version| Column::Version.eq(version)));
        self.write(async |on| {
            let changed = Entity::update_many()
                .col_expr(Column::PausedAt, Expr::value(paused_at))
                // Replaces a version that is no number.
                .col_expr(Column::Version, Expr::cust("CAST(version AS BIGINT) + 1"))
                .col_expr(Column::UpdatedAt, Expr::value(now.0))
                .filter(is_wanted.clone())
                .filter(is_other)
                .exec(on)
                .await?;
            if changed.rows_affected == 0 {
                let is_stale = only.is_some() && Entity::find().filter(is_wanted).count(on).await? == 0;
                return if is_stale { Err(StoreError::Stale) } else { Ok(false) };
            }
            audit::enter(on, by, Deed::new(action, Some(webhook.tenant), webhook.id), now).await?;
            config_changes::note(on, Change::Webhook(webhook.num)).await?;
            operational_events::write(on, &told).await?;
            Ok(true)
        })
        .await
    }
}
