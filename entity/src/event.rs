//! An accepted event with the exact bytes that are sent.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "event")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
    pub tenant_num: i64,
    pub kind: String,
    pub occurred_at: i64,
    pub caller_id: Option<String>,
    pub matched: i64,
    pub body: Vec<u8>,
    /// The engines that the event has come through; null for most.
    pub trail: Option<String>,
    /// Null unless the payload was erased; `body` is empty then.
    pub erased_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
