//! Limits how many connections without a valid key are polled at once; the others wait outside the runtime's queue. A
//! flood of new connections, each with a hundred streams, therefore delays a publisher's request by a few polls and not
//! by all of them. [`super::connection`] and [`super::streams`] poll their futures through a [`Turn`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

/// Bounds concurrent polls; each poll is a turn.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    /// Allows turns on half of `threads`; the other half stays free for connections with a valid key.
    pub(super) fn among(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new((threads / 2).max(1))))
    }

    pub(super) fn turn(&self) -> Turn {
        Turn(Some(PollSemaphore::new(self.0.clone())))
    }
}

/// The turns of one task.
pub(super) struct Turn(Option<PollSemaphore>);

impl Turn {
    /// For a task that needs no turn.
    pub(super) fn always() -> Self {
        Self(None)
    }

    /// Polls `future` when it gets a turn; the turn ends when this returns. With `needs_none` it polls at once.
    pub(super) fn poll<F: Future + ?Sized>(
        &mut self,
        future: Pin<&mut F>,
        needs_none: bool,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        if needs_none {
            // Dropping the semaphore handle gives back a turn that was granted meanwhile.
            self.0 = None;
        }
        // The semaphore is never closed.
        let _permit = match &mut self.0 {
            Some(turns) => ready!(turns.poll_acquire(cx)),
            None => None,
        };
        future.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    fn poll(turn: &mut Turn, needs_none: bool) -> Poll<()> {
        turn.poll(pin!(ready(())), needs_none, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_turn_ends_with_the_poll() {
        let turns = Turns::among(2);
        let mut first = turns.turn();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(first.poll(pin!(pending::<()>()), false, &mut cx).is_pending());
        assert!(poll(&mut turns.turn(), false).is_ready());
    }

    #[test]
    fn without_a_turn_nothing_is_polled_unless_it_needs_none() {
        let turns = Turns::among(2);
        let held = turns.0.clone().try_acquire_owned().unwrap();
        let mut waiting = turns.turn();
        assert!(poll(&mut waiting, false).is_pending());
        assert!(poll(&mut Turn::always(), false).is_ready());
        assert!(poll(&mut waiting, true).is_ready());
        drop(held);
        assert!(poll(&mut waiting, false).is_ready());
    }

    #[test]
    fn a_turn_that_is_granted_and_not_used_goes_to_the_next() {
        let turns = Turns::among(2);
        let held = turns.0.clone().try_acquire_owned().unwrap();
        let [mut known, mut gone, mut next] = [turns.turn(), turns.turn(), turns.turn()];
        for turn in [&mut known, &mut gone, &mut next] {
            assert!(poll(turn, false).is_pending());
        }
        drop(held);
        assert!(poll(&mut next, false).is_pending(), "the first one has the turn");
        assert!(poll(&mut known, true).is_ready());
        drop(gone);
        assert!(poll(&mut next, false).is_ready());
    }
}
