//! Keys to the API. Only the digest of a key is stored.

use entity::api_key::{ActiveModel, Column, Entity, Model};
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Set};

use crate::clock::UnixMillis;
use crate::id::{KeyId, TenantNum};

use super::changes::{self, Change};
use super::idempotency::Once;
use super::{Page, Store, StoreError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub num: i64,
    pub id: KeyId,
    /// `None` for an admin key.
    pub tenant: Option<TenantNum>,
    pub name: String,
    pub scopes: Vec<String>,
    /// SHA-256 of the whole key.
    pub digest: Vec<u8>,
    pub created_at: UnixMillis,
}

#[derive(Debug, Clone)]
pub struct NewApiKey {
    pub id: KeyId,
    pub tenant: Option<TenantNum>,
    pub name: String,
    pub scopes: Vec<String>,
    pub digest: Vec<u8>,
    pub created_at: UnixMillis,
}

impl TryFrom<Model> for ApiKey {
    type Error = StoreError;

    fn try_from(row: Model) -> Result<Self, StoreError> {
        let Model { num, id, tenant_num, name, scopes, digest, created_at } = row;
        let id = KeyId::from_bytes(&id).ok_or_else(|| StoreError::unreadable("key id", "not 16 bytes"))?;
        let scopes = scopes.split(',').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
        Ok(Self {
            num,
            id,
            tenant: tenant_num.map(TenantNum),
            name,
            scopes,
            digest,
            created_at: UnixMillis(created_at),
        })
    }
}

impl Store {
    pub async fn create_key(&self, new: NewApiKey, once: Option<Once>) -> Result<ApiKey, StoreError> {
        self.write(async |on| {
            self.remember(on, once, new.created_at).await?;
            let row = ActiveModel {
                id: Set(new.id.bytes()),
                tenant_num: Set(new.tenant.map(|tenant| tenant.0)),
                name: Set(new.name),
                scopes: Set(new.scopes.join(",")),
                digest: Set(new.digest),
                created_at: Set(new.created_at.0),
                ..Default::default()
            };
            row.insert(on).await?.try_into()
        })
        .await
    }

    pub async fn key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        let found = Entity::find().filter(Column::Id.eq(id.bytes())).one(self.readers()).await?;
        found.map(ApiKey::try_from).transpose()
    }

    /// The oldest key that belongs to no tenant.
    pub async fn first_admin_key(&self) -> Result<Option<ApiKey>, StoreError> {
        let query = Entity::find().filter(Column::TenantNum.is_null()).order_by_asc(Column::Num);
        query.one(self.readers()).await?.map(ApiKey::try_from).transpose()
    }

    /// Newest first, those below `before`.
    pub async fn keys(&self, tenant: TenantNum, before: Option<i64>, limit: u64) -> Result<Page<ApiKey>, StoreError> {
        let mut query = Entity::find().filter(Column::TenantNum.eq(tenant.0)).order_by_desc(Column::Num);
        if let Some(before) = before {
            query = query.filter(Column::Num.lt(before));
        }
        let rows = query.limit(limit + 1).all(self.readers()).await?;
        let keys: Result<Vec<_>, _> = rows.into_iter().map(ApiKey::try_from).collect();
        Ok(Page::of(keys?, limit, |key| key.num))
    }

    /// Answers whether there was such a key.
    pub async fn delete_key(&self, tenant: TenantNum, id: KeyId) -> Result<bool, StoreError> {
        self.write(async |on| {
            let deleted = Entity::delete_many()
                .filter(Column::TenantNum.eq(tenant.0))
                .filter(Column::Id.eq(id.bytes()))
                .exec(on)
                .await?;
            let is_deleted = deleted.rows_affected > 0;
            if is_deleted {
                changes::note(on, Change::Tenant(tenant)).await?;
            }
            Ok(is_deleted)
        })
        .await
    }
}
