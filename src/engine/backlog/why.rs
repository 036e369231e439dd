//! What keeps deliveries from flowing, in a sentence that says what happens next or what to do. Pure.

use crate::clock::UnixMillis;
use crate::delivery::breaker::View;
use crate::store::webhooks::WebhookSummary;

use super::{EndpointState, word};

/// The figures that matter to somebody who asks why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    pub(super) ready: u64,
    pub(super) in_flight: u64,
    pub(super) throttled_ms: u64,
}

pub(super) fn sentence(
    webhook: &WebhookSummary,
    state: EndpointState,
    breaker: &View,
    crashes: u32,
    figures: Figures,
) -> Option<String> {
    match state {
        EndpointState::Inactive => Some(match &webhook.inactive_reason {
            Some(reason) => format!("switched off: {reason}; switch it on to send what it is owed"),
            None => "switched off by its owner; it gets no new events, and what it is owed is kept".to_owned(),
        }),
        EndpointState::Paused => {
            let since = webhook.paused_at.unwrap_or(UnixMillis(0));
            Some(format!("paused since {since}; resume it to let its deliveries flow"))
        }
        EndpointState::Quarantined => {
            Some(format!("its actor crashed {crashes} times in a row; resume or probe it to start it again"))
        }
        EndpointState::Open => Some(open(breaker)),
        EndpointState::Active => active(breaker, figures),
    }
}

fn open(breaker: &View) -> String {
    let failures = format!("{} failures ({})", breaker.consecutive_failures, word(breaker.last_failure));
    match breaker.next_probe_at {
        Some(at) => format!("breaker open after {failures}; next probe {at}"),
        None => format!("breaker half-open after {failures}; the next delivery is the probe"),
    }
}

fn active(breaker: &View, figures: Figures) -> Option<String> {
    let Figures { ready, in_flight, throttled_ms } = figures;
    if throttled_ms > 0 && ready > 0 {
        return Some(format!("its rate limit is used up; the next request may start in {throttled_ms} ms"));
    }
    if breaker.consecutive_failures > 0 {
        let (failures, last) = (breaker.consecutive_failures, word(breaker.last_failure));
        return Some(format!("{failures} failures in a row ({last}); failed deliveries wait for their retries"));
    }
    (ready > 0 && in_flight > 0)
        .then(|| format!("{in_flight} requests are under way; the others wait for their answers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::breaker::ViewState;
    use crate::delivery::outcome::OutcomeKind;
    use crate::id::{TenantNum, WebhookId, WebhookNum};
    use crate::store::health::Health;

    fn webhook() -> WebhookSummary {
        WebhookSummary {
            num: WebhookNum(1),
            id: WebhookId::generate(),
            tenant: TenantNum(1),
            name: String::new(),
            policy: serde_json::Value::Null,
            is_active: true,
            inactive_reason: None,
            paused_at: Some(UnixMillis(0)),
            health: Health::default(),
            next_due: None,
        }
    }

    fn breaker(failures: u32, next_probe_at: Option<UnixMillis>) -> View {
        View {
            state: ViewState::Open,
            consecutive_failures: failures,
            next_probe_at,
            opened_at: None,
            last_failure: Some(OutcomeKind::ConnectFailed),
        }
    }

    fn said(state: EndpointState, failures: u32, figures: (u64, u64, u64)) -> Option<String> {
        let (ready, in_flight, throttled_ms) = figures;
        let probe = Some(UnixMillis(1_795_420_805_000));
        sentence(&webhook(), state, &breaker(failures, probe), 8, Figures { ready, in_flight, throttled_ms })
    }

    #[test]
    fn an_open_breaker_says_after_what_and_until_when() {
        let said = said(EndpointState::Open, 20, (0, 0, 0)).unwrap();
        assert_eq!(said, "breaker open after 20 failures (connect_failed); next probe 2026-11-23T08:00:05.000Z");
    }

    #[test]
    fn every_state_but_a_flowing_one_has_a_reason() {
        for state in [EndpointState::Inactive, EndpointState::Paused, EndpointState::Quarantined] {
            assert!(said(state, 0, (0, 0, 0)).is_some(), "{state:?}");
        }
        assert_eq!(said(EndpointState::Active, 0, (0, 0, 0)), None);
        assert_eq!(said(EndpointState::Active, 0, (0, 3, 0)), None);
        assert!(said(EndpointState::Active, 0, (5, 3, 0)).unwrap().contains("3 requests are under way"));
        assert!(said(EndpointState::Active, 0, (5, 0, 70)).unwrap().contains("70 ms"));
        assert!(said(EndpointState::Active, 2, (0, 0, 0)).unwrap().contains("2 failures"));
    }
}
