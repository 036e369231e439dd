//! Mirrors `crate::engine::endpoint::messages`: the messages of an endpoint's actor.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::domain::id::EventSeq;
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::lane::Detached;
use crate::engine::registry::Item;

pub(super) enum Message {
    Offer(Item),
    Wake,
    Remind,
    Configure(Option<Arc<EndpointConfig>>, oneshot::Sender<()>),
    Detach(EventSeq, oneshot::Sender<Detached>),
    Withdraw(EventSeq, oneshot::Sender<Detached>),
    WithdrawAll(EventSeq, oneshot::Sender<Vec<EventSeq>>),
    Probe(oneshot::Sender<()>),
    SendNow(EventSeq, oneshot::Sender<()>),
    Passivate,
    Drain(oneshot::Sender<()>),
}
