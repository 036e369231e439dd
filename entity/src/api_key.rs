//! An API key; without a tenant it is an admin key.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "api_key")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub num: i64,
    pub id: Vec<u8>,
    pub tenant_num: Option<i64>,
    pub name: String,
    /// Comma-separated.
    pub scopes: String,
    /// SHA-256 of the whole key.
    pub digest: Vec<u8>,
    pub created_at: i64,
    /// Null for a key that does not expire.
    pub expires_at: Option<i64>,
    /// Accurate to about a minute; null for a key that was never used.
    pub last_used_at: Option<i64>,
    /// Sessions only: the digest of the key that opened the session.
    pub opened_by: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
