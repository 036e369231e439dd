//! Mirrors [`crate::engine::config_sync`]: config changes of other nodes reach this one's routes and live endpoints.
//! Here, changes become visible in the order in which they are made.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crate::domain::id::WebhookNum;

use super::process::Process;
use super::world::Unreadable;

/// As in the follower.
const EVERY: Duration = Duration::from_millis(500);

impl Process {
    /// `Follower::run`.
    pub(super) async fn follow_config(self: Rc<Self>) {
        loop {
            let next = self.world.elapsed() + EVERY;
            let _ = self.follow().await;
            self.world.tasks.until(|| (self.world.elapsed() >= next).then_some(())).await;
        }
    }

    /// `Follower::follow`.
    async fn follow(self: &Rc<Self>) -> Result<(), Unreadable> {
        let from = self.followed_to.get();
        let changed: Vec<WebhookNum> = self.read(|_| self.world.config_changes.borrow()[from..].to_vec()).await?;
        if changed.is_empty() {
            return Ok(());
        }
        let nums: BTreeSet<WebhookNum> = changed.iter().copied().collect();
        let gone = self.route(&nums).await?;
        if !gone.is_empty() {
            self.forget_in_ledger(&gone).await;
        }
        self.refresh(&Vec::from_iter(nums)).await?;
        self.followed_to.set(from + changed.len());
        Ok(())
    }

    /// `Follower::route`.
    async fn route(&self, nums: &BTreeSet<WebhookNum>) -> Result<Vec<WebhookNum>, Unreadable> {
        let _changing = self.changing.write().await;
        let hooks = self.read(|_| self.world.hooks.borrow().clone()).await?;
        let mut gone = Vec::new();
        for hook in nums.iter().filter_map(|num| hooks.get(num)) {
            if !hook.is_deleted {
                self.routes.set(hook.route());
            } else if self.routes.remove(hook.tenant, hook.num) {
                gone.push(hook.num);
            }
        }
        Ok(gone)
    }
}
