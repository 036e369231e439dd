//! What the engine asks of the process that it runs in: the time, timers, tasks and chance. There are two hosts: the
//! live one, [`Host::live`], is tokio with the clock of this process; the other one is the simulation of the engine's
//! tests, where all four come from a seed. Code that decides anything takes its time from here, so that the simulation
//! runs it as it ships. A trait object rather than a type parameter: see `docs/decisions/0043-one-engine-two-hosts.md`.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use crate::domain::moment::UnixMillis;

/// What a host provides; [`Host`] is how it is used.
pub trait Runtime: Send + Sync {
    fn now(&self) -> UnixMillis;
    fn steady(&self) -> Instant;
    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()>;
    fn spawn(&self, task: BoxFuture<'static, ()>);
    fn unit_random(&self) -> f64;
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Host(Arc<dyn Runtime>);

impl Host {
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self(runtime)
    }

    #[must_use]
    pub fn live() -> Self {
        Self(Arc::new(Live))
    }

    /// The wall clock.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        self.0.now()
    }

    /// The clock that is never set.
    #[must_use]
    pub fn steady(&self) -> Instant {
        self.0.steady()
    }

    pub fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        self.0.sleep_until(at)
    }

    pub fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep_until(self.steady() + wait)
    }

    /// `None`: the time was over first.
    pub async fn timeout<T>(&self, wait: Duration, work: impl Future<Output = T>) -> Option<T> {
        self.timeout_at(self.steady() + wait, work).await
    }

    /// `None`: the moment came first. Work that uses up tokio's budget in each poll would not be cut off; none here does.
    pub async fn timeout_at<T>(&self, at: Instant, work: impl Future<Output = T>) -> Option<T> {
        let over = self.sleep_until(at);
        tokio::select! {
            biased;
            done = work => Some(done),
            () = over => None,
        }
    }

    /// Runs a task whose end is not waited for.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(Box::pin(task));
    }

    /// Between 0 and 1, 1 excluded.
    #[must_use]
    pub fn unit_random(&self) -> f64 {
        self.0.unit_random()
    }

    /// Ticks at once, and then every so often.
    #[must_use]
    pub fn ticks(&self, every: Duration) -> Ticks {
        Ticks { host: self.clone(), every, next: self.steady() }
    }
}

/// A periodic timer. Each tick comes a whole period after the last one was taken, so lateness adds up.
pub struct Ticks {
    host: Host,
    every: Duration,
    next: Instant,
}

impl Ticks {
    /// Waits for the next tick. Dropping the future before it resolves loses no tick.
    pub async fn tick(&mut self) {
        self.host.sleep_until(self.next).await;
        self.next = self.host.steady() + self.every;
    }
}

struct Live;

impl Runtime for Live {
    fn now(&self) -> UnixMillis {
        UnixMillis::now()
    }

    fn steady(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until(at.into()))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn unit_random(&self) -> f64 {
        rand::random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_tick_comes_at_once_and_the_next_a_period_later() {
        let host = Host::live();
        let mut ticks = host.ticks(Duration::from_secs(3600));
        ticks.tick().await;
        assert!(host.timeout(Duration::from_millis(20), ticks.tick()).await.is_none());
        let mut ticks = host.ticks(Duration::from_millis(1));
        ticks.tick().await;
        ticks.tick().await;
    }
}
