//! What the API shows of a receiver in backlogs and webhooks: since when it only fails, its last failure, its last
//! success.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::health::LastError;
use crate::domain::id::{DeliveryId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::engine::Receiver;

/// How the receiver has answered lately.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReceiverFields {
    /// When the first failure after the last success happened; null while requests succeed. Starts over when `url`,
    /// `auth` or `tls` is changed, or the webhook is switched on.
    #[schema(value_type = Option<String>, format = DateTime)]
    failing_since: Option<UnixMillis>,
    /// The last request that failed; null when none has failed since `url`, `auth` or `tls` was changed, or the webhook
    /// was switched on.
    last_error: Option<LastErrorView>,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_success_at: Option<UnixMillis>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = LastError)]
struct LastErrorView {
    /// The outcome of the attempt.
    #[schema(value_type = String)]
    outcome: &'static str,
    /// Null when there was no answer.
    status_code: Option<u16>,
    error: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    at: UnixMillis,
    #[schema(value_type = String)]
    delivery_id: DeliveryId,
}

impl ReceiverFields {
    pub(super) fn new(webhook: WebhookNum, receiver: &Receiver) -> Self {
        let Receiver { failing_since, last_error, last_success_at } = receiver;
        let last_error = last_error.as_deref().map(|last| LastErrorView::new(webhook, last));
        Self { failing_since: *failing_since, last_error, last_success_at: *last_success_at }
    }
}

impl LastErrorView {
    fn new(webhook: WebhookNum, last: &LastError) -> Self {
        let LastError { at, outcome, status, error, event } = last;
        let delivery_id = DeliveryId { event: *event, webhook };
        Self { outcome: outcome.as_str(), status_code: *status, error: error.clone(), at: *at, delivery_id }
    }
}
