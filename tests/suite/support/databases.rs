//! Chooses the database of a test's world. [`on_both`] declares tests that run on each database.

use tokio::task_local;

use test_support::cluster::Database;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Sqlite,
    Postgres,
}

task_local! {
    /// The database of the running test.
    static ON: On;
}

impl On {
    /// SQLite, unless the test says otherwise.
    pub(crate) fn this_test() -> Self {
        ON.try_with(|on| *on).unwrap_or(Self::Sqlite)
    }

    pub(crate) async fn run(self, test: impl Future<Output = ()>) {
        ON.scope(self, test).await;
    }
}

/// A fixed master key; any value works.
pub(crate) const MASTER_KEY: &str = "cG9zdGhhc3RlIHBvc3RoYXN0ZSBwb3N0aGFzdGUgcG8=";

/// Long enough for a machine on which many tests run at once, short enough to wait for after a crash.
const LEASE_MS: &str = "3000";

/// The environment variables of a server on this database.
pub(crate) fn variables(database: &Database) -> [(&'static str, String); 4] {
    [
        ("POSTHASTE_DATABASE_URL", database.url()),
        ("POSTHASTE_MASTER_KEY", MASTER_KEY.to_owned()),
        ("POSTHASTE_DATABASE_CONNECTIONS", "8".to_owned()),
        ("POSTHASTE_LEASE_MS", LEASE_MS.to_owned()),
    ]
}

/// Declares the test of this name once for each database.
macro_rules! on_both {
    ($name:ident) => {
        mod $name {
            use crate::support::databases::On;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                On::Sqlite.run(super::$name()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                On::Postgres.run(super::$name()).await;
            }
        }
    };
}
pub(crate) use on_both;
