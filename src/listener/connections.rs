//! The connections there are, and who has to go when there are too many: the most dispensable one makes room for the next.
//! So connections that do nothing, or do not read what they asked for, lock no client out. Neither does an address with many
//! connections, since it has to give back what it holds beyond half of the places. Nor do callers without a valid key,
//! however many addresses they have: connections of callers with one keep half of the places while they are idle.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, Standing};
use super::answer::UnderWay;
use super::figures::{Refused, Shortage};

/// Looking through all connections pays for so many that come.
const CANDIDATES: usize = 64;

/// Between two looks for answers that are not read, and after a look that found no connection to close.
const NO_LOOK: Duration = Duration::from_millis(10);

/// Connections that were told to go and have not gone yet, as a part of those there may be.
const GOING_PART: usize = 16;

/// Requests at once for each connection that there may be, over all connections: with HTTP/2 a connection may have a
/// hundred, each of which takes some 3 KiB.
const REQUESTS_EACH: usize = 2;

/// A connection may have this part of the requests that there is still room for, so that some is left for each that comes.
/// The first request of a connection needs no room.
const PART_OF_ROOM: usize = 4;

/// A few connections of HTTP/2 may need so many, however few connections there may be.
const LEAST_REQUESTS: usize = 1_024;

pub(super) struct Connections {
    most: usize,
    most_requests: usize,
    /// Under way.
    requests: Arc<AtomicUsize>,
    pub(super) refused: Refused,
    connections: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    present: HashMap<u64, Present>,
    /// How many of them each address has.
    held: HashMap<IpAddr, usize>,
    candidates: Candidates,
    /// Told to go.
    going: usize,
    /// When it was last looked for answers that are not read.
    shed_at: Option<Instant>,
}

struct Present {
    address: IpAddr,
    activity: Arc<Mutex<Activity>>,
    evicted: CancellationToken,
}

/// Whose connection may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Pool {
    #[default]
    Anyone,
    /// Only one of the address that wants another place.
    Of(IpAddr),
}

/// To be closed next, the first at the end, as far as they still are as they were.
#[derive(Default)]
struct Candidates {
    pool: Pool,
    ids: Vec<(Standing, u64)>,
    /// When it was last looked for some in vain.
    in_vain: Option<Instant>,
}

/// A connection's place, as long as it lives.
pub(super) struct ConnectionSlot {
    id: u64,
    connections: Arc<Connections>,
    pub(super) activity: Arc<Mutex<Activity>>,
    /// The place is needed; what that means for its connection, the activity knows.
    pub(super) evicted: CancellationToken,
}

impl Connections {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most_requests = (most * REQUESTS_EACH).max(LEAST_REQUESTS);
        let (requests, refused, connections) = (Arc::default(), Refused::default(), Mutex::default());
        Arc::new(Self { most, most_requests, requests, refused, connections })
    }

    /// A place for a connection that was accepted now; `None` when no other can go for it.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr, now: Instant) -> Option<ConnectionSlot> {
        let address = network(peer);
        let mut connections = self.connections.lock();
        if connections.present.len() >= self.most {
            let is_at_its_half = connections.held_by(address) >= self.half();
            let pool = if is_at_its_half { Pool::Of(address) } else { Pool::Anyone };
            if !connections.evict(pool, self, now) {
                self.refused.count(Shortage::Connections);
                return None;
            }
        }
        let id = connections.next;
        connections.next += 1;
        let activity = Arc::new(Mutex::new(Activity::new(now)));
        let evicted = CancellationToken::new();
        *connections.held.entry(address).or_default() += 1;
        connections.present.insert(id, Present { address, activity: activity.clone(), evicted: evicted.clone() });
        Some(ConnectionSlot { id, connections: self.clone(), activity, evicted })
    }

    /// Tells a connection to go, if one can: something else needs its descriptor.
    pub(super) fn make_room(&self, now: Instant) -> bool {
        self.connections.lock().evict(Pool::Anyone, self, now)
    }

    /// Connections, those included that were told to go and have not gone yet.
    pub(super) fn open(&self) -> usize {
        let connections = self.connections.lock();
        connections.present.len() + connections.going
    }

    /// Of one address, when places are short.
    fn half(&self) -> usize {
        (self.most / 2).max(1)
    }

    fn most_going(&self) -> usize {
        (self.most / GOING_PART).max(1)
    }

    /// Counts a request; `None` when there are too many. Long before that, those go that do not read their answers.
    fn begin(&self, activity: &Arc<Mutex<Activity>>, is_multiplexed: bool) -> Option<Arc<UnderWay>> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        let surplus = before.saturating_sub(self.most_requests / 4 * 3);
        if surplus > 0 {
            self.connections.lock().shed(surplus, self, Instant::now());
        }
        if !has_room(activity.lock().requests(), self.most_requests.saturating_sub(before)) {
            self.requests.fetch_sub(1, Ordering::Relaxed);
            self.refused.count(Shortage::Requests);
            return None;
        }
        Some(UnderWay::begin(activity, self.requests.clone(), is_multiplexed))
    }
}

/// Whether a connection with so many requests may have one more.
fn has_room(requests: usize, room: usize) -> bool {
    requests == 0 || requests < room / PART_OF_ROOM
}

impl Table {
    fn held_by(&self, address: IpAddr) -> usize {
        self.held.get(&address).copied().unwrap_or(0)
    }

    /// Tells the most dispensable connection of the pool to go, unless many are going already.
    fn evict(&mut self, pool: Pool, connections: &Connections, now: Instant) -> bool {
        if self.going >= connections.most_going() {
            return false;
        }
        if self.candidates.pool != pool {
            self.candidates = Candidates { pool, ..Candidates::default() };
        }
        let candidate = self.candidate(connections, now).or_else(|| {
            self.draw_up_candidates(connections, now);
            self.candidate(connections, now)
        });
        candidate.is_some_and(|id| self.send_away(id, now))
    }

    fn send_away(&mut self, id: u64, now: Instant) -> bool {
        let Some(Present { address, activity, evicted }) = self.present.remove(&id) else { return false };
        self.give_back(address);
        let mut activity = activity.lock();
        let is_forced = matches!(activity.standing(), Standing::Busy(_));
        activity.evict(is_forced, now);
        drop(activity);
        evicted.cancel();
        self.going += 1;
        true
    }

    fn give_back(&mut self, address: IpAddr) {
        if let Some(held) = self.held.get_mut(&address) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&address);
            }
        }
    }

    fn candidate(&mut self, connections: &Connections, now: Instant) -> Option<u64> {
        while let Some((standing, id)) = self.candidates.ids.pop() {
            let Some(present) = self.present.get(&id) else { continue };
            if present.activity.lock().standing() == standing && self.may_go(present, standing, connections, now) {
                return Some(id);
            }
        }
        None
    }

    /// An address that has more than half of the places gives some back, busy ones included.
    fn may_go(&self, present: &Present, standing: Standing, connections: &Connections, now: Instant) -> bool {
        match self.candidates.pool {
            Pool::Anyone => standing.is_dispensable(now) || self.held_by(present.address) > connections.half(),
            Pool::Of(address) => present.address == address && standing.is_dispensable(now),
        }
    }

    fn draw_up_candidates(&mut self, connections: &Connections, now: Instant) {
        let looked = self.candidates.in_vain.map(|at| now.saturating_duration_since(at));
        if looked.is_some_and(|ago| ago < NO_LOOK) {
            return;
        }
        let standings = self.present.iter().map(|(id, present)| (present.activity.lock().standing(), *id, present));
        let going = standings.filter(|(standing, _, present)| self.may_go(present, *standing, connections, now));
        let mut ids: Vec<_> = going.map(|(standing, id, _)| (standing, id)).collect();
        ids.sort_unstable();
        ids.truncate(CANDIDATES);
        if self.candidates.pool == Pool::Anyone {
            self.keep_known(&mut ids, connections.half());
        }
        ids.reverse();
        self.candidates.in_vain = ids.is_empty().then_some(now);
        self.candidates.ids = ids;
    }

    /// Known callers keep idle connections up to this half of the places, unless these are of an address that has more.
    fn keep_known(&self, ids: &mut Vec<(Standing, u64)>, half: usize) {
        let known = self.present.values().filter(|present| present.activity.lock().is_known()).count();
        let mut surplus = known.saturating_sub(half);
        ids.retain(|(standing, id)| match standing {
            Standing::KnownIdle(_) if self.held_by(self.present[id].address) <= half => {
                let may_go = surplus > 0;
                surplus = surplus.saturating_sub(1);
                may_go
            }
            _ => true,
        });
    }

    /// Tells connections to go that leave many answers unread, until so many requests have ended.
    fn shed(&mut self, mut surplus: usize, connections: &Connections, now: Instant) {
        if self.shed_at.is_some_and(|at| now.saturating_duration_since(at) < NO_LOOK) {
            return;
        }
        self.shed_at = Some(now);
        let mut unread: Vec<(usize, u64)> = Vec::new();
        for (id, present) in &self.present {
            let activity = present.activity.lock();
            let standing = activity.standing();
            if standing.is_unread() && standing.is_dispensable(now) {
                unread.push((activity.requests(), *id));
            }
        }
        unread.sort_unstable_by(|a, b| b.cmp(a));
        for (requests, id) in unread {
            if surplus == 0 || self.going >= connections.most_going() {
                break;
            }
            self.send_away(id, now);
            surplus = surplus.saturating_sub(requests);
        }
    }
}

impl ConnectionSlot {
    /// Counts a request on this connection; `None` when there are too many over all connections.
    pub(super) fn begin(&self, is_multiplexed: bool) -> Option<Arc<UnderWay>> {
        self.connections.begin(&self.activity, is_multiplexed)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut connections = self.connections.connections.lock();
        match connections.present.remove(&self.id) {
            Some(present) => connections.give_back(present.address),
            None => connections.going -= 1,
        }
    }
}

/// The holder of one IPv6 address usually has all of its /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests;
