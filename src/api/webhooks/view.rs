//! What the API shows of a webhook.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::receiver::ReceiverFields;
use crate::domain::credentials::Credentials;
use crate::domain::id::{SecretId, TenantId, WebhookId};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::{
    Backoff, BreakerSettings, Policy, RateLimit, RetryPolicy, SignatureFormat, SignatureSettings,
};
use crate::engine::{certificate_ends_at, is_secret_header};
use crate::store::webhooks::{SecretInfo, Webhook};

use super::credentials::{AuthView, TlsView};
use crate::api::redaction::REDACTED;

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Webhook)]
pub(in crate::api) struct WebhookView {
    #[schema(value_type = String)]
    id: WebhookId,
    #[schema(value_type = String)]
    tenant_id: TenantId,
    name: String,
    url: String,
    events: Vec<String>,
    /// Values are shown as `[redacted]`, except those of `publicHeaders` and of standard headers such as `Accept`.
    headers: BTreeMap<String, String>,
    /// Names of headers whose values are shown.
    public_headers: Vec<String>,
    retry_policy: RetryPolicyView,
    timeout_ms: u32,
    /// Null without a rate limit.
    rate_limit: Option<RateLimitView>,
    max_in_flight: u16,
    ordered: bool,
    filter: Option<String>,
    signature: SignatureView,
    /// The secrets that sign, newest first; their texts are never shown.
    secrets: Vec<SecretView>,
    /// TLS options of the webhook's own; null if it has none.
    tls: Option<TlsView>,
    /// When the certificate in `tls.clientCertificate` expires; null without one.
    #[schema(value_type = Option<String>, format = DateTime)]
    client_certificate_expires_at: Option<UnixMillis>,
    /// How the engine authenticates to the receiver; null if it does not.
    auth: Option<AuthView>,
    breaker: BreakerSettingsView,
    /// Seconds of nothing but failures after which the webhook is suspended.
    disable_after_seconds: u32,
    description: Option<String>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
    is_active: bool,
    /// Why the engine switched the webhook off; null if it did not.
    inactive_reason: Option<String>,
    /// When the webhook was paused; null if it is not paused.
    #[schema(value_type = Option<String>, format = DateTime)]
    paused_at: Option<UnixMillis>,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMillis,
    #[schema(value_type = String, format = DateTime)]
    updated_at: UnixMillis,
    #[serde(flatten)]
    receiver: ReceiverFields,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RetryPolicy)]
pub(in crate::api) struct RetryPolicyView {
    max_retries: u8,
    #[schema(value_type = String)]
    backoff_strategy: Backoff,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_seconds: Option<Vec<u32>>,
    max_delay_seconds: u32,
}

impl From<RetryPolicy> for RetryPolicyView {
    fn from(policy: RetryPolicy) -> Self {
        let RetryPolicy { max_retries, backoff_strategy, schedule_seconds, max_delay_seconds } = policy;
        Self { max_retries, backoff_strategy, schedule_seconds, max_delay_seconds }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RateLimit)]
pub(in crate::api) struct RateLimitView {
    requests: u32,
    per_seconds: u32,
    burst: u32,
}

impl From<RateLimit> for RateLimitView {
    fn from(limit: RateLimit) -> Self {
        let RateLimit { requests, per_seconds, burst } = limit;
        Self { requests, per_seconds, burst }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Signature)]
pub(in crate::api) struct SignatureView {
    #[schema(value_type = String)]
    format: SignatureFormat,
}

impl From<SignatureSettings> for SignatureView {
    fn from(settings: SignatureSettings) -> Self {
        let SignatureSettings { format } = settings;
        Self { format }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BreakerSettings)]
pub(in crate::api) struct BreakerSettingsView {
    failure_threshold: u16,
    cooldown_seconds: u32,
    max_cooldown_seconds: u32,
}

impl From<BreakerSettings> for BreakerSettingsView {
    fn from(settings: BreakerSettings) -> Self {
        let BreakerSettings { failure_threshold, cooldown_seconds, max_cooldown_seconds } = settings;
        Self { failure_threshold, cooldown_seconds, max_cooldown_seconds }
    }
}

/// One of the secrets of a webhook.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = WebhookSecret)]
pub(in crate::api) struct SecretView {
    #[schema(value_type = String)]
    id: SecretId,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMillis,
    /// When an older secret stops signing beside newer ones; null for the current secret.
    #[schema(value_type = Option<String>, format = DateTime)]
    signs_until: Option<UnixMillis>,
}

impl From<SecretInfo> for SecretView {
    fn from(SecretInfo { id, made_at, signs_until }: SecretInfo) -> Self {
        Self { id, created_at: made_at, signs_until }
    }
}

impl WebhookView {
    pub(super) fn new(
        webhook: Webhook,
        tenant_id: TenantId,
        secrets: Vec<SecretInfo>,
        receiver: ReceiverFields,
    ) -> Self {
        let policy = webhook.policy.clone();
        let Credentials { tls, auth } = webhook.credentials.unwrap_or_default();
        let Policy { retry_policy, timeout_ms, rate_limit, max_in_flight, ordered, filter, signature, .. } = policy;
        let Webhook { num: _, id, tenant: _, name, url, events, mut headers, public_headers, .. } = webhook;
        for (name, value) in &mut headers {
            if is_secret_header(name, &public_headers) {
                REDACTED.clone_into(value);
            }
        }
        Self {
            id,
            tenant_id,
            name,
            url,
            events,
            headers,
            public_headers,
            retry_policy: retry_policy.into(),
            timeout_ms,
            rate_limit: rate_limit.map(RateLimitView::from),
            max_in_flight,
            ordered,
            filter,
            signature: signature.into(),
            secrets: secrets.into_iter().map(SecretView::from).collect(),
            client_certificate_expires_at: tls.as_ref().and_then(certificate_ends_at),
            tls: tls.map(TlsView::from),
            auth: auth.map(AuthView::from),
            breaker: policy.breaker.into(),
            disable_after_seconds: policy.disable_after_seconds,
            description: webhook.description,
            metadata: webhook.metadata,
            is_active: webhook.is_active,
            inactive_reason: webhook.inactive_reason,
            paused_at: webhook.paused_at,
            created_at: webhook.created_at,
            updated_at: webhook.updated_at,
            receiver,
        }
    }
}

/// A webhook with its new secret.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookWithSecret)]
pub(in crate::api) struct NewWebhookView {
    #[serde(flatten)]
    webhook: WebhookView,
    /// The text of the secret, shown in this answer only.
    secret: String,
}

impl NewWebhookView {
    pub(super) fn new(webhook: WebhookView, secret: &str) -> Self {
        Self { webhook, secret: secret.to_owned() }
    }
}
