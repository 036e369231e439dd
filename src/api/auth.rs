//! Identifies the caller and checks what it may do. Handlers name what they need in their signature: `Tenant<Publish>`
//! is a tenant whose caller may publish, `Admin` is a caller with an admin key.

mod access;
mod key_cache;
mod look_ups;
mod subject;

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderName, StatusCode};

use self::access::Access;
pub(super) use self::key_cache::Keys;
use super::App;
use super::budget::Sender;
use super::client_addr::ClientAddr;
use super::cost::Cost;
use super::key::{self, Digest};
use super::problem::Problem;
use super::request_log::CallerNote;
use super::scope::Scope;
use crate::domain::id::{KeyId, SessionId, TenantId, TenantNum};
use crate::domain::moment::UnixMillis;
use crate::store::audit::{Author, Who};
use crate::store::tenants::Tenant as TenantRow;

pub use super::key::{is_key_name, new_admin_key, new_first_admin_key, new_tenant_key};

pub(super) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A scope as a type, for the signatures of handlers.
pub(super) trait Needs: Send {
    const SCOPE: Scope;
}

macro_rules! needs {
    ($($name:ident),*) => {$(
        #[doc = concat!("Needs the scope `", stringify!($name), "`, in lower case.")]
        pub(super) enum $name {}

        impl Needs for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )*};
}

needs!(Read, Publish, Manage, Operate);

/// The key in the headers: a bearer token, or `X-API-Key`.
fn presented(headers: &HeaderMap) -> Result<&str, Problem> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let key = bearer.or_else(|| headers.get(X_API_KEY)?.to_str().ok());
    key.filter(|key| !key.is_empty()).ok_or_else(|| {
        let detail = "give a key as `Authorization: Bearer <key>` or as `X-API-Key: <key>`";
        Problem::unauthenticated("unauthenticated", detail)
    })
}

/// The caller of a request, and the address that it calls from.
struct Caller {
    access: Arc<Access>,
    origin: ClientAddr,
}

impl Caller {
    /// Identifies the caller, counts the request against its rate limits, and charges it for the answer.
    async fn of(parts: &Parts, app: &App) -> Result<Self, Problem> {
        let access = identify(app, &parts.headers, &parts.extensions).await?;
        if let Some(tenant) = &access.tenant {
            app.rates().admit(access.counted_under(), tenant.num, &parts.extensions)?;
        }
        Cost::charge(parts, app, access.tenant.as_ref().map(|tenant| tenant.num)).await?;
        Ok(Self { access, origin: ClientAddr::of(&parts.extensions) })
    }

    fn author(&self) -> Author {
        let ClientAddr { peer, request } = &self.origin;
        let request = request.as_ref().and_then(|id| id.to_str().ok()).map(str::to_owned);
        Author { who: self.access.who, peer: *peer, request, reason: None }
    }
}

/// The tenant that a request is about. The caller has the scope `S`.
pub(super) struct Tenant<S> {
    pub(super) row: Arc<TenantRow>,
    caller: Caller,
    scope: PhantomData<S>,
}

impl<S> Tenant<S> {
    pub(super) fn num(&self) -> TenantNum {
        self.row.num
    }

    /// Author of the request's changes.
    pub(super) fn author(&self) -> Author {
        self.caller.author()
    }
}

impl<S: Needs> FromRequestParts<App> for Tenant<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match tenant_of(parts, app, S::SCOPE).await? {
            (Some(row), caller) => {
                parts.extensions.insert(Sender(row.num));
                Ok(Self { row, caller, scope: PhantomData })
            }
            (None, _) => {
                let detail = "an admin key needs the header `X-Tenant-Id: ten_…` here";
                Err(Problem::bad_request("tenant_required", detail))
            }
        }
    }
}

/// The tenant that a request is about, or all tenants if an admin names none.
pub(super) struct Tenants<S> {
    row: Option<Arc<TenantRow>>,
    caller: Caller,
    scope: PhantomData<S>,
}

impl<S> Tenants<S> {
    pub(super) fn num(&self) -> Option<TenantNum> {
        self.row.as_ref().map(|row| row.num)
    }

    /// Author of the request's changes.
    pub(super) fn author(&self) -> Author {
        self.caller.author()
    }
}

impl<S: Needs> FromRequestParts<App> for Tenants<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let (row, caller) = tenant_of(parts, app, S::SCOPE).await?;
        Ok(Self { row, caller, scope: PhantomData })
    }
}

/// Identifies the caller, and notes the result for the request log and the listener.
async fn identify(app: &App, headers: &HeaderMap, extensions: &Extensions) -> Result<Arc<Access>, Problem> {
    let identified = app.keys().identify(app.store(), headers).await;
    if let Some(note) = extensions.get::<CallerNote>() {
        match &identified {
            Ok(access) => {
                note.known(access.key);
                if let Some(tenant) = &access.tenant {
                    note.tenant(tenant.id);
                }
            }
            Err(_) => {
                if let Some(claimed) = presented(headers).ok().and_then(key::checked_id) {
                    note.refused(claimed);
                }
            }
        }
    }
    identified
}

/// The tenant that a request is about, whatever scope the request needs.
pub(super) async fn acting_for(
    app: &App,
    path: &str,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Option<TenantNum>, Problem> {
    let access = identify(app, headers, extensions).await?;
    Ok(tenant_at(&access, app, path, headers).await?.map(|row| row.num))
}

/// The tenant that the caller belongs to or names, or else the owner of what the path names.
async fn tenant_at(
    access: &Access,
    app: &App,
    path: &str,
    headers: &HeaderMap,
) -> Result<Option<Arc<TenantRow>>, Problem> {
    match tenant_for(access, app, headers).await? {
        Some(named) => Ok(Some(named)),
        None => subject::owner(app, path).await,
    }
}

/// `None` if an admin names no tenant.
async fn tenant_for(access: &Access, app: &App, headers: &HeaderMap) -> Result<Option<Arc<TenantRow>>, Problem> {
    Ok(match (&access.tenant, selected(headers)?) {
        (Some(own), None) => Some(own.clone()),
        (Some(own), Some(id)) if own.id == id => Some(own.clone()),
        (Some(_), Some(_)) => return Err(Problem::no_such("tenant")),
        (None, Some(id)) => Some(app.keys().tenant(app.store(), id).await?.ok_or(Problem::no_such("tenant"))?),
        (None, None) => None,
    })
}

/// The tenant is `None` if an admin names none and the path names nothing that belongs to one.
async fn tenant_of(parts: &Parts, app: &App, scope: Scope) -> Result<(Option<Arc<TenantRow>>, Caller), Problem> {
    let caller = Caller::of(parts, app).await?;
    caller.access.require(scope)?;
    let row = tenant_at(&caller.access, app, parts.uri.path(), &parts.headers).await?;
    if let (Some(row), Some(note)) = (&row, parts.extensions.get::<CallerNote>()) {
        note.tenant(row.id);
    }
    Ok((row, caller))
}

fn selected(headers: &HeaderMap) -> Result<Option<TenantId>, Problem> {
    let Some(value) = headers.get("x-tenant-id") else { return Ok(None) };
    let id = value.to_str().unwrap_or_default().parse();
    id.map(Some).map_err(|error| Problem::bad_request("invalid_id", format!("X-Tenant-Id: {error}")))
}

/// A caller with an admin key.
pub(super) struct Admin(Caller);

impl Admin {
    /// Author of the request's changes.
    pub(super) fn author(&self) -> Author {
        self.0.author()
    }
}

impl FromRequestParts<App> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = Caller::of(parts, app).await?;
        if caller.access.tenant.is_none() {
            return Ok(Self(caller));
        }
        Err(Problem::new(StatusCode::FORBIDDEN, "admin_only", "this needs an admin key"))
    }
}

/// A caller with any valid key or session, whatever it allows.
pub(super) struct Anyone(Caller);

impl Anyone {
    /// The key, or the key that opened the session; `None` for the admin key of the configuration.
    pub(super) fn key_id(&self) -> Option<KeyId> {
        self.0.access.key
    }

    /// `None` for a request with a key.
    pub(super) fn session(&self) -> Option<SessionId> {
        match self.0.access.who {
            Who::Session(id) => Some(id),
            Who::Key(_) | Who::Admin | Who::Command | Who::Engine => None,
        }
    }

    /// `None` for an admin.
    pub(super) fn tenant(&self) -> Option<&TenantRow> {
        self.0.access.tenant.as_deref()
    }

    pub(super) fn scopes(&self) -> &[Scope] {
        &self.0.access.scopes
    }

    pub(super) fn expires_at(&self) -> Option<UnixMillis> {
        self.0.access.expires_at
    }

    pub(super) fn digest(&self) -> &Digest {
        self.0.access.digest()
    }

    /// Author of the request's changes.
    pub(super) fn author(&self) -> Author {
        self.0.author()
    }
}

impl FromRequestParts<App> for Anyone {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = Caller::of(parts, app).await?;
        tenant_for(&caller.access, app, &parts.headers).await?;
        Ok(Self(caller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presented_in(headers: &[(&'static str, &'static str)]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        presented(&map).ok().map(str::to_owned)
    }

    #[test]
    fn a_key_is_read_from_either_header() {
        assert_eq!(presented_in(&[("authorization", "Bearer abc")]).as_deref(), Some("abc"));
        assert_eq!(presented_in(&[("authorization", "bearer  abc")]).as_deref(), Some("abc"));
        assert_eq!(presented_in(&[("x-api-key", "abc")]).as_deref(), Some("abc"));
        assert_eq!(presented_in(&[("authorization", "Basic eA=="), ("x-api-key", "abc")]).as_deref(), Some("abc"));
        assert_eq!(presented_in(&[("authorization", "Bearer ")]), None);
        assert_eq!(presented_in(&[]), None);
    }
}
