//! What all processes of a simulation share: the time, the tables, the webhooks, the receivers, the oracle, and the
//! random generator that decides everything.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::domain::id::WebhookNum;
use crate::domain::moment::UnixMillis;
use crate::engine::bounds;
use crate::journal;
use crate::store::memory::{Hook, SharedRows, Tables, Webhooks};

use super::endpoint::Due;
use super::oracle::Oracle;
use super::process::Process;
use super::receivers::Receiver;
use super::tasks::{Owner, Tasks};

/// How many commits may be lost with a database.
const MOST_LOST: usize = 12;

pub(super) const START: i64 = 1_800_000_000_000;

impl Hook {
    pub(super) fn cap(&self) -> usize {
        if self.policy.ordered { 1 } else { self.policy.max_in_flight.into() }
    }
}

/// The bounds of a process, small enough to be reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) mailbox: usize,
    pub(super) permits: usize,
    pub(super) dispatch: bounds::DispatchBounds,
    pub(super) journal: journal::JournalBounds,
}

/// How often things go wrong by themselves, per mille.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trouble {
    pub(super) read_fails: u32,
    pub(super) batch_refused: u32,
    /// An endpoint's actor panics in the middle of a step.
    pub(super) panics: u32,
    /// An attempt panics.
    pub(super) attempt_crashes: u32,
    /// The store did what it was asked, and the answer is lost.
    pub(super) answer_lost: u32,
    /// A notification between nodes is lost.
    pub(super) call_lost: u32,
}

impl Trouble {
    pub(super) const NONE: Self =
        Self { read_fails: 0, batch_refused: 0, panics: 0, attempt_crashes: 0, answer_lost: 0, call_lost: 0 };
}

pub(super) struct World {
    pub(super) chance: RefCell<StdRng>,
    pub(super) tasks: Tasks,
    pub(super) tables: SharedRows<Tables>,
    /// What people have configured. No database that is lost takes it along.
    pub(super) hooks: SharedRows<Webhooks>,
    pub(super) receivers: RefCell<BTreeMap<WebhookNum, Receiver>>,
    pub(super) oracle: RefCell<Oracle>,
    pub(super) bounds: Bounds,
    pub(super) trouble: Cell<Trouble>,
    /// The machines; each runs one process at a time.
    pub(super) machines: Vec<Place>,
    /// Whether the processes are nodes that share a store; otherwise there is one machine.
    pub(super) is_clustered: bool,
    pub(super) incarnations: Cell<u32>,
    /// The endpoints that live.
    pub(super) live: RefCell<BTreeSet<Owner>>,
    /// The effects that the endpoint which takes a step now has not carried out yet.
    pub(super) effects: RefCell<VecDeque<Due>>,
    /// How many databases there have been before this one.
    pub(super) servers: Cell<u32>,
    /// The tables after each of the last commits, the newest last; kept only where a database is going to be lost.
    past: Option<RefCell<VecDeque<Tables>>>,
    epoch: Instant,
    elapsed: Cell<Duration>,
    was_set_back: Cell<bool>,
    /// Payload memory is above its limit.
    pub(super) tight: Cell<bool>,
    /// Sleeping tasks, by the end of their sleep.
    timers: RefCell<BTreeMap<(Duration, u64), Waker>>,
    sleeps: Cell<u64>,
    /// How many test events were published.
    pub(super) tests: Cell<usize>,
    /// Why the simulation has failed, where a panic would be caught.
    broken: RefCell<Option<Box<dyn Any + Send>>>,
    /// What happened; kept only when a failure is repeated to print it.
    history: Option<RefCell<Vec<String>>>,
}

/// A machine that runs a process.
#[derive(Default)]
pub(super) struct Place {
    pub(super) process: RefCell<Option<Rc<Process>>>,
    pub(super) is_starting: Cell<bool>,
    /// How far the machine's wall clock is ahead of the database's, in milliseconds.
    pub(super) skew: Cell<i64>,
    /// Nothing passes between the machine and the database.
    pub(super) is_cut_off: Cell<bool>,
    /// Renewals of the lease have no effect, though everything else works.
    pub(super) renews_in_vain: Cell<bool>,
    /// How many config changes the process has certainly applied.
    pub(super) followed_to: Cell<usize>,
    /// Whether a read has failed since the process last asked for config changes.
    pub(super) has_failed: Cell<bool>,
}

impl Place {
    /// The process asks for the config changes from this one on: it has read those before, and told its endpoints of
    /// them unless a read has failed.
    pub(super) fn follows_from(&self, change: usize) {
        if !self.has_failed.replace(false) {
            self.followed_to.set(change);
        }
    }
}

impl World {
    pub(super) fn new(
        (bounds, trouble): (Bounds, Trouble),
        (machines, is_clustered): (Vec<Place>, bool),
        chance: StdRng,
        with_history: bool,
    ) -> Self {
        let mut chance = chance;
        let past = (is_clustered && chance.random_bool(0.5)).then(RefCell::default);
        Self {
            chance: RefCell::new(chance),
            tasks: Tasks::default(),
            tables: SharedRows::default(),
            hooks: SharedRows::default(),
            receivers: RefCell::default(),
            oracle: RefCell::default(),
            bounds,
            trouble: Cell::new(trouble),
            machines,
            is_clustered,
            incarnations: Cell::new(0),
            live: RefCell::default(),
            effects: RefCell::default(),
            servers: Cell::new(0),
            past,
            epoch: Instant::now(),
            elapsed: Cell::new(Duration::ZERO),
            was_set_back: Cell::new(false),
            tight: Cell::new(false),
            timers: RefCell::default(),
            sleeps: Cell::new(0),
            tests: Cell::new(0),
            broken: RefCell::default(),
            history: with_history.then(RefCell::default),
        }
    }

    /// Ends the simulation after this turn.
    pub(super) fn fail(&self, why: Box<dyn Any + Send>) {
        self.broken.borrow_mut().get_or_insert(why);
    }

    /// Lets one task make progress. Answers whether one did.
    pub(super) fn turn(&self) -> bool {
        let has_moved = self.tasks.turn(&self.chance);
        let broken = self.broken.take();
        broken.map_or(has_moved, |why| resume_unwind(why))
    }

    /// Remembers the tables as they are now: a standby or a dump may have this state.
    pub(super) fn remember(&self) {
        let Some(past) = &self.past else { return };
        let mut past = past.borrow_mut();
        past.push_back(self.tables.read().clone());
        if past.len() > MOST_LOST {
            past.pop_front();
        }
    }

    pub(super) fn loses_databases(&self) -> bool {
        self.past.is_some()
    }

    /// The tables as they were `commits` commits ago; forgets all remembered states.
    fn go_back(&self, commits: usize) -> Option<Tables> {
        let mut past = self.past.as_ref()?.borrow_mut();
        let tables = past.len().checked_sub(1 + commits).map(|at| past.swap_remove_back(at))?;
        past.clear();
        tables
    }

    /// The primary fails, and a standby takes over that lacks the last commits. The nodes live on.
    pub(super) fn fail_over(&self, commits: usize) {
        let Some(mut standby) = self.go_back(commits) else { return };
        standby.promote(&self.tables.read());
        self.note(|| format!("a standby takes over that lacks {commits} commits"));
        self.replace_tables(standby);
    }

    /// Everything is lost except a dump, which lacks the last commits and is restored into a cluster that has counted
    /// few transactions.
    pub(super) fn restore(&self, commits: usize) {
        let Some(mut restored) = self.go_back(commits) else { return };
        self.processes().iter().for_each(|process| process.kill());
        self.tasks.reap();
        restored.restore(&self.tables.read(), self.pick(20) as u64);
        self.note(|| format!("a dump is restored that lacks {commits} commits"));
        self.replace_tables(restored);
    }

    fn replace_tables(&self, tables: Tables) {
        self.servers.set(self.servers.get() + 1);
        self.oracle.borrow_mut().goes_back(&self.tables.read(), &tables, self.servers.get());
        *self.tables.write() = tables;
        for process in self.processes() {
            self.oracle.borrow_mut().lost(process.incarnation, |_| true);
        }
    }

    pub(super) fn steady(&self) -> Instant {
        self.epoch + self.elapsed.get()
    }

    /// The time by the database's clock.
    pub(super) fn true_now(&self) -> UnixMillis {
        UnixMillis(START + i64::try_from(self.elapsed.get().as_millis()).unwrap_or(0))
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.elapsed.get()
    }

    pub(super) fn since_epoch(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.epoch)
    }

    /// The wall clock of a machine.
    pub(super) fn wall(&self, place: usize) -> UnixMillis {
        UnixMillis(self.true_now().0 + self.machines[place].skew.get())
    }

    pub(super) fn advance(&self, by: Duration) {
        self.elapsed.set(self.elapsed.get() + by);
        let now = self.elapsed.get();
        while let Some(entry) = self.timers.borrow_mut().first_entry().filter(|entry| entry.key().0 <= now) {
            entry.remove().wake();
        }
        self.tables.write().transactions.end_silent(self.true_now());
    }

    /// Sets the wall clock of a machine forward or back.
    pub(super) fn set_clock(&self, place: usize, by_ms: i64) {
        let skew = &self.machines[place].skew;
        skew.set(skew.get() + by_ms);
        self.was_set_back.set(self.was_set_back.get() || by_ms < 0);
        self.note(|| format!("the clock is set by {by_ms} ms"));
    }

    /// Whether a clock was ever set back. A delivery that waits until a moment may then be sent before that moment, or
    /// long after.
    pub(super) fn was_set_back(&self) -> bool {
        self.was_set_back.get()
    }

    /// Whether a moment that one process has written may be wrong by the clock of the next.
    pub(super) fn clocks_differ(&self) -> bool {
        self.was_set_back() || self.machines.iter().any(|place| place.skew.get() != self.machines[0].skew.get())
    }

    /// When the next sleep ends.
    pub(super) fn next_timer(&self) -> Option<Duration> {
        self.timers.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    /// True in `per_mille` of a thousand cases.
    pub(super) fn happens(&self, per_mille: u32) -> bool {
        per_mille > 0 && self.chance.borrow_mut().random_ratio(per_mille, 1000)
    }

    /// A random number below `from`.
    pub(super) fn pick(&self, from: usize) -> usize {
        self.chance.borrow_mut().random_range(0..from.max(1))
    }

    /// All live processes, frozen or not.
    pub(super) fn processes(&self) -> Vec<Rc<Process>> {
        self.machines.iter().filter_map(|place| place.process.borrow().clone()).collect()
    }

    /// This process, while it lives.
    pub(super) fn process(&self, incarnation: u32) -> Option<Rc<Process>> {
        self.processes().into_iter().find(|process| process.incarnation == incarnation)
    }

    /// A live process that is not frozen.
    pub(super) fn some_process(&self) -> Option<Rc<Process>> {
        let mut awake = self.processes();
        awake.retain(|process| !self.tasks.is_frozen(process.incarnation));
        (!awake.is_empty()).then(|| awake.swap_remove(self.pick(awake.len())))
    }

    /// Whether the process has noticed which database answers.
    pub(super) fn knows_its_database(&self, process: &Process) -> bool {
        self.tables.read().leases.is_known_to(&process.shard_set)
    }

    pub(super) fn knows_its_database_life(&self, incarnation: u32) -> bool {
        self.processes().iter().any(|process| process.incarnation == incarnation && self.knows_its_database(process))
    }

    /// The process of a node, while it lives.
    pub(super) fn process_of(&self, tables: &Tables, node: i64) -> Option<Rc<Process>> {
        let is_it = |process: &Rc<Process>| {
            process.shard_set.node() == Some(node) && tables.leases.is_known_to(&process.shard_set)
        };
        self.processes().into_iter().find(is_it)
    }

    pub(super) fn hook(&self, num: WebhookNum) -> Option<Hook> {
        self.hooks.read().living(num).cloned()
    }

    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        if let Some(history) = &self.history {
            history.borrow_mut().push(format!("{:>9.3} {}", self.elapsed.get().as_secs_f64(), what()));
        }
    }

    pub(super) fn history(&self) -> Vec<String> {
        self.history.as_ref().map(|history| history.borrow().clone()).unwrap_or_default()
    }
}

thread_local! {
    /// The world that this thread simulates.
    static CURRENT: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The world that this thread simulates. Futures of the engine must be `Send`, so what they go through has numbers
/// and asks here, instead of keeping the world.
pub(super) fn current() -> Rc<World> {
    CURRENT.with_borrow(Clone::clone).expect("a simulation runs on this thread")
}

/// Makes `world` the current one while `simulation` runs.
pub(super) fn with_current<T>(world: &Rc<World>, simulation: impl FnOnce() -> T) -> T {
    CURRENT.replace(Some(world.clone()));
    let result = simulation();
    CURRENT.take();
    result
}

/// A sleep in simulated time, which the scheduler advances.
pub(super) struct Sleep {
    until: Duration,
    num: u64,
}

impl Sleep {
    pub(super) fn until(until: Duration) -> Self {
        let sleeps = &current().sleeps;
        sleeps.set(sleeps.get() + 1);
        Self { until, num: sleeps.get() }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let world = current();
        if world.elapsed() >= self.until {
            return Poll::Ready(());
        }
        world.timers.borrow_mut().insert((self.until, self.num), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        current().timers.borrow_mut().remove(&(self.until, self.num));
    }
}

/// Sleeps in simulated time.
pub(super) fn sleep(wait: Duration) -> Sleep {
    Sleep::until(current().elapsed() + wait)
}
