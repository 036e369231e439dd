//! `/tenants`: the tenants, which are isolated from each other. Only an admin key may call it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Admin;
use super::body::{Input, Json};
use super::catalogue::default_catalogue;
use super::etag::{Changed, IfMatch, changed, tagged};
use super::fields::{Given, Reader, boolean, integer, line};
use super::idempotency::{self, IdempotencyKey};
use super::names::NAME;
use super::page::{NoQuery, PageParams, PageView, Query};
use super::path::One;
use super::problem::Problem;
use super::problem_sets::{ChangeProblems, CreateProblems, DeleteProblems, ReadProblems};
use crate::domain::id::{TenantId, TenantNum};
use crate::domain::moment::UnixMillis;
use crate::domain::retention::Retention;
use crate::store::StoreError;
use crate::store::tenants::{NewTenant, Tenant, TenantRetention};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, update, delete))
}

#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct TenantInput {
    #[schema(min_length = 1, max_length = 200, example = "Acme")]
    name: String,
    /// Whether events of undeclared types are accepted; true by default.
    #[schema(value_type = Option<bool>)]
    allow_undeclared_types: Given<bool>,
    #[schema(value_type = Option<RetentionChanges>)]
    retention: Given<RetentionChanges>,
}

/// How long settled work of the tenant is kept. `null` is the setting of the engine.
#[derive(Debug, Clone, PartialEq, ToSchema)]
#[schema(as = RetentionInput, rename_all = "camelCase")]
pub(super) struct RetentionChanges {
    /// Events with their deliveries and attempts, from when they were accepted.
    #[schema(value_type = Option<u32>)]
    events_seconds: Given<u32>,
    /// Heads and bodies of receivers' answers, from when the attempt was made.
    #[schema(value_type = Option<u32>)]
    responses_seconds: Given<u32>,
}

impl RetentionChanges {
    const FIELDS: &'static [&'static str] = &["eventsSeconds", "responsesSeconds"];

    fn read(reader: &mut Reader<'_, '_>) -> Self {
        Self {
            events_seconds: reader.field("eventsSeconds", |raw| integer(raw, &Retention::OF_TENANT)),
            responses_seconds: reader.field("responsesSeconds", |raw| integer(raw, &Retention::OF_TENANT)),
        }
    }
}

/// Merges what is given into what a tenant has.
fn merge_retention(given: Given<RetentionChanges>, target: &mut TenantRetention) {
    match given {
        Given::Value(RetentionChanges { events_seconds, responses_seconds }) => {
            events_seconds.optional().merge_into(&mut target.events, || None);
            responses_seconds.optional().merge_into(&mut target.responses, || None);
        }
        Given::Null => *target = TenantRetention::default(),
        Given::Absent | Given::Invalid => {}
    }
}

impl Input for TenantInput {
    const FIELDS: &'static [&'static str] = &["name", "allowUndeclaredTypes", "retention"];

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let name = reader.required("name", |raw| line(raw, &NAME));
        let allow_undeclared_types = reader.field("allowUndeclaredTypes", boolean);
        let retention = reader.object("retention", RetentionChanges::FIELDS, RetentionChanges::read);
        Some(Self { name: name?, allow_undeclared_types, retention })
    }
}

#[derive(Debug, Clone, ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct TenantPatch {
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    name: Given<String>,
    #[schema(value_type = Option<bool>)]
    allow_undeclared_types: Given<bool>,
    #[schema(value_type = Option<RetentionChanges>)]
    retention: Given<RetentionChanges>,
}

impl Input for TenantPatch {
    const FIELDS: &'static [&'static str] = TenantInput::FIELDS;

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let name = reader.field("name", |raw| line(raw, &NAME));
        reader.demand_if_null("name", &name);
        let allow_undeclared_types = reader.field("allowUndeclaredTypes", boolean);
        let retention = reader.object("retention", RetentionChanges::FIELDS, RetentionChanges::read);
        Some(Self { name, allow_undeclared_types, retention })
    }
}

impl TenantPatch {
    fn apply(self, tenant: &mut Tenant) {
        let Self { name, allow_undeclared_types, retention } = self;
        merge_retention(retention, &mut tenant.retention);
        name.merge_into(&mut tenant.name, String::new);
        allow_undeclared_types.merge_into(&mut tenant.allow_undeclared_types, || true);
    }
}

/// How long settled work of the tenant is kept; null: as long as the engine is configured to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Retention)]
struct RetentionView {
    events_seconds: Option<u32>,
    responses_seconds: Option<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Tenant)]
pub(super) struct TenantView {
    #[schema(value_type = String)]
    id: TenantId,
    name: String,
    allow_undeclared_types: bool,
    retention: RetentionView,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMillis,
    #[schema(value_type = String, format = DateTime)]
    updated_at: UnixMillis,
}

impl From<Tenant> for TenantView {
    fn from(tenant: Tenant) -> Self {
        let Tenant { num: _, id, name, allow_undeclared_types, retention, version: _, created_at, updated_at } = tenant;
        let TenantRetention { events, responses } = retention;
        let retention = RetentionView { events_seconds: events, responses_seconds: responses };
        Self { id, name, allow_undeclared_types, retention, created_at, updated_at }
    }
}

pub(super) async fn find(app: &App, id: TenantId) -> Result<Tenant, Problem> {
    app.store().tenant(id).await?.ok_or(Problem::no_such("tenant"))
}

/// Lists tenants, newest first.
#[utoipa::path(get, path = "/tenants", tag = "tenants", operation_id = "listTenants", params(PageParams),
    responses((status = 200, body = PageView<TenantView>), ReadProblems))]
async fn list(State(app): State<App>, _: Admin, query: Query) -> Result<PageView<TenantView>, Problem> {
    let list = query.list("tenants", None, &[])?;
    let page = app.store().tenants(list.position()?, list.limit).await?;
    let views = page.items.into_iter().map(TenantView::from).collect();
    Ok(list.answer(views, page.next))
}

/// Creates a tenant with the default event types.
#[utoipa::path(post, path = "/tenants", tag = "tenants", operation_id = "createTenant", request_body = TenantInput,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = TenantView), CreateProblems))]
async fn create(
    State(app): State<App>,
    admin: Admin,
    _: NoQuery,
    key: IdempotencyKey,
    body: Json<TenantInput>,
) -> Result<Response, Problem> {
    let (TenantInput { name, allow_undeclared_types, retention: given }, text) = body.accepted()?;
    let mut retention = TenantRetention::default();
    merge_retention(given, &mut retention);
    let new = NewTenant {
        id: TenantId::generate(),
        name,
        allow_undeclared_types: allow_undeclared_types.value().unwrap_or(true),
        retention,
        created_at: UnixMillis::now(),
        catalogue: default_catalogue(),
    };
    let view = TenantView::from(first_version(&new));
    let exists = Problem::from(StoreError::Exists);
    let (once, store, by) = (key.with(None, &text), app.store(), admin.author());
    idempotency::create(&app, once, "/tenants", &view, exists, |once| store.create_tenant(new, once, &by)).await
}

/// The new tenant as its first answer shows it. The store gives the number, which is never shown.
fn first_version(new: &NewTenant) -> Tenant {
    let NewTenant { id, name, allow_undeclared_types, retention, created_at, catalogue: _ } = new;
    Tenant {
        num: TenantNum(0),
        id: *id,
        name: name.clone(),
        allow_undeclared_types: *allow_undeclared_types,
        retention: *retention,
        version: 1,
        created_at: *created_at,
        updated_at: *created_at,
    }
}

/// Reads a tenant.
#[utoipa::path(get, path = "/tenants/{id}", tag = "tenants", operation_id = "readTenant",
    params(("id" = String, Path)), responses((status = 200, body = TenantView), ReadProblems))]
async fn read(State(app): State<App>, _: Admin, _: NoQuery, One(id): One<TenantId>) -> Result<Response, Problem> {
    let tenant = find(&app, id).await?;
    tagged(tenant.version, &TenantView::from(tenant))
}

/// Changes a tenant.
#[utoipa::path(patch, path = "/tenants/{id}", tag = "tenants", operation_id = "updateTenant",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), request_body = TenantPatch,
    responses((status = 200, body = TenantView), ChangeProblems))]
async fn update(
    State(app): State<App>,
    admin: Admin,
    _: NoQuery,
    One(id): One<TenantId>,
    if_match: IfMatch,
    body: Json<TenantPatch>,
) -> Result<Response, Problem> {
    let (patch, _) = body.accepted()?;
    let by = admin.author();
    let changed = changed(|| async {
        let mut tenant = find(&app, id).await?;
        if_match.check(tenant.version)?;
        patch.clone().apply(&mut tenant);
        Changed::of(app.store().update_tenant(&tenant, UnixMillis::now(), &by).await)
    });
    let tenant = changed.await?;
    app.keys().forget_tenant(tenant.num);
    app.engine().notify_peers();
    tagged(tenant.version, &TenantView::from(tenant))
}

/// Deletes a tenant with its keys and webhooks.
///
/// Their pending deliveries are cancelled.
#[utoipa::path(delete, path = "/tenants/{id}", tag = "tenants", operation_id = "deleteTenant",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), DeleteProblems))]
async fn delete(
    State(app): State<App>,
    admin: Admin,
    _: NoQuery,
    One(id): One<TenantId>,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let by = admin.author();
    let deleted = changed(|| async {
        let tenant = find(&app, id).await?;
        if_match.check(tenant.version)?;
        Changed::of(app.engine().delete_tenant(&tenant, &by).await.map(|()| tenant))
    });
    app.keys().forget_tenant(deleted.await?.num);
    Ok(StatusCode::NO_CONTENT)
}
