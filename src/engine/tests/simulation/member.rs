//! Mirrors [`crate::engine::cluster`]: surveys the nodes, reaps expired ones, acquires shards and hands them off, as
//! the real placement says.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crate::engine::cluster::{lost, moves};
use crate::engine::placement::Moves;
use crate::store::journal::model::Tables;
use crate::store::leases::{ShardNum, Survey};

use super::node_lease::LEASE;
use super::process::Process;
use super::world::Unreadable;

/// The nodes and whether they live, the shards' owners and epochs, and the moves that follow.
pub(super) type Seen = (Vec<(i64, bool)>, Vec<(Option<i64>, i64)>, Moves);

/// As in the cluster task.
const EVERY: Duration = Duration::from_secs(1);
const LONGEST_HAND_OVER: Duration = Duration::from_secs(45);
const PAUSE: Duration = Duration::from_millis(500);

impl Process {
    /// `Member::run`.
    pub(super) async fn take_part(self: Rc<Self>) {
        loop {
            let next = self.world.elapsed() + EVERY;
            self.feed.request_scan();
            if self.look_around().await.is_err() {
                self.world.sleep(PAUSE).await;
            }
            let is_due = || self.shard_set.has_diverged() || self.world.elapsed() >= next;
            let is_notified = || self.is_notified.take() || is_due();
            self.world.tasks.until(|| is_notified().then_some(())).await;
        }
    }

    /// `Member::rejoin`.
    async fn rejoin(self: &Rc<Self>) -> Result<(), Unreadable> {
        let held = self.shard_set.owned();
        self.shard_set.stop_serving(&held);
        self.until.set(self.world.elapsed());
        let (until, now) = (super::node_lease::act_until(&self.world), || self.world.true_now());
        let at = self.world.elapsed();
        let member = self.write(|tables| {
            tables.adopt_foreign_rows(at);
            let in_doubt = self.in_doubt(tables);
            tables.leases.rejoin(&self.shard_set, now().plus(LEASE), in_doubt)
        });
        let member = member.await?;
        self.world.oracle.borrow_mut().lost(self.incarnation, |_| true);
        let _ = self.journal.rejoin(member).await;
        self.until.set(until);
        for shard in held {
            self.hand_off_within(shard, LONGEST_HAND_OVER).await;
        }
        self.world.note(|| format!("process {} is node {:?} from now on", self.incarnation, self.shard_set.node()));
        Ok(())
    }

    /// Hands the shard off; answers whether nothing was cut short.
    async fn hand_off_within(&self, shard: ShardNum, longest: Duration) -> bool {
        let by = self.world.elapsed() + longest;
        self.world.wake_at(by);
        let mut quit = std::pin::pin!(self.hand_off_shard(shard));
        let draining = std::future::poll_fn(|context| match quit.as_mut().poll(context) {
            std::task::Poll::Pending if self.world.elapsed() >= by => std::task::Poll::Ready(false),
            polled => polled,
        });
        draining.await
    }

    async fn survey(&self) -> Result<Survey, Unreadable> {
        let now = self.world.true_now();
        let survey = self.read(move |tables| self.is_unbroken(tables).then(|| tables.leases.survey(now))).await?;
        survey.ok_or(Unreadable)
    }

    /// `Member::look`.
    async fn look_around(self: &Rc<Self>) -> Result<(), Unreadable> {
        if self.shard_set.has_diverged() {
            self.rejoin().await?;
        }
        let at = self.world.elapsed();
        self.write(|tables| tables.adopt_foreign_rows(at)).await?;
        let Some(me) = self.shard_set.node() else { return Ok(()) };
        let (left, held) = (self.leaving.borrow().clone(), self.shard_set.owned_with_epochs());
        let mut survey = self.survey().await?;
        if self.reap_expired(me, &survey).await? {
            survey = self.survey().await?;
        }
        self.stop_lost(lost(me, &survey, &held, &left));
        self.release_unknown(me, &survey, &left).await?;
        let Moves { give, mut take } = self.moves(me, survey);
        take.retain(|shard| !self.leaving.borrow().contains(&ShardNum::from(*shard)));
        self.take(take.into_iter().map(ShardNum::from).collect()).await?;
        self.hand_off(give.into_iter().map(ShardNum::from));
        Ok(())
    }

    /// `cluster::moves`, computed again when something has changed. The tables hold only some of the 256 shards.
    fn moves(&self, me: i64, survey: Survey) -> Moves {
        let nodes: Vec<(i64, bool)> = survey.nodes.iter().map(|node| (node.num, node.is_alive)).collect();
        let mut last = self.moves.borrow_mut();
        if let Some((known, shards, moves)) = &*last
            && (known, shards) == (&nodes, &survey.shards)
        {
            return moves.clone();
        }
        let mut moves = moves(me, &survey);
        let tables = self.world.tables.borrow();
        moves.take.retain(|shard| tables.leases.owners().any(|(known, _)| known == ShardNum::from(*shard)));
        *last = Some((nodes, survey.shards, moves.clone()));
        moves
    }

    async fn reap_expired(&self, me: i64, survey: &Survey) -> Result<bool, Unreadable> {
        let mut is_reaped = false;
        for node in survey.nodes.iter().filter(|node| !node.is_alive && node.num != me) {
            is_reaped |= self.reap_node(node.num).await?;
        }
        Ok(is_reaped)
    }

    /// `Store::reap_expired`, which waits for a batch of that node.
    async fn reap_node(&self, node: i64) -> Result<bool, Unreadable> {
        let may_lock = |tables: &Tables| !tables.transactions.has_node(node);
        let reaped = self.write_when(may_lock, |tables| {
            let was_there = tables.leases.until(node).is_some();
            let is_reaped = tables.leases.reap_expired(node, self.world.true_now(), self.in_doubt(tables));
            if is_reaped && was_there {
                self.world.note(|| format!("node {node} is reaped"));
                if let Some(process) = self.world.process_of(tables, node) {
                    self.world.oracle.borrow_mut().lost(process.incarnation, |_| true);
                }
            }
            is_reaped
        });
        reaped.await
    }

    /// `Member::stop_lost`.
    fn stop_lost(self: &Rc<Self>, lost: Vec<ShardNum>) {
        self.shard_set.stop_serving(&lost);
        self.leaving.borrow_mut().extend(&lost);
        for shard in lost {
            let process = self.clone();
            self.spawn(async move { process.hand_off_one(shard, true).await });
        }
    }

    async fn release_unknown(&self, me: i64, survey: &Survey, left: &BTreeSet<ShardNum>) -> Result<(), Unreadable> {
        let is_unknown = |shard: &ShardNum| {
            let is_mine = survey.shards.get(shard.place()).is_some_and(|(owner, _)| *owner == Some(me));
            is_mine && !self.shard_set.owns(*shard) && !left.contains(shard) && !self.leaving.borrow().contains(shard)
        };
        let unknown: Vec<ShardNum> = ShardNum::all().filter(is_unknown).collect();
        if unknown.is_empty() { Ok(()) } else { self.release_shards(&unknown, false).await }
    }

    async fn take(&self, wanted: Vec<ShardNum>) -> Result<(), Unreadable> {
        if wanted.is_empty() {
            return Ok(());
        }
        let now = || self.world.true_now();
        let acquired = self.write(|tables| tables.leases.acquire(&self.shard_set, &wanted, now())).await?;
        let taken: Vec<ShardNum> = acquired.iter().map(|shard| shard.shard).collect();
        if !taken.is_empty() {
            self.world.note(|| format!("process {} acquires {taken:?}", self.incarnation));
            let _ = self.journal.activate(acquired).await;
        }
        Ok(())
    }

    /// `Store::release`, which waits for batches that write for these shards.
    pub(super) async fn release_shards(&self, shards: &[ShardNum], is_in_doubt: bool) -> Result<(), Unreadable> {
        let may_lock = |tables: &Tables| !shards.iter().any(|shard| tables.transactions.has_shard(*shard));
        let release = self.write_when(may_lock, |tables| {
            let in_doubt = is_in_doubt.then(|| self.in_doubt(tables));
            tables.leases.release(&self.shard_set, shards, in_doubt);
            self.world.note(|| format!("process {} releases {shards:?}, in doubt: {is_in_doubt}", self.incarnation));
            if is_in_doubt {
                let is_its = |webhook| shards.contains(&ShardNum::of(webhook));
                self.world.oracle.borrow_mut().lost(self.incarnation, is_its);
            }
        });
        release.await
    }

    /// `Member::hand_off`, except that shards with slow requests move at once, too.
    fn hand_off(self: &Rc<Self>, give: impl Iterator<Item = ShardNum>) {
        let served: Vec<ShardNum> = give.filter(|shard| self.shard_set.serves_shard(*shard)).collect();
        self.shard_set.stop_serving(&served);
        self.leaving.borrow_mut().extend(&served);
        for shard in served {
            let process = self.clone();
            self.spawn(async move { process.hand_off_one(shard, false).await });
        }
    }

    async fn hand_off_one(&self, shard: ShardNum, in_doubt: bool) {
        let in_doubt = !self.hand_off_within(shard, LONGEST_HAND_OVER).await || in_doubt;
        if self.journal.detach(vec![shard]).await.is_err() {
            return;
        }
        while self.release_shards(&[shard], in_doubt).await.is_err() {
            self.world.sleep(PAUSE).await;
        }
        self.leaving.borrow_mut().remove(&shard);
        self.notify_shards();
    }

    /// `Notifier::notify_shards`; the notification may be lost.
    pub(super) fn notify_shards(&self) {
        for other in self.world.processes() {
            other.is_notified.set(other.is_notified.get() || !self.world.happens(self.world.trouble.get().call_lost));
        }
    }

    /// `Notifier::notify_fanouts`.
    pub(super) fn notify_fanouts(&self, shards: &BTreeSet<ShardNum>) {
        for other in self.world.processes() {
            let concerns = shards.iter().any(|shard| other.shard_set.serves_shard(*shard));
            if concerns && !self.world.happens(self.world.trouble.get().call_lost) {
                other.feed.request_scan();
            }
        }
    }
}
