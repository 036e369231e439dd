//! Rates with known samples, and against a model that keeps every sample.

use proptest::prelude::*;

use super::*;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The start of a slot in every ring.
const START: Duration = seconds(90_000);

fn after(since: u64) -> Duration {
    START + seconds(since)
}

/// `count` answers at [`START`], which took 1 ms, 2 ms and so on.
fn answered(count: u64) -> Rates {
    let mut rates = Rates::new(START);
    (1..=count).for_each(|ms| rates.answered(millis(ms), true, START));
    rates
}

/// At most a tenth away from the truth.
fn is_near(shown: Duration, truth: Duration) -> bool {
    shown.abs_diff(truth) <= truth / 10
}

#[test]
fn it_fits_into_512_bytes() {
    assert!(size_of::<Rates>() <= 512, "{}", size_of::<Rates>());
}

#[test]
fn an_endpoint_that_has_done_nothing_has_nothing_to_show() {
    let snapshot = Rates::new(START).snapshot(START);
    let nothing =
        Snapshot { latency: None, success_5m: None, success_1h: None, in_per_second: 0.0, out_per_second: 0.0 };
    assert_eq!(snapshot, nothing);
}

#[test]
fn percentiles_of_known_latencies_are_within_a_tenth() {
    let latency = answered(1000).snapshot(START).latency.unwrap();
    assert!(is_near(latency.p50, millis(500)), "{latency:?}");
    assert!(is_near(latency.p95, millis(950)), "{latency:?}");
    assert!(is_near(latency.p99, millis(990)), "{latency:?}");
}

#[test]
fn latencies_beyond_the_scale_are_its_ends() {
    let only = |latency| {
        let mut rates = Rates::new(START);
        rates.answered(latency, true, START);
        rates.snapshot(START).latency.unwrap().p50
    };
    assert_eq!(only(Duration::ZERO), millis(1));
    assert_eq!(only(millis(1)), millis(1));
    assert!(is_near(only(seconds(30)), seconds(30)));
    assert!(only(Duration::MAX) >= seconds(29));
}

#[test]
fn percentiles_stay_right_when_counts_overflow() {
    let mut rates = Rates::new(START);
    for sample in 0..1_000_000_u64 {
        let latency = if sample % 100 < 97 { millis(20) } else { seconds(2) };
        rates.answered(latency, true, START);
    }
    let latency = rates.snapshot(START).latency.unwrap();
    assert!(is_near(latency.p50, millis(20)), "{latency:?}");
    assert!(is_near(latency.p95, millis(20)), "{latency:?}");
    assert!(is_near(latency.p99, seconds(2)), "{latency:?}");
}

#[test]
fn latencies_are_forgotten_after_five_minutes() {
    let rates = answered(10);
    assert!(rates.snapshot(after(299)).latency.is_some());
    assert!(rates.snapshot(after(300)).latency.is_none());
}

#[test]
fn success_is_the_share_of_good_answers_in_each_window() {
    let mut rates = Rates::new(START);
    for ok in [true, true, true, false] {
        rates.answered(millis(5), ok, START);
    }
    rates.answered(millis(5), false, after(400));
    let snapshot = rates.snapshot(after(400));
    assert_eq!((snapshot.success_5m, snapshot.success_1h), (Some(0.0), Some(0.6)));
    let snapshot = rates.snapshot(after(1000));
    assert_eq!((snapshot.success_5m, snapshot.success_1h), (None, Some(0.6)));
    assert_eq!(rates.snapshot(after(5000)).success_1h, None);
}

#[test]
fn rates_are_per_second_of_the_last_minute() {
    let mut rates = Rates::new(START);
    for second in 0..120 {
        rates.arrived(5, after(second));
        rates.settled(after(second));
    }
    let snapshot = rates.snapshot(after(120));
    assert_eq!((snapshot.in_per_second, snapshot.out_per_second), (5.0, 1.0));
    assert_eq!(rates.snapshot(after(200)).in_per_second, 0.0);
}

#[test]
fn rates_of_a_young_endpoint_are_per_second_of_its_life() {
    let mut rates = Rates::new(after(7));
    rates.arrived(100, after(8));
    assert_eq!(rates.snapshot(after(8)).in_per_second, 10.0);
    assert_eq!(rates.snapshot(after(32)).in_per_second, 4.0);
}

#[test]
fn it_is_stale_when_nothing_has_happened_for_an_hour() {
    let mut rates = Rates::new(START);
    assert!(!rates.is_stale(after(3600)));
    assert!(rates.is_stale(after(3601)));
    rates.answered(millis(5), false, after(3601));
    assert!(!rates.is_stale(after(7200)));
    assert!(rates.is_stale(after(7211)));
}

#[test]
fn a_moment_before_the_last_one_counts_as_the_last_one() {
    let mut rates = Rates::new(after(100));
    rates.settled(after(150));
    rates.arrived(700, START);
    rates.answered(millis(5), true, START);
    for now in [START, after(150)] {
        let snapshot = rates.snapshot(now);
        assert_eq!((snapshot.in_per_second, snapshot.success_5m), (14.0, Some(1.0)));
        assert!(!rates.is_stale(now));
    }
}

#[test]
fn counts_that_are_full_stay_full() {
    let mut rates = Rates::new(START);
    rates.arrived(u32::MAX, START);
    rates.arrived(u32::MAX, START);
    assert_eq!(rates.snapshot(START).in_per_second, f64::from(u32::MAX) / 10.0);
}

/// What can happen to an endpoint, each some time after the one before.
#[derive(Debug, Clone)]
enum Act {
    Arrive(u32),
    Answer { latency: Duration, ok: bool },
    Settle,
    Nothing,
}

fn any_act() -> impl Strategy<Value = Act> {
    // Evenly spread by logarithm, 0.1 ms to 30 s.
    let latency = (-4.0..1.477_f64).prop_map(|exponent| Duration::from_secs_f64(10_f64.powf(exponent)));
    prop_oneof![
        2 => (0_u32..1000).prop_map(Act::Arrive),
        4 => (latency, any::<bool>()).prop_map(|(latency, ok)| Act::Answer { latency, ok }),
        2 => Just(Act::Settle),
        1 => Just(Act::Nothing),
    ]
}

fn any_pause() -> impl Strategy<Value = Duration> {
    prop_oneof![40 => 0_u64..2_000, 20 => 0_u64..60_000, 3 => 0_u64..400_000, 1 => 0_u64..8_000_000].prop_map(millis)
}

/// Keeps every sample with its moment.
#[derive(Default)]
struct Model {
    born: Duration,
    arrived: Vec<(Duration, u32)>,
    settled: Vec<(Duration, u32)>,
    answers: Vec<(Duration, Duration, bool)>,
}

/// Whether a moment is in the slot of `now` or in one of the `slots - 1` before it.
fn is_recent(at: Duration, now: Duration, slots: u64, width: u64) -> bool {
    now.as_secs() / width - at.as_secs() / width < slots
}

impl Model {
    fn success(&self, now: Duration, slots: u64, width: u64) -> Option<f64> {
        let recent = self.answers.iter().filter(|(at, ..)| is_recent(*at, now, slots, width));
        let answers: Vec<bool> = recent.map(|(_, _, ok)| *ok).collect();
        let ok = answers.iter().filter(|ok| **ok).count();
        (!answers.is_empty()).then(|| ok as f64 / answers.len() as f64)
    }

    fn latency(&self, now: Duration, percent: usize) -> Option<Duration> {
        let recent = self.answers.iter().filter(|(at, ..)| is_recent(*at, now, 2, 150));
        let mut latencies: Vec<_> = recent.map(|(_, latency, _)| *latency).collect();
        latencies.sort_unstable();
        latencies.get((latencies.len() * percent).div_ceil(100).saturating_sub(1)).copied()
    }

    /// Bounds of a rate, from the counts of the last 60 and the last 70 seconds: what a slot of 10 seconds can hide.
    fn rate_bounds(&self, samples: &[(Duration, u32)], now: Duration) -> (f64, f64) {
        let within = |span| {
            let recent = samples.iter().filter(|(at, _)| now - *at < span);
            recent.map(|(_, count)| f64::from(*count)).sum::<f64>()
        };
        let life = now - self.born;
        let divisor = |span| seconds(span).min(life).max(seconds(10)).as_secs_f64();
        (within(seconds(60)) / divisor(70), within(seconds(70)) / divisor(60))
    }

    fn check(&self, shown: &Snapshot, now: Duration) {
        assert_eq!(shown.success_5m, self.success(now, 6, 60));
        assert_eq!(shown.success_1h, self.success(now, 13, 300));
        for (samples, rate) in [(&self.arrived, shown.in_per_second), (&self.settled, shown.out_per_second)] {
            let (low, high) = self.rate_bounds(samples, now);
            assert!(low - 1e-9 <= rate && rate <= high + 1e-9, "{low} <= {rate} <= {high}");
        }
        assert_eq!(shown.latency.is_some(), self.latency(now, 50).is_some());
        if let Some(Percentiles { p50, p95, p99 }) = shown.latency {
            for (shown, percent) in [(p50, 50), (p95, 95), (p99, 99)] {
                let truth = self.latency(now, percent).unwrap().max(millis(1));
                assert!(is_near(shown, truth), "p{percent} is {truth:?}, {shown:?} was shown");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_shows_what_a_model_that_keeps_everything_shows(
        start in 0_u64..10_000_000,
        acts in proptest::collection::vec((any_pause(), any_act()), 1..300),
    ) {
        let mut now = millis(start);
        let mut model = Model { born: now, ..Model::default() };
        let mut rates = Rates::new(now);
        for (pause, act) in acts {
            now += pause;
            match act {
                Act::Arrive(count) => {
                    rates.arrived(count, now);
                    model.arrived.push((now, count));
                }
                Act::Answer { latency, ok } => {
                    rates.answered(latency, ok, now);
                    model.answers.push((now, latency, ok));
                }
                Act::Settle => {
                    rates.settled(now);
                    model.settled.push((now, 1));
                }
                Act::Nothing => {}
            }
            model.check(&rates.snapshot(now), now);
        }
    }

    #[test]
    fn once_it_is_stale_it_shows_nothing(
        acts in proptest::collection::vec((any_pause(), any_act()), 1..100),
        later in 0_u64..1_000_000,
    ) {
        let mut now = START;
        let mut rates = Rates::new(now);
        for (pause, act) in acts {
            now += pause;
            match act {
                Act::Arrive(count) => rates.arrived(count, now),
                Act::Answer { latency, ok } => rates.answered(latency, ok, now),
                Act::Settle => rates.settled(now),
                Act::Nothing => {}
            }
        }
        // The hour's slots cover up to five minutes more.
        now += seconds(3600 + 300 + later);
        prop_assert!(rates.is_stale(now));
        prop_assert_eq!(rates.snapshot(now), Rates::new(now).snapshot(now));
    }

    #[test]
    fn no_moment_panics(moments in proptest::collection::vec(any::<Duration>(), 1..50)) {
        let mut rates = Rates::new(moments[0]);
        for now in moments.into_iter().chain([Duration::MAX, Duration::ZERO]) {
            rates.arrived(1, now);
            rates.answered(now, true, now);
            rates.settled(now);
            prop_assert!(rates.snapshot(now).in_per_second >= 0.0);
            let _ = rates.is_stale(now);
        }
    }
}
