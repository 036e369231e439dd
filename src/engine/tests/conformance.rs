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

macro_rules! on_each {
    ($name:ident: $($test:ident = $on:ident),+) => {
        mod $name {
            use crate::engine::tests::conformance::database::On;

            $(
                #[tokio::test]
                async fn $test() {
                    super::$name(On::$on).await;
                }
            )+
        }
    };
}
use on_each;

/// Runs the test of this name on each database, with one process and with nodes.
macro_rules! on_all {
    ($name:ident) => {
        crate::engine::tests::conformance::on_each!(
            $name: on_sqlite = Sqlite, on_postgres = Postgres, in_memory = Memory, in_memory_of_nodes = MemoryOfNodes
        );
    };
}
use on_all;

/// Runs the test of this name on the databases that several nodes can share.
macro_rules! on_clusters {
    ($name:ident) => {
        crate::engine::tests::conformance::on_each!(
            $name: on_postgres = Postgres, in_memory_of_nodes = MemoryOfNodes
        );
    };
}
use on_clusters;
