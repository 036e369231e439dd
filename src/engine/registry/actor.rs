//! The registry as an actix actor: forwards messages and the events of endpoints to the [`Registry`], which does the
//! rest, and starts endpoints as actors on their threads.

use std::sync::Arc;

use actix::{Actor, ArbiterHandle, AsyncContext, Context, Handler, StreamHandler};
use futures_util::stream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::engine::address::Address;
use crate::engine::arbiters::{Arbiters, EndpointThread};
use crate::engine::context::EngineContext;
use crate::engine::endpoint::{EndpointActor, EndpointEvent, EndpointMessage, EndpointSeed, SpawnArgs};
use crate::fault;
use crate::journal::feed::Feed;

use super::{EndpointSpawner, MAILBOX, PRUNE_EVERY, Registry, RegistryHandle, RegistryMessage};

struct RegistryActor {
    registry: Registry,
    events: Option<UnboundedReceiver<EndpointEvent>>,
}

/// Starts endpoints on the threads in turn.
struct Threads {
    threads: Vec<EndpointThread>,
    started: usize,
}

impl EndpointSpawner for Threads {
    fn spawn(&mut self, seed: EndpointSeed) -> Address<EndpointMessage> {
        self.started = self.started.wrapping_add(1);
        let thread = &self.threads[self.started % self.threads.len()];
        let args = SpawnArgs { seed, transport: thread.transport.clone(), start_slots: thread.start_slots.clone() };
        Arc::new(EndpointActor::start_in_arbiter(&thread.arbiter, move |_| EndpointActor::new(args)))
    }
}

/// Starts the registry on its thread.
pub(in crate::engine) fn start(arbiters: &Arbiters, context: &Arc<EngineContext>, feed: &Arc<Feed>) -> RegistryHandle {
    let (events, incoming) = unbounded_channel();
    let threads = Threads { threads: arbiters.threads.clone(), started: 0 };
    let registry = Registry::new(Box::new(threads), context, feed, events);
    let actor = RegistryActor { registry, events: Some(incoming) };
    let address = start_on(&arbiters.registry, actor);
    RegistryHandle::new(address, context.clone())
}

fn start_on(arbiter: &ArbiterHandle, actor: RegistryActor) -> Address<RegistryMessage> {
    Arc::new(RegistryActor::start_in_arbiter(arbiter, move |context| {
        context.set_mailbox_capacity(MAILBOX);
        actor
    }))
}

impl Actor for RegistryActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.registry.start(Arc::new(context.address()));
        context.run_interval(PRUNE_EVERY, |actor, _| actor.registry.prune());
        if let Some(events) = self.events.take() {
            let events = stream::unfold(events, async |mut events| Some((events.recv().await?, events)));
            context.add_stream(Box::pin(events));
        }
    }
}

impl Drop for RegistryActor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            fault::abort("the registry");
        }
    }
}

impl Handler<RegistryMessage> for RegistryActor {
    type Result = ();

    fn handle(&mut self, message: RegistryMessage, _: &mut Self::Context) {
        self.registry.on(message);
    }
}

impl StreamHandler<EndpointEvent> for RegistryActor {
    fn handle(&mut self, event: EndpointEvent, _: &mut Self::Context) {
        self.registry.on_event(event);
    }
}
