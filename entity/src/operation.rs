//! Work on many deliveries that a person asked for at once.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "operation")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub num: i64,
    pub id: Vec<u8>,
    pub tenant_num: i64,
    pub kind: i16,
    pub state: i16,
    pub selection: String,
    pub rate_per_second: i32,
    pub matched: i64,
    pub success: i64,
    pub failed: i64,
    pub skipped: i64,
    pub error: Option<String>,
    pub created_by: String,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
