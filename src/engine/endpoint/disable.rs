//! Switches a webhook off because its receiver asked for that, or has failed for too long. The endpoint calls it when
//! its lane says so.

use std::sync::Arc;

use tracing::field::display;

use crate::engine::context::EngineContext;
use crate::engine::endpoint_config::{self, EndpointConfig};
use crate::engine::lane::Reason;
use crate::engine::operational::{self, DISABLED_EVENT};

use super::STORE_PAUSE;
use super::report::ENDPOINT;

/// Switches the webhook off, unless it was changed since. Answers the webhook as it is now: `Some(None)` if it is
/// deleted, `None` if it could not be read.
pub(super) async fn switch_off(
    context: Arc<EngineContext>,
    config: Arc<EndpointConfig>,
    reason: Reason,
) -> Option<Option<Arc<EndpointConfig>>> {
    let reason = words(reason);
    loop {
        let changing = context.changing.write().await;
        match context.db.disable_webhook(config.num, config.version, &reason, context.host.now()).await {
            Ok(true) => {
                context.routes.deactivate(config.tenant, config.num);
                drop(changing);
                let (tenant, webhook, name) = (config.tenant_id.map(display), config.id, &config.name);
                tracing::warn!(target: ENDPOINT, tenant, %webhook, name, reason, "webhook switched off; its backlog is kept");
                operational::tell(&context, &config, DISABLED_EVENT, &reason).await;
                break;
            }
            Ok(false) => break,
            Err(error) => tracing::error!(webhook = %config.id, %error, "webhook not switched off yet; trying again"),
        }
        drop(changing);
        if context.draining.run_until_cancelled(context.host.sleep(STORE_PAUSE)).await.is_none() {
            break;
        }
    }
    endpoint_config::load_one(&context, config.num).await.ok()
}

fn words(reason: Reason) -> String {
    match reason {
        Reason::Gone => "the receiver answered 410 Gone".to_owned(),
        Reason::Failing { since } => format!("every attempt has failed since {since}"),
    }
}
