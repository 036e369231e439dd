//! When a crashed endpoint is restarted, and when it is quarantined instead. Pure.

use std::time::Duration;

/// A first crash is most likely a single bad moment, so the endpoint is back at once, within a second.
const FIRST: Duration = Duration::from_millis(100);

/// The longest wait: an endpoint that keeps crashing costs at most one activation in half a minute.
const LONGEST: Duration = Duration::from_secs(30);

/// Crashes further apart than this are unrelated.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// This many crashes in a row are no bad moments: their cause is still there.
const MOST: u32 = 8;

/// How often an endpoint has crashed lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restarts {
    recent: u32,
}

/// What follows from a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// The endpoint is restarted after this long.
    For(Duration),
    /// The endpoint is not restarted until an operator releases it.
    Quarantine,
}

impl Restarts {
    /// Counts a crash of an endpoint that had lived for `lived`.
    #[must_use]
    pub fn crashed(&mut self, lived: Duration) -> Rest {
        if lived >= FORGET_AFTER {
            self.recent = 0;
        }
        let wait = FIRST.saturating_mul(1u32.checked_shl(self.recent).unwrap_or(u32::MAX)).min(LONGEST);
        self.recent = self.recent.saturating_add(1);
        if self.recent >= MOST { Rest::Quarantine } else { Rest::For(wait) }
    }

    /// The crashes that count towards quarantine.
    #[must_use]
    pub fn recent(&self) -> u32 {
        self.recent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_start_over_after_a_quiet_time() {
        let mut restarts = Restarts::default();
        let short = Duration::from_secs(1);
        let waits: Vec<_> = (0..4).map(|_| restarts.crashed(short)).collect();
        assert_eq!(waits, [100, 200, 400, 800].map(|ms| Rest::For(Duration::from_millis(ms))));
        assert_eq!(restarts.crashed(FORGET_AFTER), Rest::For(FIRST));
    }

    #[test]
    fn who_crashes_again_and_again_is_left_alone() {
        let mut restarts = Restarts::default();
        let short = Duration::from_secs(1);
        let rests = (1..MOST).filter(|_| restarts.crashed(short) != Rest::Quarantine).count();
        assert_eq!(rests, 7);
        assert_eq!(restarts.crashed(short), Rest::Quarantine);
        assert_eq!(restarts.recent(), MOST);
    }
}
