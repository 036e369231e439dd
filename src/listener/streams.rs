//! The streams of HTTP/2, each in a task of its own, which gives up the answer of a peer that does not take it in. The
//! connection stays, and so do its other streams: behind one connection of a proxy may be many callers.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::answer::UnderWay;
use super::turns::{Turn, Turns};

/// Where the request of a stream is noted once it is known.
type Slot = Arc<OnceLock<Arc<UnderWay>>>;

tokio::task_local! {
    static STREAM: Slot;
}

/// A request that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    Refused,
    /// Of a connection without a caller that is known.
    Anonymous,
    Known,
}

thread_local! {
    /// Its stream comes next, on the same thread.
    static HANDED: Cell<Handed> = const { Cell::new(Handed::Known) };
}

/// Runs streams.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    /// For a piece of an answer to be taken in.
    pub(super) write: Duration,
    pub(super) turns: Turns,
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let handed = HANDED.replace(Handed::Known);
        let turn = if handed == Handed::Known { Turn::always() } else { self.turns.turn() };
        if handed != Handed::Refused {
            tokio::spawn(served(stream, turn, self.write));
            return;
        }
        // Answered here and now: a task for each stream that is refused would take the memory that there is none for.
        let mut stream = Box::pin(stream);
        if stream.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::spawn(served(stream, turn, self.write));
        }
    }
}

/// Says what becomes of the stream of the request that was just handed over.
pub(super) fn handed(request: Handed) {
    HANDED.set(request);
}

/// Lets the stream that is being served know its request. Nothing happens with HTTP/1.1.
pub(super) fn attach(under_way: &Arc<UnderWay>) {
    let _ = STREAM.try_with(|slot| slot.set(under_way.clone()));
}

/// A stream until its end, or until a piece of its answer has waited for too long. A stream that is dropped is reset.
async fn served<F: Future>(stream: F, mut turn: Turn, write: Duration) {
    let slot = Slot::default();
    let mut stream = pin!(STREAM.scope(slot.clone(), stream));
    let mut alarm = None;
    poll_fn(|cx| {
        if turn.poll(stream.as_mut(), false, cx).is_ready() {
            return Poll::Ready(());
        }
        let unread_since = slot.get().and_then(|under_way| under_way.unread_since());
        match unread_since {
            Some(since) => time_is_up(&mut alarm, since + write, cx),
            None => {
                alarm = None;
                Poll::Pending
            }
        }
    })
    .await;
}

fn time_is_up(alarm: &mut Option<Pin<Box<Sleep>>>, by: Instant, cx: &mut Context<'_>) -> Poll<()> {
    let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(by)));
    if alarm.deadline() != by {
        alarm.as_mut().reset(by);
    }
    ready!(alarm.as_mut().poll(cx));
    tracing::debug!("an answer is given up: the peer does not take it in");
    Poll::Ready(())
}
