//! Operations on many deliveries: the calls of the API, and the two tasks that do the work. One counts an operation's
//! deliveries ([`walk`]), which become its items ([`counting`]); the other carries items out, each node those of the webhooks that
//! it serves ([`runner`]), at the operation's rate ([`pace`]). A delivery goes through its endpoint's lane like any other
//! and takes its turn there.

mod counting;
mod pace;
mod runner;
mod walk;

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::domain::id::{DeliveryId, TenantNum};
use crate::domain::operation::{Kind, Operation, Selection};
use crate::fault::or_abort;
use crate::store::audit::Author;
use crate::store::deliveries::Delivery;
use crate::store::idempotency::Once;
use crate::store::operations::{NewOperation, OperationChange};
use crate::store::{Store, StoreError};

use super::Engine;
use super::context::EngineContext;

use self::counting::Counter;
use self::runner::Runner;
use self::walk::Walk;

/// How long a preview looks for deliveries before it answers how many it has found so far.
const PREVIEW_TIME: Duration = Duration::from_secs(5);

/// Deliveries that a preview shows.
const SAMPLE: usize = 10;

/// What an operation would do.
#[derive(Debug, Clone)]
pub struct Preview {
    /// Deliveries found.
    pub matched: u64,
    /// Whether the count is complete; otherwise there are more.
    pub is_complete: bool,
    /// Some of the deliveries, newest event first.
    pub sample: Vec<Delivery>,
}

impl Engine {
    /// Looks for the deliveries that an operation would have, and changes nothing.
    pub async fn preview_operation(&self, tenant: TenantNum, selection: &Selection) -> Result<Preview, StoreError> {
        let host = &self.inner.context.host;
        let until = host.steady() + PREVIEW_TIME;
        let mut walk = Walk::begin(self, tenant, selection).await?;
        let mut preview = Preview { matched: 0, is_complete: true, sample: Vec::new() };
        while let Some(page) = walk.next_page().await? {
            preview.matched += page.len() as u64;
            let room = SAMPLE.saturating_sub(preview.sample.len());
            preview.sample.extend(page.into_iter().take(room));
            if host.steady() >= until {
                preview.is_complete = false;
                break;
            }
        }
        Ok(preview)
    }

    /// Makes an operation, which begins at once.
    pub async fn create_operation(
        &self,
        new: NewOperation,
        once: Option<Once>,
        by: &Author,
    ) -> Result<Operation, StoreError> {
        let made = self.inner.store.create_operation(new, once, by).await?;
        self.inner.operations_changed.notify_waiters();
        Ok(made)
    }

    /// Changes an operation. `None`: it has ended, or the change makes no sense in its state.
    pub async fn change_operation(
        &self,
        operation: &Operation,
        change: OperationChange,
        by: &Author,
    ) -> Result<Option<Operation>, StoreError> {
        let now = self.inner.context.host.now();
        let changed = self.inner.store.change_operation(operation, change, now, by).await?;
        self.inner.operations_changed.notify_waiters();
        Ok(changed)
    }

    /// Starts the tasks that count and carry out operations.
    pub(super) fn spawn_operations(&self) {
        let counting = or_abort("the counting of operations", Counter::new(self.clone()).run());
        let running = or_abort("the operations", Runner::new(self.clone()).run());
        for task in [Box::pin(counting) as BoxFuture<'static, ()>, Box::pin(running)] {
            self.beside(|stopping| async move {
                stopping.run_until_cancelled(task).await;
            });
        }
    }
}
