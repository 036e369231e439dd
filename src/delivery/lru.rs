//! A bounded map of what tenants used lately, for tokens and TLS clients. An entry expires when it is not used for a
//! while. A full map evicts the least recently used entry of the tenant that has the most. Pure: `now` is an argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::id::TenantNum;

/// A digest over settings, secrets included.
pub(super) type Digest = [u8; 32];

/// The settings of one tenant. Two tenants share nothing, even if their settings are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) tenant: TenantNum,
    pub(super) digest: Digest,
}

#[derive(Debug)]
pub(super) struct Lru<T> {
    most: usize,
    idle: Duration,
    entries: HashMap<Key, (T, Instant)>,
}

impl<T: Clone + Default> Lru<T> {
    pub(super) fn new(most: usize, idle: Duration) -> Self {
        Self { most, idle, entries: HashMap::new() }
    }

    /// The entry for this key, or a new default one.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> T {
        if let Some((found, used)) = self.entries.get_mut(key) {
            *used = now;
            return found.clone();
        }
        self.make_room(now);
        let fresh = T::default();
        self.entries.insert(*key, (fresh.clone(), now));
        fresh
    }

    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|_, (_, used)| now.saturating_duration_since(*used) < self.idle);
        if self.entries.len() >= self.most {
            let largest = self.largest_tenant();
            let of_largest = self.entries.iter().filter(|(key, _)| Some(key.tenant) == largest);
            if let Some(oldest) = of_largest.min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key) {
                self.entries.remove(&oldest);
            }
        }
    }

    fn largest_tenant(&self) -> Option<TenantNum> {
        let mut counts: HashMap<TenantNum, usize> = HashMap::new();
        for key in self.entries.keys() {
            *counts.entry(key.tenant).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(tenant, _)| tenant)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn key(tenant: i64, number: u8) -> Key {
        Key { tenant: TenantNum(tenant), digest: [number; 32] }
    }

    #[test]
    fn what_is_used_least_lately_or_not_for_long_is_forgotten() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut recent = Lru::<Arc<()>>::new(2, Duration::from_secs(60));
        let first = recent.get(&key(1, 1), start);
        assert!(Arc::ptr_eq(&first, &recent.get(&key(1, 1), after(1))));
        recent.get(&key(1, 2), after(2));
        recent.get(&key(1, 1), after(3));

        recent.get(&key(1, 3), after(4));
        assert!(Arc::ptr_eq(&first, &recent.get(&key(1, 1), after(5))), "it was used lately");
        assert_eq!(recent.entries.len(), 2);

        recent.get(&key(1, 4), after(65));
        assert_eq!(recent.entries.len(), 1, "the others were not used for a minute");
    }

    #[test]
    fn a_tenant_with_many_entries_displaces_only_its_own() {
        let now = Instant::now();
        let mut recent = Lru::<Arc<()>>::new(8, Duration::from_secs(60));
        let quiet = recent.get(&key(1, 0), now);
        for number in 0..100 {
            recent.get(&key(2, number), now + Duration::from_millis(number.into()));
        }
        assert!(Arc::ptr_eq(&quiet, &recent.get(&key(1, 0), now)), "it is another tenant's");
        assert_eq!(recent.entries.len(), 8);
    }
}
