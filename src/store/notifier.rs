//! Notifies other nodes with `NOTIFY`, after a commit and never within it: a commit with a `NOTIFY` takes a lock that
//! the whole database shares. A lost notification only costs time, since every node polls once a second anyway.

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

/// The least time between two notifications; what gathers meanwhile goes with the next one.
const APART: Duration = Duration::from_millis(3);

/// The pause before a lost connection is made again.
const PAUSE: Duration = Duration::from_secs(2);

/// Payload: shards may be acquired.
const SHARDS: &str = "shards";

/// Payload: the configuration has changed. No two letters of it are a hexadecimal number, which is what nodes of older
/// versions look for.
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
    /// Tells other nodes that events were committed for these shards.
    pub fn notify_fanouts(&self, shards: &BTreeSet<ShardNum>) {
        self.0.pending.lock().fanouts.extend(shards);
        self.0.asked.notify_one();
    }

    /// Tells other nodes that shards may be acquired.
    pub fn notify_shards(&self) {
        self.0.pending.lock().shards = true;
        self.0.asked.notify_one();
    }

    /// Tells other nodes that the configuration has changed.
    pub fn notify_changes(&self) {
        self.0.pending.lock().changes = true;
        self.0.asked.notify_one();
    }

    /// Resolves when another node has changed the configuration.
    pub async fn changes_notified(&self) {
        self.0.changes_notified.notified().await;
    }

    /// Resolves when another node has notified this one of shards that may be acquired.
    pub async fn shards_notified(&self) {
        self.0.shards_notified.notified().await;
    }

    /// Sends what was asked for, for as long as the process runs.
    pub async fn run(self, store: Store) {
        loop {
            self.0.asked.notified().await;
            if let Err(error) = self.notify_once(&store).await {
                tracing::debug!(%error, "NOTIFY failed; other nodes will find the changes by polling");
            }
            tokio::time::sleep(APART).await;
        }
    }

    /// Sends what has gathered.
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

    /// Listens, and calls `heard` when events were committed for a shard that `concerns` this node, and after each
    /// connect.
    pub async fn listen(self, store: Store, concerns: impl Fn(ShardNum) -> bool, heard: impl Fn()) {
        let Some(url) = &store.inner.listen else { return std::future::pending().await };
        loop {
            let listened = self.listen_on(url, &concerns, &heard).await;
            if let Err(error) = listened {
                tracing::warn!(%error, "LISTEN connection lost; polling every 1 s");
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

/// Two hexadecimal digits for each shard.
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
