//! The secrets that a webhook's requests are signed with: how they follow each other, and how they are kept.

use entity::webhook_secret as secret;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Set,
};
use secrecy::{ExposeSecret, SecretString};

use crate::clock::UnixMillis;
use crate::id::{TenantNum, WebhookId, WebhookNum};
use crate::store::audit::{self, Action, Author, Deed};
use crate::store::changes::{self, Change};
use crate::store::seal::Place;
use crate::store::{Store, StoreError};

use super::{Column, Entity, Webhook};

/// Secrets of a webhook that sign at a time. Each adds a signature to every request, whose head receivers limit, and a
/// row that every start of the endpoint opens.
pub(in crate::store) const MOST_SECRETS: u64 = 5;

impl Store {
    /// Makes `new` the current secret; the ones before sign until `old_until`, and if that makes too many, the oldest
    /// end at once. Answers the webhook's new version.
    pub async fn rotate_secret(
        &self,
        webhook: &Webhook,
        new: &SecretString,
        old_until: UnixMillis,
        now: UnixMillis,
        by: &Author,
    ) -> Result<Webhook, StoreError> {
        self.write(async |on| {
            secret::Entity::update_many()
                .col_expr(secret::Column::ExpiresAt, Expr::value(old_until.0))
                .filter(secret::Column::WebhookNum.eq(webhook.num.0))
                .filter(secret::Column::ExpiresAt.is_null())
                .exec(on)
                .await?;
            secret::Entity::delete_many()
                .filter(secret::Column::WebhookNum.eq(webhook.num.0))
                .filter(secret::Column::ExpiresAt.lte(now.0))
                .exec(on)
                .await?;
            self.secret_row_of(webhook.num, (webhook.tenant, webhook.id), new, now)?.insert(on).await?;
            drop_oldest_secrets(on, webhook.num).await?;
            let row = Entity::find_by_id(webhook.num.0).filter(Column::DeletedAt.is_null()).lock_exclusive();
            let row = row.one(on).await?;
            let mut row = row.ok_or(StoreError::Stale)?.into_active_model();
            row.version = Set(row.version.unwrap() + 1);
            row.updated_at = Set(now.0);
            audit::enter(on, by, Deed::new(Action::RotateSecret, Some(webhook.tenant), webhook.id), now).await?;
            changes::note(on, Change::Webhook(webhook.num)).await?;
            self.webhook_of(row.update(on).await?)
        })
        .await
    }

    pub(in crate::store) fn open_secret(&self, place: &Place<'_>, sealed: &[u8]) -> Result<SecretString, StoreError> {
        let plain = self.seal().open(place, sealed)?;
        // What it is not is not said: the error would hold the bytes.
        let plain = String::from_utf8(plain).map_err(|_| StoreError::unreadable("secret", "it is no text"))?;
        Ok(plain.into())
    }

    pub(super) fn secret_row_of(
        &self,
        webhook: WebhookNum,
        (tenant, id): (TenantNum, WebhookId),
        plain: &SecretString,
        now: UnixMillis,
    ) -> Result<secret::ActiveModel, StoreError> {
        let place = Place::Secret { tenant, webhook: id, made_at: now };
        Ok(secret::ActiveModel {
            webhook_num: Set(webhook.0),
            sealed: Set(self.seal().close(&place, plain.expose_secret().as_bytes())?),
            created_at: Set(now.0),
            expires_at: Set(None),
            ..Default::default()
        })
    }
}

async fn drop_oldest_secrets<C: ConnectionTrait>(on: &C, of: WebhookNum) -> Result<(), StoreError> {
    let newest = secret::Entity::find()
        .select_only()
        .column(secret::Column::Num)
        .filter(secret::Column::WebhookNum.eq(of.0))
        .order_by_desc(secret::Column::Num)
        .limit(MOST_SECRETS);
    secret::Entity::delete_many()
        .filter(secret::Column::WebhookNum.eq(of.0))
        .filter(secret::Column::Num.not_in_subquery(newest.into_query()))
        .exec(on)
        .await?;
    Ok(())
}
