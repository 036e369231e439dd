//! Who else is there: tenants with little to send, and when they last had something. For their sake whoever starts a crowd
//! goes slowly. Pure.

use std::time::{Duration, Instant};

use crate::id::TenantNum;

/// Who has not published for this long would not notice.
const LATELY: Duration = Duration::from_secs(1);

/// The two latest ones: whoever asks is one of them at most.
#[derive(Debug, Default)]
pub(super) struct Others {
    latest: Option<(TenantNum, Instant)>,
    before: Option<(TenantNum, Instant)>,
}

impl Others {
    /// This tenant has something to send, and it is little.
    pub(super) fn saw(&mut self, tenant: TenantNum, now: Instant) {
        if self.latest.is_some_and(|(latest, _)| latest != tenant) {
            self.before = self.latest;
        }
        self.latest = Some((tenant, now));
    }

    /// Whether anybody else was there lately.
    pub(super) fn are_there(&self, besides: TenantNum, now: Instant) -> bool {
        let known = [self.latest, self.before].into_iter().flatten();
        known.filter(|(tenant, _)| *tenant != besides).any(|(_, at)| now.saturating_duration_since(at) < LATELY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_others_count_and_only_for_a_while() {
        let (mut others, start) = (Others::default(), Instant::now());
        let (crowd, small) = (TenantNum(1), TenantNum(2));
        assert!(!others.are_there(crowd, start));
        others.saw(crowd, start);
        assert!(!others.are_there(crowd, start) && others.are_there(small, start));
        others.saw(small, start);
        others.saw(crowd, start);
        others.saw(crowd, start);
        assert!(others.are_there(crowd, start), "however much it has to send itself");
        assert!(!others.are_there(crowd, start + LATELY));
    }
}
