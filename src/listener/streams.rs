//! Runs each HTTP/2 stream in its own task and resets a stream whose answer the peer does not read. The connection and
//! its other streams go on, because one connection of a proxy may carry many callers. hyper calls the executor here for
//! each stream that [`super::connection`] has accepted.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::answer::UnderWay;
use super::turns::{Turn, Turns};

/// Holds the request of a stream once the stream's task has attached it.
type Slot = Arc<OnceLock<Arc<UnderWay>>>;

tokio::task_local! {
    static STREAM: Slot;
}

/// How the request that hyper has just passed to the service is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    Refused,
    /// On a connection on which no request had a valid key yet.
    Anonymous,
    Known,
}

thread_local! {
    /// hyper spawns the request's stream next, on the same thread.
    static HANDED: Cell<Handed> = const { Cell::new(Handed::Known) };
}

/// The executor that hyper runs HTTP/2 streams with.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    /// How long the peer may leave a piece of an answer unread.
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
        // A refused stream is answered without a task: a task for each would take the memory that the limit protects.
        let mut stream = Box::pin(stream);
        if stream.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::spawn(served(stream, turn, self.write));
        }
    }
}

/// Says how to run the stream of the request that hyper has just passed to the service.
pub(super) fn handed(request: Handed) {
    HANDED.set(request);
}

/// Attaches its request to the stream that is being served. With HTTP/1.1 this does nothing.
pub(super) fn attach(under_way: &Arc<UnderWay>) {
    let _ = STREAM.try_with(|slot| slot.set(under_way.clone()));
}

/// Runs a stream until it ends or a piece of its answer has been unread for `write`. Dropping a stream resets it.
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
    tracing::debug!("peer does not read an answer; its stream is reset");
    Poll::Ready(())
}
