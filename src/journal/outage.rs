//! How long the database has committed no batch. Pure: `now` is an argument.

use std::time::{Duration, Instant};

use crate::log_limit::LogLimit;

/// How long batches must have failed before `/readyz` sends publishers elsewhere: one refused batch proves nothing.
const GRACE: Duration = Duration::from_secs(2);

/// A journal without records does not learn that the database is back. After this time without a try, `/readyz`
/// succeeds again, so that publishes come and find out.
const REST: Duration = Duration::from_secs(10);

/// Outages that are logged in a second: the database may refuse and commit batches by turns.
const LINES: u32 = 1;

/// The batches that failed since the last one that was committed.
#[derive(Debug, Default)]
pub struct Outage {
    since: Option<Instant>,
    /// When the journal stopped trying, because it has nothing to write.
    idle_since: Option<Instant>,
    refusals: u64,
    lines: Option<LogLimit>,
    /// Whether a line was logged at the beginning of the outage.
    is_told: bool,
}

/// An outage that has ended and whose beginning was logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) after: Duration,
    pub(super) refusals: u64,
}

impl Outage {
    /// COMMIT was not answered. Returns whether to log a line: only the first one of an outage.
    pub(super) fn unanswered(&mut self, now: Instant) -> bool {
        let begins = self.since.is_none();
        self.since.get_or_insert(now);
        self.idle_since = None;
        begins
    }

    /// A batch was not committed. If a line is to be logged, returns how many outages had none since the last one.
    pub(super) fn refused(&mut self, now: Instant) -> Option<u64> {
        self.unanswered(now);
        self.refusals += 1;
        if self.refusals > 1 {
            return None;
        }
        let admitted = self.lines.get_or_insert_with(|| LogLimit::new(LINES, now)).admit(now);
        self.is_told = admitted.is_some();
        admitted
    }

    /// Nothing is left to try again.
    pub(super) fn rests(&mut self, now: Instant) {
        self.idle_since = self.since.map(|_| now);
    }

    /// A batch was committed. Returns what to log.
    pub(super) fn succeeded(&mut self, now: Instant) -> Option<Ended> {
        let Self { since, refusals, lines, is_told, .. } = std::mem::take(self);
        self.lines = lines;
        let after = now.saturating_duration_since(since.filter(|_| is_told)?);
        Some(Ended { after, refusals })
    }

    /// Whether batches have failed for longer than the grace, none was committed since, and a publish would hardly
    /// succeed.
    #[must_use]
    pub fn is_lasting(&self, now: Instant) -> bool {
        let for_long = |since: Option<Instant>, until: Instant, long| {
            since.is_some_and(|since| until.saturating_duration_since(since) >= long)
        };
        let has_failed_for_long = for_long(self.since, self.idle_since.unwrap_or(now), GRACE);
        has_failed_for_long && !for_long(self.idle_since, now, REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lasts_from_two_seconds_of_failures_to_the_first_success() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::default();
        assert!(!outage.is_lasting(at(9)), "nothing has failed");
        assert_eq!([outage.unanswered(at(10)), outage.unanswered(at(11))], [true, false]);
        assert_eq!([outage.refused(at(11)), outage.refused(at(11))], [Some(0), None]);
        assert_eq!([11, 12, 100].map(|seconds| outage.is_lasting(at(seconds))), [false, true, true]);
        assert_eq!(outage.succeeded(at(15)), Some(Ended { after: Duration::from_secs(5), refusals: 2 }));
        assert!(!outage.is_lasting(at(100)));
        assert_eq!(outage.succeeded(at(16)), None);
    }

    #[test]
    fn a_journal_that_has_nothing_to_write_takes_publishes_again_to_find_out() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::default();
        outage.refused(at(0));
        outage.rests(at(1));
        assert!(!outage.is_lasting(at(2)), "one refused batch proves nothing");
        outage.refused(at(3));
        outage.rests(at(4));
        assert_eq!([4, 13, 14].map(|seconds| outage.is_lasting(at(seconds))), [true, true, false]);
        assert_eq!(outage.refused(at(15)), None, "the outage was logged before");
        assert!(outage.is_lasting(at(15)));
    }

    #[test]
    fn batches_that_are_refused_and_committed_by_turns_are_few_lines() {
        let now = Instant::now();
        let mut outage = Outage::default();
        let turns = [(); 3].map(|()| (outage.refused(now), outage.succeeded(now).is_some()));
        assert_eq!(turns, [(Some(0), true), (None, false), (None, false)]);
        assert_eq!(outage.refused(now + Duration::from_secs(1)), Some(2));
    }
}
