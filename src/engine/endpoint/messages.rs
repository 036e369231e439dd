//! The messages that an endpoint takes from the registry and its handle. Those that carry a sender are answered.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::domain::event::Event;
use crate::domain::id::EventSeq;
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::lane::InLane;

#[derive(actix::Message)]
#[rtype(result = "()")]
pub(in crate::engine) enum EndpointMessage {
    /// An event for this webhook. If the mailbox is full, the event becomes a row instead.
    Offer {
        event: Arc<Event>,
        recovered: bool,
        /// Dropped when the endpoint takes the offer from its mailbox.
        room: OwnedSemaphorePermit,
    },
    /// There are rows that the endpoint does not know of.
    Wake,
    /// Rows fall due; the endpoint may know of them.
    Remind,
    /// The webhook changed; `None` when it was deleted.
    Configure(Option<Arc<EndpointConfig>>, oneshot::Sender<()>),
    /// The webhook's row cannot be read, so what has changed is not known: send nothing until it can.
    Halt(oneshot::Sender<()>),
    /// Take a waiting delivery out of the lane.
    TakeOut(EventSeq, oneshot::Sender<InLane>),
    /// Take a cancelled delivery out of the lane.
    Withdraw(EventSeq, oneshot::Sender<()>),
    /// Let no other attempt follow the started ones up to this event; answers their events.
    WithdrawAll(EventSeq, oneshot::Sender<Vec<EventSeq>>),
    /// An operator wants to know whether the receiver is back.
    Probe(oneshot::Sender<()>),
    /// A person wants this delivery sent now.
    SendNow(EventSeq, oneshot::Sender<()>),
    /// End if there is nothing to do.
    Passivate,
    /// Begin no further attempt; end when the last one has ended.
    Drain,
}
