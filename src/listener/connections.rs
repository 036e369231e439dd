//! Holds the open connections and chooses which one to close when a new one finds no slot: the most dispensable one.
//! The acceptor in [`super`] asks for a slot; [`super::connection`] holds the slot and carries out the eviction.
//!
//! No client is locked out by connections that do nothing or leave their answers unread; by an address with many
//! connections, because that address gives back what it holds beyond half of the slots; or by callers without a valid
//! key, however many addresses they have, because idle connections of callers with a valid key keep half of the slots.

pub(super) mod figures;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::figures::{Refused, Shortage};
use super::activity::{Activity, Standing};
use super::answer::UnderWay;

/// Candidates that one pass over all connections yields, so that the pass is paid once for this many newcomers.
const CANDIDATES: usize = 64;

/// Pause between two passes that look for unread answers, and after a pass that found no connection to close.
const NO_LOOK: Duration = Duration::from_millis(10);

/// At most this fraction (1 ÷ 16) of the allowed connections may be evicted and not closed yet.
const GOING_PART: usize = 16;

/// Concurrent requests per allowed connection, over all connections. With HTTP/2 one connection may have a hundred
/// requests, each of which takes some 3 KiB.
const REQUESTS_EACH: usize = 2;

/// A connection may have a quarter of the requests that there is still room for, so that room is left for newcomers.
/// The first request of a connection needs no room.
const PART_OF_ROOM: usize = 4;

/// The least value of the request limit: a few HTTP/2 connections may need this many, however few connections are
/// allowed.
const LEAST_REQUESTS: usize = 1_024;

pub(super) struct Connections {
    most: usize,
    most_requests: usize,
    /// Requests under way.
    requests: Arc<AtomicUsize>,
    pub(super) refused: Refused,
    connections: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    present: HashMap<u64, Present>,
    /// How many connections each address has.
    held: HashMap<IpAddr, usize>,
    candidates: Candidates,
    /// Connections that were evicted and are not closed yet.
    going: usize,
    /// When the last pass looked for unread answers.
    shed_at: Option<Instant>,
}

struct Present {
    address: IpAddr,
    activity: Arc<Mutex<Activity>>,
    evicted: CancellationToken,
}

/// Which connections may be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Pool {
    #[default]
    Anyone,
    /// Only connections of the address that wants another slot.
    Of(IpAddr),
}

/// Connections to close next, the first one at the end. A candidate whose standing has changed is skipped.
#[derive(Default)]
struct Candidates {
    pool: Pool,
    ids: Vec<(Standing, u64)>,
    /// When the last pass found no candidate.
    in_vain: Option<Instant>,
}

/// The slot that a connection occupies as long as it lives.
pub(super) struct ConnectionSlot {
    id: u64,
    connections: Arc<Connections>,
    pub(super) activity: Arc<Mutex<Activity>>,
    /// Cancelled when the slot is needed. [`Activity::ends`] says what follows for the connection.
    pub(super) evicted: CancellationToken,
}

impl Connections {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most_requests = (most * REQUESTS_EACH).max(LEAST_REQUESTS);
        let (requests, refused, connections) = (Arc::default(), Refused::default(), Mutex::default());
        Arc::new(Self { most, most_requests, requests, refused, connections })
    }

    /// Gives a slot to a connection accepted now; `None` when all slots are taken and no other connection may be
    /// closed.
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

    /// Evicts a connection, if one is dispensable, because its descriptor is needed.
    pub(super) fn make_room(&self, now: Instant) -> bool {
        self.connections.lock().evict(Pool::Anyone, self, now)
    }

    /// Open connections, including evicted ones that are not closed yet.
    pub(super) fn open(&self) -> usize {
        let connections = self.connections.lock();
        connections.present.len() + connections.going
    }

    /// Slots that one address may keep when slots are short.
    fn half(&self) -> usize {
        (self.most / 2).max(1)
    }

    fn most_going(&self) -> usize {
        (self.most / GOING_PART).max(1)
    }

    /// Counts a request; `None` when there are too many. From three quarters of the limit on, connections that leave
    /// their answers unread are evicted.
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

/// Whether a connection with this many requests may have one more.
fn has_room(requests: usize, room: usize) -> bool {
    requests == 0 || requests < room / PART_OF_ROOM
}

impl Table {
    fn held_by(&self, address: IpAddr) -> usize {
        self.held.get(&address).copied().unwrap_or(0)
    }

    /// Evicts the most dispensable connection of the pool, unless many evicted ones are not closed yet.
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

    /// An address with more than half of the slots gives some back, even from busy connections.
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

    /// Spares idle connections of callers with a valid key, up to half of the slots, unless their address holds more
    /// than half.
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

    /// Evicts the connections with the most unread answers, until `surplus` requests are given up.
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
    /// Counts a request on this connection; `None` when all connections together have too many.
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

/// The unit that slots are counted by: the holder of one IPv6 address usually has its whole /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests;
