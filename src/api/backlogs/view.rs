//! What the API shows of a backlog.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::receiver::ReceiverFields;
use crate::domain::id::{TenantId, WebhookId};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::RateLimit;
use crate::engine::{Actor, Backlog, BreakerState, BreakerView, EndpointState, Percentiles};

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Backlog)]
pub(in crate::api) struct BacklogView {
    #[schema(value_type = String)]
    webhook_id: WebhookId,
    /// Name of the webhook.
    name: String,
    #[schema(value_type = String)]
    tenant_id: TenantId,
    /// `active`, `paused`, `inactive`, `suspended`, `circuit_open` or `quarantined`
    state: &'static str,
    /// What holds the deliveries back, and what ends that; null when nothing does.
    why: Option<String>,
    /// Pending deliveries: ready + scheduled + held + inFlight.
    pending: u64,
    /// Deliveries that are due and about to be sent.
    ready: u64,
    /// Deliveries that wait for a retry.
    scheduled: u64,
    /// Deliveries that are due and held back: by the state, or in strict order behind one that waits for its retry.
    held: u64,
    /// Deliveries whose requests are being made.
    in_flight: u64,
    /// When the oldest pending event was accepted; null when nothing is pending.
    #[schema(value_type = Option<String>, format = DateTime)]
    oldest_pending_at: Option<UnixMillis>,
    oldest_pending_age_ms: Option<u64>,
    /// When the next request starts; null when a delivery is due or in flight, or when nothing will start by itself.
    /// Never in the past.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<UnixMillis>,
    #[serde(flatten)]
    receiver: ReceiverFields,
    rates: RatesView,
    /// Null when there were no requests.
    latency_ms: Option<LatencyView>,
    success_rate: SuccessView,
    /// Null without a rate limit.
    limiter: Option<LimiterView>,
    breaker: BreakerShown,
    actor: ActorView,
    /// When the node that serves the webhook measured this.
    #[schema(value_type = String, format = DateTime)]
    as_of: UnixMillis,
}

/// Rates over the last minute.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BacklogRates)]
struct RatesView {
    in_per_second: f64,
    out_per_second: f64,
    /// Seconds until everything that is pending now is sent, at the present rate out, or at the rate limit if that is
    /// lower; 0 when nothing is pending, null when nothing flows.
    drain_eta_seconds: Option<f64>,
}

/// Latency of the requests of the last few minutes, in milliseconds.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BacklogLatency)]
struct LatencyView {
    p50: f64,
    p95: f64,
    p99: f64,
}

/// The share of requests that succeeded, 0 to 1; null when there were none.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BacklogSuccess)]
struct SuccessView {
    #[serde(rename = "5m")]
    minutes: Option<f64>,
    #[serde(rename = "1h")]
    hour: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BacklogLimiter)]
struct LimiterView {
    limit_per_second: f64,
    /// Milliseconds until the next request may start.
    throttled_ms: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BacklogBreaker)]
struct BreakerShown {
    /// `closed`, `open` or `half_open`
    #[schema(value_type = String)]
    state: BreakerState,
    consecutive_failures: u32,
    #[schema(value_type = Option<String>, format = DateTime)]
    next_probe_at: Option<UnixMillis>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BacklogActor)]
struct ActorView {
    /// False while the endpoint sleeps; it is activated as soon as it is needed.
    live: bool,
    mailbox: u32,
    mailbox_capacity: usize,
    /// Deliveries that the endpoint holds in memory.
    window: usize,
    window_capacity: usize,
    restarts: u32,
    /// That the endpoint panicked, and where; null without restarts.
    last_restart_reason: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<UnixMillis>,
    /// Name of the node that serves the webhook.
    node: String,
}

impl BacklogView {
    /// `node` serves the webhook, and is the one that answers.
    pub(super) fn new(backlog: Backlog, tenant: TenantId, node: &str) -> Self {
        let age = backlog.oldest_at.map(|at| millis(backlog.as_of.since(at)));
        Self {
            receiver: ReceiverFields::new(backlog.num, &backlog.receiver),
            webhook_id: backlog.webhook,
            tenant_id: tenant,
            state: word(backlog.state),
            pending: backlog.pending,
            ready: backlog.ready,
            scheduled: backlog.scheduled,
            held: backlog.held,
            in_flight: backlog.in_flight,
            oldest_pending_at: backlog.oldest_at,
            oldest_pending_age_ms: age,
            next_attempt_at: backlog.next_attempt_at,
            rates: RatesView {
                in_per_second: rounded(backlog.in_per_second),
                out_per_second: rounded(backlog.out_per_second),
                drain_eta_seconds: drain(&backlog),
            },
            latency_ms: backlog.latency.map(LatencyView::from),
            success_rate: SuccessView {
                minutes: backlog.success_5m.map(rounded),
                hour: backlog.success_1h.map(rounded),
            },
            limiter: backlog.rate_limit.map(|limit| LimiterView {
                limit_per_second: rounded(per_second(limit)),
                throttled_ms: backlog.throttled_ms,
            }),
            breaker: backlog.breaker.into(),
            actor: ActorView::new(backlog.actor, node),
            as_of: backlog.as_of,
            why: backlog.why,
            name: backlog.name,
        }
    }
}

impl From<Percentiles> for LatencyView {
    fn from(Percentiles { p50, p95, p99 }: Percentiles) -> Self {
        let millis = |latency: Duration| rounded(latency.as_secs_f64() * 1000.0);
        Self { p50: millis(p50), p95: millis(p95), p99: millis(p99) }
    }
}

impl From<BreakerView> for BreakerShown {
    fn from(view: BreakerView) -> Self {
        let BreakerView { state, consecutive_failures, next_probe_at, opened_at: _, last_failure: _, suspension: _ } =
            view;
        Self { state, consecutive_failures, next_probe_at }
    }
}

impl ActorView {
    fn new(actor: Actor, node: &str) -> Self {
        let Actor { since, mailbox, mailbox_capacity, window, window_capacity, restarts, crash } = actor;
        let reason = || crash.map_or_else(|| "panicked".to_owned(), |place| format!("panicked at {place}"));
        Self {
            live: since.is_some(),
            mailbox,
            mailbox_capacity,
            window,
            window_capacity,
            restarts,
            last_restart_reason: (restarts > 0).then(reason),
            started_at: since,
            node: node.to_owned(),
        }
    }
}

/// The states of endpoints, as the API shows them.
pub(in crate::api) fn states() -> [&'static str; 6] {
    EndpointState::ALL.map(word)
}

pub(in crate::api) fn word(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Active => "active",
        EndpointState::Paused => "paused",
        EndpointState::Inactive => "inactive",
        EndpointState::Suspended => "suspended",
        EndpointState::Open => "circuit_open",
        EndpointState::Quarantined => "quarantined",
    }
}

fn drain(backlog: &Backlog) -> Option<f64> {
    if backlog.pending == 0 {
        return Some(0.0);
    }
    let limit = backlog.rate_limit.map_or(f64::INFINITY, per_second);
    let flows = backlog.out_per_second.min(limit);
    let is_active = backlog.state == EndpointState::Active;
    (is_active && flows > 0.0).then(|| rounded(count(backlog.pending) / flows))
}

fn per_second(limit: RateLimit) -> f64 {
    f64::from(limit.requests) / f64::from(limit.per_seconds)
}

/// Counts above 2^53 lose precision, which does not matter here.
#[allow(clippy::cast_precision_loss, reason = "an estimate of seconds")]
fn count(pending: u64) -> f64 {
    pending as f64
}

/// Rounds to a thousandth: more digits would be noise.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
