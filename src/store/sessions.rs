//! Sessions: keys that a browser holds for a while, opened by another key and no longer lived than it.

use entity::api_key::{Column, Entity};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter};

use crate::clock::UnixMillis;
use crate::id::{KeyId, TenantNum};

use super::audit::{self, Action, Author, Deed};
use super::changes::{self, Change};
use super::keys::{ApiKey, NewApiKey, insert};
use super::{Store, StoreError};

impl Store {
    /// `opener`: the digest of the key that opens it.
    pub async fn open_session(&self, new: NewApiKey, opener: &[u8], by: &Author) -> Result<ApiKey, StoreError> {
        self.write(async |on| insert(on, new, Some(opener), Action::OpenSession, by).await).await
    }

    /// Ends a session on every node. One that has ended already is no mistake.
    pub async fn end_session(&self, tenant: Option<TenantNum>, id: KeyId, by: &Author) -> Result<(), StoreError> {
        self.write(async |on| {
            let ended = Entity::delete_many()
                .filter(Column::Id.eq(id.bytes()))
                .filter(Column::OpenedBy.is_not_null())
                .exec(on)
                .await?;
            if ended.rows_affected > 0 {
                audit::enter(on, by, Deed::new(Action::EndSession, tenant, id), UnixMillis::now()).await?;
                changes::note(on, tenant.map_or(Change::AdminKeys, Change::Tenant)).await?;
            }
            Ok(())
        })
        .await
    }

    /// Whether there is an admin key with this digest. An admin's session lives no longer than it.
    pub async fn has_admin_key(&self, digest: &[u8], now: UnixMillis) -> Result<bool, StoreError> {
        let query = Entity::find()
            .filter(Column::TenantNum.is_null())
            .filter(Column::OpenedBy.is_null())
            .filter(Column::Digest.eq(digest))
            .filter(Column::ExpiresAt.is_null().or(Column::ExpiresAt.gt(now.0)));
        Ok(query.count(self.readers()).await? > 0)
    }

    /// Forgets sessions that have ended; answers how many.
    pub async fn forget_ended_sessions(&self, now: UnixMillis) -> Result<u64, StoreError> {
        self.write(async |on| {
            let ended = Entity::delete_many()
                .filter(Column::OpenedBy.is_not_null())
                .filter(Column::ExpiresAt.lte(now.0))
                .exec(on)
                .await?;
            Ok(ended.rows_affected)
        })
        .await
    }
}

/// Ends those that this key has opened.
pub(super) async fn end_of<C: ConnectionTrait>(on: &C, opener: &[u8]) -> Result<(), StoreError> {
    Entity::delete_many().filter(Column::OpenedBy.eq(opener)).exec(on).await?;
    Ok(())
}
