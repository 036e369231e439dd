//! Checkpoints SQLite's write-ahead log in the background. Left alone, SQLite does so within a commit once the log is
//! long enough, and everything waits for as long as that takes. With this task, such a commit finds only what was
//! written since the last background checkpoint.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr};
use tokio_util::task::AbortOnDropHandle;

/// At full speed the log grows by a few thousand pages in this time. A checkpoint waits for the disk and delays a
/// concurrent commit, so it must not be more frequent.
const EVERY: Duration = Duration::from_millis(500);

pub(super) struct Checkpoints {
    connection: DatabaseConnection,
    task: AbortOnDropHandle<()>,
}

impl Checkpoints {
    pub(super) fn start(connection: DatabaseConnection) -> Self {
        let task = AbortOnDropHandle::new(tokio::spawn(run(connection.clone())));
        Self { connection, task }
    }

    /// Call before the writer closes: the last connection to close folds the rest of the log back.
    pub(super) async fn stop(&self) -> Result<(), DbErr> {
        self.task.abort();
        self.connection.close_by_ref().await
    }
}

async fn run(connection: DatabaseConnection) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = connection.execute_unprepared("PRAGMA wal_checkpoint(PASSIVE)").await {
            tracing::debug!(%error, "checkpoint of the write-ahead log failed; the writer will do it");
        }
    }
}
