//! `/sessions`: lists open sessions with their keys, and ends sessions other than the caller's own.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Manage, Tenants};
use super::page::{NoQuery, PageParams, PageView, Query};
use super::path::One;
use super::problem::Problem;
use super::problem_sets::{ReadProblems, RemoveProblems};
use crate::domain::id::{KeyId, SessionId, TenantId};
use crate::domain::moment::UnixMillis;
use crate::store::sessions::Session;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(end))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OpenSession)]
struct OpenSessionView {
    #[schema(value_type = String, example = "ses_0000000000000000000000000g")]
    id: SessionId,
    /// Null for an admin's session.
    #[schema(value_type = Option<String>)]
    tenant_id: Option<TenantId>,
    /// The key that opened the session; null for the admin key of the configuration.
    #[schema(value_type = Option<String>)]
    key_id: Option<KeyId>,
    /// Null for the admin key of the configuration.
    key_name: Option<String>,
    scopes: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMillis,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<UnixMillis>,
    /// Accurate to about a minute; null for a session that was never used.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<UnixMillis>,
}

impl From<Session> for OpenSessionView {
    fn from(session: Session) -> Self {
        let Session { num: _, id, tenant, key, scopes, created_at, expires_at, last_used_at } = session;
        let (key_id, key_name) = key.unzip();
        Self { id, tenant_id: tenant, key_id, key_name, scopes, created_at, expires_at, last_used_at }
    }
}

/// Lists open sessions with the keys that opened them, newest first.
///
/// The list has the sessions of the tenant. An admin key that names no tenant sees the sessions of all tenants and of
/// admins.
#[utoipa::path(get, path = "/sessions", tag = "session", operation_id = "listSessions", params(PageParams),
    responses((status = 200, body = PageView<OpenSessionView>), ReadProblems))]
async fn list(
    State(app): State<App>,
    tenants: Tenants<Manage>,
    query: Query,
) -> Result<PageView<OpenSessionView>, Problem> {
    let list = query.list("sessions", tenants.num(), &[])?;
    let now = UnixMillis::now_reference();
    let page = app.store().sessions(tenants.num(), now, list.position()?, list.limit).await?;
    let views = page.items.into_iter().map(OpenSessionView::from).collect();
    Ok(list.answer(views, page.next))
}

/// Ends a session, at once and on every node.
#[utoipa::path(delete, path = "/sessions/{id}", tag = "session", operation_id = "deleteSession",
    params(("id" = String, Path)), responses((status = 204), RemoveProblems))]
async fn end(
    State(app): State<App>,
    tenants: Tenants<Manage>,
    _: NoQuery,
    One(id): One<SessionId>,
) -> Result<StatusCode, Problem> {
    if !app.store().end_session(tenants.num(), id, &tenants.author()).await? {
        return Err(Problem::no_such("session"));
    }
    app.keys().forget_session(id);
    app.engine().notify_peers();
    Ok(StatusCode::NO_CONTENT)
}
