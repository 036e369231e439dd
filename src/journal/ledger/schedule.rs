//! How many deliveries of a webhook wait for which moment. Pure; part of an account of the ledger.
//!
//! Counts by the second what is scheduled up to an hour ahead, and by the minute what is scheduled later. An account
//! has at most 3,600 seconds and, with a wait of a day and a tenth at most, 1,584 minutes, which is 41 kB. A delivery
//! counts until its second or minute begins, so that no delivery counts while it is attempted, and none counts twice.

use crate::domain::moment::UnixMillis;

/// Seconds ahead up to which deliveries are counted by the second.
const BY_THE_SECOND: u32 = 3600;

const MINUTE: u32 = 60;

#[derive(Debug, Default)]
pub(super) struct Schedule {
    seconds: Buckets,
    minutes: Buckets,
}

impl Schedule {
    /// `count` more deliveries wait until `at`.
    pub(super) fn add(&mut self, at: UnixMillis, count: u32, now: UnixMillis) {
        let (at, now) = (second(at), second(now));
        self.drop_passed(now);
        if at <= now {
            return;
        }
        if at - now <= BY_THE_SECOND {
            self.seconds.add(at, count);
        } else {
            self.minutes.add(minute(at), count);
        }
    }

    /// A delivery that waited until `at` no longer does. If the deliveries of this second are counted partly by the
    /// second and partly by the minute, one of the former is taken, whichever it was.
    pub(super) fn take(&mut self, at: UnixMillis, now: UnixMillis) {
        let (at, now) = (second(at), second(now));
        self.drop_passed(now);
        if !self.seconds.take(at) {
            self.minutes.take(minute(at));
        }
    }

    /// How many deliveries wait for a moment after `now`.
    pub(super) fn after(&self, now: UnixMillis) -> u64 {
        let now = second(now);
        self.seconds.after(now) + self.minutes.after(now)
    }

    fn drop_passed(&mut self, now: u32) {
        self.seconds.drop_upto(now);
        self.minutes.drop_upto(now);
    }

    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        (self.seconds.sorted.capacity() + self.minutes.sorted.capacity()) * size_of::<Bucket>()
    }
}

/// Counts by moment, in Unix seconds.
#[derive(Debug, Default)]
struct Buckets {
    sorted: Vec<Bucket>,
    total: u64,
}

#[derive(Debug)]
struct Bucket {
    at: u32,
    count: u32,
}

impl Buckets {
    fn add(&mut self, at: u32, count: u32) {
        match self.sorted.binary_search_by_key(&at, |bucket| bucket.at) {
            Ok(index) => self.sorted[index].count += count,
            Err(index) => self.sorted.insert(index, Bucket { at, count }),
        }
        self.total += u64::from(count);
    }

    /// Takes one out; returns `false` if there is none.
    fn take(&mut self, at: u32) -> bool {
        let Ok(index) = self.sorted.binary_search_by_key(&at, |bucket| bucket.at) else { return false };
        self.sorted[index].count -= 1;
        self.total -= 1;
        if self.sorted[index].count == 0 {
            self.sorted.remove(index);
        }
        true
    }

    fn after(&self, now: u32) -> u64 {
        let passed = self.sorted.iter().take_while(|bucket| bucket.at <= now);
        self.total - passed.map(|bucket| u64::from(bucket.count)).sum::<u64>()
    }

    fn drop_upto(&mut self, now: u32) {
        self.total = self.after(now);
        let passed = self.sorted.partition_point(|bucket| bucket.at <= now);
        self.sorted.drain(..passed);
        if self.sorted.is_empty() {
            self.sorted = Vec::new();
        }
    }
}

/// Half the memory of 64 bits, and good until 2106.
fn second(at: UnixMillis) -> u32 {
    u32::try_from(at.unix_seconds().max(0)).unwrap_or(u32::MAX)
}

fn minute(second: u32) -> u32 {
    second - second % MINUTE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    #[test]
    fn a_schedule_of_a_million_deliveries_over_a_day_takes_at_most_64_kilobytes_and_none_once_it_has_passed() {
        let mut schedule = Schedule::default();
        for seconds in 0..95_040 {
            schedule.add(UnixMillis(seconds * 1000), 11, UnixMillis(0));
        }
        assert_eq!(schedule.after(UnixMillis(0)), 95_039 * 11);
        assert!(schedule.heap_bytes() <= 64 * 1024, "{}", schedule.heap_bytes());
        schedule.add(UnixMillis(0), 1, UnixMillis(95_040_000));
        assert_eq!((schedule.after(UnixMillis(0)), schedule.heap_bytes()), (0, 0));
    }

    #[derive(Debug, Clone)]
    enum Turn {
        Schedule { ahead_ms: i64 },
        Unschedule(Index),
        Pass { ms: i64 },
    }

    fn turn(longest_ms: i64) -> impl Strategy<Value = Turn> {
        prop_oneof![
            5 => (-5_000i64..longest_ms).prop_map(|ahead_ms| Turn::Schedule { ahead_ms }),
            2 => any::<Index>().prop_map(Turn::Unschedule),
            3 => (0i64..longest_ms / 8).prop_map(|ms| Turn::Pass { ms }),
        ]
    }

    /// Counts what waits to the millisecond; returns, for each turn, the bounds and what the schedule says.
    fn counted(turns: Vec<Turn>, slack_ms: i64) -> Vec<(u64, u64, u64)> {
        let (mut schedule, mut waits, mut now) = (Schedule::default(), Vec::<i64>::new(), 1_800_000_000_123_i64);
        let mut counts = Vec::new();
        for turn in turns {
            match turn {
                Turn::Schedule { ahead_ms } => {
                    waits.push(now + ahead_ms);
                    schedule.add(UnixMillis(now + ahead_ms), 1, UnixMillis(now));
                }
                Turn::Unschedule(index) if !waits.is_empty() => {
                    let at = waits.swap_remove(index.index(waits.len()));
                    schedule.take(UnixMillis(at), UnixMillis(now));
                }
                Turn::Unschedule(_) => {}
                Turn::Pass { ms } => now += ms,
            }
            let after = |moment: i64| waits.iter().filter(|at| **at > moment).count() as u64;
            counts.push((after(now + slack_ms), schedule.after(UnixMillis(now)), after(now)));
        }
        counts
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn what_is_scheduled_within_an_hour_is_counted_to_the_second(
            turns in prop::collection::vec(turn(3_600_000), 0..200)
        ) {
            for (least, counted, most) in counted(turns, 1000) {
                prop_assert!(least <= counted && counted <= most, "{least} <= {counted} <= {most}");
            }
        }

        #[test]
        fn what_is_scheduled_within_days_is_counted_to_the_minute(
            turns in prop::collection::vec(turn(100_000_000), 0..200)
        ) {
            for (least, counted, most) in counted(turns, 60_000) {
                prop_assert!(least <= counted && counted <= most, "{least} <= {counted} <= {most}");
            }
        }
    }
}
