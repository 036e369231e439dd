//! The writer's statements: one text for each table and batch size, so that they stay prepared.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Value};

use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::store::deliveries::{Attempt, DeliveryState};
use crate::store::health::Health;
use crate::store::rows::{Column, RowStatement, bytes, int2, int8, text};
use crate::store::targets;

use super::assign::NewEvent;
use super::outstanding::FanoutKey;
use super::updates::{Update, Updated};

/// A cancelled delivery stays cancelled unless an attempt that was under way succeeded.
const UPSERT_DELIVERY: &str = "ON CONFLICT (event_seq, webhook_num) DO UPDATE SET \
    status = CASE WHEN delivery.status = 3 AND excluded.status <> 1 THEN 3 ELSE excluded.status END, \
    next_at = CASE WHEN delivery.status = 3 THEN NULL ELSE excluded.next_at END, \
    settled_at = CASE WHEN delivery.status = 3 THEN delivery.settled_at ELSE excluded.settled_at END, \
    attempts = excluded.attempts, tries = excluded.tries, \
    manual_from = excluded.manual_from, manual_next_at = excluded.manual_next_at";

pub(super) struct Statements {
    event: RowStatement,
    caller: RowStatement,
    fanout: RowStatement,
    delivery: RowStatement,
    deferral: RowStatement,
    attempt: RowStatement,
    fanout_end: RowStatement,
    health: RowStatement,
}

/// Rows of one batch, ready to be bound.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) events: Vec<Value>,
    pub(super) callers: Vec<Value>,
    pub(super) fanouts: Vec<Value>,
    pub(super) deliveries: Vec<Value>,
    /// The position of each delivery in `deliveries`: a statement must not name a row twice.
    delivery_at: HashMap<DeliveryId, usize>,
    pub(super) deferrals: Vec<Value>,
    pub(super) attempts: Vec<Value>,
    pub(super) ended: Vec<Value>,
    pub(super) updates: Vec<Update>,
    /// The latest state of each: a statement must not name a row twice.
    pub(super) health: BTreeMap<WebhookNum, Health>,
}

const UPSERT_HEALTH: &str = "ON CONFLICT (webhook_num) DO UPDATE SET \
    consecutive_failures = excluded.consecutive_failures, openings = excluded.openings, \
    open_until = excluded.open_until, opened_at = excluded.opened_at, last_failure = excluded.last_failure, \
    failing_since = excluded.failing_since, warned_at = excluded.warned_at, \
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

const ATTEMPT: [Column; 12] = [
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
];

const HEALTH: [Column; 14] = [
    int8("webhook_num"),
    int8("consecutive_failures"),
    int2("openings"),
    int8("open_until").or_null(),
    int8("opened_at").or_null(),
    int2("last_failure").or_null(),
    int8("failing_since").or_null(),
    int8("warned_at").or_null(),
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

    /// Runs the batch; returns the number of statements and what the updates changed.
    pub(super) async fn run<C: ConnectionTrait>(&self, on: &C, rows: Rows) -> Result<(u64, Updated), DbErr> {
        let Rows { events, callers, fanouts, deliveries, deferrals, attempts, ended, updates, health, .. } = rows;
        let mut statements = updates.len() as u64;
        statements += self.event.run(on, events).await?;
        statements += self.caller.run(on, callers).await?;
        statements += self.fanout.run(on, fanouts).await?;
        statements += self.deferral.run(on, deferrals).await?;
        statements += self.delivery.run(on, deliveries).await?;
        statements += self.attempt.run(on, attempts).await?;
        let mut updated = Updated::default();
        for update in updates {
            update.run(on, &mut updated).await?;
        }
        statements += self.fanout_end.run(on, ended).await?;
        statements += self.health.run(on, health.into_iter().flat_map(health_row).collect()).await?;
        Ok((statements, updated))
    }
}

impl Rows {
    pub(super) fn count(&self) -> usize {
        self.events.len() / EVENT.len()
            + self.callers.len() / CALLER.len()
            + self.fanouts.len() / FANOUT.len()
            + (self.deliveries.len() + self.deferrals.len()) / DELIVERY.len()
            + self.attempts.len() / ATTEMPT.len()
            + self.ended.len() / 2
            + self.updates.len()
            + self.health.len()
    }

    pub(super) fn event(&mut self, new: &NewEvent, parts: &[(i16, Arc<[WebhookNum]>)]) {
        let NewEvent { event, body, occurred_at, caller, targets: owed } = new;
        self.events.extend([
            event.seq.0.into(),
            event.tenant.0.into(),
            event.kind.clone().into(),
            occurred_at.0.into(),
            caller.as_ref().map(|caller| caller.id.clone()).into(),
            i64::try_from(owed.len()).unwrap_or(i64::MAX).into(),
            body.to_vec().into(),
            event.trail.as_deref().map(str::to_owned).into(),
        ]);
        if let Some(caller) = caller {
            self.callers.extend([
                event.tenant.0.into(),
                caller.id.clone().into(),
                event.seq.0.into(),
                caller.digest.to_vec().into(),
            ]);
        }
        for (shard, targets) in parts {
            self.fanouts.extend([event.seq.0.into(), (*shard).into(), targets::encode(targets).into()]);
        }
    }

    /// The state in which an attempt leaves its delivery. A batch may hold several attempts of a delivery, made one
    /// after the other; the last one counts.
    pub(super) fn delivery(&mut self, id: DeliveryId, state: &DeliveryState) {
        match self.delivery_at.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(self.deliveries.len());
                self.deliveries.extend(delivery_row(id, state));
            }
            Entry::Occupied(entry) => {
                let from = *entry.get();
                self.deliveries.splice(from..from + DELIVERY.len(), delivery_row(id, state));
            }
        }
    }

    pub(super) fn deferral(&mut self, id: DeliveryId, state: &DeliveryState) {
        self.deferrals.extend(delivery_row(id, state));
    }

    pub(super) fn attempt(&mut self, id: DeliveryId, attempt: &Attempt) {
        let Attempt { number, trigger, started_at, duration_us, head_us, status_code, outcome, error, .. } = attempt;
        let headers = serde_json::to_string(&attempt.response_headers).ok().filter(|text| text != "[]");
        let body = Some(attempt.response_body.clone()).filter(|body| !body.is_empty());
        self.attempts.extend([
            id.event.0.into(),
            id.webhook.0.into(),
            number.cast_signed().into(),
            trigger.code().into(),
            started_at.0.into(),
            i64::from(*duration_us).into(),
            head_us.map(i64::from).into(),
            status_code.map(u16::cast_signed).into(),
            (*outcome).into(),
            error.as_deref().map(storable).into(),
            headers.as_deref().map(storable).into(),
            body.into(),
        ]);
    }

    pub(super) fn health(&mut self, webhook: WebhookNum, health: Health) {
        self.health.insert(webhook, health);
    }

    pub(super) fn ended(&mut self, (event, shard): FanoutKey) {
        let EventSeq(event) = event;
        self.ended.extend([event.into(), shard.into()]);
    }
}

/// PostgreSQL's texts cannot hold NUL, and a receiver's answer must not make a batch fail for ever.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

fn health_row((webhook, health): (WebhookNum, Health)) -> [Value; HEALTH.len()] {
    let Health { consecutive_failures, openings, open_until, opened_at, last_failure, failing_since, .. } = health;
    let last = health.last_error.as_deref();
    [
        webhook.0.into(),
        i64::from(consecutive_failures).into(),
        openings.cast_signed().into(),
        open_until.map(|at| at.0).into(),
        opened_at.map(|at| at.0).into(),
        last_failure.into(),
        failing_since.map(|at| at.0).into(),
        health.warned_at.map(|at| at.0).into(),
        last.map(|last| last.at.0).into(),
        last.map(|last| last.outcome).into(),
        last.and_then(|last| last.status).map(u16::cast_signed).into(),
        last.and_then(|last| last.error.as_deref()).map(storable).into(),
        last.map(|last| last.event.0).into(),
        health.last_success_at.map(|at| at.0).into(),
    ]
}

fn delivery_row(id: DeliveryId, state: &DeliveryState) -> [Value; DELIVERY.len()] {
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
