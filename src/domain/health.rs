//! The health of an endpoint: what it has learnt of its receiver, as it is kept over restarts. Pure.

use std::sync::Arc;

use super::id::EventSeq;
use super::moment::UnixMillis;
use super::outcome::OutcomeKind;

/// The default is an endpoint that has seen no failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    pub consecutive_failures: u32,
    pub openings: u16,
    pub open_until: Option<UnixMillis>,
    pub opened_at: Option<UnixMillis>,
    pub last_failure: Option<OutcomeKind>,
    /// The first failure after the last success.
    pub failing_since: Option<UnixMillis>,
    /// When the owner was warned that the webhook will be switched off.
    pub warned_at: Option<UnixMillis>,
    /// Stays after the receiver succeeds again.
    pub last_error: Option<Arc<LastError>>,
    /// As of the last save: a success alone saves nothing.
    pub last_success_at: Option<UnixMillis>,
}

/// The last request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    pub at: UnixMillis,
    pub outcome: OutcomeKind,
    pub status: Option<u16>,
    pub error: Option<String>,
    /// The event of the delivery that failed.
    pub event: EventSeq,
}
