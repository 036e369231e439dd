//! One process of the engine: what a `kill -9` takes. Mirrors how [`crate::engine::Engine`] starts and stops, and the
//! due poller. Several processes are nodes over the same tables; what makes them nodes is in [`super::node_lease`],
//! [`super::member`] and [`super::follower`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use crate::domain::id::{EventSeq, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::engine::endpoint::EndpointEvent;
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::lane::{AHEAD, Mode, Now};
use crate::engine::permits::Permits;
use crate::engine::routes::RouteTable;
use crate::store::fanout_scan::ScanCursor;
use crate::store::journal::Journal;
use crate::store::journal::feed::Feed;
use crate::store::journal::model::{Model, Tables, Writer};
use crate::store::leases::{Continuity, ShardNum, ShardSet};
use crate::store::ledger::Ledger;

use super::member::Seen;
use super::node_lease::{self, LEASE};
use super::registry::Registry;
use super::tasks::Owner;
use super::world::{Hook, Unreadable, World};

/// As in the engine.
pub(super) const STORE_PAUSE: Duration = Duration::from_millis(500);
const WAKER_EVERY: Duration = Duration::from_secs(1);
/// In ticks of the due poller: a minute, as in the registry.
const PRUNE_EVERY: u32 = 60;

/// How long a stop waits for requests in flight.
const GRACE: Duration = Duration::from_secs(3);

pub(super) struct Process {
    pub(super) world: Rc<World>,
    pub(super) place: usize,
    pub(super) incarnation: u32,
    pub(super) shard_set: ShardSet,
    /// Until when the lease may be acted upon.
    pub(super) until: Cell<Duration>,
    /// Shards that are being handed off.
    pub(super) leaving: RefCell<BTreeSet<ShardNum>>,
    pub(super) moves: RefCell<Option<Seen>>,
    /// Another node has sent a notification: shards may be acquired.
    pub(super) is_notified: Cell<bool>,
    /// Nothing passes between the process and the database.
    pub(super) is_cut_off: Cell<bool>,
    /// Renewals have no effect, though everything else works.
    pub(super) renews_in_vain: Cell<bool>,
    pub(super) is_stopping: Cell<bool>,
    pub(super) cursor: RefCell<ScanCursor>,
    /// `ScanState::committed`.
    pub(super) committed: Cell<EventSeq>,
    /// How many config changes the process has applied.
    pub(super) followed_to: Cell<usize>,
    pub(super) journal: Journal,
    pub(super) feed: Arc<Feed>,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) routes: RouteTable,
    pub(super) permits: Permits,
    pub(super) draining: CancellationToken,
    pub(super) changing: RwLock<()>,
    pub(super) holds: RefCell<BTreeMap<WebhookNum, usize>>,
    pub(super) registry: RefCell<Registry>,
    pub(super) notices: RefCell<VecDeque<EndpointEvent>>,
    /// Webhooks with new rows that their endpoints do not know.
    pub(super) overflow: RefCell<Vec<WebhookNum>>,
    pub(super) writer: RefCell<Writer>,
    pub(super) writer_ended: Cell<bool>,
    /// A batch is committed that the ledger has not been told of.
    pub(super) untold: Cell<bool>,
    /// `EngineContext::offered_to`.
    pub(super) offered_to: Cell<EventSeq>,
}

impl Process {
    /// `Engine::start`.
    pub(super) fn start(world: &Rc<World>, place: usize) -> Rc<Self> {
        let wall = world.true_now().0 + world.machines[place].skew.get();
        let shard_set = join(world, UnixMillis(wall));
        let room = world.bounds.records;
        let Model { journal, feed, ledger, writer } =
            Model::start(&world.tables.borrow(), &shard_set, room, UnixMillis(wall));
        let routes = RouteTable::default();
        for hook in world.hooks.borrow().values().filter(|hook| !hook.is_deleted) {
            routes.set(hook.route());
        }
        world.incarnations.set(world.incarnations.get() + 1);
        let process = Rc::new(Self {
            world: world.clone(),
            place,
            incarnation: world.incarnations.get(),
            shard_set,
            until: Cell::new(node_lease::act_until(world)),
            leaving: RefCell::default(),
            moves: RefCell::default(),
            is_notified: Cell::default(),
            is_cut_off: Cell::default(),
            renews_in_vain: Cell::default(),
            is_stopping: Cell::default(),
            cursor: RefCell::default(),
            committed: Cell::new(EventSeq::ZERO),
            followed_to: Cell::new(world.config_changes.borrow().len()),
            journal,
            feed,
            ledger,
            routes,
            permits: Permits::new(world.bounds.permits),
            draining: CancellationToken::new(),
            changing: RwLock::new(()),
            holds: RefCell::default(),
            registry: RefCell::default(),
            notices: RefCell::default(),
            overflow: RefCell::default(),
            writer: RefCell::new(writer),
            writer_ended: Cell::new(false),
            untold: Cell::new(false),
            offered_to: Cell::new(EventSeq::ZERO),
        });
        world.note(|| format!("process {} starts as node {:?}", process.incarnation, process.shard_set.node()));
        *world.machines[place].process.borrow_mut() = Some(process.clone());
        process.begin();
        process
    }

    fn begin(self: &Rc<Self>) {
        self.spawn(self.clone().write_journal());
        self.spawn(self.clone().hear_events());
        self.flow(self.clone().dispatch());
        self.flow(self.clone().run_waker());
        if self.world.is_clustered {
            self.spawn(self.clone().renew());
            self.flow(self.clone().take_part());
            self.flow(self.clone().follow_config());
        }
    }

    pub(super) fn wall(&self) -> UnixMillis {
        UnixMillis(self.world.true_now().0 + self.world.machines[self.place].skew.get())
    }

    pub(super) fn now(&self) -> Now {
        Now { wall: self.wall(), steady: self.world.steady(), tight: self.world.tight.get() }
    }

    /// Reads from the store, which takes a while and may fail.
    pub(super) async fn read<T>(&self, read: impl FnOnce(&Tables) -> T) -> Result<T, Unreadable> {
        self.pause().await;
        if self.is_cut_off.get() || self.world.happens(self.world.trouble.get().read_fails) {
            return Err(Unreadable);
        }
        let read = read(&self.world.tables.borrow());
        // The answer may be stale when it arrives.
        for _ in 0..=self.world.pick(3) {
            self.pause().await;
        }
        Ok(read)
    }

    /// `ShardSet::must_be_unbroken`.
    pub(super) fn is_unbroken(&self, tables: &Tables) -> bool {
        tables.leases.continuity(&self.shard_set) == Continuity::Unbroken && !self.shard_set.has_diverged()
    }

    /// A statement that writes: it may fail, and with a network its answer may be lost.
    pub(super) async fn write<T>(&self, write: impl FnOnce(&mut Tables) -> T) -> Result<T, Unreadable> {
        self.write_when(|_| true, write).await
    }

    /// The same, once no transaction holds the locks that `write` needs.
    pub(super) async fn write_when<T>(
        &self,
        may_lock: impl Fn(&Tables) -> bool,
        write: impl FnOnce(&mut Tables) -> T,
    ) -> Result<T, Unreadable> {
        self.pause().await;
        let trouble = self.world.trouble.get();
        if self.is_cut_off.get() || self.world.is_clustered && self.world.happens(trouble.read_fails) {
            return Err(Unreadable);
        }
        self.world.tasks.until(|| may_lock(&self.world.tables.borrow()).then_some(())).await;
        let written = write(&mut self.world.tables.borrow_mut());
        self.world.remember();
        self.pause().await;
        if self.world.happens(trouble.answer_lost) { Err(Unreadable) } else { Ok(written) }
    }

    /// Spawns a task that ends when the process begins to stop.
    pub(super) fn flow(&self, task: impl Future<Output = ()> + 'static) {
        self.world.tasks.spawn(Owner::Flow(self.incarnation), task);
    }

    /// `kill -9`.
    pub(super) fn kill(&self) {
        self.world.note(|| format!("process {} is killed", self.incarnation));
        self.die();
    }

    fn die(&self) {
        self.world.tasks.kill(Owner::Process(self.incarnation));
        self.world.tasks.thaw(self.incarnation);
        self.registry.borrow_mut().forget_all();
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
        self.pause().await;
        self.draining.cancel();
        let by = self.world.elapsed() + GRACE;
        self.world.wake_at(by);
        for endpoint in self.registry.borrow_mut().drain() {
            self.spawn(async move { endpoint.drain().await });
        }
        let over = || (self.world.elapsed() >= by).then_some(false);
        let drained = self.world.tasks.until(|| self.registry.borrow().drained().or_else(over)).await;
        for endpoint in self.registry.borrow().live() {
            self.world.tasks.kill(endpoint.owner());
        }
        self.pause().await;
        self.journal.close().await;
        self.world.tasks.until(|| self.writer_ended.get().then_some(())).await;
        if self.world.is_clustered {
            self.give_up(!drained).await;
            self.notify_shards();
        } else if drained {
            self.world.tables.borrow_mut().mark_stopped_cleanly();
        }
        self.world.note(|| format!("process {} has stopped, clean: {drained}", self.incarnation));
        self.die();
    }

    /// `due_poller::run`, and the registry's periodic pruning.
    async fn run_waker(self: Rc<Self>) {
        for tick in 1u32.. {
            let next = self.world.elapsed() + WAKER_EVERY;
            if tick.is_multiple_of(PRUNE_EVERY) {
                let is_owed = |num| self.ledger.lock().pending(num) > 0;
                self.registry.borrow_mut().prune(self.offered_to.get(), is_owed);
            }
            if let Ok(mut nums) = self.webhooks_with_due().await {
                nums.retain(|num| self.shard_set.serves(*num));
                if !nums.is_empty() {
                    self.remind(nums).await;
                }
            }
            self.world.tasks.until(|| (self.world.elapsed() >= next).then_some(())).await;
        }
    }

    /// `Store::webhooks_with_due`.
    async fn webhooks_with_due(&self) -> Result<Vec<WebhookNum>, Unreadable> {
        let horizon = self.wall().plus(AHEAD);
        let wanted = |hook: &Hook, due: Option<_>| hook.is_deleted || hook.is_open() && due <= Some(horizon);
        let read = self.read(|tables| {
            let hooks = self.world.hooks.borrow();
            let hooks = tables.with_pending_rows().filter_map(|num| hooks.get(&num));
            let due = |hook: &&Hook| wanted(hook, tables.due_moments(hook.num).min());
            hooks.filter(due).map(|hook| hook.num).collect()
        });
        read.await
    }

    /// `endpoint_config::load`.
    pub(super) async fn load(
        &self,
        nums: &[WebhookNum],
    ) -> Result<BTreeMap<WebhookNum, Arc<EndpointConfig>>, Unreadable> {
        let read = self.read(|tables| {
            let hooks = nums.iter().filter_map(|num| self.world.hook(*num));
            let read = |hook: Hook| (tables.health(hook.num), tables.has_pending_rows(hook.num), hook);
            hooks.map(read).collect::<Vec<_>>()
        });
        let config = |(health, has_rows, hook): (_, _, Hook)| {
            let config = EndpointConfig {
                num: hook.num,
                id: WebhookId::generate(),
                tenant: hook.tenant,
                tenant_id: None,
                name: String::new(),
                version: hook.version,
                mode: if hook.is_active && !hook.is_paused { Mode::Active } else { Mode::Paused },
                is_active: hook.is_active,
                url: hook.url,
                health,
                policy: hook.policy,
                target: Err(String::new()),
                has_rows,
                changes_at: None,
            };
            (hook.num, Arc::new(config))
        };
        Ok(read.await?.into_iter().map(config).collect())
    }

    /// `EndpointConfig::mode_now`.
    pub(super) fn mode_now(&self, config: &EndpointConfig) -> Mode {
        if self.holds.borrow().contains_key(&config.num) { Mode::Paused } else { config.mode }
    }

    /// `disable::switch_off`.
    pub(super) async fn switch_off(&self, config: &EndpointConfig) -> Option<Option<Arc<EndpointConfig>>> {
        loop {
            let changing = self.changing.write().await;
            if self.read(|_| ()).await.is_ok() {
                self.disable_row(config);
                break;
            }
            drop(changing);
            self.draining.run_until_cancelled(self.world.sleep(STORE_PAUSE)).await?;
        }
        self.pause().await;
        self.load(&[config.num]).await.ok().map(|mut loaded| loaded.remove(&config.num))
    }

    /// `Store::disable_webhook`, and the change of the route.
    fn disable_row(&self, config: &EndpointConfig) {
        let mut hooks = self.world.hooks.borrow_mut();
        let Some(hook) = hooks.get_mut(&config.num) else { return };
        if hook.version == config.version && hook.is_active {
            (hook.is_active, hook.version) = (false, hook.version + 1);
            self.world.changed(hook.num);
            self.routes.deactivate(hook.tenant, hook.num);
        }
    }

    /// `Backlog::forget`.
    pub(super) async fn forget_in_ledger(&self, webhooks: &[WebhookNum]) {
        let _ = self.journal.barrier().await;
        let mut ledger = self.ledger.lock();
        webhooks.iter().for_each(|webhook| ledger.forget(*webhook));
    }

    /// `Backlog::look`, for one webhook.
    pub(super) async fn look(self: Rc<Self>, webhook: WebhookNum) {
        let Some(question) = self.ledger.lock().look_up(webhook) else { return };
        if let Ok(found) = self.read(|tables| tables.pending_after(&question)).await
            && self.journal.barrier().await.is_ok()
        {
            self.ledger.lock().learn(question, &found);
        }
    }
}

/// `Store::join`.
fn join(world: &World, wall: UnixMillis) -> ShardSet {
    let mut tables = world.tables.borrow_mut();
    if !world.is_clustered {
        return tables.join_alone(wall);
    }
    tables.adopt_foreign_rows(world.elapsed());
    tables.leases.join(world.true_now(), LEASE)
}
