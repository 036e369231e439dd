//! A bounded map of what was used lately: what is not used for a while, or least lately when it is full, is forgotten.
//! Pure: `now` is an argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Tells settings, secrets included, from others.
pub(super) type Digest = [u8; 32];

#[derive(Debug)]
pub(super) struct Recent<T> {
    most: usize,
    idle: Duration,
    entries: HashMap<Digest, (T, Instant)>,
}

impl<T: Clone + Default> Recent<T> {
    pub(super) fn new(most: usize, idle: Duration) -> Self {
        Self { most, idle, entries: HashMap::new() }
    }

    /// What is kept for this key, or something new.
    pub(super) fn get(&mut self, key: &Digest, now: Instant) -> T {
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
            let oldest = self.entries.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            self.entries.retain(|key, _| Some(*key) != oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_used_least_lately_or_not_for_long_is_forgotten() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut recent = Recent::<Arc<()>>::new(2, Duration::from_secs(60));
        let first = recent.get(&[1; 32], start);
        assert!(Arc::ptr_eq(&first, &recent.get(&[1; 32], after(1))));
        recent.get(&[2; 32], after(2));
        recent.get(&[1; 32], after(3));

        recent.get(&[3; 32], after(4));
        assert!(Arc::ptr_eq(&first, &recent.get(&[1; 32], after(5))), "it was used lately");
        assert_eq!(recent.entries.len(), 2);

        recent.get(&[4; 32], after(65));
        assert_eq!(recent.entries.len(), 1, "the others were not used for a minute");
    }
}
