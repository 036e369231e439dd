//! Finds out what a database contains: nothing, the schema without rows, or something that must not be lost. Never
//! changes it.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, FromQueryResult, Statement};

use crate::store::OpenError;
use crate::store::connect::Contents;
use crate::store::leases;

/// Every table of the schema.
const TABLES: [&str; 21] = [
    "api_key",
    "attempt",
    "audit",
    "config_change",
    "delivery",
    "delivery_log",
    "endpoint_health",
    "engine_state",
    "event",
    "event_caller_id",
    "event_type",
    "fanout",
    "idempotency",
    "node",
    "operation",
    "operation_item",
    "operational_event",
    "shard",
    "tenant",
    "webhook",
    "webhook_secret",
];

/// The table with the names of applied migrations, which are compared with the known ones.
const MIGRATIONS: &str = "seaql_migrations";

/// Rows of a new schema.
const FIXED: [(&str, &str); 2] = [("engine_state", "name = 'seal_layout'"), ("shard", "owner IS NULL AND epoch = 0")];

/// Tables and views of users. Schemas whose names begin with `pg_` are PostgreSQL's; extensions bring views of their
/// own.
const RELATIONS: &str = "SELECT n.nspname::text AS schema, c.relname::text AS name, \
    COALESCE(n.nspname = current_schema(), false) AS is_here \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND left(n.nspname, 3) <> 'pg_' AND n.nspname <> 'information_schema' \
    AND NOT EXISTS (SELECT 1 FROM pg_depend d \
      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
    ORDER BY 1, 2";

#[derive(Debug, FromQueryResult)]
struct Relation {
    schema: String,
    name: String,
    /// In the schema that we use.
    is_here: bool,
}

/// What the database contains.
pub(super) async fn of(on: &DatabaseConnection) -> Result<Contents, OpenError> {
    let occupied = |why: String| Ok(Contents::Occupied(why));
    if let Some(name) = migration::unknown(on).await?.first() {
        return occupied(format!("table `{MIGRATIONS}` names `{name}`, which this version does not know"));
    }
    let has_schema = migration::applied(on).await? > 0;
    let found = Statement::from_string(DbBackend::Postgres, RELATIONS);
    let relations = Relation::find_by_statement(found).all(on).await?;
    if let Some(Relation { schema, name, .. }) = relations.iter().find(|relation| is_foreign(relation, has_schema)) {
        return occupied(format!("table `{schema}.{name}` is not Posthaste's"));
    }
    if let Some(node) = leases::anybody(on).await? {
        return occupied(format!("{node} is at work on this database"));
    }
    for Relation { name, .. } in relations.iter().filter(|relation| relation.name != MIGRATIONS) {
        if has_rows(on, name).await? {
            return occupied(format!("table `{name}` has rows"));
        }
    }
    Ok(if has_schema { Contents::Schema } else { Contents::Nothing })
}

/// Whether a table is not ours. Before the first migration none is ours, even under one of our names.
fn is_foreign(relation: &Relation, has_schema: bool) -> bool {
    let Relation { name, is_here, .. } = relation;
    let is_known = name == MIGRATIONS || has_schema && TABLES.contains(&name.as_str());
    !(*is_here && is_known)
}

/// Whether one of our tables has rows that a new schema does not have.
async fn has_rows<C: ConnectionTrait>(on: &C, table: &str) -> Result<bool, DbErr> {
    let fixed = FIXED.iter().find(|(of, _)| *of == table).map_or("false", |(_, fixed)| fixed);
    let sql = format!("SELECT 1 FROM {table} WHERE NOT ({fixed}) LIMIT 1");
    Ok(on.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_ours_by_its_name_in_our_schema_once_there_are_migrations() {
        let relation = |name: &str, is_here| Relation { schema: "any".to_owned(), name: name.to_owned(), is_here };
        for (name, is_here, has_schema, foreign) in [
            ("event", true, true, false),
            ("event", true, false, true),
            ("event", false, true, true),
            ("invoice", true, true, true),
            ("seaql_migrations", true, false, false),
        ] {
            assert_eq!(is_foreign(&relation(name, is_here), has_schema), foreign, "{name} {is_here} {has_schema}");
        }
    }
}
