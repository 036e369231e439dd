//! What an endpoint tells the registry: events while it lives, such as that it is idle, and how it ended. The death watch
//! carries them; it is a drop guard, so that every end is reported.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use crate::domain::id::{EventSeq, WebhookNum};
use crate::engine::endpoint_stats::EndpointStats;
use crate::fault;

/// What happened to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum EndpointEventKind {
    /// Has nothing to do and may be passivated.
    Idle,
    /// Was asked to passivate, but has got work meanwhile.
    Busy,
    /// A request for this event was cut short: the receiver may have seen it.
    CutShort(EventSeq),
    /// Ended because it was asked to.
    Passivated,
    /// Ended without having been asked to.
    Crashed,
}

/// What an endpoint tells the registry, through its death watch, while it lives and when it ends.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct EndpointEvent {
    pub(in crate::engine) num: WebhookNum,
    pub(in crate::engine) generation: u64,
    pub(in crate::engine) kind: EndpointEventKind,
}

/// Tells the registry how the endpoint ended: passivated if [`Self::expect_end`] was called, crashed otherwise.
pub(in crate::engine) struct DeathWatch {
    event: EndpointEvent,
    registry: UnboundedSender<EndpointEvent>,
    stats: Arc<EndpointStats>,
}

impl DeathWatch {
    pub(in crate::engine) fn new(
        num: WebhookNum,
        generation: u64,
        registry: UnboundedSender<EndpointEvent>,
        stats: Arc<EndpointStats>,
    ) -> Self {
        Self { event: EndpointEvent { num, generation, kind: EndpointEventKind::Crashed }, registry, stats }
    }

    pub(super) fn say(&self, kind: EndpointEventKind) {
        let _ = self.registry.send(EndpointEvent { kind, ..self.event });
    }

    /// Notes that the end which comes now was asked for.
    pub(super) fn expect_end(&mut self) {
        self.event.kind = EndpointEventKind::Passivated;
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(place) = fault::last_panic()
        {
            self.stats.crashed(place.into());
        }
        let _ = self.registry.send(self.event);
    }
}
