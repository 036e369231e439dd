//! What an endpoint records and logs of an attempt, and logs of its breaker: a line for each failed attempt, as long as
//! there are not too many, and a line for each change of the breaker. A line names the receiver's host and never the
//! rest of its URL.

use std::time::{Duration, Instant};

use tracing::field::display;
use tracing::{Level, debug, enabled, info, warn};

use crate::delivery::breaker::{View, ViewState};
use crate::delivery::sender::Report;
use crate::domain::delivery::{Attempt, DeliveryState, Status, Trigger};
use crate::domain::id::{DeliveryId, EventId};
use crate::domain::outcome::OutcomeKind;
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::lane::{Entry, News};
use crate::engine::operational;
use crate::journal::{AttemptRecord, Record};
use crate::log_limit::LogLimit;

use super::Endpoint;
use super::attempt::Attempted;

/// Target in `POSTHASTE_LOG` of the lines about attempts.
const ATTEMPT: &str = "posthaste::attempt";

/// Target in `POSTHASTE_LOG` of the lines about endpoints as a whole.
pub(in crate::engine) const ENDPOINT: &str = "posthaste::endpoint";

/// Failed attempts of one endpoint that are logged in a second. More of the same lines would say nothing new.
const LINES_EACH: u32 = 5;

impl Endpoint {
    pub(super) fn settle(&mut self, entry: &Entry, state: DeliveryState, attempted: Attempted) {
        let id = self.id(entry.event.seq);
        self.log_attempt(entry, &state, &attempted.report);
        let Attempted { report, started_at, slot } = attempted;
        let Report { outcome, status, error, head_us, duration_us, request, response_headers, response_body, .. } =
            report;
        let outcome = outcome.kind();
        self.context.count(outcome);
        let (took, settled) = (Duration::from_micros(duration_us.into()), state.status != Status::Pending);
        let succeeded_at = state.settled_at.filter(|_| outcome == OutcomeKind::Success);
        self.context.durations.attempted(outcome, took);
        // Deliveries that a person has sent again say nothing of how long the first success took.
        let is_sent_again = matches!(entry.trigger, Trigger::Manual | Trigger::Replay);
        if let Some(at) = succeeded_at.filter(|_| !is_sent_again) {
            self.context.durations.delivered(at.since(id.event.accepted_at()));
        }
        self.stats.answered(took, succeeded_at, settled);
        let attempt = Attempt {
            number: state.attempts,
            trigger: entry.trigger,
            started_at,
            duration_us,
            head_us,
            status_code: status,
            outcome,
            error,
            request,
            response_headers,
            response_body: response_body.into(),
        };
        let mut record = AttemptRecord::new(id, attempt, state);
        if state.status == Status::Failed && entry.state.manual.is_none() {
            record.tells = operational::of_delivery(&self.context, &self.config, &entry.event, &record).map(Box::new);
        }
        slot.record(Record::Attempt(Box::new(record)));
    }

    fn log_attempt(&mut self, entry: &Entry, state: &DeliveryState, report: &Report) {
        let id = self.id(entry.event.seq);
        if report.outcome.kind() == OutcomeKind::Success {
            if enabled!(target: ATTEMPT, Level::DEBUG) {
                write_attempt(&self.config, id, state, report);
            }
            return;
        }
        if !enabled!(target: ATTEMPT, Level::INFO) {
            return;
        }
        let now = self.context.host.steady();
        let Some(of_this) = self.log_limit.admit(now) else { return };
        // Asked before anything is written, so that the limit for all endpoints bounds the lines of each, too.
        let Some(of_all) = self.context.attempt_log.lock().admit(now) else { return self.log_limit.put_back(of_this) };
        self.say_suppressed(of_this);
        if of_all > 0 {
            info!(target: ATTEMPT, suppressed = of_all, "further attempts of many webhooks failed and are not logged");
        }
        write_attempt(&self.config, id, state, report);
    }

    fn say_suppressed(&self, suppressed: u64) {
        if suppressed > 0 {
            let EndpointConfig { id, tenant_id, .. } = &*self.config;
            info!(
                target: ATTEMPT, tenant = tenant_id.map(display), webhook = %id, suppressed,
                "further attempts failed and are not logged one by one"
            );
        }
    }

    /// Logs how many failures were suppressed, since no later line of this endpoint will. If many endpoints end at
    /// once, the number is added to the next line about all of them instead.
    pub(super) fn end_log(&mut self) {
        let suppressed = self.log_limit.take_suppressed();
        if suppressed == 0 {
            return;
        }
        let mut all = self.context.attempt_log.lock();
        match all.admit(self.context.host.steady()) {
            Some(of_all) => {
                all.put_back(of_all);
                drop(all);
                self.say_suppressed(suppressed);
            }
            None => all.put_back(suppressed),
        }
    }

    pub(super) fn log_news(&self, news: News) {
        let EndpointConfig { id, tenant_id, name, .. } = &*self.config;
        let (tenant, host) = (tenant_id.map(display), self.config.host());
        match news {
            News::Failing { failing_since, suspended_at } => warn!(
                target: ENDPOINT, tenant, webhook = %id, name, host, %failing_since, %suspended_at,
                "every attempt fails; the webhook will be suspended"
            ),
            News::Suspended { cause, failing_since } => warn!(
                target: ENDPOINT, tenant, webhook = %id, name, host, %failing_since, cause = cause.as_str(),
                "webhook suspended; what it is owed waits"
            ),
            News::Recovered { since, cause } => info!(
                target: ENDPOINT, tenant, webhook = %id, name, host, suspended_since = %since, cause = cause.as_str(),
                "suspended webhook has recovered; its backlog follows, slowly at first"
            ),
        }
    }

    /// Notes the state of the breaker, and logs a state that differs from the one before.
    pub(super) fn note_breaker(&mut self, view: View) {
        let before = std::mem::replace(&mut self.breaker, view.state);
        if before == view.state {
            return;
        }
        let EndpointConfig { id, tenant_id, name, .. } = &*self.config;
        let (tenant, host) = (tenant_id.map(display), self.config.host());
        let (failures, last) = (view.consecutive_failures, view.last_failure.map(OutcomeKind::as_str));
        match view.state {
            ViewState::Open if before != ViewState::Closed => debug!(
                target: ENDPOINT, tenant, webhook = %id, name, host, consecutive_failures = failures, last_failure = last,
                next_probe_at = view.next_probe_at.map(display),
                "probe failed; the circuit breaker stays open"
            ),
            ViewState::Open => warn!(
                target: ENDPOINT, tenant, webhook = %id, name, host, consecutive_failures = failures, last_failure = last,
                next_probe_at = view.next_probe_at.map(display),
                "circuit breaker opened; deliveries wait until a probe succeeds"
            ),
            ViewState::HalfOpen => debug!(
                target: ENDPOINT, tenant, webhook = %id, name, host,
                "circuit breaker half-open; the next delivery is sent as a probe"
            ),
            ViewState::Closed => info!(
                target: ENDPOINT, tenant, webhook = %id, name, host,
                "circuit breaker closed; deliveries are sent again"
            ),
        }
    }
}

pub(super) fn new_limit(now: Instant) -> LogLimit {
    LogLimit::new(LINES_EACH, now)
}

/// Fields without a value are left out of the line.
fn write_attempt(config: &EndpointConfig, id: DeliveryId, state: &DeliveryState, report: &Report) {
    let outcome = report.outcome.kind();
    let said = match (outcome, state.status) {
        (OutcomeKind::Success, _) => "attempt succeeded",
        (_, Status::Pending) => "attempt failed; the delivery will be tried again",
        (_, Status::Failed) => "attempt failed; the delivery has failed",
        (_, Status::Success) => "attempt failed; the delivery has succeeded before",
        (_, Status::Cancelled) => "attempt failed; the delivery is cancelled",
    };
    // tracing fixes the level of a line at its call site, so each level needs a call of its own.
    macro_rules! write_at {
        ($level:ident) => {
            $level!(
                target: ATTEMPT,
                tenant = config.tenant_id.map(display),
                webhook = %config.id,
                event = %EventId(id.event),
                delivery = %id,
                attempt = state.attempts,
                outcome = outcome.as_str(),
                status_code = report.status,
                duration_ms = report.duration_us / 1_000,
                next_attempt_at = state.next_at.map(display),
                host = config.host(),
                error = report.error.as_deref(),
                "{said}"
            )
        };
    }
    if outcome == OutcomeKind::Success { write_at!(debug) } else { write_at!(info) }
}
