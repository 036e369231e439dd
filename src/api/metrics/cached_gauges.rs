//! Keeps the figures of the whole database, which take a scan, for so long that they cost little. The metrics page asks;
//! it never waits long for a database that is slow or gone.

use std::future::Future;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::store::StoreError;
use crate::store::gauges::DatabaseGauges;

/// The figures are read again after this time at the earliest.
const SHORTEST: Duration = Duration::from_secs(15);

/// Reading takes at most this share of the time: the figures are kept for as many times as long as they took.
const SHARE: u32 = 100;

/// How long a page waits for the figures. If they take longer, the page goes without them, and the next one has them.
const PATIENCE: Duration = Duration::from_secs(1);

/// The figures of this process.
#[derive(Default)]
pub(super) struct CachedGauges(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Empty,
    Reading(JoinHandle<Read>),
    Read(Read),
}

struct Read {
    /// `None` if the database answered with an error. It is not asked again before the time either.
    gauges: Option<DatabaseGauges>,
    fresh_until: Instant,
}

impl CachedGauges {
    /// The figures, which `read` reads if the last ones are too old; `None` if the database does not answer in time.
    pub(super) async fn get<R>(&self, read: impl Fn() -> R) -> Option<DatabaseGauges>
    where
        R: Future<Output = Result<DatabaseGauges, StoreError>> + Send + 'static,
    {
        let mut state = self.0.lock().await;
        loop {
            match &mut *state {
                State::Read(Read { gauges, fresh_until }) if Instant::now() < *fresh_until => return gauges.clone(),
                State::Empty | State::Read(_) => *state = State::Reading(tokio::spawn(timed(read()))),
                State::Reading(reading) => {
                    // A caller that hangs up, or that has no patience left, leaves the reading for the next one.
                    let ended = timeout(PATIENCE, reading).await.ok()?;
                    *state = State::Empty;
                    // A panic was logged where it happened.
                    *state = State::Read(ended.ok()?);
                }
            }
        }
    }
}

async fn timed(read: impl Future<Output = Result<DatabaseGauges, StoreError>>) -> Read {
    let began = Instant::now();
    let gauges = read.await;
    let ended = Instant::now();
    if let Err(error) = &gauges {
        tracing::warn!(%error, "figures of the database could not be read; the metrics lack them");
    }
    Read { gauges: gauges.ok(), fresh_until: ended + ((ended - began) * SHARE).max(SHORTEST) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::time::sleep;

    use super::*;

    /// Figures whose reading takes this long; each reading finds one breaker more that is open.
    struct Database {
        cached: CachedGauges,
        takes: Duration,
        readings: Arc<AtomicU64>,
    }

    impl Database {
        fn new(takes: Duration) -> Self {
            Self { cached: CachedGauges::default(), takes, readings: Arc::default() }
        }

        async fn breakers(&self) -> Option<u64> {
            let takes = self.takes;
            let read = || {
                let readings = self.readings.clone();
                async move {
                    sleep(takes).await;
                    let breakers_open = readings.fetch_add(1, Ordering::Relaxed) + 1;
                    Ok(DatabaseGauges { breakers_open, ..DatabaseGauges::default() })
                }
            };
            self.cached.get(read).await.map(|gauges| gauges.breakers_open)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn figures_are_kept_for_a_while() {
        let database = Database::new(Duration::from_millis(10));
        assert_eq!(database.breakers().await, Some(1));
        sleep(SHORTEST / 2).await;
        assert_eq!(database.breakers().await, Some(1));
        sleep(SHORTEST / 2).await;
        assert_eq!(database.breakers().await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn figures_that_take_long_come_with_the_next_page_and_are_kept_long() {
        let database = Database::new(Duration::from_secs(3));
        let began = Instant::now();
        assert_eq!(database.breakers().await, None);
        assert_eq!(began.elapsed(), PATIENCE);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(database.breakers().await, Some(1));
        sleep(Duration::from_secs(230)).await;
        assert_eq!(database.breakers().await, Some(1), "3 s in 300 s");
        sleep(Duration::from_secs(20)).await;
        assert_eq!(database.breakers().await, None, "they are read again");
    }

    #[tokio::test(start_paused = true)]
    async fn figures_that_were_never_fetched_are_not_shown_when_they_are_old() {
        let database = Database::new(Duration::from_secs(2));
        assert_eq!(database.breakers().await, None);
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(database.breakers().await, None, "they are read again");
        sleep(Duration::from_secs(5)).await;
        assert_eq!(database.breakers().await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_fails_is_not_asked_more_often() {
        let (cached, readings) = (CachedGauges::default(), AtomicU64::new(0));
        for _ in 0..10 {
            let read = || {
                readings.fetch_add(1, Ordering::Relaxed);
                async { Err(StoreError::Exists) }
            };
            assert_eq!(cached.get(read).await, None);
        }
        assert_eq!(readings.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_is_given_up_leaves_its_reading_to_the_next() {
        let database = Database::new(Duration::from_millis(500));
        assert!(timeout(Duration::from_millis(100), database.breakers()).await.is_err());
        assert_eq!(database.breakers().await, Some(1));
    }
}
