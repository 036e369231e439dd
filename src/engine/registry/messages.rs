//! What the registry can be told and asked.

use std::sync::Arc;

use actix::{Addr, Message};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::domain::id::{EventSeq, WebhookNum};
use crate::engine::endpoint::Endpoint;
use crate::engine::endpoint_config::EndpointConfig;
use crate::store::state::InDoubt;

use super::Item;

/// Hand these to their endpoints.
#[derive(Message)]
#[rtype(result = "Offered")]
pub(in crate::engine) struct Offer {
    pub(in crate::engine) items: Vec<Item>,
    /// As many as there are items.
    pub(in crate::engine) room: OwnedSemaphorePermit,
}

/// What could not be handed over.
#[derive(Default)]
pub(in crate::engine) struct Offered {
    /// These must become rows: the mailbox is full, or the endpoint cannot take them now.
    pub(in crate::engine) refused: Vec<Item>,
    /// These have no live endpoint.
    pub(in crate::engine) unknown: Vec<Item>,
}

/// Start endpoints for these, unless they live.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Activate {
    pub(in crate::engine) configs: Vec<Arc<EndpointConfig>>,
    /// Whether these crashed and have rested.
    pub(in crate::engine) rested: bool,
}

/// Tell these that they have rows that they do not know of; answers those that are not live.
#[derive(Message)]
#[rtype(result = "Vec<WebhookNum>")]
pub(in crate::engine) struct Wake(pub(in crate::engine) Vec<WebhookNum>);

/// Tell these that they have rows that fall due; answers those that are not live.
#[derive(Message)]
#[rtype(result = "Vec<WebhookNum>")]
pub(in crate::engine) struct Remind(pub(in crate::engine) Vec<WebhookNum>);

/// Answers those that live.
#[derive(Message)]
#[rtype(result = "Vec<Addr<Endpoint>>")]
pub(in crate::engine) struct Find(pub(in crate::engine) Vec<WebhookNum>);

#[derive(Message)]
#[rtype(result = "Figures")]
pub(in crate::engine) struct Count;

/// Every fan-out up to here that names this webhook has a row for it.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct SetRowWatermark(pub(in crate::engine) WebhookNum, pub(in crate::engine) EventSeq);

/// This endpoint crashed, and whatever starts it again must know what it may have sent.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct MarkInDoubt(pub(in crate::engine) WebhookNum, pub(in crate::engine) InDoubt);

/// Somebody has looked at an endpoint that crashed too often; answers whether it was left alone.
#[derive(Message)]
#[rtype(result = "bool")]
pub(in crate::engine) struct Release(pub(in crate::engine) WebhookNum);

/// How these have crashed lately.
#[derive(Message)]
#[rtype(result = "Vec<Crashes>")]
pub(in crate::engine) struct Crashed(pub(in crate::engine) Vec<WebhookNum>);

/// How an endpoint has crashed lately.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::engine) struct Crashes {
    pub(in crate::engine) recent: u32,
    /// It is about to be started again.
    pub(in crate::engine) resting: bool,
    pub(in crate::engine) quarantined: bool,
    /// Its row cannot be read, so that there is no endpoint.
    pub(in crate::engine) unreadable: bool,
}

/// How many endpoints live, and how many have crashed.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::engine) struct Figures {
    pub(in crate::engine) live: usize,
    pub(in crate::engine) crashes: u64,
    pub(in crate::engine) quarantined: usize,
}

/// Ask every endpoint to end; told when the last one has.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Drain(pub(in crate::engine) oneshot::Sender<()>);

/// The webhook of a crashed endpoint was deleted meanwhile.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Forget(pub(in crate::engine) WebhookNum);
