//! What a lease means for its holder. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// A lease is renewed this often while it lasts, so that one answer that is late or missing matters nothing.
const RENEWALS: u32 = 5;

/// What a lease of this length means for its holder.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct LeaseTerms {
    length: Duration,
}

impl LeaseTerms {
    #[must_use]
    pub(in crate::engine) fn of(length: Duration) -> Self {
        Self { length }
    }

    #[must_use]
    pub(in crate::engine) fn renew_every(self) -> Duration {
        self.length / RENEWALS
    }

    /// Until when a lease that was asked for at this moment, and granted, may be acted upon. Its end by the database's
    /// clock is later by at least the margin, in which clocks may run apart and what is under way is cut short.
    #[must_use]
    pub(in crate::engine) fn act_until(self, asked_at: Instant) -> Instant {
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
