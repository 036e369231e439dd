//! One event for one webhook, from its first outcome, deferral or cancellation on.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "delivery")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub event_seq: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub webhook_num: i64,
    pub status: i16,
    pub attempts: i16,
    pub tries: i16,
    pub next_at: Option<i64>,
    pub settled_at: Option<i64>,
    pub manual_from: Option<i16>,
    pub manual_next_at: Option<i64>,
    pub operation: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
