//! Operational events: what the engine tells a tenant about its webhooks and operations. Each is written in the
//! transaction of the change that it reports, and published afterwards. Pure.

use serde_json::{Map, Value};

use super::id::TenantNum;
use super::moment::UnixMillis;
use super::operation::is_for;

/// The path under which the API stands.
pub const API_BASE: &str = "/api/v1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationalKind {
    /// All attempts have failed for most of the time after which the webhook is suspended.
    WebhookFailing,
    WebhookSuspended,
    /// The receiver of a suspended webhook has succeeded.
    WebhookRecovered,
    WebhookPaused,
    WebhookResumed,
    /// A delivery has used up its retries.
    DeliveryFailed,
    OperationFinished,
    SecretRotated,
}

impl OperationalKind {
    pub const ALL: [Self; 8] = [
        Self::WebhookFailing,
        Self::WebhookSuspended,
        Self::WebhookRecovered,
        Self::WebhookPaused,
        Self::WebhookResumed,
        Self::DeliveryFailed,
        Self::OperationFinished,
        Self::SecretRotated,
    ];

    /// The event type.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WebhookFailing => "webhook.failing",
            Self::WebhookSuspended => "webhook.suspended",
            Self::WebhookRecovered => "webhook.recovered",
            Self::WebhookPaused => "webhook.paused",
            Self::WebhookResumed => "webhook.resumed",
            Self::DeliveryFailed => "delivery.failed",
            Self::OperationFinished => "operation.finished",
            Self::SecretRotated => "secret.rotated",
        }
    }

    /// Whether events of this type are operational events.
    #[must_use]
    pub fn is_one(kind: &str) -> bool {
        Self::ALL.iter().any(|known| known.as_str() == kind)
    }
}

/// Whether a subscription is for events of this type. One to `*` is not for operational events.
#[must_use]
pub fn is_subscribed(subscription: &str, kind: &str) -> bool {
    is_for(subscription, kind) && !(subscription == "*" && OperationalKind::is_one(kind))
}

/// An operational event that is to be published.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationalEvent {
    pub tenant: TenantNum,
    pub kind: OperationalKind,
    /// Without the sequence, which is known once the event is written.
    pub data: Map<String, Value>,
    pub at: UnixMillis,
}

impl OperationalEvent {
    /// `of` is the path of what the event is about, below [`API_BASE`]; `data` is what it says, an object.
    #[must_use]
    pub fn new(tenant: TenantNum, kind: OperationalKind, of: &str, data: Value, at: UnixMillis) -> Self {
        let Value::Object(mut data) = data else { return Self { tenant, kind, data: Map::new(), at } };
        data.insert("path".to_owned(), Value::from(format!("{API_BASE}{of}")));
        Self { tenant, kind, data, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_to_everything_leaves_operational_events_out() {
        for (subscription, kind, expected) in [
            ("*", "webhook.paused", false),
            ("*", "order.paid", true),
            ("webhook.*", "webhook.paused", true),
            ("webhook.paused", "webhook.paused", true),
            ("webhook.paused", "webhook.resumed", false),
        ] {
            assert_eq!(is_subscribed(subscription, kind), expected, "{subscription} {kind}");
        }
    }
}
