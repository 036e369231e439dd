//! One delivery as its row holds it: its status, its state, and the requests that were made for it. Pure.

use std::sync::Arc;

use super::event::Event;
use super::moment::UnixMillis;
use super::outcome::OutcomeKind;
use super::request::SentRequest;

/// The status of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Pending,
    Success,
    Failed,
    Cancelled,
}

impl Status {
    /// How a delivery ends.
    pub const FINAL: [Self; 3] = [Self::Success, Self::Failed, Self::Cancelled];

    /// The word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The number in the rows.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::Pending => 0,
            Self::Success => 1,
            Self::Failed => 2,
            Self::Cancelled => 3,
        }
    }

    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        match code {
            0 => Some(Self::Pending),
            1 => Some(Self::Success),
            2 => Some(Self::Failed),
            3 => Some(Self::Cancelled),
            _ => None,
        }
    }
}

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    Scheduled,
    Retry,
    Manual,
    Test,
    /// An earlier request may have been cut short, or ended with a crash.
    Recovery,
    /// An operation asked for it.
    Replay,
}

impl Trigger {
    /// The number in the rows.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::Scheduled => 0,
            Self::Retry => 1,
            Self::Manual => 2,
            Self::Test => 3,
            Self::Recovery => 4,
            Self::Replay => 5,
        }
    }

    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        match code {
            0 => Some(Self::Scheduled),
            1 => Some(Self::Retry),
            2 => Some(Self::Manual),
            3 => Some(Self::Test),
            4 => Some(Self::Recovery),
            5 => Some(Self::Replay),
            _ => None,
        }
    }
}

/// The part of a delivery that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryState {
    pub status: Status,
    /// Requests made, of any trigger.
    pub attempts: u16,
    /// Automatic requests made; only these count against the policy.
    pub tries: u16,
    pub next_at: Option<UnixMillis>,
    pub settled_at: Option<UnixMillis>,
    /// Set while a manual retry or a replay is pending: what to fall back to if it fails.
    pub manual: Option<Fallback>,
}

impl DeliveryState {
    /// Nothing was sent yet; `next_at` is known once there is a row.
    #[must_use]
    pub fn pending(next_at: Option<UnixMillis>) -> Self {
        Self { status: Status::Pending, attempts: 0, tries: 0, next_at, settled_at: None, manual: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fallback {
    pub status: Status,
    pub next_at: Option<UnixMillis>,
    /// An operation asks for the attempt, which takes its turn; a person's goes first.
    pub is_replay: bool,
}

/// A pending delivery with everything that an attempt needs.
#[derive(Debug, Clone)]
pub struct Due {
    pub event: Arc<Event>,
    pub state: DeliveryState,
}

/// One request made for a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub number: u16,
    pub trigger: Trigger,
    pub started_at: UnixMillis,
    pub duration_us: u32,
    /// Time until the head of the response.
    pub head_us: Option<u32>,
    pub status_code: Option<u16>,
    pub outcome: OutcomeKind,
    pub error: Option<String>,
    /// `None` if nothing was to be sent, and once the answer was cleared.
    pub request: Option<SentRequest>,
    pub response_headers: Vec<(String, String)>,
    pub response_body: Vec<u8>,
}
