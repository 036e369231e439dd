//! What is under way in a simulated process: futures that are polled in an order that chance decides, one at a time.
//! Whoever dies takes its tasks along, as an actor or a process does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rand::RngExt;
use rand::rngs::StdRng;

/// With whom a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A process, by its number.
    Process(u32),
    /// The part of a process that makes events and changes flow: it ends first when the process stops.
    Flow(u32),
    /// An endpoint's actor, by process and generation.
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
    /// Empty where a task is being polled or has ended.
    all: RefCell<Vec<Option<Task>>>,
    /// Spawned since the last turn.
    fresh: RefCell<Vec<Task>>,
    /// Who died since a task was polled.
    died: RefCell<Vec<Owner>>,
    /// Processes that do not go on for now.
    frozen: RefCell<BTreeSet<u32>>,
    moves: Cell<u64>,
}

impl Tasks {
    pub(super) fn spawn(&self, owner: Owner, future: impl Future<Output = ()> + 'static) {
        self.fresh.borrow_mut().push(Task { owner, future: Box::pin(future) });
    }

    /// Everything that ends with `owner` is dropped, as soon as no task is being polled.
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

    /// Lets one task that can go on do so. Answers whether there was one.
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

    /// Answers whether the task went on.
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

    /// Drops what belongs to the dead. Nothing is borrowed meanwhile: a task that ends may have something to say.
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

    /// Lets go of everything: tasks and what they work on hold each other.
    pub(super) fn forget(&self) {
        let all = std::mem::take(&mut *self.all.borrow_mut());
        let fresh = std::mem::take(&mut *self.fresh.borrow_mut());
        drop((all, fresh));
    }

    fn moved(&self) {
        self.moves.set(self.moves.get() + 1);
    }

    /// Others have their turn.
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

    /// Waits until there is something.
    pub(super) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let found = poll_fn(|_| look().map_or(Poll::Pending, Poll::Ready)).await;
        self.moved();
        found
    }
}
