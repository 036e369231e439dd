//! The host of a simulated process: simulated time, tasks that end with the process, and chance from the seed.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use rand::RngExt;

use crate::domain::moment::UnixMillis;
use crate::host::{Host, Runtime};

use super::tasks::Owner;
use super::world::{self, Sleep};

struct SimulatedRuntime {
    place: usize,
    incarnation: u32,
}

/// The host of this process, which runs on the machine at `place`.
pub(super) fn of(place: usize, incarnation: u32) -> Host {
    Host::new(Arc::new(SimulatedRuntime { place, incarnation }))
}

impl Runtime for SimulatedRuntime {
    fn now(&self) -> UnixMillis {
        world::current().wall(self.place)
    }

    fn steady(&self) -> Instant {
        world::current().steady()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        Box::pin(Sleep::until(world::current().since_epoch(at)))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        world::current().tasks.spawn(Owner::Process(self.incarnation), task);
    }

    fn unit_random(&self) -> f64 {
        world::current().chance.borrow_mut().random()
    }
}
