//! One life of the engine: what a `kill -9` takes. Mirrors how [`crate::engine::Engine`] starts and stops, the journal's
//! writer task and the waker.
//!
//! With several nodes, each is a process of its own over the same tables, and what one owns is decided here.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use crate::engine::endpoint::Notice;
use crate::engine::lane::{AHEAD, Mode};
use crate::engine::permits::Permits;
use crate::engine::routes::RouteTable;
use crate::engine::serving::Serving;
use crate::id::{WebhookId, WebhookNum};
use crate::store::journal::Journal;
use crate::store::journal::feed::Feed;
use crate::store::journal::model::{Model, Writer};
use crate::store::ledger::Ledger;
use crate::store::state::Suspect;

use super::registry::Registry;
use super::tasks::Owner;
use super::words;
use super::world::{Hook, Unreadable, World};

/// As in the engine.
pub(super) const STORE_PAUSE: Duration = Duration::from_millis(500);
const WAKER_EVERY: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long a stop waits for requests under way.
const GRACE: Duration = Duration::from_secs(3);

pub(super) struct Process {
    pub(super) world: Rc<World>,
    pub(super) life: u32,
    pub(super) journal: Journal,
    pub(super) feed: Arc<Feed>,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) routes: RouteTable,
    pub(super) permits: Permits,
    pub(super) quiet: CancellationToken,
    pub(super) changing: RwLock<()>,
    pub(super) holds: RefCell<BTreeMap<WebhookNum, usize>>,
    pub(super) registry: RefCell<Registry>,
    pub(super) notices: RefCell<VecDeque<Notice>>,
    /// Webhooks for which rows were made that their endpoints do not know of.
    pub(super) overflow: RefCell<Vec<WebhookNum>>,
    pub(super) suspect: Suspect,
    writer: RefCell<Writer>,
    writer_ended: Cell<bool>,
    /// Something is committed that the ledger was not told of.
    pub(super) untold: Cell<bool>,
}

impl Process {
    /// `Engine::start`.
    pub(super) fn start(world: &Rc<World>) -> Rc<Self> {
        let now = world.wall();
        let suspect = world.tables.borrow_mut().mark_started(now);
        let Model { journal, feed, ledger, writer } = Model::start(&world.tables.borrow(), world.bounds.records, now);
        let routes = RouteTable::default();
        for hook in world.hooks.borrow().values().filter(|hook| !hook.is_deleted) {
            routes.set(hook.route());
        }
        world.lives.set(world.lives.get() + 1);
        let process = Rc::new(Self {
            world: world.clone(),
            life: world.lives.get(),
            journal,
            feed,
            ledger,
            routes,
            permits: Permits::new(world.bounds.permits),
            quiet: CancellationToken::new(),
            changing: RwLock::new(()),
            holds: RefCell::default(),
            registry: RefCell::default(),
            notices: RefCell::default(),
            overflow: RefCell::default(),
            suspect,
            writer: RefCell::new(writer),
            writer_ended: Cell::new(false),
            untold: Cell::new(false),
        });
        world.note(|| format!("process {} starts; suspect: {suspect:?}", process.life));
        *world.process.borrow_mut() = Some(process.clone());
        process.spawn(process.clone().write());
        process.spawn(process.clone().hear_notices());
        process.flow(process.clone().dispatch());
        process.flow(process.clone().run_waker());
        process
    }

    /// Whoever is spawned ends when the process begins to stop.
    pub(super) fn flow(&self, task: impl Future<Output = ()> + 'static) {
        self.world.tasks.spawn(Owner::Flow(self.life), task);
    }

    /// `kill -9`.
    pub(super) fn kill(&self) {
        self.world.note(|| format!("process {} is killed", self.life));
        self.die();
    }

    fn die(&self) {
        self.world.tasks.kill(Owner::Process(self.life));
        self.registry.borrow_mut().forget_all();
        *self.world.process.borrow_mut() = None;
        let mut book = self.world.book.borrow_mut();
        book.process_died(self.life);
        book.forget_operators();
    }

    /// `Engine::drain` and `Engine::close`. Whatever had to be dropped makes it a crash.
    pub(super) async fn stop(self: Rc<Self>) {
        self.world.note(|| format!("process {} stops", self.life));
        self.world.tasks.kill(Owner::Flow(self.life));
        self.pause().await;
        self.quiet.cancel();
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
        if drained {
            self.world.tables.borrow_mut().mark_stopped_cleanly();
        }
        self.world.note(|| format!("process {} has stopped, clean: {drained}", self.life));
        self.die();
    }

    /// `Writer::run`: gathers, commits sooner or later, tells.
    async fn write(self: Rc<Self>) {
        loop {
            let most = 1 + self.world.pick(self.world.bounds.batch);
            let gathered = || match self.writer.borrow_mut().gather(most) {
                None => Some(false),
                Some(true) => Some(true),
                Some(false) => None,
            };
            if !self.world.tasks.until(gathered).await {
                self.writer_ended.set(true);
                return;
            }
            self.pause().await;
            if self.commit().await {
                self.tell().await;
            }
        }
    }

    /// `Writer::settle`; answers whether there was anything to commit in the end.
    async fn commit(&self) -> bool {
        while self.world.happens(self.world.trouble.get().batch_refused) {
            self.world.note(|| "a batch is refused".to_owned());
            let after_preparing = self.world.happens(500);
            if !self.writer.borrow_mut().refuse(after_preparing) {
                return false;
            }
            self.world.sleep(RETRY_PAUSE).await;
        }
        let now = self.world.wall();
        self.writer.borrow_mut().commit(&mut self.world.tables.borrow_mut(), now);
        self.world.note(|| format!("committed: {}", words::records(self.writer.borrow().batch())));
        true
    }

    /// `Writer::announce`. A process that dies on the way has committed what nobody was told of.
    async fn tell(&self) {
        super::checker::fanouts_cover(&self.world.tables.borrow());
        self.untold.set(true);
        self.pause().await;
        self.writer.borrow_mut().answer();
        self.pause().await;
        self.writer.borrow_mut().announce(self.world.wall());
        self.untold.set(false);
        self.world.note(|| "and told of".to_owned());
        if self.world.happens(100) {
            super::checker::ledger_agrees(self);
        }
    }

    /// `waker::run`.
    async fn run_waker(self: Rc<Self>) {
        loop {
            let next = self.world.elapsed() + WAKER_EVERY;
            if let Ok(nums) = self.webhooks_with_due().await
                && !nums.is_empty()
            {
                self.remind(nums).await;
            }
            self.world.tasks.until(|| (self.world.elapsed() >= next).then_some(())).await;
        }
    }

    /// `Store::webhooks_with_due`.
    async fn webhooks_with_due(&self) -> Result<Vec<WebhookNum>, Unreadable> {
        let horizon = self.world.wall().plus(AHEAD);
        let hooks = self.world.hooks.borrow().clone();
        let wanted = move |hook: &Hook, due: Option<_>| hook.is_deleted || hook.is_open() && due <= Some(horizon);
        let read = self.world.read(|tables| {
            let hooks = tables.with_pending_rows().filter_map(|num| hooks.get(&num));
            let due = |hook: &&Hook| wanted(hook, tables.due_moments(hook.num).min());
            hooks.filter(due).map(|hook| hook.num).collect()
        });
        read.await
    }

    /// `serving::load`.
    pub(super) async fn load(&self, nums: &[WebhookNum]) -> Result<BTreeMap<WebhookNum, Arc<Serving>>, Unreadable> {
        let read = self.world.read(|tables| {
            let hooks = nums.iter().filter_map(|num| self.world.hook(*num));
            let read = |hook: Hook| (tables.health(hook.num), tables.has_pending_rows(hook.num), hook);
            hooks.map(read).collect::<Vec<_>>()
        });
        let serving = |(health, has_rows, hook): (_, _, Hook)| {
            let serving = Serving {
                num: hook.num,
                id: WebhookId::generate(),
                tenant: hook.tenant,
                name: String::new(),
                version: hook.version,
                mode: if hook.is_active && !hook.is_paused { Mode::Open } else { Mode::Held },
                is_active: hook.is_active,
                url: hook.url,
                health,
                policy: hook.policy,
                target: Err(String::new()),
                has_rows,
                changes_at: None,
            };
            (hook.num, Arc::new(serving))
        };
        Ok(read.await?.into_iter().map(serving).collect())
    }

    /// `Serving::mode_now`.
    pub(super) fn mode_now(&self, serving: &Serving) -> Mode {
        if self.holds.borrow().contains_key(&serving.num) { Mode::Held } else { serving.mode }
    }

    /// `disable::switch_off`.
    pub(super) async fn switch_off(&self, serving: &Serving) -> Option<Option<Arc<Serving>>> {
        loop {
            let changing = self.changing.write().await;
            if self.world.read(|_| ()).await.is_ok() {
                self.disable_row(serving);
                break;
            }
            drop(changing);
            self.quiet.run_until_cancelled(self.world.sleep(STORE_PAUSE)).await?;
        }
        self.pause().await;
        self.load(&[serving.num]).await.ok().map(|mut loaded| loaded.remove(&serving.num))
    }

    /// `Store::disable_webhook` and the route.
    fn disable_row(&self, serving: &Serving) {
        let mut hooks = self.world.hooks.borrow_mut();
        let Some(hook) = hooks.get_mut(&serving.num) else { return };
        if hook.version == serving.version && hook.is_active {
            (hook.is_active, hook.version) = (false, hook.version + 1);
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
        if let Ok(found) = self.world.read(|tables| tables.pending_after(&question)).await
            && self.journal.barrier().await.is_ok()
        {
            self.ledger.lock().learn(question, &found);
        }
    }
}
