//! `/operations`: what is done with many deliveries at once, counted first, at a rate, and steered while it runs.

mod input;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Operate, Read, Tenant};
use super::body::{Json, NoBody};
use super::cost::Cost;
use super::deliveries::DeliveryView;
use super::fields::{At, Errors, Fault};
use super::idempotency::{self, IdempotencyKey};
use super::page::{NoQuery, PageParams, PageView, Query};
use super::path::One;
use super::problem::Problem;
use super::problem_sets::{ActionProblems, CreateProblems, ReadProblems};
use crate::domain::id::{OperationId, TenantNum, WebhookId};
use crate::domain::moment::UnixMillis;
use crate::domain::operation::{Counts, Operation, OperationState, Selection};
use crate::engine::Preview;
use crate::store::StoreError;
use crate::store::operations::{NewOperation, OperationChange};

use self::input::{OperationInput, OperationPatch, OperationRequest};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, update))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
        .routes(routes!(replay))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Operation)]
struct OperationView {
    #[schema(value_type = String)]
    id: OperationId,
    /// `retry` sends settled deliveries again; `purge` cancels pending ones; `owe` makes deliveries of earlier events.
    #[schema(value_type = String)]
    kind: &'static str,
    /// `counting` finds the deliveries; `running` and `paused` operations have some left; `done`, `cancelled` and
    /// `failed` are final.
    #[schema(value_type = String)]
    state: &'static str,
    /// The webhooks whose deliveries it is for; empty for all webhooks of the tenant.
    #[schema(value_type = Vec<String>)]
    webhook_ids: Vec<WebhookId>,
    /// Deliveries of events that were accepted at or after this time; null for no bound.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<UnixMillis>,
    /// Deliveries of events that were accepted before this time.
    #[schema(value_type = String, format = DateTime)]
    until: UnixMillis,
    /// The status that the deliveries had when they were counted; null for deliveries that it makes.
    #[schema(value_type = Option<String>)]
    status: Option<&'static str>,
    /// The outcome of their last attempt; null for any.
    #[schema(value_type = Option<String>)]
    outcome: Option<&'static str>,
    /// The status code of their last attempt's answer; null for any.
    status_code: Option<u16>,
    /// Event types and prefixes such as `call.*`; empty for all.
    events: Vec<String>,
    /// Deliveries selected; 0 while counting.
    matched: u64,
    /// Deliveries finished: the sum of `success`, `failed` and `skipped`.
    done: u64,
    /// Deliveries that were sent again with success, or cancelled.
    success: u64,
    /// Deliveries whose attempt failed.
    failed: u64,
    /// Deliveries that changed before their turn, so that nothing was done.
    skipped: u64,
    /// Maximum deliveries started per second, over all nodes.
    rate_per_second: u32,
    /// Why it failed; null otherwise.
    error: Option<String>,
    /// Who asked for it: the `author` of its audit entry.
    created_by: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMillis,
    /// When it began with the first delivery; null before.
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<UnixMillis>,
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<UnixMillis>,
}

impl From<Operation> for OperationView {
    fn from(operation: Operation) -> Self {
        let Operation { num: _, id, tenant: _, kind, state, selection, rate, counts, error, .. } = operation;
        let Selection { webhooks, since, until, status, outcome, status_code, events } = selection;
        let Counts { matched, success, failed, skipped } = counts;
        Self {
            id,
            kind: kind.as_str(),
            state: state.as_str(),
            webhook_ids: webhooks,
            since,
            until,
            status: status.map(|status| status.as_str()),
            outcome: outcome.map(|outcome| outcome.as_str()),
            status_code,
            events,
            matched,
            done: counts.done(),
            success,
            failed,
            skipped,
            rate_per_second: rate,
            error,
            created_by: operation.created_by,
            created_at: operation.created_at,
            started_at: operation.started_at,
            finished_at: operation.finished_at,
        }
    }
}

/// What an operation would do.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OperationPreview)]
struct PreviewView {
    /// Deliveries found.
    matched: u64,
    /// Whether all were counted. A count stops soon after five seconds; then there may be more than `matched`.
    complete: bool,
    /// Up to ten of the deliveries, newest event first.
    sample: Vec<DeliveryView>,
    /// How long it would take at its rate if every endpoint kept up.
    estimated_seconds: u64,
}

impl PreviewView {
    fn new(preview: Preview, rate: u32) -> Self {
        let Preview { matched, is_complete, sample } = preview;
        let sample = sample.into_iter().map(DeliveryView::from).collect();
        Self { matched, complete: is_complete, sample, estimated_seconds: matched.div_ceil(u64::from(rate)) }
    }
}

async fn find(app: &App, tenant: TenantNum, id: OperationId) -> Result<Operation, Problem> {
    app.store().operation(tenant, id).await?.ok_or(Problem::no_such("operation"))
}

/// Lists operations, newest first.
#[utoipa::path(get, path = "/operations", tag = "operations", operation_id = "listOperations", params(PageParams),
    responses((status = 200, body = PageView<OperationView>), ReadProblems))]
async fn list(State(app): State<App>, tenant: Tenant<Read>, query: Query) -> Result<PageView<OperationView>, Problem> {
    let list = query.list("operations", Some(tenant.num()), &[])?;
    let page = app.store().operations(tenant.num(), list.position()?, list.limit).await?;
    Ok(list.answer(page.items.into_iter().map(OperationView::from).collect(), page.next))
}

/// Reads an operation with its progress.
#[utoipa::path(get, path = "/operations/{id}", tag = "operations", operation_id = "readOperation",
    params(("id" = String, Path)), responses((status = 200, body = OperationView), ReadProblems))]
async fn read(
    State(app): State<App>,
    tenant: Tenant<Read>,
    _: NoQuery,
    One(id): One<OperationId>,
) -> Result<axum::Json<OperationView>, Problem> {
    Ok(axum::Json(find(&app, tenant.num(), id).await?.into()))
}

/// Begins an operation on many deliveries, or with `dryRun` counts them and changes nothing.
///
/// The deliveries are counted once, when the operation begins; those that come later do not belong to it. Each then goes
/// through its endpoint like any other, takes its turn there, and waits while the webhook is paused or its breaker is
/// open. An attempt of a retry has the trigger `replay`, keeps the `webhook-id`, and uses up no automatic retry.
#[utoipa::path(post, path = "/operations", tag = "operations", operation_id = "createOperation",
    request_body = OperationInput, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, description = "What it would do, with `dryRun`", body = PreviewView),
        (status = 202, description = "It has begun", body = OperationView), CreateProblems))]
async fn create(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    key: IdempotencyKey,
    Extension(cost): Extension<Cost>,
    mut body: Json<OperationInput>,
) -> Result<Response, Problem> {
    if let Some(OperationInput { webhook_ids, .. }) = &body.input {
        refuse_unknown(&app, tenant.num(), webhook_ids, &mut body.errors).await?;
    }
    let (OperationInput { webhook_ids, asked }, text) = body.accepted()?;
    begin(&app, &tenant, (key, &cost), (webhook_ids, asked), &text).await
}

/// Begins an operation on the deliveries of one webhook; without a `kind` it sends failed ones again.
#[utoipa::path(post, path = "/webhooks/{id}/replay", tag = "operations", operation_id = "replayWebhook",
    request_body = OperationRequest, params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, description = "What it would do, with `dryRun`", body = PreviewView),
        (status = 202, description = "It has begun", body = OperationView), CreateProblems))]
async fn replay(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    One(id): One<WebhookId>,
    key: IdempotencyKey,
    Extension(cost): Extension<Cost>,
    body: Json<OperationRequest>,
) -> Result<Response, Problem> {
    app.store().webhook_ref(tenant.num(), id).await?.ok_or(Problem::no_such("webhook"))?;
    let (asked, text) = body.accepted()?;
    begin(&app, &tenant, (key, &cost), (vec![id], asked), &text).await
}

async fn refuse_unknown(
    app: &App,
    tenant: TenantNum,
    webhooks: &[WebhookId],
    errors: &mut Errors,
) -> Result<(), Problem> {
    for (place, id) in webhooks.iter().enumerate() {
        if app.store().webhook_ref(tenant, *id).await?.is_none() {
            let at = At::Member(&At::Root, "webhookIds");
            errors.add(&At::Item(&at, place), Fault::new("not_found", "the tenant has no such webhook"));
        }
    }
    Ok(())
}

async fn begin(
    app: &App,
    tenant: &Tenant<Operate>,
    (key, cost): (IdempotencyKey, &Cost),
    (webhooks, asked): (Vec<WebhookId>, OperationRequest),
    text: &[u8],
) -> Result<Response, Problem> {
    let (num, now) = (tenant.num(), UnixMillis::now());
    let OperationRequest { kind, status, since, until, outcome, status_code, events, rate_per_second: rate, dry_run } =
        asked;
    let until = until.map_or(now, |until| until.min(now));
    let selection = Selection { webhooks, since, until, status, outcome, status_code, events };
    if dry_run {
        cost.take_read_turn(app, num).await?;
        let preview = app.engine().preview_operation(num, &selection).await?;
        return Ok(axum::Json(PreviewView::new(preview, rate)).into_response());
    }
    let new = NewOperation { id: OperationId::generate(), tenant: num, kind, selection, rate, created_at: now };
    let by = tenant.author();
    let view = OperationView::from(new.as_made(&by));
    let (once, exists) = (key.with(Some(num), text), Problem::from(StoreError::Exists));
    let create = |once| app.engine().create_operation(new, once, &by);
    idempotency::answer_once(app, once, StatusCode::ACCEPTED, "/operations", &view, exists, create).await
}

/// Changes the rate of an operation.
#[utoipa::path(patch, path = "/operations/{id}", tag = "operations", operation_id = "updateOperation",
    params(("id" = String, Path)), request_body = OperationPatch,
    responses((status = 200, body = OperationView), CreateProblems))]
async fn update(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    One(id): One<OperationId>,
    body: Json<OperationPatch>,
) -> Result<axum::Json<OperationView>, Problem> {
    let (OperationPatch { rate }, _) = body.accepted()?;
    change(&app, &tenant, id, OperationChange::Rate(rate)).await
}

/// Pauses a running operation: what it has asked for is still sent, and nothing more is asked for.
#[utoipa::path(post, path = "/operations/{id}/pause", tag = "operations", operation_id = "pauseOperation",
    params(("id" = String, Path)), responses((status = 200, body = OperationView), ActionProblems))]
async fn pause(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    One(id): One<OperationId>,
    _: NoBody,
) -> Result<axum::Json<OperationView>, Problem> {
    change(&app, &tenant, id, OperationChange::Pause).await
}

/// Resumes a paused operation.
#[utoipa::path(post, path = "/operations/{id}/resume", tag = "operations", operation_id = "resumeOperation",
    params(("id" = String, Path)), responses((status = 200, body = OperationView), ActionProblems))]
async fn resume(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    One(id): One<OperationId>,
    _: NoBody,
) -> Result<axum::Json<OperationView>, Problem> {
    change(&app, &tenant, id, OperationChange::Resume).await
}

/// Ends an operation before it is done. What it has asked for is still sent.
#[utoipa::path(post, path = "/operations/{id}/cancel", tag = "operations", operation_id = "cancelOperation",
    params(("id" = String, Path)), responses((status = 200, body = OperationView), ActionProblems))]
async fn cancel(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    One(id): One<OperationId>,
    _: NoBody,
) -> Result<axum::Json<OperationView>, Problem> {
    change(&app, &tenant, id, OperationChange::Cancel).await
}

async fn change(
    app: &App,
    tenant: &Tenant<Operate>,
    id: OperationId,
    change: OperationChange,
) -> Result<axum::Json<OperationView>, Problem> {
    let found = find(app, tenant.num(), id).await?;
    if let Some(changed) = app.engine().change_operation(&found, change, &tenant.author()).await? {
        return Ok(axum::Json(changed.into()));
    }
    let now = find(app, tenant.num(), id).await?;
    match (change, now.state) {
        // It is as the caller wants it.
        (OperationChange::Pause, OperationState::Paused)
        | (OperationChange::Resume, OperationState::Running)
        | (OperationChange::Cancel, OperationState::Cancelled) => Ok(axum::Json(now.into())),
        (_, state) => {
            let detail = format!("the operation is {}", state.as_str());
            Err(Problem::conflict("wrong_state", detail))
        }
    }
}
