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
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready)).routes(routes!(figures))
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
    if app.engine().is_ready() { Ok(axum::Json(Health { status: "ok" })) } else { Err(Problem::stopping()) }
}

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()),
    responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
async fn figures(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    let text = metrics::text(&app.engine().figures().await).map_err(|error| Problem::internal(&error))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}
