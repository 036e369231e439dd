//! A hash that keeps neighbours together. Webhook numbers are dense, so that the ascending targets of a fan-out walk
//! through the table of accounts instead of jumping about in it, which is most of the cost of owing an event to a
//! hundred thousand webhooks. The engine chooses the numbers, so the hash need not withstand an attack. Pure.

use std::hash::{BuildHasherDefault, Hasher};

pub(super) type Nearby = BuildHasherDefault<NearbyHasher>;

/// Low bits of a number that the hash keeps: 256 neighbours lie side by side, enough for most of the gain. Blocks of
/// neighbours are spread, so that numbers at a regular distance do not collide.
const NEIGHBOURS: u32 = 8;

/// 2^64 divided by the golden ratio (Fibonacci hashing).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The table tells colliding entries apart by the highest seven bits of the hash.
const TAG: u32 = 57;

#[derive(Debug, Default)]
pub(super) struct NearbyHasher(u64);

impl Hasher for NearbyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) ^ u64::from(*byte);
        }
    }

    fn write_i64(&mut self, number: i64) {
        self.0 = number.cast_unsigned();
    }

    fn finish(&self) -> u64 {
        let neighbour = self.0 & ((1 << NEIGHBOURS) - 1);
        // The high half of the product depends on every bit of the number.
        let block = (self.0 >> NEIGHBOURS).wrapping_mul(SPREAD).rotate_left(32);
        ((block << NEIGHBOURS) | neighbour) ^ (neighbour << TAG)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;
    use crate::domain::id::WebhookNum;

    /// The slots of a table for a hundred thousand accounts.
    const PLACES: usize = 1 << 17;

    fn place(number: i64) -> usize {
        usize::try_from(Nearby::default().hash_one(WebhookNum(number)) % PLACES as u64).unwrap()
    }

    #[test]
    fn neighbours_lie_side_by_side() {
        assert!((1..255).all(|number| place(number + 1) == place(number) + 1));
    }

    #[test]
    fn a_hundred_thousand_numbers_at_a_regular_distance_do_not_meet_in_one_place() {
        for distance in (0..30).map(|bits| 1 << bits).chain([3, 100, 255, 1000, 10_000, 1_000_000]) {
            let mut met = vec![0; PLACES];
            (1..=100_000).for_each(|number| met[place(number * distance)] += 1);
            assert!(met.into_iter().all(|count| count <= 400), "distance {distance}");
        }
    }
}
