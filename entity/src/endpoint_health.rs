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
    pub suspended_at: Option<i64>,
    pub suspension_cause: Option<i16>,
    pub recovered_at: Option<i64>,
    /// When the last failed request ended; null if none has failed.
    pub last_error_at: Option<i64>,
    pub last_error_outcome: Option<i16>,
    pub last_error_status: Option<i16>,
    pub last_error_text: Option<String>,
    pub last_error_event: Option<i64>,
    pub last_success_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
