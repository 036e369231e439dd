//! What an endpoint has learnt of its receiver.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "endpoint_health")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub webhook_num: i64,
    pub consecutive_failures: i64,
    pub openings: i16,
    pub open_until: Option<i64>,
    pub opened_at: Option<i64>,
    pub last_failure: Option<i16>,
    pub failing_since: Option<i64>,
    pub warned_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
