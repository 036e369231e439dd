//! The messages that the registry takes from its handle. Those that carry a sender are answered.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::shard::ShardNum;
use crate::engine::address::Address;
use crate::engine::endpoint::EndpointMessage;
use crate::engine::endpoint_config::EndpointConfig;

use super::Item;

#[derive(actix::Message)]
#[rtype(result = "()")]
pub(in crate::engine) enum RegistryMessage {
    /// Hand these items to their endpoints. `room`: one permit of `EngineContext::offers` for each item.
    Offer { items: Vec<Item>, room: OwnedSemaphorePermit, answer: oneshot::Sender<Offered> },
    /// Activate the endpoints with these configs, unless they live. `rested`: whether the endpoints crashed and their
    /// rest is over.
    Activate { configs: Vec<Arc<EndpointConfig>>, rested: bool, done: oneshot::Sender<()> },
    /// Tell these endpoints that they have rows that they do not know of; answers those that must be activated.
    Wake(Vec<WebhookNum>, oneshot::Sender<Vec<WebhookNum>>),
    /// Tell these endpoints that they have rows that fall due; answers those that must be activated.
    Remind(Vec<WebhookNum>, oneshot::Sender<Vec<WebhookNum>>),
    /// Answers the addresses of those of these endpoints that live.
    Find(Vec<WebhookNum>, oneshot::Sender<Vec<Address<EndpointMessage>>>),
    /// Answers the registry's figures.
    Count(oneshot::Sender<Figures>),
    /// Every fan-out up to this event that names this webhook has a row for it.
    SetRowWatermark(WebhookNum, EventSeq, oneshot::Sender<()>),
    /// This endpoint crashed; its next activation must know what it may have sent.
    MarkInDoubt(WebhookNum, InDoubt, oneshot::Sender<()>),
    /// End the quarantine of this endpoint; answers whether it was quarantined.
    EndQuarantine(WebhookNum, oneshot::Sender<bool>),
    /// Answers the quarantined endpoints, at most this many.
    ListQuarantined(usize, oneshot::Sender<Vec<WebhookNum>>),
    /// Answers how often these endpoints have crashed lately.
    Crashed(Vec<WebhookNum>, oneshot::Sender<Vec<Crashes>>),
    /// Forget this endpoint if it is resting or quarantined: its webhook is deleted or cannot be read.
    Forget(WebhookNum, oneshot::Sender<()>),
    /// End the endpoints of this shard; answers whether nothing was cut short once all have ended.
    HandOff(ShardNum, oneshot::Sender<bool>),
    /// Ask every endpoint to end. Answered when the last one has ended; the sender is dropped if that was not clean.
    Drain(oneshot::Sender<()>),
}

/// The items that could not be handed over.
#[derive(Default)]
pub(in crate::engine) struct Offered {
    /// These items must become rows: the mailbox is full, or the endpoint cannot take them now.
    pub(in crate::engine) refused: Vec<Item>,
    /// The endpoints of these items sleep.
    pub(in crate::engine) unknown: Vec<Item>,
}

/// How often an endpoint has crashed lately, and why it may not be running.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::engine) struct Crashes {
    pub(in crate::engine) recent: u32,
    /// Its restart is pending.
    pub(in crate::engine) resting: bool,
    pub(in crate::engine) quarantined: bool,
}

/// How many endpoints live, and how many have crashed.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::engine) struct Figures {
    pub(in crate::engine) live: usize,
    pub(in crate::engine) crashes: u64,
    pub(in crate::engine) quarantined: usize,
}
