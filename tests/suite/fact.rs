//! Waiting for facts, never for time: a fact is asked for until it is there, and its absence at the deadline fails the
//! test with the fact's name.

use std::time::{Duration, Instant};

/// Generous, because a busy machine must not fail a test; reached only when the fact never comes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Short against everything that is waited for, long enough not to be a load of its own.
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
