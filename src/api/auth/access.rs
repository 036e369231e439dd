//! What is known of one key: what it allows, for which tenant, until when, and when it was last used.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::http::StatusCode;
use subtle::ConstantTimeEq;

use super::Scope;
use crate::api::key::{self, Digest};
use crate::api::problem::Problem;
use crate::domain::id::{KeyId, SessionId};
use crate::domain::moment::UnixMillis;
use crate::store::audit::Who;
use crate::store::keys::ApiKey;
use crate::store::tenants::Tenant;

/// Time of the last use of a key that was never used.
const NEVER: i64 = 0;

pub(super) struct Access {
    pub(super) who: Who,
    digest: Digest,
    /// `None` for an admin key.
    pub(super) tenant: Option<Arc<Tenant>>,
    pub(super) scopes: Vec<Scope>,
    pub(super) expires_at: Option<UnixMillis>,
    /// For a session: the digest of the key that opened it.
    opener: Option<Digest>,
    /// The key itself, or the key that opened the session; `None` for the admin key of the configuration.
    pub(super) key: Option<KeyId>,
    /// Number of the key's row; `None` for the admin key of the configuration.
    num: Option<i64>,
    used_at: AtomicI64,
    /// The last use that the row knows of.
    noted: AtomicI64,
}

impl Access {
    /// The access of the admin key of the configuration.
    pub(super) fn configured(admin_key: &str) -> Self {
        Self::new(Who::Admin, key::digest(admin_key.as_bytes()), None, Scope::ALL.to_vec())
    }

    /// The access of a stored key. `tenant` is the tenant that the key belongs to; `opener` is the key that opened it,
    /// if it is a session.
    pub(super) fn stored(row: ApiKey, tenant: Option<Arc<Tenant>>, opener: Option<KeyId>) -> Result<Self, Problem> {
        let ApiKey { num, id, tenant: _, name: _, scopes, digest, created_at: _, expires_at, last_used_at, opened_by } =
            row;
        let whole = |digest: Vec<u8>| {
            let wrong = |_| Problem::internal(&"a stored key digest has a wrong length");
            digest.try_into().map_err(wrong)
        };
        let (digest, opened_by) = (whole(digest)?, opened_by.map(whole).transpose()?);
        let scopes = match tenant {
            None => Scope::ALL.to_vec(),
            Some(_) => {
                Scope::ALL.into_iter().filter(|scope| scopes.iter().any(|name| name == scope.as_str())).collect()
            }
        };
        let noted = last_used_at.map_or(NEVER, |at| at.0);
        let (used_at, noted) = (AtomicI64::new(noted), AtomicI64::new(noted));
        let (who, key) = match opened_by {
            None => (Who::Key(id), Some(id)),
            Some(_) => (Who::Session(SessionId::of(id)), opener),
        };
        let plain = Self::new(who, digest, tenant, scopes);
        Ok(Self { expires_at, opener: opened_by, key, num: Some(num), used_at, noted, ..plain })
    }

    fn new(who: Who, digest: Digest, tenant: Option<Arc<Tenant>>, scopes: Vec<Scope>) -> Self {
        let (used_at, noted) = (AtomicI64::new(NEVER), AtomicI64::new(NEVER));
        Self { who, digest, tenant, scopes, expires_at: None, opener: None, key: None, num: None, used_at, noted }
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Digest of the key whose rate limit counts the requests: a session has no rate limit of its own.
    pub(super) fn counted_under(&self) -> &Digest {
        self.opener.as_ref().unwrap_or(&self.digest)
    }

    /// Whether `digest` is this key's, compared in constant time.
    pub(super) fn is(&self, digest: &Digest) -> bool {
        self.digest.ct_eq(digest).into()
    }

    /// Notes a use of the key, unless the key has expired.
    pub(super) fn enter(&self, now: UnixMillis) -> Result<(), Problem> {
        if self.expires_at.is_some_and(|at| at <= now) {
            return Err(Problem::unauthenticated("key_expired", "the key has expired; ask for another one"));
        }
        self.used_at.fetch_max(now.0, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.contains(&scope) {
            return Ok(());
        }
        let detail = format!("this needs a key with the scope `{}`", scope.as_str());
        Err(Problem::new(StatusCode::FORBIDDEN, "missing_scope", detail))
    }

    /// The last use, if the row does not know it yet. The caller must write it to the row.
    pub(super) fn take_use(&self) -> Option<(i64, UnixMillis)> {
        let used_at = self.used_at.load(Ordering::Relaxed);
        let is_new = self.noted.swap(used_at, Ordering::Relaxed) != used_at;
        self.num.filter(|_| is_new).map(|num| (num, UnixMillis(used_at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_scope_is_named() {
        let access = Access::new(Who::Admin, [0; 32], None, vec![Scope::Read]);
        assert!(access.require(Scope::Read).is_ok());
        let (status, code, detail, _) = access.require(Scope::Manage).unwrap_err().into_parts();
        assert_eq!((status.as_u16(), code), (403, "missing_scope"));
        assert!(detail.contains("`manage`"));
    }

    #[test]
    fn a_key_ends_at_its_time_and_each_use_is_taken_once() {
        let plain = Access::new(Who::Admin, [0; 32], None, Vec::new());
        let access = Access { expires_at: Some(UnixMillis(10)), num: Some(3), ..plain };
        assert_eq!(access.take_use(), None);
        access.enter(UnixMillis(9)).unwrap();
        access.enter(UnixMillis(8)).unwrap();
        assert_eq!(access.enter(UnixMillis(10)).unwrap_err().into_parts().1, "key_expired");
        assert_eq!(access.take_use(), Some((3, UnixMillis(9))));
        assert_eq!(access.take_use(), None);
    }
}
