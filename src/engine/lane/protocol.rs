//! The inputs and effects of a lane. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::delivery::DeliveryState;
use crate::domain::health::{Health, LastError, SuspensionCause};
use crate::domain::id::EventSeq;
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::Outcome;
use crate::domain::policy::Policy;
use crate::engine::permits::Share;

use super::Entry;

/// One moment on the wall clock that rows use and on the monotonic clock, and whether memory is tight then.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub wall: UnixMillis,
    pub steady: Instant,
    /// Payload memory is above its limit: only what is sent now is worth its memory.
    pub tight: bool,
}

/// What can happen to a lane.
#[derive(Debug)]
pub enum Input {
    /// The dispatcher offers a target of a fan-out.
    Offer(Entry),
    /// The rows that [`Effect::Load`] asked for, and when the first row after them falls due.
    Loaded {
        entries: Vec<Entry>,
        next: Option<UnixMillis>,
    },
    LoadFailed,
    /// An attempt ended.
    Finished {
        event: EventSeq,
        outcome: Outcome,
        said: Said,
        /// The webhook's URL has changed since the attempt began.
        from_former_url: bool,
        took: Duration,
        jitter: f64,
    },
    /// An attempt ended before anything was sent.
    NotSent {
        event: EventSeq,
    },
    /// An attempt was cut short: something may have been sent.
    CutShort {
        event: EventSeq,
    },
    /// There are rows that the lane does not know.
    Wake,
    /// Rows fall due; the lane may know them.
    Remind,
    /// An operator wants this delivery sent now.
    SendNow(Entry),
    /// An operator wants to know whether the receiver is back.
    Probe,
    /// The receiver is another one; what was learnt of the former does not count. [`Self::Configure`] follows.
    Renew,
    /// The timer has fired.
    Tick,
    /// The policy or the mode changed.
    Configure {
        policy: Arc<Policy>,
        mode: Mode,
    },
}

/// What an attempt has shown besides its outcome, for display.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub status: Option<u16>,
    pub error: Option<String>,
}

/// What the actor is to do.
#[derive(Debug)]
pub enum Effect {
    Start {
        entry: Entry,
        share: Share,
    },
    /// Record the attempt and the delivery's new state.
    Settle {
        entry: Entry,
        state: DeliveryState,
    },
    /// Save the health, so that it survives a restart, and tell the owner what is new.
    Save {
        health: Health,
        news: Option<News>,
    },
    /// Give the delivery a row that waits in the store.
    Defer {
        event: EventSeq,
    },
    /// Cancel the delivery.
    Cancel {
        event: EventSeq,
    },
    /// Stop those of these attempts whose requests have not been sent; each comes back as [`Input::NotSent`].
    Recall {
        events: Vec<EventSeq>,
    },
    /// Read pending rows other than the `known` ones, then answer with [`Input::Loaded`].
    Load {
        limit: usize,
        known: Vec<EventSeq>,
    },
}

/// What has happened to a webhook that its owner must hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The receiver has only failed for most of the time after which the webhook is suspended.
    Failing { failing_since: UnixMillis, suspended_at: UnixMillis },
    /// Only probes are sent from now on.
    Suspended { cause: SuspensionCause, failing_since: UnixMillis },
    /// The receiver has succeeded, and its backlog follows.
    Recovered { since: UnixMillis, cause: SuspensionCause },
}

/// Whether the lane may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Active,
    /// Paused, switched off by its owner, held by a purge, or halted because the webhook's row cannot be read:
    /// deliveries wait in the store.
    Paused,
    /// The endpoint is draining: nothing starts; entries in memory are still owed by rows and fan-outs.
    Stopping,
    /// The webhook is deleted: its deliveries are cancelled.
    Deleted,
}

/// Where in the lane a delivery was when it was to be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InLane {
    Absent,
    Waiting,
    /// Its attempt has started. `manual`: a person or an operation asked for it.
    Started {
        manual: bool,
    },
}

/// The state of a lane, for display.
#[derive(Debug, Clone, Default)]
pub struct Gauge {
    /// Attempts that have started and not ended.
    pub attempts: usize,
    pub window: usize,
    /// When the limiter lets the next request start.
    pub limited_until: Option<Instant>,
    /// When the next request of the backlog may start after a suspension.
    pub slow_until: Option<Instant>,
    /// Requests that may start in a second now, shortly after a suspension.
    pub slow_start: Option<f64>,
    /// How many attempts may be started at once.
    pub cap: usize,
    /// The failure that reduced `cap`; `None` when nothing has.
    pub strained_by: Option<Arc<LastError>>,
    /// From which places its requests are taken.
    pub share: Share,
    pub last_error: Option<Arc<LastError>>,
    pub last_success_at: Option<UnixMillis>,
    pub failing_since: Option<UnixMillis>,
}
