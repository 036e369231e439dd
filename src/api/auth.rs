//! Who calls, and what they may do. Handlers name what they need in their signature: `Tenant<Publish>` is a tenant
//! whose caller may publish, `Admin` a caller who may do everything.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, StatusCode};
use parking_lot::{Mutex, RwLock};
use subtle::ConstantTimeEq;

use super::App;
use super::body::Sender;
use super::key::{self, Digest};
use super::misses::Misses;
use super::problem::Problem;
use crate::engine::Stale;
use crate::id::{KeyId, TenantId, TenantNum};
use crate::store::keys::ApiKey;
use crate::store::tenants::Tenant as TenantRow;
use crate::store::{Store, StoreError};

pub use super::key::{new_admin_key, new_tenant_key};

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Read,
    Publish,
    Manage,
    Operate,
}

impl Scope {
    pub(super) const ALL: [Self; 4] = [Self::Read, Self::Publish, Self::Manage, Self::Operate];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Publish => "publish",
            Self::Manage => "manage",
            Self::Operate => "operate",
        }
    }
}

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

/// What is known of a key.
struct Access {
    digest: Digest,
    /// `None` for an admin key.
    tenant: Option<Arc<TenantRow>>,
    scopes: Vec<Scope>,
}

impl Access {
    fn admin(digest: Digest) -> Self {
        Self { digest, tenant: None, scopes: Scope::ALL.to_vec() }
    }

    fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.contains(&scope) {
            return Ok(());
        }
        let detail = format!("this needs a key with the scope `{}`", scope.as_str());
        Err(Problem::new(StatusCode::FORBIDDEN, "missing_scope", detail))
    }
}

/// The keys that were used and the tenants they lead to, so that publishing reads no row.
pub(super) struct Keys {
    /// The admin key of the configuration.
    configured: Option<Arc<Access>>,
    known: RwLock<Known>,
    misses: Mutex<Misses>,
}

#[derive(Default)]
struct Known {
    /// Grows with every forgetting: what was read before one must not be remembered after it.
    generation: u64,
    keys: HashMap<[u8; key::ID], Arc<Access>>,
    tenants: HashMap<TenantId, Arc<TenantRow>>,
}

impl Keys {
    pub(super) fn new(admin_key: Option<&str>) -> Self {
        let configured = admin_key.map(|admin_key| Arc::new(Access::admin(key::digest(admin_key.as_bytes()))));
        let misses = Mutex::new(Misses::new(Instant::now()));
        Self { configured, known: RwLock::default(), misses }
    }

    async fn identify(&self, store: &Store, headers: &HeaderMap, peer: IpAddr) -> Result<Arc<Access>, Problem> {
        let presented = presented(headers)?;
        let digest = key::digest(presented.as_bytes());
        let is_right = |access: &&Arc<Access>| bool::from(access.digest.ct_eq(&digest));
        if let Some(admin) = self.configured.as_ref().filter(is_right) {
            return Ok(admin.clone());
        }
        let id = key::id_text(presented).ok_or_else(unknown_key)?;
        let (known, generation) = {
            let known = self.known.read();
            (known.keys.get(&id).cloned(), known.generation)
        };
        if let Some(access) = known {
            return if is_right(&&access) { Ok(access) } else { Err(unknown_key()) };
        }
        let key_id = key::checked_id(presented).ok_or_else(unknown_key)?;
        if let Some(wait) = self.misses.lock().wait(peer, Instant::now()) {
            return Err(Problem::rate_limited("there were too many requests with keys that do not exist", wait));
        }
        let access = self.look_up(store, key_id).await?.map(Arc::new);
        let Some(access) = access.filter(|access| is_right(&access)) else {
            self.misses.lock().note(peer, Instant::now());
            return Err(unknown_key());
        };
        let mut known = self.known.write();
        if known.generation == generation {
            known.keys.insert(id, access.clone());
        }
        Ok(access)
    }

    async fn look_up(&self, store: &Store, id: KeyId) -> Result<Option<Access>, Problem> {
        let Some(row) = store.key(id).await? else { return Ok(None) };
        let ApiKey { num: _, id: _, tenant, name: _, scopes, digest, created_at: _ } = row;
        let digest = digest.try_into().map_err(|_| Problem::internal(&"a stored key digest has a wrong length"))?;
        let Some(tenant) = tenant else { return Ok(Some(Access::admin(digest))) };
        let Some(tenant) = store.tenant_by_num(tenant).await? else { return Ok(None) };
        let scopes = Scope::ALL.into_iter().filter(|scope| scopes.iter().any(|name| name == scope.as_str())).collect();
        Ok(Some(Access { digest, tenant: Some(Arc::new(tenant)), scopes }))
    }

    async fn tenant(&self, store: &Store, id: TenantId) -> Result<Option<Arc<TenantRow>>, StoreError> {
        let (known, generation) = {
            let known = self.known.read();
            (known.tenants.get(&id).cloned(), known.generation)
        };
        if known.is_some() {
            return Ok(known);
        }
        let Some(found) = store.tenant(id).await?.map(Arc::new) else { return Ok(None) };
        let mut known = self.known.write();
        if known.generation == generation {
            known.tenants.insert(id, found.clone());
        }
        Ok(Some(found))
    }

    /// To be called after a key was deleted, before the answer says so.
    pub(super) fn forget_key(&self, id: KeyId) {
        let text = id.to_string();
        let mut known = self.known.write();
        known.generation += 1;
        known.keys.retain(|id, _| !text.as_bytes().ends_with(id));
    }

    /// To be called after a tenant was changed or deleted, before the answer says so.
    pub(super) fn forget_tenant(&self, num: TenantNum) {
        let mut known = self.known.write();
        known.generation += 1;
        known.keys.retain(|_, access| access.tenant.as_ref().is_none_or(|of| of.num != num));
        known.tenants.retain(|_, tenant| tenant.num != num);
    }

    /// Another node has changed what is known here.
    pub(super) fn forget(&self, stale: Stale) {
        match stale {
            Stale::Tenant(num) => self.forget_tenant(num),
            Stale::Everything => {
                let mut known = self.known.write();
                *known = Known { generation: known.generation + 1, ..Known::default() };
            }
        }
    }
}

/// The key in the headers: a bearer token, or `X-API-Key`.
fn presented(headers: &HeaderMap) -> Result<&str, Problem> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let key = bearer.or_else(|| headers.get("x-api-key")?.to_str().ok());
    key.filter(|key| !key.is_empty()).ok_or_else(|| {
        let detail = "give a key as `Authorization: Bearer <key>` or as `X-API-Key: <key>`";
        Problem::unauthenticated("unauthenticated", detail)
    })
}

fn unknown_key() -> Problem {
    Problem::unauthenticated("invalid_key", "the key is not valid: mistyped, deleted, or never given out")
}

/// What the caller may do, unless it calls too often.
async fn caller(parts: &Parts, app: &App) -> Result<Arc<Access>, Problem> {
    let access = app.keys().identify(app.store(), &parts.headers, peer(&parts.extensions)).await?;
    if let Some(tenant) = &access.tenant {
        app.rates().admit(&access.digest, tenant.num)?;
    }
    Ok(access)
}

/// Whether a request has a key that exists. What it may do, its handler says.
pub(super) async fn is_known(headers: &HeaderMap, peer: IpAddr, app: &App) -> bool {
    app.keys().identify(app.store(), headers, peer).await.is_ok()
}

/// Where a request comes from; the unspecified address if nobody has said.
pub(super) fn peer(extensions: &Extensions) -> IpAddr {
    let known: Option<&ConnectInfo<SocketAddr>> = extensions.get();
    known.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip())
}

/// The tenant that a request is about, whose caller has the scope `S`.
pub(super) struct Tenant<S> {
    pub(super) row: Arc<TenantRow>,
    scope: PhantomData<S>,
}

impl<S> Tenant<S> {
    pub(super) fn num(&self) -> TenantNum {
        self.row.num
    }
}

impl<S: Needs> FromRequestParts<App> for Tenant<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match tenant_of(parts, app, S::SCOPE).await? {
            Some(row) => {
                parts.extensions.insert(Sender(row.num));
                Ok(Self { row, scope: PhantomData })
            }
            None => {
                let detail = "an admin key needs the header `X-Tenant-Id: ten_…` here";
                Err(Problem::bad_request("tenant_required", detail))
            }
        }
    }
}

/// The tenant that a request is about, or all of them if an admin names none.
pub(super) struct Tenants<S> {
    row: Option<Arc<TenantRow>>,
    scope: PhantomData<S>,
}

impl<S> Tenants<S> {
    pub(super) fn num(&self) -> Option<TenantNum> {
        self.row.as_ref().map(|row| row.num)
    }
}

impl<S: Needs> FromRequestParts<App> for Tenants<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Ok(Self { row: tenant_of(parts, app, S::SCOPE).await?, scope: PhantomData })
    }
}

/// Nothing if an admin names none.
async fn tenant_of(parts: &Parts, app: &App, scope: Scope) -> Result<Option<Arc<TenantRow>>, Problem> {
    let access = caller(parts, app).await?;
    access.require(scope)?;
    let selected = selected(&parts.headers)?;
    Ok(match (&access.tenant, selected) {
        (Some(own), None) => Some(own.clone()),
        (Some(own), Some(id)) if own.id == id => Some(own.clone()),
        (Some(_), Some(_)) => return Err(Problem::no_such("tenant")),
        (None, Some(id)) => Some(app.keys().tenant(app.store(), id).await?.ok_or(Problem::no_such("tenant"))?),
        (None, None) => None,
    })
}

fn selected(headers: &HeaderMap) -> Result<Option<TenantId>, Problem> {
    let Some(value) = headers.get("x-tenant-id") else { return Ok(None) };
    let id = value.to_str().unwrap_or_default().parse();
    id.map(Some).map_err(|error| Problem::bad_request("invalid_id", format!("X-Tenant-Id: {error}")))
}

/// A caller with an admin key.
pub(super) struct Admin;

impl FromRequestParts<App> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let access = caller(parts, app).await?;
        if access.tenant.is_none() {
            return Ok(Self);
        }
        Err(Problem::new(StatusCode::FORBIDDEN, "admin_only", "this needs an admin key"))
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

    #[tokio::test]
    async fn what_another_node_has_changed_of_a_tenant_or_a_key_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        let store = Store::open(crate::store::Options::of(url)).await.unwrap();
        let new = crate::store::tenants::NewTenant {
            id: TenantId::generate(),
            name: "Tenant".to_owned(),
            allow_undeclared_types: true,
            created_at: crate::clock::UnixMillis::now(),
            catalogue: Vec::new(),
        };
        let tenant = store.create_tenant(new, None).await.unwrap();
        let (shown, row) = new_tenant_key(tenant.num, "ci");
        store.create_key(row.clone(), None).await.unwrap();
        let headers: HeaderMap = [(AUTHORIZATION, format!("Bearer {shown}").parse().unwrap())].into_iter().collect();
        let keys = Keys::new(None);
        let identify = || keys.identify(&store, &headers, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert!(identify().await.is_ok() && keys.tenant(&store, tenant.id).await.unwrap().is_some());

        let strict = TenantRow { allow_undeclared_types: false, ..tenant };
        store.update_tenant(&strict, crate::clock::UnixMillis::now()).await.unwrap();
        for stale in [Stale::Tenant(TenantNum(strict.num.0 + 1)), Stale::Tenant(strict.num)] {
            keys.forget(stale);
            let access = identify().await.unwrap();
            let is_read_again = stale == Stale::Tenant(strict.num);
            assert_eq!(access.tenant.as_ref().unwrap().allow_undeclared_types, !is_read_again);
            let selected = keys.tenant(&store, strict.id).await.unwrap().unwrap();
            assert_eq!(selected.allow_undeclared_types, !is_read_again);
        }
        store.delete_key(strict.num, row.id).await.unwrap();
        assert!(identify().await.is_ok(), "nobody has told yet");
        keys.forget(Stale::Everything);
        assert!(identify().await.is_err());
    }

    #[test]
    fn a_missing_scope_is_named() {
        let access = Access { digest: [0; 32], tenant: None, scopes: vec![Scope::Read] };
        assert!(access.require(Scope::Read).is_ok());
        let (status, code, detail, _) = access.require(Scope::Manage).unwrap_err().into_parts();
        assert_eq!((status.as_u16(), code), (403, "missing_scope"));
        assert!(detail.contains("`manage`"));
    }
}
