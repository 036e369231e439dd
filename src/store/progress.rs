//! Counts the targets of one event by status.

use sea_orm::{FromQueryResult, Statement};

use crate::domain::id::EventSeq;

use super::events::StoredEvent;
use super::{Store, StoreError};

/// The targets of an event by status. Together they are as many as the event matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Targets without a row: only an open fan-out names them.
    pub owed: u32,
    pub pending: u32,
    pub success: u32,
    pub failed: u32,
    pub cancelled: u32,
}

/// One statement reads one snapshot: a target that gets its row meanwhile is neither missed nor counted twice. `FILTER`
/// instead of `GROUP BY`, for which SQLite would sort the rows.
const COUNTS: &str = "SELECT EXISTS (SELECT 1 FROM fanout WHERE event_seq = $1) AS is_open, \
                      COUNT(*) FILTER (WHERE status = 0) AS pending, COUNT(*) FILTER (WHERE status = 1) AS success, \
                      COUNT(*) FILTER (WHERE status = 2) AS failed, COUNT(*) FILTER (WHERE status = 3) AS cancelled \
                      FROM delivery WHERE event_seq = $1";

#[derive(Debug, FromQueryResult)]
struct CountsRow {
    is_open: bool,
    pending: i64,
    success: i64,
    failed: i64,
    cancelled: i64,
}

impl CountsRow {
    /// Only targets get rows, so what is owed is the rest, and no list of targets needs to be read. Without an open
    /// fan-out nobody would send the missing ones, so they do not count as owed.
    fn of_targets(&self, matched: u32) -> Progress {
        let Self { is_open, pending, success, failed, cancelled } = *self;
        let left = i64::from(matched) - (pending + success + failed + cancelled);
        Progress {
            owed: if is_open { number(left.max(0)) } else { 0 },
            pending: number(pending),
            success: number(success),
            failed: number(failed),
            cancelled: number(cancelled),
        }
    }
}

fn number(count: i64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Store {
    /// Reads only the event's rows. A delivery in flight counts as it was last recorded. A deleted webhook counts like
    /// any other: what it is owed gets its row when it is cancelled.
    pub async fn progress(&self, event: &StoredEvent) -> Result<Progress, StoreError> {
        let EventSeq(seq) = event.seq;
        let statement = Statement::from_sql_and_values(self.backend(), COUNTS, [seq.into()]);
        let counts = CountsRow::find_by_statement(statement).one(self.readers()).await?;
        let counts = counts.ok_or_else(|| StoreError::unreadable("progress", "counts without a row"))?;
        Ok(counts.of_targets(event.matched))
    }
}
