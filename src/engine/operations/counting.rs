//! Looks for the deliveries that an operation selects, and makes them its items. The node that serves the first shard
//! counts. A crash begins the count anew, which adds no item twice.

use std::time::Duration;

use super::*;
use crate::domain::id::OperationNum;
use crate::domain::operation::{MAX_ITEMS, Progress};
use crate::domain::shard::ShardNum;
use crate::store::deliveries::DeliveryFilter;

/// Deliveries per page.
const PAGE: u64 = 1000;

/// How often the database is asked for operations that another node has made.
const EVERY: Duration = Duration::from_secs(1);

/// A walk over the deliveries that a selection admits, page by page.
pub(super) struct Walk<'a> {
    engine: &'a Engine,
    tenant: TenantNum,
    selection: &'a Selection,
    /// What is still to be listed.
    filters: Vec<DeliveryFilter>,
    before: Option<DeliveryId>,
}

impl<'a> Walk<'a> {
    pub(super) async fn begin(
        engine: &'a Engine,
        tenant: TenantNum,
        selection: &'a Selection,
    ) -> Result<Self, StoreError> {
        let Selection { webhooks, since, until, status, outcome, status_code, events: _ } = selection;
        let all = DeliveryFilter {
            webhook: None,
            event: None,
            status: Some(*status),
            outcome: *outcome,
            status_code: *status_code,
            kind: None,
            since: *since,
            until: Some(*until),
        };
        let mut filters = Vec::new();
        for id in webhooks {
            let webhook = engine.inner.store.webhook_num(tenant, *id).await?;
            filters.extend(webhook.map(|webhook| DeliveryFilter { webhook: Some(webhook), ..all.clone() }));
        }
        if webhooks.is_empty() {
            filters.push(all);
        }
        Ok(Self { engine, tenant, selection, filters, before: None })
    }

    /// The next page, which may be empty; `None` at the end.
    pub(super) async fn next_page(&mut self) -> Result<Option<Vec<Delivery>>, StoreError> {
        let Some(filter) = self.filters.last() else { return Ok(None) };
        let page = self.engine.deliveries(self.tenant, filter, self.before, PAGE).await?;
        self.before = page.next;
        if self.before.is_none() {
            self.filters.pop();
        }
        let mut found = page.deliveries;
        found.retain(|delivery| self.selection.admits(&delivery.kind));
        Ok(Some(found))
    }
}

pub(super) async fn run(engine: Engine) {
    let host = &engine.inner.context.host;
    loop {
        let changed = engine.inner.operations_changed.notified();
        if let Err(error) = count_all(&engine).await {
            tracing::warn!(%error, "operations could not be counted; trying again");
        }
        tokio::select! {
            biased;
            () = changed => {}
            () = host.sleep(EVERY) => {}
        }
    }
}

async fn count_all(engine: &Engine) -> Result<(), StoreError> {
    if !engine.inner.context.shard_set.serves_shard(ShardNum::from(0)) {
        return Ok(());
    }
    for operation in engine.inner.store.open_operations().await? {
        if operation.progress == Progress::Counting {
            count(engine, &operation).await?;
        }
    }
    Ok(())
}

async fn count(engine: &Engine, operation: &Operation) -> Result<(), StoreError> {
    let (store, host, num) = (&engine.inner.store, &engine.inner.context.host, operation.num);
    let mut walk = Walk::begin(engine, operation.tenant, &operation.selection).await?;
    let mut counted = 0;
    while let Some(page) = walk.next_page().await? {
        let ids: Vec<DeliveryId> = page.iter().map(|delivery| delivery.id).collect();
        counted += ids.len() as u64;
        if counted > MAX_ITEMS {
            let why = format!("more than {MAX_ITEMS} deliveries match; select fewer");
            return store.fail_operation(num, &why, host.now()).await;
        }
        if !ids.is_empty() {
            store.add_items(num, &ids).await?;
        }
        if !is_counting(store, num).await? {
            return Ok(());
        }
    }
    store.begin_running(num, host.now()).await?;
    engine.inner.operations_changed.notify_waiters();
    tracing::info!(operation = %operation.id, kind = operation.kind.as_str(), counted, "operation begins");
    Ok(())
}

async fn is_counting(store: &Store, operation: OperationNum) -> Result<bool, StoreError> {
    Ok(store.progress_of(operation).await? == Some(Progress::Counting))
}
