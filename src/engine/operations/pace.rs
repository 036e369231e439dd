//! How fast an operation goes: its rate, and how many attempts it may have asked for that were not made yet. Pure.

use std::time::Instant;

/// Attempts that an operation may have asked for at one webhook before it knows how fast the receiver answers.
const LEAST: usize = 4;

/// The most attempts that an operation may have asked for at one webhook.
const MOST: usize = 64;

/// Turns after which the window shrinks if attempts stay unanswered.
const PATIENCE: u32 = 20;

/// Tokens that accumulate at a rate: one for each item.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: 1.0, filled_at: now }
    }

    /// Adds what has accumulated by `now`, a quarter of a second's worth at most; answers how many items may go.
    pub(super) fn fill(&mut self, now: Instant, per_second: f64) -> usize {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.filled_at = now;
        self.tokens = (self.tokens + passed * per_second).min((per_second / 4.0).max(1.0));
        let whole = self.tokens.floor().clamp(0.0, f64::from(u32::MAX));
        // Exact: a whole number below 2^32.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded above")]
        let items = whole as u32;
        items as usize
    }

    /// These items have gone.
    pub(super) fn take(&mut self, items: usize) {
        self.tokens -= u32::try_from(items).map_or(self.tokens, f64::from);
    }
}

/// How many attempts may be asked for at one webhook at once: few for a slow receiver, whose other deliveries must not
/// wait behind them; more for one that answers all of them between two turns.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    /// Turns in a row that have left attempts unanswered.
    waited: u32,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { size: LEAST, waited: 0 }
    }

    /// How many more attempts may be asked for beside those that are not made yet.
    pub(super) fn room(&self, not_made: usize) -> usize {
        self.size.saturating_sub(not_made)
    }

    /// At the beginning of a turn: of the attempts asked for before, `left` are not made yet.
    pub(super) fn note(&mut self, asked_for: usize, left: usize) {
        if left > 0 {
            self.waited += 1;
            if self.waited >= PATIENCE {
                *self = Self { size: (self.size / 2).max(LEAST), waited: 0 };
            }
        } else {
            self.waited = 0;
            if asked_for >= self.size {
                self.size = (self.size * 2).min(MOST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn items_go_at_the_rate_and_pauses_are_not_made_up_for() {
        let (start, mut gone) = (Instant::now(), 0);
        let mut bucket = Bucket::new(start);
        for turn in 0..200 {
            let items = bucket.fill(start + Duration::from_millis(50) * turn, 100.0);
            bucket.take(items);
            gone += items;
        }
        assert!((990..=1000).contains(&gone), "{gone} in ten seconds");
        assert_eq!(bucket.fill(start + Duration::from_secs(3600), 100.0), 25);
    }

    #[test]
    fn a_rate_below_one_an_interval_still_lets_items_go() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let mut turns = (0..100u32).filter(|turn| {
            let items = bucket.fill(start + Duration::from_millis(50) * *turn, 1.0);
            bucket.take(items);
            items == 1
        });
        assert_eq!((turns.next(), turns.next(), turns.next()), (Some(0), Some(20), Some(40)));
    }

    #[test]
    fn a_quick_receiver_gets_more_at_once_and_a_slow_one_few() {
        let mut window = Window::new();
        for _ in 0..10 {
            window.note(window.room(0), 0);
        }
        assert_eq!(window.room(0), MOST);
        for _ in 0..10 * PATIENCE {
            window.note(MOST, 1);
        }
        assert_eq!((window.room(0), window.room(3), window.room(9)), (LEAST, 1, 0));
        window.note(LEAST - 1, 0);
        assert_eq!(window.room(0), LEAST, "the window was not used up");
    }
}
