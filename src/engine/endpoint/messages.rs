//! The messages that an endpoint takes from the registry and its handle.

use std::sync::Arc;

use actix::Message;
use tokio::sync::OwnedSemaphorePermit;

use crate::domain::id::EventSeq;
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::lane::Detached;
use crate::store::events::Event;

/// An event for this webhook. If the mailbox is full, the event becomes a row instead.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Offer {
    pub(in crate::engine) event: Arc<Event>,
    pub(in crate::engine) recovered: bool,
    /// Dropped when the endpoint takes the offer from its mailbox.
    pub(in crate::engine) room: OwnedSemaphorePermit,
}

/// There are rows that the endpoint does not know of.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Wake;

/// Rows fall due; the endpoint may know of them.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Remind;

/// The webhook changed; `None` when it was deleted.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Configure(pub(in crate::engine) Option<Arc<EndpointConfig>>);

/// Take a waiting delivery out of the lane.
#[derive(Message)]
#[rtype(result = "Detached")]
pub(in crate::engine) struct Detach(pub(in crate::engine) EventSeq);

/// Take a cancelled delivery out of the lane.
#[derive(Message)]
#[rtype(result = "Detached")]
pub(in crate::engine) struct Withdraw(pub(in crate::engine) EventSeq);

/// Do not send the deliveries in flight up to this event again; answers their events.
#[derive(Message)]
#[rtype(result = "Vec<EventSeq>")]
pub(in crate::engine) struct WithdrawAll(pub(in crate::engine) EventSeq);

/// An operator wants to know whether the receiver is back.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Probe;

/// A person wants this delivery sent now.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct SendNow(pub(in crate::engine) EventSeq);

/// End if there is nothing to do.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Passivate;

/// Begin no further attempt; end when none is in flight.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Drain;
