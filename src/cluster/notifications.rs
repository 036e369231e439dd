//! Sends this node's notifications to the others, some milliseconds apart: what gathers meanwhile goes with the next
//! ones.

use std::sync::Arc;
use std::time::Duration;

use crate::host::Host;
use crate::journal::remote_shards::RemoteShards;
use crate::store::StoreError;
use crate::store::notifier::{Notification, Notifier};

use super::db::ClusterDb;

/// The least time between two sendings.
const APART: Duration = Duration::from_millis(3);

/// Sends what the parts of this node ask for, for as long as the process runs.
pub(crate) async fn run(notifier: Notifier, db: Arc<dyn ClusterDb>, host: Host) {
    loop {
        let asked = notifier.next().await;
        if let Err(error) = send(db.as_ref(), &asked).await {
            tracing::debug!(%error, "NOTIFY failed; other nodes will find the changes by polling");
        }
        host.sleep(APART).await;
    }
}

pub(crate) async fn send(db: &dyn ClusterDb, notifications: &[Notification]) -> Result<(), StoreError> {
    for notification in notifications {
        db.notify(notification).await?;
    }
    Ok(())
}

/// Asks for notifications about events that were committed for shards of other nodes.
pub(crate) async fn ask_for_fanouts(notifier: Notifier, remote_shards: Arc<RemoteShards>) {
    loop {
        notifier.notify_fanouts(&remote_shards.next().await);
    }
}
