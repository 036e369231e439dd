//! `/event-types`: the event types that a tenant has declared.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Manage, Read, Tenant};
use super::body::{Input, Json};
use super::etag::{Changed, IfMatch, changed, tagged};
use super::fields::{Given, Reader, prose};
use super::idempotency::{self, IdempotencyKey};
use super::names;
use super::page::{NoQuery, PageParams, PageView, Query};
use super::path::One;
use super::problem::Problem;
use super::problem_sets::{ChangeProblems, CreateProblems, DeleteProblems, ReadProblems};
use crate::domain::id::TenantNum;
use crate::domain::moment::UnixMillis;
use crate::store::event_types::EventType;

/// Characters of a description, of an event type and of every other object that has one.
pub(super) const DESCRIPTION: std::ops::RangeInclusive<usize> = 0..=2000;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, update, delete))
}

#[derive(Debug, ToSchema)]
pub(super) struct EventTypeInput {
    /// Words of letters, digits, `_` and `-`, joined by dots.
    #[schema(max_length = 128, pattern = r"^[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*$", example = "invoice.paid")]
    name: String,
    #[schema(value_type = Option<String>, max_length = 2000)]
    description: Given<String>,
}

impl Input for EventTypeInput {
    const FIELDS: &'static [&'static str] = &["name", "description"];

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let name = reader.required("name", names::event_type);
        let description = reader.field("description", |raw| prose(raw, &DESCRIPTION));
        Some(Self { name: name?, description })
    }
}

#[derive(Debug, Clone, ToSchema)]
pub(super) struct EventTypePatch {
    #[schema(value_type = Option<String>, max_length = 2000)]
    description: Given<String>,
}

impl Input for EventTypePatch {
    const FIELDS: &'static [&'static str] = &["description"];

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        Some(Self { description: reader.field("description", |raw| prose(raw, &DESCRIPTION)) })
    }
}

impl EventTypePatch {
    fn apply(self, found: &mut EventType) {
        let Self { description } = self;
        match description {
            Given::Absent | Given::Invalid => {}
            Given::Null => found.description = None,
            Given::Value(text) => found.description = Some(text),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventType)]
pub(super) struct EventTypeView {
    name: String,
    description: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMillis,
    #[schema(value_type = String, format = DateTime)]
    updated_at: UnixMillis,
}

impl From<EventType> for EventTypeView {
    fn from(found: EventType) -> Self {
        let EventType { tenant: _, name, description, version: _, created_at, updated_at } = found;
        Self { name, description, created_at, updated_at }
    }
}

async fn find(app: &App, tenant: TenantNum, name: &str) -> Result<EventType, Problem> {
    app.store().event_type(tenant, name).await?.ok_or(Problem::no_such("event type"))
}

/// Lists the declared event types by name.
#[utoipa::path(get, path = "/event-types", tag = "event types", operation_id = "listEventTypes", params(PageParams),
    responses((status = 200, body = PageView<EventTypeView>), ReadProblems))]
async fn list(State(app): State<App>, tenant: Tenant<Read>, query: Query) -> Result<PageView<EventTypeView>, Problem> {
    let list = query.list("event-types", Some(tenant.num()), &[])?;
    let after: Option<String> = list.position()?;
    let mut found = app.store().event_types(tenant.num(), after.as_deref(), list.limit).await?;
    let next = list.cut(&mut found, |last| last.name.clone());
    Ok(list.answer(found.into_iter().map(EventTypeView::from).collect(), next))
}

/// Declares an event type.
#[utoipa::path(post, path = "/event-types", tag = "event types", operation_id = "createEventType",
    request_body = EventTypeInput, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = EventTypeView), CreateProblems))]
async fn create(
    State(app): State<App>,
    tenant: Tenant<Manage>,
    _: NoQuery,
    key: IdempotencyKey,
    body: Json<EventTypeInput>,
) -> Result<Response, Problem> {
    let (EventTypeInput { name, description }, text) = body.accepted()?;
    let (num, now, description) = (tenant.num(), UnixMillis::now(), description.value());
    let view = EventTypeView { name: name.clone(), description: description.clone(), created_at: now, updated_at: now };
    let exists = Problem::conflict("already_exists", format!("the event type {name} is declared already"));
    let (once, store, by) = (key.with(Some(num), &text), app.store(), tenant.author());
    let create = |once| store.create_event_type(num, name, description, now, once, &by);
    idempotency::create(&app, once, "/event-types", &view, exists, create).await
}

/// Reads an event type.
#[utoipa::path(get, path = "/event-types/{name}", tag = "event types", operation_id = "readEventType",
    params(("name" = String, Path)), responses((status = 200, body = EventTypeView), ReadProblems))]
async fn read(
    State(app): State<App>,
    tenant: Tenant<Read>,
    _: NoQuery,
    One(name): One<String>,
) -> Result<Response, Problem> {
    let found = find(&app, tenant.num(), &name).await?;
    tagged(found.version, &EventTypeView::from(found))
}

/// Changes the description of an event type.
#[utoipa::path(patch, path = "/event-types/{name}", tag = "event types", operation_id = "updateEventType",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header)), request_body = EventTypePatch,
    responses((status = 200, body = EventTypeView), ChangeProblems))]
async fn update(
    State(app): State<App>,
    tenant: Tenant<Manage>,
    _: NoQuery,
    One(name): One<String>,
    if_match: IfMatch,
    body: Json<EventTypePatch>,
) -> Result<Response, Problem> {
    let (patch, _) = body.accepted()?;
    let by = tenant.author();
    let changed = changed(|| async {
        let mut found = find(&app, tenant.num(), &name).await?;
        if_match.check(found.version)?;
        patch.clone().apply(&mut found);
        Changed::of(app.store().update_event_type(&found, UnixMillis::now(), &by).await)
    });
    let changed = changed.await?;
    tagged(changed.version, &EventTypeView::from(changed))
}

/// Removes an event type from the declared ones.
///
/// Events of this type stay.
#[utoipa::path(delete, path = "/event-types/{name}", tag = "event types", operation_id = "deleteEventType",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), DeleteProblems))]
async fn delete(
    State(app): State<App>,
    tenant: Tenant<Manage>,
    _: NoQuery,
    One(name): One<String>,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let by = tenant.author();
    let deleted = changed(|| async {
        let found = find(&app, tenant.num(), &name).await?;
        if_match.check(found.version)?;
        Changed::of(app.store().delete_event_type(&found, &by).await)
    });
    deleted.await?;
    Ok(StatusCode::NO_CONTENT)
}
