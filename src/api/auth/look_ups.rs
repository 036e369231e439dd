//! Looks up keys that are not known here. Whether a key is right shows only in the database, so none is refused before: those
//! that wait are looked up together, in one query at a time. Wrong keys, however many and from however many callers, take one
//! connection of the database, and delay a right key by two queries, or one for each [`MOST`] keys that wait before it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::api::key::Digest;
use crate::api::problem::Problem;
use crate::domain::id::KeyId;
use crate::store::Store;
use crate::store::keys::ApiKey;

/// Keys in one query.
const MOST: usize = 256;

/// After a query that did not find every key: wrong keys cause at most five hundred queries a second, and keys that come
/// meanwhile share the next one.
const PAUSE: Duration = Duration::from_millis(2);

type Answer = Result<Option<ApiKey>, Problem>;

/// Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct LookUps(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    asked: Vec<Asked>,
    /// A task is looking, and will see what is added.
    is_looking: bool,
}

struct Asked {
    id: KeyId,
    digest: Digest,
    answer: oneshot::Sender<Answer>,
}

impl LookUps {
    /// The key of this id and this digest, if there is one.
    pub(super) async fn ask(&self, store: &Store, id: KeyId, digest: Digest) -> Answer {
        let (answer, answered) = oneshot::channel();
        let begins = {
            let mut waiting = self.0.lock();
            waiting.asked.push(Asked { id, digest, answer });
            !std::mem::replace(&mut waiting.is_looking, true)
        };
        if begins {
            // A task of its own: the caller may hang up, and others wait.
            tokio::spawn(self.clone().look(store.clone()));
        }
        answered.await.unwrap_or_else(|_| Err(Problem::internal(&"a look-up of keys has ended early")))
    }

    /// Until no key waits.
    async fn look(self, store: Store) {
        while let Some(asked) = self.next() {
            let wanted: Vec<_> = asked.iter().map(|Asked { id, digest, answer: _ }| (*id, *digest)).collect();
            let found = store.keys_by(&wanted).await.map_err(Problem::from);
            let found_all = found.as_ref().is_ok_and(|found| found.iter().all(Option::is_some));
            for (at, Asked { answer, .. }) in asked.into_iter().enumerate() {
                // A caller that has hung up hears nothing.
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
