//! `/livez` and `/readyz`: tell machines, without a key, whether the process is alive and whether it is ready.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::problem::Problem;
use super::problem_sets::{NotReady, NotUnderstood};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    status: &'static str,
}

/// Answers `200` as long as the process answers at all.
#[utoipa::path(get, path = "/livez", tag = "health", operation_id = "readLiveness", security(()),
    responses((status = 200, body = Health), NotUnderstood))]
async fn live() -> axum::Json<Health> {
    axum::Json(Health { status: "ok" })
}

/// Says whether the engine accepts work.
///
/// Answers `503` while the engine stops, while it has no database, and once the database has refused to commit for two
/// seconds, until it commits again.
#[utoipa::path(get, path = "/readyz", tag = "health", operation_id = "readReadiness", security(()),
    responses((status = 200, body = Health), NotReady))]
async fn ready(State(app): State<App>) -> Result<axum::Json<Health>, Problem> {
    match app.engine().is_ready() {
        true => Ok(axum::Json(Health { status: "ok" })),
        false if app.engine().is_cut_off() => Err(Problem::cut_off()),
        false => Err(Problem::stopping()),
    }
}
