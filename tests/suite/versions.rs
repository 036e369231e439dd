//! F23: an older version and this one serve one PostgreSQL database together while nodes are upgraded one by one or
//! killed.
//!
//! `POSTHASTE_OLD_BINARY` names the older program; `scripts/test` builds one from the history. Without it, this version
//! plays the older one, and the test extends the schema as a newer version might: with more columns and more tables.

use std::sync::Arc;

use serde_json::json;

use crate::nodes::{all_are_asked, assert_no_duplicates, prompt_or_slow};
use crate::support::databases::On;
use crate::support::fleet::Fleet;
use crate::support::hook::{Hook, quick_retries};
use crate::support::load::{Load, TYPES};
use crate::support::receiver::Receiver;
use crate::support::server::BINARY;
use test_support::cluster::Database;

const NODES: usize = 3;
const HOOKS: usize = 12;

/// All tables that the program uses.
const TABLES: &str = "\
    SELECT table_name FROM information_schema.tables \
    WHERE table_schema = 'public' AND table_name NOT LIKE 'book_of_%' AND table_name <> 'seaql_migrations'";

/// Changes that newer versions may make to a table that older ones still use.
const EXPANDED: &str = "ADD COLUMN novelty text, ADD COLUMN novelties bigint NOT NULL DEFAULT 0";

const NOVELTY: &str = "\
    CREATE TABLE novelty (num bigint PRIMARY KEY); \
    INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_novelty', 0)";

/// The older program.
struct Old(Option<String>);

impl Old {
    fn from_environment() -> Self {
        let old = std::env::var("POSTHASTE_OLD_BINARY").ok();
        println!("the older version is {}", old.as_deref().unwrap_or("this one, before a newer schema"));
        Self(old)
    }

    /// A fleet of one node of the older version.
    async fn fleet(&self, lease_ms: &str) -> Fleet {
        let mut settings = vec![("POSTHASTE_LEASE_MS", lease_ms)];
        settings.extend(self.0.as_deref().map(|old| (BINARY, old)));
        Fleet::of_one_with(&settings).await
    }

    /// Starts an ended node in the newer version. Older nodes must keep serving, follow changes and log no error.
    async fn upgrade(&self, fleet: &mut Fleet, node: usize, hooks: &[Hook]) {
        fleet.env(node).remove(BINARY);
        fleet.restart(node).await;
        // Only now, while the older nodes are running.
        if self.0.is_none() {
            expand(fleet.world.database());
        }
        fleet.is_shared_out().await;
        let client = fleet.clients().swap_remove(node);
        for hook in hooks {
            client.patch(&hook.path(""), &json!({"description": format!("beside node {node}")})).await.expect(200);
        }
        all_are_asked(hooks).await;
        for node in 0..NODES {
            let said = fleet.server(node).output().stderr();
            assert!(!said.contains("cached plan"), "a statement does not fit the newer schema: {said}");
        }
    }
}

fn expand(database: &Database) {
    let is_done = database.ask("SELECT count(*) FROM seaql_migrations WHERE version = 'm9999_novelty'");
    if is_done.trim() != "0" {
        return;
    }
    // One table after the other: locking several in one transaction could deadlock with a node.
    for table in database.ask(TABLES).lines() {
        database.ask(&format!("ALTER TABLE {table} {EXPANDED}"));
    }
    database.ask(NOVELTY);
}

async fn hooks(fleet: &Fleet, receivers: impl Fn(usize) -> Receiver) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for n in 0..HOOKS {
        let settings = json!({"events": [TYPES[n % TYPES.len()]], "retryPolicy": quick_retries(20)});
        hooks.push(fleet.world.hook(receivers(n), settings).await);
    }
    hooks
}

fn prompt_slow_or_flaky(n: usize) -> Receiver {
    if n % 4 == 3 { Receiver::fails_every(5) } else { prompt_or_slow(n) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_upgraded_one_by_one_lose_nothing_and_send_nothing_twice() {
    On::Postgres
        .run(async {
            let old = Old::from_environment();
            let mut fleet = old.fleet("15000").await;
            let hooks = hooks(&fleet, prompt_or_slow).await;
            fleet.grow_to(NODES).await;
            let (clients, load) = (fleet.clients(), Arc::new(Load::default()));

            let meanwhile = async {
                for node in 0..NODES {
                    fleet.stop(node).await;
                    old.upgrade(&mut fleet, node, &hooks).await;
                }
            };
            load.publish_to_all(&clients, meanwhile).await;

            fleet.account(&hooks, &load, 0).await;
            assert_no_duplicates(&hooks);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_two_versions_that_are_killed_lose_nothing() {
    On::Postgres
        .run(async {
            let old = Old::from_environment();
            let mut fleet = old.fleet("2000").await;
            let hooks = hooks(&fleet, prompt_slow_or_flaky).await;
            fleet.grow_to(NODES).await;
            let (clients, load) = (fleet.clients(), Arc::new(Load::default()));

            let meanwhile = async {
                // Kills an old node, another old node, the node that was upgraded first, and the last old node.
                for node in [2, 1, 2, 0] {
                    fleet.server(node).kill();
                    old.upgrade(&mut fleet, node, &hooks).await;
                }
            };
            load.publish_to_all(&clients, meanwhile).await;

            fleet.account(&hooks, &load, 4).await;
        })
        .await;
}
