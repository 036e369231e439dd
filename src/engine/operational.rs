//! Operational events: what the engine tells a tenant about its webhooks and operations. Each is written in the
//! transaction of the change that it reports; the task here publishes it. It then takes the path that every event takes,
//! and goes to webhooks that subscribe to it by name or prefix, never to a catch-all.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::domain::event::Event;
use crate::domain::health::SuspensionCause;
use crate::domain::id::EventId;
use crate::domain::moment::UnixMillis;
use crate::domain::operational_event::{OperationalEvent, OperationalKind};
use crate::domain::shard::ShardNum;
use crate::journal::{AttemptRecord, Draft, PublishError};
use crate::store::operational_events::ToPublish;
use crate::store::{Store, StoreError};

use super::TEST_EVENT;
use super::context::EngineContext;
use super::endpoint_config::EndpointConfig;
use super::lane::News;

/// How often the database is asked for operational events.
const EVERY: Duration = Duration::from_secs(1);

/// What the tenant is told about its webhook.
pub(super) fn of_webhook(config: &EndpointConfig, news: News, now: UnixMillis) -> OperationalEvent {
    let of = |kind, change: [&str; 2], reason: String, more: Value| {
        let [previous, current] = change;
        let mut data = json!({
            "webhookId": config.id, "name": config.name, "previous": previous, "current": current, "reason": reason,
        });
        if let (Value::Object(data), Value::Object(more)) = (&mut data, more) {
            data.extend(more);
        }
        OperationalEvent::new(config.tenant, kind, &format!("/webhooks/{}", config.id), data, now)
    };
    match news {
        News::Failing { failing_since, suspended_at } => {
            let reason =
                format!("every attempt has failed since {failing_since}; it will be suspended at {suspended_at}");
            let more = json!({ "failingSince": failing_since, "suspendedAt": suspended_at });
            of(OperationalKind::WebhookFailing, ["active", "active"], reason, more)
        }
        News::Suspended { cause, failing_since } => {
            let more = json!({ "failingSince": failing_since });
            of(OperationalKind::WebhookSuspended, ["active", "suspended"], why_suspended(cause, failing_since), more)
        }
        News::Recovered { since, .. } => {
            let reason = format!("a request has succeeded; it was suspended since {since}, and its backlog follows");
            of(OperationalKind::WebhookRecovered, ["suspended", "active"], reason, json!({ "suspendedSince": since }))
        }
    }
}

fn why_suspended(cause: SuspensionCause, failing_since: UnixMillis) -> String {
    match cause {
        SuspensionCause::Gone => "the receiver answered 410 Gone".to_owned(),
        SuspensionCause::Failing => format!("every attempt has failed since {failing_since}"),
    }
}

/// That a delivery has failed for good. `None` if nobody subscribes to such events, and for operational events and
/// tests, which would tell of themselves without end.
pub(super) fn of_delivery(
    context: &EngineContext,
    config: &EndpointConfig,
    event: &Event,
    AttemptRecord { id, attempt, state, .. }: &AttemptRecord,
) -> Option<OperationalEvent> {
    let (tenant, kind) = (config.tenant, OperationalKind::DeliveryFailed);
    let is_own = event.kind == TEST_EVENT || OperationalKind::is_one(&event.kind);
    if is_own || context.routes.matching_by_name(tenant, kind.as_str()).is_empty() {
        return None;
    }
    let data = json!({
        "deliveryId": id, "eventId": EventId(id.event), "event": event.kind, "webhookId": config.id,
        "name": config.name, "previous": "pending", "current": "failed", "attempts": state.attempts,
        "outcome": attempt.outcome, "statusCode": attempt.status_code,
    });
    Some(OperationalEvent::new(tenant, kind, &format!("/deliveries/{id}"), data, context.host.now()))
}

/// Publishes operational events, on the node that serves the first shard.
pub(super) async fn publish(context: Arc<EngineContext>, store: Store) {
    loop {
        context.host.sleep(EVERY).await;
        if !context.shard_set.serves_shard(ShardNum::WHOLE) {
            continue;
        }
        if let Err(error) = publish_all(&context, &store).await {
            tracing::warn!(%error, "operational events could not be published; trying again");
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum NotPublished {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

async fn publish_all(context: &EngineContext, store: &Store) -> Result<(), NotPublished> {
    let mut after = 0;
    loop {
        let page = store.operational_events(after).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.sequence;
        for event in page {
            let (sequence, draft) = (event.sequence, draft_of(context, event));
            if draft.targets.is_empty() {
                store.drop_operational(sequence).await?;
            } else {
                context.journal.publish_operational(draft, sequence).await?;
            }
        }
    }
}

fn draft_of(context: &EngineContext, event: ToPublish) -> Draft {
    let ToPublish { sequence, tenant, kind, mut data, at } = event;
    data.insert("sequence".to_owned(), sequence.into());
    let targets = context.routes.matching_by_name(tenant, &kind);
    Draft {
        tenant,
        kind: kind.into(),
        occurred_at: Some(at),
        data: RawValue::from_string(Value::Object(data).to_string()).unwrap_or_default(),
        caller: None,
        trail: None,
        is_ordered: context.routes.is_any_ordered(tenant, &targets),
        targets,
    }
}
