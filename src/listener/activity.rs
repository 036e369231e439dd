//! What one connection is doing, and until when it may go on like that; pure. Told by [`super::watched`] what comes and
//! goes, by [`super::connection`] which requests begin and end.

use std::time::Duration;

use tokio::time::Instant;

/// How long a connection may take over what it does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From the first byte of a request until its head is complete; for the first request, from the acceptance on, with
    /// the TLS handshake in it.
    pub(super) head: Duration,
    /// From one request to the next.
    pub(super) idle: Duration,
    /// For the peer to take in anything of what is written to it.
    pub(super) write: Duration,
    /// To take leave.
    pub(super) farewell: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The first request has not begun.
    New,
    /// So many requests are being answered.
    Busy(u32),
    /// Every request is answered.
    Idle,
    /// The next request is on its way.
    Head,
}

/// How a connection ends whose time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// The peer is told, as far as its protocol has words for it.
    Politely,
    AtOnce,
}

/// How dispensable a connection is that answers no request: the least is closed first. One that has never asked for
/// anything before one that has, then whoever is silent for longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quiet {
    has_asked: bool,
    since: Instant,
}

impl Quiet {
    /// For how long nothing has been asked.
    pub(super) fn lasts(self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Activity {
    phase: Phase,
    since: Instant,
    has_asked: bool,
    /// HTTP/2: its frames between two requests are no heads.
    is_multiplexed: bool,
    /// The peer takes nothing in.
    blocked_since: Option<Instant>,
    leaving_since: Option<Instant>,
}

impl Activity {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::New,
            since: now,
            has_asked: false,
            is_multiplexed: false,
            blocked_since: None,
            leaving_since: None,
        }
    }

    /// Bytes have come.
    pub(super) fn received(&mut self, now: Instant) {
        match self.phase {
            Phase::Idle if !self.is_multiplexed => (self.phase, self.since) = (Phase::Head, now),
            Phase::Idle | Phase::New | Phase::Head | Phase::Busy(_) => {}
        }
    }

    /// Bytes have gone.
    pub(super) fn sent(&mut self) {
        self.blocked_since = None;
    }

    /// There are bytes to send, and the peer does not take them in.
    pub(super) fn blocked(&mut self, now: Instant) {
        self.blocked_since.get_or_insert(now);
    }

    /// The head of a request is complete.
    pub(super) fn began(&mut self, is_multiplexed: bool) {
        self.has_asked = true;
        self.is_multiplexed = is_multiplexed;
        self.phase = match self.phase {
            Phase::Busy(requests) => Phase::Busy(requests.saturating_add(1)),
            Phase::New | Phase::Idle | Phase::Head => Phase::Busy(1),
        };
    }

    /// The answer to a request is complete, or nobody waits for it any more.
    pub(super) fn ended(&mut self, now: Instant) {
        (self.phase, self.since) = match self.phase {
            Phase::Busy(requests) if requests > 1 => (Phase::Busy(requests - 1), self.since),
            Phase::Busy(_) => (Phase::Idle, now),
            quiet @ (Phase::New | Phase::Idle | Phase::Head) => (quiet, self.since),
        };
    }

    /// Its end was asked for.
    pub(super) fn leave(&mut self, now: Instant) {
        self.leaving_since.get_or_insert(now);
    }

    /// `None` while a request is being answered.
    pub(super) fn quiet(&self) -> Option<Quiet> {
        match self.phase {
            Phase::Busy(_) => None,
            Phase::New | Phase::Idle | Phase::Head => Some(Quiet { has_asked: self.has_asked, since: self.since }),
        }
    }

    /// When it is over unless something happens first; `None` while a request is being answered: handlers have time
    /// limits of their own.
    pub(super) fn ends(&self, limits: &Limits) -> Option<(Instant, Manner)> {
        let by_phase = match self.phase {
            Phase::New | Phase::Head => Some((self.since + limits.head, Manner::AtOnce)),
            Phase::Idle => Some((self.since + limits.idle, Manner::Politely)),
            Phase::Busy(_) => None,
        };
        let by_leaving = by_phase.and(self.leaving_since).map(|since| (since + limits.farewell, Manner::AtOnce));
        let by_writing = self.blocked_since.map(|since| (since + limits.write, Manner::AtOnce));
        // Who was asked to leave is not asked again.
        let by_phase = if by_leaving.is_some() { None } else { by_phase };
        [by_phase, by_leaving, by_writing].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        write: Duration::from_secs(30),
        farewell: Duration::from_secs(1),
    };

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_head_counts_from_the_acceptance_however_it_dribbles() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        for second in 1..9 {
            activity.received(after(start, second));
        }
        assert_eq!(activity.ends(&LIMITS), Some((after(start, 10), Manner::AtOnce)));
    }

    #[test]
    fn a_kept_connection_may_rest_and_a_head_that_has_begun_may_not() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        activity.began(false);
        activity.received(after(start, 1));
        assert_eq!(activity.ends(&LIMITS), None);
        activity.ended(after(start, 2));
        assert_eq!(activity.ends(&LIMITS), Some((after(start, 62), Manner::Politely)));
        for second in 5..9 {
            activity.received(after(start, second));
        }
        assert_eq!(activity.ends(&LIMITS), Some((after(start, 15), Manner::AtOnce)));
    }

    #[test]
    fn frames_between_the_requests_of_http2_neither_shorten_nor_lengthen_the_rest() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        activity.began(true);
        activity.began(true);
        activity.ended(after(start, 1));
        assert_eq!(activity.quiet(), None);
        activity.ended(after(start, 2));
        activity.received(after(start, 30));
        assert_eq!(activity.ends(&LIMITS), Some((after(start, 62), Manner::Politely)));
    }

    #[test]
    fn a_peer_that_takes_nothing_in_is_given_up_also_in_the_middle_of_an_answer() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        activity.began(false);
        activity.blocked(after(start, 1));
        activity.blocked(after(start, 20));
        assert_eq!(activity.ends(&LIMITS), Some((after(start, 31), Manner::AtOnce)));
        activity.sent();
        assert_eq!(activity.ends(&LIMITS), None);
    }

    #[test]
    fn whoever_is_asked_to_leave_goes_once_it_is_quiet() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        activity.began(false);
        activity.leave(after(start, 1));
        assert_eq!(activity.ends(&LIMITS), None);
        activity.ended(after(start, 5));
        assert_eq!(activity.ends(&LIMITS), Some((after(start, 2), Manner::AtOnce)));
    }

    #[test]
    fn who_never_asked_goes_before_who_did_and_the_longest_silent_first() {
        let start = Instant::now();
        let new = |second| Activity::new(after(start, second));
        let mut kept = new(0);
        kept.began(false);
        kept.ended(after(start, 1));
        let mut order = [kept.quiet(), new(3).quiet(), new(2).quiet()];
        order.sort();
        assert_eq!(order, [new(2).quiet(), new(3).quiet(), kept.quiet()]);
    }

    proptest! {
        #[test]
        fn as_many_requests_end_as_began_and_then_it_is_quiet(begun in 1_u32..50, extra in 0_u32..3) {
            let start = Instant::now();
            let mut activity = Activity::new(start);
            for _ in 0..begun {
                activity.began(true);
                prop_assert_eq!(activity.quiet(), None);
            }
            for _ in 0..begun + extra {
                activity.ended(start);
            }
            prop_assert!(activity.quiet().is_some());
        }
    }
}
