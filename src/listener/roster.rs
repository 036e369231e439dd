//! The connections there are, and who has to go when there are too many: whoever answers no request and is silent for
//! the longest makes room for whoever comes. So connections that do nothing keep nobody out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, Quiet};

/// Whoever has just come, or was just answered, is about to ask for something.
const GRACE: Duration = Duration::from_millis(250);

/// Looking through all connections pays for so many that come.
const CANDIDATES: usize = 64;

/// After a look that found nobody who can go.
const NO_LOOK: Duration = Duration::from_millis(10);

/// Connections that were told to go and have not gone yet, as a part of those there may be.
const GOING_PART: usize = 16;

pub(super) struct Roster {
    most: usize,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next: u64,
    present: HashMap<u64, Present>,
    /// To be closed next, the first at the end, as far as they still are as they were.
    candidates: Vec<(Quiet, u64)>,
    /// When it was last looked for some in vain.
    in_vain: Option<Instant>,
    /// Told to go.
    going: usize,
}

struct Present {
    activity: Arc<Mutex<Activity>>,
    evicted: CancellationToken,
}

/// A connection's place, as long as it lives.
pub(super) struct Place {
    id: u64,
    roster: Arc<Roster>,
    pub(super) activity: Arc<Mutex<Activity>>,
    /// Somebody else needs the place.
    pub(super) evicted: CancellationToken,
}

impl Roster {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, connections: Mutex::default() })
    }

    /// A place for a connection that was accepted now; `None` when every other one is busy.
    pub(super) fn admit(self: &Arc<Self>, now: Instant) -> Option<Place> {
        let mut connections = self.connections.lock();
        if connections.present.len() >= self.most && !connections.evict(now, self.most_going()) {
            return None;
        }
        let id = connections.next;
        connections.next += 1;
        let activity = Arc::new(Mutex::new(Activity::new(now)));
        let evicted = CancellationToken::new();
        connections.present.insert(id, Present { activity: activity.clone(), evicted: evicted.clone() });
        Some(Place { id, roster: self.clone(), activity, evicted })
    }

    /// Tells a connection to go that answers no request, if there is one: something else needs its descriptor.
    pub(super) fn make_room(&self, now: Instant) -> bool {
        self.connections.lock().evict(now, self.most_going())
    }

    fn most_going(&self) -> usize {
        (self.most / GOING_PART).max(1)
    }
}

impl Connections {
    /// Tells the most dispensable connection to go, unless `most_going` are going already.
    fn evict(&mut self, now: Instant, most_going: usize) -> bool {
        if self.going >= most_going {
            return false;
        }
        let Some(id) = self.candidate().or_else(|| {
            self.draw_up_candidates(now);
            self.candidate()
        }) else {
            return false;
        };
        let Some(present) = self.present.remove(&id) else { return false };
        present.evicted.cancel();
        self.going += 1;
        true
    }

    fn candidate(&mut self) -> Option<u64> {
        while let Some((quiet, id)) = self.candidates.pop() {
            if self.present.get(&id).is_some_and(|present| present.activity.lock().quiet() == Some(quiet)) {
                return Some(id);
            }
        }
        None
    }

    fn draw_up_candidates(&mut self, now: Instant) {
        if self.in_vain.is_some_and(|at| now.saturating_duration_since(at) < NO_LOOK) {
            return;
        }
        let quiet = self.present.iter().filter_map(|(id, present)| Some((present.activity.lock().quiet()?, *id)));
        let mut quiet: Vec<_> = quiet.filter(|(quiet, _)| quiet.lasts(now) >= GRACE).collect();
        if quiet.len() > CANDIDATES {
            quiet.select_nth_unstable(CANDIDATES);
            quiet.truncate(CANDIDATES);
        }
        quiet.sort_unstable_by(|a, b| b.cmp(a));
        self.in_vain = quiet.is_empty().then_some(now);
        self.candidates = quiet;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.roster.connections.lock();
        if connections.present.remove(&self.id).is_none() {
            connections.going -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(most: usize) -> (Arc<Roster>, Vec<Place>, Instant) {
        let (roster, start) = (Roster::new(most), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let places = (0..most as u64).map(|second| roster.admit(at(second)).unwrap()).collect();
        (roster, places, start)
    }

    /// When everybody in [`full`] has been there for long.
    fn late(start: Instant) -> Instant {
        start + Duration::from_secs(1_000)
    }

    fn gone(places: &[Place]) -> Vec<usize> {
        (0..places.len()).filter(|place| places[*place].evicted.is_cancelled()).collect()
    }

    #[test]
    fn whoever_is_silent_for_the_longest_makes_room() {
        let (roster, mut places, start) = full(200);
        places[0].activity.lock().began(false);
        for _ in 0..3 {
            places.push(roster.admit(late(start)).unwrap());
        }
        assert_eq!(gone(&places), [1, 2, 3]);
    }

    #[test]
    fn whoever_is_busy_keeps_its_place_and_nobody_is_let_in() {
        let (roster, places, start) = full(40);
        for place in &places {
            place.activity.lock().began(false);
        }
        assert!(roster.admit(late(start)).is_none());
        places[7].activity.lock().ended(start);
        assert!(roster.admit(late(start) + NO_LOOK).is_some());
        assert_eq!(gone(&places), [7]);
    }

    #[test]
    fn whoever_has_become_busy_since_it_was_chosen_is_passed_over() {
        let (roster, places, start) = full(200);
        drop(roster.admit(late(start)).unwrap());
        let newest = roster.admit(late(start)).unwrap();
        places[1].activity.lock().began(false);
        assert!(roster.make_room(late(start)));
        assert_eq!(gone(&places), [0, 2]);
        assert!(!newest.evicted.is_cancelled());
    }

    #[test]
    fn few_are_going_at_once_and_who_has_gone_leaves_room() {
        let (roster, mut places, start) = full(32);
        let newcomers: Vec<_> = std::iter::from_fn(|| roster.admit(late(start))).collect();
        assert_eq!(newcomers.len(), 32 / GOING_PART);
        places.retain(|place| !place.evicted.is_cancelled());
        assert!(roster.admit(late(start)).is_some());
        drop((places, newcomers));
        assert_eq!(roster.connections.lock().going, 0);
        assert!(roster.connections.lock().present.is_empty());
    }

    #[test]
    fn whoever_has_just_come_has_a_moment_to_ask() {
        let (roster, places, start) = full(8);
        assert!(roster.admit(start + GRACE / 2).is_none());
        assert!(roster.admit(start + GRACE).is_some());
        assert_eq!(gone(&places), [0]);
    }
}
