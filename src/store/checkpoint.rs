//! Folds SQLite's write-ahead log back into the database, beside the writer. Left to itself, SQLite does it within a commit
//! whenever the log is long enough, and everybody waits for as long as that takes. What the writer still finds to do by
//! then is what came since the last look.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr};
use tokio_util::task::AbortOnDropHandle;

/// At full speed the log grows by a few thousand pages in this time. Each look waits for the disk, and so does a commit at
/// the same moment: not too often.
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

    /// Before the writer closes: whoever closes last folds back what is left.
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
            tracing::debug!(%error, "the write-ahead log could not be folded back; the writer will");
        }
    }
}
