//! Actions on a webhook: test it, rotate its secret, read its log.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use utoipa::ToSchema;

use crate::api::App;
use crate::api::auth::{Manage, Operate, Read, Tenant};
use crate::api::body::{Input, NoBody, OptionalJson};
use crate::api::deliveries::{self, DeliveryParams, DeliveryView, TestAnswer};
use crate::api::etag::{Changed, IfMatch, at_version, changed};
use crate::api::events::published_before;
use crate::api::fields::{Given, Reader, integer};
use crate::api::idempotency::{IdempotencyKey, StoredAnswer, mark_replayed};
use crate::api::page::{NoQuery, PageParams, PageView, Query};
use crate::api::path::{One, Two};
use crate::api::problem::Problem;
use crate::api::problem_sets::{ChangeProblems, DeleteProblems, ReadProblems};
use crate::api::receiver::ReceiverFields;
use crate::domain::id::{SecretId, WebhookId};
use crate::domain::moment::UnixMillis;
use crate::engine::{SigningSecret, tested};
use crate::store::StoreError;
use crate::store::webhooks::{Rotation, SecretEnd, SecretInfo, Webhook};

use super::view::{NewWebhookView, WebhookView};
use super::{find, find_ref};

/// Seconds for which an old secret may go on signing, from none to a week.
const GRACE: std::ops::RangeInclusive<u32> = 0..=604_800;

/// One day, within which most receivers are deployed anew.
const DEFAULT_GRACE: u32 = 86_400;

/// Sends a `webhook.test` event to a webhook, and waits for the outcome.
///
/// The event takes the path that every event takes. The answer comes after the webhook's `timeoutMs` plus 10 s
/// at the latest. A webhook that is switched off, paused or quarantined is refused at once (`409`).
#[utoipa::path(post, path = "/webhooks/{id}/test", tag = "webhooks", operation_id = "testWebhook",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header),
        ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = TestAnswer), ChangeProblems))]
pub(super) async fn test(
    State(app): State<App>,
    tenant: Tenant<Operate>,
    _: NoQuery,
    One(id): One<WebhookId>,
    if_match: IfMatch,
    key: IdempotencyKey,
    _: NoBody,
) -> Result<Response, Problem> {
    let webhook = find_ref(&app, tenant.num(), id).await?;
    let key = key.with(Some(tenant.num()), &[]);
    let first = published_before(&app, key.as_ref()).await?;
    let is_replayed = first.is_some();
    let delivery = match first {
        Some(answer) => tested(&answer.published, webhook.num).ok_or(Problem::no_such("delivery"))?,
        None => {
            if_match.only(webhook.version)?;
            app.engine().test(webhook.num, key, &tenant.author()).await?
        }
    };
    let mut response = axum::Json(deliveries::test_answer(&app, tenant.num(), delivery).await?).into_response();
    if is_replayed {
        mark_replayed(&mut response);
    }
    Ok(response)
}

#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::api) struct RotateInput {
    /// Maximum seconds for which older secrets go on signing beside the new one; 0 ends all of them.
    #[schema(value_type = Option<u32>, maximum = 604800, default = 86400)]
    grace_seconds: Given<u32>,
}

impl Input for RotateInput {
    const FIELDS: &'static [&'static str] = &["graceSeconds"];

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        Some(Self { grace_seconds: reader.field("graceSeconds", |raw| integer(raw, &GRACE)) })
    }
}

/// Makes a new secret for a webhook.
///
/// Only this answer shows the text of the secret.
#[utoipa::path(post, path = "/webhooks/{id}/secret/rotate", tag = "webhooks", operation_id = "rotateSecret",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header),
        ("Idempotency-Key" = Option<String>, Header)),
    request_body = Option<RotateInput>,
    responses((status = 200, body = NewWebhookView), ChangeProblems))]
pub(super) async fn rotate_secret(
    State(app): State<App>,
    tenant: Tenant<Manage>,
    _: NoQuery,
    One(id): One<WebhookId>,
    if_match: IfMatch,
    key: IdempotencyKey,
    OptionalJson(body): OptionalJson<RotateInput>,
) -> Result<Response, Problem> {
    let (RotateInput { grace_seconds }, sent) = body.accepted()?;
    let grace = Duration::from_secs(grace_seconds.value().unwrap_or(DEFAULT_GRACE).into());
    let key = key.with(Some(tenant.num()), &sent);
    if let Some(first) = StoredAnswer::first(&app, key.as_ref()).await? {
        return Ok(first);
    }
    let (secret, by) = (SigningSecret::generate(), tenant.author());
    let text = secret.reveal().into();
    let rotated = changed(|| async {
        let webhook = find(&app, tenant.num(), id).await?;
        let only = if_match.only(Some(webhook.version))?;
        let receiver = app.engine().receivers(&[webhook.num]).await?.remove(&webhook.num).unwrap_or_default();
        let receiver = ReceiverFields::new(webhook.num, &receiver);
        let kept = |webhook: &Webhook, secrets: &[SecretInfo]| {
            let view = WebhookView::new(webhook.clone(), tenant.row.id, secrets.to_vec(), receiver.clone());
            StoredAnswer::new(webhook.version, &NewWebhookView::new(view, secret.reveal()))
        };
        let mut rotation = Rotation::new(&text, UnixMillis::now().plus(grace)).of_version(only);
        if let Some(key) = key.clone() {
            rotation = rotation.once(move |webhook, secrets| {
                kept(webhook, secrets)
                    .and_then(|kept| kept.once(key))
                    .map_err(|error| StoreError::unreadable("answer", error))
            });
        }
        let rotated = app.engine().rotate_secret(&webhook, rotation, &by).await;
        Changed::of(rotated.map(|(webhook, secrets)| kept(&webhook, &secrets)))
    });
    match rotated.await {
        Ok(kept) => {
            let StoredAnswer { version, shown } = kept.map_err(|error| Problem::internal(&error))?;
            Ok(at_version(version, &shown))
        }
        // Another request with this key came first.
        Err(problem) => StoredAnswer::first(&app, key.as_ref()).await?.ok_or(problem),
    }
}

/// Ends an older secret before its time: it signs nothing more.
///
/// The current secret cannot be ended (`409`).
#[utoipa::path(delete, path = "/webhooks/{id}/secrets/{secretId}", tag = "webhooks", operation_id = "deleteSecret",
    params(("id" = String, Path), ("secretId" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), DeleteProblems))]
pub(super) async fn end_secret(
    State(app): State<App>,
    tenant: Tenant<Manage>,
    _: NoQuery,
    Two(id, secret): Two<WebhookId, SecretId>,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let by = tenant.author();
    let end = changed(|| async {
        let webhook = find(&app, tenant.num(), id).await?;
        if_match.check(webhook.version)?;
        Changed::of(app.engine().end_secret(&webhook, secret, &by).await)
    });
    match end.await? {
        SecretEnd::Ended(_) => Ok(StatusCode::NO_CONTENT),
        SecretEnd::Unknown => Err(Problem::no_such("secret")),
        SecretEnd::IsCurrent => {
            let detail = "it is the one that signs; rotate first, with graceSeconds 0 to end all others at once";
            Err(Problem::conflict("secret_in_use", detail))
        }
    }
}

/// Lists the deliveries of a webhook, newest first, including those that wait.
#[utoipa::path(get, path = "/webhooks/{id}/logs", tag = "webhooks", operation_id = "readWebhookLog",
    params(("id" = String, Path), DeliveryParams, PageParams),
    responses((status = 200, body = PageView<DeliveryView>), ReadProblems))]
pub(super) async fn logs(
    State(app): State<App>,
    tenant: Tenant<Read>,
    One(id): One<WebhookId>,
    query: Query,
) -> Result<PageView<DeliveryView>, Problem> {
    let list = query.list(&format!("log of {id}"), Some(tenant.num()), &deliveries::FILTERS)?;
    let (mut filter, before) = (deliveries::filter(&list)?, list.position()?);
    let webhook = find_ref(&app, tenant.num(), id).await?;
    filter.webhook = Some(webhook.num);
    let found = app.engine().deliveries(tenant.num(), &filter, before, list.limit).await?;
    Ok(deliveries::page(&list, found))
}
