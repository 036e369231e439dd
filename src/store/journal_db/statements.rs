//! The journal's statements: one text for each table and batch size, so that they stay prepared.

use std::sync::Arc;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Value};

use crate::domain::delivery::{Attempt, DeliveryState};
use crate::domain::health::Health;
use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::outcome::OutcomeKind;
use crate::store::fanouts::FanoutKey;
use crate::store::journal_db::rows::{NewEvent, Rows, Updated};
use crate::store::rows::{Column, RowStatement, bytes, int2, int8, text};
use crate::store::{operational_events, targets};

use super::updates;

/// A cancelled delivery stays cancelled unless an attempt that was under way succeeded.
const UPSERT_DELIVERY: &str = "ON CONFLICT (event_seq, webhook_num) DO UPDATE SET \
    status = CASE WHEN delivery.status = 3 AND excluded.status <> 1 THEN 3 ELSE excluded.status END, \
    next_at = CASE WHEN delivery.status = 3 THEN NULL ELSE excluded.next_at END, \
    settled_at = CASE WHEN delivery.status = 3 THEN delivery.settled_at ELSE excluded.settled_at END, \
    attempts = excluded.attempts, tries = excluded.tries, \
    manual_from = excluded.manual_from, manual_next_at = excluded.manual_next_at";

pub(in crate::store) struct Statements {
    event: RowStatement,
    caller: RowStatement,
    fanout: RowStatement,
    delivery: RowStatement,
    deferral: RowStatement,
    attempt: RowStatement,
    fanout_end: RowStatement,
    health: RowStatement,
}

const UPSERT_HEALTH: &str = "ON CONFLICT (webhook_num) DO UPDATE SET \
    consecutive_failures = excluded.consecutive_failures, openings = excluded.openings, \
    open_until = excluded.open_until, opened_at = excluded.opened_at, last_failure = excluded.last_failure, \
    failing_since = excluded.failing_since, warned_at = excluded.warned_at, \
    suspended_at = excluded.suspended_at, suspension_cause = excluded.suspension_cause, \
    recovered_at = excluded.recovered_at, \
    last_error_at = excluded.last_error_at, last_error_outcome = excluded.last_error_outcome, \
    last_error_status = excluded.last_error_status, last_error_text = excluded.last_error_text, \
    last_error_event = excluded.last_error_event, last_success_at = excluded.last_success_at";

const EVENT: [Column; 8] = [
    int8("seq"),
    int8("tenant_num"),
    text("kind"),
    int8("occurred_at"),
    text("caller_id").or_null(),
    int8("matched"),
    bytes("body"),
    text("trail").or_null(),
];

const CALLER: [Column; 4] = [int8("tenant_num"), text("caller_id"), int8("event_seq"), bytes("digest")];

const FANOUT: [Column; 3] = [int8("event_seq"), int2("shard"), bytes("targets")];

const DELIVERY: [Column; 9] = [
    int8("event_seq"),
    int8("webhook_num"),
    int2("status"),
    int2("attempts"),
    int2("tries"),
    int8("next_at").or_null(),
    int8("settled_at").or_null(),
    int2("manual_from").or_null(),
    int8("manual_next_at").or_null(),
];

const ATTEMPT: [Column; 13] = [
    int8("event_seq"),
    int8("webhook_num"),
    int2("number"),
    int2("reason"),
    int8("started_at"),
    int8("duration_us"),
    int8("head_us").or_null(),
    int2("status_code").or_null(),
    int2("outcome"),
    text("error").or_null(),
    text("response_headers").or_null(),
    bytes("response_body").or_null(),
    text("request").or_null(),
];

const HEALTH: [Column; 17] = [
    int8("webhook_num"),
    int8("consecutive_failures"),
    int2("openings"),
    int8("open_until").or_null(),
    int8("opened_at").or_null(),
    int2("last_failure").or_null(),
    int8("failing_since").or_null(),
    int8("warned_at").or_null(),
    int8("suspended_at").or_null(),
    int2("suspension_cause").or_null(),
    int8("recovered_at").or_null(),
    int8("last_error_at").or_null(),
    int2("last_error_outcome").or_null(),
    int2("last_error_status").or_null(),
    text("last_error_text").or_null(),
    int8("last_error_event").or_null(),
    int8("last_success_at").or_null(),
];

impl Statements {
    pub(super) fn new(backend: DbBackend) -> Self {
        let insert = |table, columns: &[Column], tail| RowStatement::insert(backend, table, columns, tail);
        Self {
            event: insert("event", &EVENT, ""),
            caller: insert("event_caller_id", &CALLER, ""),
            fanout: insert("fanout", &FANOUT, ""),
            delivery: insert("delivery", &DELIVERY, UPSERT_DELIVERY),
            deferral: insert("delivery", &DELIVERY, "ON CONFLICT DO NOTHING"),
            attempt: insert("attempt", &ATTEMPT, "ON CONFLICT DO NOTHING"),
            health: insert("endpoint_health", &HEALTH, UPSERT_HEALTH),
            fanout_end: RowStatement::delete(backend, "fanout", &[int8("event_seq"), int2("shard")]),
        }
    }

    /// Runs the statements that the rows need.
    pub(super) async fn run<C: ConnectionTrait>(&self, on: &C, rows: Rows<'_>) -> Result<Updated, DbErr> {
        let Rows { events, fanouts, deliveries, deferrals, attempts, ended, updates, health, operational, .. } = rows;
        let callers = values(events.iter().filter_map(caller_row));
        let mut statements = updates.len() as u64;
        statements += self.event.run(on, values(events.into_iter().map(event_row))).await?;
        statements += self.caller.run(on, callers).await?;
        statements += self.fanout.run(on, values(fanouts.into_iter().map(fanout_row))).await?;
        statements += self.deferral.run(on, values(deferrals.into_iter().map(delivery_row))).await?;
        statements += self.delivery.run(on, values(deliveries.into_iter().map(delivery_row))).await?;
        statements += self.attempt.run(on, values(attempts.into_iter().map(attempt_row))).await?;
        let mut updated = Updated::default();
        for update in updates {
            updates::run(update, on, &mut updated).await?;
        }
        statements += self.fanout_end.run(on, values(ended.into_iter().map(ended_row))).await?;
        statements += self.health.run(on, values(health.into_iter().map(health_row))).await?;
        statements += operational.len() as u64;
        for event in operational {
            operational_events::write(on, event).await?;
        }
        Ok(Updated { statements, ..updated })
    }
}

/// The values of the rows, one row after the other.
fn values<const N: usize>(rows: impl Iterator<Item = [Value; N]>) -> Vec<Value> {
    let mut values = Vec::with_capacity(rows.size_hint().0 * N);
    rows.for_each(|row| values.extend(row));
    values
}

fn event_row(new: NewEvent) -> [Value; EVENT.len()] {
    let NewEvent { event, body, occurred_at, caller, targets } = new;
    [
        event.seq.0.into(),
        event.tenant.0.into(),
        event.kind.clone().into(),
        occurred_at.0.into(),
        caller.map(|caller| caller.id).into(),
        i64::try_from(targets.len()).unwrap_or(i64::MAX).into(),
        body.to_vec().into(),
        event.trail.as_deref().map(str::to_owned).into(),
    ]
}

fn caller_row(NewEvent { event, caller, .. }: &NewEvent) -> Option<[Value; CALLER.len()]> {
    let caller = caller.as_ref()?;
    let (tenant, id) = (event.tenant.0, caller.id.clone());
    Some([tenant.into(), id.into(), event.seq.0.into(), caller.digest.to_vec().into()])
}

fn fanout_row(((event, shard), targets): (FanoutKey, Arc<[WebhookNum]>)) -> [Value; FANOUT.len()] {
    [event.0.into(), shard.into(), targets::encode(&targets).into()]
}

fn ended_row((EventSeq(event), shard): FanoutKey) -> [Value; 2] {
    [event.into(), shard.into()]
}

fn attempt_row((id, attempt): (DeliveryId, &Attempt)) -> [Value; ATTEMPT.len()] {
    let Attempt { number, trigger, started_at, duration_us, head_us, status_code, outcome, error, .. } = attempt;
    let headers = serde_json::to_string(&attempt.response_headers).ok().filter(|text| text != "[]");
    let body = Some(&attempt.response_body).filter(|body| !body.is_empty()).cloned();
    [
        id.event.0.into(),
        id.webhook.0.into(),
        number.cast_signed().into(),
        trigger.code().into(),
        started_at.0.into(),
        i64::from(*duration_us).into(),
        head_us.map(i64::from).into(),
        status_code.map(u16::cast_signed).into(),
        outcome.code().into(),
        error.as_deref().map(storable).into(),
        headers.as_deref().map(storable).into(),
        body.into(),
        attempt.request.as_ref().map(|request| request.as_str().to_owned()).into(),
    ]
}

/// PostgreSQL's texts cannot hold NUL, and a receiver's answer must not make a batch fail for ever.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

fn health_row((webhook, health): (WebhookNum, &Health)) -> [Value; HEALTH.len()] {
    let Health { consecutive_failures, openings, open_until, opened_at, last_failure, failing_since, .. } = *health;
    let last = health.last_error.as_deref();
    [
        webhook.0.into(),
        i64::from(consecutive_failures).into(),
        openings.cast_signed().into(),
        open_until.map(|at| at.0).into(),
        opened_at.map(|at| at.0).into(),
        last_failure.map(OutcomeKind::code).into(),
        failing_since.map(|at| at.0).into(),
        health.warned_at.map(|at| at.0).into(),
        health.suspension.map(|suspension| suspension.since.0).into(),
        health.suspension.map(|suspension| suspension.cause.code()).into(),
        health.recovered_at.map(|at| at.0).into(),
        last.map(|last| last.at.0).into(),
        last.map(|last| last.outcome.code()).into(),
        last.and_then(|last| last.status).map(u16::cast_signed).into(),
        last.and_then(|last| last.error.as_deref()).map(storable).into(),
        last.map(|last| last.event.0).into(),
        health.last_success_at.map(|at| at.0).into(),
    ]
}

fn delivery_row((id, state): (DeliveryId, DeliveryState)) -> [Value; DELIVERY.len()] {
    let DeliveryState { status, attempts, tries, next_at, settled_at, manual } = state;
    [
        id.event.0.into(),
        id.webhook.0.into(),
        status.code().into(),
        attempts.cast_signed().into(),
        tries.cast_signed().into(),
        next_at.map(|at| at.0).into(),
        settled_at.map(|at| at.0).into(),
        manual.map(|fallback| fallback.status.code()).into(),
        manual.and_then(|fallback| fallback.next_at).map(|at| at.0).into(),
    ]
}
