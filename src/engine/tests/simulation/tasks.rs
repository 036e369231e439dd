//! The tasks of simulated processes: futures that are polled one at a time, in random order. The tasks of an actor or a
//! process end when it dies.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rand::RngExt;
use rand::rngs::StdRng;

/// What a task ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A process, by its incarnation.
    Process(u32),
    /// The tasks of a process that dispatch events and follow changes: they end first when the process stops.
    Flow(u32),
    /// An endpoint's actor, by incarnation and generation.
    Endpoint(u32, u64),
}

impl Owner {
    fn incarnation(self) -> u32 {
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
}

#[derive(Default)]
pub(super) struct Tasks {
    /// `None` where a task is being polled or has ended.
    all: RefCell<Vec<Option<Task>>>,
    /// Tasks that were spawned since the last turn.
    fresh: RefCell<Vec<Task>>,
    /// Owners that have died since the last turn.
    died: RefCell<Vec<Owner>>,
    /// Frozen processes.
    frozen: RefCell<BTreeSet<u32>>,
    moves: Cell<u64>,
}

impl Tasks {
    pub(super) fn spawn(&self, owner: Owner, future: impl Future<Output = ()> + 'static) {
        self.fresh.borrow_mut().push(Task { owner, future: Box::pin(future) });
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
        let mut untried = {
            let mut all = self.all.borrow_mut();
            all.retain(Option::is_some);
            all.extend(fresh.into_iter().map(Some));
            all.len()
        };
        while untried > 0 {
            let chosen = chance.borrow_mut().random_range(0..untried);
            untried -= 1;
            self.all.borrow_mut().swap(chosen, untried);
            if self.poll(untried) {
                return true;
            }
        }
        false
    }

    /// Answers whether the task made progress.
    fn poll(&self, place: usize) -> bool {
        let before = self.moves.get();
        let is_awake = |task: &mut Task| !self.is_frozen(task.owner.incarnation());
        let Some(mut task) = self.all.borrow_mut()[place].take_if(is_awake) else { return false };
        match task.future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(()) => self.moved(),
            Poll::Pending => self.all.borrow_mut()[place] = Some(task),
        }
        self.moves.get() != before
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
        drop(dead);
    }

    /// Drops all tasks, which break the reference cycles between tasks and what they work on.
    pub(super) fn forget(&self) {
        let all = std::mem::take(&mut *self.all.borrow_mut());
        let fresh = std::mem::take(&mut *self.fresh.borrow_mut());
        drop((all, fresh));
    }

    fn moved(&self) {
        self.moves.set(self.moves.get() + 1);
    }

    /// Lets other tasks have a turn.
    pub(super) async fn pause(&self) {
        let mut paused = false;
        poll_fn(|_| match std::mem::replace(&mut paused, true) {
            true => Poll::Ready(()),
            false => {
                self.moved();
                Poll::Pending
            }
        })
        .await;
    }

    /// Waits until `look` finds something.
    pub(super) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let found = poll_fn(|_| look().map_or(Poll::Pending, Poll::Ready)).await;
        self.moved();
        found
    }
}
