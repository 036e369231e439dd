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
use crate::domain::moment::UnixMillis;
use crate::engine::{Engine, EngineFigures, PartView};
use crate::store::leases::{Node, Survey};

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Engine)]
struct EngineView {
    nodes: Vec<NodeView>,
    /// Empty where there can be only one node.
    shards: Vec<ShardView>,
    lag: LagView,
    /// Of the webhooks that this node serves; those of all nodes sum up to everything that is pending.
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
    /// Rises with every start; null where there can be only one node.
    num: Option<i64>,
    name: String,
    /// Where its API is reached; null where there can be only one node.
    address: Option<String>,
    /// Of the node that answers; null of others.
    version: Option<&'static str>,
    /// Takes work; false while it stops, when its lease has ended, or while the database refuses to commit.
    ready: bool,
    /// Whether it is the node that answers, whose figures the rest of this answer shows.
    answers: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<UnixMillis>,
    /// By the database's clock; renewed five times in its length.
    #[schema(value_type = Option<String>, format = DateTime)]
    lease_until: Option<UnixMillis>,
    /// Shards that it holds.
    shards: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EngineShard)]
struct ShardView {
    num: usize,
    /// The number of the node that holds it; null while it is on its way to another one.
    owner: Option<i64>,
    /// Rises with every change of owner.
    epoch: i64,
}

/// How far behind the node that answers is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EngineLag)]
struct LagView {
    /// Since the other nodes were last looked at; null where there can be none.
    cluster_seen_ms_ago: Option<u64>,
    /// Whether committed events wait in the database that were not handed to their endpoints yet.
    dispatch_behind: bool,
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

impl NodeView {
    fn alone(engine: &Engine) -> Self {
        Self {
            num: None,
            name: engine.node_name().to_owned(),
            address: None,
            version: Some(VERSION),
            ready: engine.is_ready(),
            answers: true,
            started_at: None,
            lease_until: None,
            shards: 0,
        }
    }

    fn all(survey: &Survey, engine: &Engine) -> Vec<Self> {
        let held = |num| survey.shards.iter().filter(|(owner, _)| *owner == Some(num)).count();
        let view = |node: &Node| {
            let answers = engine.node() == Some(node.num);
            Self {
                num: Some(node.num),
                name: node.name.clone(),
                address: node.address.clone(),
                version: answers.then_some(VERSION),
                ready: if answers { engine.is_ready() } else { node.lives },
                answers,
                started_at: Some(node.started_at),
                lease_until: Some(node.lease_until),
                shards: held(node.num),
            }
        };
        survey.nodes.iter().map(view).collect()
    }
}

impl ShardView {
    fn all(survey: &Survey) -> Vec<Self> {
        let shards = survey.shards.iter().enumerate();
        shards.map(|(num, (owner, epoch))| Self { num, owner: *owner, epoch: *epoch }).collect()
    }
}

impl EngineView {
    fn new(figures: EngineFigures, engine: &Engine) -> Self {
        let cluster = engine.cluster();
        let lag = LagView {
            cluster_seen_ms_ago: cluster.as_ref().map(|(_, ago)| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
            dispatch_behind: engine.is_behind(),
        };
        let (nodes, shards) = match &cluster {
            None => (vec![NodeView::alone(engine)], Vec::new()),
            Some((survey, _)) => (NodeView::all(survey, engine), ShardView::all(survey)),
        };
        Self {
            nodes,
            shards,
            lag,
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

/// How the engine stands: nodes and shards; of the node that answers its actors, journal, permits and payloads.
#[utoipa::path(get, path = "/engine", tag = "engine", operation_id = "readEngine",
    responses((status = 200, body = EngineView), ReadProblems))]
async fn read(State(app): State<App>, _: Admin, _: NoQuery) -> Result<axum::Json<EngineView>, Problem> {
    let figures = app.engine().figures().await;
    Ok(axum::Json(EngineView::new(figures, app.engine())))
}
