//! Waits for facts, never for time: polls a fact until it is true, and fails the test with the fact's name at the
//! deadline.

use std::time::{Duration, Instant};

/// Generous, because a busy machine must not fail a test. Only a fact that never becomes true takes this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Poll interval: short against all waits, long enough to be no load.
const POLL: Duration = Duration::from_millis(15);

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
        assert!(started.elapsed() < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}
