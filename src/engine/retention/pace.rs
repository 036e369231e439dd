//! How many rows a sweep deletes at once, and how long it rests afterwards. Pure.
//!
//! A deletion occupies the database, and with SQLite its one writer, for which publishes wait. So a deletion is cut to
//! the size that takes [`AIM`], and a rest after it leaves four fifths of the time to others.

use std::time::Duration;

/// A publish waits for one deletion at most: about as long as for the batch of others.
const AIM: Duration = Duration::from_millis(4);

/// After a deletion the sweep rests for so many times as long.
const REST: u32 = 4;

const SHORTEST_REST: Duration = Duration::from_millis(1);
const LONGEST_REST: Duration = Duration::from_secs(2);

const FIRST: u32 = 64;
const FEWEST: u32 = 8;
const MOST: u32 = 2048;

/// The journal is busy when more than this part of its queue is taken.
const BUSY: usize = 8;

#[derive(Debug)]
pub(super) struct Pace {
    rows: u32,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { rows: FIRST }
    }

    /// Deliveries to delete at once.
    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    /// Takes in how long a deletion of so many deliveries took. A small one does not show that a large one is fast.
    pub(super) fn took(&mut self, rows: u32, time: Duration) {
        if time > AIM * 2 {
            self.rows = (self.rows / 2).max(FEWEST);
        } else if time < AIM / 2 && rows >= self.rows / 2 {
            self.rows = (self.rows * 2).min(MOST);
        }
    }
}

/// How long to rest after a deletion that took so long.
pub(super) fn rest_after(time: Duration) -> Duration {
    (time * REST).clamp(SHORTEST_REST, LONGEST_REST)
}

/// Whether so much waits in the journal's queue that a sweep had better wait, too.
pub(super) fn is_busy((taken, places): (usize, usize)) -> bool {
    taken > places / BUSY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_shrinks_to_a_few_milliseconds_and_grows_again() {
        let mut pace = Pace::new();
        for _ in 0..20 {
            pace.took(pace.rows(), Duration::from_millis(50));
        }
        assert_eq!(pace.rows(), FEWEST);
        pace.took(1, Duration::from_millis(1));
        assert_eq!(pace.rows(), FEWEST, "a deletion of one row shows nothing");
        for _ in 0..20 {
            pace.took(pace.rows(), Duration::from_millis(1));
        }
        assert_eq!(pace.rows(), MOST);
        pace.took(MOST, AIM);
        assert_eq!(pace.rows(), MOST, "the aim changes nothing");
    }

    #[test]
    fn a_rest_has_its_limits() {
        assert_eq!(rest_after(Duration::ZERO), SHORTEST_REST);
        assert_eq!(rest_after(Duration::from_millis(50)), Duration::from_millis(200));
        assert_eq!(rest_after(Duration::from_secs(60)), LONGEST_REST);
    }

    #[test]
    fn a_journal_that_fills_up_comes_first() {
        assert!(!is_busy((512, 4096)));
        assert!(is_busy((513, 4096)));
    }
}
