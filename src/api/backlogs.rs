//! `/backlogs` and `/webhooks/{id}/backlog`: what is pending for webhooks, since when and why.

mod view;

use std::cmp::Reverse;
use std::collections::HashMap;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use self::view::states;

use self::view::BacklogView;
use super::App;
use super::auth::{Read, Tenant, Tenants};
use super::cost::Cost;
use super::forward::wanted_by_a_node;
use super::page::{Filter, NoQuery, PageParams, PageView, Query};
use super::path::One;
use super::problem::Problem;
use super::problem_sets::ReadProblems;
use crate::domain::id::{TenantId, TenantNum, WebhookId};
use crate::engine::{Backlog, BacklogOrder};

/// Maximum length of the list: the backlogs behind are smaller or younger, and each can be read by its webhook.
const MOST_LISTED: usize = 10_000;

/// Approximate bytes of a row in memory, from when it is read until the answer is written.
const ROW_BYTES: usize = 4 * 1024;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read))
}

pub(super) use self::view::{BacklogView as Shown, word};

/// Makes the answer that shows a backlog.
pub(super) fn shown(app: &App, tenant: TenantId, backlog: Option<Backlog>) -> Result<axum::Json<BacklogView>, Problem> {
    let backlog = backlog.ok_or(Problem::no_such("webhook"))?;
    Ok(axum::Json(BacklogView::new(backlog, tenant, app.engine().node_name())))
}

/// Reads the backlog of a webhook: what is pending, since when, and what holds it back.
#[utoipa::path(get, path = "/webhooks/{id}/backlog", tag = "backlogs", operation_id = "readBacklog",
    params(("id" = String, Path)), responses((status = 200, body = BacklogView), ReadProblems))]
async fn read(
    State(app): State<App>,
    tenant: Tenant<Read>,
    _: NoQuery,
    One(id): One<WebhookId>,
) -> Result<axum::Json<BacklogView>, Problem> {
    // The webhook itself is not read: if it cannot be read, its backlog says so.
    let num = app.store().webhook_num(tenant.num(), id).await?.ok_or(Problem::no_such("webhook"))?;
    shown(&app, tenant.row.id, app.engine().backlog(num).await?)
}

/// Lists backlogs, the worst first, at most the 10,000 worst.
///
/// An admin key that names no tenant sees the backlogs of all tenants.
#[utoipa::path(get, path = "/backlogs", tag = "backlogs", operation_id = "listBacklogs",
    params(("sort" = Option<String>, Query, description = "`oldest` (the longest wait first, the default) or \
            `depth` (the most deliveries first)"), PageParams),
    responses((status = 200, body = PageView<BacklogView>), ReadProblems))]
async fn list(
    State(app): State<App>,
    tenants: Tenants<Read>,
    Extension(cost): Extension<Cost>,
    (uri, headers): (Uri, HeaderMap),
    query: Query,
) -> Result<PageView<serde_json::Value>, Problem> {
    let list = query.list("backlogs", tenants.num(), &["sort"])?;
    let order = list.filter("sort")?.unwrap_or(BacklogOrder::Oldest);
    let skipped = usize::try_from(list.position::<i64>()?.unwrap_or(0)).unwrap_or(0).min(MOST_LISTED);
    let limit = usize::try_from(list.limit).unwrap_or(usize::MAX);
    let asked_by_a_node = wanted_by_a_node(&headers);
    let wanted = asked_by_a_node.unwrap_or(skipped + limit + 1).min(MOST_LISTED);
    // Rows of other nodes may precede ours, so that our places are not known before the merge.
    let first = if app.engine().is_alone() { skipped.min(wanted) } else { 0 };
    cost.grow((wanted - first) * ROW_BYTES)?;
    let own = app.engine().backlogs(tenants.num(), order, first, wanted - first).await?;
    let mut rows = own_rows(&app, own).await?;
    worst_first(&mut rows, order);
    if asked_by_a_node.is_some() {
        return Ok(list.answer(rows, None::<i64>));
    }
    // A request that waits for other nodes needs no reader.
    cost.end_turn();
    let merge = |theirs: Vec<Value>| {
        rows.extend(theirs);
        worst_first(&mut rows, order);
        rows.truncate(wanted);
    };
    let path = format!("/api/v1/backlogs?{}", uri.query().unwrap_or_default());
    app.peers().lists(&app, &path, &headers, wanted, merge).await;
    let mut rows: Vec<Value> = rows.into_iter().skip(skipped - first).collect();
    let next = list.cut(&mut rows, |_| i64::try_from(skipped + limit).unwrap_or(i64::MAX));
    Ok(list.answer(rows, next))
}

/// Sorts rows by what they show: since they were ranked, the order within one node may have changed. Equal rows stay in
/// place.
fn worst_first(rows: &mut [Value], order: BacklogOrder) {
    match order {
        BacklogOrder::Depth => rows.sort_by_key(|row| Reverse(row["pending"].as_u64())),
        // RFC 3339 times in UTC sort like text.
        BacklogOrder::Oldest => rows.sort_by_cached_key(|row| row["oldestPendingAt"].as_str().map(str::to_owned)),
    }
}

/// Makes the rows of this node. Leaves out backlogs whose tenant was deleted meanwhile.
async fn own_rows(app: &App, own: Vec<Backlog>) -> Result<Vec<Value>, Problem> {
    let tenants = own.iter().map(|backlog| backlog.tenant.0).collect();
    let tenants: HashMap<i64, TenantId> = app.store().tenant_ids(tenants).await?.into_iter().collect();
    let id = |TenantNum(num): TenantNum| tenants.get(&num).copied();
    let own = own.into_iter().filter_map(|backlog| Some((id(backlog.tenant)?, backlog)));
    let row = |(tenant, backlog)| {
        let view = BacklogView::new(backlog, tenant, app.engine().node_name());
        serde_json::to_value(view).map_err(|error| Problem::internal(&error))
    };
    own.map(row).collect()
}

impl Filter for BacklogOrder {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        match value {
            "oldest" => Ok(Self::Oldest),
            "depth" => Ok(Self::Depth),
            _ => {
                let detail = format!("{name}: {value:?} was given, oldest or depth is accepted");
                Err(Problem::bad_request("invalid_parameter", detail))
            }
        }
    }
}
