//! `/engine`: the state of the engine, for operators of all tenants. Only an admin key may call it; it changes nothing.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Admin;
use super::page::NoQuery;
use super::problem::Problem;
use super::problem_sets::ReadProblems;
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
    /// Empty with SQLite, where there is only one node.
    shards: Vec<ShardView>,
    lag: LagView,
    /// Covers the webhooks that the answering node serves; the sum over all nodes is everything that is pending.
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
    /// Event payloads in memory, in bytes.
    bytes: usize,
    /// Bytes of payloads above which deliveries wait as rows.
    budget_bytes: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EngineNode)]
struct NodeView {
    /// Rises with every start; null with SQLite, where there is only one node.
    num: Option<i64>,
    name: String,
    /// Where the node's API is reached; null with SQLite.
    address: Option<String>,
    /// Version of the answering node; null for other nodes.
    version: Option<&'static str>,
    /// Whether the node accepts work. For the answering node: false while it stops, when its lease has ended, or while
    /// the database refuses to commit. For other nodes: false once their lease has ended.
    ready: bool,
    /// Whether this is the answering node, whose figures the rest of this answer shows.
    answers: bool,
    /// Null with SQLite.
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<UnixMillis>,
    /// When the node's lease ends, by the database's clock; null with SQLite. The node renews it five times in its
    /// length.
    #[schema(value_type = Option<String>, format = DateTime)]
    lease_until: Option<UnixMillis>,
    /// Shards that the node owns.
    shards: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EngineShard)]
struct ShardView {
    num: usize,
    /// Number of the node that owns the shard; null while no node owns it.
    owner: Option<i64>,
    /// Rises with every change of owner.
    epoch: i64,
}

/// How far behind the answering node is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EngineLag)]
struct LagView {
    /// Milliseconds since the last survey of the other nodes; null with SQLite.
    cluster_seen_ms_ago: Option<u64>,
    /// Whether the database has committed events that were not handed to their endpoints yet.
    dispatch_behind: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EngineBacklog)]
struct TotalView {
    /// Pending deliveries.
    pending: u64,
    /// Webhooks with pending deliveries.
    webhooks: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EngineActors)]
struct ActorsView {
    /// Endpoint actors in memory.
    live: usize,
    /// Endpoints that crashed too often; each waits for `resume` or `probe`.
    quarantined: usize,
    /// Restarts after a crash, since the process started.
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
    /// The part that ailing endpoints share: those that fail or are slow.
    ailing: PlacesView,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EnginePlaces)]
struct PlacesView {
    /// Permits: requests that may be in flight at once.
    places: usize,
    /// Permits that are taken.
    in_use: usize,
    /// Requests that wait for a permit.
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
                ready: if answers { engine.is_ready() } else { node.is_alive },
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

/// Reads the state of the engine.
///
/// Nodes and shards are those of the whole cluster. Actors, journal, permits and payloads are those of the answering
/// node.
#[utoipa::path(get, path = "/engine", tag = "engine", operation_id = "readEngine",
    responses((status = 200, body = EngineView), ReadProblems))]
async fn read(State(app): State<App>, _: Admin, _: NoQuery) -> Result<axum::Json<EngineView>, Problem> {
    let figures = app.engine().figures().await;
    Ok(axum::Json(EngineView::new(figures, app.engine())))
}
