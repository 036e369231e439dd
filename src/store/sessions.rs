//! Sessions: keys that a browser holds for a while. Another key opens a session, and a session ends no later than that
//! key.

use entity::api_key::{Column, Entity, Model};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait};

use crate::domain::id::{KeyId, SessionId, TenantId, TenantNum};
use crate::domain::moment::UnixMillis;

use super::audit::{self, Action, Author, Deed};
use super::config_changes::{self, Change};
use super::keys::{ApiKey, KEY, NewApiKey, insert};
use super::{Page, Store, StoreError};

/// An open session.
#[derive(Debug, Clone)]
pub struct Session {
    pub num: i64,
    pub id: SessionId,
    /// `None` for an admin's session.
    pub tenant: Option<TenantId>,
    /// The key that opened the session, and its name; `None` for the admin key of the configuration.
    pub key: Option<(KeyId, String)>,
    pub scopes: Vec<String>,
    pub created_at: UnixMillis,
    pub expires_at: Option<UnixMillis>,
    /// Accurate to about a minute.
    pub last_used_at: Option<UnixMillis>,
}

impl Store {
    /// `opener`: the digest of the key that opens the session.
    pub async fn open_session(&self, new: NewApiKey, opener: &[u8], by: &Author) -> Result<ApiKey, StoreError> {
        self.write(async |on| insert(on, new, Some(opener), Action::OpenSession, by).await).await
    }

    /// Open sessions below `before`, newest first: of one tenant, or of all tenants and admins.
    pub async fn sessions(
        &self,
        tenant: Option<TenantNum>,
        now: UnixMillis,
        before: Option<i64>,
        limit: u64,
    ) -> Result<Page<Session>, StoreError> {
        let open = Column::ExpiresAt.is_null().or(Column::ExpiresAt.gt(now.0));
        let mut query = Entity::find().filter(Column::OpenedBy.is_not_null()).filter(open);
        if let Some(tenant) = tenant {
            query = query.filter(Column::TenantNum.eq(tenant.0));
        }
        if let Some(before) = before {
            query = query.filter(Column::Num.lt(before));
        }
        let statement = query.order_by_desc(Column::Num).limit(limit + 1).build(self.backend());
        let Page { items: rows, next } = self.page_of::<Model, Model>(KEY, statement, limit, Ok).await?;
        let openers = self.openers(&rows).await?;
        let tenants = self.tenant_ids(rows.iter().filter_map(|row| row.tenant_num).collect()).await?;
        let session = |row: Model| {
            let key = openers.iter().find(|key| Some(&key.digest) == row.opened_by.as_ref());
            let tenant = tenants.iter().find(|(num, _)| Some(*num) == row.tenant_num).map(|(_, id)| *id);
            let row = ApiKey::try_from(row)?;
            Ok(Session {
                num: row.num,
                id: SessionId::of(row.id),
                tenant,
                key: key.map(|key| (key.id, key.name.clone())),
                scopes: row.scopes,
                created_at: row.created_at,
                expires_at: row.expires_at,
                last_used_at: row.last_used_at,
            })
        };
        let mut items = Vec::with_capacity(rows.len());
        for row in rows {
            items.extend(self.if_readable(KEY.0, row.num, session(row))?);
        }
        Ok(Page { items, next })
    }

    async fn openers(&self, sessions: &[Model]) -> Result<Vec<ApiKey>, StoreError> {
        let mut digests: Vec<&[u8]> = sessions.iter().filter_map(|row| row.opened_by.as_deref()).collect();
        digests.sort_unstable();
        digests.dedup();
        let query = Entity::find().filter(Column::OpenedBy.is_null()).filter(Column::Digest.is_in(digests));
        self.readable_keys(query.build(self.backend())).await
    }

    /// Ends a session on every node, of this tenant or of any. Returns whether there was one.
    pub async fn end_session(&self, tenant: Option<TenantNum>, id: SessionId, by: &Author) -> Result<bool, StoreError> {
        self.write(async |on| {
            let mut query = Entity::find().filter(Column::Id.eq(id.bytes())).filter(Column::OpenedBy.is_not_null());
            if let Some(tenant) = tenant {
                query = query.filter(Column::TenantNum.eq(tenant.0));
            }
            let Some(session) = query.one(on).await? else { return Ok(false) };
            let ended = Entity::delete_by_id(session.num).exec(on).await?.rows_affected > 0;
            if ended {
                let tenant = session.tenant_num.map(TenantNum);
                audit::enter(on, by, Deed::new(Action::EndSession, tenant, id), UnixMillis::now()).await?;
                config_changes::note(on, tenant.map_or(Change::AdminKeys, Change::Tenant)).await?;
            }
            Ok(ended)
        })
        .await
    }

    /// The key with this digest, of this tenant or an admin's, unless it has expired. A session ends no later than its
    /// opener.
    pub async fn opener(
        &self,
        tenant: Option<TenantNum>,
        digest: &[u8],
        now: UnixMillis,
    ) -> Result<Option<KeyId>, StoreError> {
        let of_whom = tenant.map_or(Column::TenantNum.is_null(), |tenant| Column::TenantNum.eq(tenant.0));
        let query = Entity::find()
            .filter(of_whom)
            .filter(Column::OpenedBy.is_null())
            .filter(Column::Digest.eq(digest))
            .filter(Column::ExpiresAt.is_null().or(Column::ExpiresAt.gt(now.0)));
        Ok(query.one(self.readers()).await?.map(ApiKey::try_from).transpose()?.map(|key| key.id))
    }

    /// Deletes sessions that have ended; returns how many.
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
