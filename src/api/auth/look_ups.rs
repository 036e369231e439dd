//! Looks up keys in the database that the key cache does not know. Only the database tells whether a key is right, so
//! no key is refused before its look-up. Waiting keys are looked up together, in one query at a time. Wrong keys,
//! however many and from however many callers, take one connection of the database; they delay a right key by two
//! queries, or by one query for each [`MOST`] keys that wait before it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::api::key::Digest;
use crate::api::problem::Problem;
use crate::domain::id::KeyId;
use crate::store::Store;
use crate::store::keys::ApiKey;

/// Maximum keys in one query.
const MOST: usize = 256;

/// Pause after a query that did not find every key: wrong keys cause at most five hundred queries a second, and keys
/// that arrive during the pause share the next query.
const PAUSE: Duration = Duration::from_millis(2);

type Answer = Result<Option<ApiKey>, Problem>;

/// The keys that wait for a look-up. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct LookUps(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    asked: Vec<Asked>,
    /// A task is looking keys up, and will see keys that are added.
    is_looking: bool,
}

struct Asked {
    id: KeyId,
    digest: Digest,
    answer: oneshot::Sender<Answer>,
}

impl LookUps {
    /// Looks up the key with this id and this digest.
    pub(super) async fn ask(&self, store: &Store, id: KeyId, digest: Digest) -> Answer {
        let (answer, answered) = oneshot::channel();
        let begins = {
            let mut waiting = self.0.lock();
            waiting.asked.push(Asked { id, digest, answer });
            !std::mem::replace(&mut waiting.is_looking, true)
        };
        if begins {
            // A task of its own, because this caller may hang up while others wait.
            tokio::spawn(self.clone().look(store.clone()));
        }
        answered.await.unwrap_or_else(|_| Err(Problem::internal(&"a look-up of keys has ended early")))
    }

    /// Looks keys up until none waits.
    async fn look(self, store: Store) {
        while let Some(asked) = self.next() {
            let wanted: Vec<_> = asked.iter().map(|Asked { id, digest, answer: _ }| (*id, *digest)).collect();
            let found = store.keys_by(&wanted).await.map_err(Problem::from);
            let found_all = found.as_ref().is_ok_and(|found| found.iter().all(Option::is_some));
            for (at, Asked { answer, .. }) in asked.into_iter().enumerate() {
                // The send fails for a caller that has hung up.
                let _ = answer.send(found.as_ref().map(|found| found[at].clone()).map_err(Clone::clone));
            }
            if !found_all {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn next(&self) -> Option<Vec<Asked>> {
        let mut waiting = self.0.lock();
        let count = waiting.asked.len().min(MOST);
        waiting.is_looking = count > 0;
        (count > 0).then(|| waiting.asked.drain(..count).collect())
    }
}
