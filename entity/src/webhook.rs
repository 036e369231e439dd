//! A webhook as its tenant configured it.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "webhook")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub num: i64,
    pub id: Vec<u8>,
    pub tenant_num: i64,
    pub name: String,
    pub url: String,
    /// JSON list of subscriptions.
    pub events: String,
    /// Sealed JSON object.
    pub headers: Vec<u8>,
    /// JSON object; a missing member has its default.
    pub policy: String,
    pub description: Option<String>,
    pub metadata: Option<String>,
    pub is_active: bool,
    pub inactive_reason: Option<String>,
    pub version: i64,
    pub created_at: i64,
    pub updated_at: i64,
    pub deleted_at: Option<i64>,
    /// Null unless an operator has paused its deliveries.
    pub paused_at: Option<i64>,
    /// Sealed JSON object; null for most.
    pub credentials: Option<Vec<u8>>,
    /// Digest of the TLS options, which tells them from others; null for most.
    pub tls_digest: Option<Vec<u8>>,
    /// JSON list of names; null for none.
    pub public_headers: Option<String>,
    /// A URL of the origin that headers and credentials were given for. Read where the sealed values do not name the
    /// origin. Null if an older version created the webhook.
    pub bound_url: Option<String>,
    /// Whether the webhook gets its events in order; the same as in `policy`.
    pub ordered: bool,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
