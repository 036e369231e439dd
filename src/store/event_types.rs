//! Event types that a tenant has declared; the API creates, lists, changes and deletes them.

use std::collections::HashSet;

use entity::event_type::{ActiveModel, Column, Entity, Model};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Set,
};
use serde_json::json;

use crate::domain::id::TenantNum;
use crate::domain::moment::UnixMillis;

use super::audit::{self, Action, Author, Deed};
use super::idempotency::Once;
use super::{Store, StoreError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventType {
    pub tenant: TenantNum,
    pub name: String,
    pub description: Option<String>,
    pub version: i64,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
}

impl From<Model> for EventType {
    fn from(row: Model) -> Self {
        let Model { tenant_num, name, description, version, created_at, updated_at } = row;
        Self {
            tenant: TenantNum(tenant_num),
            name,
            description,
            version,
            created_at: UnixMillis(created_at),
            updated_at: UnixMillis(updated_at),
        }
    }
}

fn row(tenant: TenantNum, name: String, description: Option<String>, now: UnixMillis) -> ActiveModel {
    ActiveModel {
        tenant_num: Set(tenant.0),
        name: Set(name),
        description: Set(description),
        version: Set(1),
        created_at: Set(now.0),
        updated_at: Set(now.0),
    }
}

pub(super) async fn declare_all<C: ConnectionTrait>(
    on: &C,
    tenant: TenantNum,
    catalogue: &[(String, String)],
    now: UnixMillis,
) -> Result<(), StoreError> {
    let rows = catalogue.iter().map(|(name, text)| row(tenant, name.clone(), Some(text.clone()), now));
    Entity::insert_many(rows).exec_without_returning(on).await?;
    Ok(())
}

impl Store {
    pub async fn create_event_type(
        &self,
        tenant: TenantNum,
        name: String,
        description: Option<String>,
        now: UnixMillis,
        once: Option<Once>,
        by: &Author,
    ) -> Result<EventType, StoreError> {
        self.write(async |on| {
            self.remember(on, once, now).await?;
            Entity::insert(row(tenant, name.clone(), description.clone(), now)).exec_without_returning(on).await?;
            audit::enter(on, by, Deed::new(Action::CreateEventType, Some(tenant), &name), now).await?;
            Ok(EventType { tenant, name, description, version: 1, created_at: now, updated_at: now })
        })
        .await
    }

    pub async fn event_type(&self, tenant: TenantNum, name: &str) -> Result<Option<EventType>, StoreError> {
        Ok(Entity::find_by_id((tenant.0, name.to_owned())).one(self.readers()).await?.map(EventType::from))
    }

    /// Which of these types the tenant has declared.
    pub async fn declared_among(&self, tenant: TenantNum, names: &[String]) -> Result<HashSet<String>, StoreError> {
        let query = Entity::find()
            .select_only()
            .column(Column::Name)
            .filter(Column::TenantNum.eq(tenant.0))
            .filter(Column::Name.is_in(names));
        let found: Vec<String> = query.into_tuple().all(self.readers()).await?;
        Ok(found.into_iter().collect())
    }

    /// Whether the tenant has declared any type.
    pub async fn declares_any(&self, tenant: TenantNum) -> Result<bool, StoreError> {
        let query = Entity::find().select_only().column(Column::Name).filter(Column::TenantNum.eq(tenant.0)).limit(1);
        let found: Option<String> = query.into_tuple().one(self.readers()).await?;
        Ok(found.is_some())
    }

    /// Event types by name, after `after`. Returns one more than `limit` if there are more.
    pub async fn event_types(
        &self,
        tenant: TenantNum,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Vec<EventType>, StoreError> {
        let mut query = Entity::find().filter(Column::TenantNum.eq(tenant.0)).order_by_asc(Column::Name);
        if let Some(after) = after {
            query = query.filter(Column::Name.gt(after));
        }
        let (key, statement) = (["tenant_num", "name"], query.limit(limit + 1).build(self.backend()));
        let rows: Vec<Model> = self.all_readable(self.readers(), ("event_type", &key), statement).await?;
        Ok(rows.into_iter().map(EventType::from).collect())
    }

    /// Writes the description if `version` is still the stored one.
    pub async fn update_event_type(
        &self,
        changed: &EventType,
        now: UnixMillis,
        by: &Author,
    ) -> Result<EventType, StoreError> {
        self.write(async |on| {
            let found = Entity::find_by_id((changed.tenant.0, changed.name.clone()))
                .filter(Column::Version.eq(changed.version))
                .lock_exclusive()
                .one(on)
                .await?;
            let before = found.ok_or(StoreError::Stale)?;
            let fields = audit::named(&[("description", before.description != changed.description)]);
            let deed = Deed::new(Action::UpdateEventType, Some(changed.tenant), &changed.name).of_fields(fields);
            let shown = |description: &Option<String>| json!({ "description": description });
            let deed = deed.with_values(&shown(&before.description), &shown(&changed.description));
            audit::enter(on, by, deed, now).await?;
            let mut row = before.into_active_model();
            row.description = Set(changed.description.clone());
            row.version = Set(changed.version + 1);
            row.updated_at = Set(now.0);
            Ok(row.update(on).await?.into())
        })
        .await
    }

    pub async fn delete_event_type(&self, doomed: &EventType, by: &Author) -> Result<(), StoreError> {
        self.write(async |on| {
            let deleted = Entity::delete_many()
                .filter(Column::TenantNum.eq(doomed.tenant.0))
                .filter(Column::Name.eq(&doomed.name))
                .filter(Column::Version.eq(doomed.version))
                .exec(on)
                .await?;
            if deleted.rows_affected == 0 {
                return Err(StoreError::Stale);
            }
            let deed = Deed::new(Action::DeleteEventType, Some(doomed.tenant), &doomed.name);
            audit::enter(on, by, deed, UnixMillis::now()).await
        })
        .await
    }
}
