//! `/admin-keys`: the keys with every scope and every tenant. Only an admin key may call it. The admin key of the
//! configuration is listed but cannot be changed here: it changes where it is set.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Admin, new_admin_key};
use super::body::{Input, Json};
use super::fields::{Given, Reader, line, moment};
use super::idempotency::{self, IdempotencyKey};
use super::keys::refuse_past_end;
use super::names::NAME;
use super::page::{NoQuery, PageParams, PageView, Query};
use super::path::{One, Segment};
use super::problem::Problem;
use super::problem_sets::{CreateProblems, ReadProblems, RemoveProblems};
use crate::domain::id::KeyId;
use crate::domain::moment::UnixMillis;
use crate::engine::Stale;
use crate::store::StoreError;
use crate::store::admin_keys::Revoked;
use crate::store::keys::{ApiKey, NewApiKey};

/// Id under which the API shows the admin key of the configuration.
const CONFIGURATION: &str = "configuration";

/// Name of the variable that sets this key.
const VARIABLE: &str = "POSTHASTE_ADMIN_KEY";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke))
}

#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct AdminKeyInput {
    #[schema(min_length = 1, max_length = 200, example = "on-call")]
    name: String,
    /// When the key expires; without it the key does not expire.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Given<UnixMillis>,
}

impl Input for AdminKeyInput {
    const FIELDS: &'static [&'static str] = &["name", "expiresAt"];

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let name = reader.required("name", |raw| line(raw, &NAME));
        let expires_at = reader.field("expiresAt", moment);
        Some(Self { name: name?, expires_at })
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AdminKey)]
pub(super) struct AdminKeyView {
    /// `configuration` for the key in `POSTHASTE_ADMIN_KEY`.
    #[schema(example = "key_0000000000000000000000000g")]
    id: String,
    name: String,
    /// `configuration` for the key in `POSTHASTE_ADMIN_KEY`, else `database`.
    source: &'static str,
    /// Null for the key of the configuration.
    #[schema(value_type = Option<String>, format = DateTime)]
    created_at: Option<UnixMillis>,
    /// Null for a key that does not expire.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<UnixMillis>,
    /// Accurate to about a minute; null for a key that was never used, and for the key of the configuration.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<UnixMillis>,
}

impl AdminKeyView {
    fn configured() -> Self {
        let (id, name, source) = (CONFIGURATION.to_owned(), VARIABLE.to_owned(), CONFIGURATION);
        Self { id, name, source, created_at: None, expires_at: None, last_used_at: None }
    }

    fn stored(key: ApiKey) -> Self {
        let ApiKey { id, name, created_at, expires_at, last_used_at, .. } = key;
        let id = id.to_string();
        Self { id, name, source: "database", created_at: Some(created_at), expires_at, last_used_at }
    }

    fn new(key: &NewApiKey) -> Self {
        let NewApiKey { id, name, created_at, expires_at, .. } = key;
        let (id, name, created_at) = (id.to_string(), name.clone(), Some(*created_at));
        Self { id, name, source: "database", created_at, expires_at: *expires_at, last_used_at: None }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = NewAdminKey)]
pub(super) struct NewAdminKeyView {
    #[serde(flatten)]
    view: AdminKeyView,
    /// The text of the key, shown in this answer only.
    key: String,
}

/// The admin key that a path names.
enum Named {
    Configured,
    Stored(KeyId),
}

impl Segment for Named {
    fn read(text: String) -> Result<Self, Problem> {
        if text == CONFIGURATION { Ok(Self::Configured) } else { KeyId::read(text).map(Self::Stored) }
    }
}

/// Lists the admin keys, newest first, without their texts.
///
/// The admin key of the configuration is the last.
#[utoipa::path(get, path = "/admin-keys", tag = "admin keys", operation_id = "listAdminKeys", params(PageParams),
    responses((status = 200, body = PageView<AdminKeyView>), ReadProblems))]
async fn list(State(app): State<App>, _: Admin, query: Query) -> Result<PageView<AdminKeyView>, Problem> {
    let list = query.list("admin-keys", None, &[])?;
    let page = app.store().admin_keys(list.position()?, list.limit).await?;
    let (last, mut next) = (page.items.last().map(|key| key.num), page.next);
    let mut views: Vec<AdminKeyView> = page.items.into_iter().map(AdminKeyView::stored).collect();
    if next.is_none() && app.keys().has_configured() {
        if views.len() as u64 == list.limit {
            next = last;
        } else {
            views.push(AdminKeyView::configured());
        }
    }
    Ok(list.answer(views, next))
}

/// Creates an admin key.
///
/// Only this answer shows the text of the key.
#[utoipa::path(post, path = "/admin-keys", tag = "admin keys", operation_id = "createAdminKey",
    request_body = AdminKeyInput, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = NewAdminKeyView), CreateProblems))]
async fn create(
    State(app): State<App>,
    admin: Admin,
    _: NoQuery,
    idempotency_key: IdempotencyKey,
    mut body: Json<AdminKeyInput>,
) -> Result<Response, Problem> {
    refuse_past_end(body.input.as_ref().map(|input| &input.expires_at), &mut body.errors);
    let (AdminKeyInput { name, expires_at }, text) = body.accepted()?;
    let (shown, new) = new_admin_key(name, expires_at.value());
    let view = NewAdminKeyView { view: AdminKeyView::new(&new), key: shown };
    let (once, exists) = (idempotency_key.with(None, &text), Problem::from(StoreError::Exists));
    let (store, by) = (app.store(), admin.author());
    idempotency::create(&app, once, "/admin-keys", &view, exists, |once| store.create_key(new, once, &by)).await
}

/// Revokes an admin key, and ends the sessions that it has opened, at once and on every node.
///
/// The last admin key and the admin key of the configuration cannot be revoked (`409`).
#[utoipa::path(delete, path = "/admin-keys/{id}", tag = "admin keys", operation_id = "deleteAdminKey",
    params(("id" = String, Path)), responses((status = 204), RemoveProblems))]
async fn revoke(
    State(app): State<App>,
    admin: Admin,
    _: NoQuery,
    One(named): One<Named>,
) -> Result<StatusCode, Problem> {
    let id = match named {
        Named::Stored(id) => id,
        Named::Configured if app.keys().has_configured() => {
            let detail = "this key is in the configuration; change POSTHASTE_ADMIN_KEY and start the server again";
            return Err(Problem::conflict("configured_key", detail));
        }
        Named::Configured => return Err(Problem::no_such("key")),
    };
    match app.store().revoke_admin_key(id, app.keys().has_configured(), &admin.author()).await? {
        Revoked::Done => {}
        Revoked::NoSuchKey => return Err(Problem::no_such("key")),
        Revoked::IsLast => {
            let detail = "the engine needs an admin key, and this is the last one; create another one first";
            return Err(Problem::conflict("last_admin_key", detail));
        }
    }
    app.keys().forget(Stale::AdminKeys);
    app.engine().notify_peers();
    Ok(StatusCode::NO_CONTENT)
}
