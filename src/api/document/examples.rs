//! An example of every request body and of every answer with a body. A test checks that each one fits its schema, and
//! sends each body to a server, which accepts it.

pub(super) mod objects;

use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Content, RefOr};

use self::objects::{page, with};
use crate::api::problem::{Problem, title};

/// Adds the examples of one operation.
pub(super) fn add(operation: &mut Operation) {
    let Some(id) = operation.operation_id.clone() else { return };
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        body.content.values_mut().for_each(|content| set(content, request(&id)));
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && status.starts_with('2')
        {
            response.content.values_mut().for_each(|content| set(content, answer(&id, status)));
        }
    }
}

fn set(content: &mut RefOr<Content>, value: Option<Value>) {
    if let RefOr::T(content) = content {
        content.example = value;
    }
}

/// A body that the operation accepts.
fn request(operation: &str) -> Option<Value> {
    Some(match operation {
        "createTenant" => json!({"name": "Acme"}),
        "updateTenant" => json!({"retention": {"eventsSeconds": 2_592_000}}),
        "createKey" => json!({"name": "production publisher", "scopes": ["publish"]}),
        "createAdminKey" => json!({"name": "on-call"}),
        "createEventType" => json!({"name": "invoice.paid", "description": "An invoice was paid."}),
        "updateEventType" => json!({"description": "An invoice was paid in full."}),
        "createWebhook" => json!({
            "name": "Billing sync",
            "url": "https://example.com/hooks",
            "events": ["conversation.created", "call.*"],
            "headers": {"X-Team": "billing"},
            "retryPolicy": {"maxRetries": 3, "backoffStrategy": "exponential"},
        }),
        "updateWebhook" => json!({"timeoutMs": 8000}),
        "pauseWebhook" | "resumeWebhook" => json!({"reason": "receiver moves to another host"}),
        "purgeWebhook" => json!({"before": "2026-11-29T02:00:00.000Z", "reason": "obsolete"}),
        "rotateSecret" => json!({"graceSeconds": 3600}),
        "replayWebhook" => json!({"since": "2026-11-28T08:00:00.000Z", "statusCode": 503}),
        "publishEvent" => json!({"event": "conversation.created", "data": objects::payload()}),
        "publishEvents" => json!({"events": [
            {"event": "conversation.created", "data": objects::payload()},
            {"event": "call.*", "data": {"callId": "k_17"}},
        ]}),
        "explainDraft" => json!({"event": "conversation.created"}),
        "createOperation" => json!({"kind": "retry", "statusCode": 503}),
        "updateOperation" => json!({"ratePerSecond": 20}),
        _ => return None,
    })
}

/// What the operation answers with this status.
fn answer(operation: &str, status: &str) -> Option<Value> {
    let of_resource = match operation {
        "readLiveness" | "readReadiness" => json!({"status": "ok"}),
        "readMetrics" => json!("# TYPE posthaste_deliveries_pending gauge\nposthaste_deliveries_pending 0\n"),
        "readEndpointMetrics" => {
            json!(format!(
                "# TYPE posthaste_endpoint_pending gauge\nposthaste_endpoint_pending{{webhook=\"{}\"}} 1\n",
                objects::WEBHOOK
            ))
        }
        "listAudit" => page(objects::audit_entry()),
        "readEngine" => objects::engine(),
        "readSealing" => objects::sealing(),
        "rewrapSecrets" => with(objects::sealing(), json!({"rewrapped": 3})),
        "listEventTypes" => page(objects::event_type()),
        "createEventType" | "readEventType" => objects::event_type(),
        "updateEventType" => with(objects::event_type(), json!({"description": "An invoice was paid in full."})),
        _ => return of_access(operation).or_else(|| of_webhook(operation)).or_else(|| of_work(operation, status)),
    };
    Some(of_resource)
}

/// Answers about tenants, keys and sessions.
fn of_access(operation: &str) -> Option<Value> {
    let new_key = json!({"key": format!("ph{}_omRZKCPcaXMBnPWIQSx0yA7MD7UxIM8y2", &objects::KEY[2..])});
    Some(match operation {
        "listTenants" => page(objects::tenant()),
        "createTenant" | "readTenant" => objects::tenant(),
        "updateTenant" => {
            with(objects::tenant(), json!({"retention": {"eventsSeconds": 2_592_000, "responsesSeconds": null}}))
        }
        "listKeys" => page(objects::key()),
        "createKey" => with(objects::key(), new_key),
        "listAdminKeys" => page(objects::admin_key()),
        "createAdminKey" => with(objects::admin_key(), new_key),
        "readSession" => objects::session(None),
        "openSession" => objects::new_session(),
        "listSessions" => page(objects::open_session()),
        _ => return None,
    })
}

/// Answers about webhooks and their backlogs.
fn of_webhook(operation: &str) -> Option<Value> {
    let signing = json!({"secret": "whsec_gwFqi3oInlytuM16ux9BUfWHTVBAC5oXBosYXIlyUXk="});
    Some(match operation {
        "listWebhooks" => {
            let standing = json!({"state": "active", "oldestPendingAt": null, "trouble": null});
            with(page(with(objects::webhook(), standing)), json!({"unreadable": []}))
        }
        "createWebhook" => with(objects::webhook(), signing),
        "readWebhook" => objects::webhook(),
        "updateWebhook" => with(objects::webhook(), json!({"timeoutMs": 8000})),
        "pauseWebhook" => objects::held(true),
        "resumeWebhook" => objects::held(false),
        "rotateSecret" => {
            let now = "2026-11-29T02:33:08.044Z";
            let newer = objects::secret("sec_06h2a9haphtl94fspevlbkp6t0", now, None);
            let until = Some("2026-11-29T03:33:08.044Z");
            let older = objects::secret("sec_06h2a9h6c9tmr1k90fhi6pc56g", "2026-11-29T02:33:06.914Z", until);
            with(with(objects::webhook(), signing), json!({"secrets": [newer, older], "updatedAt": now}))
        }
        "purgeWebhook" => json!({"cancelled": 1204}),
        "testWebhook" => {
            let attempt = with(objects::attempt(), json!({"trigger": "test"}));
            let tested = json!({"event": "webhook.test", "lastAttempt": attempt});
            json!({"delivery": with(objects::delivery(), tested), "attempt": attempt})
        }
        "probeWebhook" | "readBacklog" => objects::backlog(),
        "listBacklogs" => page(objects::backlog()),
        _ => return None,
    })
}

/// Answers about events, deliveries and operations.
fn of_work(operation: &str, status: &str) -> Option<Value> {
    Some(match operation {
        "publishEvent" => objects::published(),
        "publishEvents" => json!({"results": [objects::published(), {"error": refused_event()}]}),
        "listEvents" => page(objects::event_summary()),
        "explainEvent" => page(objects::explanation()),
        "explainDraft" => page(with(objects::explanation(), json!({"config": "now", "delivery": null}))),
        "readEvent" => {
            let progress = json!({"matched": 1, "owed": 0, "pending": 0, "success": 1, "failed": 0, "cancelled": 0});
            with(objects::event_summary(), json!({"progress": progress, "data": objects::payload()}))
        }
        "listEventDeliveries" | "listDeliveries" | "readWebhookLog" => page(objects::delivery()),
        "readDelivery" => {
            let attempts = json!({"attemptCount": 1, "attempts": [objects::attempt()], "attemptsCursor": null});
            with(objects::delivery_fields(), attempts)
        }
        "listDeliveryAttempts" => page(objects::attempt()),
        "retryDelivery" => {
            json!({"delivery": with(objects::delivery(), json!({"status": "pending", "settledAt": null}))})
        }
        "cancelDelivery" => with(objects::delivery(), json!({"status": "cancelled"})),
        "createOperation" | "replayWebhook" if status == "200" => {
            let failed = with(objects::delivery(), json!({"status": "failed"}));
            json!({"matched": 1, "complete": true, "sample": [failed], "estimatedSeconds": 1})
        }
        "createOperation" | "replayWebhook" => objects::operation("counting", 0),
        "listOperations" => page(objects::operation("done", 3)),
        "readOperation" => objects::operation("done", 3),
        "updateOperation" => with(objects::operation("running", 1), json!({"ratePerSecond": 20})),
        "pauseOperation" => objects::operation("paused", 1),
        "resumeOperation" => objects::operation("running", 1),
        "cancelOperation" => objects::operation("cancelled", 1),
        _ => return None,
    })
}

/// Why the second event of the batch in [`request`] is refused.
fn refused_event() -> Value {
    let message = "words of letters, digits, `_` and `-`, joined by single dots, are accepted, such as call.ringing";
    let pointer = "/events/1/event";
    json!({
        "status": 422,
        "code": "validation_failed",
        "message": format!("{pointer}: {message}"),
        "errors": [{"pointer": pointer, "code": "invalid", "message": message}],
    })
}

/// What a receiver gets.
pub(super) fn delivered(kind: &str, data: Value) -> Value {
    json!({"id": objects::EVENT, "event": kind, "timestamp": objects::ACCEPTED_AT, "data": data})
}

/// A problem with this status.
pub(super) fn problem(status: StatusCode) -> Value {
    let (code, detail) = match status.as_u16() {
        400 => ("invalid_id", "expected an id that starts with `wh_`, got a event id"),
        401 => ("invalid_key", "the key is not valid: mistyped, deleted, or never given out"),
        403 => ("missing_scope", "this needs a key with the scope `manage`"),
        404 => ("not_found", "there is no such webhook"),
        408 => ("request_timeout", "the body did not arrive within 30 s"),
        409 => ("webhook_paused", "the webhook is paused; resume it first"),
        412 => ("precondition_failed", "If-Match names another version; the object is at \"v4\" now"),
        413 => ("payload_too_large", "the body is longer than the 1048576 bytes that are accepted"),
        415 => ("unsupported_media_type", "the header Content-Type must be application/json"),
        422 => ("validation_failed", "/retryPolicy/maxRetries: 21 was given, 0 to 20 are accepted"),
        429 => ("rate_limited", "there are too many requests with this key"),
        503 => ("overloaded", "the journal is full; nothing was kept"),
        508 => ("loop_detected", "the event comes from this engine: one of its webhooks delivers into it"),
        _ => ("internal", "the request failed on our side; the log knows why"),
    };
    let problem = json!({
        "type": Problem::type_of(code),
        "title": title(code),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
        "requestId": "ac0e7f5a8e985bc1f88aa60bdb5edfa5",
    });
    let field = json!({
        "pointer": "/retryPolicy/maxRetries",
        "code": "out_of_range",
        "message": "21 was given, 0 to 20 are accepted",
    });
    if code == "validation_failed" { with(problem, json!({"errors": [field]})) } else { problem }
}
