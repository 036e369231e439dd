//! Gathers notifications for other nodes, and passes on those that arrive. `cluster/notifications` sends them with
//! `NOTIFY` after a commit, never within it: a commit with a `NOTIFY` takes a lock that the whole database shares. A lost
//! notification only costs time, since every node polls once a second anyway.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sea_orm::sqlx::postgres::PgListener;
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use tokio::sync::Notify;

use crate::domain::shard::ShardNum;

use super::{Store, StoreError};

const CHANNEL: &str = "posthaste";

/// The pause before a lost connection is made again.
const PAUSE: Duration = Duration::from_secs(2);

/// Payload: shards may be acquired.
const SHARDS: &str = "shards";

/// Payload: the configuration has changed. No two letters of it are a hexadecimal number, which is what nodes of older
/// versions look for.
const CHANGES: &str = "changes";

/// What nodes tell each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// Events were committed for these shards.
    Fanouts(BTreeSet<ShardNum>),
    /// Shards may be acquired.
    Shards,
    /// The configuration has changed.
    Changes,
}

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

    /// Waits until there is something to send, and takes what has gathered.
    pub async fn next(&self) -> Vec<Notification> {
        loop {
            self.0.asked.notified().await;
            let gathered = self.take();
            if !gathered.is_empty() {
                return gathered;
            }
        }
    }

    /// Takes what has gathered to be sent.
    #[must_use]
    pub fn take(&self) -> Vec<Notification> {
        let Pending { fanouts, shards, changes } = std::mem::take(&mut *self.0.pending.lock());
        let fanouts = (!fanouts.is_empty()).then_some(Notification::Fanouts(fanouts));
        let shards = shards.then_some(Notification::Shards);
        [fanouts, shards, changes.then_some(Notification::Changes)].into_iter().flatten().collect()
    }

    /// Takes in a notification of a node. Calls `on_fanouts` if events were committed for a shard that `concerns` this
    /// node.
    pub fn receive(&self, notification: &Notification, concerns: &impl Fn(ShardNum) -> bool, on_fanouts: &impl Fn()) {
        match notification {
            Notification::Shards => self.0.shards_notified.notify_one(),
            Notification::Changes => self.0.changes_notified.notify_one(),
            Notification::Fanouts(shards) => {
                if shards.iter().copied().any(concerns) {
                    on_fanouts();
                }
            }
        }
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
            let notification = Notification::of_payload(listener.recv().await?.payload());
            self.receive(&notification, concerns, heard);
        }
    }
}

impl Store {
    /// Sends a notification to all nodes.
    pub async fn notify(&self, notification: &Notification) -> Result<(), StoreError> {
        let values = [CHANNEL.into(), notification.payload().into()];
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, "SELECT pg_notify($1, $2)", values);
        self.engine_readers().execute_raw(statement).await?;
        Ok(())
    }
}

impl Notification {
    fn payload(&self) -> String {
        match self {
            Self::Fanouts(shards) => payload_of(shards),
            Self::Shards => SHARDS.to_owned(),
            Self::Changes => CHANGES.to_owned(),
        }
    }

    /// A payload of a newer version names no shard.
    fn of_payload(payload: &str) -> Self {
        match payload {
            SHARDS => Self::Shards,
            CHANGES => Self::Changes,
            shards => Self::Fanouts(shards_in(shards).collect()),
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
    fn a_notification_is_read_as_it_was_sent_and_nonsense_names_no_shard() {
        let shards: BTreeSet<ShardNum> = [0, 7, 255].map(ShardNum::from).into();
        assert_eq!(payload_of(&shards), "0007ff");
        for notification in [Notification::Fanouts(shards), Notification::Shards, Notification::Changes] {
            assert_eq!(Notification::of_payload(&notification.payload()), notification);
        }
        for word in ["zz7", SHARDS, CHANGES] {
            assert_eq!(shards_in(word).count(), 0);
        }
    }

    #[test]
    fn what_gathers_is_sent_once_and_a_node_hears_only_of_shards_that_concern_it() {
        let (notifier, heard) = (Notifier::default(), std::cell::Cell::new(0));
        notifier.notify_fanouts(&[1, 2].map(ShardNum::from).into());
        notifier.notify_fanouts(&[2, 3].map(ShardNum::from).into());
        notifier.notify_changes();
        let sent = notifier.take();
        assert_eq!(sent, [Notification::Fanouts([1, 2, 3].map(ShardNum::from).into()), Notification::Changes]);
        assert!(notifier.take().is_empty());
        for (own, calls) in [(3, 1), (4, 1)] {
            let concerns = |shard| shard == ShardNum::from(own);
            sent.iter().for_each(|one| notifier.receive(one, &concerns, &|| heard.set(heard.get() + 1)));
            assert_eq!(heard.get(), calls, "shard {own}");
        }
    }
}
