//! `/events/{id}/explain` and `/explain`: why an event was owed to a webhook or not, webhook by webhook.

use axum::Extension;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Read, Tenant};
use super::body::{Input, Json};
use super::cost::Cost;
use super::fields::Reader;
use super::idempotency::NoIdempotencyKey;
use super::names;
use super::page::{List, PageParams, PageView, Query};
use super::path::One;
use super::problem::Problem;
use super::problem_sets::{ActionProblems, ReadProblems};
use crate::domain::delivery::Status;
use crate::domain::id::{DeliveryId, EventId, TenantNum, WebhookId};
use crate::engine::{Asked, Explanation, ExplanationPage, Reason};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(of_event)).routes(routes!(of_type))
}

/// Why an event was owed to a webhook, or not.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Explanation)]
pub(super) struct ExplanationView {
    #[schema(value_type = String)]
    webhook_id: WebhookId,
    /// Whether the event was owed to the webhook, or would be.
    matched: bool,
    /// `matched`; `owed_later` by an operation; `type`: no subscription is for the type; `inactive`; `created_later` than
    /// the event was accepted; `changed_later`: it would match now, and was changed since; `test`: a test event, which
    /// is for one webhook; `unreadable`: the subscriptions cannot be read.
    #[schema(value_type = String)]
    reason: &'static str,
    /// The member of the webhook that decided; null if none did.
    #[schema(value_type = Option<String>)]
    clause: Option<&'static str>,
    /// The value of that member; null if it cannot be told.
    was: Value,
    /// `then`: this is how it was when the event was accepted. `now`: this is how the webhook is configured now; it was
    /// changed since, or the event is not published.
    #[schema(value_type = String)]
    config: &'static str,
    /// Null if the event is not owed.
    delivery: Option<DeliveryRef>,
}

/// The delivery of an event to a webhook.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeliveryRef {
    #[schema(value_type = String)]
    id: DeliveryId,
    /// `pending`, `success`, `failed` or `cancelled`
    #[schema(value_type = String)]
    status: &'static str,
}

/// The reasons, as the API shows them.
pub(super) const REASONS: [&str; 8] =
    ["matched", "owed_later", "type", "inactive", "created_later", "changed_later", "test", "unreadable"];

impl From<Explanation> for ExplanationView {
    fn from(explanation: Explanation) -> Self {
        let Explanation { webhook, reason, is_of_then, delivery } = explanation;
        let (matched, reason, clause, was) = match reason {
            Reason::Matched(None) => (true, "matched", None, Value::Null),
            Reason::Matched(Some(subscription)) => (true, "matched", Some("events"), json!([subscription])),
            Reason::OwedLater => (true, "owed_later", None, Value::Null),
            Reason::Type(subscriptions) => (false, "type", Some("events"), json!(subscriptions)),
            Reason::Inactive => (false, "inactive", Some("isActive"), json!(false)),
            Reason::CreatedLater(at) => (false, "created_later", Some("createdAt"), json!(at)),
            Reason::ChangedLater(at) => (false, "changed_later", Some("updatedAt"), json!(at)),
            Reason::Test => (false, "test", None, Value::Null),
            Reason::Unreadable => (false, "unreadable", Some("events"), Value::Null),
        };
        let config = if is_of_then { "then" } else { "now" };
        let delivery = delivery.map(|(id, status): (DeliveryId, Status)| DeliveryRef { id, status: status.as_str() });
        Self { webhook_id: webhook, matched, reason, clause, was, config, delivery }
    }
}

/// An event that is not published.
#[derive(Debug, ToSchema)]
pub(super) struct ExplainInput {
    #[schema(rename = "event", max_length = 128, example = "conversation.created")]
    kind: String,
}

impl Input for ExplainInput {
    const FIELDS: &'static [&'static str] = &["event"];

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        reader.required("event", names::event_type).map(|kind| Self { kind })
    }
}

async fn asked(app: &App, tenant: TenantNum, list: &List<'_>) -> Result<Asked, Problem> {
    let Some(id) = list.filter::<WebhookId>("webhookId")? else {
        return Ok(Asked::Page { after: list.position()?, limit: list.limit });
    };
    let num = app.store().webhook_num(tenant, id).await?.ok_or(Problem::no_such("webhook"))?;
    Ok(Asked::One(num))
}

fn answer(list: &List<'_>, page: ExplanationPage) -> PageView<ExplanationView> {
    let ExplanationPage { explanations, next } = page;
    list.answer(explanations.into_iter().map(ExplanationView::from).collect(), next)
}

/// Explains for each webhook why an event was owed to it, or not; newest webhook first.
///
/// Deleted webhooks are left out.
#[utoipa::path(get, path = "/events/{id}/explain", tag = "events", operation_id = "explainEvent",
    params(("id" = String, Path), ("webhookId" = Option<String>, Query, description = "only this webhook"), PageParams),
    responses((status = 200, body = PageView<ExplanationView>), ReadProblems))]
async fn of_event(
    State(app): State<App>,
    tenant: Tenant<Read>,
    One(id): One<EventId>,
    query: Query,
) -> Result<PageView<ExplanationView>, Problem> {
    let list = query.list(&format!("explain {id}"), Some(tenant.num()), &["webhookId"])?;
    let event = app.store().event(tenant.num(), id.0).await?.ok_or(Problem::no_such("event"))?;
    let asked = asked(&app, tenant.num(), &list).await?;
    Ok(answer(&list, app.engine().explain(&event, asked).await?))
}

/// Explains for each webhook whether an event that is not published would be owed to it; newest webhook first.
#[utoipa::path(post, path = "/explain", tag = "events", operation_id = "explainDraft", request_body = ExplainInput,
    params(("webhookId" = Option<String>, Query, description = "only this webhook"), PageParams),
    responses((status = 200, body = PageView<ExplanationView>), ActionProblems))]
async fn of_type(
    State(app): State<App>,
    tenant: Tenant<Read>,
    Extension(cost): Extension<Cost>,
    query: Query,
    _: NoIdempotencyKey,
    body: Json<ExplainInput>,
) -> Result<PageView<ExplanationView>, Problem> {
    let (ExplainInput { kind }, _) = body.accepted()?;
    let list = query.list(&format!("explain {kind}"), Some(tenant.num()), &["webhookId"])?;
    cost.take_read_turn(&app, tenant.num()).await?;
    let asked = asked(&app, tenant.num(), &list).await?;
    Ok(answer(&list, app.engine().explain_type(tenant.num(), &kind, asked).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_in_the_document() {
        let at = crate::domain::moment::UnixMillis(0);
        let reasons = [
            Reason::Matched(None),
            Reason::OwedLater,
            Reason::Type(Vec::new()),
            Reason::Inactive,
            Reason::CreatedLater(at),
            Reason::ChangedLater(at),
            Reason::Test,
            Reason::Unreadable,
        ];
        let words = reasons.map(|reason| {
            let webhook = WebhookId::generate();
            ExplanationView::from(Explanation { webhook, reason, is_of_then: true, delivery: None }).reason
        });
        assert_eq!(words, REASONS);
    }
}
