//! Tenants; the API creates, lists, changes and deletes them.

use entity::tenant::{ActiveModel, Column, Entity, Model};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Set,
};
use serde_json::json;

use crate::domain::id::{TenantId, TenantNum};
use crate::domain::moment::UnixMillis;

use super::audit::{self, Action, Author, Deed};
use super::config_changes::{self, Change};
use super::idempotency::Once;
use super::{Page, Store, StoreError, event_types, webhooks};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub num: TenantNum,
    pub id: TenantId,
    pub name: String,
    /// Whether events of types that were never declared are accepted.
    pub allow_undeclared_types: bool,
    pub retention: TenantRetention,
    pub version: i64,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
}

/// How long a tenant's settled work is kept, in seconds; `None`: as long as the engine keeps that of others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantRetention {
    pub events: Option<u32>,
    pub responses: Option<u32>,
}

#[derive(Debug, Clone)]
pub struct NewTenant {
    pub id: TenantId,
    pub name: String,
    pub allow_undeclared_types: bool,
    pub retention: TenantRetention,
    pub created_at: UnixMillis,
    /// Names and descriptions of the event types that the tenant starts with.
    pub catalogue: Vec<(String, String)>,
}

impl TryFrom<Model> for Tenant {
    type Error = StoreError;

    fn try_from(row: Model) -> Result<Self, StoreError> {
        let Model {
            num,
            id,
            name,
            allow_undeclared_types,
            version,
            created_at,
            updated_at,
            deleted_at: _,
            retention_events,
            retention_responses,
        } = row;
        let retention = TenantRetention {
            events: seconds("retention_events", retention_events)?,
            responses: seconds("retention_responses", retention_responses)?,
        };
        let id = TenantId::from_bytes(&id).ok_or_else(|| StoreError::unreadable("id", "not 16 bytes"))?;
        Ok(Self {
            num: TenantNum(num),
            id,
            name,
            allow_undeclared_types,
            retention,
            version,
            created_at: UnixMillis(created_at),
            updated_at: UnixMillis(updated_at),
        })
    }
}

fn seconds(column: &'static str, value: Option<i64>) -> Result<Option<u32>, StoreError> {
    let seconds = value.map(u32::try_from).transpose();
    seconds.map_err(|error| StoreError::unreadable(column, error))
}

/// Table and key columns, by which an unreadable row is named.
const TENANT: (&str, &[&str]) = ("tenant", &["num"]);

impl Store {
    pub async fn create_tenant(&self, new: NewTenant, once: Option<Once>, by: &Author) -> Result<Tenant, StoreError> {
        self.write(async |on| {
            self.remember(on, once, new.created_at).await?;
            let row = ActiveModel {
                id: Set(new.id.bytes()),
                name: Set(new.name),
                allow_undeclared_types: Set(new.allow_undeclared_types),
                retention_events: Set(new.retention.events.map(i64::from)),
                retention_responses: Set(new.retention.responses.map(i64::from)),
                version: Set(1),
                created_at: Set(new.created_at.0),
                updated_at: Set(new.created_at.0),
                ..Default::default()
            };
            let tenant: Tenant = row.insert(on).await?.try_into()?;
            event_types::declare_all(on, tenant.num, &new.catalogue, new.created_at).await?;
            let deed = Deed::new(Action::CreateTenant, Some(tenant.num), tenant.id);
            audit::enter(on, by, deed, new.created_at).await?;
            Ok(tenant)
        })
        .await
    }

    pub async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, StoreError> {
        let found = Entity::find().filter(Column::Id.eq(id.bytes())).filter(Column::DeletedAt.is_null());
        self.one_of(TENANT, found.build(self.backend()), |row: Model| row.try_into()).await
    }

    pub async fn tenant_by_num(&self, num: TenantNum) -> Result<Option<Tenant>, StoreError> {
        let found = Entity::find_by_id(num.0).filter(Column::DeletedAt.is_null());
        self.one_of(TENANT, found.build(self.backend()), |row: Model| row.try_into()).await
    }

    /// Tenants with numbers below `before`, newest first.
    pub async fn tenants(&self, before: Option<i64>, limit: u64) -> Result<Page<Tenant>, StoreError> {
        let mut query = Entity::find().filter(Column::DeletedAt.is_null()).order_by_desc(Column::Num);
        if let Some(before) = before {
            query = query.filter(Column::Num.lt(before));
        }
        let statement = query.limit(limit + 1).build(self.backend());
        self.page_of::<Model, _>(("tenant", "num"), statement, limit, Tenant::try_from).await
    }

    /// Writes name and settings if `version` is still the stored one.
    pub async fn update_tenant(&self, tenant: &Tenant, now: UnixMillis, by: &Author) -> Result<Tenant, StoreError> {
        self.write(async |on| {
            let current = Entity::find_by_id(tenant.num.0)
                .filter(Column::Version.eq(tenant.version))
                .filter(Column::DeletedAt.is_null())
                .lock_exclusive()
                .one(on)
                .await?;
            let before = current.ok_or(StoreError::Stale)?;
            let TenantRetention { events, responses } = tenant.retention;
            let (events, responses) = (events.map(i64::from), responses.map(i64::from));
            let changed = [
                ("name", before.name != tenant.name),
                ("allowUndeclaredTypes", before.allow_undeclared_types != tenant.allow_undeclared_types),
                ("retention.eventsSeconds", before.retention_events != events),
                ("retention.responsesSeconds", before.retention_responses != responses),
            ];
            let deed = Deed::new(Action::UpdateTenant, Some(tenant.num), tenant.id).of_fields(audit::named(&changed));
            let shown = |name: &str, allows: bool, events: Option<i64>, responses: Option<i64>| {
                json!({"name": name, "allowUndeclaredTypes": allows, "retention.eventsSeconds": events,
                    "retention.responsesSeconds": responses})
            };
            let (events_before, responses_before) = (before.retention_events, before.retention_responses);
            let old = shown(&before.name, before.allow_undeclared_types, events_before, responses_before);
            let new = shown(&tenant.name, tenant.allow_undeclared_types, events, responses);
            let deed = deed.with_values(&old, &new);
            audit::enter(on, by, deed, now).await?;
            let mut row = before.into_active_model();
            row.name = Set(tenant.name.clone());
            row.allow_undeclared_types = Set(tenant.allow_undeclared_types);
            row.retention_events = Set(events);
            row.retention_responses = Set(responses);
            row.version = Set(tenant.version + 1);
            row.updated_at = Set(now.0);
            config_changes::note(on, Change::Tenant(tenant.num)).await?;
            row.update(on).await?.try_into()
        })
        .await
    }

    /// Deletes the tenant with its keys and webhooks. The caller purges what the webhooks are owed.
    pub async fn delete_tenant(&self, tenant: &Tenant, now: UnixMillis, by: &Author) -> Result<(), StoreError> {
        self.write(async |on| {
            // First: a transaction that adds something to the tenant has committed by now, or finds the tenant deleted.
            let deleted = Entity::update_many()
                .col_expr(Column::DeletedAt, Expr::value(now.0))
                .filter(Column::Num.eq(tenant.num.0))
                .filter(Column::Version.eq(tenant.version))
                .exec(on)
                .await?;
            if deleted.rows_affected == 0 {
                return Err(StoreError::Stale);
            }
            let keys = entity::api_key::Entity::delete_many();
            keys.filter(entity::api_key::Column::TenantNum.eq(tenant.num.0)).exec(on).await?;
            webhooks::delete_all_of(on, tenant.num, now).await?;
            audit::enter(on, by, Deed::new(Action::DeleteTenant, Some(tenant.num), tenant.id), now).await?;
            Ok(config_changes::note(on, Change::TenantDeleted(tenant.num)).await?)
        })
        .await
    }
}
