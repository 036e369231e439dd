//! Waits for facts, never for time: polls a fact until it is true, and fails the test with the fact's name at the
//! deadline.

use std::time::{Duration, Instant};

/// Generous, because a busy machine must not fail a test. Only a fact that never becomes true takes this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The first poll interval, and the longest one. A poll may run a program or read a list, so that the intervals grow: a
/// tenth of the time that has passed notices the fact soon enough.
const POLL: Duration = Duration::from_millis(15);
const LONGEST_POLL: Duration = Duration::from_millis(300);

/// Waits until `fact` has a value, for [`DEADLINE`] at most.
pub(crate) async fn until<T>(what: &str, fact: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(DEADLINE, what, fact).await
}

/// Waits until `fact` has a value, for `deadline` at most.
pub(crate) async fn until_within<T>(deadline: Duration, what: &str, mut fact: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = fact().await {
            return value;
        }
        let passed = started.elapsed();
        assert!(passed < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep((passed / 10).clamp(POLL, LONGEST_POLL)).await;
    }
}
