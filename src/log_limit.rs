//! Bounds how many log lines one subject writes in a second, so that a flood of failures does not become a flood of
//! lines. Lines beyond the limit are suppressed and counted, and the next line says how many there were. Pure: `now` is
//! an argument.

use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(1);

/// The log limit of one subject.
#[derive(Debug)]
pub struct LogLimit {
    most: u32,
    window: Instant,
    written: u32,
    suppressed: u64,
}

impl LogLimit {
    /// Admits at most `most` lines in a second.
    #[must_use]
    pub fn new(most: u32, now: Instant) -> Self {
        Self { most, window: now, written: 0, suppressed: 0 }
    }

    /// Returns the number of lines suppressed since the last one if a line may be written now, and `None` otherwise.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.window) >= WINDOW {
            (self.window, self.written) = (now, 0);
        }
        if self.written >= self.most {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(self.take_suppressed())
    }

    /// Gives a count back that no line has reported, so that the next line reports it.
    pub fn put_back(&mut self, suppressed: u64) {
        self.suppressed += suppressed;
    }

    /// Takes the number of lines suppressed since the last one that was written.
    pub fn take_suppressed(&mut self) -> u64 {
        std::mem::take(&mut self.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted_and_told_with_the_next() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut limit = LogLimit::new(2, start);
        let admitted: Vec<_> = [0, 1, 2, 3, 999, 1_000, 1_001, 1_002].map(|millis| limit.admit(at(millis))).into();
        assert_eq!(admitted, [Some(0), Some(0), None, None, None, Some(3), Some(0), None]);
        assert_eq!((limit.take_suppressed(), limit.take_suppressed()), (1, 0));
        limit.put_back(3);
        assert_eq!(limit.admit(at(2_001)), Some(3));
    }
}
