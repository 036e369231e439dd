//! `/engine/secrets`: shows which master keys have sealed what, and rewraps. Only an admin key may call it.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Admin;
use super::body::NoBody;
use super::page::NoQuery;
use super::problem::Problem;
use super::problem_sets::{ActionProblems, ReadProblems};
use crate::store::rewrap::Sealed;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read)).routes(routes!(rewrap))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Sealing)]
struct SealingView {
    /// Ids of the master keys that the answering node has: the current one, then the previous ones.
    key_ids: Vec<String>,
    sealed: Vec<SealedView>,
    /// Values that are not sealed as they would be today.
    old: u64,
    /// Values that this request has sealed again; absent when the request only reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    rewrapped: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SealedValues)]
struct SealedView {
    /// What is sealed. `answers` are those that are remembered for an `Idempotency-Key`.
    what: &'static str,
    key_id: String,
    /// 1: bound to a webhook; 2: bound to a row and its tenant.
    layout: u8,
    count: u64,
    /// Whether the answering node has the key.
    opens: bool,
}

impl From<Sealed> for SealedView {
    fn from(sealed: Sealed) -> Self {
        let Sealed { what, key_id, layout, count, opens, is_old: _ } = sealed;
        Self { what, key_id, layout, count, opens }
    }
}

async fn view(app: &App, rewrapped: Option<u64>) -> Result<axum::Json<SealingView>, Problem> {
    let sealed = app.store().sealed().await?;
    let old = sealed.iter().filter(|sealed| sealed.is_old).map(|sealed| sealed.count).sum();
    let sealed = sealed.into_iter().map(SealedView::from).collect();
    Ok(axum::Json(SealingView { key_ids: app.store().master_key_ids(), sealed, old, rewrapped }))
}

/// Shows how many values are sealed under which master key.
#[utoipa::path(get, path = "/engine/secrets", tag = "engine", operation_id = "readSealing",
    responses((status = 200, body = SealingView), ReadProblems))]
async fn read(State(app): State<App>, _: Admin, _: NoQuery) -> Result<axum::Json<SealingView>, Problem> {
    view(&app, None).await
}

/// Seals all values under the current master key.
///
/// It runs beside all other work; repeating it does no harm.
#[utoipa::path(post, path = "/engine/secrets/rewrap", tag = "engine", operation_id = "rewrapSecrets",
    responses((status = 200, body = SealingView), ActionProblems))]
async fn rewrap(
    State(app): State<App>,
    admin: Admin,
    _: NoQuery,
    _: NoBody,
) -> Result<axum::Json<SealingView>, Problem> {
    let rewrapped = app.store().rewrap(&admin.author()).await?;
    view(&app, Some(rewrapped)).await
}
