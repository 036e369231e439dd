//! API keys. Stores only the digest of a key.

use std::collections::HashMap;

use entity::api_key::{ActiveModel, Column, Entity, Model};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Set, Statement,
};

use crate::domain::id::{KeyId, SessionId, TenantNum};
use crate::domain::moment::UnixMillis;

use super::audit::{self, Action, Author, Deed};
use super::config_changes::{self, Change};
use super::dialect::numbers;
use super::idempotency::Once;
use super::{Page, Store, StoreError, tenant_lock};

/// Id of the advisory lock under which the first admin key is created and admin keys are revoked. Arbitrary, and never
/// changed.
const ADMIN_KEYS: i64 = 0x0070_6F73_7468_6B79;

/// Table and key column, by which an unreadable row is named.
pub(super) const KEY: (&str, &str) = ("api_key", "num");

/// Uses recorded per statement.
const NOTED: usize = 1000;

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
    /// From this moment on the key is refused.
    pub expires_at: Option<UnixMillis>,
    /// Accurate to about a minute.
    pub last_used_at: Option<UnixMillis>,
    /// Sessions only: the digest of the key that opened the session.
    pub opened_by: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub struct NewApiKey {
    pub id: KeyId,
    pub tenant: Option<TenantNum>,
    pub name: String,
    pub scopes: Vec<String>,
    pub digest: Vec<u8>,
    pub created_at: UnixMillis,
    pub expires_at: Option<UnixMillis>,
}

impl TryFrom<Model> for ApiKey {
    type Error = StoreError;

    fn try_from(row: Model) -> Result<Self, StoreError> {
        let Model { num, id, tenant_num, name, scopes, digest, created_at, expires_at, last_used_at, opened_by } = row;
        let id = KeyId::from_bytes(&id).ok_or_else(|| StoreError::unreadable("id", "not 16 bytes"))?;
        let scopes = scopes.split(',').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
        Ok(Self {
            num,
            id,
            tenant: tenant_num.map(TenantNum),
            name,
            scopes,
            digest,
            created_at: UnixMillis(created_at),
            expires_at: expires_at.map(UnixMillis),
            last_used_at: last_used_at.map(UnixMillis),
            opened_by,
        })
    }
}

impl Store {
    pub async fn create_key(&self, new: NewApiKey, once: Option<Once>, by: &Author) -> Result<ApiKey, StoreError> {
        self.write(async |on| {
            self.remember(on, once, new.created_at).await?;
            insert(on, new, None, Action::CreateKey, by).await
        })
        .await
    }

    /// Creates the first admin key, unless there is one. If many nodes start at once on an empty database, one of them
    /// creates it.
    pub async fn create_first_admin_key(&self, new: NewApiKey) -> Result<Option<ApiKey>, StoreError> {
        self.write(async |on| {
            in_turn(on).await?;
            if Entity::find()
                .filter(Column::TenantNum.is_null())
                .filter(Column::OpenedBy.is_null())
                .one(on)
                .await?
                .is_some()
            {
                return Ok(None);
            }
            insert(on, new, None, Action::CreateKey, &Author::engine()).await.map(Some)
        })
        .await
    }

    /// The keys with these ids and digests, in the order of `wanted`. Whether the id or the digest is unknown, the
    /// database does the same work and answers the same.
    ///
    /// # Errors
    ///
    /// When the database does not answer. A key that cannot be read counts as unknown.
    pub async fn keys_by(&self, wanted: &[(KeyId, [u8; 32])]) -> Result<Vec<Option<ApiKey>>, StoreError> {
        let Some(last) = wanted.last() else { return Ok(Vec::new()) };
        // Padded to a power of two, so that few statement texts need to be prepared.
        let padding = wanted.len().next_power_of_two() - wanted.len();
        let padded = || wanted.iter().chain(std::iter::repeat_n(last, padding));
        let ids = padded().map(|(id, _)| id.bytes());
        let digests = padded().map(|(_, digest)| digest.to_vec());
        let found = Entity::find().filter(Column::Id.is_in(ids)).filter(Column::Digest.is_in(digests));
        let found = self.readable_keys(found.build(self.backend())).await?;
        let found: HashMap<_, _> = found.into_iter().map(|key| ((key.id, key.digest.clone()), key)).collect();
        Ok(wanted.iter().map(|(id, digest)| found.get(&(*id, digest.to_vec())).cloned()).collect())
    }

    /// The keys of a statement that can be read.
    pub(super) async fn readable_keys(&self, statement: Statement) -> Result<Vec<ApiKey>, StoreError> {
        let (table, key) = KEY;
        let rows: Vec<Model> = self.all_readable(self.readers(), (table, &[key]), statement).await?;
        let mut keys = Vec::with_capacity(rows.len());
        for row in rows {
            keys.extend(self.if_readable(table, row.num, ApiKey::try_from(row))?);
        }
        Ok(keys)
    }

    /// Records when keys, given by number, were last used. A crash may lose it.
    pub async fn note_uses(&self, uses: &[(i64, UnixMillis)]) -> Result<(), StoreError> {
        let backend = self.backend();
        let mut uses = uses.to_vec();
        // Sorted, so that two nodes which update the same keys cannot deadlock.
        uses.sort_unstable_by_key(|(num, _)| *num);
        for some in uses.chunks(NOTED) {
            let values =
                [numbers(backend, some.iter().map(|(num, _)| *num)), numbers(backend, some.iter().map(|(_, at)| at.0))];
            let statement = Statement::from_sql_and_values(backend, note_sql(backend), values);
            self.write_async_commit(async |on| {
                on.execute_raw(statement).await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Keys of a tenant with numbers below `before`, newest first; no sessions.
    pub async fn keys(&self, tenant: TenantNum, before: Option<i64>, limit: u64) -> Result<Page<ApiKey>, StoreError> {
        let of_tenant = Entity::find().filter(Column::TenantNum.eq(tenant.0)).filter(Column::OpenedBy.is_null());
        let mut query = of_tenant.order_by_desc(Column::Num);
        if let Some(before) = before {
            query = query.filter(Column::Num.lt(before));
        }
        let statement = query.limit(limit + 1).build(self.backend());
        self.page_of::<Model, _>(KEY, statement, limit, ApiKey::try_from).await
    }

    /// Deletes a key and the sessions that it opened. Returns whether there was such a key.
    pub async fn delete_key(&self, tenant: TenantNum, id: KeyId, by: &Author) -> Result<bool, StoreError> {
        self.write(async |on| {
            let query = Entity::find().filter(Column::TenantNum.eq(tenant.0)).filter(Column::Id.eq(id.bytes()));
            let Some(key) = query.filter(Column::OpenedBy.is_null()).one(on).await? else { return Ok(false) };
            end_sessions_of(on, &key.digest).await?;
            let deleted = Entity::delete_by_id(key.num).exec(on).await?;
            let is_deleted = deleted.rows_affected > 0;
            if is_deleted {
                audit::enter(on, by, Deed::new(Action::DeleteKey, Some(tenant), id), UnixMillis::now()).await?;
                config_changes::note(on, Change::Tenant(tenant)).await?;
            }
            Ok(is_deleted)
        })
        .await
    }
}

/// Waits until no other transaction decides about admin keys.
pub(super) async fn in_turn<C: ConnectionTrait>(on: &C) -> Result<(), StoreError> {
    if on.get_database_backend() == DbBackend::Postgres {
        on.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({ADMIN_KEYS})")).await?;
    }
    Ok(())
}

pub(super) async fn insert<C: ConnectionTrait>(
    on: &C,
    new: NewApiKey,
    opener: Option<&[u8]>,
    action: Action,
    by: &Author,
) -> Result<ApiKey, StoreError> {
    let NewApiKey { id, tenant, name, scopes, digest, created_at, expires_at } = new;
    if let Some(tenant) = tenant {
        tenant_lock::keep(on, tenant).await?;
    }
    let row = ActiveModel {
        id: Set(id.bytes()),
        tenant_num: Set(tenant.map(|tenant| tenant.0)),
        name: Set(name),
        scopes: Set(scopes.join(",")),
        digest: Set(digest),
        created_at: Set(created_at.0),
        expires_at: Set(expires_at.map(|at| at.0)),
        opened_by: Set(opener.map(<[u8]>::to_vec)),
        ..Default::default()
    };
    let row = row.insert(on).await?;
    let deed = match opener {
        None => Deed::new(action, tenant, id),
        Some(_) => Deed::new(action, tenant, SessionId::of(id)),
    };
    audit::enter(on, by, deed, created_at).await?;
    row.try_into()
}

/// `$1` and `$2`: the numbers of keys, and when they were used, in the same order.
fn note_sql(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => {
            "UPDATE api_key SET last_used_at = MAX(COALESCE(last_used_at, 0), used.at) FROM ( \
             SELECT n.value AS num, a.value AS at FROM json_each($1) n JOIN json_each($2) a ON a.key = n.key) AS used \
             WHERE api_key.num = used.num"
        }
        _ => {
            "UPDATE api_key SET last_used_at = GREATEST(COALESCE(last_used_at, 0), used.at) \
             FROM unnest($1, $2) AS used (num, at) WHERE api_key.num = used.num"
        }
    }
}

/// Ends the sessions that this key opened.
pub(super) async fn end_sessions_of<C: ConnectionTrait>(on: &C, opener: &[u8]) -> Result<(), StoreError> {
    Entity::delete_many().filter(Column::OpenedBy.eq(opener)).exec(on).await?;
    Ok(())
}
