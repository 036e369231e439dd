//! An event on its way to its webhooks. Pure.

use std::sync::Arc;

use bytes::Bytes;

use super::id::{EventSeq, TenantNum};

/// An event as it is delivered; all its targets share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub seq: EventSeq,
    pub tenant: TenantNum,
    pub kind: String,
    pub body: Body,
    /// The engines that the event has come through, as a header lists them; `None` for most.
    pub trail: Option<Arc<str>>,
}

/// The exact text that every webhook is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// In memory for as long as the event is.
    InMemory(Bytes),
    /// Too large to stay in memory with its event. Each attempt reads the body just before it sends it.
    Stored { bytes: usize },
}

impl Body {
    /// Bytes of the body that the event keeps in memory.
    #[must_use]
    pub fn bytes_in_memory(&self) -> usize {
        match self {
            Self::InMemory(body) => body.len(),
            Self::Stored { .. } => 0,
        }
    }
}
