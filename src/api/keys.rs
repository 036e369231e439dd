//! `/tenants/{id}/keys`: the keys of a tenant. Only an admin key may call it.

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
use super::fields::{At, Errors, Fault, Given, Reader, line, moment, word};
use super::idempotency::{self, IdempotencyKey};
use super::key;
use super::names::NAME;
use super::page::{NoQuery, PageParams, PageView, Query};
use super::path::{One, Two};
use super::problem::Problem;
use super::problem_sets::{CreateProblems, ReadProblems, RemoveProblems};
use super::scope::Scope;
use super::tenants;
use crate::domain::id::{KeyId, TenantId};
use crate::domain::moment::UnixMillis;
use crate::store::StoreError;
use crate::store::keys::{ApiKey, NewApiKey};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(delete))
}

#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct KeyInput {
    #[schema(min_length = 1, max_length = 200, example = "production publisher")]
    name: String,
    /// One or more of `read`, `publish`, `manage`, `operate`.
    #[schema(value_type = Vec<String>, min_items = 1, example = json!(["publish"]))]
    scopes: Vec<Scope>,
    /// When the key expires; without it the key does not expire.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Given<UnixMillis>,
}

impl Input for KeyInput {
    const FIELDS: &'static [&'static str] = &["name", "scopes", "expiresAt"];

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let name = reader.required("name", |raw| line(raw, &NAME));
        let known = Scope::ALL.map(|scope| (scope.as_str(), scope));
        let given = reader.list("scopes", &(1..=Scope::ALL.len()), |at, raw, errors| {
            word(raw, &known).map_err(|fault| errors.add(&at, fault)).ok()
        });
        reader.demand("scopes", &given);
        let expires_at = reader.field("expiresAt", moment);
        let mut scopes = Vec::with_capacity(Scope::ALL.len());
        for scope in given.value()? {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        Some(Self { name: name?, scopes, expires_at })
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Key)]
pub(super) struct KeyView {
    #[schema(value_type = String)]
    id: KeyId,
    name: String,
    scopes: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMillis,
    /// Null for a key that does not expire.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<UnixMillis>,
    /// Accurate to about a minute; null for a key that was never used.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<UnixMillis>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        let ApiKey {
            num: _,
            id,
            tenant: _,
            name,
            scopes,
            digest: _,
            created_at,
            expires_at,
            last_used_at,
            opened_by: _,
        } = key;
        Self { id, name, scopes, created_at, expires_at, last_used_at }
    }
}

impl KeyView {
    fn new(key: &NewApiKey) -> Self {
        let NewApiKey { id, tenant: _, name, scopes, digest: _, created_at, expires_at } = key;
        let (name, scopes) = (name.clone(), scopes.clone());
        Self { id: *id, name, scopes, created_at: *created_at, expires_at: *expires_at, last_used_at: None }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = NewKey)]
pub(super) struct NewKeyView {
    #[serde(flatten)]
    view: KeyView,
    /// The text of the key, shown in this answer only.
    key: String,
}

/// Refuses an expiry that has passed already, which is a mistake.
pub(super) fn refuse_past_end(expires_at: Option<&Given<UnixMillis>>, errors: &mut Errors) {
    let now = UnixMillis::now_reference();
    if let Some(Given::Value(expires_at)) = expires_at
        && *expires_at <= now
    {
        let fault = Fault::new("out_of_range", format!("{expires_at} was given, a time after {now} is accepted"));
        errors.add(&At::Member(&At::Root, "expiresAt"), fault);
    }
}

/// Lists a tenant's keys, newest first, without their texts.
#[utoipa::path(get, path = "/tenants/{id}/keys", tag = "tenants", operation_id = "listKeys",
    params(("id" = String, Path), PageParams), responses((status = 200, body = PageView<KeyView>), ReadProblems))]
async fn list(
    State(app): State<App>,
    _: Admin,
    One(id): One<TenantId>,
    query: Query,
) -> Result<PageView<KeyView>, Problem> {
    let tenant = tenants::find(&app, id).await?;
    let list = query.list("keys", Some(tenant.num), &[])?;
    let page = app.store().keys(tenant.num, list.position()?, list.limit).await?;
    let views = page.items.into_iter().map(KeyView::from).collect();
    Ok(list.answer(views, page.next))
}

/// Creates a key.
///
/// Only this answer shows the text of the key.
#[utoipa::path(post, path = "/tenants/{id}/keys", tag = "tenants", operation_id = "createKey", request_body = KeyInput,
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = NewKeyView), CreateProblems))]
async fn create(
    State(app): State<App>,
    admin: Admin,
    _: NoQuery,
    One(id): One<TenantId>,
    idempotency_key: IdempotencyKey,
    mut body: Json<KeyInput>,
) -> Result<Response, Problem> {
    let tenant = tenants::find(&app, id).await?;
    refuse_past_end(body.input.as_ref().map(|input| &input.expires_at), &mut body.errors);
    let (KeyInput { name, scopes, expires_at }, text) = body.accepted()?;
    let scopes: Vec<String> = scopes.into_iter().map(|scope| scope.as_str().to_owned()).collect();
    let (shown, new) = key::mint(Some(tenant.num), name, scopes, expires_at.value());
    let view = NewKeyView { view: KeyView::new(&new), key: shown };
    let (once, exists) = (idempotency_key.with(None, &text), Problem::from(StoreError::Exists));
    let (store, by) = (app.store(), admin.author());
    idempotency::create(&app, once, &format!("/tenants/{id}/keys"), &view, exists, |once| {
        store.create_key(new, once, &by)
    })
    .await
}

/// Deletes a key, and ends the sessions that it has opened.
///
/// Both stop working at once.
#[utoipa::path(delete, path = "/tenants/{id}/keys/{keyId}", tag = "tenants", operation_id = "deleteKey",
    params(("id" = String, Path), ("keyId" = String, Path)), responses((status = 204), RemoveProblems))]
async fn delete(
    State(app): State<App>,
    admin: Admin,
    _: NoQuery,
    Two(id, key): Two<TenantId, KeyId>,
) -> Result<StatusCode, Problem> {
    let tenant = tenants::find(&app, id).await?;
    if !app.store().delete_key(tenant.num, key, &admin.author()).await? {
        return Err(Problem::no_such("key"));
    }
    // Also forgets the sessions that the key has opened.
    app.keys().forget_tenant(tenant.num);
    app.engine().notify_peers();
    Ok(StatusCode::NO_CONTENT)
}
