//! `/events`: publishes events, and shows what became of them. `publish` is the hot path of the API.

mod input;
mod known_types;
mod view;

use std::collections::{HashMap, HashSet};

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::input::{BatchInput, EventInput};
pub(super) use self::known_types::KnownTypes;
pub(super) use self::view::WARNINGS;
use self::view::{BatchView, EventSummary, EventView, ItemProblem, PublishedView};
use super::App;
use super::auth::{Manage, Publish, Read, Tenant};
use super::body::Json;
use super::cost::Cost;
use super::deliveries::{self, DeliveryView};
use super::fields::{At, Errors, Fault};
use super::hops::Hops;
use super::idempotency::{self, IdempotencyKey};
use super::page::{NoQuery, PageParams, PageView, Query};
use super::path::One;
use super::problem::Problem;
use super::problem_sets::{PublishProblems, ReadProblems, RemoveProblems};
use crate::domain::id::{EventId, EventSeq, TenantNum, WebhookNum};
use crate::journal::PublishAnswer;
use crate::store::StoreError;
use crate::store::erasure::Erasure;
use crate::store::events::{EventFilter, StoredEvent};
use crate::store::idempotency::OnceKey;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, publish))
        .routes(routes!(publish_batch))
        .routes(routes!(read))
        .routes(routes!(erase))
        .routes(routes!(list_deliveries))
}

/// Publishes an event.
///
/// The answer comes after the commit: from then on the event survives any crash.
#[utoipa::path(post, path = "/events", tag = "events", operation_id = "publishEvent", request_body = EventInput,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = PublishedView), PublishProblems))]
async fn publish(
    State(app): State<App>,
    tenant: Tenant<Publish>,
    _: NoQuery,
    key: IdempotencyKey,
    Hops(trail): Hops,
    body: Json<EventInput>,
) -> Result<Response, Problem> {
    let (event, text) = body.accepted()?;
    let key = key.with(Some(tenant.num()), &text);
    let kind = event.kind.clone();
    let PublishAnswer { published, is_repeated } = match published_before(&app, key.as_ref()).await? {
        Some(before) => before,
        None => {
            Declared::of(&tenant).require(&app, &kind, At::Member(&At::Root, "event")).await?;
            app.engine().publish(tenant.num(), vec![event.by(trail)], key).await?
        }
    };
    let published = published.first().ok_or_else(|| Problem::internal(&"an event was published without an answer"))?;
    let unknown = unknown_among(&app, &tenant, [kind.as_str()].into()).await;
    let is_unknown = unknown.contains(&kind);
    Ok(accepted(&PublishedView::new(kind, *published, is_unknown)?, is_repeated))
}

/// The types that the tenant's catalogue lacks. A tenant that takes declared types only has published no others.
async fn unknown_among(app: &App, tenant: &Tenant<Publish>, kinds: HashSet<&str>) -> HashSet<String> {
    if !tenant.row.allow_undeclared_types {
        return HashSet::new();
    }
    app.known_types().unknown_among(app.store(), tenant.num(), &kinds).await
}

fn accepted(view: &impl Serialize, is_repeated: bool) -> Response {
    let mut response = (StatusCode::ACCEPTED, axum::Json(view)).into_response();
    if is_repeated {
        idempotency::mark_replayed(&mut response);
    }
    response
}

/// The answer to the first request with this key.
pub(super) async fn published_before(app: &App, key: Option<&OnceKey>) -> Result<Option<PublishAnswer>, Problem> {
    let Some((_, answer)) = idempotency::first_answer(app, key).await? else { return Ok(None) };
    let published = serde_json::from_slice(&answer).map_err(|error| Problem::internal(&error))?;
    Ok(Some(PublishAnswer { published, is_repeated: true }))
}

/// Publishes up to 1,000 events.
///
/// Each event is judged on its own. Accepted events are committed together.
#[utoipa::path(post, path = "/events/batch", tag = "events", operation_id = "publishEvents", request_body = BatchInput,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = BatchView), PublishProblems))]
async fn publish_batch(
    State(app): State<App>,
    tenant: Tenant<Publish>,
    _: NoQuery,
    key: IdempotencyKey,
    Hops(trail): Hops,
    body: Json<BatchInput>,
) -> Result<Response, Problem> {
    let (BatchInput { events }, text) = body.accepted()?;
    let key = key.with(Some(tenant.num()), &text);
    let before = published_before(&app, key.as_ref()).await?;
    let well_formed = events.iter().filter(|event| event.is_ok()).count();
    let mut judged = events;
    if before.as_ref().is_none_or(|before| before.published.len() != well_formed) {
        judged = declared_only(&app, &tenant, judged).await?;
    }
    let (mut drafts, mut places) = (Vec::with_capacity(judged.len()), Vec::with_capacity(judged.len()));
    for event in judged {
        match event {
            Ok(event) => {
                places.push(Ok(event.kind.clone()));
                drafts.push(event.by(trail.clone()));
            }
            Err(problem) => places.push(Err(problem)),
        }
    }
    let expected = drafts.len();
    let PublishAnswer { published, is_repeated } = match before {
        Some(before) => before,
        None if drafts.is_empty() => PublishAnswer { published: Vec::new(), is_repeated: false },
        None => app.engine().publish(tenant.num(), drafts, key).await?,
    };
    if published.len() != expected {
        let detail = "the declared event types have changed since the first answer, which cannot be given again";
        return Err(Problem::conflict("first_answer_lost", detail));
    }
    let kinds = places.iter().flatten().map(String::as_str).collect();
    let unknown = unknown_among(&app, &tenant, kinds).await;
    Ok(accepted(&BatchView::new(places, published, &unknown)?, is_repeated))
}

type Judged = Vec<Result<EventInput, ItemProblem>>;

async fn declared_only(app: &App, tenant: &Tenant<Publish>, events: Judged) -> Result<Judged, Problem> {
    let mut declared = Declared::of(tenant);
    let mut judged = Vec::with_capacity(events.len());
    let list = At::Member(&At::Root, "events");
    for (place, event) in events.into_iter().enumerate() {
        judged.push(match event {
            Ok(event) if declared.allows(app, &event.kind).await? => Ok(event),
            Ok(_) => Err(ItemProblem::from(undeclared(At::Member(&At::Item(&list, place), "event")))),
            Err(problem) => Err(problem),
        });
    }
    Ok(judged)
}

/// The event types that a tenant's publishers may use. Remembers what it has looked up.
struct Declared {
    tenant: TenantNum,
    allow_undeclared: bool,
    known: HashMap<String, bool>,
}

impl Declared {
    fn of(tenant: &Tenant<Publish>) -> Self {
        let allow_undeclared = tenant.row.allow_undeclared_types;
        Self { tenant: tenant.num(), allow_undeclared, known: HashMap::new() }
    }

    async fn allows(&mut self, app: &App, kind: &str) -> Result<bool, StoreError> {
        if self.allow_undeclared {
            return Ok(true);
        }
        if let Some(known) = self.known.get(kind) {
            return Ok(*known);
        }
        let found = app.store().event_type(self.tenant, kind).await?.is_some();
        self.known.insert(kind.to_owned(), found);
        Ok(found)
    }

    async fn require(mut self, app: &App, kind: &str, at: At<'_>) -> Result<(), Problem> {
        if self.allows(app, kind).await? { Ok(()) } else { Err(undeclared(at)) }
    }
}

fn undeclared(at: At<'_>) -> Problem {
    let mut errors = Errors::default();
    let message = "this event type is not declared, and the tenant accepts declared ones only; see GET /event-types";
    errors.add(&at, Fault::new("undeclared", message));
    errors.into_problem()
}

/// Lists events, newest first, without their data.
#[utoipa::path(get, path = "/events", tag = "events", operation_id = "listEvents",
    params(("callerId" = Option<String>, Query, description = "the id that the publisher gave the event"),
        ("event" = Option<String>, Query, description = "the exact event type"),
        ("since" = Option<String>, Query, description = "accepted at or after this RFC 3339 time"),
        ("until" = Option<String>, Query, description = "accepted before this RFC 3339 time"), PageParams),
    responses((status = 200, body = PageView<EventSummary>), ReadProblems))]
async fn list(State(app): State<App>, tenant: Tenant<Read>, query: Query) -> Result<PageView<EventSummary>, Problem> {
    let list = query.list("events", Some(tenant.num()), &["callerId", "event", "since", "until"])?;
    let filter = EventFilter {
        caller_id: list.filter("callerId")?,
        kind: list.filter("event")?,
        since: list.filter("since")?,
        until: list.filter("until")?,
    };
    let before = list.position()?.map(EventSeq);
    let page = app.store().events(tenant.num(), &filter, before, list.limit).await?;
    let views = page.items.into_iter().map(EventSummary::from).collect();
    Ok(list.answer(views, page.next))
}

async fn find(app: &App, tenant: TenantNum, EventId(seq): EventId) -> Result<StoredEvent, Problem> {
    app.store().event(tenant, seq).await?.ok_or(Problem::no_such("event"))
}

/// Reads an event with its data and the progress of its deliveries.
#[utoipa::path(get, path = "/events/{id}", tag = "events", operation_id = "readEvent", params(("id" = String, Path)),
    responses((status = 200, body = EventView), ReadProblems))]
async fn read(
    State(app): State<App>,
    tenant: Tenant<Read>,
    _: NoQuery,
    One(id): One<EventId>,
    Extension(cost): Extension<Cost>,
) -> Result<Response, Problem> {
    let event = find(&app, tenant.num(), id).await?;
    // The stored text and the answer are in memory together.
    cost.grow(2 * event.body_bytes)?;
    let progress = app.store().progress(&event).await?;
    let body = app.store().event_body(event.tenant, event.seq).await?.ok_or(Problem::no_such("event"))?;
    EventView::new(&event, progress, &body)?.answer()
}

/// Erases the payload of an event: its data, and what receivers answered.
///
/// The event and its deliveries stay, and can still be read. Their data is null, and nothing can be sent again. An event
/// that is still owed is refused.
#[utoipa::path(delete, path = "/events/{id}/payload", tag = "events", operation_id = "eraseEventPayload",
    params(("id" = String, Path)), responses((status = 204), RemoveProblems))]
async fn erase(
    State(app): State<App>,
    tenant: Tenant<Manage>,
    _: NoQuery,
    One(EventId(event)): One<EventId>,
) -> Result<StatusCode, Problem> {
    match app.store().erase_payload(tenant.num(), event, &tenant.author()).await? {
        Erasure::Erased => Ok(StatusCode::NO_CONTENT),
        Erasure::NotFound => Err(Problem::no_such("event")),
        Erasure::Owed => {
            let detail = "deliveries of this event are pending; wait until they end, or cancel them, and try again";
            Err(Problem::conflict("event_owed", detail))
        }
    }
}

/// Lists the deliveries of an event.
///
/// Deliveries that are owed but not recorded yet are included.
#[utoipa::path(get, path = "/events/{id}/deliveries", tag = "events", operation_id = "listEventDeliveries",
    params(("id" = String, Path), PageParams),
    responses((status = 200, body = PageView<DeliveryView>), ReadProblems))]
async fn list_deliveries(
    State(app): State<App>,
    tenant: Tenant<Read>,
    One(id): One<EventId>,
    query: Query,
) -> Result<PageView<DeliveryView>, Problem> {
    let list = query.list(&format!("deliveries of {id}"), Some(tenant.num()), &[])?;
    let after = list.position()?.map_or(WebhookNum(0), |last: crate::domain::id::DeliveryId| last.webhook);
    let event = find(&app, tenant.num(), id).await?;
    let found = app.engine().deliveries_of_event(&event, after, list.limit).await?;
    Ok(deliveries::cut(&list, found))
}
