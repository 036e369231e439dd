//! What each problem code means and what to do about it: the text behind `/problems/{code}`. A test checks that every
//! code has an entry, and that every entry is used.

use crate::api::problem::title;

/// A kind of problem, as its page explains it.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct ProblemKind {
    pub(in crate::api) code: &'static str,
    pub(in crate::api) status: u16,
    /// What it means, and when it happens.
    pub(in crate::api) meaning: &'static str,
    pub(in crate::api) remedy: &'static str,
}

impl ProblemKind {
    pub(in crate::api) fn find(code: &str) -> Option<Self> {
        ALL.iter().find(|(known, ..)| *known == code).map(|&(code, status, meaning, remedy)| Self {
            code,
            status,
            meaning,
            remedy,
        })
    }

    pub(in crate::api) fn title(self) -> String {
        title(self.code)
    }
}

/// Code, status, meaning, remedy.
const ALL: [(&str, u16, &str, &str); 55] = [
    (
        "admin_only",
        403,
        "The operation needs an admin key, and the request has the key of a tenant.",
        "Use an admin key: `POSTHASTE_ADMIN_KEY`, or one that `POST /admin-keys` has made.",
    ),
    ("already_exists", 409, "An object with this name exists.", "Change that object, or choose another name."),
    (
        "ambiguous_session",
        400,
        "The request carries the cookies of several sessions. Another host may have set some of them.",
        "Delete the cookies of this site and log in again.",
    ),
    (
        "changed_meanwhile",
        409,
        "Another request changed the object while this one was being handled.",
        "Read the object again and repeat the change.",
    ),
    (
        "configured_key",
        409,
        "The admin key stands in the configuration of the server, where the API cannot revoke it.",
        "Change `POSTHASTE_ADMIN_KEY` and start the server again.",
    ),
    (
        "cross_origin",
        403,
        "The request has the cookie of a session, changes something, and does not come from a page of this host. \
         Another site may have made the browser send it.",
        "Call from a page of this host, or send a key instead of the cookie.",
    ),
    (
        "delivery_in_flight",
        409,
        "A request for this delivery is being made at this moment.",
        "Wait until the attempt ends, five seconds by default, and try again.",
    ),
    (
        "delivery_settled",
        409,
        "The delivery is not pending any more, so there is nothing to cancel.",
        "Nothing: read the delivery to see how it ended.",
    ),
    (
        "event_id_conflict",
        409,
        "An event with this `id` and other content was published before.",
        "Use a new `id` for a new event. To publish the same event again, send the same content.",
    ),
    (
        "event_owed",
        409,
        "Deliveries of the event are pending, so its payload is still needed.",
        "Wait until they end, or cancel them, and try again.",
    ),
    (
        "first_answer_lost",
        409,
        "The request repeats an `Idempotency-Key`, and its first answer cannot be given again: the declared event \
         types have changed since.",
        "Read the events to see what was accepted. Publish the rest with a new `Idempotency-Key`.",
    ),
    (
        "idempotency_key_not_taken",
        400,
        "This operation takes no `Idempotency-Key`: repeating it is not made safe by one.",
        "Leave the header out.",
    ),
    (
        "idempotency_key_reused",
        422,
        "The `Idempotency-Key` was used for another request in the last 24 hours.",
        "Use a new key for a new request. A repeat must have the same path and the same body, byte by byte.",
    ),
    ("incomplete_body", 400, "The connection ended before the whole body had arrived.", "Send the request again."),
    (
        "internal",
        500,
        "The request failed because of a fault of the server.",
        "Report it with the `requestId`; the log of the server has the details under it.",
    ),
    (
        "invalid_cursor",
        400,
        "The `cursor` belongs to another list, other filters or another tenant, or it was changed.",
        "Take `nextCursor` of the page before as it is, with the same path and filters, or begin again without a \
         cursor.",
    ),
    (
        "invalid_host",
        400,
        "The request does not name its host exactly once.",
        "Send one `Host` header. A proxy in front of the server must not add another.",
    ),
    (
        "invalid_id",
        400,
        "An id in the path, the query or a header is malformed or of another kind: a webhook's begins with `wh_`, \
         an event's with `evt_`, and so on.",
        "Use the id as an answer of the API shows it.",
    ),
    (
        "invalid_idempotency_key",
        400,
        "The `Idempotency-Key` is empty, too long, given twice, or has other than visible ASCII characters.",
        "Send it once, with 1 to 255 visible ASCII characters, such as a UUID.",
    ),
    (
        "invalid_if_match",
        400,
        "The header `If-Match` is no `*` and no list of `ETag`s.",
        "Send an `ETag` as an answer shows it, with its quotes.",
    ),
    (
        "invalid_key",
        401,
        "The key is not valid: mistyped, revoked, or never given out.",
        "Check the key. If it is lost, make a new one: keys are shown only once.",
    ),
    ("invalid_limit", 400, "`limit` is outside 1 to 100.", "Ask for 1 to 100 items and follow `nextCursor` for more."),
    (
        "invalid_parameter",
        400,
        "A query parameter has a value that is not accepted. `detail` names it and says what is.",
        "Correct the parameter.",
    ),
    ("invalid_path", 400, "The path is not percent-encoded UTF-8.", "Percent-encode each part of the path."),
    (
        "key_expired",
        401,
        "The time at which the key was to end has passed.",
        "Make a new key with a later `expiresAt`, or with none.",
    ),
    (
        "last_admin_key",
        409,
        "The engine needs an admin key, and this is the last one.",
        "Create another admin key first.",
    ),
    (
        "loop_detected",
        508,
        "The event was delivered into this engine by an engine that it has been through, or it has been through \
         too many. Publishing it would make it go round.",
        "Remove the webhook that leads back, or publish a new event instead of passing this one on with its `CDN- \
         Loop`.",
    ),
    (
        "malformed_json",
        400,
        "The body is not JSON. `detail` says where it breaks.",
        "Correct the body. A member must not stand twice in an object.",
    ),
    (
        "method_not_allowed",
        405,
        "The path exists, but does not take this method.",
        "Use a method that the header `Allow` lists.",
    ),
    (
        "missing_scope",
        403,
        "The key lacks the scope that the operation needs. `detail` names it.",
        "Use a key with this scope, or make one.",
    ),
    (
        "no_session",
        409,
        "The request has a key and no session, so there is no session to end.",
        "Delete the key if it shall end.",
    ),
    (
        "no_such_route",
        404,
        "There is nothing at this path.",
        "Look the path up in `/docs` or `/openapi.json`. Paths of the API begin with `/api/v1`.",
    ),
    (
        "not_found",
        404,
        "The object does not exist, was deleted, or belongs to another tenant. The answer does not tell which.",
        "Check the id, and that the key belongs to the right tenant.",
    ),
    (
        "overloaded",
        503,
        "The server has no room for the request now: its journal, its memory for bodies or its connections are \
         used up. Nothing was kept.",
        "Repeat the request after `Retry-After`, with a growing pause. If it happens often, see `/metrics`.",
    ),
    (
        "owner_unreachable",
        503,
        "The node that serves the webhook cannot be asked, or another one is taking over from it.",
        "Repeat the request after `Retry-After`. A takeover takes some seconds.",
    ),
    (
        "payload_erased",
        409,
        "The payload of the event was erased, so that nothing can be sent again.",
        "Publish the event again under a new id if it is still needed.",
    ),
    (
        "payload_too_large",
        413,
        "The body is longer than the server accepts, 1 MiB by default.",
        "Send less at once: a shorter event, or a smaller batch.",
    ),
    (
        "precondition_failed",
        412,
        "`If-Match` names a version that the object no longer has: it was changed since.",
        "Read the object, look at what has changed, and repeat with its new `ETag`.",
    ),
    (
        "rate_limited",
        429,
        "The key or the tenant has made more requests than its rate limit allows.",
        "Wait as long as `Retry-After` says. `RateLimit` and `RateLimit-Policy` show the limit.",
    ),
    (
        "request_timeout",
        408,
        "The body did not arrive in time.",
        "Send the request again, over a faster connection or in smaller parts.",
    ),
    (
        "secret_in_use",
        409,
        "The secret is the newest one of its webhook, which signs all requests.",
        "Rotate the secret first; `graceSeconds: 0` ends all older ones at once.",
    ),
    (
        "session_open",
        409,
        "The request already has a session, and gives no key for another one.",
        "Go on with the session, or give a key to open another one.",
    ),
    (
        "stopping",
        503,
        "The server is stopping. Nothing was kept.",
        "Repeat the request; another node, or the restarted server, will answer.",
    ),
    (
        "storage_unavailable",
        503,
        "The database refused the request or did not answer in time. A change that was under way may or may not \
         have been made.",
        "Repeat the request after `Retry-After`. For a publish, use the same `id` or `Idempotency-Key`: it is \
         then accepted once.",
    ),
    (
        "tenant_required",
        400,
        "An admin key acts for all tenants, and the request does not say for which.",
        "Send the header `X-Tenant-Id` with the id of the tenant.",
    ),
    (
        "too_many_attempts",
        409,
        "The delivery has used up its attempt numbers, of which there are some 8,000.",
        "Publish the event again under a new id.",
    ),
    ("unauthenticated", 401, "The request has no key.", "Send `Authorization: Bearer` with a key, or `X-API-Key`."),
    (
        "unknown_parameter",
        400,
        "The query has a parameter that the operation does not know.",
        "Remove it, or correct its name. `detail` lists those that are known.",
    ),
    (
        "unreadable_row",
        500,
        "A stored row that the request needs cannot be read: it is damaged, or its master key is missing. No \
         retry helps.",
        "Tell the operator, who finds the row with `posthaste check`.",
    ),
    (
        "unsupported_media_type",
        415,
        "The body is not declared as JSON in UTF-8, or is compressed.",
        "Send `Content-Type: application/json` and no `Content-Encoding`.",
    ),
    (
        "validation_failed",
        422,
        "Members of the body cannot be accepted. `errors` names each one by a JSON pointer and says what would be \
         accepted.",
        "Correct the members and send the request again.",
    ),
    (
        "webhook_inactive",
        409,
        "The webhook is switched off, by its owner, by a `410` of its receiver, or after days of nothing but \
         failures. Nothing is sent for it.",
        "Switch it on: `PATCH` it with `isActive: true`.",
    ),
    (
        "webhook_paused",
        409,
        "The webhook is paused. What it is owed waits.",
        "Resume it with `POST /webhooks/{id}/resume`.",
    ),
    (
        "webhook_quarantined",
        409,
        "The webhook's endpoint has crashed repeatedly or cannot be read, and is not started any more. What it is \
         owed waits.",
        "Read its backlog, which says why. `POST /webhooks/{id}/resume` starts it again after crashes.",
    ),
    (
        "wrong_state",
        409,
        "The state of the operation does not allow this: it has ended, or has not come that far.",
        "Read the operation; `detail` has its state.",
    ),
];
