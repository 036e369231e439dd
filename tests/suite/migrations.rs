//! Processes that are killed while they migrate the schema.

use tempfile::TempDir;

use crate::support::databases::{self, On, on_both};
use crate::support::server;
use crate::support::world::sober_env;
use test_support::cluster::Database;

/// Kills a process before every ninth of about 50 statements; `POSTHASTE_MIGRATION_KILLS=1` kills before each.
const EVERY: usize = 9;

on_both!(a_migration_that_was_killed_between_two_statements_is_run_by_the_next_start);
pub(crate) async fn a_migration_that_was_killed_between_two_statements_is_run_by_the_next_start() {
    let every = std::env::var("POSTHASTE_MIGRATION_KILLS").ok().and_then(|every| every.parse().ok()).unwrap_or(EVERY);
    for statement in (1..).step_by(every) {
        let dir = TempDir::with_prefix("posthaste-").expect("a directory");
        let database = (On::this_test() == On::Postgres).then(Database::new);
        let mut env = sober_env(dir.path());
        env.extend(database.iter().flat_map(databases::variables));
        env.insert("POSTHASTE_FAULT", format!("abort:migration.statement:{statement}"));
        let (killed, _) = server::run(dir.path(), &["migrate", "up"], &env).await;
        env.remove("POSTHASTE_FAULT");
        let (status, output) = server::run(dir.path(), &["migrate", "up"], &env).await;
        assert!(status.success(), "killed before statement {statement}: {}", output.all());
        env.retain(|name, _| ["POSTHASTE_DATABASE_URL", "POSTHASTE_MASTER_KEY"].contains(name));
        let (status, output) = server::run(dir.path(), &["check"], &env).await;
        assert!(status.success(), "killed before statement {statement}: {}", output.all());
        if killed.success() {
            return assert!(statement > 30, "a migration ran only {statement} statements");
        }
    }
}
