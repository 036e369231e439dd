//! One delivery of an operation.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "operation_item")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub operation: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub webhook_num: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub event_seq: i64,
    pub state: i16,
    pub attempt: Option<i16>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
