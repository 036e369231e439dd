//! Keeps a tenant while something of it is made.

use entity::tenant::{Column, Entity};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect};

use super::StoreError;
use crate::domain::id::TenantNum;

/// Keeps the tenant from being deleted until the transaction ends. Fails if the tenant is deleted already.
pub(super) async fn keep<C: ConnectionTrait>(on: &C, tenant: TenantNum) -> Result<(), StoreError> {
    let living = Entity::find_by_id(tenant.0).filter(Column::DeletedAt.is_null()).lock_shared().one(on).await?;
    living.map(drop).ok_or(StoreError::Stale)
}
