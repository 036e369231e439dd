//! Caches the keys that were used and their tenants, so that publishing reads no row, and the keys that were refused.
//!
//! A refusal does not reveal which keys exist. A key with a wrong checksum is refused without the database. Any other
//! key that is not known to be right costs one look-up in the database the first time and none after that, whether its
//! id is unknown, its secret is wrong, or the right key of that id is cached. No key is refused without this look-up,
//! however many wrong keys there are. A key that was right does not wait behind wrong ones when it has to be read
//! again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::look_ups::LookUps;
use super::presented;
use crate::api::key::{self, Digest};
use crate::api::problem::Problem;
use crate::domain::id::{SessionId, TenantId, TenantNum};
use crate::domain::moment::UnixMillis;
use crate::engine::Stale;
use crate::store::audit::Who;
use crate::store::keys::ApiKey;
use crate::store::tenants::Tenant;
use crate::store::{Store, StoreError};

/// Maximum keys, and maximum tenants, in memory. A full cache is emptied; its entries are read again when they are
/// needed.
const MOST_KNOWN: usize = 65_536;

/// Maximum refused keys in each of two generations. A caller that goes on with an old key is refused from memory, and
/// nobody can fill more memory than this.
const MOST_REFUSED: usize = 4096;

/// Interval at which uses are written; `lastUsedAt` is accurate to this.
const NOTE_EVERY: Duration = Duration::from_secs(60);

pub(in crate::api) struct Keys {
    /// The admin key of the configuration.
    configured: Option<Arc<Access>>,
    known: RwLock<Known>,
    refused: Mutex<Refused>,
    look_ups: LookUps,
}

#[derive(Default)]
struct Known {
    /// Rises whenever something is forgotten: what was read before must not be cached after.
    generation: u64,
    keys: HashMap<[u8; key::ID], Arc<Access>>,
    /// Digests of keys that were right and are forgotten: a change of a tenant most likely leaves its keys right.
    proven: HashSet<Digest>,
    tenants: HashMap<TenantId, Arc<Tenant>>,
    /// Uses of forgotten keys that are not yet written.
    left: HashMap<i64, UnixMillis>,
}

impl Known {
    fn forget_keys(&mut self, is_stale: impl Fn(&[u8; key::ID], &Access) -> bool) {
        self.generation += 1;
        let Self { keys, proven, left, .. } = self;
        keys.retain(|id, access| {
            let goes = is_stale(id, access);
            if goes {
                left.extend(access.take_use());
                if proven.len() >= MOST_KNOWN {
                    proven.clear();
                }
                proven.insert(*access.digest());
            }
            !goes
        });
    }
}

/// Digests of refused keys, each of the whole key: no new key will ever have one of them.
#[derive(Default)]
struct Refused {
    newer: HashSet<Digest>,
    older: HashSet<Digest>,
}

impl Refused {
    fn has(&self, digest: &Digest) -> bool {
        self.newer.contains(digest) || self.older.contains(digest)
    }

    fn add(&mut self, digest: Digest) {
        if self.newer.len() >= MOST_REFUSED {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(digest);
    }
}

impl Keys {
    pub(in crate::api) fn new(admin_key: Option<&str>) -> Self {
        let configured = admin_key.map(|admin_key| Arc::new(Access::configured(admin_key)));
        Self { configured, known: RwLock::default(), refused: Mutex::default(), look_ups: LookUps::default() }
    }

    pub(super) async fn identify(&self, store: &Store, headers: &HeaderMap) -> Result<Arc<Access>, Problem> {
        let access = self.access(store, presented(headers)?).await?.ok_or_else(unknown_key)?;
        access.enter(UnixMillis::now_reference())?;
        Ok(access)
    }

    async fn access(&self, store: &Store, presented: &str) -> Result<Option<Arc<Access>>, Problem> {
        let digest = key::digest(presented.as_bytes());
        if let Some(admin) = self.configured.as_ref().filter(|admin| admin.is(&digest)) {
            return Ok(Some(admin.clone()));
        }
        let Some(id) = key::id_text(presented) else { return Ok(None) };
        let (known, is_proven, generation) = {
            let known = self.known.read();
            (known.keys.get(&id).cloned(), known.proven.contains(&digest), known.generation)
        };
        if let Some(access) = known.filter(|access| access.is(&digest)) {
            return Ok(Some(access));
        }
        let Some(key_id) = key::checked_id(presented) else { return Ok(None) };
        if self.refused.lock().has(&digest) {
            return Ok(None);
        }
        let row = match is_proven {
            true => store.keys_by(&[(key_id, digest)]).await?.pop().flatten(),
            false => self.look_ups.ask(store, key_id, digest).await?,
        };
        let access = match row {
            Some(row) => self.opened(store, row, &digest).await?,
            None => None,
        };
        let Some(access) = access else {
            if is_proven {
                self.known.write().proven.remove(&digest);
            }
            self.refused.lock().add(digest);
            return Ok(None);
        };
        Ok(Some(self.remember(id, Arc::new(access), generation)))
    }

    async fn opened(&self, store: &Store, row: ApiKey, digest: &Digest) -> Result<Option<Access>, Problem> {
        let opener = match &row.opened_by {
            None => None,
            Some(digest) if row.tenant.is_none() && self.is_configured(digest) => None,
            Some(digest) => match store.opener(row.tenant, digest, UnixMillis::now_reference()).await? {
                None => return Ok(None),
                opener => opener,
            },
        };
        let tenant = match row.tenant {
            None => None,
            Some(num) => match store.tenant_by_num(num).await? {
                None => return Ok(None),
                Some(tenant) => Some(Arc::new(tenant)),
            },
        };
        Access::stored(row, tenant, opener).map(|access| Some(access).filter(|access| access.is(digest)))
    }

    fn is_configured(&self, digest: &[u8]) -> bool {
        self.configured.as_ref().is_some_and(|admin| admin.digest() == digest)
    }

    /// Whether the configuration has an admin key.
    pub(in crate::api) fn has_configured(&self) -> bool {
        self.configured.is_some()
    }

    /// Caches the access, unless something was forgotten since `generation`.
    fn remember(&self, id: [u8; key::ID], access: Arc<Access>, generation: u64) -> Arc<Access> {
        let mut known = self.known.write();
        if known.generation == generation {
            if known.keys.len() >= MOST_KNOWN {
                known.forget_keys(|_, _| true);
            }
            known.proven.remove(access.digest());
            known.keys.insert(id, access.clone());
        }
        access
    }

    pub(super) async fn tenant(&self, store: &Store, id: TenantId) -> Result<Option<Arc<Tenant>>, StoreError> {
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
            if known.tenants.len() >= MOST_KNOWN {
                known.tenants.clear();
            }
            known.tenants.insert(id, found.clone());
        }
        Ok(Some(found))
    }

    /// Must be called after a session has ended, before the answer says so.
    pub(in crate::api) fn forget_session(&self, id: SessionId) {
        self.known.write().forget_keys(|_, access| access.who == Who::Session(id));
    }

    /// Must be called after a tenant was changed or deleted, before the answer says so.
    pub(in crate::api) fn forget_tenant(&self, num: TenantNum) {
        let mut known = self.known.write();
        known.forget_keys(|_, access| access.tenant.as_ref().is_some_and(|of| of.num == num));
        known.tenants.retain(|_, tenant| tenant.num != num);
    }

    /// Forgets what another node has changed.
    pub(in crate::api) fn forget(&self, stale: Stale) {
        match stale {
            Stale::Tenant(num) => self.forget_tenant(num),
            Stale::AdminKeys => self.known.write().forget_keys(|_, access| access.tenant.is_none()),
            Stale::Everything => {
                let mut known = self.known.write();
                known.forget_keys(|_, _| true);
                known.tenants.clear();
                drop(known);
                // A restored database, or another server, may have a key that did not exist before.
                *self.refused.lock() = Refused::default();
            }
        }
    }

    /// Writes once a minute which keys were used, all at once, and a last time when the engine stops.
    pub(in crate::api) async fn note_uses(self: Arc<Self>, store: Store, stopping: CancellationToken) {
        while stopping.run_until_cancelled(tokio::time::sleep(NOTE_EVERY)).await.is_some() {
            self.note(&store).await;
        }
        self.note(&store).await;
    }

    async fn note(&self, store: &Store) {
        let uses: Vec<(i64, UnixMillis)> = {
            let mut known = self.known.write();
            let mut uses = std::mem::take(&mut known.left);
            uses.extend(known.keys.values().filter_map(|access| access.take_use()));
            uses.into_iter().collect()
        };
        if let Err(error) = store.note_uses(&uses).await {
            tracing::warn!(%error, "last uses of keys could not be written; they are kept for the next try");
            self.known.write().left.extend(uses);
        }
    }
}

fn unknown_key() -> Problem {
    Problem::unauthenticated("invalid_key", "the key is not valid: mistyped, deleted, or never given out")
}

#[cfg(test)]
mod tests;
