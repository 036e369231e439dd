//! The actor around the real registry: its mailbox, and the events of endpoints.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::mpsc::{Receiver, UnboundedReceiver, channel, unbounded_channel};

use crate::engine::address::Address;
use crate::engine::context::EngineContext;
use crate::engine::endpoint::EndpointEvent;
use crate::engine::registry::{PRUNE_EVERY, Registry, RegistryHandle, RegistryMessage};
use crate::engine::start_slots::StartSlots;
use crate::journal::feed::Feed;

use super::endpoint::Actors;
use super::tasks::Owner;
use super::world;

/// Senders wait for room.
const MAILBOX: usize = 4;

/// Starts the registry of a process.
pub(super) fn start(
    (place, incarnation): (usize, u32),
    context: &Arc<EngineContext>,
    feed: &Arc<Feed>,
) -> RegistryHandle {
    let (address, mailbox) = channel(MAILBOX);
    let (events, incoming) = unbounded_channel();
    let actors = Actors { place, incarnation, start_slots: StartSlots::new(), started: 0 };
    let mut registry = Registry::new(Box::new(actors), context, feed, events);
    let address: Address<RegistryMessage> = Arc::new(address);
    registry.start(address.clone());
    let task = live(registry, context.clone(), mailbox, incoming);
    world::current().tasks.spawn(Owner::Process(incarnation), task);
    RegistryHandle::new(address, context.clone())
}

async fn live(
    mut registry: Registry,
    context: Arc<EngineContext>,
    mut mailbox: Receiver<RegistryMessage>,
    mut events: UnboundedReceiver<EndpointEvent>,
) {
    let mut prune = context.host.ticks(PRUNE_EVERY);
    loop {
        tokio::select! {
            biased;
            wakeup = either(&mut mailbox, &mut events) => match wakeup {
                Ok(message) => registry.on(message),
                Err(event) => registry.on_event(event),
            },
            () = prune.tick() => registry.prune(),
        }
    }
}

/// A message or an event, at random.
async fn either(
    mailbox: &mut Receiver<RegistryMessage>,
    events: &mut UnboundedReceiver<EndpointEvent>,
) -> Result<RegistryMessage, EndpointEvent> {
    poll_fn(|context| {
        let first = world::current().pick(2);
        for which in [first, 1 - first] {
            if which == 0 {
                if let Poll::Ready(Some(message)) = mailbox.poll_recv(context) {
                    return Poll::Ready(Ok(message));
                }
            } else if let Poll::Ready(Some(event)) = events.poll_recv(context) {
                return Poll::Ready(Err(event));
            }
        }
        Poll::Pending
    })
    .await
}
