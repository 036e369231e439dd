//! What is the same for every process of a simulation: the clocks, the tables, the webhooks, the receivers, the book of
//! what was sent, and the chance that decides everything.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::clock::UnixMillis;
use crate::delivery::policy::Policy;
use crate::engine::lane::Now;
use crate::id::{TenantNum, WebhookNum};
use crate::store::journal::model::Tables;
use crate::store::webhooks::Route;

use super::book::Book;
use super::process::Process;
use super::receivers::Receiver;
use super::tasks::Tasks;

pub(super) const START: i64 = 1_800_000_000_000;

/// A webhook's row.
#[derive(Debug, Clone)]
pub(super) struct Hook {
    pub(super) num: WebhookNum,
    pub(super) tenant: TenantNum,
    pub(super) url: String,
    pub(super) events: Vec<String>,
    pub(super) policy: Arc<Policy>,
    pub(super) is_active: bool,
    pub(super) is_paused: bool,
    pub(super) is_deleted: bool,
    pub(super) version: i64,
}

impl Hook {
    pub(super) fn route(&self) -> Route {
        let (num, tenant, events, is_active) = (self.num, self.tenant, self.events.clone(), self.is_active);
        Route { num, tenant, events, is_active }
    }

    /// Whether it may be sent anything, as far as its row says.
    pub(super) fn is_open(&self) -> bool {
        self.is_active && !self.is_paused && !self.is_deleted
    }

    pub(super) fn cap(&self) -> usize {
        if self.policy.ordered { 1 } else { self.policy.max_in_flight.into() }
    }
}

/// The bounds of a process, small enough to be met.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) mailbox: usize,
    pub(super) permits: usize,
    pub(super) records: usize,
    pub(super) batch: usize,
    pub(super) chunk: usize,
    pub(super) read: usize,
    pub(super) porter: usize,
    pub(super) slice: usize,
}

/// How often things go wrong by themselves, in a thousand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trouble {
    pub(super) read_fails: u32,
    pub(super) batch_refused: u32,
    /// An endpoint's actor panics amid a turn.
    pub(super) panics: u32,
    /// An attempt panics.
    pub(super) attempt_crashes: u32,
}

impl Trouble {
    pub(super) const NONE: Self = Self { read_fails: 0, batch_refused: 0, panics: 0, attempt_crashes: 0 };
}

pub(super) struct World {
    pub(super) chance: RefCell<StdRng>,
    pub(super) tasks: Tasks,
    pub(super) tables: RefCell<Tables>,
    pub(super) hooks: RefCell<BTreeMap<WebhookNum, Hook>>,
    pub(super) receivers: RefCell<BTreeMap<WebhookNum, Receiver>>,
    pub(super) book: RefCell<Book>,
    pub(super) bounds: Bounds,
    pub(super) trouble: Cell<Trouble>,
    pub(super) process: RefCell<Option<Rc<Process>>>,
    pub(super) lives: Cell<u32>,
    epoch: Instant,
    elapsed: Cell<Duration>,
    /// How far the wall clock was set forward or back, in milliseconds.
    skew: Cell<i64>,
    was_set_back: Cell<bool>,
    /// Payloads take more memory than they may.
    pub(super) tight: Cell<bool>,
    timers: RefCell<BTreeSet<Duration>>,
    /// Test events that were published.
    pub(super) tests: Cell<usize>,
    /// What happened; kept only when a failure is told again.
    history: Option<RefCell<Vec<String>>>,
}

impl World {
    pub(super) fn new(bounds: Bounds, trouble: Trouble, chance: StdRng, with_history: bool) -> Self {
        Self {
            chance: RefCell::new(chance),
            tasks: Tasks::default(),
            tables: RefCell::default(),
            hooks: RefCell::default(),
            receivers: RefCell::default(),
            book: RefCell::default(),
            bounds,
            trouble: Cell::new(trouble),
            process: RefCell::new(None),
            lives: Cell::new(0),
            epoch: Instant::now(),
            elapsed: Cell::new(Duration::ZERO),
            skew: Cell::new(0),
            was_set_back: Cell::new(false),
            tight: Cell::new(false),
            timers: RefCell::default(),
            tests: Cell::new(0),
            history: with_history.then(RefCell::default),
        }
    }

    pub(super) fn now(&self) -> Now {
        Now { wall: self.wall(), steady: self.epoch + self.elapsed.get(), tight: self.tight.get() }
    }

    pub(super) fn wall(&self) -> UnixMillis {
        UnixMillis(START + i64::try_from(self.elapsed.get().as_millis()).unwrap_or(0) + self.skew.get())
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.elapsed.get()
    }

    pub(super) fn since_epoch(&self, at: Instant) -> Duration {
        at - self.epoch
    }

    pub(super) fn advance(&self, by: Duration) {
        self.elapsed.set(self.elapsed.get() + by);
        let later = self.timers.borrow_mut().split_off(&(self.elapsed.get() + Duration::from_nanos(1)));
        *self.timers.borrow_mut() = later;
    }

    /// Somebody sets the wall clock forward or back.
    pub(super) fn set_clock(&self, by_ms: i64) {
        self.skew.set(self.skew.get() + by_ms);
        self.was_set_back.set(self.was_set_back.get() || by_ms < 0);
        self.note(|| format!("the clock is set by {by_ms} ms"));
    }

    /// Whether the clock was ever set back. What waits until a moment may be sent before it then, or long after.
    pub(super) fn was_set_back(&self) -> bool {
        self.was_set_back.get()
    }

    /// Somebody wants to be there at this moment.
    pub(super) fn wake_at(&self, at: Duration) {
        if at > self.elapsed.get() {
            self.timers.borrow_mut().insert(at);
        }
    }

    /// When somebody wants to be there next.
    pub(super) fn next_timer(&self) -> Option<Duration> {
        self.timers.borrow().first().copied()
    }

    pub(super) async fn sleep(&self, wait: Duration) {
        let until = self.elapsed.get() + wait;
        self.wake_at(until);
        self.tasks.until(|| (self.elapsed.get() >= until).then_some(())).await;
    }

    /// One case in a thousand, so often.
    pub(super) fn happens(&self, per_mille: u32) -> bool {
        per_mille > 0 && self.chance.borrow_mut().random_ratio(per_mille, 1000)
    }

    /// One of so many.
    pub(super) fn pick(&self, from: usize) -> usize {
        self.chance.borrow_mut().random_range(0..from.max(1))
    }

    /// Reads from the store, which takes a while and may fail.
    pub(super) async fn read<T>(&self, read: impl FnOnce(&Tables) -> T) -> Result<T, Unreadable> {
        self.tasks.pause().await;
        if self.happens(self.trouble.get().read_fails) {
            return Err(Unreadable);
        }
        let read = read(&self.tables.borrow());
        // By the time that the answer is there, it may be stale.
        for _ in 0..=self.pick(3) {
            self.tasks.pause().await;
        }
        Ok(read)
    }

    /// The live process, if there is one.
    pub(super) fn process(&self) -> Option<Rc<Process>> {
        self.process.borrow().clone()
    }

    pub(super) fn hook(&self, num: WebhookNum) -> Option<Hook> {
        self.hooks.borrow().get(&num).filter(|hook| !hook.is_deleted).cloned()
    }

    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        if let Some(history) = &self.history {
            history.borrow_mut().push(format!("{:>9.3} {}", self.elapsed.get().as_secs_f64(), what()));
        }
    }

    pub(super) fn history_is_kept(&self) -> bool {
        self.history.is_some()
    }

    pub(super) fn history(&self) -> Vec<String> {
        self.history.as_ref().map(|history| history.borrow().clone()).unwrap_or_default()
    }
}

/// The store did not answer.
#[derive(Debug)]
pub(super) struct Unreadable;
