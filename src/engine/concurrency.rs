//! Decides how many requests one endpoint may have in flight: additive increase, multiplicative decrease, with slow
//! start, like TCP (RFC 5681). Pure: the lane asks for the cap, notes the round in which a request started, and reports
//! how it ended. The cap never exceeds the owner's `maxInFlight`.

use crate::domain::outcome::OutcomeKind;

/// Enough to keep a healthy receiver busy for its first round trip, few enough not to trample a small one.
const FIRST: u16 = 4;

/// What the end of a request says about the number of requests that were in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The receiver keeps up.
    Good,
    /// The receiver has more than it can take.
    Strained,
    /// The request would have ended like this whether one or a hundred were in flight.
    Neutral,
}

impl From<OutcomeKind> for Signal {
    fn from(outcome: OutcomeKind) -> Self {
        match outcome {
            OutcomeKind::Success => Self::Good,
            // 429: the receiver says so itself.
            OutcomeKind::Throttled => Self::Strained,
            // The request queued behind the others for longer than its timeout.
            OutcomeKind::TimedOut => Self::Strained,
            // A full accept queue refuses or drops connections.
            OutcomeKind::ConnectFailed => Self::Strained,
            // The connection was accepted, then dropped: what an overrun or killed worker leaves. A receiver that
            // always does this achieves nothing with a higher cap either, and an idle connection that a receiver closes
            // is closed at low load.
            OutcomeKind::ProtocolError => Self::Strained,
            // The receiver answered in time. That says much about the request and little about the load, and an answer
            // that is quick because nothing was done must not raise the cap.
            OutcomeKind::Rejected | OutcomeKind::Gone => Self::Neutral,
            // A certificate or protocol version that does not fit has nothing to do with load.
            OutcomeKind::TlsFailed => Self::Neutral,
            // The receiver was never contacted.
            OutcomeKind::DnsFailed | OutcomeKind::Blocked => Self::Neutral,
            // A panic on this side.
            OutcomeKind::Crashed => Self::Neutral,
        }
    }
}

/// The time between two decreases of the cap. A result counts only in the round in which its request started: later, it
/// reports on a load that is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round(u32);

/// The cap on the requests in flight of one endpoint.
#[derive(Debug)]
pub struct Concurrency {
    most: u16,
    cap: u16,
    round: Round,
    growth: Growth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// One more with each good answer: doubles with each round trip.
    SlowStart,
    /// One more with `cap` good answers: one more with each round trip.
    Steady { good: u16 },
}

impl Concurrency {
    /// The cap for a receiver whose capacity is not known yet. A `most` of zero counts as one.
    #[must_use]
    pub fn new(most: u16) -> Self {
        let most = most.max(1);
        Self { most, cap: FIRST.min(most), round: Round::default(), growth: Growth::SlowStart }
    }

    /// How many requests may be in flight; at least one.
    #[must_use]
    pub fn cap(&self) -> usize {
        self.cap.into()
    }

    /// Whether the cap is as high as the owner allows.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.cap == self.most
    }

    /// The round to note with a request that starts now.
    #[must_use]
    pub fn round(&self) -> Round {
        self.round
    }

    /// A request has ended. `in_flight` is the number of requests before the end, this one included.
    pub fn finished(&mut self, signal: Signal, in_flight: usize, started: Round) {
        if started != self.round {
            return;
        }
        match signal {
            // Fewer requests than the cap do not test the cap.
            Signal::Good if in_flight >= self.cap() => self.grow(),
            Signal::Strained => self.shrink(),
            Signal::Good | Signal::Neutral => {}
        }
    }

    /// The owner changes the maximum. A cap above it falls to it; a cap below it may grow up to it.
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
        self.round = Round(self.round.0.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests;
