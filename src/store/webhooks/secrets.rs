//! Signing secrets of webhooks: how they follow each other, and how they are stored.

use std::collections::HashMap;

use entity::webhook_secret as secret;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait, Set,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::domain::id::{SecretId, TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::operational_event::{OperationalEvent, OperationalKind};
use crate::secrets::SealContext;
use crate::store::audit::{self, Action, Author, Deed};
use crate::store::config_changes::{self, Change};
use crate::store::dialect::is_one_of;
use crate::store::idempotency::Once;
use crate::store::{Store, StoreError, operational_events};

use super::{Column, Entity, Model, Webhook};

/// Secrets of a webhook that sign at a time. Each adds a signature to every request, whose head receivers limit, and a
/// row that every activation of the endpoint opens.
pub(in crate::store) const MOST_SECRETS: u64 = 5;

/// What may be shown of a secret: never the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretInfo {
    pub id: SecretId,
    pub made_at: UnixMillis,
    /// `None` for the current secret.
    pub signs_until: Option<UnixMillis>,
}

/// Makes the answer to a rotation with an `Idempotency-Key`, of the changed webhook and of the secrets that sign.
type Answer<'a> = Box<dyn FnOnce(&Webhook, &[SecretInfo]) -> Result<Once, StoreError> + Send + 'a>;

/// A new secret for a webhook.
pub struct Rotation<'a> {
    new: &'a SecretString,
    /// Each earlier secret signs until then at the latest.
    old_until: UnixMillis,
    /// The version that the webhook must have, if the caller names one.
    only: Option<i64>,
    /// The answer for repetitions of the request, if it may be repeated.
    answer: Option<Answer<'a>>,
}

impl<'a> Rotation<'a> {
    #[must_use]
    pub fn new(new: &'a SecretString, old_until: UnixMillis) -> Self {
        Self { new, old_until, only: None, answer: None }
    }

    #[must_use]
    pub fn of_version(self, only: Option<i64>) -> Self {
        Self { only, ..self }
    }

    /// Remembers what `answer` makes, in the same transaction.
    #[must_use]
    pub fn once(self, answer: impl FnOnce(&Webhook, &[SecretInfo]) -> Result<Once, StoreError> + Send + 'a) -> Self {
        Self { answer: Some(Box::new(answer)), ..self }
    }
}

/// Result of ending a secret.
#[derive(Debug)]
pub enum SecretEnd {
    Ended(Box<Webhook>),
    /// Refused: without it nothing would be signed.
    IsCurrent,
    Unknown,
}

/// The columns behind a [`SecretInfo`].
#[derive(Debug, FromQueryResult)]
struct InfoRow {
    webhook_num: i64,
    created_at: i64,
    expires_at: Option<i64>,
}

impl Store {
    /// Makes a new secret the current one. If too many sign then, the oldest end at once. Returns the webhook's new
    /// version, and the secrets that sign.
    pub async fn rotate_secret(
        &self,
        webhook: &Webhook,
        rotation: Rotation<'_>,
        now: UnixMillis,
        by: &Author,
    ) -> Result<(Webhook, Vec<SecretInfo>), StoreError> {
        let Rotation { new, old_until, only, answer } = rotation;
        let signs_on = secret::Column::ExpiresAt.is_null().or(secret::Column::ExpiresAt.gt(old_until.0));
        self.write(async |on| {
            let row = locked(on, webhook.num).await?.filter(|row| only.is_none_or(|only| row.version == only));
            let row = row.ok_or(StoreError::Stale)?;
            secret::Entity::update_many()
                .col_expr(secret::Column::ExpiresAt, Expr::value(old_until.0))
                .filter(secret::Column::WebhookNum.eq(webhook.num.0))
                .filter(signs_on)
                .exec(on)
                .await?;
            secret::Entity::delete_many()
                .filter(secret::Column::WebhookNum.eq(webhook.num.0))
                .filter(secret::Column::ExpiresAt.lte(now.0))
                .exec(on)
                .await?;
            let made_at = newest(on, webhook.num).await?.map_or(now, |newest| now.max(UnixMillis(newest.0 + 1)));
            self.secret_row_of(webhook.num, (webhook.tenant, webhook.id), new, made_at)?.insert(on).await?;
            drop_oldest_secrets(on, webhook.num).await?;
            let deed = Deed::new(Action::RotateSecret, Some(webhook.tenant), webhook.id);
            let webhook = self.note_other_secrets(on, row, deed, now, by).await?;
            let secrets = self.secrets_on(on, &[&webhook], now).await?.remove(&webhook.num).unwrap_or_default();
            let once = answer.map(|answer| answer(&webhook, &secrets)).transpose()?;
            self.remember(on, once, now).await?;
            operational_events::write(on, &told_of_rotation(&webhook, old_until, now, by)).await?;
            Ok((webhook, secrets))
        })
        .await
    }

    /// Ends a secret that was rotated out, if the webhook is still of this version.
    pub async fn end_secret(
        &self,
        webhook: &Webhook,
        id: SecretId,
        now: UnixMillis,
        by: &Author,
    ) -> Result<SecretEnd, StoreError> {
        self.write(async |on| {
            let row = locked(on, webhook.num).await?.filter(|row| row.version == webhook.version);
            let row = row.ok_or(StoreError::Stale)?;
            let rows = secret::Entity::find().filter(secret::Column::WebhookNum.eq(webhook.num.0)).all(on).await?;
            let is_it = |row: &&secret::Model| SecretId::of(webhook.id, UnixMillis(row.created_at)) == id;
            match rows.iter().find(is_it).map(|row| (row.num, row.expires_at)) {
                None => Ok(SecretEnd::Unknown),
                Some((_, None)) => Ok(SecretEnd::IsCurrent),
                Some((_, Some(ended_at))) if ended_at <= now.0 => Ok(SecretEnd::Unknown),
                Some((num, Some(_))) => {
                    secret::Entity::delete_by_id(num).exec(on).await?;
                    let deed = Deed::new(Action::EndSecret, Some(webhook.tenant), webhook.id);
                    Ok(SecretEnd::Ended(Box::new(self.note_other_secrets(on, row, deed, now, by).await?)))
                }
            }
        })
        .await
    }

    /// The secrets that still sign, newest first, as far as they can be read.
    pub async fn secrets_of(
        &self,
        webhooks: &[&Webhook],
        now: UnixMillis,
    ) -> Result<HashMap<WebhookNum, Vec<SecretInfo>>, StoreError> {
        self.secrets_on(self.readers(), webhooks, now).await
    }

    async fn secrets_on<C: ConnectionTrait>(
        &self,
        on: &C,
        webhooks: &[&Webhook],
        now: UnixMillis,
    ) -> Result<HashMap<WebhookNum, Vec<SecretInfo>>, StoreError> {
        let nums: Vec<i64> = webhooks.iter().map(|webhook| webhook.num.0).collect();
        let query = secret::Entity::find()
            .select_only()
            .columns([secret::Column::Num, secret::Column::WebhookNum])
            .columns([secret::Column::CreatedAt, secret::Column::ExpiresAt])
            .filter(is_one_of(self.backend(), secret::Column::WebhookNum, &nums))
            .filter(secret::Column::ExpiresAt.is_null().or(secret::Column::ExpiresAt.gt(now.0)))
            .order_by_desc(secret::Column::Num);
        let key: (_, &[&str]) = ("webhook_secret", &["num"]);
        let rows: Vec<InfoRow> = self.all_readable(on, key, query.build(self.backend())).await?;
        let mut secrets: HashMap<WebhookNum, Vec<SecretInfo>> = HashMap::new();
        for InfoRow { webhook_num, created_at, expires_at } in rows {
            let Some(webhook) = webhooks.iter().find(|webhook| webhook.num.0 == webhook_num) else { continue };
            let (made_at, signs_until) = (UnixMillis(created_at), expires_at.map(UnixMillis));
            let info = SecretInfo { id: SecretId::of(webhook.id, made_at), made_at, signs_until };
            secrets.entry(webhook.num).or_default().push(info);
        }
        Ok(secrets)
    }

    /// Gives the webhook a new version, by which endpoints see the change.
    async fn note_other_secrets<C: ConnectionTrait>(
        &self,
        on: &C,
        row: Model,
        deed: Deed,
        now: UnixMillis,
        by: &Author,
    ) -> Result<Webhook, StoreError> {
        let num = WebhookNum(row.num);
        let mut row = row.into_active_model();
        row.version = Set(row.version.unwrap() + 1);
        row.updated_at = Set(now.0);
        audit::enter(on, by, deed, now).await?;
        config_changes::note(on, Change::Webhook(num)).await?;
        self.webhook_of(row.update(on).await?)
    }

    pub(in crate::store) fn open_secret(
        &self,
        place: &SealContext<'_>,
        sealed: &[u8],
    ) -> Result<SecretString, StoreError> {
        let plain = self.seal().open(place, sealed).map_err(|error| StoreError::unreadable("sealed", error))?;
        // Drops the cause: it would hold the bytes.
        let plain = String::from_utf8(plain).map_err(|_| StoreError::unreadable("sealed", "it is not text"))?;
        Ok(plain.into())
    }

    pub(super) fn secret_row_of(
        &self,
        webhook: WebhookNum,
        (tenant, id): (TenantNum, WebhookId),
        plain: &SecretString,
        now: UnixMillis,
    ) -> Result<secret::ActiveModel, StoreError> {
        let place = SealContext::Secret { tenant, webhook: id, made_at: now };
        Ok(secret::ActiveModel {
            webhook_num: Set(webhook.0),
            sealed: Set(self.seal().close(&place, plain.expose_secret().as_bytes())?),
            created_at: Set(now.0),
            expires_at: Set(None),
            ..Default::default()
        })
    }
}

/// Locks the webhook first, so that of two concurrent changes the second sees what the first has done.
async fn locked<C: ConnectionTrait>(on: &C, num: WebhookNum) -> Result<Option<Model>, StoreError> {
    let row = Entity::find_by_id(num.0).filter(Column::DeletedAt.is_null()).lock_exclusive();
    Ok(row.one(on).await?)
}

/// When the newest secret was made.
async fn newest<C: ConnectionTrait>(on: &C, of: WebhookNum) -> Result<Option<UnixMillis>, StoreError> {
    let newest = secret::Entity::find()
        .select_only()
        .column(secret::Column::CreatedAt)
        .filter(secret::Column::WebhookNum.eq(of.0))
        .order_by_desc(secret::Column::CreatedAt)
        .into_tuple::<i64>()
        .one(on)
        .await?;
    Ok(newest.map(UnixMillis))
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

fn told_of_rotation(webhook: &Webhook, old_until: UnixMillis, now: UnixMillis, by: &Author) -> OperationalEvent {
    let Webhook { id, name, tenant, .. } = webhook;
    let data = json!({
        "webhookId": id, "name": name, "oldSecretsSignUntil": old_until, "by": by.who.to_string(),
        "reason": by.reason,
    });
    OperationalEvent::new(*tenant, OperationalKind::SecretRotated, &format!("/webhooks/{id}"), data, now)
}
