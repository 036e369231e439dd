//! What a lease of a given length means for its holder: when to renew it, and until when to act upon it. Pure.

use std::time::{Duration, Instant};

/// A lease is renewed this often in its length, so that one late or missing answer does no harm.
const RENEWALS: u32 = 5;

/// The terms of a lease of this length.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseTerms {
    length: Duration,
}

impl LeaseTerms {
    #[must_use]
    pub(super) fn of(length: Duration) -> Self {
        Self { length }
    }

    #[must_use]
    pub(super) fn renew_every(self) -> Duration {
        self.length / RENEWALS
    }

    /// Until when the node may act upon a lease that it asked for at this moment and got. By the database's clock the
    /// lease ends later by at least a fifth of its length. In this margin clocks may run apart, and requests in flight
    /// are cut short.
    #[must_use]
    pub(super) fn act_until(self, asked_at: Instant) -> Instant {
        asked_at + self.length - self.length / RENEWALS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_acted_upon_for_less_than_it_lasts_and_renewed_several_times_meanwhile() {
        let (terms, now) = (LeaseTerms::of(Duration::from_secs(15)), Instant::now());
        assert_eq!(terms.act_until(now) - now, Duration::from_secs(12));
        assert_eq!(terms.renew_every(), Duration::from_secs(3));
    }
}
