//! When a crashed endpoint is made again. Pure.

use std::time::Duration;

/// A first crash is most likely a single bad moment: be back at once, within a second.
const FIRST: Duration = Duration::from_millis(100);

/// An endpoint that keeps crashing costs one start per half minute.
const LONGEST: Duration = Duration::from_secs(30);

/// Crashes further apart than this have nothing to do with each other.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// How often an endpoint crashed lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restarts {
    recent: u32,
}

impl Restarts {
    /// It crashed after having lived for `lived`. Answers how long to wait before it is made again.
    #[must_use]
    pub fn crashed(&mut self, lived: Duration) -> Duration {
        if lived >= FORGET_AFTER {
            self.recent = 0;
        }
        let wait = FIRST.saturating_mul(1u32.checked_shl(self.recent).unwrap_or(u32::MAX)).min(LONGEST);
        self.recent = self.recent.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute_and_start_over_after_a_quiet_time() {
        let mut restarts = Restarts::default();
        let short = Duration::from_secs(1);
        let waits: Vec<_> = (0..4).map(|_| restarts.crashed(short).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800]);
        for _ in 0..100 {
            assert!(restarts.crashed(short) <= LONGEST);
        }
        assert_eq!(restarts.crashed(FORGET_AFTER), FIRST);
    }
}
