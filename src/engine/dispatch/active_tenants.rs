//! Who else is there: tenants with little to send, and when they last had something. For their sake whoever starts a crowd
//! goes slowly. Pure.

use std::time::{Duration, Instant};

use crate::domain::id::TenantNum;

/// Who has not published for this long would not notice.
const LATELY: Duration = Duration::from_secs(1);

/// The two latest ones: whoever asks is one of them at most.
#[derive(Debug, Default)]
pub(super) struct ActiveTenants {
    latest: Option<(TenantNum, Instant)>,
    before: Option<(TenantNum, Instant)>,
}

impl ActiveTenants {
    /// This tenant has something to send, and it is little.
    pub(super) fn note(&mut self, tenant: TenantNum, now: Instant) {
        if self.latest.is_some_and(|(latest, _)| latest != tenant) {
            self.before = self.latest;
        }
        self.latest = Some((tenant, now));
    }

    /// Whether anybody else was there lately.
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
