//! Tracks tenants with little to send that were active in the last second, so that the activator slows large fan-outs
//! down for them. Pure.

use std::time::{Duration, Instant};

use crate::domain::id::TenantNum;

/// A tenant that has had nothing to send for this long would not notice a large fan-out.
const LATELY: Duration = Duration::from_secs(1);

/// The two tenants that were active last. Two suffice: at most one of them is the tenant that is asked about.
#[derive(Debug, Default)]
pub(super) struct ActiveTenants {
    latest: Option<(TenantNum, Instant)>,
    before: Option<(TenantNum, Instant)>,
}

impl ActiveTenants {
    /// Notes a tenant that has a little to send.
    pub(super) fn note(&mut self, tenant: TenantNum, now: Instant) {
        if self.latest.is_some_and(|(latest, _)| latest != tenant) {
            self.before = self.latest;
        }
        self.latest = Some((tenant, now));
    }

    /// Whether another tenant was active lately.
    pub(super) fn has_others(&self, besides: TenantNum, now: Instant) -> bool {
        let known = [self.latest, self.before].into_iter().flatten();
        known.filter(|(tenant, _)| *tenant != besides).any(|(_, at)| now.saturating_duration_since(at) < LATELY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_others_count_and_only_for_a_while() {
        let (mut active, start) = (ActiveTenants::default(), Instant::now());
        let (crowd, small) = (TenantNum(1), TenantNum(2));
        assert!(!active.has_others(crowd, start));
        active.note(crowd, start);
        assert!(!active.has_others(crowd, start) && active.has_others(small, start));
        active.note(small, start);
        active.note(crowd, start);
        active.note(crowd, start);
        assert!(active.has_others(crowd, start), "however much it has to send itself");
        assert!(!active.has_others(crowd, start + LATELY));
    }
}
