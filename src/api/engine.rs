//! `/engine`: how the engine itself stands, for operators of all tenants.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Admin;
use super::document::ReadProblems;
use super::page::NoQuery;
use super::problem::Problem;
use crate::engine::{EngineFigures, PartView};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Engine)]
struct EngineView {
    nodes: Vec<NodeView>,
    backlog: TotalView,
    actors: ActorsView,
    journal: JournalView,
    permits: PermitsView,
    payloads: PayloadsView,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EnginePayloads)]
struct PayloadsView {
    /// Event payloads in memory.
    bytes: usize,
    /// Beyond which deliveries wait as rows.
    budget_bytes: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EngineNode)]
struct NodeView {
    name: &'static str,
    version: &'static str,
    /// Takes work; false while it stops.
    ready: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EngineBacklog)]
struct TotalView {
    /// Deliveries that are owed.
    pending: u64,
    /// Webhooks that are owed something.
    webhooks: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EngineActors)]
struct ActorsView {
    live: usize,
    /// Crashed too often; they wait to be resumed.
    quarantined: usize,
    /// Since the start.
    restarts: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EngineJournal)]
struct JournalView {
    /// Outcomes that wait to be committed.
    depth: usize,
    capacity: usize,
    commits: u64,
    failed_commits: u64,
    events: u64,
    attempts: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EnginePermits)]
struct PermitsView {
    healthy: PlacesView,
    /// The part that failing and slow endpoints share.
    ailing: PlacesView,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EnginePlaces)]
struct PlacesView {
    places: usize,
    in_use: usize,
    waiting: usize,
}

impl From<PartView> for PlacesView {
    fn from(PartView { places, in_use, waiting }: PartView) -> Self {
        Self { places, in_use, waiting }
    }
}

impl EngineView {
    fn new(figures: EngineFigures, ready: bool) -> Self {
        let node = NodeView { name: "local", version: env!("CARGO_PKG_VERSION"), ready };
        Self {
            nodes: vec![node],
            backlog: TotalView { pending: figures.pending, webhooks: figures.backlogged },
            actors: ActorsView {
                live: figures.live_endpoints,
                quarantined: figures.quarantined_endpoints,
                restarts: figures.endpoint_crashes,
            },
            journal: JournalView {
                depth: figures.journal_depth,
                capacity: figures.journal_capacity,
                commits: figures.commits,
                failed_commits: figures.failed_commits,
                events: figures.events,
                attempts: figures.attempts,
            },
            permits: PermitsView { healthy: figures.permits.healthy.into(), ailing: figures.permits.ailing.into() },
            payloads: PayloadsView { bytes: figures.payload_bytes.0, budget_bytes: figures.payload_bytes.1 },
        }
    }
}

/// How the engine stands: its node, actors, journal, permits and payloads.
#[utoipa::path(get, path = "/engine", tag = "engine", operation_id = "readEngine",
    responses((status = 200, body = EngineView), ReadProblems))]
async fn read(State(app): State<App>, _: Admin, _: NoQuery) -> Result<axum::Json<EngineView>, Problem> {
    let figures = app.engine().figures().await;
    Ok(axum::Json(EngineView::new(figures, app.engine().is_ready())))
}
