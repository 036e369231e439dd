//! The endpoint as an actix actor: forwards messages, timers and completed tasks to the [`Endpoint`], which does the
//! rest. One stream polls everything that is not the mailbox, so that the cost of a wake does not depend on the number of
//! requests in flight.

use std::cell::RefCell;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, StreamHandler};
use futures_util::Stream;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep};

use super::{Completion, Endpoint, EndpointMessage, MAILBOX, Shell, SpawnArgs, Timer};

pub(in crate::engine) struct EndpointActor {
    endpoint: Endpoint,
    work: Rc<RefCell<Work>>,
}

/// What goes on beside the mailbox. The tasks are aborted with the actor, so that its successor can send their requests
/// again without overlap.
#[derive(Default)]
struct Work {
    tasks: JoinSet<Completion>,
    timers: [Option<Pin<Box<Sleep>>>; Timer::ALL.len()],
}

enum Wakeup {
    Timer(Timer),
    Completed(Completion),
}

/// Never ends.
struct Wakeups(Rc<RefCell<Work>>);

impl Stream for Wakeups {
    type Item = Wakeup;

    fn poll_next(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<Wakeup>> {
        let mut work = self.0.borrow_mut();
        for timer in Timer::ALL {
            let sleep = &mut work.timers[timer as usize];
            if sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(context).is_ready()) {
                *sleep = None;
                return Poll::Ready(Some(Wakeup::Timer(timer)));
            }
        }
        while let Some(joined) = ready!(work.tasks.poll_join_next(context)) {
            match joined {
                Ok(completed) => return Poll::Ready(Some(Wakeup::Completed(completed))),
                Err(ended) if ended.is_panic() => resume_unwind(ended.into_panic()),
                // Aborted, because the thread ends.
                Err(_) => {}
            }
        }
        Poll::Pending
    }
}

struct LiveShell<'a> {
    work: &'a RefCell<Work>,
    context: &'a mut Context<EndpointActor>,
}

impl Shell for LiveShell<'_> {
    fn spawn(&mut self, task: impl Future<Output = Completion> + 'static) {
        self.work.borrow_mut().tasks.spawn_local(task);
    }

    fn set_timer(&mut self, timer: Timer, wait: Option<Duration>) {
        let place = &mut self.work.borrow_mut().timers[timer as usize];
        match (wait, place) {
            (Some(wait), Some(sleep)) => sleep.as_mut().reset(Instant::now() + wait),
            (Some(wait), place) => *place = Some(Box::pin(sleep(wait))),
            (None, place) => *place = None,
        }
    }

    fn end(&mut self) {
        self.context.stop();
    }
}

impl EndpointActor {
    pub(in crate::engine) fn new(args: SpawnArgs) -> Self {
        Self { endpoint: Endpoint::new(args), work: Rc::default() }
    }

    fn parts<'a>(&'a mut self, context: &'a mut Context<Self>) -> (&'a mut Endpoint, LiveShell<'a>) {
        (&mut self.endpoint, LiveShell { work: &self.work, context })
    }
}

impl Actor for EndpointActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
        let (endpoint, mut shell) = self.parts(context);
        endpoint.start(&mut shell);
        // actix polls the stream whenever it has handled messages, which registers the timers and tasks that they have
        // set and spawned.
        context.add_stream(Wakeups(self.work.clone()));
    }
}

impl Handler<EndpointMessage> for EndpointActor {
    type Result = ();

    fn handle(&mut self, message: EndpointMessage, context: &mut Self::Context) {
        let (endpoint, mut shell) = self.parts(context);
        endpoint.on(message, &mut shell);
    }
}

impl StreamHandler<Wakeup> for EndpointActor {
    fn handle(&mut self, wakeup: Wakeup, context: &mut Self::Context) {
        let (endpoint, mut shell) = self.parts(context);
        match wakeup {
            Wakeup::Timer(timer) => endpoint.on_timer(timer, &mut shell),
            Wakeup::Completed(completed) => endpoint.on_completed(completed, &mut shell),
        }
    }
}
