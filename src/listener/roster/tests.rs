//! Who goes for whom, on a clock of its own.

use std::net::Ipv4Addr;

use super::super::activity::{GRACE, UNREAD_GRACE};
use super::super::figures::Figures;
use super::*;

fn peer(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
}

/// Every place taken, one a second, each by another address.
fn full(most: usize) -> (Arc<Roster>, Vec<Place>, Instant) {
    full_of(most, |number| peer(number as u32))
}

fn full_of(most: usize, peer: impl Fn(u64) -> IpAddr) -> (Arc<Roster>, Vec<Place>, Instant) {
    let (roster, start) = (Roster::new(most), Instant::now());
    let at = |second| start + Duration::from_secs(second);
    let places = (0..most as u64).map(|second| roster.admit(peer(second), at(second)).unwrap()).collect();
    (roster, places, start)
}

fn newcomer() -> IpAddr {
    peer(1 << 20)
}

/// When everybody in [`full`] has been there for long.
fn late(start: Instant) -> Instant {
    start + Duration::from_secs(1_000)
}

fn gone(places: &[Place]) -> Vec<usize> {
    (0..places.len()).filter(|place| places[*place].evicted.is_cancelled()).collect()
}

#[test]
fn the_one_that_is_silent_for_the_longest_makes_room() {
    let (roster, mut places, start) = full(200);
    places[0].activity.lock().began(false, start);
    for _ in 0..3 {
        places.push(roster.admit(newcomer(), late(start)).unwrap());
    }
    assert_eq!(gone(&places), [1, 2, 3]);
}

#[test]
fn those_that_are_busy_keep_their_places_and_nobody_is_let_in() {
    let (roster, places, start) = full(40);
    let requests: Vec<_> = places.iter().map(|place| place.activity.lock().began(false, start)).collect();
    assert!(roster.admit(newcomer(), late(start)).is_none());
    assert_eq!(Figures::of(&roster).refused()[0], ("connections", 1));
    places[7].activity.lock().ended(requests[7], start);
    assert!(roster.admit(newcomer(), late(start) + NO_LOOK).is_some());
    assert_eq!(gone(&places), [7]);
}

#[test]
fn one_that_has_become_busy_since_it_was_chosen_is_passed_over() {
    let (roster, places, start) = full(200);
    drop(roster.admit(newcomer(), late(start)).unwrap());
    let newest = roster.admit(newcomer(), late(start)).unwrap();
    places[1].activity.lock().began(false, late(start));
    assert!(roster.make_room(late(start)));
    assert_eq!(gone(&places), [0, 2]);
    assert!(!newest.evicted.is_cancelled());
}

#[test]
fn few_are_going_at_once_and_who_has_gone_leaves_room() {
    let (roster, mut places, start) = full(32);
    let mut number = 0;
    let come = std::iter::from_fn(|| {
        number += 1;
        roster.admit(peer(1_000 + number), late(start))
    });
    let newcomers: Vec<_> = come.collect();
    assert_eq!(newcomers.len(), 32 / GOING_PART);
    places.retain(|place| !place.evicted.is_cancelled());
    assert!(roster.admit(newcomer(), late(start)).is_some());
    drop((places, newcomers));
    let connections = roster.connections.lock();
    assert_eq!(connections.going, 0);
    assert!(connections.present.is_empty() && connections.held.is_empty());
}

#[test]
fn those_that_have_just_come_have_a_moment_to_ask() {
    let (roster, places, start) = full(8);
    assert!(roster.admit(newcomer(), start + GRACE / 2).is_none());
    assert!(roster.admit(newcomer(), start + GRACE).is_some());
    assert_eq!(gone(&places), [0]);
}

#[test]
fn those_that_do_not_read_their_answers_make_room() {
    let (roster, places, start) = full(40);
    for place in &places {
        let mut activity = place.activity.lock();
        let request = activity.began(true, late(start));
        activity.offered(request, late(start));
    }
    assert!(roster.admit(newcomer(), late(start) + UNREAD_GRACE / 2).is_none());
    assert!(roster.admit(newcomer(), late(start) + UNREAD_GRACE).is_some());
    assert_eq!(gone(&places).len(), 1);
}

#[test]
fn one_address_gives_back_what_it_holds_beyond_half_also_when_it_is_busy() {
    let (roster, mut places, start) = full_of(32, |_| peer(7));
    for place in &places {
        place.activity.lock().began(false, start);
    }
    let mut let_in = 0;
    for number in 0..32 {
        if let Some(place) = roster.admit(peer(100 + number), late(start)) {
            place.activity.lock().began(false, late(start));
            places.push(place);
            let_in += 1;
        }
        places.retain(|place| !place.evicted.is_cancelled());
    }
    assert_eq!(let_in, 16, "half of the places are the address's own");
    assert!(roster.admit(peer(7), late(start)).is_none(), "it has its half");
}

#[test]
fn an_address_at_its_half_takes_places_from_itself_alone() {
    let (roster, places, start) = full_of(32, |number| if number < 16 { peer(1_000) } else { peer(number as u32) });
    let more = roster.admit(peer(1_000), late(start)).unwrap();
    assert_eq!(gone(&places), [0]);
    for place in &places[..16] {
        place.activity.lock().began(false, start);
    }
    assert!(roster.admit(peer(1_000), late(start)).is_none(), "the idle ones are others'");
    drop(more);
}

#[test]
fn with_all_places_held_by_one_proxy_its_callers_make_room_for_each_other() {
    let (roster, places, start) = full_of(64, |_| peer(7));
    let one = roster.admit(peer(7), late(start)).unwrap();
    assert_eq!(gone(&places), [0]);
    drop(one);
}

#[test]
fn requests_at_once_are_bounded_and_unread_answers_make_room_before_that() {
    let (roster, places, start) = full(16);
    let begin = |place: &Place| place.begin(true);
    let unread: Vec<_> = (0..LEAST_REQUESTS / 4 * 3).filter_map(|_| begin(&places[3])).collect();
    assert_eq!(unread.len(), LEAST_REQUESTS / 4 * 3);
    places[3].activity.lock().blocked(start - 2 * UNREAD_GRACE);
    let more: Vec<_> = (0..2 * LEAST_REQUESTS).filter_map(|_| begin(&places[4])).collect();
    assert_eq!(gone(&places), [3]);
    assert_eq!(more.len() + unread.len(), LEAST_REQUESTS);
    let figures = Figures::of(&roster);
    let refused = (LEAST_REQUESTS / 4 * 3 + 2 * LEAST_REQUESTS - LEAST_REQUESTS) as u64;
    assert_eq!(figures.refused(), [("connections", 0), ("requests", refused), ("descriptors", 0)]);
    assert_eq!(figures.open(), 16);
    drop((unread, more));
    assert_eq!(roster.requests.load(Ordering::Relaxed), 0);
}

#[test]
fn neighbours_in_ipv6_are_one() {
    let network = |text: &str| network(text.parse().unwrap());
    assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
    assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
    assert_eq!(network("::ffff:127.0.0.1"), IpAddr::V4(Ipv4Addr::LOCALHOST));
}
