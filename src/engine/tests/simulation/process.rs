//! One process of the engine: what a `kill -9` takes. Composes the parts as [`crate::engine::Engine`] does when it
//! starts and stops; the parts are the real ones. Several processes are nodes over the same tables.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::db::ClusterDb;
use crate::cluster::member::{self, Member};
use crate::cluster::node_lease::{NodeIdentity, NodeLease};
use crate::cluster::notifications;
use crate::cluster::state::ClusterState;
use crate::delivery::guard::Guard;
use crate::domain::moment::UnixMillis;
use crate::engine::config_sync::Follower;
use crate::engine::context::{EngineContext, Parts};
use crate::engine::db::EngineDb;
use crate::engine::dispatch::Dispatcher;
use crate::engine::due_poller;
use crate::engine::registry::RegistryHandle;
use crate::engine::routes::RouteTable;
use crate::engine::served_shards::ServedShards;
use crate::host::Host;
use crate::journal::feed::Feed;
use crate::journal::shared_ledger::SharedLedger;
use crate::journal::{Journal, Running};
use crate::store::StoreError;
use crate::store::config_changes::Position;
use crate::store::leases::ShardSet;
use crate::store::notifier::Notifier;

use super::db::Db;
use super::journal::{Commits, JournalConnection};
use super::tasks::{Owner, pause, until};
use super::world::World;
use super::{host, registry};

/// How long a stop waits for requests in flight.
const GRACE: Duration = Duration::from_secs(3);

pub(super) struct Process {
    pub(super) world: Rc<World>,
    pub(super) place: usize,
    pub(super) incarnation: u32,
    pub(super) host: Host,
    pub(super) context: Arc<EngineContext>,
    pub(super) registry: RegistryHandle,
    pub(super) shard_set: ShardSet,
    pub(super) journal: Journal,
    pub(super) feed: Arc<Feed>,
    pub(super) ledger: SharedLedger,
    pub(super) db: Db,
    pub(super) is_stopping: Cell<bool>,
    pub(super) writer_ended: Cell<bool>,
    /// What the writer has committed, and whether the process knows of it.
    pub(super) commits: Arc<Commits>,
}

impl Process {
    /// Begins to start a process on this machine. Where that fails, a supervisor tries again.
    pub(super) fn start(world: &Rc<World>, place: usize) {
        let machine = &world.machines[place];
        if machine.is_starting.replace(true) {
            return;
        }
        world.incarnations.set(world.incarnations.get() + 1);
        let incarnation = world.incarnations.get();
        machine.is_cut_off.set(false);
        machine.renews_in_vain.set(false);
        let starting = world.clone();
        world.tasks.spawn(Owner::Process(incarnation), async move {
            let started = Self::join(&starting, place, incarnation).await;
            let machine = &starting.machines[place];
            machine.is_starting.set(false);
            if let Err(error) = started {
                starting.note(|| format!("process {incarnation} cannot start: {error}"));
                starting.tasks.kill(Owner::Process(incarnation));
            }
        });
    }

    /// `Engine::start`.
    async fn join(world: &Rc<World>, place: usize, incarnation: u32) -> Result<(), StoreError> {
        let (host, db) = (host::of(place, incarnation), Db::new(world, place));
        let cluster_db: Arc<dyn ClusterDb> = Arc::new(db.clone());
        let identity = NodeIdentity::new(&format!("process {incarnation}"), None);
        let lease = NodeLease::join(cluster_db.clone(), host.clone(), identity).await?;
        host.spawn(lease.clone().keep());
        let shard_set = lease.shard_set().clone();
        let commits = Arc::<Commits>::default();
        let memory = db.memory.clone();
        let journal_db = Arc::new(JournalConnection { place, incarnation, commits: commits.clone(), memory });
        let (running, writer) = Journal::start(journal_db, host.clone(), &shard_set, world.bounds.journal).await?;
        let position = db.position().await?;
        let routes = Arc::new(RouteTable::load(&db).await?);
        world.machines[place].followed_to.set(world.hooks.read().changes.len());
        let Running { journal, feed, ledger, remote_shards, .. } = running;
        let context = Arc::new(EngineContext::new(Parts {
            host: host.clone(),
            db: Arc::new(db.clone()),
            bounds: world.bounds.dispatch,
            journal: journal.clone(),
            ledger: ledger.clone(),
            routes,
            guard: Arc::new(Guard::new(true, vec!["127.0.0.1/32".parse().expect("a network")])),
            lease,
            notifier: Notifier::default(),
            max_in_flight: world.bounds.permits,
            payload_memory: 1,
            payload_in_memory: || if super::world::current().tight.get() { 2 } else { 0 },
        }));
        let registry = registry::start((place, incarnation), &context, &feed);
        let process = Rc::new(Self {
            world: world.clone(),
            place,
            incarnation,
            host,
            context,
            registry,
            shard_set,
            journal,
            feed,
            ledger,
            db,
            is_stopping: Cell::default(),
            writer_ended: Cell::default(),
            commits,
        });
        world.note(|| format!("process {incarnation} starts as node {:?}", process.shard_set.node()));
        *world.machines[place].process.borrow_mut() = Some(process.clone());
        process.spawn(process.clone().run_writer(writer));
        process.begin(&cluster_db, position);
        if world.is_clustered {
            process.spawn(notifications::ask_for_fanouts(process.context.notifier.clone(), remote_shards));
        }
        Ok(())
    }

    /// `Engine::spawn_tasks` and `Engine::spawn_cluster_tasks`.
    fn begin(self: &Rc<Self>, cluster_db: &Arc<dyn ClusterDb>, position: Position) {
        let (context, registry, feed) = (&self.context, &self.registry, &self.feed);
        self.flow(Dispatcher::new(context, feed, registry).run());
        self.flow(due_poller::run(context.clone(), registry.clone()));
        if !self.world.is_clustered {
            return;
        }
        let member = Member::new(member::Parts {
            host: self.host.clone(),
            db: cluster_db.clone(),
            lease: context.lease.clone(),
            journal: self.journal.clone(),
            feed: feed.clone(),
            notifier: context.notifier.clone(),
            log: Arc::new(super::cluster::NoLogs),
            state: ClusterState::new(false, self.host.clone()),
            runtime: Arc::new(ServedShards { context: context.clone(), registry: registry.clone() }),
        });
        self.flow(member.run());
        self.flow(Follower::new(context.clone(), registry.clone(), position).run());
        self.spawn(notifications::run(context.notifier.clone(), cluster_db.clone(), self.host.clone()));
        let reaped = self.clone();
        self.spawn(async move {
            reaped.context.lease.reaped().await;
            reaped.stop().await;
        });
    }

    pub(super) fn wall(&self) -> UnixMillis {
        self.host.now()
    }

    /// Spawns a task that ends with the process.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.world.tasks.spawn(Owner::Process(self.incarnation), task);
    }

    /// Spawns a task that ends when the process begins to stop.
    fn flow(&self, task: impl Future<Output = ()> + 'static) {
        self.world.tasks.spawn(Owner::Flow(self.incarnation), task);
    }

    pub(super) fn endpoints(&self) -> Vec<Owner> {
        let live = self.world.live.borrow();
        live.iter().filter(|owner| owner.incarnation() == self.incarnation).copied().collect()
    }

    /// `kill -9`.
    pub(super) fn kill(&self) {
        self.world.note(|| format!("process {} is killed", self.incarnation));
        self.die();
    }

    fn die(&self) {
        self.world.tasks.kill(Owner::Process(self.incarnation));
        self.world.tasks.thaw(self.incarnation);
        *self.world.machines[self.place].process.borrow_mut() = None;
        self.world.oracle.borrow_mut().process_died(self.incarnation);
    }

    /// `Engine::drain` and `Engine::close`. If something had to be dropped, the stop is not clean.
    pub(super) async fn stop(self: Rc<Self>) {
        if self.is_stopping.replace(true) {
            return;
        }
        self.world.note(|| format!("process {} stops", self.incarnation));
        self.world.tasks.kill(Owner::Flow(self.incarnation));
        pause().await;
        let drained = self.registry.drain(self.host.steady() + GRACE).await;
        self.endpoints().into_iter().for_each(|endpoint| self.world.tasks.kill(endpoint));
        pause().await;
        self.journal.close().await;
        until(|| self.writer_ended.get().then_some(())).await;
        if self.world.is_clustered {
            self.context.lease.give_up(!drained).await;
            self.context.notifier.notify_shards();
            let _ = notifications::send(&self.db, &self.context.notifier.take()).await;
        } else if drained {
            self.world.tables.write().mark_stopped_cleanly();
        }
        self.world.note(|| format!("process {} has stopped, clean: {drained}", self.incarnation));
        self.die();
    }
}
