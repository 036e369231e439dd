//! How nodes call each other: a `NOTIFY` after a commit, never within it, since a commit with one takes a lock that the
//! whole database shares. A call that is lost costs time: everybody looks once a second anyway.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sea_orm::sqlx::postgres::PgListener;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};
use tokio::sync::Notify;

use super::Store;
use super::leases::ShardNum;

const CHANNEL: &str = "posthaste";

/// Calls are made this far apart at least; whatever gathers meanwhile goes with the next one.
const APART: Duration = Duration::from_millis(3);

/// Pause before a connection that broke is made again.
const PAUSE: Duration = Duration::from_secs(2);

/// Who holds what has changed.
const SHARDS: &str = "shards";

/// The configuration has changed. No two letters of it are a number, which is what older processes look for.
const CHANGES: &str = "changes";

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Notifier(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    pending: Mutex<Pending>,
    asked: Notify,
    shards_notified: Notify,
    changes_notified: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    fanouts: BTreeSet<ShardNum>,
    shards: bool,
    changes: bool,
}

impl Notifier {
    /// Events were committed for these shards.
    pub fn notify_fanouts(&self, shards: &BTreeSet<ShardNum>) {
        self.0.pending.lock().fanouts.extend(shards);
        self.0.asked.notify_one();
    }

    /// Shards may be taken.
    pub fn notify_shards(&self) {
        self.0.pending.lock().shards = true;
        self.0.asked.notify_one();
    }

    /// Something was changed of the configuration.
    pub fn notify_changes(&self) {
        self.0.pending.lock().changes = true;
        self.0.asked.notify_one();
    }

    /// Resolves when another node has rung because it has changed something.
    pub async fn changes_notified(&self) {
        self.0.changes_notified.notified().await;
    }

    /// Resolves when another node has rung because shards may be taken.
    pub async fn shards_notified(&self) {
        self.0.shards_notified.notified().await;
    }

    /// Rings for whoever asks.
    pub async fn run(self, store: Store) {
        loop {
            self.0.asked.notified().await;
            if let Err(error) = self.notify_once(&store).await {
                tracing::debug!(%error, "other nodes could not be called; they will look by themselves");
            }
            tokio::time::sleep(APART).await;
        }
    }

    /// What has gathered, in one statement.
    pub async fn notify_once(&self, store: &Store) -> Result<(), DbErr> {
        let Pending { fanouts, shards, changes } = std::mem::take(&mut *self.0.pending.lock());
        let fanouts = (!fanouts.is_empty()).then(|| payload_of(&fanouts));
        let words = [(shards, SHARDS), (changes, CHANGES)].into_iter().filter(|(is_asked, _)| *is_asked);
        for payload in fanouts.into_iter().chain(words.map(|(_, word)| word.to_owned())) {
            let values = [CHANNEL.into(), payload.into()];
            let sql = "SELECT pg_notify($1, $2)";
            store
                .engine_readers()
                .execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, values))
                .await?;
        }
        Ok(())
    }

    /// Listens, and says so when events were committed for a shard that `concerns` this node.
    pub async fn listen(self, store: Store, concerns: impl Fn(ShardNum) -> bool, heard: impl Fn()) {
        let Some(url) = &store.inner.listen else { return std::future::pending().await };
        loop {
            let listened = self.listen_on(url, &concerns, &heard).await;
            if let Err(error) = listened {
                tracing::warn!(%error, "calls of other nodes are not heard; looking once a second until they are");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn listen_on(
        &self,
        url: &str,
        concerns: &impl Fn(ShardNum) -> bool,
        heard: &impl Fn(),
    ) -> Result<(), sea_orm::sqlx::Error> {
        let mut listener = PgListener::connect(url).await?;
        listener.listen(CHANNEL).await?;
        heard();
        loop {
            match listener.recv().await?.payload() {
                SHARDS => self.0.shards_notified.notify_one(),
                CHANGES => self.0.changes_notified.notify_one(),
                payload => {
                    if shards_in(payload).any(concerns) {
                        heard();
                    }
                }
            }
        }
    }
}

/// Two hexadecimal digits a shard.
fn payload_of(shards: &BTreeSet<ShardNum>) -> String {
    shards.iter().map(|shard| format!("{:02x}", shard.place())).collect()
}

fn shards_in(payload: &str) -> impl Iterator<Item = ShardNum> + '_ {
    let pair = |at| payload.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..payload.len()).step_by(2).filter_map(pair).map(ShardNum::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_names_its_shards_and_nonsense_names_none() {
        let shards: BTreeSet<ShardNum> = [0, 7, 255].map(ShardNum::from).into();
        assert_eq!(payload_of(&shards), "0007ff");
        assert_eq!(shards_in("0007ff").collect::<BTreeSet<_>>(), shards);
        for word in ["zz7", SHARDS, CHANGES] {
            assert_eq!(shards_in(word).count(), 0);
        }
    }
}
