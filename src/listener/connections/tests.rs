//! Which connection is evicted for which, with moments passed in by the tests.

use std::net::Ipv4Addr;

use super::super::activity::{ANONYMOUS_UNREAD_GRACE, GRACE, UNREAD_GRACE};
use super::figures::Figures;
use super::*;

fn peer(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
}

/// Takes every slot, one a second, each for another address.
fn full(most: usize) -> (Arc<Connections>, Vec<ConnectionSlot>, Instant) {
    full_of(most, |number| peer(number as u32))
}

fn full_of(most: usize, peer: impl Fn(u64) -> IpAddr) -> (Arc<Connections>, Vec<ConnectionSlot>, Instant) {
    let (connections, start) = (Connections::new(most), Instant::now());
    let at = |second| start + Duration::from_secs(second);
    let places = (0..most as u64).map(|second| connections.admit(peer(second), at(second)).unwrap()).collect();
    (connections, places, start)
}

fn newcomer() -> IpAddr {
    peer(1 << 20)
}

/// A moment at which every connection of [`full`] is old.
fn late(start: Instant) -> Instant {
    start + Duration::from_secs(1_000)
}

fn gone(places: &[ConnectionSlot]) -> Vec<usize> {
    (0..places.len()).filter(|place| places[*place].evicted.is_cancelled()).collect()
}

#[test]
fn the_one_that_is_silent_for_the_longest_makes_room() {
    let (connections, mut places, start) = full(200);
    places[0].activity.lock().began(false, start);
    for _ in 0..3 {
        places.push(connections.admit(newcomer(), late(start)).unwrap());
    }
    assert_eq!(gone(&places), [1, 2, 3]);
}

#[test]
fn those_that_are_busy_keep_their_places_and_nobody_is_let_in() {
    let (connections, places, start) = full(40);
    let requests: Vec<_> = places.iter().map(|place| place.activity.lock().began(false, start)).collect();
    assert!(connections.admit(newcomer(), late(start)).is_none());
    assert_eq!(Figures::of(&connections).refused()[0], ("connections", 1));
    places[7].activity.lock().ended(requests[7], start);
    assert!(connections.admit(newcomer(), late(start) + NO_LOOK).is_some());
    assert_eq!(gone(&places), [7]);
}

#[test]
fn one_that_has_become_busy_since_it_was_chosen_is_passed_over() {
    let (connections, places, start) = full(200);
    drop(connections.admit(newcomer(), late(start)).unwrap());
    let newest = connections.admit(newcomer(), late(start)).unwrap();
    places[1].activity.lock().began(false, late(start));
    assert!(connections.make_room(late(start)));
    assert_eq!(gone(&places), [0, 2]);
    assert!(!newest.evicted.is_cancelled());
}

#[test]
fn few_are_going_at_once_and_who_has_gone_leaves_room() {
    let (connections, mut places, start) = full(32);
    let mut number = 0;
    let come = std::iter::from_fn(|| {
        number += 1;
        connections.admit(peer(1_000 + number), late(start))
    });
    let newcomers: Vec<_> = come.collect();
    assert_eq!(newcomers.len(), 32 / GOING_PART);
    places.retain(|place| !place.evicted.is_cancelled());
    assert!(connections.admit(newcomer(), late(start)).is_some());
    drop((places, newcomers));
    let connections = connections.connections.lock();
    assert_eq!(connections.going, 0);
    assert!(connections.present.is_empty() && connections.held.is_empty());
}

#[test]
fn those_that_have_just_come_have_a_moment_to_ask() {
    let (connections, places, start) = full(8);
    assert!(connections.admit(newcomer(), start + GRACE / 2).is_none());
    assert!(connections.admit(newcomer(), start + GRACE).is_some());
    assert_eq!(gone(&places), [0]);
}

#[test]
fn those_that_do_not_read_their_answers_make_room_and_sooner_without_a_valid_key() {
    for (is_known, grace) in [(false, ANONYMOUS_UNREAD_GRACE), (true, UNREAD_GRACE)] {
        let (connections, places, start) = full(40);
        for place in &places {
            let mut activity = place.activity.lock();
            let request = activity.began(true, late(start));
            activity.offered(request, late(start));
            if is_known {
                activity.caller_is_known();
            }
        }
        assert!(connections.admit(newcomer(), late(start) + grace / 2).is_none());
        assert!(connections.admit(newcomer(), late(start) + grace).is_some());
        assert_eq!(gone(&places).len(), 1);
    }
}

/// Begins and ends a request.
fn ask(place: &ConnectionSlot, is_known: bool, at: Instant) {
    let mut activity = place.activity.lock();
    let request = activity.began(false, at);
    if is_known {
        activity.caller_is_known();
    }
    activity.ended(request, at);
}

#[test]
fn callers_with_a_valid_key_keep_half_of_the_places_however_many_come() {
    let (connections, mut places, start) = full(32);
    for (number, place) in places.iter().enumerate() {
        ask(place, number < 20, late(start));
    }
    let mut come = 0;
    for wave in 1..20 {
        let now = late(start) + wave * 2 * GRACE;
        for number in 0..32 {
            places.extend(connections.admit(peer(1_000 + wave * 100 + number), now));
            places.retain(|place| !place.evicted.is_cancelled());
        }
        come = places.iter().filter(|place| !place.activity.lock().is_known()).count();
    }
    assert_eq!((come, places.len()), (16, 32));
}

#[test]
fn an_address_with_most_places_gives_back_idle_ones_before_busy_ones_also_with_a_valid_key() {
    let (connections, places, start) = full_of(32, |_| peer(7));
    for place in &places[..8] {
        ask(place, true, start);
    }
    let _busy: Vec<_> = places[8..].iter().map(|place| place.activity.lock().began(false, start)).collect();
    let _new = connections.admit(newcomer(), late(start)).unwrap();
    assert_eq!(gone(&places), [0]);
}

#[test]
fn one_address_gives_back_what_it_holds_beyond_half_also_when_it_is_busy() {
    let (connections, mut places, start) = full_of(32, |_| peer(7));
    for place in &places {
        place.activity.lock().began(false, start);
    }
    let mut let_in = 0;
    for number in 0..32 {
        if let Some(place) = connections.admit(peer(100 + number), late(start)) {
            place.activity.lock().began(false, late(start));
            places.push(place);
            let_in += 1;
        }
        places.retain(|place| !place.evicted.is_cancelled());
    }
    assert_eq!(let_in, 16, "the address keeps half of the slots");
    assert!(connections.admit(peer(7), late(start)).is_none(), "the address has its half already");
}

#[test]
fn an_address_at_its_half_takes_places_from_itself_alone() {
    let (connections, places, start) =
        full_of(32, |number| if number < 16 { peer(1_000) } else { peer(number as u32) });
    let more = connections.admit(peer(1_000), late(start)).unwrap();
    assert_eq!(gone(&places), [0]);
    for place in &places[..16] {
        place.activity.lock().began(false, start);
    }
    assert!(connections.admit(peer(1_000), late(start)).is_none(), "the idle connections belong to other addresses");
    drop(more);
}

#[test]
fn with_all_places_held_by_one_proxy_its_callers_make_room_for_each_other() {
    let (connections, places, start) = full_of(64, |_| peer(7));
    let one = connections.admit(peer(7), late(start)).unwrap();
    assert_eq!(gone(&places), [0]);
    drop(one);
}

/// Begins requests on each slot in turn until no more are admitted.
fn begin_all(places: &[ConnectionSlot]) -> Vec<Vec<Arc<UnderWay>>> {
    let mut all: Vec<Vec<_>> = places.iter().map(|_| Vec::new()).collect();
    loop {
        let mut is_full = true;
        for (place, under_way) in places.iter().zip(&mut all) {
            let begun = place.begin(true);
            is_full &= begun.is_none();
            under_way.extend(begun);
        }
        if is_full {
            return all;
        }
    }
}

#[test]
fn requests_at_once_are_bounded_and_each_connection_has_its_part_of_them() {
    let (connections, places, _) = full(16);
    let of_first = begin_all(&places[..1]).concat();
    assert_eq!(of_first.len(), LEAST_REQUESTS / 5 + 1, "a quarter of the room that it leaves");
    let of_others = begin_all(&places[1..]);
    let counts: Vec<usize> = of_others.iter().map(Vec::len).collect();
    assert!(counts.iter().all(|count| (40..60).contains(count)), "{counts:?}");
    assert!(of_first.len() + counts.iter().sum::<usize>() < LEAST_REQUESTS);
    let figures = Figures::of(&connections);
    assert_eq!(figures.refused(), [("connections", 0), ("requests", 16), ("descriptors", 0)]);
    assert_eq!(figures.open(), 16);
    drop((of_first, of_others));
    assert_eq!(connections.requests.load(Ordering::Relaxed), 0);
}

#[test]
fn the_first_request_of_a_connection_is_never_refused() {
    let (connections, places, _) = full(64);
    connections.requests.store(connections.most_requests, Ordering::Relaxed);
    let first: Vec<_> = places.iter().filter_map(|place| place.begin(true)).collect();
    assert_eq!(first.len(), places.len());
    assert!(places[0].begin(true).is_none());
}

#[test]
fn unread_answers_make_room_long_before_requests_are_refused() {
    let (connections, places, start) = full(16);
    let _all = begin_all(&places);
    connections.connections.lock().shed_at = None;
    places[3].activity.lock().blocked(start - 2 * UNREAD_GRACE);
    assert!(places[4].begin(true).is_none());
    assert_eq!(gone(&places), [3]);
}

#[test]
fn neighbours_in_ipv6_are_one() {
    let network = |text: &str| network(text.parse().unwrap());
    assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
    assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
    assert_eq!(network("::ffff:127.0.0.1"), IpAddr::V4(Ipv4Addr::LOCALHOST));
}
