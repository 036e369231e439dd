//! Answers to requests with an `Idempotency-Key`, written in the transaction that did what the request asked for.

use entity::idempotency::{ActiveModel, Column, Entity};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect, QueryTrait, Set};

use crate::domain::id::TenantNum;
use crate::domain::moment::UnixMillis;
use crate::secrets::SealContext;

use super::{Store, StoreError};

/// How long a key is remembered.
pub const KEPT_MS: i64 = 24 * 3600 * 1000;

/// Keys deleted per sweep.
const SWEEP: u64 = 1000;

/// SHA-256 of method, path and body.
pub type Fingerprint = [u8; 32];

/// A key as it was sent; `tenant` is `None` for an admin's request that names no tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OnceKey {
    pub tenant: Option<TenantNum>,
    pub key: String,
    pub fingerprint: Fingerprint,
}

impl OnceKey {
    pub(super) fn tenant_num(&self) -> i64 {
        self.tenant.map_or(0, |tenant| tenant.0)
    }

    fn place(&self) -> SealContext<'_> {
        SealContext::Answer { tenant: self.tenant_num(), key: &self.key }
    }
}

/// A request that creates something, and the answer for its repetitions.
#[derive(Debug, Clone)]
pub struct Once {
    pub key: OnceKey,
    pub status: u16,
    pub answer: Vec<u8>,
}

/// What is stored for a key.
#[derive(Debug, Clone)]
pub enum Seen {
    New,
    /// The same request was answered like this.
    Before {
        status: u16,
        answer: Vec<u8>,
    },
    /// The key was used for a different request.
    Otherwise,
}

impl Store {
    pub async fn seen(&self, key: &OnceKey) -> Result<Seen, StoreError> {
        self.seen_on(self.readers(), key).await
    }

    pub(super) async fn seen_on<C: ConnectionTrait>(&self, on: &C, key: &OnceKey) -> Result<Seen, StoreError> {
        let found = Entity::find_by_id((key.tenant_num(), key.key.clone())).one(on).await?;
        let Some(row) = found else { return Ok(Seen::New) };
        if row.fingerprint != key.fingerprint {
            return Ok(Seen::Otherwise);
        }
        let answer = self.seal().open(&key.place(), &row.answer)?;
        Ok(Seen::Before { status: row.status.cast_unsigned(), answer })
    }

    pub(super) async fn remember<C: ConnectionTrait>(
        &self,
        on: &C,
        once: Option<Once>,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let Some(once) = once else { return Ok(()) };
        let row = ActiveModel {
            tenant_num: Set(once.key.tenant_num()),
            idempotency_key: Set(once.key.key.clone()),
            fingerprint: Set(once.key.fingerprint.to_vec()),
            status: Set(once.status.cast_signed()),
            answer: Set(self.seal().close(&once.key.place(), &once.answer)?),
            created_at: Set(now.0),
        };
        Entity::insert(row).exec_without_returning(on).await?;
        Ok(())
    }

    /// Deletes keys older than [`KEPT_MS`]; returns how many.
    pub async fn forget_old_keys(&self, now: UnixMillis) -> Result<u64, StoreError> {
        self.write(async |on| {
            let old = Entity::find()
                .select_only()
                .column(Column::CreatedAt)
                .filter(Column::CreatedAt.lt(now.0 - KEPT_MS))
                .limit(SWEEP);
            let deleted =
                Entity::delete_many().filter(Column::CreatedAt.in_subquery(old.into_query())).exec(on).await?;
            Ok(deleted.rows_affected)
        })
        .await
    }
}
