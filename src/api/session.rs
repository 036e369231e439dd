//! `/session`: a browser exchanges a key once for a cookie that no script can read. The cookie contains a key of its
//! own, which ends after half a day, with the key that opened it, or when its owner logs out.
//!
//! Before anything else looks at a request, [`admit`] turns a cookie into an `Authorization`. It refuses a cookie if
//! the request changes something and does not come from a page of ours ([`same_origin`]).

mod same_origin;

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Anyone, X_API_KEY};
use super::body::NoBody;
use super::idempotency::NoIdempotencyKey;
use super::key;
use super::page::NoQuery;
use super::problem::Problem;
use super::problem_sets::{ActionProblems, ReadProblems, RemoveProblems};
use super::scope::Scope;
use crate::domain::id::{KeyId, SessionId, TenantId};
use crate::domain::moment::UnixMillis;

/// Maximum length of a session: a working day, so that no session lies about for longer.
const LENGTH: Duration = Duration::from_secs(12 * 3600);

/// Browsers take the first only over TLS, for this host alone and from no other host.
const SECURE_NAME: &str = "__Host-posthaste_session";
const PLAIN_NAME: &str = "posthaste_session";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(open, show, close))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Session)]
pub(super) struct SessionView {
    /// Id of the session; null for a request with a key.
    #[schema(value_type = Option<String>)]
    id: Option<SessionId>,
    /// The key, or the key that opened the session; null for the admin key of the configuration.
    #[schema(value_type = Option<String>)]
    key_id: Option<KeyId>,
    /// Null for an admin.
    #[schema(value_type = Option<String>)]
    tenant_id: Option<TenantId>,
    scopes: Vec<&'static str>,
    /// Null for a key that does not expire.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<UnixMillis>,
}

impl From<&Anyone> for SessionView {
    fn from(caller: &Anyone) -> Self {
        Self {
            id: caller.session(),
            key_id: caller.key_id(),
            tenant_id: caller.tenant().map(|tenant| tenant.id),
            scopes: caller.scopes().iter().map(|scope| scope.as_str()).collect(),
            expires_at: caller.expires_at(),
        }
    }
}

/// Opens a session with a key.
///
/// The answer sets an `HttpOnly` cookie that allows what the key allows, for twelve hours at most.
#[utoipa::path(post, path = "/session", tag = "session", operation_id = "openSession",
    responses((status = 201, body = SessionView), ActionProblems))]
async fn open(
    State(app): State<App>,
    caller: Anyone,
    _: NoQuery,
    headers: HeaderMap,
    _: NoIdempotencyKey,
    _: NoBody,
) -> Result<Response, Problem> {
    if caller.session().is_some() {
        let detail = "a session is open already; give a key to open another one";
        return Err(Problem::new(StatusCode::CONFLICT, "session_open", detail));
    }
    let ends = UnixMillis::now_reference().plus(LENGTH);
    let ends = caller.expires_at().map_or(ends, |at| at.min(ends));
    let scopes = caller.scopes().iter().map(|scope: &Scope| scope.as_str().to_owned()).collect();
    let (shown, new) = key::mint(caller.tenant().map(|tenant| tenant.num), "session".to_owned(), scopes, Some(ends));
    let view = SessionView { id: Some(SessionId::of(new.id)), expires_at: Some(ends), ..SessionView::from(&caller) };
    app.store().open_session(new, caller.digest(), &caller.author()).await?;
    let cookie = set_cookie(same_origin::is_secure(&headers), &shown, LENGTH)?;
    // Where the session can be read and ended with its own cookie.
    let location = HeaderValue::from_static("/api/v1/session");
    Ok((StatusCode::CREATED, [(SET_COOKIE, cookie), (LOCATION, location)], axum::Json(view)).into_response())
}

/// Shows the caller: its key, its tenant, its scopes and when they end.
#[utoipa::path(get, path = "/session", tag = "session", operation_id = "readSession",
    responses((status = 200, body = SessionView), ReadProblems))]
async fn show(caller: Anyone, _: NoQuery) -> axum::Json<SessionView> {
    axum::Json(SessionView::from(&caller))
}

/// Ends the session of the cookie, on every node.
#[utoipa::path(delete, path = "/session", tag = "session", operation_id = "closeSession",
    responses((status = 204), RemoveProblems))]
async fn close(State(app): State<App>, caller: Anyone, _: NoQuery) -> Result<Response, Problem> {
    let Some(id) = caller.session() else {
        let detail = "the request is made with a key and not with a session; delete the key if it shall end";
        return Err(Problem::new(StatusCode::CONFLICT, "no_session", detail));
    };
    let tenant = caller.tenant().map(|tenant| tenant.num);
    app.store().end_session(tenant, id, &caller.author()).await?;
    app.keys().forget_session(id);
    app.engine().notify_peers();
    let mut response = StatusCode::NO_CONTENT.into_response();
    for is_secure in [true, false] {
        response.headers_mut().append(SET_COOKIE, set_cookie(is_secure, "", Duration::ZERO)?);
    }
    Ok(response)
}

fn set_cookie(is_secure: bool, value: &str, lasts: Duration) -> Result<HeaderValue, Problem> {
    let (name, secure) = if is_secure { (SECURE_NAME, "; Secure") } else { (PLAIN_NAME, "") };
    let text = format!("{name}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict{secure}", lasts.as_secs());
    let mut cookie = HeaderValue::from_str(&text).map_err(|error| Problem::internal(&error))?;
    cookie.set_sensitive(true);
    Ok(cookie)
}

/// Turns the cookie of a session into the key that it contains.
///
/// # Errors
///
/// When there are several sessions, or the request changes something and does not come from a page of ours.
pub(super) fn admit(request: &mut Request) -> Result<(), Problem> {
    if !request.headers().contains_key(COOKIE) {
        return Ok(());
    }
    let has_key = request.headers().contains_key(AUTHORIZATION) || request.headers().contains_key(X_API_KEY);
    if !has_key {
        match in_cookie(request.headers()) {
            Found::Nothing => {}
            Found::Several => {
                let detail = "the request has several sessions' cookies, of which another host may have set some; delete the \
                              cookies of this site and log in again";
                return Err(Problem::bad_request("ambiguous_session", detail));
            }
            Found::Session(_) if !same_origin::may_use_cookie(request) => {
                let detail = "a request with a session's cookie that changes something must come from a page of this host; \
                              give a key instead";
                return Err(Problem::new(StatusCode::FORBIDDEN, "cross_origin", detail));
            }
            Found::Session(key) => {
                if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {key}")) {
                    value.set_sensitive(true);
                    request.headers_mut().insert(AUTHORIZATION, value);
                }
            }
        }
    }
    request.headers_mut().remove(COOKIE);
    Ok(())
}

/// What the cookies of a request contain.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Session(String),
    /// A page of a sibling host can set a cookie for its whole domain, which the browser then sends beside ours and
    /// maybe before it (RFC 6265, 8.6). A user who works in the attacker's session gives the attacker what is typed
    /// there.
    Several,
}

fn in_cookie(headers: &HeaderMap) -> Found {
    let pairs =
        || headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    let called = |name: &'static str| {
        let named = pairs().filter_map(|pair| pair.trim().split_once('='));
        named.filter(move |(given, value)| *given == name && !value.is_empty()).map(|(_, value)| value)
    };
    // The cookie that no other host can have set goes first; over TLS, the other cookie counts for nothing.
    let is_over_tls = same_origin::is_page_over_tls(headers);
    let names: &[&'static str] = if is_over_tls { &[SECURE_NAME] } else { &[SECURE_NAME, PLAIN_NAME] };
    let Some((first, mut others)) = names.iter().find_map(|name| {
        let mut values = called(name);
        Some((values.next()?, values))
    }) else {
        return Found::Nothing;
    };
    if others.any(|other| other != first) { Found::Several } else { Found::Session(first.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found_beside(origin: &'static str, cookies: &[&'static str]) -> Found {
        let mut headers = HeaderMap::new();
        if !origin.is_empty() {
            headers.insert("origin", HeaderValue::from_static(origin));
        }
        for cookie in cookies {
            headers.append(COOKIE, HeaderValue::from_static(cookie));
        }
        in_cookie(&headers)
    }

    fn found_in(cookies: &[&'static str]) -> Found {
        found_beside("", cookies)
    }

    fn session(key: &str) -> Found {
        Found::Session(key.to_owned())
    }

    #[test]
    fn a_session_is_found_among_other_cookies() {
        assert_eq!(found_in(&["a=1; posthaste_session=phk_x; b=2"]), session("phk_x"));
        assert_eq!(found_in(&["posthaste_session=phk_x", "__Host-posthaste_session=phk_y"]), session("phk_y"));
        assert_eq!(found_in(&["posthaste_session=", "xposthaste_session=phk_x"]), Found::Nothing);
        assert_eq!(found_in(&[]), Found::Nothing);
    }

    #[test]
    fn of_two_sessions_in_one_request_neither_is_used() {
        assert_eq!(found_in(&["posthaste_session=phk_evil; posthaste_session=phk_x"]), Found::Several);
        assert_eq!(found_in(&["posthaste_session=phk_x", "posthaste_session=phk_evil"]), Found::Several);
        assert_eq!(found_in(&["posthaste_session=phk_x; posthaste_session=phk_x"]), session("phk_x"));
        let planted = "posthaste_session=phk_evil; posthaste_session=phk_more; __Host-posthaste_session=phk_x";
        assert_eq!(found_in(&[planted]), session("phk_x"));
    }

    #[test]
    fn over_tls_only_the_cookie_that_no_other_host_can_set_is_used() {
        assert_eq!(found_beside("https://hooks.example", &["posthaste_session=phk_evil"]), Found::Nothing);
        assert_eq!(found_beside("http://hooks.example", &["posthaste_session=phk_x"]), session("phk_x"));
    }

    #[test]
    fn no_script_and_no_other_site_has_the_cookie() {
        let text = |is_secure| set_cookie(is_secure, "phk_x", LENGTH).unwrap().to_str().unwrap().to_owned();
        assert_eq!(
            text(true),
            "__Host-posthaste_session=phk_x; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"
        );
        assert_eq!(text(false), "posthaste_session=phk_x; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict");
    }
}
