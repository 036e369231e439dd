//! Writes one log line for each request: its caller, its route and its result. The response layer calls it for every
//! answer. Changes and refusals are logged at `info`, failures on our side at `warn`, successful reads and publishes at
//! `debug`. Refused keys have lines of their own. Each kind has its own limit, so that a flood of one kind hides no
//! line of another. A line never contains the query, a header or a body.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode, Uri};
use parking_lot::Mutex;
use tracing::{Level, debug, enabled, info, warn};

use super::client_addr::{ClientAddr, RequestId};
use crate::domain::id::{KeyId, TenantId};
use crate::log_limit::LogLimit;

/// Target in `POSTHASTE_LOG` of the lines about requests.
const REQUEST: &str = "posthaste::request";

/// Target in `POSTHASTE_LOG` of the lines about refused keys.
const KEY: &str = "posthaste::key";

/// Lines per second about refused requests; anybody can cause them.
const REFUSED: u32 = 50;

/// Lines per second about refused keys.
const KEYS: u32 = 10;

/// Lines per second about requests that failed on our side.
const FAILURES: u32 = 50;

/// Lines per second about changes.
const CHANGES: u32 = 500;

/// Maximum bytes of a path that is logged: a longer path leads nowhere and would fill the log.
const LONGEST_PATH: usize = 256;

/// Writes the lines of this process, within the limits above.
#[derive(Debug)]
pub(super) struct RequestLog {
    refused: Mutex<LogLimit>,
    keys: Mutex<LogLimit>,
    failures: Mutex<LogLimit>,
    changes: Mutex<LogLimit>,
}

/// The caller of a request, noted in the request's extensions once its key is known.
#[derive(Debug, Clone, Default)]
pub(super) struct CallerNote(Arc<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// The valid key; `None` for the admin key of the configuration.
    key: OnceLock<Option<KeyId>>,
    /// The id that a refused key claims to have.
    claimed: OnceLock<KeyId>,
    tenant: OnceLock<TenantId>,
}

/// What the log line needs of a request, captured before the request is handled.
pub(super) struct Begun {
    at: Instant,
    method: Method,
    uri: Uri,
    route: Option<MatchedPath>,
    peer: Option<IpAddr>,
    caller: CallerNote,
}

/// How a request was answered.
pub(super) struct Answered<'a> {
    pub(super) status: StatusCode,
    /// Code of the problem, if the answer is one.
    pub(super) code: Option<&'a str>,
    /// Why the request failed on our side, where the caller is not told.
    pub(super) reason: Option<&'a str>,
    pub(super) request: &'a RequestId,
}

impl CallerNote {
    pub(super) fn known(&self, key: Option<KeyId>) {
        let _ = self.0.key.set(key);
    }

    pub(super) fn refused(&self, claimed: KeyId) {
        let _ = self.0.claimed.set(claimed);
    }

    pub(super) fn tenant(&self, id: TenantId) {
        let _ = self.0.tenant.set(id);
    }
}

impl Begun {
    pub(super) fn of(request: &mut Request) -> Self {
        let caller = CallerNote::default();
        request.extensions_mut().insert(caller.clone());
        Self {
            at: Instant::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            route: request.extensions().get::<MatchedPath>().cloned(),
            peer: ClientAddr::of(request.extensions()).peer,
            caller,
        }
    }

    /// Whether the caller's key or session is valid.
    pub(super) fn is_known(&self) -> bool {
        self.caller.0.key.get().is_some()
    }

    fn key(&self) -> Option<String> {
        let Noted { key, claimed, .. } = &*self.caller.0;
        match key.get() {
            Some(None) => Some("admin".to_owned()),
            Some(Some(id)) => Some(id.to_string()),
            None => claimed.get().map(KeyId::to_string),
        }
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }

    /// The template of the route that the request matches.
    pub(super) fn route(&self) -> Option<&str> {
        self.route.as_ref().map(MatchedPath::as_str)
    }

    /// The path, if it matches a route: any other path may contain anything.
    fn path(&self) -> Option<&str> {
        self.route.as_ref().map(|_| self.uri.path()).filter(|path| path.len() <= LONGEST_PATH)
    }

    /// Publishes are logged at `debug` only: they are frequent, and each is in the database.
    fn is_publish(&self) -> bool {
        self.method == Method::POST && matches!(self.route(), Some("/api/v1/events" | "/api/v1/events/batch"))
    }
}

macro_rules! line {
    ($level:ident, $begun:expr, $answered:expr, $suppressed:expr, $message:literal) => {{
        let (begun, answered): (&Begun, &Answered<'_>) = ($begun, $answered);
        $level!(
            target: REQUEST,
            method = %begun.method,
            route = begun.route(),
            path = begun.path(),
            status = answered.status.as_u16(),
            code = answered.code,
            reason = answered.reason,
            duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            request = answered.request.as_str(),
            tenant = begun.caller.0.tenant.get().map(display),
            key = begun.key(),
            peer = begun.peer.map(display),
            suppressed = $suppressed,
            $message
        );
    }};
}

impl RequestLog {
    pub(super) fn new() -> Self {
        let limit = |most| Mutex::new(LogLimit::new(most, Instant::now()));
        Self { refused: limit(REFUSED), keys: limit(KEYS), failures: limit(FAILURES), changes: limit(CHANGES) }
    }

    pub(super) fn write(&self, begun: &Begun, answered: &Answered<'_>) {
        let status = answered.status;
        let admitted = |limit: &Mutex<LogLimit>| limit.lock().admit(Instant::now());
        if status == StatusCode::UNAUTHORIZED {
            if enabled!(target: KEY, Level::INFO)
                && let Some(suppressed) = admitted(&self.keys)
            {
                refused_key(begun, answered, suppressed);
            }
        } else if status.is_client_error() || status == StatusCode::LOOP_DETECTED {
            if enabled!(target: REQUEST, Level::INFO)
                && let Some(suppressed) = admitted(&self.refused)
            {
                line!(info, begun, answered, suppressed, "request refused");
            }
        } else if status.is_server_error() {
            if let Some(suppressed) = admitted(&self.failures) {
                line!(warn, begun, answered, suppressed, "request failed on our side");
            }
        } else if begun.method.is_safe() || begun.is_publish() {
            if enabled!(target: REQUEST, Level::DEBUG) {
                line!(debug, begun, answered, 0_u64, "request answered");
            }
        } else if enabled!(target: REQUEST, Level::INFO)
            && let Some(suppressed) = admitted(&self.changes)
        {
            line!(info, begun, answered, suppressed, "request answered");
        }
    }
}

fn refused_key(begun: &Begun, answered: &Answered<'_>, suppressed: u64) {
    info!(
        target: KEY,
        reason = answered.code,
        peer = begun.peer.map(display),
        key = begun.key(),
        method = %begun.method,
        route = begun.route(),
        request = answered.request.as_str(),
        suppressed,
        "key refused"
    );
}
