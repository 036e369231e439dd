//! Stored admin keys: lists them, and revokes a key together with the sessions that it opened. The API and the CLI call
//! it.

use entity::api_key::{Column, Entity, Model};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select};

use crate::domain::id::KeyId;
use crate::domain::moment::UnixMillis;

use super::audit::{self, Action, Author, Deed};
use super::config_changes::{self, Change};
use super::keys::{ApiKey, KEY, end_sessions_of, in_turn};
use super::{Page, Store, StoreError};

/// Result of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    Done,
    NoSuchKey,
    /// Refused: without this key nobody could administer the engine.
    IsLast,
}

/// Keys without a tenant, sessions excluded.
fn admin_keys() -> Select<Entity> {
    Entity::find().filter(Column::TenantNum.is_null()).filter(Column::OpenedBy.is_null())
}

impl Store {
    /// Keys with numbers below `before`, newest first.
    pub async fn admin_keys(&self, before: Option<i64>, limit: u64) -> Result<Page<ApiKey>, StoreError> {
        let mut query = admin_keys().order_by_desc(Column::Num);
        if let Some(before) = before {
            query = query.filter(Column::Num.lt(before));
        }
        let statement = query.limit(limit + 1).build(self.backend());
        self.page_of::<Model, _>(KEY, statement, limit, ApiKey::try_from).await
    }

    /// Revokes an admin key on every node. Keeps the last unexpired one, unless `has_other` says that the configuration
    /// has an admin key.
    pub async fn revoke_admin_key(&self, id: KeyId, has_other: bool, by: &Author) -> Result<Revoked, StoreError> {
        let now = UnixMillis::now();
        self.write(async |on| {
            in_turn(on).await?;
            let Some(key) = admin_keys().filter(Column::Id.eq(id.bytes())).one(on).await? else {
                return Ok(Revoked::NoSuchKey);
            };
            let lives = Column::ExpiresAt.is_null().or(Column::ExpiresAt.gt(now.0));
            let others = admin_keys().filter(Column::Num.ne(key.num)).filter(lives);
            let is_alive = key.expires_at.is_none_or(|at| at > now.0);
            if is_alive && !has_other && others.count(on).await? == 0 {
                return Ok(Revoked::IsLast);
            }
            end_sessions_of(on, &key.digest).await?;
            Entity::delete_by_id(key.num).exec(on).await?;
            audit::enter(on, by, Deed::new(Action::DeleteKey, None, id), now).await?;
            config_changes::note(on, Change::AdminKeys).await?;
            Ok(Revoked::Done)
        })
        .await
    }
}
