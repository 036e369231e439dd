//! What the engine needs of webhooks to serve them.

use std::collections::{HashMap, HashSet};

use entity::webhook::{Column, Entity, Model};
use entity::{delivery, webhook_secret as secret};
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::clock::UnixMillis;
use crate::id::WebhookNum;

use super::dialect::is_one_of;
use super::health::{self, Health};
use super::webhooks::Webhook;
use super::{Store, StoreError};

/// What an endpoint needs of its webhook.
#[derive(Debug, Clone)]
pub struct Serving {
    pub webhook: Webhook,
    /// Those that still sign, newest first.
    pub secrets: Vec<String>,
    /// When the first of them ends.
    pub secrets_change_at: Option<UnixMillis>,
    /// Whether any delivery waits for it as a row.
    pub has_pending_rows: bool,
    pub health: Health,
}

impl Store {
    /// What endpoints need to serve these webhooks. Deleted ones are missing; one that cannot be read is an error of
    /// its own, so that the others are served.
    pub async fn servings(
        &self,
        nums: &[WebhookNum],
        now: UnixMillis,
    ) -> Result<HashMap<WebhookNum, Result<Serving, StoreError>>, StoreError> {
        let keys: Vec<i64> = nums.iter().map(|num| num.0).collect();
        let rows = Entity::find()
            .filter(is_one_of(self.backend(), Column::Num, &keys))
            .filter(Column::DeletedAt.is_null())
            .all(self.engine_readers())
            .await?;
        let mut secrets = secret::Entity::find()
            .filter(is_one_of(self.backend(), secret::Column::WebhookNum, &keys))
            .order_by_desc(secret::Column::Num)
            .all(self.engine_readers())
            .await?;
        secrets.retain(|row| row.expires_at.is_none_or(|at| at > now.0));
        let mut secrets_of: HashMap<i64, Vec<secret::Model>> = HashMap::new();
        for row in secrets {
            secrets_of.entry(row.webhook_num).or_default().push(row);
        }
        let pending = self.with_pending_rows(&keys).await?;
        let health: HashMap<WebhookNum, Health> = health::of(self.engine_readers(), &keys).await?.into_iter().collect();
        let serving = |row: Model| {
            let num = WebhookNum(row.num);
            let (secrets, has_rows) = (secrets_of.remove(&num.0).unwrap_or_default(), pending.contains(&num.0));
            (num, self.serving_of(row, &secrets, has_rows, health.get(&num).copied().unwrap_or_default()))
        };
        Ok(rows.into_iter().map(serving).collect())
    }

    /// `secrets` are those that sign, newest first.
    fn serving_of(
        &self,
        row: Model,
        secrets: &[secret::Model],
        has_pending_rows: bool,
        health: Health,
    ) -> Result<Serving, StoreError> {
        let webhook = self.webhook_of(row)?;
        let mut serving = Serving { webhook, secrets: Vec::new(), secrets_change_at: None, has_pending_rows, health };
        for row in secrets {
            serving.secrets.push(self.open_secret(serving.webhook.id, &row.sealed)?);
            let earlier = [serving.secrets_change_at, row.expires_at.map(UnixMillis)].into_iter().flatten().min();
            serving.secrets_change_at = earlier;
        }
        Ok(serving)
    }

    async fn with_pending_rows(&self, nums: &[i64]) -> Result<HashSet<i64>, StoreError> {
        let pending = Query::select()
            .expr(Expr::val(1))
            .from(delivery::Entity)
            // Spelled out: the index of due rows is partial, and a bound value does not select it.
            .and_where(Expr::cust("delivery.status = 0"))
            .and_where(Expr::col((delivery::Entity, delivery::Column::WebhookNum)).equals((Entity, Column::Num)))
            .to_owned();
        let query = Entity::find()
            .select_only()
            .column(Column::Num)
            .filter(is_one_of(self.backend(), (Entity, Column::Num), nums))
            .filter(Expr::exists(pending));
        let found: Vec<i64> = query.into_tuple().all(self.engine_readers()).await?;
        Ok(found.into_iter().collect())
    }
}
