//! The conformance suite: what the engine relies on in its database, through the traits by which it asks ([`EngineDb`],
//! [`ClusterDb`], [`JournalDb`]). Each test runs on SQLite, on PostgreSQL, and on the database in memory, over which the
//! simulation runs the engine. Where they differ, the SQL is right.
//!
//! A test writes with batches of the journal, as the writer does, and reads through the traits. What no trait can make
//! (a webhook, a damaged row, an expired lease) comes from [`database`].
//!
//! [`EngineDb`]: crate::engine::db::EngineDb
//! [`ClusterDb`]: crate::cluster::db::ClusterDb
//! [`JournalDb`]: crate::store::journal_db::JournalDb

mod batches;
mod config_changes;
mod configs;
mod database;
mod due;
mod fanouts;
mod figures;
mod leases;
mod scans;
mod shards;
mod updates;

/// Runs the test of this name on each database, with one process and with nodes.
macro_rules! on_all {
    ($name:ident) => {
        mod $name {
            use crate::engine::tests::conformance::database::On;

            #[tokio::test]
            async fn on_sqlite() {
                super::$name(On::Sqlite).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                super::$name(On::Postgres).await;
            }

            #[tokio::test]
            async fn in_memory() {
                super::$name(On::Memory).await;
            }

            #[tokio::test]
            async fn in_memory_of_nodes() {
                super::$name(On::MemoryOfNodes).await;
            }
        }
    };
}
use on_all;

/// Runs the test of this name on the databases that several nodes can share.
macro_rules! on_clusters {
    ($name:ident) => {
        mod $name {
            use crate::engine::tests::conformance::database::On;

            #[tokio::test]
            async fn on_postgres() {
                super::$name(On::Postgres).await;
            }

            #[tokio::test]
            async fn in_memory_of_nodes() {
                super::$name(On::MemoryOfNodes).await;
            }
        }
    };
}
use on_clusters;
