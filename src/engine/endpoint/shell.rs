//! What an endpoint asks of the actor around it: tasks that end with it, and timers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::delivery::Due;
use crate::domain::id::EventSeq;
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::lane::{Effect, Input, Lane};
use crate::store::StoreError;
use crate::store::deliveries::DueRows;

use super::attempt::{AttemptEnd, Attempted};
use super::recall::Recall;

pub(in crate::engine) trait Shell {
    /// Runs a task that ends with the endpoint. What it answers comes back as [`super::Endpoint::on_completed`].
    fn spawn(&mut self, task: impl Future<Output = Completion> + 'static);

    /// Sets the timer, or clears it. When it fires, [`super::Endpoint::on_timer`] is called once.
    fn set_timer(&mut self, timer: Timer, wait: Option<Duration>);

    /// Ends the actor with its tasks and its mailbox.
    fn end(&mut self);

    /// Called before the lane hears an input. For simulations, like [`Self::decided`].
    fn hears(&mut self, _: &Input) {}

    /// Called with what the lane has decided, before it is carried out.
    fn decided(&mut self, _: &Decided<'_>) {}
}

/// What a lane has decided.
#[cfg_attr(not(test), expect(dead_code, reason = "only simulations look at it"))]
pub(in crate::engine) struct Decided<'a> {
    pub(in crate::engine) config: &'a Arc<EndpointConfig>,
    pub(in crate::engine) lane: &'a Lane,
    pub(in crate::engine) effects: &'a [Effect],
    /// The attempt whose end was the input, if any.
    pub(in crate::engine) attempted: Option<&'a Attempted>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Timer {
    /// The lane has something to do.
    Lane,
    /// A secret stops signing.
    Secrets,
    /// Time to see whether the endpoint is idle.
    Idle,
}

impl Timer {
    pub(in crate::engine) const ALL: [Self; 3] = [Self::Lane, Self::Secrets, Self::Idle];
}

/// What a task of an endpoint has come to.
pub(in crate::engine) enum Completion {
    /// An attempt has ended; `None`: nothing was sent.
    Attempt {
        event: EventSeq,
        called: Arc<EndpointConfig>,
        recall: Recall,
        ended: Option<AttemptEnd>,
    },
    /// The journal has taken a record for which it had no room.
    Recorded,
    Loaded(Result<DueRows, StoreError>),
    /// The row of a delivery that a person wants sent now.
    FoundToSend {
        event: EventSeq,
        row: Result<Option<Due>, StoreError>,
    },
    /// The webhook was read again because one of its secrets has ended.
    ReadAgain(Result<Option<Arc<EndpointConfig>>, StoreError>),
}
