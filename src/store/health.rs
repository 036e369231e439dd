//! Health of endpoints: what they have learnt of their receivers, kept over restarts. The journal writes it.

use std::collections::HashMap;
use std::sync::Arc;

use entity::endpoint_health::{Column, Entity, Model};
use sea_orm::{ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryResult, QueryTrait};

use crate::domain::health::{Health, LastError, Suspension, SuspensionCause};
use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::OutcomeKind;

use super::dialect::is_one_of;
use super::unreadable::key_of;
use super::{Store, StoreError};

/// Table and key column, by which an unreadable row is named.
const TABLE: (&str, &[&str]) = ("endpoint_health", &["webhook_num"]);

/// The columns of the health `h` of a webhook, for statements that join it.
pub(super) const COLUMNS: &str = "h.webhook_num, h.consecutive_failures, h.openings, h.open_until, h.opened_at, \
    h.last_failure, h.failing_since, h.warned_at, h.suspended_at, h.suspension_cause, h.recovered_at, \
    h.last_error_at, h.last_error_outcome, h.last_error_status, h.last_error_text, h.last_error_event, \
    h.last_success_at";

impl From<Model> for Health {
    fn from(row: Model) -> Self {
        let last_error = last_error_of(&row).map(Arc::new);
        let Model { webhook_num: _, consecutive_failures, openings, open_until, opened_at, last_failure, .. } = row;
        Self {
            consecutive_failures: u32::try_from(consecutive_failures).unwrap_or(u32::MAX),
            openings: u16::try_from(openings).unwrap_or(0),
            open_until: open_until.map(UnixMillis),
            opened_at: opened_at.map(UnixMillis),
            last_failure: last_failure.and_then(OutcomeKind::from_code),
            failing_since: row.failing_since.map(UnixMillis),
            warned_at: row.warned_at.map(UnixMillis),
            suspension: suspension_of(&row),
            recovered_at: row.recovered_at.map(UnixMillis),
            last_error,
            last_success_at: row.last_success_at.map(UnixMillis),
        }
    }
}

fn suspension_of(row: &Model) -> Option<Suspension> {
    let cause = row.suspension_cause.and_then(SuspensionCause::from_code)?;
    Some(Suspension { since: UnixMillis(row.suspended_at?), cause })
}

/// `None` for a row that an older version wrote, and for an unknown outcome code.
fn last_error_of(row: &Model) -> Option<LastError> {
    Some(LastError {
        at: UnixMillis(row.last_error_at?),
        outcome: row.last_error_outcome.and_then(OutcomeKind::from_code)?,
        status: row.last_error_status.map(i16::cast_unsigned),
        error: row.last_error_text.clone(),
        event: EventSeq(row.last_error_event?),
    })
}

impl Store {
    /// The health of these webhooks' endpoints, as far as it can be read.
    pub async fn healths(&self, nums: &[WebhookNum]) -> Result<HashMap<WebhookNum, Health>, StoreError> {
        let nums: Vec<i64> = nums.iter().map(|num| num.0).collect();
        let query = Entity::find().filter(is_one_of(self.backend(), Column::WebhookNum, &nums));
        let rows: Vec<Model> = self.all_readable(self.readers(), TABLE, query.build(self.backend())).await?;
        Ok(rows.into_iter().map(|row| (WebhookNum(row.webhook_num), Health::from(row))).collect())
    }

    /// The health in a row that is joined with it. A health that cannot be read counts as none, because it holds only
    /// what earlier endpoints have learnt; the next save replaces it.
    pub(super) fn health_in(&self, row: &QueryResult) -> Health {
        match Option::<Model>::from_query_result(row, "") {
            Ok(health) => health.map(Health::from).unwrap_or_default(),
            Err(error) => {
                let (table, key) = TABLE;
                self.pass_over(table, key_of(row, key), error);
                Health::default()
            }
        }
    }
}

/// Deletes the health, because the receiver is another one or gets a fresh start.
pub(super) async fn forget<C: ConnectionTrait>(on: &C, num: WebhookNum) -> Result<(), StoreError> {
    Entity::delete_by_id(num.0).exec(on).await?;
    Ok(())
}
