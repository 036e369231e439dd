//! The objects that examples show. They belong together: one tenant, its webhook, an event, and its delivery.

use serde_json::{Value, json};

pub(super) const TENANT: &str = "ten_06h2a9h68ho236f667eh506jr8";
pub(super) const KEY: &str = "key_06h2a9h69loep1qf7k25aa43lk";
const ADMIN_KEY: &str = "key_06h2a9h6adq2nfmg2lbct699ec";
pub(super) const WEBHOOK: &str = "wh_06h2a9h6c9pej3t03npfp03amc";
pub(super) const EVENT: &str = "evt_06h2a9h6dto010000000000000";
pub(super) const DELIVERY: &str = "dlv_06h2a9h6dto010000000001000";
const OPERATION: &str = "op_06h2a9harpojhdgo2m7o9iqfck";
const SESSION: &str = "ses_06h2a9hgr9qtb1gj9pffmjjkj4";

/// When the tenant and all that belongs to it were made.
const MADE_AT: &str = "2026-11-29T02:33:06.914Z";
pub(super) const ACCEPTED_AT: &str = "2026-11-29T02:33:06.927Z";
const SETTLED_AT: &str = "2026-11-29T02:33:06.940Z";

/// The object with further members.
pub(super) fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(members), Value::Object(more)) = (&mut object, more) {
        members.extend(more);
    }
    object
}

/// The only page of a list with this item.
pub(super) fn page(item: Value) -> Value {
    json!({"data": [item], "nextCursor": null})
}

pub(super) fn tenant() -> Value {
    json!({
        "id": TENANT,
        "name": "Acme",
        "allowUndeclaredTypes": true,
        "retention": {"eventsSeconds": null, "responsesSeconds": null},
        "createdAt": MADE_AT,
        "updatedAt": MADE_AT,
    })
}

pub(super) fn key() -> Value {
    json!({
        "id": KEY,
        "name": "production publisher",
        "scopes": ["publish"],
        "createdAt": MADE_AT,
        "expiresAt": null,
        "lastUsedAt": null,
    })
}

pub(super) fn admin_key() -> Value {
    json!({
        "id": ADMIN_KEY,
        "name": "on-call",
        "source": "database",
        "createdAt": MADE_AT,
        "expiresAt": null,
        "lastUsedAt": null,
    })
}

pub(super) fn session(id: Option<&str>) -> Value {
    json!({
        "id": id,
        "keyId": KEY,
        "tenantId": TENANT,
        "scopes": ["read", "operate"],
        "expiresAt": id.map(|_| "2026-11-29T14:33:09.594Z"),
    })
}

pub(super) fn open_session() -> Value {
    json!({
        "id": SESSION,
        "tenantId": TENANT,
        "keyId": KEY,
        "keyName": "support desk",
        "scopes": ["read", "operate"],
        "createdAt": "2026-11-29T02:33:09.594Z",
        "expiresAt": "2026-11-29T14:33:09.594Z",
        "lastUsedAt": null,
    })
}

pub(super) fn new_session() -> Value {
    session(Some(SESSION))
}

pub(super) fn event_type() -> Value {
    json!({
        "name": "invoice.paid",
        "description": "An invoice was paid.",
        "createdAt": MADE_AT,
        "updatedAt": MADE_AT,
    })
}

pub(super) fn webhook() -> Value {
    json!({
        "id": WEBHOOK,
        "tenantId": TENANT,
        "name": "Billing sync",
        "url": "https://example.com/hooks",
        "events": ["conversation.created", "call.*"],
        "headers": {"X-Team": "[redacted]"},
        "publicHeaders": [],
        "retryPolicy": {"maxRetries": 3, "backoffStrategy": "exponential", "maxDelaySeconds": 86400},
        "timeoutMs": 5000,
        "rateLimit": null,
        "maxInFlight": 16,
        "ordered": false,
        "filter": null,
        "signature": {"format": "hex"},
        "secrets": [secret("sec_06h2a9h6c9tmr1k90fhi6pc56g", MADE_AT, None)],
        "tls": null,
        "clientCertificateExpiresAt": null,
        "auth": null,
        "breaker": {"failureThreshold": 20, "cooldownSeconds": 30, "maxCooldownSeconds": 300},
        "disableAfterSeconds": 432_000,
        "description": null,
        "metadata": null,
        "isActive": true,
        "inactiveReason": null,
        "pausedAt": null,
        "createdAt": MADE_AT,
        "updatedAt": MADE_AT,
        "failingSince": null,
        "lastError": null,
        "lastSuccessAt": null,
    })
}

pub(super) fn secret(id: &str, created_at: &str, signs_until: Option<&str>) -> Value {
    json!({"id": id, "createdAt": created_at, "signsUntil": signs_until})
}

/// The members that tell what a pause or its end has done.
pub(super) fn held(is_paused: bool) -> Value {
    let at = "2026-11-29T02:33:08.004Z";
    let why = format!("paused since {at} by {KEY}; resume it to let its deliveries flow");
    let (paused_at, why, state) = if is_paused { (Some(at), Some(why), "paused") } else { (None, None, "active") };
    with(webhook(), json!({"pausedAt": paused_at, "updatedAt": at, "changed": true, "state": state, "why": why}))
}

pub(super) fn backlog() -> Value {
    json!({
        "webhookId": WEBHOOK,
        "name": "Billing sync",
        "tenantId": TENANT,
        "state": "active",
        "why": format!("1 delivery waits for a retry; the first, {DELIVERY}, failed with rejected (500) at \
            2026-11-29T02:33:06.940Z; retry 1 of 3 is at 2026-11-29T02:33:09.102Z"),
        "pending": 1,
        "ready": 0,
        "scheduled": 1,
        "held": 0,
        "inFlight": 0,
        "oldestPendingAt": ACCEPTED_AT,
        "oldestPendingAgeMs": 710,
        "nextAttemptAt": "2026-11-29T02:33:09.102Z",
        "failingSince": SETTLED_AT,
        "lastError": {
            "outcome": "rejected",
            "statusCode": 500,
            "error": "answered 500, expected 2xx",
            "at": SETTLED_AT,
            "deliveryId": DELIVERY,
        },
        "lastSuccessAt": null,
        "rates": {"inPerSecond": 0.1, "outPerSecond": 0.0, "drainEtaSeconds": null},
        "latencyMs": {"p50": 2.261, "p95": 2.261, "p99": 2.261},
        "successRate": {"5m": 0.0, "1h": 0.0},
        "limiter": null,
        "breaker": {"state": "closed", "consecutiveFailures": 1, "nextProbeAt": null},
        "actor": {
            "live": true,
            "mailbox": 0,
            "mailboxCapacity": 64,
            "window": 1,
            "windowCapacity": 256,
            "restarts": 0,
            "lastRestartReason": null,
            "startedAt": "2026-11-29T02:33:06.934Z",
            "node": "process 10441 on hooks-1",
        },
        "asOf": "2026-11-29T02:33:07.637Z",
    })
}

pub(super) fn published() -> Value {
    json!({
        "id": EVENT,
        "event": "conversation.created",
        "timestamp": ACCEPTED_AT,
        "matched": 1,
        "duplicate": false,
    })
}

pub(super) fn event_summary() -> Value {
    json!({
        "id": EVENT,
        "event": "conversation.created",
        "timestamp": ACCEPTED_AT,
        "matched": 1,
        "callerId": null,
        "acceptedAt": ACCEPTED_AT,
        "erasedAt": null,
    })
}

pub(in crate::api::document) fn payload() -> Value {
    json!({"conversationId": "c_81", "subject": "Where is my parcel?"})
}

pub(super) fn attempt() -> Value {
    json!({
        "id": "att_06h2a9h6dto010000000001004",
        "number": 1,
        "trigger": "scheduled",
        "startedAt": "2026-11-29T02:33:06.935Z",
        "durationMs": 5,
        "statusCode": 204,
        "outcome": "success",
        "error": null,
        "responseHeaders": {"date": "Sun, 29 Nov 2026 02:33:06 GMT", "server": "nginx"},
        "responseBody": "",
        "responseBodyTruncated": false,
        "request": {
            "url": "https://example.com/hooks",
            "address": "203.0.113.7:443",
            "headers": {
                "content-type": "application/json",
                "webhook-id": EVENT,
                "webhook-timestamp": "1795919586",
                "x-team": "[redacted]",
                "x-webhook-attempt": "1",
                "x-webhook-delivery": DELIVERY,
                "x-webhook-event": "conversation.created",
            },
        },
    })
}

/// Why an event was owed to a webhook.
pub(super) fn explanation() -> Value {
    json!({
        "webhookId": WEBHOOK,
        "matched": true,
        "reason": "matched",
        "clause": "events",
        "was": ["conversation.created"],
        "config": "then",
        "delivery": {"id": DELIVERY, "status": "success"},
    })
}

/// A delivery without what tells its attempts.
pub(super) fn delivery_fields() -> Value {
    json!({
        "id": DELIVERY,
        "eventId": EVENT,
        "webhookId": WEBHOOK,
        "event": "conversation.created",
        "status": "success",
        "nextAttemptAt": null,
        "lastAttempt": attempt(),
        "createdAt": ACCEPTED_AT,
        "settledAt": SETTLED_AT,
    })
}

pub(super) fn delivery() -> Value {
    with(delivery_fields(), json!({"attempts": 1}))
}

/// An operation in this state that has done this much of three deliveries.
pub(super) fn operation(state: &str, done: u32) -> Value {
    let is_counted = state != "counting";
    let has_ended = ["done", "cancelled"].contains(&state);
    json!({
        "id": OPERATION,
        "kind": "retry",
        "state": state,
        "webhookIds": [],
        "since": null,
        "until": "2026-11-29T02:33:08.061Z",
        "status": "failed",
        "outcome": null,
        "statusCode": 503,
        "events": [],
        "matched": if is_counted { 3 } else { 0 },
        "done": done,
        "success": done,
        "failed": 0,
        "skipped": 0,
        "ratePerSecond": 100,
        "error": null,
        "createdBy": KEY,
        "createdAt": "2026-11-29T02:33:08.061Z",
        "startedAt": is_counted.then_some("2026-11-29T02:33:08.069Z"),
        "finishedAt": has_ended.then_some("2026-11-29T02:33:09.119Z"),
    })
}

pub(super) fn audit_entry() -> Value {
    json!({
        "num": 12,
        "at": "2026-11-29T02:33:08.044Z",
        "author": KEY,
        "tenantId": TENANT,
        "action": "webhook.update",
        "subject": WEBHOOK,
        "fields": ["timeoutMs"],
        "changes": {"timeoutMs": {"from": 5000, "to": 8000}},
        "reason": null,
        "affected": null,
        "peer": "192.0.2.7",
        "requestId": "e178a5f27626082098ae65677e288c4d",
    })
}

pub(super) fn engine() -> Value {
    json!({
        "nodes": [{
            "num": null,
            "name": "process 10441 on hooks-1",
            "address": null,
            "version": env!("CARGO_PKG_VERSION"),
            "ready": true,
            "answers": true,
            "startedAt": null,
            "leaseUntil": null,
            "shards": 0,
        }],
        "shards": [],
        "lag": {"clusterSeenMsAgo": null, "dispatchBehind": false},
        "backlog": {"pending": 0, "webhooks": 0},
        "actors": {"live": 1, "quarantined": 0, "restarts": 0},
        "journal": {
            "depth": 0,
            "capacity": 16384,
            "commits": 21,
            "failedCommits": 0,
            "events": 3,
            "attempts": 7,
        },
        "permits": {
            "healthy": {"places": 896, "inUse": 0, "waiting": 0},
            "ailing": {"places": 128, "inUse": 0, "waiting": 0},
        },
        "payloads": {"bytes": 0, "budgetBytes": 134_217_728},
    })
}

pub(super) fn sealing() -> Value {
    let sealed =
        |what: &str, count: u32| json!({"what": what, "keyId": "1bae6b36", "layout": 3, "count": count, "opens": true});
    json!({"keyIds": ["1bae6b36"], "sealed": [sealed("headers", 1), sealed("secrets", 2)], "old": 0})
}
