//! Book W and I3: every write for a shard is made by the shard's owner. Triggers in the database record each change of
//! rows that belong to a shard, with the process that made it, and each change of a shard's owner. PostgreSQL's commit
//! timestamps say when a transaction was committed. The product knows nothing of the triggers.

use serde_json::json;

use crate::support::databases::On;
use crate::support::fleet::{Fleet, make_hooks};
use crate::support::receiver::Receiver;
use test_support::cluster::Database;

/// The application name of the connection, which names the process; see `server`.
const WRITER: &str = "current_setting('application_name')";

/// Tables whose rows belong to a shard, and the changes that only the shard's owner makes.
const OWNED: [(&str, &str, &[&str]); 4] = [
    ("delivery", "webhook_num & 255", &["INSERT", "UPDATE", "DELETE"]),
    ("attempt", "webhook_num & 255", &["INSERT", "UPDATE", "DELETE"]),
    ("endpoint_health", "webhook_num & 255", &["INSERT", "UPDATE", "DELETE"]),
    // The node that accepts an event inserts a row for each shard; only the shard's owner deletes the row.
    ("fanout", "shard", &["DELETE"]),
];

/// Writes committed while their process did not own the shard.
const VIOLATIONS: &str = "\
    WITH holds AS ( \
      SELECT num, owner, epoch, at, lead(at) OVER (PARTITION BY num ORDER BY at, epoch) AS until FROM ( \
        SELECT num, owner, epoch, COALESCE(pg_xact_commit_timestamp(tx::xid), '-infinity') AS at FROM book_of_shards) s), \
    writes AS ( \
      SELECT w.*, n.num AS node, pg_xact_commit_timestamp(w.tx::xid) AS at \
      FROM book_of_writes w LEFT JOIN book_of_nodes n USING (writer)) \
    SELECT what || ' of shard ' || shard || ' by ' || writer || ', node ' || COALESCE(node::text, 'none') || ', at ' || at \
    FROM writes w WHERE NOT EXISTS ( \
      SELECT FROM holds h WHERE h.num = w.shard AND h.owner = w.node AND h.at < w.at \
        AND (h.until IS NULL OR w.at < h.until)) \
    ORDER BY at LIMIT 20";

/// Starts recording. Exactly one process must be at work on the database.
pub(crate) fn watch(database: &Database) {
    let sole = "(SELECT min(application_name) FROM pg_stat_activity \
                WHERE datname = current_database() AND application_name LIKE 'process %')";
    let mut sql = format!(
        "BEGIN; \
         CREATE TABLE book_of_nodes (num bigint, writer text); \
         CREATE TABLE book_of_shards (num int, owner bigint, epoch bigint, tx xid8 DEFAULT pg_current_xact_id()); \
         CREATE TABLE book_of_writes (what text, shard int, writer text, tx xid8 DEFAULT pg_current_xact_id()); \
         CREATE FUNCTION note_node() RETURNS trigger LANGUAGE plpgsql AS \
           $$BEGIN INSERT INTO book_of_nodes VALUES (NEW.num, {WRITER}); RETURN NULL; END$$; \
         CREATE TRIGGER note_node AFTER INSERT ON node FOR EACH ROW EXECUTE FUNCTION note_node(); \
         CREATE FUNCTION note_shard() RETURNS trigger LANGUAGE plpgsql AS \
           $$BEGIN INSERT INTO book_of_shards VALUES (NEW.num, NEW.owner, NEW.epoch); RETURN NULL; END$$; \
         CREATE TRIGGER note_shard AFTER UPDATE ON shard FOR EACH ROW \
           WHEN (OLD.epoch <> NEW.epoch OR OLD.owner IS DISTINCT FROM NEW.owner) EXECUTE FUNCTION note_shard(); \
         LOCK TABLE node, shard IN SHARE MODE; \
         INSERT INTO book_of_nodes SELECT num, {sole} FROM node; \
         INSERT INTO book_of_shards SELECT num, owner, epoch FROM shard; "
    );
    for (table, shard, changes) in OWNED {
        sql += &format!(
            "CREATE FUNCTION note_{table}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN \
             INSERT INTO book_of_writes SELECT DISTINCT TG_OP || ' {table}', {shard}, {WRITER} FROM changed; \
             RETURN NULL; END$$; "
        );
        for change in changes {
            let rows = if *change == "DELETE" { "OLD" } else { "NEW" };
            sql += &format!(
                "CREATE TRIGGER note_{change} AFTER {change} ON {table} REFERENCING {rows} TABLE AS changed \
                 FOR EACH STATEMENT EXECUTE FUNCTION note_{table}(); "
            );
        }
    }
    database.ask(&(sql + "COMMIT"));
}

/// Asserts I3: no recorded change was made by a node that did not own the shard. Returns the number of recorded
/// changes.
pub(crate) fn audit(database: &Database) -> usize {
    let found = violations(database);
    assert!(found.is_empty(), "I3: {found:#?}");
    database.ask("SELECT count(*) FROM book_of_writes").trim().parse().expect("a number")
}

pub(crate) fn violations(database: &Database) -> Vec<String> {
    database.ask(VIOLATIONS).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_book_of_writes_notices_whoever_writes_for_a_shard_that_it_does_not_own() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(("POSTHASTE_LEASE_MS", "15000")).await;
            let _hooks = make_hooks(&fleet, 8, |_| (Receiver::ok(), json!({}))).await;
            fleet.grow_to(2).await;
            let event = fleet.world.publish("message.sent").await;
            fleet.world.all_settled(&event).await;
            let database = fleet.world.database();
            assert_ne!(audit(database), 0);
            let foreign = "SELECT count(*) FROM delivery JOIN shard ON num = webhook_num & 255 \
                           WHERE owner <> (SELECT min(num) FROM book_of_nodes)";
            let foreign: usize = database.ask(foreign).trim().parse().expect("a number");
            let writer = database.ask("SELECT writer FROM book_of_nodes ORDER BY num LIMIT 1");

            database.ask(&format!("SET application_name = '{}'; UPDATE delivery SET tries = tries", writer.trim()));

            let found = violations(database);
            assert!(
                foreign > 0 && found.len() == foreign,
                "{foreign} rows belong to another node's shards: {found:#?}"
            );
            assert!(found.iter().all(|what| what.starts_with("UPDATE delivery of shard")), "{found:#?}");
            fleet.stop_all().await;
        })
        .await;
}
