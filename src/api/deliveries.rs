//! `/deliveries`: one event for one webhook, with its attempts. Also has the views and filters of deliveries that other
//! resources share.

mod request;

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::request::RequestView;
use super::App;
use super::auth::{Operate, Read, Tenant};
use super::body::NoBody;
use super::idempotency::NoIdempotencyKey;
use super::page::{
    AttemptsFilter, List, MAX_LIMIT, NoQuery, PageParams, PageView, Query, StatusCodeFilter, query_parameter,
};
use super::path::One;
use super::problem::Problem;
use super::problem_sets::{ActionProblems, ReadProblems};
use crate::domain::delivery::{Attempt, DeliveryState, Status, Trigger};
use crate::domain::id::{AttemptId, DeliveryId, EventId, MAX_ATTEMPT, TenantNum, WebhookId};
use crate::domain::moment::UnixMillis;
use crate::engine::DeliveryPage;
use crate::store::deliveries::{Delivery, DeliveryFilter, LastAttempt};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(read))
        .routes(routes!(list_attempts))
        .routes(routes!(retry))
        .routes(routes!(cancel))
}

/// Fields that every view of a delivery has.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeliveryFields {
    #[schema(value_type = String)]
    id: DeliveryId,
    #[schema(value_type = String)]
    event_id: EventId,
    #[schema(value_type = String)]
    webhook_id: WebhookId,
    event: String,
    /// `pending`, `success`, `failed` or `cancelled`
    #[schema(value_type = String)]
    status: &'static str,
    /// When the delivery's next request is due by its own schedule; null when the delivery is due now, in flight or not
    /// pending. Never in the past. The request is sent later if the webhook is paused, switched off or limited, or its
    /// breaker is open; the webhook's backlog says when.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<UnixMillis>,
    /// The newest attempt that has ended; null when there is none.
    last_attempt: Option<AttemptView>,
    /// When the event was accepted.
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMillis,
    /// When the delivery was settled; null while it is pending, also for a manual retry or a replay.
    #[schema(value_type = Option<String>, format = DateTime)]
    settled_at: Option<UnixMillis>,
}

/// A delivery with the number of its attempts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(super) struct DeliveryView {
    #[serde(flatten)]
    fields: DeliveryFields,
    attempts: u16,
}

/// A delivery with its newest attempts, oldest first.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeliveryWithAttempts)]
pub(super) struct DetailedView {
    #[serde(flatten)]
    fields: DeliveryFields,
    attempt_count: u16,
    /// The newest attempts, oldest first: at most 100, fewer if their answers do not fit on a page.
    attempts: Vec<AttemptView>,
    /// Pass it as `cursor` to `GET /deliveries/{id}/attempts` to read older attempts; null when there are none.
    attempts_cursor: Option<String>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Attempt)]
pub(super) struct AttemptView {
    #[schema(value_type = String)]
    id: AttemptId,
    number: u16,
    /// `scheduled`, `retry`, `manual`, `test`, `recovery` or `replay`
    #[schema(value_type = String)]
    trigger: &'static str,
    #[schema(value_type = String, format = DateTime)]
    started_at: UnixMillis,
    duration_ms: u32,
    /// Null when there was no answer.
    status_code: Option<u16>,
    /// `success`, `rejected`, `throttled`, `gone`, `timed_out`, `connect_failed`, `tls_failed`, `dns_failed`,
    /// `blocked`, `protocol_error` or `crashed`
    #[schema(value_type = String)]
    outcome: &'static str,
    error: Option<String>,
    /// What was called; null when no request was made, and once the answer was deleted.
    request: Option<RequestView>,
    /// Headers of the answer; null when there was no answer. Values of a repeated name are joined by commas.
    response_headers: Option<BTreeMap<String, String>>,
    /// Body of the answer, of which at most 64 KiB are kept; null when there was no answer. Bytes that are not UTF-8
    /// are replaced. Lists of deliveries show the first 1,024 bytes.
    response_body: Option<String>,
    /// Whether more of the answer is kept than is shown here. The list of the delivery's attempts shows all that is
    /// kept.
    response_body_truncated: bool,
}

/// The statuses of deliveries, as the API shows them.
pub(super) fn statuses() -> [&'static str; 4] {
    [Status::Pending, Status::Success, Status::Failed, Status::Cancelled].map(Status::as_str)
}

/// The triggers of attempts, as the API shows them.
pub(super) fn triggers() -> [&'static str; 6] {
    [Trigger::Scheduled, Trigger::Retry, Trigger::Manual, Trigger::Test, Trigger::Recovery, Trigger::Replay]
        .map(trigger_word)
}

fn trigger_word(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::Scheduled => "scheduled",
        Trigger::Retry => "retry",
        Trigger::Manual => "manual",
        Trigger::Test => "test",
        Trigger::Recovery => "recovery",
        Trigger::Replay => "replay",
    }
}

impl AttemptView {
    fn of((delivery, event): (DeliveryId, &str), attempt: Attempt) -> Self {
        let Attempt { number, trigger, started_at, duration_us, head_us: _, status_code, outcome, error, .. } = attempt;
        let id = AttemptId { delivery, number };
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in attempt.response_headers {
            let joined = headers.entry(name).or_default();
            if !joined.is_empty() {
                joined.push_str(", ");
            }
            joined.push_str(&value);
        }
        let body = || String::from_utf8_lossy(&attempt.response_body).into_owned();
        Self {
            request: attempt.request.as_ref().and_then(|request| RequestView::of(id, event, request)),
            id,
            number,
            trigger: trigger_word(trigger),
            started_at,
            duration_ms: duration_us.div_ceil(1000),
            status_code,
            outcome: outcome.as_str(),
            error,
            response_headers: status_code.map(|_| headers),
            response_body: status_code.map(|_| body()),
            response_body_truncated: false,
        }
    }

    /// The last attempt, as a list of deliveries shows it.
    fn listed(of: (DeliveryId, &str), last: LastAttempt) -> Self {
        let LastAttempt { mut attempt, is_cut } = last;
        if is_cut {
            attempt.response_body = without_part_of_a_character(attempt.response_body);
        }
        Self { response_body_truncated: is_cut, ..Self::of(of, attempt) }
    }

    fn all(delivery: &Delivery, attempts: Vec<Attempt>) -> Vec<Self> {
        attempts.into_iter().map(|attempt| Self::of((delivery.id, &delivery.kind), attempt)).collect()
    }
}

/// Removes the beginning of a character that was cut off at the end of a text.
fn without_part_of_a_character(mut text: Vec<u8>) -> Vec<u8> {
    if let Err(error) = std::str::from_utf8(&text)
        && error.error_len().is_none()
    {
        text.truncate(error.valid_up_to());
    }
    text
}

impl From<Delivery> for DeliveryFields {
    fn from(delivery: Delivery) -> Self {
        let Delivery { id, webhook_id, kind, state, last } = delivery;
        let DeliveryState { status, attempts: _, tries: _, next_at, settled_at, manual: _ } = state;
        let (is_pending, now) = (status == Status::Pending, UnixMillis::now());
        let last_attempt = last.map(|last| AttemptView::listed((id, &kind), last));
        Self {
            id,
            event_id: EventId(id.event),
            webhook_id,
            event: kind,
            status: status.as_str(),
            next_attempt_at: next_at.filter(|at| is_pending && *at > now),
            last_attempt,
            created_at: id.event.accepted_at(),
            settled_at: settled_at.filter(|_| !is_pending),
        }
    }
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self { attempts: delivery.state.attempts, fields: delivery.into() }
    }
}

impl DetailedView {
    /// `attempts` are the newest ones, newest first.
    fn new(delivery: Delivery, attempts: Vec<Attempt>, attempts_cursor: Option<String>) -> Self {
        let attempt_count = delivery.state.attempts;
        let mut attempts = AttemptView::all(&delivery, attempts);
        attempts.reverse();
        Self { fields: delivery.into(), attempt_count, attempts, attempts_cursor }
    }
}

/// The answer of `retry`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeliveryAnswer)]
pub(super) struct DeliveryAnswer {
    delivery: DeliveryView,
}

/// The answer of `test`. `attempt` is null when no attempt ended in time.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TestAnswer)]
pub(super) struct TestAnswer {
    delivery: DeliveryView,
    attempt: Option<AttemptView>,
}

/// Reads the result of a test.
pub(super) async fn test_answer(app: &App, tenant: TenantNum, id: DeliveryId) -> Result<TestAnswer, Problem> {
    let delivery = find(app, tenant, id).await?;
    let first = app.store().first_attempt(id).await?;
    let attempt = first.map(|first| AttemptView::of((id, &delivery.kind), first));
    Ok(TestAnswer { delivery: delivery.into(), attempt })
}

async fn find(app: &App, tenant: TenantNum, id: DeliveryId) -> Result<Delivery, Problem> {
    app.engine().delivery(tenant, id).await?.ok_or(Problem::no_such("delivery"))
}

/// Reads the filters that logs and lists of deliveries share.
pub(super) fn filter(list: &List<'_>) -> Result<DeliveryFilter, Problem> {
    Ok(DeliveryFilter {
        webhook: None,
        event: None,
        status: list.filter("status")?,
        outcome: list.filter("outcome")?,
        status_code: list.filter::<StatusCodeFilter>("statusCode")?.map(|StatusCodeFilter(code)| code),
        attempts: list.filter::<AttemptsFilter>("attempts")?.map(|AttemptsFilter(attempts)| attempts),
        kind: list.filter("event")?,
        since: list.filter("since")?,
        until: list.filter("until")?,
    })
}

/// Makes a page of deliveries that were read with one more than the limit.
pub(super) fn cut(list: &List<'_>, mut deliveries: Vec<Delivery>) -> PageView<DeliveryView> {
    let next = list.cut(&mut deliveries, |last| last.id);
    page(list, DeliveryPage { deliveries, next })
}

pub(super) fn page(list: &List<'_>, page: DeliveryPage) -> PageView<DeliveryView> {
    let DeliveryPage { deliveries, next } = page;
    list.answer(deliveries.into_iter().map(DeliveryView::from).collect(), next)
}

/// Query parameters of every list of deliveries.
pub(super) enum DeliveryParams {}

impl IntoParams for DeliveryParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let text = |name, what| query_parameter(name, what, ObjectBuilder::new().schema_type(Type::String));
        let code = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(100)).maximum(Some(599));
        let attempts = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(MAX_ATTEMPT));
        vec![
            text("status", "pending, success, failed or cancelled"),
            text("outcome", "outcome of the last attempt, such as rejected or timed_out"),
            query_parameter("statusCode", "status code of the last attempt's answer", code),
            query_parameter("attempts", "how many attempts were made", attempts),
            text("event", "the exact event type"),
            text("since", "accepted at or after this RFC 3339 time"),
            text("until", "accepted before this RFC 3339 time"),
        ]
    }
}

/// The names in [`DeliveryParams`].
pub(super) const FILTERS: [&str; 7] = ["status", "outcome", "statusCode", "attempts", "event", "since", "until"];

/// Lists deliveries, newest event first.
///
/// Deliveries that are owed but not recorded yet are included. A page may have fewer items than `limit` although more
/// follow: when a filter matches little, a page ends after a bounded search, and `nextCursor` goes on.
#[utoipa::path(get, path = "/deliveries", tag = "deliveries", operation_id = "listDeliveries",
    params(("webhookId" = Option<String>, Query, description = "the id of a webhook, which may be deleted"),
        ("eventId" = Option<String>, Query), DeliveryParams, PageParams),
    responses((status = 200, body = PageView<DeliveryView>), ReadProblems))]
async fn list(State(app): State<App>, tenant: Tenant<Read>, query: Query) -> Result<PageView<DeliveryView>, Problem> {
    let filters = [&["webhookId", "eventId"], &FILTERS[..]].concat();
    let list = query.list("deliveries", Some(tenant.num()), &filters)?;
    let mut filter = filter(&list)?;
    let before = list.position()?;
    filter.event = list.filter("eventId")?.map(|EventId(seq)| seq);
    if let Some(id) = list.filter::<WebhookId>("webhookId")? {
        let Some(webhook) = app.store().webhook_num(tenant.num(), id).await? else { return Ok(cut(&list, Vec::new())) };
        filter.webhook = Some(webhook);
    }
    let found = app.engine().deliveries(tenant.num(), &filter, before, list.limit).await?;
    Ok(page(&list, found))
}

/// Reads a delivery with its newest attempts, oldest first.
#[utoipa::path(get, path = "/deliveries/{id}", tag = "deliveries", operation_id = "readDelivery",
    params(("id" = String, Path)),
    responses((status = 200, body = DetailedView), ReadProblems))]
async fn read(
    State(app): State<App>,
    tenant: Tenant<Read>,
    _: NoQuery,
    One(id): One<DeliveryId>,
) -> Result<axum::Json<DetailedView>, Problem> {
    let delivery = find(&app, tenant.num(), id).await?;
    let (query, made) = (Query::empty(&app), delivery.state.attempts);
    let list = attempts_of(&query, tenant.num(), id)?;
    // Leaves an attempt that was recorded between the two reads to the next request.
    let page = app.store().attempts(id, made.saturating_add(1), MAX_LIMIT).await?;
    let cursor = page.next.map(|next| list.cursor(&next));
    Ok(axum::Json(DetailedView::new(delivery, page.items, cursor)))
}

/// Lists the attempts of a delivery, newest first, with all that is kept of their answers.
///
/// A page may have fewer items than `limit` if their answers are long.
#[utoipa::path(get, path = "/deliveries/{id}/attempts", tag = "deliveries", operation_id = "listDeliveryAttempts",
    params(("id" = String, Path), PageParams),
    responses((status = 200, body = PageView<AttemptView>), ReadProblems))]
async fn list_attempts(
    State(app): State<App>,
    tenant: Tenant<Read>,
    One(id): One<DeliveryId>,
    query: Query,
) -> Result<PageView<AttemptView>, Problem> {
    let list = attempts_of(&query, tenant.num(), id)?;
    let before = list.position::<i64>()?.and_then(|before| u16::try_from(before).ok()).unwrap_or(u16::MAX);
    let delivery = find(&app, tenant.num(), id).await?;
    let page = app.store().attempts(delivery.id, before, list.limit).await?;
    Ok(list.answer(AttemptView::all(&delivery, page.items), page.next))
}

fn attempts_of(query: &Query, tenant: TenantNum, id: DeliveryId) -> Result<List<'_>, Problem> {
    query.list(&format!("attempts of {id}"), Some(tenant), &[])
}

/// Makes one more attempt now.
///
/// The history stays, and so does the schedule of automatic retries. A delivery whose request is in flight cannot be
/// retried (`409`).
#[utoipa::path(post, path = "/deliveries/{id}/retry", tag = "deliveries", operation_id = "retryDelivery",
    params(("id" = String, Path)), responses((status = 202, body = DeliveryAnswer), ActionProblems))]
async fn retry(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    One(id): One<DeliveryId>,
    _: NoIdempotencyKey,
    _: NoBody,
) -> Result<(StatusCode, axum::Json<DeliveryAnswer>), Problem> {
    app.engine().retry(tenant.num(), id, &tenant.author()).await?;
    let delivery = find(&app, tenant.num(), id).await?.into();
    Ok((StatusCode::ACCEPTED, axum::Json(DeliveryAnswer { delivery })))
}

/// Cancels a pending delivery, or the manual retry of a settled one.
///
/// A delivery whose request is in flight cannot be cancelled (`409`).
#[utoipa::path(post, path = "/deliveries/{id}/cancel", tag = "deliveries", operation_id = "cancelDelivery",
    params(("id" = String, Path)), responses((status = 200, body = DeliveryView), ActionProblems))]
async fn cancel(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    One(id): One<DeliveryId>,
    _: NoBody,
) -> Result<axum::Json<DeliveryView>, Problem> {
    app.engine().cancel(tenant.num(), id, &tenant.author()).await?;
    Ok(axum::Json(find(&app, tenant.num(), id).await?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_cut_ends_with_a_whole_character() {
        let cut = |text: &[u8]| without_part_of_a_character(text.to_vec());
        assert_eq!(cut("aé".as_bytes()), "aé".as_bytes());
        assert_eq!(cut(&"aé".as_bytes()[..2]), b"a");
        assert_eq!(cut(&"a🦀".as_bytes()[..4]), b"a");
        assert_eq!(cut(b"a\xffb"), b"a\xffb", "what is no text stays as it is");
    }
}
