//! Operations on a webhook's backlog: pause, resume, probe and purge.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::App;
use crate::api::auth::{Operate, Tenant};
use crate::api::backlogs::{self, Shown};
use crate::api::body::{Input, NoBody, OptionalJson};
use crate::api::etag::{Changed, IfMatch, at_version, changed};
use crate::api::fields::{Given, Reader, line, moment};
use crate::api::page::NoQuery;
use crate::api::path::One;
use crate::api::problem::Problem;
use crate::api::problem_sets::ChangeProblems;
use crate::domain::id::{TenantId, WebhookId};
use crate::domain::moment::UnixMillis;
use crate::store::StoreError;
use crate::store::unreadable::UnreadableRow;
use crate::store::webhooks::{UnreadableWebhook, WebhookRef};

use super::unreadable::UnreadableView;
use super::view::WebhookView;
use super::{find_ref, view_of};

/// A webhook after `pause` or `resume`, with its present state.
#[derive(Serialize, ToSchema)]
#[schema(as = HeldWebhook)]
pub(in crate::api) struct HeldView {
    #[serde(flatten)]
    webhook: WebhookView,
    /// Whether the action changed anything.
    changed: bool,
    /// The same as in the webhook's backlog.
    #[schema(value_type = String)]
    state: &'static str,
    /// What still holds the deliveries back; null when nothing does.
    why: Option<String>,
}

/// A webhook that cannot be read after `pause` or `resume`, with its present state.
#[derive(Serialize, ToSchema)]
#[schema(as = HeldUnreadableWebhook)]
pub(in crate::api) struct HeldUnreadableView {
    #[serde(flatten)]
    webhook: UnreadableView,
    /// Whether the action changed anything.
    changed: bool,
    /// The same as in the webhook's backlog.
    #[schema(value_type = String)]
    state: &'static str,
    /// What still holds the deliveries back; null when nothing does.
    why: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = HeldAnswer)]
pub(in crate::api) enum HeldAnswer {
    Whole(Box<HeldView>),
    Unreadable(HeldUnreadableView),
}

async fn held(app: &App, tenant: TenantId, held: WebhookRef, changed: bool) -> Result<Response, Problem> {
    let backlog = app.engine().backlog(held.num).await?.ok_or(Problem::no_such("webhook"))?;
    let (state, why) = (backlogs::word(backlog.state), backlog.why);
    match app.store().webhook(held.tenant, held.id).await {
        Ok(None) => Err(Problem::no_such("webhook")),
        Ok(Some(webhook)) => {
            let version = webhook.version;
            let view = HeldView { webhook: view_of(app, tenant, webhook).await?, changed, state, why };
            Ok(at_version(version, &HeldAnswer::Whole(Box::new(view))))
        }
        Err(error @ StoreError::Unreadable { .. }) => {
            let (name, row) = (Some(backlog.name), UnreadableRow::of_webhook(held.num, &error));
            let name = name.filter(|name| !name.is_empty());
            let webhook = UnreadableView::from(UnreadableWebhook { id: Some(held.id), name, row });
            let view = HeldUnreadableView { webhook, changed, state, why };
            Ok(axum::Json(HeldAnswer::Unreadable(view)).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

/// Characters of a reason: a sentence or two.
const REASON: std::ops::RangeInclusive<usize> = 1..=500;

fn reason(reader: &mut Reader<'_, '_>) -> Given<String> {
    reader.field("reason", |raw| line(raw, &REASON))
}

#[derive(Debug, ToSchema)]
pub(in crate::api) struct HoldInput {
    /// Why; kept in the audit.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 500, example = "receiver moves to another host")]
    reason: Given<String>,
}

impl Input for HoldInput {
    const FIELDS: &'static [&'static str] = &["reason"];

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        Some(Self { reason: reason(reader) })
    }
}

/// Pauses a webhook: its pending deliveries are held.
///
/// New events are owed to it as before; nothing is lost. Requests in flight end as they would. It works for a webhook
/// that cannot be read, too; the answer then has its id and its damage.
#[utoipa::path(post, path = "/webhooks/{id}/pause", tag = "webhooks", operation_id = "pauseWebhook",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), request_body = Option<HoldInput>,
    responses((status = 200, body = HeldAnswer), ChangeProblems))]
pub(super) async fn pause(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    One(id): One<WebhookId>,
    if_match: IfMatch,
    OptionalJson(body): OptionalJson<HoldInput>,
) -> Result<Response, Problem> {
    let (HoldInput { reason }, _) = body.accepted()?;
    let by = tenant.author().because(reason.value());
    let paused = changed(|| async {
        let webhook = find_ref(&app, tenant.num(), id).await?;
        let only = if_match.only(webhook.version)?;
        let is_changed = app.engine().pause(&webhook, only, &by).await;
        Changed::of(is_changed.map(|is_changed| (webhook, is_changed)))
    });
    let (webhook, is_changed) = paused.await?;
    held(&app, tenant.row.id, webhook, is_changed).await
}

/// Resumes a webhook that is paused or quarantined.
///
/// `changed` is false when the webhook was neither. Resuming does not switch a webhook on, nor close an open breaker.
#[utoipa::path(post, path = "/webhooks/{id}/resume", tag = "webhooks", operation_id = "resumeWebhook",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), request_body = Option<HoldInput>,
    responses((status = 200, body = HeldAnswer), ChangeProblems))]
pub(super) async fn resume(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    One(id): One<WebhookId>,
    if_match: IfMatch,
    OptionalJson(body): OptionalJson<HoldInput>,
) -> Result<Response, Problem> {
    let (HoldInput { reason }, _) = body.accepted()?;
    let by = tenant.author().because(reason.value());
    let resumed = changed(|| async {
        let webhook = find_ref(&app, tenant.num(), id).await?;
        let only = if_match.only(webhook.version)?;
        let is_changed = app.engine().resume(&webhook, only, &by).await;
        Changed::of(is_changed.map(|is_changed| (webhook, is_changed)))
    });
    let (webhook, is_changed) = resumed.await?;
    held(&app, tenant.row.id, webhook, is_changed).await
}

/// Ends the cool-down of an open breaker: the next delivery is the probe.
///
/// It also ends a quarantine. The answer shows the backlog.
#[utoipa::path(post, path = "/webhooks/{id}/probe", tag = "webhooks", operation_id = "probeWebhook",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = Shown), ChangeProblems))]
pub(super) async fn probe(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    One(id): One<WebhookId>,
    if_match: IfMatch,
    _: NoBody,
) -> Result<axum::Json<Shown>, Problem> {
    let webhook = find_ref(&app, tenant.num(), id).await?;
    if_match.only(webhook.version)?;
    app.engine().probe(&webhook, &tenant.author()).await?;
    backlogs::shown(&app, tenant.row.id, app.engine().backlog(webhook.num).await?)
}

#[derive(Debug, ToSchema)]
pub(in crate::api) struct PurgeInput {
    /// Cancels only deliveries of events that were accepted before this time; without it, all.
    #[schema(value_type = Option<String>, format = DateTime)]
    before: Given<UnixMillis>,
    /// Why; kept in the audit.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 500)]
    reason: Given<String>,
}

impl Input for PurgeInput {
    const FIELDS: &'static [&'static str] = &["before", "reason"];

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        Some(Self { before: reader.field("before", moment), reason: reason(reader) })
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct Purged {
    /// Number of deliveries that this request cancelled.
    cancelled: u64,
}

/// Cancels the pending deliveries of a webhook.
///
/// Requests in flight end; if they fail, they are not made again.
#[utoipa::path(post, path = "/webhooks/{id}/purge", tag = "webhooks", operation_id = "purgeWebhook",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), request_body = Option<PurgeInput>,
    responses((status = 200, body = Purged), ChangeProblems))]
pub(super) async fn purge(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    One(id): One<WebhookId>,
    if_match: IfMatch,
    OptionalJson(body): OptionalJson<PurgeInput>,
) -> Result<axum::Json<Purged>, Problem> {
    let webhook = find_ref(&app, tenant.num(), id).await?;
    if_match.only(webhook.version)?;
    let (PurgeInput { before, reason }, _) = body.accepted()?;
    let by = tenant.author().because(reason.value());
    let cancelled = app.engine().purge(&webhook, before.value(), &by).await?;
    Ok(axum::Json(Purged { cancelled }))
}
