//! When a node may act for the shards that it holds, and whether it waits for those that another one holds. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::UnixMillis;
use crate::store::leases::Holder;

/// A lease is renewed this often while it lasts, so that one answer that is late or missing matters nothing.
const RENEWALS: u32 = 5;

/// What a lease of this length means for its holder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    length: Duration,
}

impl Terms {
    #[must_use]
    pub(super) fn of(length: Duration) -> Self {
        Self { length }
    }

    #[must_use]
    pub(super) fn renew_every(self) -> Duration {
        self.length / RENEWALS
    }

    /// Until when a lease that was asked for at this moment, and granted, may be acted upon. Its end by the database's
    /// clock is later by at least the margin, in which clocks may run apart and what is under way is cut short.
    #[must_use]
    pub(super) fn act_until(self, asked_at: Instant) -> Instant {
        asked_at + self.length - self.length / RENEWALS
    }
}

/// What to do about shards that another node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may be dead: its lease will end, or it will be renewed.
    Wait,
    /// It lives.
    GiveUp,
}

/// What was seen of other nodes so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    first: Option<(i64, UnixMillis)>,
}

impl Watch {
    /// A node that renews its lease lives, as does one that has just taken over.
    pub(super) fn judge(&mut self, holder: &Holder) -> Verdict {
        let seen = (holder.node, holder.lease_until);
        let first = *self.first.get_or_insert(seen);
        if first == seen { Verdict::Wait } else { Verdict::GiveUp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(node: i64, lease_until: i64) -> Holder {
        let lease_until = UnixMillis(lease_until);
        Holder { node, name: "other".to_owned(), started_at: UnixMillis(0), lease_until }
    }

    #[test]
    fn a_lease_is_acted_upon_for_less_than_it_lasts_and_renewed_several_times_meanwhile() {
        let (terms, now) = (Terms::of(Duration::from_secs(15)), Instant::now());
        assert_eq!(terms.act_until(now) - now, Duration::from_secs(12));
        assert_eq!(terms.renew_every(), Duration::from_secs(3));
    }

    #[test]
    fn a_silent_node_is_waited_for_and_one_that_lives_is_not() {
        let mut watch = Watch::default();
        assert_eq!(watch.judge(&holder(1, 1000)), Verdict::Wait);
        assert_eq!(watch.judge(&holder(1, 1000)), Verdict::Wait);
        assert_eq!(watch.judge(&holder(1, 1500)), Verdict::GiveUp, "it has renewed its lease");
        let mut watch = Watch::default();
        watch.judge(&holder(1, 1000));
        assert_eq!(watch.judge(&holder(2, 900)), Verdict::GiveUp, "somebody else was faster");
    }
}
