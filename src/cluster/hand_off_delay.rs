//! Delays the hand-off of a shard with a slow request: in a hand-off, the shard's other webhooks would wait for that
//! request to end. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::domain::policy::Policy;
use crate::domain::shard::ShardNum;

/// A shard with a request that has been in flight for this long stays for now.
const SLOW: Duration = Duration::from_secs(1);

/// Slow requests delay a shard for this long at most. The request that was slow when the shard was to move has ended by
/// then; other slow requests may have begun.
const LONGEST: Duration = Policy::LONGEST_TIMEOUT;

/// Shards that should move but are still served here, and since when.
#[derive(Debug, Default)]
pub(super) struct HandOffDelay(BTreeMap<ShardNum, Instant>);

impl HandOffDelay {
    /// Of the shards that should move, those that may move now. `oldest_requests` answers when the oldest request in
    /// flight of each shard began, and is asked only if a shard should move.
    pub(super) fn ready(
        &mut self,
        shards: &[ShardNum],
        oldest_requests: impl FnOnce() -> BTreeMap<ShardNum, Instant>,
        now: Instant,
    ) -> Vec<ShardNum> {
        self.0.retain(|shard, _| shards.contains(shard));
        if shards.is_empty() {
            return Vec::new();
        }
        let oldest_requests = oldest_requests();
        let mut is_ready = |shard: &ShardNum| {
            let since = *self.0.entry(*shard).or_insert(now);
            let oldest = oldest_requests.get(shard);
            let is_slow = oldest.is_some_and(|oldest| now.saturating_duration_since(*oldest) >= SLOW);
            !is_slow || now.saturating_duration_since(since) >= LONGEST
        };
        shards.iter().copied().filter(|shard| is_ready(shard)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_with_a_slow_request_moves_when_that_is_over_or_has_been_waited_for() {
        let (shard, began) = (ShardNum::from(7), Instant::now());
        let slow = BTreeMap::from([(shard, began)]);
        let ready = |delay: &mut HandOffDelay, oldest: &BTreeMap<_, _>, now| {
            !delay.ready(&[shard], || oldest.clone(), now).is_empty()
        };

        let mut delay = HandOffDelay::default();
        assert!(ready(&mut delay, &BTreeMap::new(), began));
        for (after, is_ready) in [(Duration::from_millis(999), true), (SLOW, false), (LONGEST, true)] {
            let mut delay = HandOffDelay::default();
            assert!(ready(&mut delay, &slow, began), "a quick request ends during the hand-off");
            assert_eq!(ready(&mut delay, &slow, began + after), is_ready, "{after:?}");
        }
        let begun = began + LONGEST;
        assert!(!ready(&mut HandOffDelay::default(), &slow, begun), "the delay begins when the shard is to move");
        delay.ready(&[], || slow.clone(), began + SLOW);
        assert!(!ready(&mut delay, &slow, begun), "a shard that was to stay meanwhile waits anew");
    }
}
