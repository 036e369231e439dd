//! A row of the audit log: who changed what.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub num: i64,
    pub at: i64,
    pub author: String,
    /// Null if the action concerns no tenant.
    pub tenant_num: Option<i64>,
    pub action: String,
    pub subject: String,
    /// Comma-separated.
    pub fields: String,
    pub peer: Option<String>,
    pub request_id: Option<String>,
    /// The reason that the author gave.
    pub reason: Option<String>,
    /// How many deliveries a purge has cancelled; null until it has ended.
    pub affected: Option<i64>,
    /// JSON: the changed fields with their old and new values, as far as these may be shown.
    pub changes: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
