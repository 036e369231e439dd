//! The cluster member: surveys nodes and shards, reaps expired nodes, acquires the shards that this node should own, and
//! hands off those that another node should own. It decides nothing: [`survey`] says what a survey means, and every node
//! computes the same `placement` by itself. With each survey it asks the feed for a scan, which finds the fan-outs whose
//! notifications were lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;

use crate::domain::policy::Policy;
use crate::domain::shard::ShardNum;
use crate::host::Host;
use crate::journal::Journal;
use crate::journal::feed::Feed;
use crate::store::StoreError;
use crate::store::leases::{AcquiredShard, ShardSet, Survey};
use crate::store::notifier::Notifier;

use super::db::ClusterDb;
use super::hand_off_delay::HandOffDelay;
use super::node_lease::NodeLease;
use super::placement::Moves;
use super::shard_log::ShardLog;
use super::shard_runtime::ShardRuntime;
use super::state::ClusterState;
use super::survey;

/// How often a node surveys the others, unless a notification makes it look earlier.
const EVERY: Duration = Duration::from_secs(1);

/// How long a hand-off waits for the endpoints of a shard to end: the longest request, and time to record what they
/// leave behind, since a batch of the journal may take ten seconds. What has not ended by then counts as cut short.
const LONGEST_HAND_OFF: Duration = Policy::LONGEST_TIMEOUT.saturating_add(Duration::from_secs(15));

/// Pause after the store failed.
const PAUSE: Duration = Duration::from_millis(500);

/// What the member works with.
pub(crate) struct Parts {
    pub(crate) host: Host,
    pub(crate) db: Arc<dyn ClusterDb>,
    pub(crate) lease: NodeLease,
    pub(crate) journal: Journal,
    pub(crate) feed: Arc<Feed>,
    pub(crate) notifier: Notifier,
    pub(crate) log: Arc<dyn ShardLog>,
    pub(crate) runtime: Arc<dyn ShardRuntime>,
    pub(crate) state: ClusterState,
}

pub(crate) struct Member {
    host: Host,
    db: Arc<dyn ClusterDb>,
    lease: NodeLease,
    shard_set: ShardSet,
    journal: Journal,
    feed: Arc<Feed>,
    notifier: Notifier,
    log: Arc<dyn ShardLog>,
    runtime: Arc<dyn ShardRuntime>,
    state: ClusterState,
    /// Shards that are being handed off or given up after their loss.
    leaving: Mutex<BTreeSet<ShardNum>>,
    delay: Mutex<HandOffDelay>,
}

impl Member {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { host, db, lease, journal, feed, notifier, log, runtime, state } = parts;
        let (shard_set, leaving, delay) = (lease.shard_set().clone(), Mutex::default(), Mutex::default());
        Arc::new(Self { host, db, lease, shard_set, journal, feed, notifier, log, runtime, state, leaving, delay })
    }

    pub(crate) async fn run(self: Arc<Self>) {
        let mut ticks = self.host.ticks(EVERY);
        loop {
            // All three lead to the same survey.
            tokio::select! {
                biased;
                () = self.shard_set.diverged() => {}
                () = self.notifier.shards_notified() => {}
                () = ticks.tick() => {}
            }
            self.feed.request_scan();
            if let Err(error) = self.survey().await {
                tracing::warn!(%error, "cluster survey failed; trying again");
                self.host.sleep(PAUSE).await;
            }
        }
    }

    /// Surveys nodes and shards, and does what follows for this node.
    async fn survey(self: &Arc<Self>) -> Result<(), StoreError> {
        if self.shard_set.has_diverged() {
            self.rejoin().await?;
        }
        self.db.adopt_foreign_rows().await?;
        // Read before the survey: what this node gives up during the survey still looks like its own there.
        let (left, held) = (self.leaving.lock().clone(), self.shard_set.owned_with_epochs());
        let survey = self.db.survey(&self.shard_set).await?;
        let (Some(me), Some(mut survey)) = (self.shard_set.node(), survey) else { return Ok(()) };
        if self.reap_expired(me, &survey).await? {
            survey = self.db.survey(&self.shard_set).await?.unwrap_or(survey);
        }
        self.stop_lost(&survey::lost(me, &survey, &held, &left));
        self.release_unknown(me, &survey, &left).await?;
        let Moves { hand_off, mut acquire } = survey::moves(me, &survey);
        // A hand-off in progress may still issue a second release; its shards must not be acquired again yet.
        acquire.retain(|shard| !self.leaving.lock().contains(shard));
        self.state.set_survey(survey);
        self.acquire(&acquire).await?;
        self.state.set_converged(true);
        self.hand_off(&hand_off);
        Ok(())
    }

    /// The database lacks transactions that this node has seen. The node gives up all its shards, as after a crash,
    /// joins as a new node, and reads again what is owed.
    async fn rejoin(self: &Arc<Self>) -> Result<(), StoreError> {
        let Self { host, shard_set, .. } = self.as_ref();
        self.state.set_converged(false);
        let held = shard_set.owned();
        shard_set.stop_serving(&held);
        self.db.renew_connections();
        self.runtime.reload_routes().await?;
        let asked_at = host.steady();
        let Some(member) = self.lease.rejoin().await? else { return Ok(()) };
        // This fails only if the writer has stopped, and then the process ends.
        let _ = self.journal.rejoin(member).await;
        self.lease.revalidate(asked_at);
        self.log.detach_all();
        let drained = join_all(held.iter().map(|shard| self.runtime.drain(*shard)).collect::<Vec<_>>());
        if host.timeout(LONGEST_HAND_OFF, drained).await.is_none() {
            tracing::warn!("endpoints of the former node have not ended; the new node goes on without them");
        }
        tracing::warn!(
            node = shard_set.node(),
            shards = held.len(),
            "node joined again as a new one; what is owed is read from the database"
        );
        Ok(())
    }

    /// Answers whether the survey is out of date, because an expired node was reaped, here or by another node.
    async fn reap_expired(&self, me: i64, survey: &Survey) -> Result<bool, StoreError> {
        let mut reaped = false;
        // Not this node: if its own lease has ended, it renews that as soon as it can, unless another node was faster.
        for node in survey.nodes.iter().filter(|node| !node.is_alive && node.num != me) {
            if self.db.reap_expired(node.num).await? {
                tracing::warn!(node = node.num, name = node.name, "node lease expired; its shards will be reassigned");
                reaped = true;
            }
        }
        Ok(reaped)
    }

    /// Ends the endpoints of lost shards. What this node would still write for them is dropped, and their next owner
    /// sends it again.
    fn stop_lost(self: &Arc<Self>, lost: &[ShardNum]) {
        if lost.is_empty() {
            return;
        }
        tracing::warn!(shards = lost.len(), "shards lost; their endpoints end, and their next owner sends again");
        self.shard_set.stop_serving(lost);
        self.leaving.lock().extend(lost);
        for shard in lost.iter().copied() {
            let member = self.clone();
            self.host.spawn(async move { member.hand_off_one(shard, true).await });
        }
    }

    /// Releases shards that this node has acquired without knowing it, because the answer was lost. Nothing was sent
    /// for them.
    async fn release_unknown(&self, me: i64, survey: &Survey, left: &BTreeSet<ShardNum>) -> Result<(), StoreError> {
        let is_leaving = |shard: &ShardNum| left.contains(shard) || self.leaving.lock().contains(shard);
        let unknown = survey::unknown(me, survey, &self.shard_set, is_leaving);
        if !unknown.is_empty() {
            tracing::warn!(shards = unknown.len(), "shards acquired without an answer; they are released again");
            self.db.release(&self.shard_set, &unknown, false).await?;
        }
        Ok(())
    }

    async fn acquire(self: &Arc<Self>, wanted: &[ShardNum]) -> Result<(), StoreError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let acquired = self.db.acquire(&self.shard_set, wanted).await?;
        let taken: Vec<ShardNum> = acquired.iter().map(|shard| shard.shard).collect();
        if let Err(error) = self.activate(acquired).await {
            self.db.release(&self.shard_set, &taken, false).await?;
            return Err(error);
        }
        if !taken.is_empty() {
            tracing::info!(shards = taken.len(), "shards acquired");
            let member = self.clone();
            self.host.spawn(async move { member.index_logs(taken).await });
        }
        Ok(())
    }

    /// Completes the log index of acquired shards. Until then a webhook's log may lack entries; nothing else waits for
    /// the index.
    async fn index_logs(&self, shards: Vec<ShardNum>) {
        while let Err(error) = self.log.index_shards(&shards).await {
            tracing::warn!(%error, "log index of acquired shards not completed; trying again");
            self.host.sleep(PAUSE).await;
        }
        let held = self.shard_set.owned();
        let given_up: Vec<ShardNum> = shards.into_iter().filter(|shard| !held.contains(shard)).collect();
        self.log.detach(&given_up);
    }

    async fn activate(&self, acquired: Vec<AcquiredShard>) -> Result<(), StoreError> {
        if acquired.iter().any(|shard| shard.shard == ShardNum::WHOLE) {
            self.db.divide_fanouts().await?;
        }
        if acquired.is_empty() {
            return Ok(());
        }
        // The outer error says that the writer has stopped, and then the process ends.
        self.journal.activate(acquired).await.unwrap_or(Ok(()))
    }

    /// Begins to hand off these shards; each is released as soon as none of its requests is in flight.
    fn hand_off(self: &Arc<Self>, moving: &[ShardNum]) {
        let shard_set = &self.shard_set;
        let served: Vec<ShardNum> = moving.iter().copied().filter(|shard| shard_set.serves_shard(*shard)).collect();
        let ready = self.delay.lock().ready(&served, || self.runtime.oldest_requests(), self.host.steady());
        if !ready.is_empty() {
            tracing::info!(shards = ready.len(), "shards handed off; each is released once its requests have ended");
        }
        shard_set.stop_serving(&ready);
        self.leaving.lock().extend(&ready);
        for shard in ready {
            let member = self.clone();
            self.host.spawn(async move { member.hand_off_one(shard, false).await });
        }
    }

    async fn hand_off_one(&self, shard: ShardNum, in_doubt: bool) {
        let nothing_cut_short = self.host.timeout(LONGEST_HAND_OFF, self.runtime.drain(shard)).await;
        let in_doubt = in_doubt || !nothing_cut_short.unwrap_or(false);
        if self.journal.detach(vec![shard]).await.is_err() {
            return;
        }
        self.log.detach(&[shard]);
        while let Err(error) = self.db.release(&self.shard_set, &[shard], in_doubt).await {
            tracing::warn!(%error, "shard could not be released; trying again");
            self.host.sleep(PAUSE).await;
        }
        self.leaving.lock().remove(&shard);
        self.notifier.notify_shards();
    }
}
