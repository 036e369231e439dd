//! F6 with a PostgreSQL whose packets get lost for a while: it refuses nothing and answers nothing.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;

use crate::support::client::try_send;
use crate::support::databases::On;
use crate::support::fact;
use crate::support::receiver::{Receiver, Reply};
use crate::support::world::{World, each_attempt, id_of};

/// How many publishes are refused at once while the server asks the silent database, after one that has waited for it.
const AT_ONCE: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_falls_silent_costs_time_and_neither_an_event_nor_a_try() {
    On::Postgres
        .run(async {
            let mut world = World::start().await;
            let proxy = world.stop_before_a_proxy().await;
            world.restart().await;
            // The first request is in flight when the lease ends.
            let receiver = Receiver::says(|asked| if asked == 0 { Reply::Hang } else { Reply::Status(200) });
            let once = json!({"timeoutMs": 30_000, "retryPolicy": {"maxRetries": 0}});
            let hook = world.hook(receiver, once).await;
            let mut promised = vec![world.publish("message.sent").await.id];
            hook.receiver.was_asked(1).await;

            proxy.be_a_hole(true);
            let began = Instant::now();
            assert_eq!(publish(&world, &mut promised).await, 503);
            let waited = began.elapsed();
            let later = Instant::now();
            for _ in 0..AT_ONCE {
                assert_eq!(publish(&world, &mut promised).await, 503);
            }
            assert!(
                later.elapsed() < waited,
                "{AT_ONCE} refusals took {:?}, the first one {waited:?}",
                later.elapsed()
            );
            // The long form sets the number of seconds.
            let lasts = std::env::var("POSTHASTE_SILENCE_S").map_or(0, |s| s.parse().expect("a number"));
            while began.elapsed() < Duration::from_secs(lasts) {
                assert_eq!(publish(&world, &mut promised).await, 503);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let asked = hook.requests().len();
            assert_eq!(asked, 1, "something was sent without a lease");

            proxy.be_a_hole(false);
            fact::until("a publish is accepted", async || (publish(&world, &mut promised).await == 202).then_some(()))
                .await;
            // Connections that were read from in the silence are found to be dead one by one.
            fact::until("reads are answered again", async || {
                for _ in 0..AT_ONCE {
                    let read = try_send(world.client().call(Method::GET, "/events?limit=1")).await.ok()?;
                    if read.status != 200 {
                        return None;
                    }
                }
                Some(())
            })
            .await;
            for event in &promised {
                let [delivery] = &world.deliveries_of(event).await[..] else { panic!("{event} has no delivery") };
                let id = delivery["id"].as_str().unwrap().to_owned();
                fact::until("the event is delivered", async || {
                    let delivery = world.delivery(&id).await;
                    (delivery["status"] == "success").then_some(())
                })
                .await;
            }
            let [first] = &world.deliveries_of(&promised[0]).await[..] else { panic!() };
            let first = world.delivery(first["id"].as_str().unwrap()).await;
            assert_eq!(each_attempt(&first, "trigger"), [&json!("recovery")], "{first}");
            assert_eq!(each_attempt(&first, "number"), [&json!(1)], "{first}");
            world.stop().await;
        })
        .await;
}

/// Publishes an event; returns the status of the answer, which must come. An acceptance is added to `promised`.
async fn publish(world: &World, promised: &mut Vec<String>) -> u16 {
    let body = json!({"event": "message.sent", "data": {}});
    let answer = try_send(world.client().json(Method::POST, "/events", &body)).await.expect("an answer");
    if answer.status == 202 {
        promised.push(id_of(&answer));
    }
    answer.status
}

/// Shards whose acquisition got no answer are released again and served after all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_whose_taking_was_not_answered_are_served_all_the_same() {
    On::Postgres
        .run(async {
            let (mut world, hook) = World::with_webhook(Receiver::ok()).await;
            let proxy = world.stop_before_a_proxy().await;
            proxy.lose_answer_to("UPDATE shard SET owner = me.num");
            world.restart().await;

            let event = world.publish("message.sent").await;

            world.settled(&event).await;
            assert_eq!(hook.saw(1).await.len(), 1);
            let said = world.server().output().stderr();
            assert!(said.contains("shards acquired without an answer; they are released again"), "{said}");
            world.stop().await;
        })
        .await;
}
