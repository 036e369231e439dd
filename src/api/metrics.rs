//! `/metrics` and `/metrics/endpoints`: figures of the engine, and of the endpoints with the worst backlogs, for
//! Prometheus. On the API's listener they need an admin key, because they show all tenants; a listener of their own
//! serves them without a key.
//!
//! One request at a time computes a page, and all requests within a second share it.

mod cached_gauges;
mod exposition;
mod negotiation;
mod process;
mod text;

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::cached_gauges::CachedGauges;
use self::exposition::Format;
use self::text::Figures;
use super::App;
use super::auth::Admin;
use super::page::Query;
use super::problem::Problem;
use super::problem_sets::ReadProblems;
use super::response_layer;
use crate::domain::moment::UnixMillis;
use crate::engine::BacklogOrder;
use crate::store::gauges::DatabaseGauges;

/// How long a page is shared. Scrapers ask every few seconds; a scraper that asks more often gets the same page again.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// Endpoints that are shown by default.
const TOP: u64 = 50;

/// Maximum endpoints that are shown: a scraper keeps a handful of series for each.
const MOST: u64 = 1_000;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(engine)).routes(routes!(endpoints))
}

/// The same routes without a key, for a listener of their own.
pub(super) fn open_routes() -> Router<App> {
    Router::new()
        .route("/metrics", get(async |State(app): State<App>, headers: HeaderMap| engine_page(&app, &headers).await))
        .route(
            "/metrics/endpoints",
            get(async |State(app): State<App>, query: Query, headers: HeaderMap| {
                endpoints_page(&app, &query, &headers).await
            }),
        )
        .fallback(response_layer::no_such_route)
        .method_not_allowed_fallback(response_layer::no_such_method)
}

/// Reads figures of the engine, for Prometheus.
///
/// The header `Accept` chooses between the classic text format and OpenMetrics. Needs an admin key here; the listener
/// at `POSTHASTE_METRICS_LISTEN` serves them without one.
#[utoipa::path(get, path = "/metrics", tag = "metrics", operation_id = "readMetrics",
    responses(
        (status = 200, content((String = "text/plain"), (String = "application/openmetrics-text"))), ReadProblems))]
async fn engine(State(app): State<App>, _: Admin, headers: HeaderMap) -> Result<impl IntoResponse, Problem> {
    engine_page(&app, &headers).await
}

/// Reads figures of the endpoints with the worst backlogs, for Prometheus.
///
/// Each figure has one series for each endpoint. The header `Accept` chooses between the classic text format and
/// OpenMetrics. Needs an admin key here; the listener at `POSTHASTE_METRICS_LISTEN` serves them without one.
#[utoipa::path(get, path = "/metrics/endpoints", tag = "metrics", operation_id = "readEndpointMetrics",
    params(("top" = Option<u64>, Query, description = "number of endpoints, 1 to 1000; 50 by default"),
        ("by" = Option<String>, Query, description = "`oldest` or `depth`; `oldest` unless given")),
    responses(
        (status = 200, content((String = "text/plain"), (String = "application/openmetrics-text"))), ReadProblems))]
async fn endpoints(
    State(app): State<App>,
    _: Admin,
    query: Query,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    endpoints_page(&app, &query, &headers).await
}

async fn engine_page(app: &App, headers: &HeaderMap) -> Result<impl IntoResponse + use<>, Problem> {
    let page = app.metrics().engine.read((), Instant::now(), async || {
        let figures = Figures {
            engine: app.engine().figures().await,
            connections: app.connections(),
            requests: app.requests().read(),
            database: if app.engine().is_alone() { "sqlite" } else { "postgres" },
            timings: app.store().timings(),
            gauges: database_gauges(app).await,
            started_at: app.metrics().started_at,
        };
        Ok(Page::new(|format| text::engine(format, &figures)))
    });
    Ok(page.await?.answer(headers))
}

async fn database_gauges(app: &App) -> Option<DatabaseGauges> {
    let read = || {
        let store = app.store().clone();
        async move { store.gauges(UnixMillis::now()).await }
    };
    app.metrics().gauges.get(read).await
}

async fn endpoints_page(app: &App, query: &Query, headers: &HeaderMap) -> Result<impl IntoResponse + use<>, Problem> {
    let filters = query.list("endpoint figures", None, &["top", "by"])?;
    let top = filters.filter::<u64>("top")?.unwrap_or(TOP).clamp(1, MOST);
    let order = filters.filter("by")?.unwrap_or(BacklogOrder::Oldest);
    let page = app.metrics().endpoints.read((top, order), Instant::now(), async || {
        let worst = app.engine().backlogs(None, order, 0, usize::try_from(top).unwrap_or(1)).await?;
        Ok(Page::new(|format| text::endpoints(format, &worst)))
    });
    Ok(page.await?.answer(headers))
}

/// The same figures in each format.
#[derive(Debug, Clone)]
struct Page {
    classic: Bytes,
    openmetrics: Bytes,
}

impl Page {
    fn new(written: impl Fn(Format) -> String) -> Self {
        let [classic, openmetrics] = Format::BOTH.map(|format| written(format).into());
        Self { classic, openmetrics }
    }

    fn answer(self, headers: &HeaderMap) -> impl IntoResponse + use<> {
        let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let format = negotiation::format_for(accept);
        let body = match format {
            Format::Classic => self.classic,
            Format::OpenMetrics => self.openmetrics,
        };
        ([(CONTENT_TYPE, format.content_type()), (VARY, "accept")], body)
    }
}

/// Figures of the API's connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionFigures {
    /// Open connections.
    pub open: usize,
    /// Refused connections and requests, by the resource that was short.
    pub refused: [(&'static str, u64); 3],
}

/// What the pages of this process share.
pub(super) struct SharedPages {
    engine: SharedPage<()>,
    endpoints: SharedPage<(u64, BacklogOrder)>,
    gauges: CachedGauges,
    started_at: UnixMillis,
}

impl SharedPages {
    pub(super) fn new() -> Self {
        Self {
            engine: SharedPage::default(),
            endpoints: SharedPage::default(),
            gauges: CachedGauges::default(),
            started_at: UnixMillis::now(),
        }
    }
}

/// The newest page; one request at a time computes it.
struct SharedPage<K>(Mutex<Option<Computed<K>>>);

struct Computed<K> {
    /// What was asked for.
    of: K,
    at: Instant,
    page: Page,
}

impl<K> Default for SharedPage<K> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<K: PartialEq> SharedPage<K> {
    /// Returns the page that was computed for the same question within the last second, or computes a new one. `now` is
    /// when the request asked, before it waited for others.
    async fn read(
        &self,
        of: K,
        now: Instant,
        compute: impl AsyncFnOnce() -> Result<Page, Problem>,
    ) -> Result<Page, Problem> {
        let mut last = self.0.lock().await;
        let is_fresh = |last: &&Computed<K>| last.of == of && now.saturating_duration_since(last.at) < SHARED_FOR;
        if let Some(computed) = last.as_ref().filter(is_fresh) {
            return Ok(computed.page.clone());
        }
        let page = compute().await?;
        *last = Some(Computed { of, at: now, page: page.clone() });
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_page_is_computed_once_for_all_that_ask_within_a_second() {
        let (page, computed) = (SharedPage::default(), AtomicUsize::new(0));
        let start = Instant::now();
        let ask = async |of: u8, after| {
            let answer = page.read(of, start + after, async || {
                tokio::task::yield_now().await;
                let text = format!("{of}: {}", computed.fetch_add(1, Ordering::Relaxed));
                Ok(Page::new(|_| text.clone()))
            });
            answer.await.unwrap().classic
        };

        let at_once = futures_util::future::join_all((0..100).map(|_| ask(1, Duration::ZERO))).await;
        assert!(at_once.iter().all(|answer| answer == "1: 0"), "{at_once:?}");
        assert_eq!(ask(2, Duration::ZERO).await, "2: 1");
        assert_eq!(ask(2, SHARED_FOR / 2).await, "2: 1");
        assert_eq!(ask(2, SHARED_FOR).await, "2: 2");
    }
}
