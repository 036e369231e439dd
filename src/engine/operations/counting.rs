//! Counts the deliveries that operations select, and makes them their items. The node that serves the first shard counts,
//! a page of each operation in turn, so that a long count holds up no other. A crash begins a count anew, which adds no
//! item twice.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use super::*;
use crate::domain::id::OperationNum;
use crate::domain::operation::{MAX_ITEMS, OperationState};
use crate::domain::shard::ShardNum;

/// How often the database is asked for operations that another node has made.
const EVERY: Duration = Duration::from_secs(1);

/// How long after the last moment that it selects an operation that owes events is counted: publishes that did not know
/// of a new webhook have ended by then.
const PUBLISHES_END: Duration = Duration::from_secs(2);

pub(super) struct Counter {
    engine: Engine,
    under_way: BTreeMap<OperationNum, Count>,
}

struct Count {
    walk: Walk,
    counted: u64,
}

impl Counter {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine, under_way: BTreeMap::new() }
    }

    pub(super) async fn run(mut self) {
        let engine = self.engine.clone();
        loop {
            let changed = engine.inner.operations_changed.notified();
            match self.turn().await {
                Ok(()) if !self.under_way.is_empty() => continue,
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "operations could not be counted; trying again"),
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = engine.inner.context.host.sleep(EVERY) => {}
            }
        }
    }

    /// Counts a page of each operation.
    async fn turn(&mut self) -> Result<(), StoreError> {
        let EngineContext { shard_set, host, .. } = &*self.engine.inner.context;
        if !shard_set.serves_shard(ShardNum::WHOLE) {
            self.under_way.clear();
            return Ok(());
        }
        let mut open = self.engine.inner.store.open_operations().await?;
        let may_be_counted = |operation: &Operation| {
            operation.kind != Kind::Owe || host.now().since(operation.selection.until) >= PUBLISHES_END
        };
        open.retain(|operation| operation.state == OperationState::Counting && may_be_counted(operation));
        self.under_way.retain(|num, _| open.iter().any(|operation| operation.num == *num));
        for operation in open {
            match self.count_page(&operation).await {
                // No other try would end better, and it holds up no other operation.
                Err(error @ StoreError::Unreadable { .. }) => self.fail(&operation, &error.to_string()).await?,
                counted => counted?,
            }
        }
        Ok(())
    }

    async fn count_page(&mut self, operation: &Operation) -> Result<(), StoreError> {
        let store = &self.engine.inner.store;
        let count = match self.under_way.entry(operation.num) {
            Entry::Occupied(count) => count.into_mut(),
            Entry::Vacant(place) => {
                let walk = Walk::begin(&self.engine, operation.tenant, &operation.selection).await?;
                place.insert(Count { walk, counted: 0 })
            }
        };
        let Some(page) = count.walk.next_page().await? else {
            store.begin_running(operation.num, self.engine.inner.context.host.now()).await?;
            let (kind, counted) = (operation.kind.as_str(), count.counted);
            tracing::info!(operation = %operation.id, kind, counted, "operation begins");
            self.under_way.remove(&operation.num);
            self.engine.inner.operations_changed.notify_waiters();
            return Ok(());
        };
        count.counted += page.len() as u64;
        if count.counted > MAX_ITEMS {
            return self.fail(operation, &format!("more than {MAX_ITEMS} deliveries match; select fewer")).await;
        }
        let ids: Vec<DeliveryId> = page.iter().map(|delivery| delivery.id).collect();
        if ids.is_empty() { Ok(()) } else { store.add_items(operation.num, &ids).await }
    }

    async fn fail(&mut self, operation: &Operation, why: &str) -> Result<(), StoreError> {
        let (store, host) = (&self.engine.inner.store, &self.engine.inner.context.host);
        store.fail_operation(operation.num, why, host.now()).await?;
        tracing::warn!(operation = %operation.id, kind = operation.kind.as_str(), why, "operation cannot be counted");
        self.under_way.remove(&operation.num);
        Ok(())
    }
}
