//! `/webhooks`: what tenants subscribe to, and the actions on a webhook.

mod actions;
mod backlog_actions;
mod credentials;
mod headers;
mod input;
mod list;
mod settings;
mod unreadable;
mod view;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use secrecy::ExposeSecret;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::input::{WebhookInput, WebhookPatch};
use self::settings::Settings;
use self::view::{NewWebhookView, WebhookView};
use super::App;
use super::auth::{Manage, Read, Tenant};
use super::body::Json;
use super::etag::{Changed, IfMatch, changed, tagged};
use super::idempotency::{self, IdempotencyKey};
use super::page::NoQuery;
use super::path::One;
use super::problem::Problem;
use super::problem_sets::{ChangeProblems, CreateProblems, DeleteProblems, ReadProblems};
use super::receiver::ReceiverFields;
use crate::domain::id::{SecretId, TenantId, TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::engine::{SigningSecret, tls_digest};
use crate::store::StoreError;
use crate::store::webhooks::{NewWebhook, Origin, Salvaged, SecretInfo, Webhook, WebhookRef};

pub(super) use self::list::troubles;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list::list, create))
        .routes(routes!(read, update, delete))
        .routes(routes!(actions::test))
        .routes(routes!(actions::rotate_secret))
        .routes(routes!(actions::end_secret))
        .routes(routes!(actions::logs))
        .routes(routes!(backlog_actions::pause))
        .routes(routes!(backlog_actions::resume))
        .routes(routes!(backlog_actions::probe))
        .routes(routes!(backlog_actions::purge))
}

async fn find(app: &App, tenant: TenantNum, id: WebhookId) -> Result<Webhook, Problem> {
    app.store().webhook(tenant, id).await?.ok_or(Problem::no_such("webhook"))
}

/// The same for calls that need nothing else of the webhook's row, which may be damaged.
async fn find_ref(app: &App, tenant: TenantNum, id: WebhookId) -> Result<WebhookRef, Problem> {
    app.store().webhook_ref(tenant, id).await?.ok_or(Problem::no_such("webhook"))
}

/// Makes the view of a webhook that every answer shows.
async fn view_of(app: &App, tenant: TenantId, webhook: Webhook) -> Result<WebhookView, Problem> {
    let num = webhook.num;
    let secrets = app.store().secrets_of(&[&webhook], UnixMillis::now()).await?.remove(&num).unwrap_or_default();
    let receiver = app.engine().receivers(&[num]).await?.remove(&num).unwrap_or_default();
    Ok(WebhookView::new(webhook, tenant, secrets, ReceiverFields::new(num, &receiver)))
}

/// Creates a webhook.
///
/// Only this answer shows its secret; a rotation makes and shows a new one.
#[utoipa::path(post, path = "/webhooks", tag = "webhooks", operation_id = "createWebhook", request_body = WebhookInput,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = NewWebhookView), CreateProblems))]
async fn create(
    State(app): State<App>,
    tenant: Tenant<Manage>,
    _: NoQuery,
    key: IdempotencyKey,
    body: Json<WebhookInput>,
) -> Result<Response, Problem> {
    let Json { input, mut errors, text, .. } = body;
    let mut settings = Settings::default();
    let mut start_from = None;
    if let Some(WebhookInput { changes, start_from: given }) = input {
        settings.apply(changes, app.engine().guard(), &mut errors);
        start_from = given.value();
    }
    errors.into_result()?;
    let new = NewWebhook { start_from, ..new_webhook(tenant.num(), settings) };
    let secret = SecretInfo { id: SecretId::of(new.id, new.created_at), made_at: new.created_at, signs_until: None };
    let view = WebhookView::new(first_version(&new), tenant.row.id, vec![secret], ReceiverFields::default());
    let view = NewWebhookView::new(view, new.secret.expose_secret());
    let (once, exists) = (key.with(Some(tenant.num()), &text), Problem::from(StoreError::Exists));
    let (engine, by) = (app.engine(), tenant.author());
    idempotency::create(&app, once, "/webhooks", &view, exists, |once| engine.create_webhook(new, once, &by)).await
}

fn new_webhook(tenant: TenantNum, settings: Settings) -> NewWebhook {
    let Settings {
        name,
        url,
        events,
        headers,
        public_headers,
        policy,
        credentials,
        credentials_origin: _,
        description,
        metadata,
        is_active,
    } = settings;
    NewWebhook {
        id: WebhookId::generate(),
        tenant,
        name,
        url,
        events,
        headers,
        public_headers,
        policy,
        tls_digest: tls_digest(&credentials).map(Vec::from),
        credentials: credentials.non_empty(),
        description,
        metadata,
        is_active,
        secret: SigningSecret::generate().reveal().into(),
        created_at: UnixMillis::now(),
        start_from: None,
    }
}

/// The new webhook as its first answer shows it. The store gives the number, which is never shown.
fn first_version(new: &NewWebhook) -> Webhook {
    let NewWebhook { id, tenant, name, url, events, headers, policy, .. } = new;
    Webhook {
        num: WebhookNum(0),
        id: *id,
        tenant: *tenant,
        name: name.clone(),
        url: url.clone(),
        events: events.clone(),
        headers: headers.clone(),
        public_headers: new.public_headers.clone(),
        policy: policy.clone(),
        credentials: new.credentials.clone(),
        tls_digest: new.tls_digest.clone(),
        credentials_origin: Origin::of(url),
        description: new.description.clone(),
        metadata: new.metadata.clone(),
        is_active: new.is_active,
        inactive_reason: None,
        paused_at: None,
        version: 1,
        created_at: new.created_at,
        updated_at: new.created_at,
    }
}

/// Reads a webhook.
///
/// The answer never shows the secret; it hides the values of headers that are not public.
#[utoipa::path(get, path = "/webhooks/{id}", tag = "webhooks", operation_id = "readWebhook",
    params(("id" = String, Path)), responses((status = 200, body = WebhookView), ReadProblems))]
async fn read(
    State(app): State<App>,
    tenant: Tenant<Read>,
    _: NoQuery,
    One(id): One<WebhookId>,
) -> Result<Response, Problem> {
    let webhook = find(&app, tenant.num(), id).await?;
    let version = webhook.version;
    tagged(version, &view_of(&app, tenant.row.id, webhook).await?)
}

/// Changes a webhook with a JSON merge patch (RFC 7396).
///
/// Members that are not named stay; `null` restores a default. Members of which the stored value cannot be read must be
/// named (`422` says which).
#[utoipa::path(patch, path = "/webhooks/{id}", tag = "webhooks", operation_id = "updateWebhook",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), request_body = WebhookPatch,
    responses((status = 200, body = WebhookView), ChangeProblems))]
async fn update(
    State(app): State<App>,
    tenant: Tenant<Manage>,
    _: NoQuery,
    One(id): One<WebhookId>,
    if_match: IfMatch,
    body: Json<WebhookPatch>,
) -> Result<Response, Problem> {
    let Json { input, errors, .. } = body;
    let by = tenant.author();
    let changed = changed(|| async {
        let Salvaged { mut webhook, lost } = unreadable::salvaged(&app, tenant.num(), id).await?;
        if_match.check(webhook.version)?;
        let mut settings = Settings::of(&webhook);
        let mut errors = errors.clone();
        if let Some(WebhookPatch(changes)) = input.clone() {
            unreadable::require(&lost, &changes, &mut errors);
            settings.apply(changes, app.engine().guard(), &mut errors);
        }
        errors.into_result()?;
        settings.write_to(&mut webhook);
        Changed::of(app.engine().update_webhook(&webhook, &by).await)
    });
    let changed = changed.await?;
    let version = changed.version;
    tagged(version, &view_of(&app, tenant.row.id, changed).await?)
}

/// Deletes a webhook.
///
/// Its pending deliveries are cancelled.
#[utoipa::path(delete, path = "/webhooks/{id}", tag = "webhooks", operation_id = "deleteWebhook",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), DeleteProblems))]
async fn delete(
    State(app): State<App>,
    tenant: Tenant<Manage>,
    _: NoQuery,
    One(id): One<WebhookId>,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let by = tenant.author();
    let deleted = changed(|| async {
        let webhook = find_ref(&app, tenant.num(), id).await?;
        if_match.check(webhook.version.unwrap_or_default())?;
        Changed::of(app.engine().delete_webhook(webhook, &by).await)
    });
    deleted.await?;
    Ok(StatusCode::NO_CONTENT)
}
