//! How many requests one endpoint may have under way: additive increase, multiplicative decrease, with slow start, like
//! TCP (RFC 5681). Pure: the lane asks for the cap, notes the epoch in which a request started, and says how it ended.
//! The owner's `maxInFlight` is the most that it will ever be.

use crate::domain::outcome::OutcomeKind;

/// Enough to keep a healthy receiver busy for its first round trip, few enough not to trample a small one.
const FIRST: u16 = 4;

/// What the end of a request says about the number that was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The receiver keeps up.
    Good,
    /// The receiver has more than it can take.
    Strained,
    /// It would have ended like this with one request under way or with a hundred.
    Neutral,
}

impl From<OutcomeKind> for Signal {
    fn from(outcome: OutcomeKind) -> Self {
        match outcome {
            OutcomeKind::Success => Self::Good,
            // The receiver says so.
            OutcomeKind::Throttled => Self::Strained,
            // It queues behind the others until nobody waits any more.
            OutcomeKind::TimedOut => Self::Strained,
            // A full accept queue refuses or drops.
            OutcomeKind::ConnectFailed => Self::Strained,
            // Accepted, then dropped: what an overrun or killed worker leaves. A receiver that always does this gets
            // nothing done with a higher cap either, and an idle connection that it closes is closed at low load.
            OutcomeKind::ProtocolError => Self::Strained,
            // It answered in time. That says much about the request and little about the load, and an answer that is
            // quick because nothing was done must not make room for more.
            OutcomeKind::Rejected | OutcomeKind::Gone => Self::Neutral,
            // A certificate or a protocol version that does not fit does not come from load.
            OutcomeKind::TlsFailed => Self::Neutral,
            // The receiver was never asked.
            OutcomeKind::DnsFailed | OutcomeKind::Blocked => Self::Neutral,
            // Our own fault.
            OutcomeKind::Crashed => Self::Neutral,
        }
    }
}

/// The time between two shrinkings. What a request says counts only within the epoch in which it started: later, it
/// tells of a load that is no more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epoch(u32);

/// The cap on the requests that one endpoint has under way.
#[derive(Debug)]
pub struct Concurrency {
    most: u16,
    cap: u16,
    epoch: Epoch,
    growth: Growth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// One more with each good answer: twice as many with each round trip.
    SlowStart,
    /// One more with `cap` good answers: one more with each round trip.
    Steady { good: u16 },
}

impl Concurrency {
    /// A cap that has yet to find out what the receiver takes. No `most` at all counts as one.
    #[must_use]
    pub fn new(most: u16) -> Self {
        let most = most.max(1);
        Self { most, cap: FIRST.min(most), epoch: Epoch::default(), growth: Growth::SlowStart }
    }

    /// How many requests may be under way; at least one.
    #[must_use]
    pub fn cap(&self) -> usize {
        self.cap.into()
    }

    /// Whether the owner allows no more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.cap == self.most
    }

    /// What to note with a request that starts now.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A request has ended. `in_flight` counts it and all others that were under way when it did.
    pub fn finished(&mut self, signal: Signal, in_flight: usize, started: Epoch) {
        if started != self.epoch {
            return;
        }
        match signal {
            // A cap that is not reached is not tested by what goes well below it.
            Signal::Good if in_flight >= self.cap() => self.grow(),
            Signal::Strained => self.shrink(),
            Signal::Good | Signal::Neutral => {}
        }
    }

    /// The owner wants at most this many. A cap above it falls to it, one below it may grow up to it.
    pub fn set_most(&mut self, most: u16) {
        self.most = most.max(1);
        self.cap = self.cap.min(self.most);
    }

    fn grow(&mut self) {
        let (grows, growth) = match self.growth {
            Growth::SlowStart => (true, Growth::SlowStart),
            Growth::Steady { good } if good + 1 >= self.cap => (true, Growth::Steady { good: 0 }),
            Growth::Steady { good } => (false, Growth::Steady { good: good + 1 }),
        };
        self.growth = growth;
        if grows && self.cap < self.most {
            self.cap += 1;
        }
    }

    fn shrink(&mut self) {
        self.cap = (self.cap / 2).max(1);
        self.growth = Growth::Steady { good: 0 };
        self.epoch = Epoch(self.epoch.0.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests;
