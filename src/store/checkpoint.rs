//! Folds SQLite's write-ahead log back into the database, beside the writer. Left to itself, SQLite does it within a commit
//! whenever the log is long enough, and everybody waits for as long as that takes. What the writer still finds to do by
//! then is what came since the last look.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection};

/// At full speed the log grows by a few thousand pages in this time. Each look waits for the disk, and so does a commit at
/// the same moment: not too often.
const EVERY: Duration = Duration::from_millis(500);

/// Runs until it is dropped. Waits for nobody and keeps nobody waiting.
pub(super) async fn run(connection: DatabaseConnection) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = connection.execute_unprepared("PRAGMA wal_checkpoint(PASSIVE)").await {
            tracing::debug!(%error, "the write-ahead log could not be folded back; the writer will");
        }
    }
}
