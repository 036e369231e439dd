//! Runs this process's clock: it advances with steady time and follows a reference clock, the database's or the
//! system's, slowly and without jumps. Called by `clock`. Pure: steady time and the readings of the reference clock are
//! arguments.
//!
//! Retries wait by this clock, so a change of the clock moves them. A small difference is caught up unnoticeably. A
//! jump of the reference clock is not believed until the clock has stayed there for five minutes; then this clock runs
//! a quarter faster or slower until it agrees. Only a difference of more than two hours, which is longer than most
//! waits, is then adopted at once.

use std::time::Duration;

/// Microseconds, so that small corrections are not rounded away.
type Micros = i64;

const SECOND: Micros = 1_000_000;

/// The largest difference that counts as drift; a larger one is a jump.
const DRIFT: Micros = SECOND;

/// Drift is caught up at 1/1000, a millisecond a second: more than clocks drift, and too little to notice in a wait.
const OF_DRIFT: Micros = 1000;

/// A jump is caught up at 1/4, a quarter of a second a second. No wait is then shorter than four fifths of its length,
/// and an hour, which is the mistake that people make, takes four hours.
const OF_A_JUMP: Micros = 4;

/// How long a reference clock must stay where it jumped to before it is believed.
const STAYS: Duration = Duration::from_secs(5 * 60);

/// The largest difference that is slewed. A clock that is wrong by more was never set, or stood still with its machine;
/// to slew it would take days.
const LONGEST_WAY: Micros = 2 * 3600 * SECOND;

#[derive(Debug, Clone)]
pub(super) struct Slew {
    /// The steady time from which the other fields hold.
    from: Duration,
    /// What the clock showed at `from`.
    shown: Micros,
    /// How far the clock was behind the reference clock at `from`. It catches up at 1/`part` of the time that passes.
    behind: Micros,
    part: Micros,
    reference: Option<Reference>,
}

/// What is known of the reference clock.
#[derive(Debug, Clone, Copy)]
struct Reference {
    /// How far it is ahead of steady time.
    ahead: Micros,
    /// The steady time since which it has not jumped.
    since: Duration,
}

/// What the reference clock said at a steady time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) at: Duration,
    pub(super) said: Micros,
    /// How much earlier or later the reference clock may have said so.
    pub(super) uncertainty: Micros,
}

/// What a reading means, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    InStep,
    /// The reference clock is ahead by this, and is not believed yet.
    Jumped(Micros),
    /// The reference clock was ahead by this, and its time is adopted.
    Taken(Micros),
}

impl Slew {
    /// A clock that shows `shown` at the steady time `from`.
    pub(super) fn new(from: Duration, shown: Micros) -> Self {
        Self { from, shown, behind: 0, part: OF_DRIFT, reference: None }
    }

    /// What this clock shows.
    pub(super) fn at(&self, steady: Duration) -> Micros {
        let passed = micros(steady.saturating_sub(self.from));
        let caught_up = (passed / self.part).min(self.behind.abs());
        self.shown + passed + caught_up * self.behind.signum()
    }

    /// What the reference clock shows, as far as it is known. A jump counts at once.
    pub(super) fn reference_at(&self, steady: Duration) -> Micros {
        self.reference.map_or_else(|| self.at(steady), |reference| micros(steady) + reference.ahead)
    }

    /// Takes in a reading of the reference clock.
    pub(super) fn observe(&mut self, Reading { at, said, uncertainty: give }: Reading) -> Meaning {
        // A reading this uncertain could be off by a jump.
        if give > DRIFT {
            return Meaning::InStep;
        }
        let ahead = said - micros(at);
        let known = self.reference.filter(|known| (ahead - known.ahead).abs() <= DRIFT);
        let is_first = self.reference.is_none();
        let since = known.map_or(at, |known| known.since);
        self.reference = Some(Reference { ahead, since });
        if is_first {
            (self.from, self.shown, self.behind) = (at, said, 0);
            return Meaning::InStep;
        }
        (self.shown, self.from) = (self.at(at), at);
        let off = said - self.shown;
        let is_believed = at.saturating_sub(since) >= STAYS;
        if off.abs() <= DRIFT {
            (self.behind, self.part) = (if off.abs() > give { off } else { 0 }, OF_DRIFT);
        } else if !is_believed {
            self.behind = 0;
            return if known.is_none() { Meaning::Jumped(off) } else { Meaning::InStep };
        } else if off.abs() <= LONGEST_WAY {
            (self.behind, self.part) = (off, OF_A_JUMP);
        } else {
            (self.shown, self.behind) = (said, 0);
            return Meaning::Taken(off);
        }
        Meaning::InStep
    }
}

fn micros(steady: Duration) -> Micros {
    Micros::try_from(steady.as_micros()).unwrap_or(Micros::MAX / 4)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const HOUR: Micros = 3600 * SECOND;

    /// A clock and its reference, read once a second.
    struct Bench {
        course: Slew,
        passed: Duration,
        reference: Micros,
    }

    impl Bench {
        fn new() -> Self {
            let mut bench = Self { course: Slew::new(Duration::ZERO, 0), passed: Duration::ZERO, reference: 0 };
            bench.read();
            bench
        }

        fn read(&mut self) -> Meaning {
            let said = micros(self.passed) + self.reference;
            self.course.observe(Reading { at: self.passed, said, uncertainty: 0 })
        }

        fn pass(&mut self, seconds: u64) {
            for _ in 0..seconds {
                self.passed += Duration::from_secs(1);
                self.read();
            }
        }

        /// How far the clock is ahead of the time that has passed.
        fn ahead(&self) -> Micros {
            self.course.at(self.passed) - micros(self.passed)
        }
    }

    #[test]
    fn the_first_reading_is_believed() {
        let mut course = Slew::new(Duration::from_secs(5), 7 * HOUR);
        assert_eq!(course.reference_at(Duration::from_secs(6)), 7 * HOUR + SECOND);
        let at = Duration::from_secs(10);
        assert_eq!(course.observe(Reading { at, said: HOUR, uncertainty: 10 }), Meaning::InStep);
        assert_eq!(course.at(Duration::from_secs(12)), HOUR + 2 * SECOND);
    }

    #[test]
    fn a_reference_that_jumps_an_hour_and_back_moves_nothing_but_what_is_told_of_it() {
        for jump in [HOUR, -HOUR] {
            let mut bench = Bench::new();
            bench.pass(60);
            bench.reference = jump;
            assert_eq!(bench.read(), Meaning::Jumped(jump));
            assert_eq!(bench.read(), Meaning::InStep, "it is said once");
            bench.pass(299);
            assert_eq!(bench.ahead(), 0);
            assert_eq!(bench.course.reference_at(bench.passed) - micros(bench.passed), jump);
            bench.reference = 0;
            bench.pass(3600);
            assert_eq!(bench.ahead(), 0);
        }
    }

    #[test]
    fn a_jump_that_stays_is_caught_up_without_a_jump() {
        for jump in [HOUR, -HOUR] {
            let mut bench = Bench::new();
            bench.reference = jump;
            bench.pass(300);
            assert_eq!(bench.ahead(), 0);
            bench.pass(4 * 3600 / 2 + 1);
            assert!((bench.ahead() - jump / 2).abs() < SECOND, "{}", bench.ahead());
            bench.pass(4 * 3600 / 2 + 1000);
            assert_eq!(bench.ahead(), jump);
        }
    }

    #[test]
    fn a_clock_that_was_never_set_takes_the_right_time_once_it_has_stayed() {
        let mut bench = Bench::new();
        bench.reference = 700 * 24 * HOUR;
        bench.pass(300);
        assert_eq!(bench.ahead(), 0);
        bench.passed += Duration::from_secs(1);
        assert_eq!(bench.read(), Meaning::Taken(bench.reference));
        assert_eq!(bench.ahead(), bench.reference);
    }

    #[test]
    fn drift_is_followed_unnoticeably_and_what_is_not_known_better_is_not() {
        let mut bench = Bench::new();
        bench.reference = -SECOND / 2;
        bench.pass(100);
        assert!((bench.ahead() + SECOND / 10).abs() <= SECOND / 100, "{}", bench.ahead());
        bench.pass(500);
        assert_eq!(bench.ahead(), bench.reference);
        let (at, said) = (bench.passed, micros(bench.passed) + bench.reference);
        bench.course.observe(Reading { at, said: said + 1_000, uncertainty: 2_000 });
        bench.course.observe(Reading { at, said: said + HOUR, uncertainty: 2 * SECOND });
        assert_eq!(bench.course.at(bench.passed + STAYS) - said, micros(STAYS));
        assert_eq!(bench.course.reference_at(bench.passed), said + 1_000, "an answer that took seconds says nothing");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Holds whatever the reference clock does within two hours.
        #[test]
        fn no_wait_is_shorter_than_four_fifths_or_longer_than_four_thirds(
            readings in vec((1u64..2_000, -2 * HOUR..2 * HOUR, any::<bool>()), 1..200),
        ) {
            let mut bench = Bench::new();
            let mut shown = bench.course.at(bench.passed);
            for (seconds, reference, jumps) in readings {
                if jumps {
                    bench.reference = reference / 2;
                }
                bench.passed += Duration::from_secs(seconds);
                let passed = Micros::try_from(seconds).unwrap() * SECOND;
                for now in [bench.course.at(bench.passed), { bench.read(); bench.course.at(bench.passed) }] {
                    let runs = now - shown;
                    prop_assert!(runs >= passed - passed / 4 && runs <= passed + passed / 4, "{runs} in {passed}");
                }
                shown = bench.course.at(bench.passed);
            }
        }
    }
}
