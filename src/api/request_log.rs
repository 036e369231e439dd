//! One log line for each request: its caller, what it asked for, and what became of it. Changes and refusals are told at
//! `info`, failures on our side at `warn`, reads and publishes that succeed at `debug`. Keys that were refused have lines of
//! their own. Each kind has its own limit, so that a flood of one hides no line of another. Never the query, a header or a
//! body.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode, Uri};
use parking_lot::Mutex;
use tracing::{Level, debug, enabled, info, warn};

use super::client_addr::{ClientAddr, RequestId};
use crate::domain::id::{KeyId, TenantId};
use crate::log_limit::LogLimit;

/// In `POSTHASTE_LOG`: one line a request.
const REQUEST: &str = "posthaste::request";

/// In `POSTHASTE_LOG`: one line a key that was refused.
const KEY: &str = "posthaste::key";

/// Requests that were refused, in a second: anybody can make them.
const REFUSED: u32 = 50;

/// Keys that were refused, in a second.
const KEYS: u32 = 10;

/// Requests that failed on our side, in a second.
const FAILURES: u32 = 50;

/// Changes, in a second.
const CHANGES: u32 = 500;

/// Longer paths lead nowhere, and would fill the log.
const LONGEST_PATH: usize = 256;

/// The lines of this process, as far as there are not too many.
#[derive(Debug)]
pub(super) struct RequestLog {
    refused: Mutex<LogLimit>,
    keys: Mutex<LogLimit>,
    failures: Mutex<LogLimit>,
    changes: Mutex<LogLimit>,
}

/// Who calls: in the extensions of a request, noted once the key is known.
#[derive(Debug, Clone, Default)]
pub(super) struct CallerNote(Arc<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// Of a valid key; `None` for the admin key of the configuration.
    key: OnceLock<Option<KeyId>>,
    /// What a key that was refused says it is.
    claimed: OnceLock<KeyId>,
    tenant: OnceLock<TenantId>,
}

/// What of a request must be known when it is answered.
pub(super) struct Begun {
    at: Instant,
    method: Method,
    uri: Uri,
    route: Option<MatchedPath>,
    peer: Option<IpAddr>,
    caller: CallerNote,
}

/// What became of it.
pub(super) struct Answered<'a> {
    pub(super) status: StatusCode,
    /// Of the problem, if it is one.
    pub(super) code: Option<&'a str>,
    /// Why it failed on our side, as far as its caller is not told.
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

    fn route(&self) -> Option<&str> {
        self.route.as_ref().map(MatchedPath::as_str)
    }

    /// Of a route that there is: other paths may be anything.
    fn path(&self) -> Option<&str> {
        self.route.as_ref().map(|_| self.uri.path()).filter(|path| path.len() <= LONGEST_PATH)
    }

    /// Publishes are many, and each is in the database.
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
            duration_ms = u64::try_from(begun.at.elapsed().as_millis()).unwrap_or(u64::MAX),
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
