//! The cap of an endpoint with an endless backlog.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// An endpoint with a full backlog: it starts as many requests as it may, and they end in the order of their starts.
struct Busy {
    concurrency: Concurrency,
    under_way: VecDeque<Round>,
}

impl Busy {
    fn new(most: u16) -> Self {
        let mut busy = Self { concurrency: Concurrency::new(most), under_way: VecDeque::new() };
        busy.fill();
        busy
    }

    fn fill(&mut self) {
        while self.under_way.len() < self.concurrency.cap() {
            self.under_way.push_back(self.concurrency.round());
        }
    }

    fn end(&mut self, signal: Signal) {
        let in_flight = self.under_way.len();
        let Some(started) = self.under_way.pop_front() else { return };
        self.concurrency.finished(signal, in_flight, started);
        self.fill();
    }

    /// Ends everything that is in flight now with this signal.
    fn round_trip(&mut self, signal: Signal) {
        for _ in 0..self.under_way.len() {
            self.end(signal);
        }
    }

    /// The cap after each round trip.
    fn caps(&mut self, signal: Signal, round_trips: usize) -> Vec<usize> {
        let caps = (0..round_trips).map(|_| {
            self.round_trip(signal);
            self.concurrency.cap()
        });
        caps.collect()
    }

    fn cap_after(&mut self, signal: Signal, round_trips: usize) -> usize {
        self.caps(signal, round_trips);
        self.concurrency.cap()
    }
}

#[test]
fn a_new_endpoint_starts_with_four_or_with_as_many_as_it_may() {
    let caps = [0, 1, 3, 4, 256].map(|most| Concurrency::new(most).cap());
    assert_eq!(caps, [1, 1, 3, 4, 4]);
}

#[test]
fn at_first_the_cap_doubles_with_each_round_trip() {
    assert_eq!(Busy::new(100).caps(Signal::Good, 6), [8, 16, 32, 64, 100, 100]);
}

#[test]
fn after_it_has_shrunk_once_the_cap_grows_by_one_with_each_round_trip() {
    let mut busy = Busy::new(256);
    busy.caps(Signal::Good, 2);
    busy.end(Signal::Strained);
    assert_eq!(busy.concurrency.cap(), 8);
    // The other requests of the old round end without effect.
    busy.round_trip(Signal::Good);
    assert_eq!(busy.caps(Signal::Good, 4), [9, 10, 11, 12]);
}

#[test]
fn requests_that_started_before_the_cap_shrank_do_not_shrink_it_again() {
    let mut busy = Busy::new(256);
    busy.caps(Signal::Good, 4);
    assert_eq!(busy.concurrency.cap(), 64);
    for _ in 0..64 {
        busy.end(Signal::Strained);
    }
    assert_eq!(busy.concurrency.cap(), 32);
    busy.end(Signal::Strained);
    assert_eq!(busy.concurrency.cap(), 16);
}

#[test]
fn a_cap_that_is_not_reached_does_not_grow() {
    let mut concurrency = Concurrency::new(256);
    for _ in 0..100 {
        concurrency.finished(Signal::Good, 3, concurrency.round());
    }
    assert_eq!(concurrency.cap(), 4);
    concurrency.finished(Signal::Good, 4, concurrency.round());
    assert_eq!(concurrency.cap(), 5);
}

#[test]
fn what_has_nothing_to_do_with_load_changes_nothing() {
    assert_eq!(Busy::new(256).caps(Signal::Neutral, 3), [4, 4, 4]);
}

#[test]
fn a_lower_limit_holds_at_once_and_a_higher_one_is_grown_into() {
    let mut busy = Busy::new(64);
    busy.caps(Signal::Good, 4);
    busy.concurrency.set_most(10);
    assert_eq!(busy.concurrency.cap(), 10);
    busy.concurrency.set_most(100);
    assert_eq!(busy.concurrency.cap(), 10);
    assert_eq!(busy.cap_after(Signal::Good, 10), 100);
    busy.concurrency.set_most(0);
    assert_eq!(busy.concurrency.cap(), 1);
}

#[test]
fn every_outcome_has_its_signal() {
    let of = |signal| OutcomeKind::ALL.into_iter().filter(move |kind| Signal::from(*kind) == signal);
    assert!(of(Signal::Good).eq([OutcomeKind::Success]));
    let strained =
        [OutcomeKind::Throttled, OutcomeKind::TimedOut, OutcomeKind::ConnectFailed, OutcomeKind::ProtocolError];
    assert!(of(Signal::Strained).eq(strained));
}

fn any_signal() -> impl Strategy<Value = Signal> {
    prop_oneof![4 => Just(Signal::Good), 1 => Just(Signal::Strained), 1 => Just(Signal::Neutral)]
}

/// How a request ends, how many were in flight, how many epochs ago it started, and a new maximum after it.
fn any_act() -> impl Strategy<Value = (Signal, usize, u32, Option<u16>)> {
    (any_signal(), 0_usize..300, 0_u32..4, proptest::option::of(any::<u16>()))
}

proptest! {
    #[test]
    fn the_cap_stays_between_one_and_the_most(
        most in any::<u16>(),
        acts in proptest::collection::vec(any_act(), 0..500),
    ) {
        let (mut concurrency, mut most) = (Concurrency::new(most), most.max(1));
        for (signal, in_flight, age, new_most) in acts {
            let started = Round(concurrency.round().0.wrapping_sub(age));
            concurrency.finished(signal, in_flight, started);
            if let Some(new_most) = new_most {
                concurrency.set_most(new_most);
                most = new_most.max(1);
            }
            prop_assert!((1..=usize::from(most)).contains(&concurrency.cap()));
        }
    }

    #[test]
    fn a_receiver_that_keeps_up_gets_all_it_may(most in 1_u16..=256) {
        let mut busy = Busy::new(most);
        // Four doubles to 256 in six round trips.
        prop_assert_eq!(busy.cap_after(Signal::Good, 6), usize::from(most));
    }

    #[test]
    fn a_receiver_that_never_keeps_up_is_left_with_one(most in 1_u16..=256, good in 0_usize..8) {
        let mut busy = Busy::new(most);
        busy.caps(Signal::Good, good);
        // 256 halves to one in eight epochs; each round needs a request that started in it.
        prop_assert_eq!(busy.cap_after(Signal::Strained, 16), 1);
    }

    #[test]
    fn a_receiver_that_recovers_gets_back_all_it_may(most in 1_u16..=256, bad in 0_usize..20) {
        let mut busy = Busy::new(most);
        busy.caps(Signal::Strained, bad);
        prop_assert_eq!(busy.cap_after(Signal::Good, 256), usize::from(most));
    }

    #[test]
    fn a_receiver_that_takes_so_many_is_sent_between_half_as_many_and_so_many(takes in 4_usize..200) {
        let mut busy = Busy::new(256);
        let mut caps = Vec::new();
        for _ in 0..400 {
            let overrun = busy.under_way.len() > takes;
            busy.round_trip(if overrun { Signal::Strained } else { Signal::Good });
            caps.push(busy.concurrency.cap());
        }
        let settled = &caps[300..];
        prop_assert!(settled.iter().all(|cap| *cap >= takes / 2 && *cap <= takes + 1), "{:?}", settled);
    }
}
