//! Changes of the configuration, for the other nodes: a row in the transaction that makes the change. The config sync
//! reads them. PostgreSQL only: with SQLite there is no other node.
//!
//! A row says what was changed and not how: a node that reads it then reads the current configuration. So a node may
//! see a change twice, and its own changes, too.
//!
//! Transactions become visible in another order than that of their numbers, let alone that of `num`. A node therefore
//! remembers the *snapshot* of its last look: a change is new if that snapshot does not show it and the current one
//! does. Whatever the old snapshot may lack belongs to transactions from its `xmin` on, whose rows the index finds.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};

use crate::domain::id::{TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;

use super::{Store, StoreError};

/// How long a node may be away and still find every change one by one.
pub const KEPT_MS: i64 = 3600 * 1000;

/// Changes that one sweep deletes.
const SWEEP: i64 = 1000;

/// What was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The webhook was created, changed, switched off, deleted, or given another secret.
    Webhook(WebhookNum),
    /// The tenant's settings were changed, or one of its keys or sessions has ended.
    Tenant(TenantNum),
    /// The tenant was deleted with all its keys and webhooks.
    TenantDeleted(TenantNum),
    /// An admin key or the session of an admin has ended.
    AdminKeys,
    /// More changes than are listed one by one, or changes that are no longer known.
    Anything,
}

impl Change {
    /// Kind and subject, as they are stored.
    fn columns(self) -> (i16, i64) {
        match self {
            Self::Webhook(num) => (0, num.0),
            Self::Tenant(num) => (1, num.0),
            Self::TenantDeleted(num) => (2, num.0),
            Self::Anything => (3, 0),
            Self::AdminKeys => (4, 0),
        }
    }

    /// A kind of a newer version may mean any change.
    fn of_columns(kind: i16, subject: i64) -> Self {
        match kind {
            0 => Self::Webhook(WebhookNum(subject)),
            1 => Self::Tenant(TenantNum(subject)),
            2 => Self::TenantDeleted(TenantNum(subject)),
            4 => Self::AdminKeys,
            _ => Self::Anything,
        }
    }
}

/// How far a node has seen changes.
#[derive(Debug, Clone, Default)]
pub struct Position {
    /// What the node has seen, as a `pg_snapshot`.
    snapshot: String,
    /// When the server was started. Another server may have lost the last transactions and used their numbers again.
    server: String,
}

/// A place in a list of changes, which a simulation counts.
#[cfg(test)]
impl Position {
    pub(crate) fn at(index: usize) -> Self {
        Self { snapshot: index.to_string(), server: String::new() }
    }

    pub(crate) fn index(&self) -> usize {
        self.snapshot.parse().expect("a position of a simulation")
    }
}

/// What has become visible since a position, and the position after it.
#[derive(Debug)]
pub struct Changes {
    pub changes: Vec<Change>,
    pub position: Position,
}

const HERE: &str = "pg_current_snapshot()::text AS snapshot, \
    EXTRACT(EPOCH FROM pg_postmaster_start_time())::text AS server";

/// The newest transaction whose rows were deleted.
pub(super) const FORGOTTEN_TO: &str = "changes_forgotten_to";

#[derive(Debug, FromQueryResult)]
struct HereRow {
    snapshot: String,
    server: String,
}

/// A change, or none: there is always a row, which says the position.
#[derive(Debug, FromQueryResult)]
struct LookRow {
    #[sea_orm(nested)]
    here: HereRow,
    /// Whether a sweep may have deleted changes that the node has not seen.
    may_have_missed: bool,
    kind: Option<i16>,
    subject: Option<i64>,
}

#[derive(Debug, FromQueryResult)]
struct GoneRow {
    gone: i64,
}

impl From<HereRow> for Position {
    fn from(HereRow { snapshot, server }: HereRow) -> Self {
        Self { snapshot, server }
    }
}

/// Call this in the transaction that makes the change.
pub(super) async fn note<C: ConnectionTrait>(on: &C, change: Change) -> Result<(), DbErr> {
    if on.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let sql = "INSERT INTO config_change (kind, subject, changed_at) VALUES ($1, $2, $3)";
    let (kind, subject) = change.columns();
    let values = [kind.into(), subject.into(), UnixMillis::now().0.into()];
    on.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, values)).await?;
    Ok(())
}

impl Store {
    /// The position of a node that is about to read the whole configuration.
    pub async fn position(&self) -> Result<Position, StoreError> {
        if !self.is_clustered() {
            return Ok(Position::default());
        }
        let statement = Statement::from_string(DbBackend::Postgres, format!("SELECT {HERE}"));
        let row = HereRow::find_by_statement(statement).one(self.engine_readers()).await?;
        row.map(Position::from).ok_or_else(|| StoreError::unreadable("position", "it was not answered"))
    }

    /// The changes that have become visible since `position`, each once. One statement reads them, in one snapshot.
    pub async fn changes_since(&self, position: &Position) -> Result<Changes, StoreError> {
        if !self.is_clustered() {
            return Ok(Changes { changes: Vec::new(), position: position.clone() });
        }
        let sql = format!(
            "SELECT {HERE}, COALESCE(pg_snapshot_xmin(seen.by)::text::int8 <= ( \
               SELECT value FROM engine_state WHERE name = '{FORGOTTEN_TO}'), false) AS may_have_missed, \
             c.kind, c.subject \
             FROM (SELECT $1::text::pg_snapshot AS by) AS seen LEFT JOIN config_change c \
               ON c.tx >= pg_snapshot_xmin(seen.by) AND NOT pg_visible_in_snapshot(c.tx, seen.by) \
             ORDER BY c.num"
        );
        let values = [position.snapshot.as_str().into()];
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        let rows = LookRow::find_by_statement(statement).all(self.engine_readers()).await?;
        look_of(rows, position).ok_or_else(|| StoreError::unreadable("changes", "no position was answered"))
    }

    /// Deletes changes older than [`KEPT_MS`]; returns how many. Keeps changes that a node which looks right now could
    /// miss: a transaction as old as they are may still be under way.
    pub async fn forget_old_changes(&self, now: UnixMillis) -> Result<i64, StoreError> {
        if !self.is_clustered() {
            return Ok(0);
        }
        let sql = format!(
            "WITH oldest AS MATERIALIZED (SELECT num, tx, changed_at FROM config_change ORDER BY num LIMIT $2), \
             old AS (SELECT num FROM config_change WHERE num IN (SELECT num FROM oldest \
               WHERE changed_at < $1 AND tx < pg_snapshot_xmin(pg_current_snapshot())) FOR UPDATE SKIP LOCKED), \
             gone AS (DELETE FROM config_change WHERE num IN (SELECT num FROM old) RETURNING tx), \
             noted AS (INSERT INTO engine_state (name, value) \
               SELECT '{FORGOTTEN_TO}', MAX(tx::text::int8) FROM gone HAVING COUNT(*) > 0 \
               ON CONFLICT (name) DO UPDATE SET value = GREATEST(engine_state.value, excluded.value)) \
             SELECT COUNT(*) AS gone FROM gone"
        );
        let values = [(now.0 - KEPT_MS).into(), SWEEP.into()];
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        let gone = self.write(async |on| Ok(GoneRow::find_by_statement(statement).one(on).await?)).await?;
        Ok(gone.map_or(0, |row| row.gone))
    }
}

/// `None` if there are no rows.
fn look_of(rows: Vec<LookRow>, before: &Position) -> Option<Changes> {
    let mut changes = Vec::new();
    let mut position = None;
    for LookRow { here, may_have_missed, kind, subject } in rows {
        if position.is_none() && (may_have_missed || here.server != before.server) {
            changes.push(Change::Anything);
        }
        position = Some(Position::from(here));
        changes.extend(kind.zip(subject).map(|(kind, subject)| Change::of_columns(kind, subject)));
    }
    Some(Changes { changes, position: position? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(server: &str, change: Option<Change>) -> LookRow {
        let (kind, subject) = change.map(Change::columns).unzip();
        let here = HereRow { snapshot: "7:7:".to_owned(), server: server.to_owned() };
        LookRow { here, may_have_missed: false, kind, subject }
    }

    #[test]
    fn a_node_that_looks_at_another_server_than_before_may_have_missed_anything() {
        let before = Position { snapshot: "5:5:".to_owned(), server: "one".to_owned() };
        let look = look_of(vec![row("one", None)], &before).unwrap();
        assert!(look.changes.is_empty() && look.position.snapshot == "7:7:");
        let look = look_of(vec![row("another", None)], &before).unwrap();
        assert!(look.changes == [Change::Anything] && look.position.server == "another");
    }

    #[test]
    fn what_is_stored_is_read_again_and_what_is_unknown_may_be_anything() {
        for change in [
            Change::Webhook(WebhookNum(5)),
            Change::Tenant(TenantNum(6)),
            Change::TenantDeleted(TenantNum(7)),
            Change::AdminKeys,
        ] {
            let (kind, subject) = change.columns();
            assert_eq!(Change::of_columns(kind, subject), change);
        }
        assert_eq!(Change::of_columns(Change::Anything.columns().0, 0), Change::Anything);
        assert_eq!(Change::of_columns(99, 1), Change::Anything);
    }
}
