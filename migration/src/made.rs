//! Tells what a statement creates, and whether a SQLite file already has it. Until 2026-11 each statement of a
//! migration was committed by itself: a process that was killed between two statements left the work of the first ones,
//! and no record of the migration. Its next run skips what exists.

use sea_orm_migration::prelude::DbErr;
use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend, Statement};

#[derive(Debug, PartialEq, Eq)]
enum Made<'a> {
    /// A table, an index or a trigger.
    Object(&'a str),
    Column(&'a str, &'a str),
    /// A row of `engine_state`.
    State(&'a str),
}

/// `None` for a statement whose words do not tell what it creates; such a statement always runs.
fn made_by(sql: &str) -> Option<Made<'_>> {
    let words: Vec<&str> = sql.split_whitespace().collect();
    match words[..] {
        ["CREATE", "TABLE" | "INDEX" | "TRIGGER", name, ..] | ["CREATE", "UNIQUE", "INDEX", name, ..] => {
            Some(Made::Object(name))
        }
        ["ALTER", "TABLE", table, "ADD", "COLUMN", column, ..] => Some(Made::Column(table, column)),
        ["INSERT", "INTO", "engine_state", "(name,", "value)", "SELECT", name, ..] => {
            Some(Made::State(name.trim_matches(['\'', ','])))
        }
        _ => None,
    }
}

/// Whether what the statement creates exists.
pub(crate) async fn is_made<C: ConnectionTrait>(on: &C, sql: &str) -> Result<bool, DbErr> {
    let (question, values) = match made_by(sql) {
        Some(Made::Object(name)) => ("SELECT 1 FROM sqlite_master WHERE name = ?", vec![name]),
        Some(Made::Column(table, column)) => ("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", vec![table, column]),
        Some(Made::State(name)) => ("SELECT 1 FROM engine_state WHERE name = ?", vec![name]),
        None => return Ok(false),
    };
    let values = values.into_iter().map(Into::into);
    Ok(on.query_one_raw(Statement::from_sql_and_values(DbBackend::Sqlite, question, values)).await?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_known_by_what_they_make() {
        for (sql, made) in [
            ("CREATE TABLE tenant (\n num {key})", Some(Made::Object("tenant"))),
            ("CREATE INDEX event_by_tenant ON event (tenant_num, seq)", Some(Made::Object("event_by_tenant"))),
            ("CREATE UNIQUE INDEX node_by_slot ON node (slot)", Some(Made::Object("node_by_slot"))),
            ("CREATE TRIGGER t AFTER INSERT ON webhook BEGIN SELECT 1; END", Some(Made::Object("t"))),
            ("ALTER TABLE webhook ADD COLUMN paused_at BIGINT", Some(Made::Column("webhook", "paused_at"))),
            ("INSERT INTO engine_state (name, value) SELECT 'seal_layout', 2", Some(Made::State("seal_layout"))),
            ("UPDATE shard SET epoch = 0", None),
        ] {
            assert_eq!(made_by(sql), made, "{sql}");
        }
    }
}
