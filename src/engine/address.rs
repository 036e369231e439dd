//! The address of an actor: what the engine's parts hold of each other. Behind it is actix in the live engine, and a
//! queue in the simulation.

use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler, dev::ToEnvelope};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

pub(super) trait Recipient<M>: Send + Sync {
    /// Does not wait for room.
    ///
    /// Returns the message if the mailbox is full or the actor has ended.
    fn try_send(&self, message: M) -> Result<(), M>;

    /// Enqueues the message; may wait for room. An actor that has ended drops it. Only an answer says that the message
    /// was handled, see [`ask`].
    fn send(&self, message: M) -> BoxFuture<'static, ()>;
}

pub(super) type Address<M> = Arc<dyn Recipient<M>>;

/// Sends a message that carries the way back for its answer; `None` if the actor has ended.
pub(super) async fn ask<M, T>(to: &Address<M>, message: impl FnOnce(oneshot::Sender<T>) -> M) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    to.send(message(answer)).await;
    answered.await.ok()
}

impl<A, M> Recipient<M> for Addr<A>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: actix::Message<Result = ()> + Send + 'static,
{
    fn try_send(&self, message: M) -> Result<(), M> {
        Addr::try_send(self, message).map_err(actix::prelude::SendError::into_inner)
    }

    fn send(&self, message: M) -> BoxFuture<'static, ()> {
        Addr::send(self, message).map(drop).boxed()
    }
}
