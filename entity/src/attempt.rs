//! One request made for a delivery.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "attempt")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub event_seq: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub webhook_num: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i16,
    pub reason: i16,
    pub started_at: i64,
    pub duration_us: i64,
    pub head_us: Option<i64>,
    pub status_code: Option<i16>,
    pub outcome: i16,
    pub error: Option<String>,
    /// JSON list of name-value pairs.
    pub response_headers: Option<String>,
    pub response_body: Option<Vec<u8>>,
    /// JSON: what the attempt called.
    pub request: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
