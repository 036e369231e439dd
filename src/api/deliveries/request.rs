//! What the API shows of the request of an attempt. Headers that follow from the delivery are not stored; they are
//! made here as the sender makes them.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::redaction::REDACTED;
use crate::domain::id::{AttemptId, EventId};
use crate::domain::request::{RequestParts, SentRequest};

/// The request of an attempt.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = AttemptRequest)]
pub(super) struct RequestView {
    url: String,
    /// Address and port that the connection led to. Null when no connection was made, unless the URL or its name has
    /// just one address; and when a kept connection gave no answer.
    address: Option<String>,
    /// The headers that the engine has set; of an attempt that succeeded without the signatures, `cdn-loop` and
    /// `user-agent`. Values of the webhook's own headers, and of `authorization`, are shown as
    /// `[redacted]`. The HTTP client has added `host`, `content-length` and `accept`.
    headers: BTreeMap<String, String>,
}

impl RequestView {
    /// `None` never happens: the store passes over what it cannot read.
    pub(super) fn of(attempt: AttemptId, event: &str, request: &SentRequest) -> Option<Self> {
        let parts = request.parts().ok()?;
        let headers = headers(attempt, event, &parts);
        let RequestParts { url, address, .. } = parts;
        Some(Self { url: url.into_owned(), address: address.map(|address| address.to_string()), headers })
    }
}

fn headers(attempt: AttemptId, event: &str, parts: &RequestParts<'_>) -> BTreeMap<String, String> {
    let AttemptId { delivery, number } = attempt;
    let proof = parts.proof.iter().flat_map(|proof| {
        [
            ("user-agent", proof.user_agent.to_string()),
            ("cdn-loop", proof.cdn_loop.to_string()),
            ("x-webhook-signature", proof.signature.to_string()),
            ("webhook-signature", proof.standard_signature.to_string()),
        ]
    });
    let engine = [
        ("content-type", "application/json".to_owned()),
        ("x-webhook-event", event.to_owned()),
        ("x-webhook-delivery", delivery.to_string()),
        ("x-webhook-attempt", number.to_string()),
        ("webhook-id", EventId(delivery.event).to_string()),
        ("webhook-timestamp", parts.unix_seconds.to_string()),
    ];
    let engine = engine.into_iter().chain(proof);
    let hidden = parts.hidden.iter().map(|name| (name.to_string(), REDACTED.to_owned()));
    engine.map(|(name, value)| (name.to_owned(), value)).chain(hidden).collect()
}
