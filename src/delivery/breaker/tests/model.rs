//! Drives the breaker at random beside a model of its rules.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// What can happen to a breaker. `which` chooses among the requests that are under way.
#[derive(Debug, Clone)]
enum Act {
    Pass { millis: i64 },
    Start,
    Finish { which: usize, outcome: OutcomeKind },
    GiveUp { which: usize },
    ProbeNow,
    Configure(BreakerSettings),
    Restart,
}

fn any_settings() -> impl Strategy<Value = BreakerSettings> {
    (1_u16..6, 1_u32..100, 0_u32..200).prop_map(|(failure_threshold, cooldown_seconds, more)| BreakerSettings {
        failure_threshold,
        cooldown_seconds,
        max_cooldown_seconds: cooldown_seconds + more,
    })
}

fn any_outcome() -> impl Strategy<Value = OutcomeKind> {
    prop_oneof![6 => proptest::sample::select(&OutcomeKind::ALL[1..]), 1 => Just(OutcomeKind::Success)]
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => Just(Act::Start),
        6 => (any::<usize>(), any_outcome()).prop_map(|(which, outcome)| Act::Finish { which, outcome }),
        2 => (0_i64..100_000).prop_map(|millis| Act::Pass { millis }),
        1 => any::<usize>().prop_map(|which| Act::GiveUp { which }),
        1 => Just(Act::ProbeNow),
        1 => any_settings().prop_map(Act::Configure),
        1 => Just(Act::Restart),
    ]
}

/// The rules, written a second time: what has happened since the last success.
#[derive(Debug)]
struct Model {
    settings: BreakerSettings,
    failures: u32,
    openings: u32,
    open_until: Option<i64>,
    probe: Option<EventSeq>,
}

impl Model {
    fn new(settings: BreakerSettings) -> Self {
        Self { settings, failures: 0, openings: 0, open_until: None, probe: None }
    }

    fn cooldown_ms(&self) -> i64 {
        let mut seconds = i64::from(self.settings.cooldown_seconds);
        for _ in 1..self.openings {
            seconds = (2 * seconds).min(i64::from(u32::MAX));
        }
        1000 * seconds.min(self.settings.max_cooldown_seconds.into())
    }

    fn permission(&self, now: i64) -> Permission {
        match (self.open_until, self.probe) {
            (None, _) => Permission::Free,
            (Some(_), Some(_)) => Permission::ProbeUnderWay,
            (Some(until), None) if until <= now || until - now > self.cooldown_ms() * 11 / 10 => Permission::Probe,
            (Some(until), None) => Permission::Wait { until: UnixMillis(until) },
        }
    }

    fn finished(&mut self, event: EventSeq, outcome: OutcomeKind, now: i64) -> Option<Change> {
        let probe = self.probe == Some(event);
        if outcome == OutcomeKind::Success {
            let was_open = self.open_until.is_some();
            *self = Self::new(self.settings);
            return was_open.then_some(Change::Closed);
        }
        if outcome == OutcomeKind::Crashed {
            self.given_up(event);
            return None;
        }
        if self.open_until.is_some() && !probe {
            return None;
        }
        self.failures += 1;
        if !probe && self.failures < self.settings.failure_threshold.into() {
            return None;
        }
        (self.openings, self.probe) = (self.openings + 1, None);
        self.open_until = Some(now + self.cooldown_ms());
        Some(if probe { Change::Reopened } else { Change::Opened })
    }

    fn given_up(&mut self, event: EventSeq) {
        if self.probe == Some(event) {
            (self.probe, self.open_until) = (None, Some(0));
        }
    }
}

/// A breaker, its model, and the requests that are under way.
struct World {
    breaker: Breaker,
    model: Model,
    now: i64,
    under_way: Vec<EventSeq>,
    next: i64,
}

impl World {
    fn new(settings: BreakerSettings) -> Self {
        let breaker = Breaker::new(settings, Saved::default());
        Self { breaker, model: Model::new(settings), now: NOON.0, under_way: Vec::new(), next: 1 }
    }

    fn take(&mut self, which: usize) -> Option<EventSeq> {
        let count = self.under_way.len();
        (count > 0).then(|| self.under_way.swap_remove(which % count))
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Pass { millis } => self.now += millis,
            Act::Start => self.start(),
            Act::Finish { which, outcome } => {
                let Some(event) = self.take(which) else { return };
                let change = self.breaker.finished(event, outcome, UnixMillis(self.now), 0.0);
                assert_eq!(change, self.model.finished(event, outcome, self.now));
            }
            Act::GiveUp { which } => {
                let Some(event) = self.take(which) else { return };
                self.breaker.not_sent(event);
                self.model.given_up(event);
            }
            Act::ProbeNow => {
                let open = self.model.open_until.is_some() && self.model.probe.is_none();
                assert_eq!(self.breaker.probe_now(), open);
                if open {
                    self.model.open_until = Some(0);
                }
            }
            Act::Configure(settings) => {
                let before = self.model.cooldown_ms();
                self.breaker.set_settings(settings);
                self.model.settings = settings;
                if self.model.cooldown_ms() < before {
                    self.model.open_until = self.model.open_until.map(|_| 0);
                }
            }
            Act::Restart => {
                self.breaker = Breaker::new(self.model.settings, self.breaker.saved());
                self.under_way.clear();
                if let Some(probe) = self.model.probe {
                    self.model.given_up(probe);
                }
            }
        }
    }

    fn start(&mut self) {
        let event = EventSeq(self.next);
        match self.breaker.may_start(UnixMillis(self.now)) {
            Permission::Free => {}
            Permission::Probe => {
                assert_eq!(self.model.probe, None, "a second probe");
                self.breaker.started(event);
                self.model.probe = Some(event);
            }
            Permission::Wait { .. } | Permission::ProbeUnderWay | Permission::Held => return,
        }
        self.under_way.push(event);
        self.next += 1;
    }

    fn check(&self) {
        let now = UnixMillis(self.now);
        assert_eq!(self.breaker.may_start(now), self.model.permission(self.now));
        assert_eq!(self.breaker.is_closed(), self.model.open_until.is_none());
        let saved = self.breaker.saved();
        assert_eq!(saved.consecutive_failures, self.model.failures);
        assert_eq!(saved.opened_at.is_some(), saved.open_until.is_some());
        let again = Breaker::new(self.model.settings, saved);
        assert_eq!(again.saved(), saved);
        match self.breaker.may_start(now) {
            Permission::ProbeUnderWay => assert_eq!(again.may_start(now), Permission::Probe),
            permission => assert_eq!(again.may_start(now), permission),
        }
    }
}

fn any_saved() -> impl Strategy<Value = Saved> {
    let moment = || proptest::option::of(any::<i64>().prop_map(UnixMillis));
    (any::<u32>(), any::<u16>(), moment(), moment()).prop_map(
        |(consecutive_failures, openings, open_until, opened_at)| Saved {
            consecutive_failures,
            openings,
            open_until,
            opened_at,
            last_failure: None,
            suspension: None,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_happens_it_does_what_the_model_does(
        settings in any_settings(),
        acts in proptest::collection::vec(any_act(), 1..200),
    ) {
        let mut world = World::new(settings);
        for act in acts {
            world.act(act);
            world.check();
        }
    }

    #[test]
    fn a_success_at_any_time_closes(
        settings in any_settings(),
        acts in proptest::collection::vec(any_act(), 0..100),
        event in 0_i64..100,
    ) {
        let mut world = World::new(settings);
        acts.into_iter().for_each(|act| world.act(act));
        world.breaker.finished(EventSeq(event), OutcomeKind::Success, UnixMillis(world.now), 0.0);
        prop_assert_eq!(world.breaker.may_start(UnixMillis(world.now)), Permission::Free);
        prop_assert_eq!(world.breaker.saved(), Saved::default());
    }

    #[test]
    fn cool_downs_never_shrink_between_successes_and_never_exceed_the_longest(settings in any_settings()) {
        let mut breaker = Breaker::new(settings, Saved::default());
        fail(&mut breaker, settings.failure_threshold.into(), NOON);
        let (mut now, mut last) = (NOON, Duration::ZERO);
        for _ in 0..40 {
            let Permission::Wait { until } = breaker.may_start(now) else { panic!("open") };
            let cooldown = until.since(now);
            prop_assert!(cooldown >= last && cooldown <= Duration::from_secs(settings.max_cooldown_seconds.into()));
            (now, last) = (until, cooldown);
            prop_assert_eq!(breaker.may_start(now), Permission::Probe);
            breaker.started(EventSeq(2));
            breaker.finished(EventSeq(2), REFUSED, now, 0.0);
        }
        prop_assert_eq!(last, Duration::from_secs(settings.max_cooldown_seconds.into()));
    }

    #[test]
    fn endpoints_that_failed_together_are_probed_within_a_tenth_of_the_cool_down(
        settings in any_settings(),
        jitter in 0.0..=1.0,
    ) {
        let mut breaker = Breaker::new(settings, Saved::default());
        for _ in 0..settings.failure_threshold {
            breaker.finished(EventSeq(1), REFUSED, NOON, jitter);
        }
        let Permission::Wait { until } = breaker.may_start(NOON) else { panic!("open") };
        let (wait, cooldown) = (until.since(NOON), Duration::from_secs(settings.cooldown_seconds.into()));
        prop_assert!(wait >= cooldown && wait <= cooldown + cooldown / 10);
        prop_assert_eq!(breaker.may_start(until), Permission::Probe);
    }

    #[test]
    fn nothing_panics_at_extremes(
        failure_threshold in any::<u16>(),
        cooldown_seconds in any::<u32>(),
        max_cooldown_seconds in any::<u32>(),
        saved in any_saved(),
        steps in proptest::collection::vec((any::<i64>(), any_outcome()), 1..50),
    ) {
        let settings = BreakerSettings { failure_threshold, cooldown_seconds, max_cooldown_seconds };
        let mut breaker = Breaker::new(settings, saved);
        for (now, outcome) in steps {
            if breaker.may_start(UnixMillis(now)) == Permission::Probe {
                breaker.started(EventSeq(1));
            }
            breaker.finished(EventSeq(1), outcome, UnixMillis(now), f64::NAN);
            let _ = breaker.view(UnixMillis(now));
        }
    }
}
