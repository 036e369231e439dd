//! The health of an endpoint: what it has learnt of its receiver, as it is kept over restarts. Pure.

use std::sync::Arc;

use super::id::EventSeq;
use super::moment::UnixMillis;
use super::outcome::OutcomeKind;

/// Why a webhook is suspended: it is sent nothing but probes, and what it is owed waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuspensionCause {
    /// The receiver answered 410: no probe is sent before a person asks for one.
    Gone,
    /// The receiver has only failed for as long as the webhook's owner allows.
    Failing,
}

impl SuspensionCause {
    /// The number in the rows.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::Gone => 1,
            Self::Failing => 2,
        }
    }

    /// The word in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }

    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        [Self::Gone, Self::Failing].into_iter().find(|cause| cause.code() == code)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspension {
    pub since: UnixMillis,
    pub cause: SuspensionCause,
}

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
    /// When the owner was last warned that the webhook will be suspended.
    pub warned_at: Option<UnixMillis>,
    pub suspension: Option<Suspension>,
    /// When the receiver succeeded again after a suspension. Stays afterwards.
    pub recovered_at: Option<UnixMillis>,
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
