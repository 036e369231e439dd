//! The tasks of simulated processes: futures that are polled one at a time, in random order. The tasks of an actor or a
//! process end when it dies. A task is polled when it was woken. The world wakes no task: a task that waits for something
//! in it watches, and is polled at every turn.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use rand::RngExt;
use rand::rngs::StdRng;

/// What a task ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// A process, by its incarnation.
    Process(u32),
    /// The tasks of a process that dispatch events and follow changes: they end first when the process stops.
    Flow(u32),
    /// An endpoint's actor, by incarnation and generation.
    Endpoint(u32, u64),
}

impl Owner {
    pub(super) fn incarnation(self) -> u32 {
        match self {
            Self::Process(incarnation) | Self::Flow(incarnation) | Self::Endpoint(incarnation, _) => incarnation,
        }
    }

    fn ends_with(self, other: Self) -> bool {
        self == other || other == Self::Process(self.incarnation())
    }
}

struct Task {
    owner: Owner,
    future: Pin<Box<dyn Future<Output = ()>>>,
    woken: Arc<Woken>,
    /// Waits for something in the world.
    watches: bool,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

thread_local! {
    /// The task that is being polled waits in [`until`].
    static WATCHES: Cell<bool> = const { Cell::new(false) };
    /// Counts what tasks have found in the world.
    static FOUND: Cell<u64> = const { Cell::new(0) };
}

/// Lets other tasks have a turn.
pub(super) async fn pause() {
    let mut paused = false;
    poll_fn(|context| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits until `look` finds something in the world.
pub(super) async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let found = poll_fn(|_| {
        let found = look();
        WATCHES.set(WATCHES.get() || found.is_none());
        found.map_or(Poll::Pending, Poll::Ready)
    })
    .await;
    FOUND.set(FOUND.get() + 1);
    found
}

#[derive(Default)]
pub(super) struct Tasks {
    /// `None` where a task is being polled or has ended.
    all: RefCell<Vec<Option<Task>>>,
    /// Tasks that were spawned since the last turn.
    fresh: RefCell<Vec<Task>>,
    /// Owners that have died since the last turn.
    died: RefCell<Vec<Owner>>,
    /// Owners whose tasks are being dropped.
    ending: RefCell<Vec<Owner>>,
    /// Frozen processes.
    frozen: RefCell<BTreeSet<u32>>,
}

impl Tasks {
    pub(super) fn spawn(&self, owner: Owner, future: impl Future<Output = ()> + 'static) {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        self.fresh.borrow_mut().push(Task { owner, future: Box::pin(future), woken, watches: false });
    }

    /// Drops everything that ends with `owner`, as soon as no task is being polled.
    pub(super) fn kill(&self, owner: Owner) {
        self.died.borrow_mut().push(owner);
    }

    /// `SIGSTOP`.
    pub(super) fn freeze(&self, incarnation: u32) {
        self.frozen.borrow_mut().insert(incarnation);
    }

    /// `SIGCONT`.
    pub(super) fn thaw(&self, incarnation: u32) {
        self.frozen.borrow_mut().remove(&incarnation);
    }

    pub(super) fn is_frozen(&self, incarnation: u32) -> bool {
        self.frozen.borrow().contains(&incarnation)
    }

    /// Lets one task make progress. Answers whether one did.
    pub(super) fn turn(&self, chance: &RefCell<StdRng>) -> bool {
        self.reap();
        let fresh = std::mem::take(&mut *self.fresh.borrow_mut());
        let mut ready: Vec<usize> = {
            let mut all = self.all.borrow_mut();
            all.retain(Option::is_some);
            all.extend(fresh.into_iter().map(Some));
            let is_ready = |task: &Task| task.watches || task.woken.0.load(Ordering::Relaxed);
            let is_awake = |task: &Task| !self.is_frozen(task.owner.incarnation());
            let ready = |task: &Option<Task>| task.as_ref().is_some_and(|task| is_ready(task) && is_awake(task));
            all.iter().enumerate().filter(|(_, task)| ready(task)).map(|(place, _)| place).collect()
        };
        while !ready.is_empty() {
            let chosen = chance.borrow_mut().random_range(0..ready.len());
            if self.poll(ready.swap_remove(chosen)) {
                return true;
            }
        }
        false
    }

    /// Answers whether the task made progress.
    fn poll(&self, place: usize) -> bool {
        let Some(mut task) = self.all.borrow_mut()[place].take() else { return false };
        let (was_woken, before) = (task.woken.0.swap(false, Ordering::Relaxed), FOUND.get());
        WATCHES.set(false);
        let polled = task.future.as_mut().poll(&mut Context::from_waker(&Waker::from(task.woken.clone())));
        task.watches = WATCHES.get();
        if polled.is_pending() {
            self.all.borrow_mut()[place] = Some(task);
        }
        was_woken || polled.is_ready() || FOUND.get() != before
    }

    /// Drops the tasks of dead owners. Nothing is borrowed meanwhile, because dropping a task may change the tables or
    /// the oracle.
    pub(super) fn reap(&self) {
        let died = std::mem::take(&mut *self.died.borrow_mut());
        if died.is_empty() {
            return;
        }
        let all = std::mem::take(&mut *self.all.borrow_mut()).into_iter().flatten();
        let fresh = std::mem::take(&mut *self.fresh.borrow_mut());
        let is_dead = |task: &Task| died.iter().any(|dead| task.owner.ends_with(*dead));
        let (dead, living): (Vec<Task>, Vec<Task>) = all.chain(fresh).partition(is_dead);
        *self.all.borrow_mut() = living.into_iter().map(Some).collect();
        self.ending.replace(died);
        drop(dead);
        self.ending.take();
    }

    /// Whether the tasks of this owner are being dropped because it has ended.
    pub(super) fn is_ending(&self, owner: Owner) -> bool {
        self.ending.borrow().iter().any(|ending| owner.ends_with(*ending))
    }

    /// Drops all tasks, which break the reference cycles between tasks and what they work on.
    pub(super) fn forget(&self) {
        let owners = self.all.borrow().iter().flatten().map(|task| task.owner).collect();
        self.ending.replace(owners);
        let all = std::mem::take(&mut *self.all.borrow_mut());
        let fresh = std::mem::take(&mut *self.fresh.borrow_mut());
        drop((all, fresh));
    }
}
