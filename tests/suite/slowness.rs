//! F6 with a PostgreSQL that answers late: because every statement takes two seconds, or because a lock makes all
//! connections wait. Promises are kept all the same.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use serde_json::json;

use crate::support::checker::audit;
use crate::support::client::try_send;
use crate::support::databases::On;
use crate::support::fact;
use crate::support::hook::Hook;
use crate::support::load::{Load, mixed_hooks};
use crate::support::world::World;

/// Delay of each statement; a batch has half a dozen.
const SLOW: Duration = Duration::from_secs(2);

/// The slowness lasts until the server has logged that it gave up a batch and could not renew its lease; the lock, until
/// it gave up a batch. A batch has ten seconds.
const FELT: Duration = Duration::from_secs(60);
const GAVE_UP_A_BATCH: &str = "a journal batch was refused";
const LEASE_IS_DUE: &str = "the lease could not be renewed";

/// How often requests may be cut short: each time a lease ends.
const LEASES: usize = 20;

/// More readers than there are connections.
const READERS: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_two_seconds_for_a_question_costs_time_and_no_event() {
    On::Postgres
        .run(async {
            let mut world = World::start().await;
            let proxy = world.stop_before_a_proxy().await;
            world.restart().await;
            let hooks = mixed_hooks(&world).await;
            let load = Arc::new(Load::default());

            let clients = [world.client().clone()];
            let meanwhile = async {
                proxy.be_slow(SLOW);
                is_felt(&mut world).await;
                proxy.be_slow(Duration::ZERO);
                resumes(&world).await;
            };
            load.publish_to_all(&clients, meanwhile).await;

            account(&mut world, &hooks, &load).await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_connections_are_all_taken_refuses_and_goes_on_after() {
    On::Postgres
        .run(async {
            let mut world = World::start().await;
            let hooks = mixed_hooks(&world).await;
            let load = Arc::new(Load::default());
            let event = world.publish("load.wide").await;

            let clients = [world.client().clone()];
            let meanwhile = async {
                let mut holder = world.database().begin("BEGIN; LOCK TABLE event, delivery; SELECT pg_sleep(3600)");
                let is_held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted";
                let held = async || (world.database().ask(is_held).trim() != "0").then_some(());
                fact::until("the tables are locked", held).await;
                let read = || try_send(world.client().call(Method::GET, "/deliveries"));
                let answers = join_all((0..READERS).map(|_| read())).await;
                is_logged(&mut world, GAVE_UP_A_BATCH).await;
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                           WHERE query LIKE '%LOCK TABLE event,%' AND pid != pg_backend_pid() \
                           AND datname = current_database()";
                assert_eq!(world.database().ask(end).trim(), "t", "one session holds the locks");
                holder.wait().expect("a child");
                let statuses: Vec<u16> = answers.into_iter().map(|answer| answer.expect("an answer").status).collect();
                assert!(statuses.contains(&503), "the waiting requests did not take all connections: {statuses:?}");
                assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
                resumes(&world).await;
            };
            load.publish_to_all(&clients, meanwhile).await;

            world.all_settled(&event).await;
            account(&mut world, &hooks, &load).await;
        })
        .await;
}

/// Waits until the slowness has cost the server a batch and a renewal of its lease.
async fn is_felt(world: &mut World) {
    is_logged(world, GAVE_UP_A_BATCH).await;
    is_logged(world, LEASE_IS_DUE).await;
}

async fn is_logged(world: &mut World, line: &str) {
    let output = world.server().output().clone();
    fact::until_within(FELT, line, async || output.stderr().contains(line).then_some(())).await;
}

/// Waits until a publish is accepted again.
async fn resumes(world: &World) {
    fact::until("a publish is accepted", async || {
        let event = json!({"event": "nobody.listens", "data": {}});
        let answer = try_send(world.client().json(Method::POST, "/events", &event)).await.expect("an answer");
        assert!([202, 503].contains(&answer.status), "{}", answer.status);
        (answer.status == 202).then_some(())
    })
    .await;
}

async fn account(world: &mut World, hooks: &[Hook; 3], load: &Load) {
    let committed = load.settle_doubts(world.client()).await;
    let summary = audit(world, &hooks.each_ref(), load.promises(), LEASES).await;
    println!("{summary:?}, {committed} committed without an acceptance");
    world.stop().await;
    world.check_integrity().await;
}
