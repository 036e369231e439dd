//! What a lane hears, and what it wants done. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::id::EventSeq;
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::Outcome;
use crate::domain::policy::Policy;
use crate::engine::permits::Share;
use crate::store::deliveries::DeliveryState;
use crate::store::health::{Health, LastError};

use super::Entry;

/// The same moment on the clock of the rows and on the clock that never jumps, and how memory stands then.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub wall: UnixMillis,
    pub steady: Instant,
    /// So many payloads are in memory that only what is sent now is worth its place.
    pub tight: bool,
}

/// What the lane hears.
#[derive(Debug)]
pub enum Input {
    /// A fan-out's target.
    Offer(Entry),
    /// Rows that were asked for, and when the first one after them falls due.
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
        took: Duration,
        jitter: f64,
    },
    /// An attempt was given up before anything was sent.
    NotSent {
        event: EventSeq,
    },
    /// An attempt was given up when something may have been sent.
    CutShort {
        event: EventSeq,
    },
    /// There are rows that the lane does not know of.
    Wake,
    /// Rows fall due; the lane may know of them.
    Remind,
    /// A person wants this one sent now.
    SendNow(Entry),
    /// An operator wants to know whether the receiver is back.
    Probe,
    /// The receiver is another one: what was learnt does not count.
    Renew,
    /// The timer.
    Tick,
    /// The settings changed.
    Configure {
        policy: Arc<Policy>,
        mode: Mode,
    },
}

/// What an attempt has shown beside its outcome, for people.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub status: Option<u16>,
    pub error: Option<String>,
}

/// What the actor shall do.
#[derive(Debug)]
pub enum Effect {
    Start {
        entry: Entry,
        share: Share,
    },
    /// An attempt leaves its delivery like this.
    Settle {
        entry: Entry,
        state: DeliveryState,
    },
    /// Keep this over restarts.
    Save {
        health: Health,
    },
    /// Tell the owner that it is switched off soon.
    Warn {
        failing_since: UnixMillis,
    },
    /// Switch the webhook off.
    Disable {
        reason: Reason,
    },
    /// Becomes a row that waits in the store.
    Defer {
        event: EventSeq,
    },
    /// Will never be sent.
    Cancel {
        event: EventSeq,
    },
    /// Read pending rows, but not those that are `known`, then say [`Input::Loaded`].
    Load {
        limit: usize,
        known: Vec<EventSeq>,
    },
}

/// Why a webhook is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The receiver answered 410.
    Gone,
    /// It has only failed since then.
    Failing { since: UnixMillis },
}

/// Whether the lane may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Active,
    /// Switched off: what it is owed waits in the store.
    Paused,
    /// Stopping: nothing begins; what waits in memory is still owed by rows and fan-outs.
    Stopping,
    /// Deleted: what it is owed is cancelled.
    Deleted,
}

/// Where a delivery was found when somebody wanted to take it out of the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    Absent,
    Waiting,
    /// `manual`: because a person asked for it.
    InFlight {
        manual: bool,
    },
}

/// How a lane stands, as it is shown.
#[derive(Debug, Clone, Default)]
pub struct Gauge {
    pub in_flight: usize,
    /// Since when the request that takes longest is under way.
    pub oldest_flight: Option<Instant>,
    pub window: usize,
    /// When its limiter lets the next one through.
    pub limited_until: Option<Instant>,
    /// How many requests may be under way at once.
    pub cap: usize,
    /// Why that is less than its owner allows; `None` when nothing has reduced it.
    pub strained_by: Option<Arc<LastError>>,
    /// From which places its requests are taken.
    pub share: Share,
    pub last_error: Option<Arc<LastError>>,
    pub last_success_at: Option<UnixMillis>,
    pub failing_since: Option<UnixMillis>,
}
