//! Slow start: after a suspension, a webhook gets its backlog slowly at first and then faster, so that a receiver that
//! has just come back is not overrun. Pure.

use std::time::{Duration, Instant};

use crate::domain::moment::UnixMillis;

use super::protocol::Now;

/// Requests that start in a second at first.
const FIRST_RATE: f64 = 5.0;

/// The rate doubles in this time.
const DOUBLES_IN: Duration = Duration::from_secs(30);

/// After this time nothing is held back. The rate is a thousand times as high by then.
const LASTS: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct SlowStart {
    /// When the receiver succeeded again.
    since: UnixMillis,
    last_start: Option<Instant>,
}

impl SlowStart {
    pub(super) fn new(since: UnixMillis) -> Self {
        Self { since, last_start: None }
    }

    /// Requests that may start in a second; `None` when the slow start is over.
    pub(super) fn rate(&self, now: UnixMillis) -> Option<f64> {
        let elapsed = now.since(self.since);
        let doublings = elapsed.as_secs_f64() / DOUBLES_IN.as_secs_f64();
        (elapsed < LASTS).then(|| FIRST_RATE * doublings.exp2())
    }

    /// Before when the next request may not start; `None` if it may start now.
    pub(super) fn waits_until(&self, now: Now) -> Option<Instant> {
        let (rate, last) = (self.rate(now.wall)?, self.last_start?);
        let until = last + Duration::from_secs_f64(rate.recip());
        (until > now.steady).then_some(until)
    }

    pub(super) fn started(&mut self, now: Now) {
        self.last_start = Some(now.steady);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_doubles_each_half_minute_until_nothing_is_held_back() {
        let (epoch, back_since) = (Instant::now(), UnixMillis(1_800_000_000_000));
        let at = |elapsed| Now { wall: back_since.plus(elapsed), steady: epoch + elapsed, tight: false };
        let mut slow = SlowStart::new(back_since);
        assert_eq!(slow.waits_until(at(Duration::ZERO)), None, "the first starts at once");
        slow.started(at(Duration::ZERO));
        assert_eq!(slow.waits_until(at(Duration::ZERO)), Some(epoch + Duration::from_millis(200)));
        assert_eq!(slow.waits_until(at(Duration::from_millis(200))), None);
        let rates = [0, 30, 60, 299, 300].map(|seconds| slow.rate(at(Duration::from_secs(seconds)).wall));
        assert_eq!(rates[..3], [Some(5.0), Some(10.0), Some(20.0)]);
        assert!(rates[3].is_some_and(|rate| rate > 4900.0) && rates[4].is_none());

        let (mut now, mut starts) = (Duration::ZERO, 1);
        while now < Duration::from_secs(60) {
            now += Duration::from_millis(1);
            if slow.waits_until(at(now)).is_none() {
                slow.started(at(now));
                starts += 1;
            }
        }
        // The integral of the rate over a minute: 5 · 30 / ln 2 · (2² − 1) = 649.
        assert!((620..=650).contains(&starts), "{starts}");
    }

    #[test]
    fn a_clock_that_was_set_back_begins_it_again() {
        let slow = SlowStart::new(UnixMillis(1_800_000_000_000));
        assert_eq!(slow.rate(UnixMillis(1_700_000_000_000)), Some(FIRST_RATE));
    }
}
