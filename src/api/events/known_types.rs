//! Whether event types are in their tenants' catalogues, remembered for a while: publishes need not ask the database.
//! It only warns, so that an answer may be some seconds old.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::id::TenantNum;
use crate::store::{Store, StoreError};

/// For how long an answer is used.
const FRESH: Duration = Duration::from_secs(10);

/// Tenants, and types of one tenant, that are remembered. When there are more, all are forgotten.
const MOST_TENANTS: usize = 4096;
const MOST_TYPES: usize = 256;

/// An answer, and until when it is used.
#[derive(Debug, Clone, Copy)]
struct Answer {
    is_unknown: bool,
    fresh_until: Instant,
}

#[derive(Debug, Default)]
pub(in crate::api) struct KnownTypes(Mutex<HashMap<TenantNum, HashMap<String, Answer>>>);

impl KnownTypes {
    /// The types that the tenant's catalogue lacks, if it has any at all. Empty if the database does not answer: the
    /// events are accepted already.
    pub(super) async fn unknown_among(
        &self,
        store: &Store,
        tenant: TenantNum,
        kinds: &HashSet<&str>,
    ) -> HashSet<String> {
        let now = Instant::now();
        let (mut unknown, new) = self.remembered(tenant, kinds, now);
        if !new.is_empty() {
            match read(store, tenant, &new).await {
                Ok(found) => {
                    self.remember(tenant, &new, &found, now + FRESH);
                    unknown.extend(found);
                }
                Err(error) => tracing::debug!(%error, "event types could not be read; publishers are not warned"),
            }
        }
        unknown
    }

    /// Which types are unknown, and which are not remembered.
    fn remembered(&self, tenant: TenantNum, kinds: &HashSet<&str>, now: Instant) -> (HashSet<String>, Vec<String>) {
        let tenants = self.0.lock();
        let types = tenants.get(&tenant);
        let answer = |kind: &str| types.and_then(|types| types.get(kind)).filter(|answer| now < answer.fresh_until);
        let (mut unknown, mut new) = (HashSet::new(), Vec::new());
        for kind in kinds {
            match answer(kind) {
                Some(Answer { is_unknown: true, .. }) => _ = unknown.insert((*kind).to_owned()),
                Some(Answer { is_unknown: false, .. }) => {}
                None => new.push((*kind).to_owned()),
            }
        }
        (unknown, new)
    }

    fn remember(&self, tenant: TenantNum, asked: &[String], unknown: &HashSet<String>, fresh_until: Instant) {
        let mut tenants = self.0.lock();
        if tenants.len() >= MOST_TENANTS {
            tenants.clear();
        }
        let types = tenants.entry(tenant).or_default();
        for kind in asked {
            if types.len() >= MOST_TYPES {
                types.clear();
            }
            types.insert(kind.clone(), Answer { is_unknown: unknown.contains(kind), fresh_until });
        }
    }
}

async fn read(store: &Store, tenant: TenantNum, kinds: &[String]) -> Result<HashSet<String>, StoreError> {
    let declared = store.declared_among(tenant, kinds).await?;
    let unknown: HashSet<String> = kinds.iter().filter(|kind| !declared.contains(*kind)).cloned().collect();
    let has_catalogue = unknown.is_empty() || !declared.is_empty() || store.declares_any(tenant).await?;
    Ok(if has_catalogue { unknown } else { HashSet::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantNum = TenantNum(1);

    fn remembered(types: &KnownTypes, tenant: TenantNum, now: Instant) -> (Vec<String>, Vec<String>) {
        let (unknown, new) = types.remembered(tenant, &HashSet::from(["a"]), now);
        (unknown.into_iter().collect(), new)
    }

    #[test]
    fn an_answer_is_of_its_tenant_and_is_used_for_a_while() {
        let (types, now) = (KnownTypes::default(), Instant::now());
        let (none, a) = (Vec::<String>::new(), vec!["a".to_owned()]);
        assert_eq!(remembered(&types, TENANT, now), (none.clone(), a.clone()));
        types.remember(TENANT, &a, &HashSet::from(["a".to_owned()]), now + FRESH);
        assert_eq!(remembered(&types, TENANT, now), (a.clone(), none.clone()));
        assert_eq!(remembered(&types, TenantNum(2), now), (none.clone(), a.clone()));
        assert_eq!(remembered(&types, TENANT, now + FRESH), (none.clone(), a.clone()));
        types.remember(TENANT, &a, &HashSet::new(), now + FRESH);
        assert_eq!(remembered(&types, TENANT, now), (none.clone(), none));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (types, until) = (KnownTypes::default(), Instant::now() + FRESH);
        let many: Vec<String> = (0..=MOST_TYPES).map(|kind| kind.to_string()).collect();
        types.remember(TENANT, &many, &HashSet::new(), until);
        assert_eq!(types.0.lock()[&TENANT].len(), 1);
        for tenant in 0..=MOST_TENANTS {
            types.remember(TenantNum(tenant as i64), &many[..1], &HashSet::new(), until);
        }
        assert!(types.0.lock().len() <= MOST_TENANTS);
    }
}
