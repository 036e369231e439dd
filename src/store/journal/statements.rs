//! The writer's statements: one text a table and size, so that they stay prepared.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Value};

use crate::id::{DeliveryId, EventSeq, WebhookNum};
use crate::store::deliveries::{Attempt, DeliveryState};
use crate::store::health::Health;
use crate::store::rows::RowStatement;
use crate::store::targets;

use super::assign::NewEvent;
use super::open::FanoutKey;
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
    /// Where each of them is; a statement must not name a row twice.
    delivery_at: HashMap<DeliveryId, usize>,
    pub(super) deferrals: Vec<Value>,
    pub(super) attempts: Vec<Value>,
    pub(super) ended: Vec<Value>,
    pub(super) updates: Vec<Update>,
    /// The latest of each; a statement must not name a row twice.
    pub(super) health: BTreeMap<WebhookNum, Health>,
}

const UPSERT_HEALTH: &str = "ON CONFLICT (webhook_num) DO UPDATE SET \
    consecutive_failures = excluded.consecutive_failures, openings = excluded.openings, \
    open_until = excluded.open_until, opened_at = excluded.opened_at, last_failure = excluded.last_failure, \
    failing_since = excluded.failing_since, warned_at = excluded.warned_at";

const DELIVERY_COLUMNS: usize = 9;
const HEALTH_COLUMNS: usize = 8;

impl Statements {
    pub(super) fn new(backend: DbBackend) -> Self {
        let delivery = "INSERT INTO delivery (event_seq, webhook_num, status, attempts, tries, next_at, settled_at, \
                        manual_from, manual_next_at)";
        Self {
            event: RowStatement::insert(
                backend,
                "INSERT INTO event (seq, tenant_num, kind, occurred_at, caller_id, matched, body)",
                7,
                "",
            ),
            caller: RowStatement::insert(
                backend,
                "INSERT INTO event_caller_id (tenant_num, caller_id, event_seq, digest)",
                4,
                "",
            ),
            fanout: RowStatement::insert(backend, "INSERT INTO fanout (event_seq, shard, targets)", 3, ""),
            delivery: RowStatement::insert(backend, delivery, DELIVERY_COLUMNS, UPSERT_DELIVERY),
            deferral: RowStatement::insert(backend, delivery, DELIVERY_COLUMNS, "ON CONFLICT DO NOTHING"),
            attempt: RowStatement::insert(
                backend,
                "INSERT INTO attempt (event_seq, webhook_num, number, reason, started_at, duration_us, head_us, \
                 status_code, outcome, error, response_headers, response_body)",
                12,
                "ON CONFLICT DO NOTHING",
            ),
            health: RowStatement::insert(
                backend,
                "INSERT INTO endpoint_health (webhook_num, consecutive_failures, openings, open_until, opened_at, \
                 last_failure, failing_since, warned_at)",
                HEALTH_COLUMNS,
                UPSERT_HEALTH,
            ),
            fanout_end: RowStatement::matching(backend, "DELETE FROM fanout", &["event_seq", "shard"]),
        }
    }

    /// Runs the batch; answers the number of statements and what the updates changed.
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
    /// Rows of all kinds.
    pub(super) fn count(&self) -> usize {
        self.events.len() / 7
            + self.callers.len() / 4
            + self.fanouts.len() / 3
            + (self.deliveries.len() + self.deferrals.len()) / DELIVERY_COLUMNS
            + self.attempts.len() / 12
            + self.ended.len() / 2
            + self.updates.len()
            + self.health.len()
    }

    pub(super) fn event(&mut self, new: &NewEvent) {
        let NewEvent { event, occurred_at, caller, targets: owed } = new;
        self.events.extend([
            event.seq.0.into(),
            event.tenant.0.into(),
            event.kind.clone().into(),
            occurred_at.0.into(),
            caller.as_ref().map(|caller| caller.id.clone()).into(),
            i64::try_from(owed.len()).unwrap_or(i64::MAX).into(),
            event.body.to_vec().into(),
        ]);
        if let Some(caller) = caller {
            self.callers.extend([
                event.tenant.0.into(),
                caller.id.clone().into(),
                event.seq.0.into(),
                caller.digest.to_vec().into(),
            ]);
        }
        if !owed.is_empty() {
            self.fanouts.extend([event.seq.0.into(), 0i16.into(), targets::encode(owed).into()]);
        }
    }

    /// Where an attempt has left a delivery. Of several attempts in a batch, which are made one after the other, the last
    /// one counts.
    pub(super) fn delivery(&mut self, id: DeliveryId, state: &DeliveryState) {
        match self.delivery_at.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(self.deliveries.len());
                self.deliveries.extend(delivery_row(id, state));
            }
            Entry::Occupied(entry) => {
                let from = *entry.get();
                self.deliveries.splice(from..from + DELIVERY_COLUMNS, delivery_row(id, state));
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

/// PostgreSQL's texts hold everything but NUL; a batch must not fail for ever because of what somebody answered.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

fn health_row((webhook, health): (WebhookNum, Health)) -> [Value; HEALTH_COLUMNS] {
    let Health { consecutive_failures, openings, open_until, opened_at, last_failure, failing_since, warned_at } =
        health;
    [
        webhook.0.into(),
        i64::from(consecutive_failures).into(),
        openings.cast_signed().into(),
        open_until.map(|at| at.0).into(),
        opened_at.map(|at| at.0).into(),
        last_failure.into(),
        failing_since.map(|at| at.0).into(),
        warned_at.map(|at| at.0).into(),
    ]
}

fn delivery_row(id: DeliveryId, state: &DeliveryState) -> [Value; DELIVERY_COLUMNS] {
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
