//! Operational events: what the engine tells a tenant of its webhooks, by the path that every event takes. They go to
//! webhooks that subscribe to them by name or prefix; a catch-all is not meant for them.

use serde_json::value::RawValue;

use crate::store::journal::Draft;

use super::context::EngineContext;
use super::endpoint_config::EndpointConfig;

/// A webhook has only failed for most of the time after which it is switched off.
pub const FAILING_EVENT: &str = "webhook.failing";

/// The engine has switched a webhook off.
pub const DISABLED_EVENT: &str = "webhook.disabled";

/// Publishes that something happened to a webhook. What cannot be accepted now is in the log alone.
pub(super) async fn tell(context: &EngineContext, config: &EndpointConfig, kind: &'static str, reason: &str) {
    let data = serde_json::json!({ "webhookId": config.id, "name": config.name, "reason": reason });
    let targets = context.routes.matching_by_name(config.tenant, kind);
    let draft = Draft {
        tenant: config.tenant,
        kind: kind.into(),
        occurred_at: None,
        data: RawValue::from_string(data.to_string()).unwrap_or_default(),
        caller: None,
        trail: None,
        is_ordered: context.routes.is_any_ordered(config.tenant, &targets),
        targets,
    };
    if let Err(error) = context.journal.publish(vec![draft], None).await {
        tracing::warn!(webhook = %config.name, kind, %error, "an operational event could not be published");
    }
}
