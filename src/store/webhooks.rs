//! Webhooks and their signing secrets, as configuration. The API creates, changes and deletes them; the engine reads
//! them, and switches a webhook off. Never deletes what a webhook is owed.

mod bulk;
mod credentials;
mod differ;
mod hold;
mod origin;
mod routes;
mod salvage;
mod search;
pub(super) mod secrets;
mod summary;

use std::collections::BTreeMap;
use std::fmt;

use entity::webhook::{ActiveModel, Column, Entity, Model};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder,
    QueryResult, QuerySelect, QueryTrait, Set, Unchanged,
};
use secrecy::SecretString;

use crate::domain::credentials::Credentials;
use crate::domain::id::{TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::Policy;

use super::audit::{self, Action, Author, Deed};
use super::config_changes::{self, Change};
use super::decode::{json, webhook_id_of};
use super::dialect::is_one_of;
use super::health;
use super::idempotency::Once;
use super::operations::{self, NewOperation};
use super::tenant_lock;
use super::unreadable::{UnreadableRow, key_of};
use super::{Store, StoreError};

pub use self::credentials::MAX_TLS_OPTIONS;
pub(super) use self::credentials::unsealed_origin;
pub use self::hold::WebhookRef;
pub use self::origin::Origin;
pub use self::routes::{Route, Routed};
pub use self::salvage::Salvaged;
pub use self::search::{PageDraft, WebhookEntry, WebhookList, WebhookOrder, WebhookPosition};
pub use self::secrets::{Rotation, SecretEnd, SecretInfo};
pub use self::summary::WebhookSummary;

/// Webhooks per query, whose parameters are limited.
const LOOKED_UP: usize = 512;

#[derive(Clone, PartialEq)]
pub struct Webhook {
    pub num: WebhookNum,
    pub id: WebhookId,
    pub tenant: TenantNum,
    pub name: String,
    pub url: String,
    /// Subscriptions: exact types, `prefix.*`, or `*`.
    pub events: Vec<String>,
    pub headers: BTreeMap<String, String>,
    /// Names of headers whose values may be shown.
    pub public_headers: Vec<String>,
    /// Limits and retries as the owner chose them.
    pub policy: Policy,
    /// TLS options and authentication at the receiver; `None` for most.
    pub credentials: Option<Credentials>,
    /// Digest of the TLS options among the credentials; tells them from others.
    pub tls_digest: Option<Vec<u8>>,
    /// The only origin that headers and credentials may be sent to. Not the origin of `url` if only the row's URL was
    /// changed.
    pub credentials_origin: Origin,
    pub description: Option<String>,
    pub metadata: Option<serde_json::Value>,
    pub is_active: bool,
    /// Why the engine switched the webhook off, if it did.
    pub inactive_reason: Option<String>,
    /// Since when an operator has paused its deliveries.
    pub paused_at: Option<UnixMillis>,
    pub version: i64,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
}

#[derive(Clone)]
pub struct NewWebhook {
    pub id: WebhookId,
    pub tenant: TenantNum,
    pub name: String,
    pub url: String,
    pub events: Vec<String>,
    pub headers: BTreeMap<String, String>,
    pub public_headers: Vec<String>,
    pub policy: Policy,
    pub credentials: Option<Credentials>,
    /// Digest of the TLS options among the credentials; tells them from others.
    pub tls_digest: Option<Vec<u8>>,
    pub description: Option<String>,
    pub metadata: Option<serde_json::Value>,
    pub is_active: bool,
    /// The signing secret as its owner sees it.
    pub secret: SecretString,
    pub created_at: UnixMillis,
    /// Owes it the matching events that were accepted since then, too.
    pub start_from: Option<UnixMillis>,
}

/// A webhook whose row cannot be read, as a list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableWebhook {
    pub id: Option<WebhookId>,
    pub name: Option<String>,
    pub row: UnreadableRow,
}

/// Leaves out the headers, which may hold secrets.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { num, id, tenant, version, .. } = self;
        let mut shown = f.debug_struct("Webhook");
        shown
            .field("num", num)
            .field("id", id)
            .field("tenant", tenant)
            .field("version", version)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NewWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, tenant, .. } = self;
        f.debug_struct("NewWebhook").field("id", id).field("tenant", tenant).finish_non_exhaustive()
    }
}

/// Bytes of the texts of a row. The rest is small.
const SIZE: &str = "CAST(OCTET_LENGTH(events) + OCTET_LENGTH(headers) + OCTET_LENGTH(policy) \
                    + COALESCE(OCTET_LENGTH(credentials), 0) + COALESCE(OCTET_LENGTH(description), 0) \
                    + COALESCE(OCTET_LENGTH(metadata), 0) AS BIGINT)";

fn to_json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::unreadable("value", error))
}

impl Store {
    pub async fn create_webhook(
        &self,
        new: NewWebhook,
        once: Option<Once>,
        by: &Author,
    ) -> Result<Webhook, StoreError> {
        self.write(async |on| {
            tenant_lock::keep(on, new.tenant).await?;
            credentials::check_tls(on, new.tenant, new.tls_digest.as_deref()).await?;
            self.remember(on, once, new.created_at).await?;
            let row = self.row_of(&new)?.insert(on).await?;
            let owner = (new.tenant, new.id);
            self.secret_row_of(WebhookNum(row.num), owner, &new.secret, new.created_at)?.insert(on).await?;
            let deed = Deed::new(Action::CreateWebhook, Some(new.tenant), new.id);
            audit::enter(on, by, deed, new.created_at).await?;
            config_changes::note(on, Change::Webhook(WebhookNum(row.num))).await?;
            if let Some(since) = new.start_from {
                let start = NewOperation::start_of(new.tenant, new.id, new.created_at, since);
                operations::insert(on, start, by).await?;
            }
            self.webhook_of(row)
        })
        .await
    }

    /// The number of a webhook, even of a deleted one.
    pub async fn webhook_num(&self, tenant: TenantNum, id: WebhookId) -> Result<Option<WebhookNum>, StoreError> {
        let query = Entity::find()
            .select_only()
            .column(Column::Num)
            .filter(Column::Id.eq(id.bytes()))
            .filter(Column::TenantNum.eq(tenant.0));
        let num: Option<i64> = query.into_tuple().one(self.readers()).await?;
        Ok(num.map(WebhookNum))
    }

    /// The tenant that owns the webhook, unless the webhook is deleted.
    pub async fn tenant_of_webhook(&self, id: WebhookId) -> Result<Option<TenantNum>, StoreError> {
        let query = Entity::find()
            .select_only()
            .column(Column::TenantNum)
            .filter(Column::Id.eq(id.bytes()))
            .filter(Column::DeletedAt.is_null());
        let num: Option<i64> = query.into_tuple().one(self.readers()).await?;
        Ok(num.map(TenantNum))
    }

    pub async fn webhook(&self, tenant: TenantNum, id: WebhookId) -> Result<Option<Webhook>, StoreError> {
        let query = Entity::find()
            .filter(Column::Id.eq(id.bytes()))
            .filter(Column::TenantNum.eq(tenant.0))
            .filter(Column::DeletedAt.is_null());
        let row = self.readers().query_one_raw(query.build(self.backend())).await?;
        row.map(|row| self.webhook_in(&row)).transpose()
    }

    /// Writes everything that may change but the pause, if `version` is still the stored one. That replaces values
    /// which could not be read.
    pub async fn update_webhook(&self, changed: &Webhook, now: UnixMillis, by: &Author) -> Result<Webhook, StoreError> {
        self.write(async |on| {
            let query = Entity::find_by_id(changed.num.0)
                .filter(Column::Version.eq(changed.version))
                .filter(Column::DeletedAt.is_null())
                .lock_exclusive();
            let row = on.query_one_raw(query.build(self.backend())).await?.ok_or(StoreError::Stale)?;
            let Salvaged { webhook: before, lost } = self.salvage(&row)?;
            audit::enter(on, by, differ::deed(&before, changed, lost), now).await?;
            let has_other_credentials = before.credentials != changed.credentials;
            if has_other_credentials && before.tls_digest != changed.tls_digest {
                credentials::check_tls(on, changed.tenant, changed.tls_digest.as_deref()).await?;
            }
            let is_elsewhere = before.url != changed.url || has_other_credentials;
            if is_elsewhere || !before.is_active && changed.is_active {
                health::forget(on, changed.num).await?;
            }
            let mut row = ActiveModel { num: Unchanged(changed.num.0), ..Default::default() };
            let (owner, credentials) = ((changed.tenant, changed.id), changed.credentials.as_ref());
            self.seal_into(&mut row, owner, &changed.headers, credentials, &changed.credentials_origin)?;
            row.name = Set(changed.name.clone());
            row.url = Set(changed.url.clone());
            row.events = Set(to_json(&changed.events)?);
            row.public_headers = Set(names(&changed.public_headers)?);
            row.policy = Set(to_json(&changed.policy)?);
            // Also a member of the policy; the routes are read from columns alone.
            row.ordered = Set(changed.policy.ordered);
            row.tls_digest = Set(changed.tls_digest.clone());
            row.description = Set(changed.description.clone());
            row.metadata = Set(changed.metadata.as_ref().map(to_json).transpose()?);
            row.is_active = Set(changed.is_active);
            row.inactive_reason = Set(changed.inactive_reason.clone());
            row.version = Set(changed.version + 1);
            row.created_at = Set(changed.created_at.0);
            row.updated_at = Set(now.0);
            config_changes::note(on, Change::Webhook(changed.num)).await?;
            self.webhook_of(row.update(on).await?)
        })
        .await
    }

    /// Deletes the webhook, if `version` is still the stored one or cannot be read. The caller purges what it is owed.
    pub async fn delete_webhook(
        &self,
        doomed: impl Into<WebhookRef>,
        now: UnixMillis,
        by: &Author,
    ) -> Result<(), StoreError> {
        let doomed = doomed.into();
        self.write(async |on| {
            let is_this_version = doomed.version.map(|version| Column::Version.eq(version));
            let deleted = Entity::update_many()
                .col_expr(Column::DeletedAt, Expr::value(now.0))
                .col_expr(Column::IsActive, Expr::value(false))
                .filter(Column::Num.eq(doomed.num.0))
                .filter(Condition::all().add_option(is_this_version))
                .filter(Column::DeletedAt.is_null())
                .exec(on)
                .await?;
            if deleted.rows_affected == 0 {
                return Err(StoreError::Stale);
            }
            audit::enter(on, by, Deed::new(Action::DeleteWebhook, Some(doomed.tenant), doomed.id), now).await?;
            Ok(config_changes::note(on, Change::Webhook(doomed.num)).await?)
        })
        .await
    }

    /// The first `most` of these webhooks that are not deleted; `nums` must be ascending.
    pub async fn living(&self, nums: &[WebhookNum], most: usize) -> Result<Vec<(WebhookNum, WebhookId)>, StoreError> {
        let mut living = Vec::new();
        for some in nums.chunks(LOOKED_UP) {
            let some: Vec<i64> = some.iter().map(|num| num.0).collect();
            let query = Entity::find()
                .select_only()
                .columns([Column::Num, Column::Id])
                .filter(is_one_of(self.backend(), Column::Num, &some))
                .filter(Column::DeletedAt.is_null())
                .order_by_asc(Column::Num);
            let rows: Vec<(i64, Vec<u8>)> = query.into_tuple().all(self.readers()).await?;
            for (num, id) in rows {
                living.extend(self.if_readable("webhook", num, webhook_id_of(&id))?.map(|id| (WebhookNum(num), id)));
            }
            if living.len() >= most {
                break;
            }
        }
        living.truncate(most);
        Ok(living)
    }

    fn row_of(&self, new: &NewWebhook) -> Result<ActiveModel, StoreError> {
        let mut row = ActiveModel {
            id: Set(new.id.bytes()),
            tenant_num: Set(new.tenant.0),
            name: Set(new.name.clone()),
            url: Set(new.url.clone()),
            events: Set(to_json(&new.events)?),
            public_headers: Set(names(&new.public_headers)?),
            policy: Set(to_json(&new.policy)?),
            ordered: Set(new.policy.ordered),
            tls_digest: Set(new.tls_digest.clone()),
            description: Set(new.description.clone()),
            metadata: Set(new.metadata.as_ref().map(to_json).transpose()?),
            is_active: Set(new.is_active),
            version: Set(1),
            created_at: Set(new.created_at.0),
            updated_at: Set(new.created_at.0),
            ..Default::default()
        };
        let (owner, origin) = ((new.tenant, new.id), Origin::of(&new.url));
        self.seal_into(&mut row, owner, &new.headers, new.credentials.as_ref(), &origin)?;
        Ok(row)
    }

    /// Reads a webhook. One that cannot be read is passed over, and is an error.
    pub(super) fn webhook_in(&self, row: &QueryResult) -> Result<Webhook, StoreError> {
        let webhook = Model::from_query_result(row, "").map_err(StoreError::from).and_then(|row| self.webhook_of(row));
        if let Err(error @ StoreError::Unreadable { .. }) = &webhook {
            self.pass_over_webhook(row, error);
        }
        webhook.map_err(|error| error.in_row("webhook", key_of(row, &["num"])))
    }

    pub(super) fn webhook_of(&self, row: Model) -> Result<Webhook, StoreError> {
        let (id, tenant) = (webhook_id_of(&row.id)?, TenantNum(row.tenant_num));
        let credentials::Sealed { headers, credentials, origin } = self.open_of((tenant, id), &row)?;
        let Model { num, id: _, tenant_num: _, name, url, events, policy, description, metadata, .. } = row;
        let public_headers = row.public_headers.as_deref().map(|text| json("public_headers", text)).transpose()?;
        Ok(Webhook {
            num: WebhookNum(num),
            id,
            tenant,
            name,
            url,
            events: json("events", &events)?,
            headers,
            public_headers: public_headers.unwrap_or_default(),
            policy: json("policy", &policy)?,
            credentials,
            tls_digest: row.tls_digest,
            credentials_origin: origin,
            description,
            metadata: metadata.as_deref().map(|text| json("metadata", text)).transpose()?,
            is_active: row.is_active,
            inactive_reason: row.inactive_reason,
            paused_at: row.paused_at.map(UnixMillis),
            version: row.version,
            created_at: UnixMillis(row.created_at),
            updated_at: UnixMillis(row.updated_at),
        })
    }
}

/// `None` for an empty list, which most webhooks have.
fn names(names: &[String]) -> Result<Option<String>, StoreError> {
    if names.is_empty() { Ok(None) } else { to_json(&names).map(Some) }
}

pub(super) async fn delete_all_of<C: ConnectionTrait>(
    on: &C,
    tenant: TenantNum,
    now: UnixMillis,
) -> Result<(), StoreError> {
    Entity::update_many()
        .col_expr(Column::DeletedAt, Expr::value(now.0))
        .col_expr(Column::IsActive, Expr::value(false))
        .filter(Column::TenantNum.eq(tenant.0))
        .filter(Column::DeletedAt.is_null())
        .exec(on)
        .await?;
    Ok(())
}
