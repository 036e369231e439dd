//! Operational events: what the engine tells a tenant about its webhooks. They take the path that every event takes,
//! and go to webhooks that subscribe to them by name or prefix, never to a catch-all. Endpoints publish them.

use serde_json::value::RawValue;

use crate::journal::Draft;

use super::context::EngineContext;
use super::endpoint_config::EndpointConfig;

/// For most of the time after which a webhook is switched off, all its attempts have failed.
pub const FAILING_EVENT: &str = "webhook.failing";

/// The engine has switched a webhook off.
pub const DISABLED_EVENT: &str = "webhook.disabled";

/// Publishes that something happened to a webhook. If the event cannot be accepted now, only the log says what
/// happened.
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
        tracing::warn!(webhook = %config.id, kind, %error, "operational event not published; its subscribers miss it");
    }
}
