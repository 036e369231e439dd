//! Writes the request that a receiver gets. Everything here runs once per attempt, so names and fixed values are made
//! at compile time.

use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, USER_AGENT};

use super::Message;
use crate::clock::UnixMillis;
use crate::delivery::signature::{standard_webhooks, x_webhook_signature};
use crate::delivery::target::Target;
use crate::delivery::token::Token;

const X_WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature");
const X_WEBHOOK_EVENT: HeaderName = HeaderName::from_static("x-webhook-event");
const X_WEBHOOK_DELIVERY: HeaderName = HeaderName::from_static("x-webhook-delivery");
const X_WEBHOOK_ATTEMPT: HeaderName = HeaderName::from_static("x-webhook-attempt");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("Posthaste/", env!("CARGO_PKG_VERSION")));

/// How many headers we set ourselves; the client adds host, length and accept.
const OWN_HEADERS: usize = 12;

/// The request for an attempt that is made now, signed with all of the target's secrets.
///
/// # Errors
///
/// When the event's id or type contains control characters.
pub(super) fn signed(
    target: &Target,
    message: Message,
    token: Option<&Token>,
    now: UnixMillis,
) -> Result<reqwest::Request, UnsendableMessage> {
    let Message { event_id, event_type, delivery_id, attempt, body } = message;
    let seconds = now.unix_seconds();
    let ours = x_webhook_signature(&target.secrets, target.format, seconds, &body);
    let standard = standard_webhooks(&target.secrets, &event_id, seconds, &body);

    let mut headers = HeaderMap::with_capacity(target.headers.len() + OWN_HEADERS);
    headers.extend(target.headers.iter().cloned());
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, token.header.clone());
    }
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(USER_AGENT, AGENT);
    headers.insert(X_WEBHOOK_SIGNATURE, HeaderValue::try_from(ours)?);
    headers.insert(X_WEBHOOK_EVENT, HeaderValue::try_from(event_type)?);
    headers.insert(X_WEBHOOK_DELIVERY, HeaderValue::try_from(delivery_id)?);
    headers.insert(X_WEBHOOK_ATTEMPT, attempt.into());
    headers.insert(WEBHOOK_ID, HeaderValue::try_from(event_id)?);
    headers.insert(WEBHOOK_TIMESTAMP, seconds.into());
    headers.insert(WEBHOOK_SIGNATURE, HeaderValue::try_from(standard)?);

    let mut request = reqwest::Request::new(Method::POST, target.url.clone());
    *request.headers_mut() = headers;
    *request.body_mut() = Some(body.into());
    Ok(request)
}

/// The message does not fit into HTTP headers.
#[derive(Debug, thiserror::Error)]
#[error("the event's id or type contains control characters, which no HTTP header can carry")]
pub(super) struct UnsendableMessage(#[from] InvalidHeaderValue);
