//! What may have been sent before. Pure.

use super::id::EventSeq;
use super::moment::UnixMillis;

/// What a process may have sent without recording it before it ended: receivers may have seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InDoubt {
    /// Events up to this key, as long as they have no attempt.
    pub events_to: EventSeq,
    /// Pending rows that were due by this moment.
    pub due_to: UnixMillis,
}

impl InDoubt {
    pub const NOTHING: Self = Self { events_to: EventSeq::ZERO, due_to: UnixMillis(0) };

    /// What is in doubt by either bound.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { events_to: self.events_to.max(other.events_to), due_to: self.due_to.max(other.due_to) }
    }
}
