//! Tracks what one connection is doing and computes its deadline. Pure. [`super::activity_io`] reports bytes received
//! and sent; [`super::answer`] reports when requests begin and end and which answers the peer leaves unread.

use std::time::Duration;

use tokio::time::Instant;

/// Time limits for the phases of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From the first byte of a request until its head is complete. For the first request, the time starts when the
    /// connection is accepted, so it includes the TLS handshake.
    pub(super) head: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
    /// For the peer to read any of the bytes written to it, and to read each piece of an answer that waits for HTTP/2
    /// flow control. Frames that carry no answer, such as a PING, are no progress.
    pub(super) write: Duration,
    /// For a graceful shutdown.
    pub(super) close: Duration,
}

/// A connection that was just accepted or just answered is not closed yet: its next request is probably on the way.
pub(super) const GRACE: Duration = Duration::from_millis(250);

/// A peer on a slow network reads a piece of an answer within this time.
pub(super) const UNREAD_GRACE: Duration = Duration::from_millis(500);

/// The same for a caller without a valid key. A flood of such connections must leave slots for newcomers.
pub(super) const ANONYMOUS_UNREAD_GRACE: Duration = Duration::from_millis(100);

/// What a connection does while no request is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The first request has not begun.
    New,
    /// Every request is answered, and the next one has not begun.
    Idle,
    /// The head of the next request is incomplete.
    Head,
}

/// How to close a connection whose deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Graceful shutdown: the peer is told, as far as its protocol allows (HTTP/2: GOAWAY).
    Politely,
    AtOnce,
}

/// How dispensable a connection is: when slots are short, the least in this order is closed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// No request has begun.
    Silent(Instant),
    /// No request had a valid key, and the peer does not read the answers.
    AnonymousUnread(Instant),
    /// A request had a valid key, and the peer does not read the answers.
    Unread(Instant),
    /// Every request is answered, and none had a valid key.
    Idle(Instant),
    /// Every request is answered, and at least one had a valid key.
    KnownIdle(Instant),
    /// A request has been under way since this moment.
    Busy(Instant),
}

impl Standing {
    pub(super) fn is_dispensable(self, now: Instant) -> bool {
        let lasts = |since| now.saturating_duration_since(since);
        match self {
            Self::Silent(since) | Self::Idle(since) | Self::KnownIdle(since) => lasts(since) >= GRACE,
            Self::AnonymousUnread(since) => lasts(since) >= ANONYMOUS_UNREAD_GRACE,
            Self::Unread(since) => lasts(since) >= UNREAD_GRACE,
            Self::Busy(_) => false,
        }
    }

    pub(super) fn is_unread(self) -> bool {
        matches!(self, Self::AnonymousUnread(_) | Self::Unread(_))
    }
}

/// Identifies a request on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestId(u64);

#[derive(Debug)]
struct Request {
    id: RequestId,
    began: Instant,
    /// Since when a piece of the answer waits in HTTP/2 for the peer to read it.
    unread_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Eviction {
    at: Instant,
    /// Close even in the middle of a request.
    is_forced: bool,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    phase: Phase,
    since: Instant,
    /// The requests under way.
    requests: Vec<Request>,
    next: u64,
    /// The connection speaks HTTP/2, so bytes between two requests are not the start of a head.
    is_multiplexed: bool,
    /// At least one request had a valid key.
    is_known: bool,
    /// Since when the socket accepts no bytes because the peer does not read.
    blocked_since: Option<Instant>,
    leaving_since: Option<Instant>,
    eviction: Option<Eviction>,
}

impl Activity {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::New,
            since: now,
            requests: Vec::new(),
            next: 0,
            is_multiplexed: false,
            is_known: false,
            blocked_since: None,
            leaving_since: None,
            eviction: None,
        }
    }

    /// Bytes were received.
    pub(super) fn received(&mut self, now: Instant) {
        if self.phase == Phase::Idle && self.requests.is_empty() && !self.is_multiplexed {
            (self.phase, self.since) = (Phase::Head, now);
        }
    }

    /// Bytes were sent.
    pub(super) fn sent(&mut self) {
        self.blocked_since = None;
    }

    /// There are bytes to send, and the peer does not read them.
    pub(super) fn blocked(&mut self, now: Instant) {
        self.blocked_since.get_or_insert(now);
    }

    /// The head of a request is complete.
    pub(super) fn began(&mut self, is_multiplexed: bool, now: Instant) -> RequestId {
        self.is_multiplexed = is_multiplexed;
        self.phase = Phase::Idle;
        let id = RequestId(self.next);
        self.next += 1;
        self.requests.push(Request { id, began: now, unread_since: None });
        id
    }

    /// The answer to a request is complete, or its caller is gone.
    pub(super) fn ended(&mut self, id: RequestId, now: Instant) {
        let before = self.requests.len();
        self.requests.retain(|request| request.id != id);
        if before > 0 && self.requests.is_empty() {
            self.since = now;
        }
    }

    /// A piece of an answer waits for the peer.
    pub(super) fn offered(&mut self, id: RequestId, now: Instant) {
        self.set_unread(id, Some(now));
    }

    /// The peer has read the piece that waited.
    pub(super) fn taken(&mut self, id: RequestId) {
        self.set_unread(id, None);
    }

    fn set_unread(&mut self, id: RequestId, since: Option<Instant>) {
        if let Some(request) = self.requests.iter_mut().find(|request| request.id == id) {
            request.unread_since = since;
        }
    }

    /// Since when a piece of this answer waits for the peer.
    pub(super) fn unread_since(&self, id: RequestId) -> Option<Instant> {
        self.requests.iter().find(|request| request.id == id)?.unread_since
    }

    /// A graceful shutdown of the connection has begun.
    pub(super) fn leave(&mut self, now: Instant) {
        self.leaving_since.get_or_insert(now);
    }

    /// The connection's slot is needed. If `is_forced`, the connection ends at once; otherwise it first finishes
    /// requests that have begun meanwhile.
    pub(super) fn evict(&mut self, is_forced: bool, now: Instant) {
        self.eviction.get_or_insert(Eviction { at: now, is_forced });
    }

    /// A request had a valid key.
    pub(super) fn caller_is_known(&mut self) {
        self.is_known = true;
    }

    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn standing(&self) -> Standing {
        let unread = if self.is_known { Standing::Unread } else { Standing::AnonymousUnread };
        if let Some(since) = self.blocked_since {
            return unread(since);
        }
        let of = |request: &Request| request.unread_since.map_or(Standing::Busy(request.began), unread);
        let standings = self.requests.iter().map(of);
        let of_requests = standings.reduce(|a, b| match (a, b) {
            (Standing::Busy(a), Standing::Busy(b)) => Standing::Busy(a.min(b)),
            // One answer in progress keeps the connection busy. Otherwise the answer that became unread last counts.
            (a, b) => a.max(b),
        });
        of_requests.unwrap_or(match self.phase {
            Phase::New => Standing::Silent(self.since),
            Phase::Idle | Phase::Head if self.is_known => Standing::KnownIdle(self.since),
            Phase::Idle | Phase::Head => Standing::Idle(self.since),
        })
    }

    /// The connection's deadline, unless something happens first. Usually `None` while a request is being answered:
    /// handlers have their own time limits, and [`super::streams`] ends unread answers of HTTP/2 one stream at a time.
    pub(super) fn ends(&self, limits: &Limits) -> Option<(Instant, Manner)> {
        let by_phase = match self.phase {
            _ if !self.requests.is_empty() => None,
            Phase::New | Phase::Head => Some((self.since + limits.head, Manner::AtOnce)),
            Phase::Idle => Some((self.since + limits.idle, Manner::Politely)),
        };
        let by_leaving = by_phase.and(self.leaving_since).map(|since| (since + limits.close, Manner::AtOnce));
        let by_writing = self.blocked_since.map(|since| (since + limits.write, Manner::AtOnce));
        let is_busy = matches!(self.standing(), Standing::Busy(_));
        let by_eviction =
            self.eviction.and_then(|Eviction { at, is_forced }| match (is_forced || !is_busy, self.leaving_since) {
                (true, _) => Some((at, Manner::AtOnce)),
                // Without a graceful shutdown, one request after the other would keep the slot.
                (false, None) => Some((at, Manner::Politely)),
                (false, Some(_)) => None,
            });
        // A graceful shutdown that has begun is not begun again.
        let by_phase = if by_leaving.is_some() { None } else { by_phase };
        [by_phase, by_leaving, by_writing, by_eviction].into_iter().flatten().min_by_key(|(at, _)| *at)
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
        close: Duration::from_secs(1),
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
        let request = activity.began(false, start);
        activity.received(after(start, 1));
        assert_eq!(activity.ends(&LIMITS), None);
        activity.ended(request, after(start, 2));
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
        let [first, second] = [activity.began(true, start), activity.began(true, start)];
        activity.ended(first, after(start, 1));
        assert_eq!(activity.standing(), Standing::Busy(start));
        activity.ended(second, after(start, 2));
        activity.received(after(start, 30));
        assert_eq!(activity.ends(&LIMITS), Some((after(start, 62), Manner::Politely)));
    }

    #[test]
    fn a_peer_that_takes_nothing_in_is_given_up_also_in_the_middle_of_an_answer() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        activity.began(false, start);
        activity.blocked(after(start, 1));
        activity.blocked(after(start, 20));
        assert_eq!(activity.ends(&LIMITS), Some((after(start, 31), Manner::AtOnce)));
        activity.sent();
        assert_eq!(activity.ends(&LIMITS), None);
    }

    #[test]
    fn a_connection_that_is_asked_to_leave_goes_once_it_is_quiet() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        let request = activity.began(false, start);
        activity.leave(after(start, 1));
        assert_eq!(activity.ends(&LIMITS), None);
        activity.ended(request, after(start, 5));
        assert_eq!(activity.ends(&LIMITS), Some((after(start, 2), Manner::AtOnce)));
    }

    /// Frames such as a PING do not reset the time for which an answer is unread.
    #[test]
    fn frames_that_carry_no_answer_are_no_progress_of_it() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        let request = activity.began(true, start);
        activity.caller_is_known();
        activity.offered(request, after(start, 1));
        for second in 2..40 {
            activity.received(after(start, second));
            activity.blocked(after(start, second));
            activity.sent();
        }
        assert_eq!(activity.unread_since(request), Some(after(start, 1)));
        assert_eq!(activity.standing(), Standing::Unread(after(start, 1)));
        activity.taken(request);
        assert_eq!(activity.standing(), Standing::Busy(start));
    }

    #[test]
    fn one_answer_that_gets_on_keeps_its_connection_busy() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        activity.caller_is_known();
        let [slow, other] = [activity.began(true, start), activity.began(true, start)];
        activity.offered(slow, after(start, 1));
        assert!(!activity.standing().is_dispensable(after(start, 20)));
        activity.offered(other, after(start, 20));
        assert_eq!(activity.standing(), Standing::Unread(after(start, 20)));
        assert!(!activity.standing().is_dispensable(after(start, 20)));
        assert!(activity.standing().is_dispensable(after(start, 21)));
    }

    #[test]
    fn an_evicted_connection_ends_with_the_requests_that_it_has_unless_it_is_forced() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        let request = activity.began(true, start);
        activity.evict(false, after(start, 1));
        assert_eq!(activity.ends(&LIMITS), Some((after(start, 1), Manner::Politely)));
        activity.leave(after(start, 1));
        assert_eq!(activity.ends(&LIMITS), None);
        activity.offered(request, after(start, 2));
        assert_eq!(activity.ends(&LIMITS), Some((after(start, 1), Manner::AtOnce)));

        let mut busy = Activity::new(start);
        busy.began(false, start);
        busy.evict(true, after(start, 1));
        assert_eq!(busy.ends(&LIMITS), Some((after(start, 1), Manner::AtOnce)));
    }

    #[test]
    fn the_silent_go_first_then_those_that_read_nothing_then_the_idle_and_last_those_with_a_valid_key() {
        let start = Instant::now();
        let asked = |second, is_known: bool| {
            let mut activity = Activity::new(after(start, second));
            let request = activity.began(true, after(start, second));
            if is_known {
                activity.caller_is_known();
            }
            (activity, request)
        };
        let idle = |second, is_known| {
            let (mut activity, request) = asked(second, is_known);
            activity.ended(request, after(start, second));
            activity
        };
        let unread = |second, is_known| {
            let (mut activity, request) = asked(second, is_known);
            activity.offered(request, after(start, second));
            activity
        };
        let new = |second| Activity::new(after(start, second));
        let first_to_last = [
            new(2),
            new(3),
            unread(8, false),
            unread(7, true),
            idle(4, false),
            idle(5, false),
            idle(1, true),
            asked(0, false).0,
        ];
        let standings = first_to_last.map(|activity| activity.standing());
        assert!(standings.is_sorted(), "{standings:?}");
    }

    proptest! {
        #[test]
        fn as_many_requests_end_as_began_and_then_it_is_idle(begun in 1_usize..50, again in 0_usize..3) {
            let start = Instant::now();
            let mut activity = Activity::new(start);
            let ids: Vec<RequestId> = (0..begun).map(|_| activity.began(true, start)).collect();
            prop_assert_eq!(activity.requests(), begun);
            for id in ids.iter().chain(ids.iter().take(again)) {
                prop_assert_eq!(activity.requests() == 0, activity.standing() == Standing::Idle(start));
                activity.ended(*id, start);
            }
            prop_assert_eq!(activity.standing(), Standing::Idle(start));
        }
    }
}
