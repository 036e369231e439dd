//! Reads what the route table needs of webhooks: their subscriptions. Nothing else is read before an event has matched.

use entity::webhook::{Column, Entity};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QueryResult, QuerySelect, QueryTrait,
};

use crate::domain::id::{TenantNum, WebhookNum};
use crate::store::dialect::is_one_of;
use crate::store::{Store, StoreError};

use crate::store::decode::json;

/// Webhooks read into the route table at a time.
const CHUNK: u64 = 10_000;

const COLUMNS: [Column; 6] =
    [Column::Num, Column::Id, Column::TenantNum, Column::Events, Column::IsActive, Column::Ordered];

#[derive(Debug, Clone)]
pub struct Route {
    pub num: WebhookNum,
    pub tenant: TenantNum,
    pub events: Vec<String>,
    pub is_active: bool,
    /// Whether the webhook gets its events in order.
    pub is_ordered: bool,
}

/// A webhook that the route table must hold, or must remove.
#[derive(Debug, Clone)]
pub enum Routed {
    Here(Route),
    Deleted(TenantNum, WebhookNum),
}

impl Store {
    /// A chunk of the webhooks after `after` that are not deleted; an empty answer is the end. A webhook whose
    /// subscriptions cannot be read is owed no new events: the engine starts for all others.
    pub async fn routes(&self, after: WebhookNum) -> Result<Vec<Route>, StoreError> {
        let rows = Entity::find()
            .select_only()
            .columns(COLUMNS)
            .filter(Column::DeletedAt.is_null())
            .filter(Column::Num.gt(after.0))
            .order_by_asc(Column::Num)
            .limit(CHUNK)
            .build(self.backend());
        let rows = self.engine_readers().query_all_raw(rows).await?;
        Ok(rows.iter().filter_map(|row| self.route_of(row)).collect())
    }

    /// The present routes of these webhooks.
    pub async fn routes_of(&self, nums: &[WebhookNum]) -> Result<Vec<Routed>, StoreError> {
        let nums: Vec<i64> = nums.iter().map(|num| num.0).collect();
        let rows = Entity::find()
            .select_only()
            .columns(COLUMNS)
            .column_as(Column::DeletedAt.is_not_null(), "is_deleted")
            .filter(is_one_of(self.backend(), Column::Num, &nums))
            .build(self.backend());
        let rows = self.engine_readers().query_all_raw(rows).await?;
        let routed = |row: &QueryResult| {
            let route = self.route_of(row)?;
            let is_deleted = row.try_get("", "is_deleted").unwrap_or(false);
            Some(if is_deleted { Routed::Deleted(route.tenant, route.num) } else { Routed::Here(route) })
        };
        Ok(rows.iter().filter_map(routed).collect())
    }

    /// `None` if the number or the tenant cannot be read. If `events` or `is_active` cannot be read, the route matches
    /// nothing: new events are not owed to the webhook until a change replaces the value.
    fn route_of(&self, row: &QueryResult) -> Option<Route> {
        let owner = || Ok::<_, StoreError>((row.try_get("", "num")?, row.try_get("", "tenant_num")?));
        let (num, tenant) = owner().inspect_err(|error| self.pass_over_webhook(row, error)).ok()?;
        let matched = || {
            let events: String = row.try_get("", "events")?;
            Ok::<_, StoreError>((json("events", &events)?, row.try_get("", "is_active")?))
        };
        let (events, is_active) = matched().unwrap_or_else(|error| {
            self.pass_over_webhook(row, error);
            (Vec::new(), true)
        });
        let is_ordered = row.try_get("", "ordered").unwrap_or(false);
        Some(Route { num: WebhookNum(num), tenant: TenantNum(tenant), events, is_active, is_ordered })
    }
}
