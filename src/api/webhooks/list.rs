//! `GET /webhooks`: lists and searches webhooks. By trouble, each node ranks the webhooks that it serves, and the node
//! that was asked merges the lists.

use std::collections::HashMap;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::App;
use crate::api::auth::{Read, Tenants};
use crate::api::backlogs::{states, word};
use crate::api::cost::Cost;
use crate::api::forward::wanted_by_a_node;
use crate::api::page::{Filter, List, PageParams, Position, Query};
use crate::api::problem::Problem;
use crate::api::problem_sets::ReadProblems;
use crate::api::receiver::ReceiverFields;
use crate::domain::id::{TenantId, TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::engine::{EndpointState, Standing, TroubleKind, WebhookHits, WebhookSearch};
use crate::store::webhooks::{Webhook, WebhookList, WebhookOrder, WebhookPosition};

use super::unreadable::{UnreadableView, WebhookPageView};
use super::view::WebhookView;

/// Maximum length of the list by trouble: the webhooks behind fare better, and each can be found by a search.
const MOST_TROUBLED: usize = 1_000;

/// Approximate bytes of a row in memory, from when it is read until the answer is written.
const ROW_BYTES: usize = 8 * 1024;

/// Characters of `q`. A URL has at most 2,048, but nobody types a whole one.
const MAX_TEXT: usize = 200;

const FILTERS: [&str; 5] = ["isActive", "q", "state", "event", "sort"];

/// A webhook as a list shows it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ListedWebhook)]
pub(in crate::api) struct ListedView {
    #[serde(flatten)]
    webhook: WebhookView,
    /// `active`, `paused`, `inactive`, `suspended`, `circuit_open` or `quarantined`. Of a webhook that another node serves, as that
    /// node has saved it.
    #[schema(value_type = String)]
    state: &'static str,
    /// When the oldest pending event was accepted; null when nothing is pending, and for a webhook that another node
    /// serves.
    #[schema(value_type = Option<String>, format = DateTime)]
    oldest_pending_at: Option<UnixMillis>,
    /// Null when nothing is wrong and nothing is pending.
    trouble: Option<TroubleView>,
}

/// What is wrong with a webhook.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = Trouble)]
pub(in crate::api) struct TroubleView {
    /// `quarantined`, `suspended`, `circuit_open`, `failing` or `backlog`
    #[schema(value_type = String)]
    kind: &'static str,
    /// Since when it is suspended, or the receiver has only failed, or when the oldest pending event was accepted; null
    /// if that is not known.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<UnixMillis>,
}

/// The kinds of trouble, as the API shows them.
pub(in crate::api) fn troubles() -> [&'static str; 5] {
    TroubleKind::ALL.map(TroubleKind::as_str)
}

/// The order of the list.
enum Sort {
    Rows(WebhookOrder),
    Trouble,
}

impl Filter for Sort {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        match value {
            "created" => Ok(Self::Rows(WebhookOrder::Created)),
            "name" => Ok(Self::Rows(WebhookOrder::Name)),
            "trouble" => Ok(Self::Trouble),
            _ => {
                let detail = format!("{name}: {value:?} was given, created, name or trouble is accepted");
                Err(Problem::bad_request("invalid_parameter", detail))
            }
        }
    }
}

/// The text that is searched for.
struct SearchText(String);

impl Filter for SearchText {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        let value: String = Filter::read(name, value)?;
        let length = value.chars().count();
        if (1..=MAX_TEXT).contains(&length) {
            return Ok(Self(value));
        }
        let detail = format!("{name}: a text of {length} characters was given, 1 to {MAX_TEXT} are accepted");
        Err(Problem::bad_request("invalid_parameter", detail))
    }
}

impl Filter for EndpointState {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        Self::ALL.into_iter().find(|state| word(*state) == value).ok_or_else(|| {
            let detail = format!("{name}: {value:?} was given, one of {} is accepted", states().join(", "));
            Problem::bad_request("invalid_parameter", detail)
        })
    }
}

impl Position for WebhookPosition {
    fn write(&self) -> String {
        match self {
            Self::Created(num) => num.0.to_string(),
            Self::Name { tenant, name, num } => format!("{}.{}.{name}", tenant.0, num.0),
        }
    }

    fn read(text: &str) -> Option<Self> {
        if let Ok(num) = text.parse() {
            return Some(Self::Created(WebhookNum(num)));
        }
        let (tenant, rest) = text.split_once('.')?;
        let (num, name) = rest.split_once('.')?;
        let (tenant, num) = (TenantNum(tenant.parse().ok()?), WebhookNum(num.parse().ok()?));
        Some(Self::Name { tenant, name: name.to_owned(), num })
    }
}

/// Lists webhooks, newest first, or searches them.
///
/// An admin key that names no tenant sees the webhooks of all tenants. With `sort=trouble` the list has the webhooks
/// that are in trouble or have pending deliveries, at most the 1,000 worst. Webhooks that cannot be read are named in
/// `unreadable`, beside the page on which they belong. A page may have fewer items than `limit` although more follow:
/// when a filter matches little, a page ends after a bounded search, and `nextCursor` goes on.
#[utoipa::path(get, path = "/webhooks", tag = "webhooks", operation_id = "listWebhooks",
    params(("isActive" = Option<bool>, Query),
        ("q" = Option<String>, Query, description = "a part of the name, the URL or the id, in any case"),
        ("state" = Option<String>, Query, description = "active, paused, inactive, suspended, circuit_open or quarantined"),
        ("event" = Option<String>, Query, description = "an event type that the webhook is subscribed to"),
        ("sort" = Option<String>, Query, description = "`created` (newest first, the default), `name` (over all \
            tenants, tenant by tenant) or `trouble` (worst first)"), PageParams),
    responses((status = 200, body = WebhookPageView<ListedView>), ReadProblems))]
pub(super) async fn list(
    State(app): State<App>,
    tenants: Tenants<Read>,
    Extension(cost): Extension<Cost>,
    (uri, headers): (Uri, HeaderMap),
    query: Query,
) -> Result<Response, Problem> {
    let list = query.list("webhooks", tenants.num(), &FILTERS)?;
    let text = list.filter::<SearchText>("q")?.map(|SearchText(text)| text);
    let search =
        WebhookSearch::new(text.as_deref(), list.filter("event")?, list.filter("state")?, list.filter("isActive")?);
    let tenant = tenants.num();
    match list.filter("sort")?.unwrap_or(Sort::Rows(WebhookOrder::Created)) {
        Sort::Rows(order) => {
            let wanted = WebhookList { tenant, order };
            let WebhookHits { nums, next } =
                app.engine().search(&wanted, &search, list.position()?, list.limit).await?;
            let (views, unreadable) = views_of(&app, &nums).await?;
            Ok(WebhookPageView { page: list.answer(views, next), unreadable }.into_response())
        }
        Sort::Trouble => by_trouble(&app, &list, (tenant, &search), &cost, (&uri, &headers)).await,
    }
}

async fn by_trouble(
    app: &App,
    list: &List<'_>,
    (tenant, search): (Option<TenantNum>, &WebhookSearch),
    cost: &Cost,
    (uri, headers): (&Uri, &HeaderMap),
) -> Result<Response, Problem> {
    let skipped = usize::try_from(list.position::<i64>()?.unwrap_or(0)).unwrap_or(0).min(MOST_TROUBLED);
    let limit = usize::try_from(list.limit).unwrap_or(usize::MAX);
    let asked_by_a_node = wanted_by_a_node(headers);
    let most = asked_by_a_node.unwrap_or(skipped + limit + 1).min(MOST_TROUBLED);
    cost.grow(most * ROW_BYTES)?;
    // A filter looks at all that are listed. Without one, nothing behind the page is read.
    let ranked = if search.is_for_all() { most } else { MOST_TROUBLED };
    let mut nums = app.engine().troubled(tenant, search, ranked).await?;
    nums.truncate(most);
    // Rows of other nodes may precede ours, so that our places are not known before the merge.
    let first = if app.engine().is_alone() { skipped.min(nums.len()) } else { 0 };
    let (views, unreadable) = views_of(app, nums.get(first..).unwrap_or_default()).await?;
    let rows: Result<Vec<Value>, _> = views.into_iter().map(serde_json::to_value).collect();
    let mut rows = rows.map_err(|error| Problem::internal(&error))?;
    worst_first(&mut rows);
    if asked_by_a_node.is_some() {
        return Ok(WebhookPageView { page: list.answer(rows, None::<i64>), unreadable }.into_response());
    }
    // A request that waits for other nodes needs no reader.
    cost.end_turn();
    let merge = |theirs: Vec<Value>| {
        rows.extend(theirs);
        worst_first(&mut rows);
        rows.truncate(most);
    };
    let path = format!("/api/v1/webhooks?{}", uri.query().unwrap_or_default());
    app.peers().lists(app, &path, headers, most, merge).await;
    let mut rows: Vec<Value> = rows.into_iter().skip(skipped - first).collect();
    let next = list.cut(&mut rows, |_| i64::try_from(skipped + limit).unwrap_or(i64::MAX));
    Ok(WebhookPageView { page: list.answer(rows, next), unreadable }.into_response())
}

/// Sorts rows by what they show. Equal rows stay in place. RFC 3339 times in UTC sort like text.
fn worst_first(rows: &mut [Value]) {
    rows.sort_by_cached_key(|row| {
        let trouble = &row["trouble"];
        let place = troubles().iter().position(|kind| trouble["kind"] == *kind);
        (place.unwrap_or(usize::MAX), trouble["since"].as_str().map(str::to_owned))
    });
}

/// Makes the rows of these webhooks, and names those that cannot be read.
async fn views_of(app: &App, nums: &[WebhookNum]) -> Result<(Vec<ListedView>, Vec<UnreadableView>), Problem> {
    let (mut webhooks, mut unreadable) = (Vec::with_capacity(nums.len()), Vec::new());
    for item in app.store().webhooks(nums).await? {
        match item {
            Ok(webhook) => webhooks.push(webhook),
            Err(webhook) => unreadable.push(UnreadableView::from(webhook)),
        }
    }
    let mut secrets = app.store().secrets_of(&webhooks.iter().collect::<Vec<_>>(), UnixMillis::now()).await?;
    let nums: Vec<WebhookNum> = webhooks.iter().map(|webhook| webhook.num).collect();
    let mut receivers = app.engine().receivers(&nums).await?;
    let standings = app.engine().standings(&nums).await?;
    let tenants = app.store().tenant_ids(webhooks.iter().map(|webhook| webhook.tenant.0).collect()).await?;
    let tenants: HashMap<i64, TenantId> = tenants.into_iter().collect();
    // A webhook that was deleted meanwhile, or whose tenant was, is left out.
    let view = |webhook: Webhook| {
        let (num, tenant) = (webhook.num, *tenants.get(&webhook.tenant.0)?);
        let standing = standings.get(&num)?;
        let receiver = ReceiverFields::new(num, &receivers.remove(&num).unwrap_or_default());
        let secrets = secrets.remove(&num).unwrap_or_default();
        Some(ListedView::new(WebhookView::new(webhook, tenant, secrets, receiver), standing))
    };
    Ok((webhooks.into_iter().filter_map(view).collect(), unreadable))
}

impl ListedView {
    fn new(webhook: WebhookView, standing: &Standing) -> Self {
        let Standing { tenant: _, state, oldest_at, trouble } = *standing;
        let trouble = trouble.map(|(kind, since)| TroubleView { kind: kind.as_str(), since });
        Self { webhook, state: word(state), oldest_pending_at: oldest_at, trouble }
    }
}
