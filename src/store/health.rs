//! What endpoints have learnt of their receivers, kept over restarts. The journal writes it; what it means is not the
//! store's business.

use entity::endpoint_health::{Column, Entity, Model};
use sea_orm::{ConnectionTrait, EntityTrait, QueryFilter};

use crate::clock::UnixMillis;
use crate::id::WebhookNum;

use super::StoreError;
use super::dialect::is_one_of;

/// The default is an endpoint that has seen no failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    pub consecutive_failures: u32,
    pub openings: u16,
    pub open_until: Option<UnixMillis>,
    pub opened_at: Option<UnixMillis>,
    /// The outcome's code.
    pub last_failure: Option<i16>,
    /// The first failure after the last success.
    pub failing_since: Option<UnixMillis>,
    /// When the owner was warned that it will be switched off.
    pub warned_at: Option<UnixMillis>,
}

impl From<Model> for Health {
    fn from(row: Model) -> Self {
        let Model { webhook_num: _, consecutive_failures, openings, open_until, opened_at, last_failure, .. } = row;
        Self {
            consecutive_failures: u32::try_from(consecutive_failures).unwrap_or(u32::MAX),
            openings: u16::try_from(openings).unwrap_or(0),
            open_until: open_until.map(UnixMillis),
            opened_at: opened_at.map(UnixMillis),
            last_failure,
            failing_since: row.failing_since.map(UnixMillis),
            warned_at: row.warned_at.map(UnixMillis),
        }
    }
}

pub(super) async fn of<C: ConnectionTrait>(on: &C, nums: &[i64]) -> Result<Vec<(WebhookNum, Health)>, StoreError> {
    let rows = Entity::find().filter(is_one_of(on.get_database_backend(), Column::WebhookNum, nums)).all(on).await?;
    Ok(rows.into_iter().map(|row| (WebhookNum(row.webhook_num), row.into())).collect())
}

/// Starts from nothing: another receiver, or another try.
pub(super) async fn forget<C: ConnectionTrait>(on: &C, num: WebhookNum) -> Result<(), StoreError> {
    Entity::delete_by_id(num.0).exec(on).await?;
    Ok(())
}
