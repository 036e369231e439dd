//! Lists deliveries for the API: rows and deliveries that only fan-outs know, in one order. A delivery that gets its
//! row between two pages, or while a page is read, keeps its place and is listed once.

use std::collections::HashSet;

use crate::domain::delivery::Status;
use crate::domain::id::{DeliveryId, TenantNum};
use crate::store::StoreError;
use crate::store::deliveries::{Delivery, DeliveryFilter, RowPage};
use crate::store::owed::{Owed, OwedPage};

use super::Engine;
use super::inspect::without_row;

/// A page of deliveries, newest event first.
#[derive(Debug, Clone)]
pub struct DeliveryPage {
    pub deliveries: Vec<Delivery>,
    /// The next page begins after this id; `None` at the end. A page that is not full may have a next one: it has
    /// looked at as much as one page may.
    pub next: Option<DeliveryId>,
}

impl Engine {
    /// Deliveries of a tenant before `before`, at most `limit`.
    pub async fn deliveries(
        &self,
        tenant: TenantNum,
        filter: &DeliveryFilter,
        before: Option<DeliveryId>,
        limit: u64,
    ) -> Result<DeliveryPage, StoreError> {
        let most = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1);
        // Fan-outs are read before rows: a delivery that gets its row meanwhile is in at least one of the two.
        let owed = match may_be_owed(filter) {
            true => self.inner.store.owed(tenant, filter, before, most).await?,
            false => OwedPage::default(),
        };
        if filter.webhook.is_some() {
            self.inner.log.flush().await?;
        }
        let rows = self.inner.store.deliveries(tenant, filter, before, limit).await?;
        Ok(merged(owed, rows, most - 1))
    }
}

/// Whether the filter admits deliveries without a row, which are pending and were never attempted.
fn may_be_owed(filter: &DeliveryFilter) -> bool {
    let is_pending = match filter.status {
        None | Some(Status::Pending) => true,
        Some(Status::Success | Status::Failed | Status::Cancelled) => false,
    };
    let is_never_attempted = filter.attempts.is_none_or(|attempts| attempts == 0);
    is_pending && is_never_attempted && filter.outcome.is_none() && filter.status_code.is_none()
}

/// Merges two lists in descending order. Each is complete down to where it looked, or to its last entry if it is full.
fn merged(owed: OwedPage, rows: RowPage, limit: usize) -> DeliveryPage {
    let RowPage { mut found, looked_to } = rows;
    let floor = looked_to.max(owed.looked_to);
    let recorded: HashSet<DeliveryId> = found.iter().map(|delivery| delivery.id).collect();
    let only_owed = owed.found.into_iter().filter(|owed| !recorded.contains(&owed.id));
    found.extend(only_owed.map(|Owed { id, webhook, kind }| without_row(id, webhook, kind)));
    found.retain(|delivery| floor.is_none_or(|floor| delivery.id >= floor));
    found.sort_unstable_by_key(|delivery| std::cmp::Reverse(delivery.id));
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = if has_more { found.last().map(|last| last.id) } else { floor };
    DeliveryPage { deliveries: found, next }
}

#[cfg(test)]
mod tests;
