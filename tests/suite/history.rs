//! A database that has lost its last transactions (F28: a standby that lacked the last commits took over), or whose
//! transactions are numbered by another server (F27: restored from a dump). Everything that the surviving rows owe is
//! delivered, and the counts equal the rows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::client::{Client, send};
use crate::support::databases::MASTER_KEY;
use crate::support::fact;
use crate::support::hook::{Hook, quick_retries};
use crate::support::load::{Load, TYPES};
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::world::{Event, World, each_attempt, free_port, text};
use test_support::cluster::{Cluster, Database};
use test_support::proxy::Proxy;

const DATABASE: &str = "posthaste";

/// Longer than a lease, a survey and all retries together.
const SETTLED: Duration = Duration::from_secs(90);

/// Slow receivers keep fan-outs open.
const SLOW: Duration = Duration::from_millis(700);

/// Events accepted before a database is lost, and as many afterwards.
const LOAD: usize = 60;

/// Events accepted after the last one that the standby receives.
const BEHIND: usize = 20;

/// The log text that announces a full read of the configuration.
const READS_EVERYTHING: &str = "reading all webhooks again";

/// How often each scenario runs; more in the long form.
fn runs() -> usize {
    std::env::var("POSTHASTE_HISTORY_RUNS").map_or(1, |runs| runs.parse().expect("a number"))
}

/// Waits until `more` further events are accepted.
async fn accepted(load: &Load, more: usize) {
    let all = load.promises().len() + more;
    let what = format!("{more} more events are accepted");
    fact::until_within(SETTLED, &what, async || (load.promises().len() >= all).then_some(())).await;
}

/// Starts a world on the PostgreSQL cluster that is reached through the socket in `dir`.
async fn world_behind(dir: &std::path::Path) -> World {
    World::with(&[
        ("POSTHASTE_DATABASE_URL", &url(dir)),
        ("POSTHASTE_MASTER_KEY", MASTER_KEY),
        ("POSTHASTE_DATABASE_CONNECTIONS", "8"),
        ("POSTHASTE_LEASE_MS", "3000"),
        ("POSTHASTE_LOG", "info"),
    ])
    .await
}

fn url(dir: &std::path::Path) -> String {
    format!("postgres://posthaste@localhost/{DATABASE}?host={}", dir.display())
}

/// Reads rows with SQL.
trait Rows {
    fn rows(&self, sql: &str) -> String;

    fn number(&self, sql: &str) -> u64 {
        self.rows(sql).trim().parse().expect("a number")
    }
}

impl Rows for Cluster {
    fn rows(&self, sql: &str) -> String {
        self.run_in(DATABASE, sql)
    }
}

impl Rows for Database {
    fn rows(&self, sql: &str) -> String {
        self.ask(sql)
    }
}

/// Webhooks with a quick, a slow and a failing receiver, and a paused one.
struct Hooks {
    open: Vec<Hook>,
    paused: Hook,
}

impl Hooks {
    async fn new(world: &World) -> Self {
        let settings = json!({"events": TYPES, "retryPolicy": quick_retries(20)});
        let receivers = [
            Receiver::ok(),
            Receiver::answers_after(SLOW),
            Receiver::fails_every(5),
            Receiver::ok(),
            Receiver::answers_after(SLOW),
        ];
        let mut open = Vec::new();
        for receiver in receivers {
            open.push(world.hook(receiver, settings.clone()).await);
        }
        let paused = world.hook(Receiver::ok(), settings).await;
        world.client().act(&paused.path("/pause")).await.succeeded();
        Self { open, paused }
    }

    /// Waits until everything owed to all webhooks but the paused one is sent. Then every surviving event must have
    /// arrived, a second arrival must be marked as a recovery, and the paused webhook must be owed what the rows say.
    async fn get_what_survives(&self, rows: &impl Rows, client: &Client, promises: &[Event]) -> usize {
        let paused =
            rows.number(&format!("SELECT num FROM webhook WHERE name = '{}'", text(&self.paused.body, "name")));
        let owed = format!(
            "SELECT (SELECT count(*) FROM fanout) + (SELECT count(*) FROM delivery WHERE status = 0 AND webhook_num <> {paused})"
        );
        fact::until_within(SETTLED, "nothing is owed any more", async || (rows.number(&owed) == 0).then_some(())).await;
        let mut survivors = BTreeSet::new();
        for event in promises {
            let answer = send(client.call(Method::GET, &format!("/events/{}", event.id))).await;
            if answer.status == 200 {
                survivors.insert(event.id.clone());
            }
        }
        for hook in &self.open {
            let accepted = hook.accepted_events();
            let known: BTreeSet<&String> = accepted.iter().collect();
            let missing: Vec<_> = survivors.iter().filter(|event| !known.contains(event)).collect();
            assert!(missing.is_empty(), "{} of {} events did not arrive: {missing:?}", missing.len(), survivors.len());
            self.repeats_are_marked(hook, client, &accepted, &survivors).await;
        }
        let events = rows.number("SELECT count(*) FROM event");
        let recount =
            rows.number(&format!("SELECT count(*) FROM delivery WHERE status = 0 AND webhook_num = {paused}"));
        assert_eq!(recount, events, "every event has its row for the paused webhook");
        fact::until("the backlog is what rows say", async || {
            let backlog = client.get(&self.paused.path("/backlog")).await.expect(200);
            (backlog["pending"].as_u64() == Some(recount)).then_some(())
        })
        .await;
        survivors.len()
    }

    async fn repeats_are_marked(
        &self,
        hook: &Hook,
        client: &Client,
        accepted: &[String],
        survivors: &BTreeSet<String>,
    ) {
        let mut seen = BTreeSet::new();
        for event in accepted.iter().filter(|event| !seen.insert(*event) && survivors.contains(*event)) {
            let deliveries = client.walk(&format!("/events/{event}/deliveries")).await;
            let its = |delivery: &&Value| delivery["webhookId"] == hook.id.as_str();
            let delivery = deliveries.iter().find(its).expect("a delivery that was sent");
            let delivery = client.get(&format!("/deliveries/{}", text(delivery, "id"))).await.expect(200);
            let triggers = each_attempt(&delivery, "trigger");
            assert!(triggers.iter().any(|trigger| **trigger == "recovery"), "{event} came twice: {delivery}");
        }
    }
}

/// F27.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dump_under_load_owes_is_delivered_from_a_cluster_that_has_counted_few_transactions() {
    for _ in 0..runs() {
        let old = Cluster::aged();
        old.create_database(DATABASE);
        let mut world = world_behind(old.socket_dir()).await;
        let hooks = Hooks::new(&world).await;
        let load = Arc::new(Load::default());
        let client = world.client().clone();
        let dump = load
            .publish_to_all(std::slice::from_ref(&client), async {
                accepted(&load, LOAD).await;
                old.dump_of(DATABASE)
            })
            .await;
        world.kill();
        world.ended().await;
        drop(old);

        let new = Database::new();
        new.restore(&dump);
        assert!(new.number("SELECT count(*) FROM fanout") > 0, "the dump has no open fan-out");
        new.ask("UPDATE config_change SET changed_at = 0");
        let forgotten =
            "INSERT INTO engine_state VALUES ('changes_forgotten_to', (SELECT max(tx::text::int8) FROM config_change))";
        new.ask(forgotten);
        world.env().insert("POSTHASTE_DATABASE_URL", new.url());
        world.restart().await;

        let survivors = hooks.get_what_survives(&new, &client, &load.promises()).await;
        assert!(survivors > 0, "the dump has no event");
        fact::until("old changes are forgotten", async || {
            (new.number("SELECT count(*) FROM config_change") == 0).then_some(())
        })
        .await;
        let readings = world.server().output().all().matches(READS_EVERYTHING).count();
        assert!(readings <= 1, "the whole configuration was read {readings} times");
        world.stop().await;
    }
}

/// F28.
async fn a_standby_takes_over(apart: Duration) {
    let primary = Cluster::aged();
    primary.create_database(DATABASE);
    let stream = Proxy::new(primary.socket_dir());
    let standby = Cluster::standby_of(stream.dir());
    let fronts = [Proxy::new(primary.socket_dir()), Proxy::new(primary.socket_dir())];
    let mut world = world_behind(fronts[0].dir()).await;
    let hooks = Hooks::new(&world).await;
    let mut env = world.env().clone();
    env.insert("POSTHASTE_DATABASE_URL", url(fronts[1].dir()));
    env.insert("POSTHASTE_LISTEN", format!("127.0.0.1:{}", free_port()));
    let mut other = Server::start(world.dir(), &[], &env).await;
    let clients = [world.client().clone(), Client::open(other.url()).with_key(&world.tenant.key)];
    let both_serve = async || (primary.number("SELECT count(DISTINCT owner) FROM shard") == 2).then_some(());
    fact::until("both nodes have shards", both_serve).await;

    let load = Arc::new(Load::default());
    load.publish_to_all(&clients, async {
        accepted(&load, LOAD).await;
        stream.be_a_hole(true);
        accepted(&load, BEHIND).await;
        let standing = (apart > Duration::ZERO).then_some(primary);
        standby.promote();
        fronts[0].switch(standby.socket_dir());
        tokio::time::sleep(apart).await;
        fronts[1].switch(standby.socket_dir());
        drop(standing);
        accepted(&load, LOAD).await;
    })
    .await;

    for client in &clients {
        fact::until_within(SETTLED, "the node is ready", async || {
            (send(client.root(Method::GET, "/readyz")).await.status == 200).then_some(())
        })
        .await;
    }
    let promises = load.promises();
    let survivors = hooks.get_what_survives(&standby, &clients[0], &promises).await;
    println!("{apart:?} apart: of {} events {survivors} survive", promises.len());
    assert!(survivors > 0, "no event survives");
    assert!(other.lives() && world.server().lives(), "a node has ended");
    other.terminate();
    assert_eq!(other.ended().await.code(), Some(0), "{}", other.output().all());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_lacks_the_last_commits_delivers_what_it_has_when_nodes_switch_together() {
    for _ in 0..runs() {
        a_standby_takes_over(Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_lacks_the_last_commits_delivers_what_it_has_when_nodes_switch_one_after_the_other() {
    for _ in 0..runs() {
        a_standby_takes_over(Duration::from_secs(2)).await;
    }
}
