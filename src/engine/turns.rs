//! Requests of one thread take turns in their first moments.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

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

    /// Runs a request when it is its turn; `None` if nothing is to be sent any more by then.
    pub(super) async fn take<T>(&self, quiet: &CancellationToken, request: impl Future<Output = T>) -> Option<T> {
        let turn = self.0.acquire().await;
        if quiet.is_cancelled() {
            return None;
        }
        let mut request = pin!(request);
        match tokio::time::timeout(TURN, &mut request).await {
            Ok(answer) => Some(answer),
            Err(_) => {
                drop(turn);
                Some(request.await)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_whose_turn_comes_after_the_stop_is_not_begun() {
        let (turns, quiet) = (Turns::new(), CancellationToken::new());
        let others = turns.0.acquire_many(u32::try_from(TURNS).unwrap()).await.unwrap();
        let request = turns.take(&quiet, async { panic!("it was begun") });
        let stop = async {
            tokio::task::yield_now().await;
            quiet.cancel();
            drop(others);
        };
        let (begun, ()): (Option<()>, ()) = tokio::join!(request, stop);
        assert_eq!(begun, None);
    }

    #[tokio::test]
    async fn a_request_that_waits_for_its_receiver_gives_its_turn_to_the_next() {
        let (turns, quiet) = (Turns::new(), CancellationToken::new());
        let slow = (0..TURNS).map(|_| turns.take(&quiet, std::future::pending::<()>()));
        let slow = futures_util::future::join_all(slow);
        let next = turns.take(&quiet, async { 7 });
        let served = tokio::select! {
            _ = slow => None,
            served = next => served,
        };
        assert_eq!(served, Some(7));
    }
}
