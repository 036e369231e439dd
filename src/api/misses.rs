//! How many keys that do not exist may be asked for. Finding out that one does not costs a look into the database, so
//! each address may be wrong only so often, and so may all together. A key that was used before is known without a
//! look, and is never refused here.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// Wrong keys from one address in the long run: one in this time.
const EACH_PERIOD: Duration = Duration::from_millis(100);

/// Wrong keys from one address at once: others may share it.
const EACH_BURST: u32 = 100;

/// Wrong keys from everywhere in the long run: one in this time.
const ALL_PERIOD: Duration = Duration::from_millis(2);

const ALL_BURST: u32 = 1_000;

/// Addresses that are told apart; those beyond share one allowance.
const MOST_ADDRESSES: usize = 8_192;

/// Looking for addresses that can be forgotten takes as long as there are addresses.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// Stands for all addresses that are not told apart.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Who was wrong how often of late.
#[derive(Debug)]
pub(super) struct Misses {
    each: HashMap<IpAddr, Allowance>,
    all: Allowance,
    /// When it was last looked for addresses that can be forgotten.
    forgot_at: Instant,
}

/// When everything that was used of an allowance will be back (GCRA's theoretical arrival time).
#[derive(Debug, Clone, Copy)]
struct Allowance {
    full_at: Instant,
}

impl Allowance {
    /// How long to wait until it allows one more.
    fn wait(&self, now: Instant, period: Duration, burst: u32) -> Option<Duration> {
        let used_up = self.full_at.saturating_duration_since(now);
        let wait = (used_up + period).saturating_sub(period * burst);
        (!wait.is_zero()).then_some(wait)
    }

    fn take(&mut self, now: Instant, period: Duration) {
        self.full_at = self.full_at.max(now) + period;
    }
}

impl Misses {
    pub(super) fn new(now: Instant) -> Self {
        Self { each: HashMap::new(), all: Allowance { full_at: now }, forgot_at: now }
    }

    /// How long whoever is at this address has to wait before a key is looked up for it; `None`: not at all.
    pub(super) fn wait(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let own = self.each.get(&self.counted_as(network(peer)));
        let own = own.and_then(|allowance| allowance.wait(now, EACH_PERIOD, EACH_BURST));
        own.max(self.all.wait(now, ALL_PERIOD, ALL_BURST))
    }

    /// A key that was looked up for this address does not exist.
    pub(super) fn note(&mut self, peer: IpAddr, now: Instant) {
        let peer = network(peer);
        if self.each.len() >= MOST_ADDRESSES && now.saturating_duration_since(self.forgot_at) >= FORGET_EVERY {
            self.forgot_at = now;
            self.each.retain(|_, allowance| allowance.full_at > now);
        }
        let counted_as = self.counted_as(peer);
        self.each.entry(counted_as).or_insert(Allowance { full_at: now }).take(now, EACH_PERIOD);
        self.all.take(now, ALL_PERIOD);
    }

    fn counted_as(&self, peer: IpAddr) -> IpAddr {
        if self.each.len() < MOST_ADDRESSES || self.each.contains_key(&peer) { peer } else { ELSEWHERE }
    }
}

/// Whoever has one IPv6 address has the 2⁶⁴ around it as well.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn peer(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
    }

    #[test]
    fn an_address_may_be_wrong_so_often_and_then_at_a_pace() {
        let start = Instant::now();
        let mut misses = Misses::new(start);
        for _ in 0..EACH_BURST {
            assert_eq!(misses.wait(HERE, start), None);
            misses.note(HERE, start);
        }
        assert_eq!(misses.wait(HERE, start), Some(EACH_PERIOD));
        assert_eq!(misses.wait(peer(1), start), None);
        let later = start + EACH_PERIOD;
        assert_eq!(misses.wait(HERE, later), None);
        misses.note(HERE, later);
        assert_eq!(misses.wait(HERE, later), Some(EACH_PERIOD));
    }

    #[test]
    fn many_addresses_together_are_bounded_too() {
        let start = Instant::now();
        let mut misses = Misses::new(start);
        for number in 0..ALL_BURST {
            misses.note(peer(number), start);
        }
        assert_eq!(misses.wait(peer(ALL_BURST), start), Some(ALL_PERIOD));
    }

    #[test]
    fn a_million_addresses_take_no_more_memory_than_some_thousand() {
        let start = Instant::now();
        let mut misses = Misses::new(start);
        for number in 0..1_000_000 {
            misses.note(peer(number), start);
        }
        assert!(misses.each.len() <= MOST_ADDRESSES + 1);
        misses.note(HERE, start + Duration::from_secs(200_000));
        assert_eq!(misses.each.len(), 1);
    }

    #[test]
    fn neighbours_in_ipv6_are_one() {
        let start = Instant::now();
        let mut misses = Misses::new(start);
        for number in 0..EACH_BURST {
            misses.note(format!("2001:db8::{number:x}").parse().unwrap(), start);
        }
        assert!(misses.wait("2001:db8::ffff:1".parse().unwrap(), start).is_some());
        assert!(misses.wait("2001:db8:0:1::1".parse().unwrap(), start).is_none());
        assert_eq!(network("::ffff:127.0.0.1".parse().unwrap()), HERE);
    }
}
