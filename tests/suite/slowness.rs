//! F6 with a PostgreSQL that answers late: because every statement takes two seconds, or because a lock makes all
//! connections wait. Promises are kept all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// Duration of the slowness: longer than a batch's time limit and than a lease.
const FOR: Duration = Duration::from_secs(25);

/// Everything works again within this time after the database does.
const RESUMED: Duration = Duration::from_secs(10);

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
                tokio::time::sleep(FOR).await;
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
                let hold = format!("BEGIN; LOCK TABLE event, delivery; SELECT pg_sleep({}); ROLLBACK", FOR.as_secs());
                let mut holder = world.database().begin(&hold);
                let is_held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted";
                let held = async || (world.database().ask(is_held).trim() != "0").then_some(());
                fact::until("the tables are locked", held).await;
                let read = || try_send(world.client().call(Method::GET, "/deliveries"));
                let answers = join_all((0..READERS).map(|_| read())).await;
                let ended = async || holder.try_wait().expect("a child");
                assert!(fact::until_within(2 * FOR, "they are let go", ended).await.success());
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

/// Waits until a publish is accepted again, which must be in time.
async fn resumes(world: &World) {
    let since = Instant::now();
    fact::until_within(RESUMED, "a publish is accepted", async || {
        let event = json!({"event": "nobody.listens", "data": {}});
        let answer = try_send(world.client().json(Method::POST, "/events", &event)).await.expect("an answer");
        assert!([202, 503].contains(&answer.status), "{}", answer.status);
        (answer.status == 202).then_some(())
    })
    .await;
    println!("a publish was accepted {:?} after", since.elapsed());
}

async fn account(world: &mut World, hooks: &[Hook; 3], load: &Load) {
    let committed = load.settle_doubts(world.client()).await;
    let summary = audit(world, &hooks.each_ref(), load.promises(), LEASES).await;
    println!("{summary:?}, {committed} committed without an acceptance");
    world.stop().await;
    world.check_integrity().await;
}
