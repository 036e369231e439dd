//! What machines ask without a key: is it alive, is it ready, its figures.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::document::NotReady;
use super::metrics;
use super::page::Query;
use super::problem::Problem;
use crate::engine::BacklogOrder;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(figures))
        .routes(routes!(endpoint_figures))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    status: &'static str,
}

/// Whether the process answers at all.
#[utoipa::path(get, path = "/livez", tag = "health", security(()), responses((status = 200, body = Health)))]
async fn live() -> axum::Json<Health> {
    axum::Json(Health { status: "ok" })
}

/// Whether the engine takes work.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, body = Health), NotReady))]
async fn ready(State(app): State<App>) -> Result<axum::Json<Health>, Problem> {
    match app.engine().is_ready() {
        true => Ok(axum::Json(Health { status: "ok" })),
        false if app.engine().is_cut_off() => Err(Problem::cut_off()),
        false => Err(Problem::stopping()),
    }
}

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()),
    responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
async fn figures(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    let text = metrics::text(&app.engine().figures().await).map_err(|error| Problem::internal(&error))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}

/// Endpoints that are shown unless the query says how many.
const TOP: u64 = 50;

/// Most endpoints that are shown: each is a handful of series to whoever scrapes them.
const MOST: u64 = 1_000;

/// Figures of the endpoints with the worst backlogs, for Prometheus: one series an endpoint.
#[utoipa::path(get, path = "/metrics/endpoints", tag = "health", security(()),
    params(("top" = Option<u64>, Query, description = "how many, 1 to 1000; 50 unless given"),
        ("by" = Option<String>, Query, description = "`oldest` or `depth`; `oldest` unless given")),
    responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
async fn endpoint_figures(State(app): State<App>, query: Query) -> Result<impl IntoResponse, Problem> {
    let filters = query.list("endpoint figures", None, &["top", "by"])?;
    let top: u64 = filters.filter("top")?.unwrap_or(TOP);
    let order = filters.filter("by")?.unwrap_or(BacklogOrder::Oldest);
    let worst = app.engine().backlogs(None, order, usize::try_from(top.min(MOST)).unwrap_or(1)).await?;
    let text = metrics::endpoints_text(&worst).map_err(|error| Problem::internal(&error))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}
