//! Reads ids and JSON from rows. A value that cannot be read is an error that names it.

use sea_orm::FromQueryResult;
use serde::de::DeserializeOwned;

use crate::domain::id::WebhookId;
use crate::domain::shard::ShardNum;

use super::StoreError;

/// The result of a statement that selects one key, as `num`.
#[derive(Debug, FromQueryResult)]
pub(super) struct NumRow {
    pub(super) num: i64,
}

pub(super) fn webhook_id_of(bytes: &[u8]) -> Result<WebhookId, StoreError> {
    WebhookId::from_bytes(bytes).ok_or_else(|| StoreError::unreadable("id", "not 16 bytes"))
}

pub(super) fn shard_of(num: i16) -> Result<ShardNum, StoreError> {
    ShardNum::try_from(num).map_err(|error| StoreError::unreadable("shard", error))
}

pub(super) fn json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::unreadable(what, error))
}
