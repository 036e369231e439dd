//! Requests of one thread take turns in their first moments.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// Requests that may be in their first moments at once, per thread. More would not end sooner, they would only push
/// each other out of the caches.
const TURNS: usize = 32;

/// How long a request's first moments last. One that is not answered by then waits for its receiver, which costs
/// nobody anything, and gives its turn to the next.
const TURN: Duration = Duration::from_millis(5);

/// Cheap to clone; one for each thread, so that handing on a turn wakes nobody elsewhere.
#[derive(Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(TURNS)))
    }

    /// Runs a request when it is its turn.
    pub(super) async fn take<T>(&self, request: impl Future<Output = T>) -> T {
        let turn = self.0.acquire().await;
        let mut request = pin!(request);
        match tokio::time::timeout(TURN, &mut request).await {
            Ok(answer) => answer,
            Err(_) => {
                drop(turn);
                request.await
            }
        }
    }
}
