//! The counters of a listener: open connections, and what it refused for lack of room. The API's metrics read them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Connections;

/// The resource that was short when a connection or request was refused.
#[derive(Debug, Clone, Copy)]
pub(in crate::listener) enum Shortage {
    Connections,
    Requests,
    Descriptors,
}

impl Shortage {
    const ALL: [Self; 3] = [Self::Connections, Self::Requests, Self::Descriptors];

    fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Descriptors => "descriptors",
        }
    }
}

/// Refusals by [`Shortage`].
#[derive(Debug, Default)]
pub(in crate::listener) struct Refused([AtomicU64; Shortage::ALL.len()]);

impl Refused {
    pub(in crate::listener) fn count(&self, shortage: Shortage) {
        self.0[shortage as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// The counters of one listener. Cheap to clone.
#[derive(Clone)]
pub struct Figures(Arc<Connections>);

impl Figures {
    pub(in crate::listener) fn of(connections: &Arc<Connections>) -> Self {
        Self(connections.clone())
    }

    /// Open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.open()
    }

    /// Connections and requests refused since the start, by the resource that was short.
    #[must_use]
    pub fn refused(&self) -> [(&'static str, u64); 3] {
        let Refused(counts) = &self.0.refused;
        Shortage::ALL.map(|shortage| (shortage.name(), counts[shortage as usize].load(Ordering::Relaxed)))
    }
}
