//! The management API over HTTP: routes, keys, problems and the OpenAPI document. The app builds its routers; hyper
//! serves them through axum. The API asks the engine to act and reads the store. No layer below knows of HTTP in here.

pub mod auth;

mod admin_keys;
mod audit;
mod backlogs;
mod body;
mod budget;
mod catalogue;
mod client_addr;
mod compression;
mod cors;
mod cost;
mod deliveries;
mod document;
mod engine;
mod etag;
mod event_types;
mod events;
mod explain;
mod fields;
mod forward;
mod gate;
mod health;
mod hops;
mod host;
mod html;
mod idempotency;
mod key;
mod keys;
mod methods;
mod metrics;
mod names;
mod operations;
mod page;
mod path;
mod problem;
mod problem_pages;
mod problem_sets;
mod rate_limits;
mod receiver;
mod redaction;
mod reference;
mod request_figures;
mod request_log;
mod response_layer;
pub mod scope;
mod secrets;
mod session;
mod sessions;
mod tenants;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::extract::MatchedPath;
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::routing::get;
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use tower::util::option_layer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

pub use catalogue::default_catalogue;
pub use metrics::ConnectionFigures;
pub use rate_limits::RequestRate;
pub use response_layer::KnownCaller;

use crate::engine::Engine;
use crate::store::Store;

use self::auth::Keys;
use self::budget::Budget;
use self::cost::Answers;
use self::document::ApiDocument;
use self::events::KnownTypes;
use self::forward::Peers;
use self::methods::Methods;
use self::metrics::SharedPages;
use self::rate_limits::RateLimits;
use self::request_figures::RequestFigures;
use self::response_layer::Reports;

/// Minimum characters of an admin key from the configuration: a shorter key could be guessed.
const MIN_ADMIN_KEY: usize = 32;

/// Path of the OpenAPI document.
const DOCUMENT: &str = "/openapi.json";

/// Paths beside those in the document. They can only be read, and need no key.
const UNDOCUMENTED: [&str; 5] = [DOCUMENT, problem_pages::PATH, reference::PAGE, reference::FILE, reference::GUIDE];

/// Where the versioned routes begin.
const BASE: &str = crate::domain::operational_event::API_BASE;

/// How the API is set up.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// An admin key besides those in the database; with fewer than 32 characters it is not accepted.
    pub admin_key: Option<SecretString>,
    /// Maximum bytes of a request body; 1 MiB by default.
    pub body_limit: usize,
    /// Limit on the requests with each key of a tenant.
    pub key_rate: Option<RequestRate>,
    /// Limit on the requests of each tenant, over all its keys.
    pub tenant_rate: Option<RequestRate>,
    /// Origins whose pages may call the API from a browser.
    pub cors_origins: Vec<String>,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self { admin_key: None, body_limit: 1024 * 1024, key_rate: None, tenant_rate: None, cors_origins: Vec::new() }
    }
}

/// The state that every handler can reach. Cheap to clone.
#[derive(Clone)]
struct App(Arc<Inner>);

struct Inner {
    engine: Engine,
    keys: Arc<Keys>,
    body_limit: usize,
    peers: Peers,
    rates: RateLimits,
    bodies: Budget,
    answers: Answers,
    metrics: SharedPages,
    known_types: KnownTypes,
    requests: Arc<RequestFigures>,
    connections: Box<dyn Fn() -> ConnectionFigures + Send + Sync>,
}

impl App {
    fn new(
        engine: Engine,
        config: ApiConfig,
        connections: impl Fn() -> ConnectionFigures + Send + Sync + 'static,
    ) -> Self {
        let ApiConfig { admin_key, body_limit, key_rate, tenant_rate, cors_origins: _ } = config;
        let rates = RateLimits::new(key_rate, tenant_rate);
        let (long, short): (Vec<_>, Vec<_>) =
            admin_key.into_iter().partition(|key| key.expose_secret().chars().count() >= MIN_ADMIN_KEY);
        if !short.is_empty() {
            tracing::error!("the admin key has fewer than {MIN_ADMIN_KEY} characters and is not accepted");
        }
        let keys = Arc::new(Keys::new(long.first().map(ExposeSecret::expose_secret)));
        let (known, noted, store) = (keys.clone(), keys.clone(), engine.store().clone());
        engine.beside(|stopping| noted.note_uses(store, stopping));
        engine.on_stale(move |stale| known.forget(stale));
        let (peers, bodies, metrics) = (Peers::new(), Budget::of_bodies(body_limit), SharedPages::new());
        let answers = Answers::new(body_limit, engine.store().readers_at_once());
        let connections = Box::new(connections);
        let requests = Arc::default();
        Self(Arc::new(Inner {
            engine,
            keys,
            body_limit,
            peers,
            rates,
            bodies,
            answers,
            metrics,
            known_types: KnownTypes::default(),
            requests,
            connections,
        }))
    }

    fn engine(&self) -> &Engine {
        &self.0.engine
    }

    fn store(&self) -> &Store {
        self.0.engine.store()
    }

    fn keys(&self) -> &Keys {
        &self.0.keys
    }

    fn peers(&self) -> &Peers {
        &self.0.peers
    }

    fn rates(&self) -> &RateLimits {
        &self.0.rates
    }

    fn bodies(&self) -> &Budget {
        &self.0.bodies
    }

    fn answers(&self) -> &Answers {
        &self.0.answers
    }

    fn known_types(&self) -> &KnownTypes {
        &self.0.known_types
    }

    fn metrics(&self) -> &SharedPages {
        &self.0.metrics
    }

    fn requests(&self) -> &Arc<RequestFigures> {
        &self.0.requests
    }

    fn connections(&self) -> ConnectionFigures {
        (self.0.connections)()
    }

    fn body_limit(&self) -> usize {
        self.0.body_limit
    }
}

/// All routes that the OpenAPI document describes.
fn routes() -> OpenApiRouter<App> {
    let versioned = OpenApiRouter::new()
        .merge(tenants::routes())
        .merge(keys::routes())
        .merge(session::routes())
        .merge(sessions::routes())
        .merge(admin_keys::routes())
        .merge(webhooks::routes())
        .merge(backlogs::routes())
        .merge(engine::routes())
        .merge(secrets::routes())
        .merge(audit::routes())
        .merge(event_types::routes())
        .merge(events::routes())
        .merge(explain::routes())
        .merge(deliveries::routes())
        .merge(operations::routes());
    OpenApiRouter::with_openapi(ApiDocument::openapi())
        .nest(BASE, versioned)
        .merge(health::routes())
        .merge(metrics::routes())
}

/// The routers, each for a listener of its own.
pub struct Routers {
    /// The whole API.
    pub api: Router,
    /// The metrics alone, without a key.
    pub metrics: Router,
}

/// Builds the API, and a router with the metrics alone for a listener that only operators can reach. `connections`
/// returns the current figures of the API's connections.
pub fn routers(
    engine: Engine,
    config: ApiConfig,
    connections: impl Fn() -> ConnectionFigures + Send + Sync + 'static,
) -> Routers {
    let (routes, document) = routes().split_for_parts();
    let document = document::describe_all(document);
    let methods = Methods::of(&document, &UNDOCUMENTED);
    let document: Bytes = serde_json::to_vec(&document).unwrap_or_default().into();
    let cors = cors::layer(&config.cors_origins);
    let app = App::new(engine, config, connections);
    let reports = Arc::new(Reports::new(app.requests().clone()));
    let other_method =
        async move |method: Method, path: Option<MatchedPath>| methods.answer(&method, path.as_ref()).await;
    let show_document = async move || ([(CONTENT_TYPE, "application/json")], document);
    let metrics = metrics::open_routes()
        .layer(middleware::from_fn_with_state(reports.clone(), response_layer::finish))
        .with_state(app.clone());
    let api = routes
        .route(DOCUMENT, get(show_document))
        .route(problem_pages::PATH, get(problem_pages::show))
        .route(reference::PAGE, get(reference::page))
        .route(reference::FILE, get(reference::file))
        .route(reference::GUIDE, get(reference::guide))
        .fallback(response_layer::no_such_route)
        .method_not_allowed_fallback(other_method)
        .layer(middleware::from_fn_with_state(app.clone(), gate::pass))
        .layer(option_layer(cors.map(|cors| middleware::from_fn_with_state(cors, cors::answer))))
        .layer(middleware::from_fn_with_state(reports.clone(), response_layer::finish))
        .with_state(app);
    Routers { api, metrics }
}

/// The OpenAPI document of all routes.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    document::describe_all(routes().into_openapi())
}
