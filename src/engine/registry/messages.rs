//! The messages that the registry takes from its handle.

use std::sync::Arc;

use actix::{Addr, Message};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::engine::endpoint::Endpoint;
use crate::engine::endpoint_config::EndpointConfig;

use super::Item;

/// Hand these items to their endpoints.
#[derive(Message)]
#[rtype(result = "Offered")]
pub(in crate::engine) struct Offer {
    pub(in crate::engine) items: Vec<Item>,
    /// One permit of `EngineContext::offers` for each item.
    pub(in crate::engine) room: OwnedSemaphorePermit,
}

/// The items that could not be handed over.
#[derive(Default)]
pub(in crate::engine) struct Offered {
    /// These items must become rows: the mailbox is full, or the endpoint cannot take them now.
    pub(in crate::engine) refused: Vec<Item>,
    /// The endpoints of these items sleep.
    pub(in crate::engine) unknown: Vec<Item>,
}

/// Activate the endpoints with these configs, unless they live.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Activate {
    pub(in crate::engine) configs: Vec<Arc<EndpointConfig>>,
    /// Whether the endpoints crashed and their rest is over.
    pub(in crate::engine) rested: bool,
}

/// Tell these endpoints that they have rows that they do not know of; answers those that must be activated.
#[derive(Message)]
#[rtype(result = "Vec<WebhookNum>")]
pub(in crate::engine) struct Wake(pub(in crate::engine) Vec<WebhookNum>);

/// Tell these endpoints that they have rows that fall due; answers those that must be activated.
#[derive(Message)]
#[rtype(result = "Vec<WebhookNum>")]
pub(in crate::engine) struct Remind(pub(in crate::engine) Vec<WebhookNum>);

/// Answers the addresses of those of these endpoints that live.
#[derive(Message)]
#[rtype(result = "Vec<Addr<Endpoint>>")]
pub(in crate::engine) struct Find(pub(in crate::engine) Vec<WebhookNum>);

/// Answers the registry's figures.
#[derive(Message)]
#[rtype(result = "Figures")]
pub(in crate::engine) struct Count;

/// Every fan-out up to this event that names this webhook has a row for it.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct SetRowWatermark(pub(in crate::engine) WebhookNum, pub(in crate::engine) EventSeq);

/// This endpoint crashed; its next activation must know what it may have sent.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct MarkInDoubt(pub(in crate::engine) WebhookNum, pub(in crate::engine) InDoubt);

/// End the quarantine of this endpoint; answers whether it was quarantined.
#[derive(Message)]
#[rtype(result = "bool")]
pub(in crate::engine) struct Release(pub(in crate::engine) WebhookNum);

/// Answers how often these endpoints have crashed lately.
#[derive(Message)]
#[rtype(result = "Vec<Crashes>")]
pub(in crate::engine) struct Crashed(pub(in crate::engine) Vec<WebhookNum>);

/// How often an endpoint has crashed lately, and why it may not be running.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::engine) struct Crashes {
    pub(in crate::engine) recent: u32,
    /// Its restart is pending.
    pub(in crate::engine) resting: bool,
    pub(in crate::engine) quarantined: bool,
    /// The webhook's row cannot be read, so there is no endpoint.
    pub(in crate::engine) unreadable: bool,
}

/// How many endpoints live, and how many have crashed.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::engine) struct Figures {
    pub(in crate::engine) live: usize,
    pub(in crate::engine) crashes: u64,
    pub(in crate::engine) quarantined: usize,
}

/// Ask every endpoint to end. The sender is told when the last one has ended, and dropped if that was not clean.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Drain(pub(in crate::engine) oneshot::Sender<()>);

/// Forget this endpoint if it is resting or quarantined: its webhook is deleted or cannot be read.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::engine) struct Forget(pub(in crate::engine) WebhookNum);
