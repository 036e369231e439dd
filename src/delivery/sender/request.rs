//! Builds the signed request that a receiver gets. Called by the sender for every attempt, so names and fixed values
//! are made at compile time.

use std::sync::LazyLock;

use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, USER_AGENT};
use tokio::sync::Semaphore;

use super::Message;
use crate::delivery::hops::{CDN_LOOP, EngineName};
use crate::delivery::signature::{SigningSecret, standard_webhooks, x_webhook_signature};
use crate::delivery::target::Target;
use crate::delivery::token::Token;
use crate::domain::moment::UnixMillis;
use crate::domain::policy::SignatureFormat;

pub(super) const X_WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature");
const X_WEBHOOK_EVENT: HeaderName = HeaderName::from_static("x-webhook-event");
const X_WEBHOOK_DELIVERY: HeaderName = HeaderName::from_static("x-webhook-delivery");
const X_WEBHOOK_ATTEMPT: HeaderName = HeaderName::from_static("x-webhook-attempt");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
pub(super) const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
pub(super) const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("Posthaste/", env!("CARGO_PKG_VERSION")));

/// How many headers the engine sets; the client adds host, length and accept.
const OWN_HEADERS: usize = 13;

/// Bodies from this size on are signed off the endpoint threads: a megabyte takes a millisecond or more, and each
/// attempt signs it anew.
const LARGE: usize = 256 * 1024;

/// At most half of the cores sign large bodies, so that the others stay free.
static SIGNERS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))));

/// The signatures of a message.
pub(super) struct Signatures {
    seconds: i64,
    ours: String,
    standard: String,
}

impl Signatures {
    fn of(secrets: &[SigningSecret], format: SignatureFormat, id: &str, body: &[u8], now: UnixMillis) -> Self {
        let seconds = now.unix_seconds();
        let ours = x_webhook_signature(secrets, format, seconds, body);
        Self { seconds, ours, standard: standard_webhooks(secrets, id, seconds, body) }
    }

    /// Signs a large message once a signer is free. `None` for other messages, which [`signed`] signs.
    pub(super) async fn of_large(target: &Target, message: &Message) -> Option<Self> {
        if message.body.len() < LARGE {
            return None;
        }
        let turn = SIGNERS.acquire().await.ok()?;
        let (secrets, format) = (target.secrets.clone(), target.format);
        let (id, body) = (message.event_id.clone(), message.body.clone());
        // The work holds its turn to its end: it goes on when the request is given up.
        let sign = move || {
            let _turn = turn;
            Self::of(&secrets, format, &id, &body, UnixMillis::now_reference())
        };
        tokio::task::spawn_blocking(sign).await.ok()
    }
}

/// Builds the request for an attempt that is made now, signed with all of the target's secrets.
///
/// # Errors
///
/// When the event's id or type contains control characters.
pub(super) fn signed(
    target: &Target,
    message: Message,
    token: Option<&Token>,
    name: &EngineName,
    signatures: Option<Signatures>,
    now: UnixMillis,
) -> Result<reqwest::Request, UnsendableMessage> {
    let Message { event_id, event_type, delivery_id, attempt, trail, body } = message;
    let sign = || Signatures::of(&target.secrets, target.format, &event_id, &body, now);
    let Signatures { seconds, ours, standard } = signatures.unwrap_or_else(sign);

    let mut headers = HeaderMap::with_capacity(target.headers.len() + OWN_HEADERS);
    headers.extend(target.headers.iter().cloned());
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, token.header.clone());
    }
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(USER_AGENT, AGENT);
    headers.insert(CDN_LOOP, name.after(trail.as_ref()));
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
