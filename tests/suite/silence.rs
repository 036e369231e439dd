//! F6 with a PostgreSQL whose packets get lost for a while: it refuses nothing and answers nothing.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;

use crate::support::client::try_send;
use crate::support::databases::On;
use crate::support::fact;
use crate::support::receiver::{Receiver, Reply};
use crate::support::world::{World, each_attempt, id_of};

/// A publish that meets the silence is answered within ten seconds; the rest is for a busy machine.
const ANSWERED: Duration = Duration::from_secs(15);

/// Later publishes are refused at once.
const REFUSED: Duration = Duration::from_secs(1);

/// Everything works again within this time after the end of the silence.
const RESUMED: Duration = Duration::from_secs(10);

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
            let (status, took) = publish(&world, &mut promised).await;
            assert!(status == 503 && took < ANSWERED, "{status} after {took:?}");
            tokio::time::sleep(Duration::from_millis(500)).await;
            for _ in 0..5 {
                let (status, took) = publish(&world, &mut promised).await;
                assert!(status == 503 && took < REFUSED, "{status} after {took:?}");
            }
            // The long form sets the number of seconds.
            let lasts = std::env::var("POSTHASTE_SILENCE_S").map_or(0, |s| s.parse().expect("a number"));
            while began.elapsed() < Duration::from_secs(lasts) {
                let (status, took) = publish(&world, &mut promised).await;
                assert!(status == 503 && took < ANSWERED, "{status} after {took:?}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let asked = hook.requests().len();
            assert_eq!(asked, 1, "something was sent without a lease");

            proxy.be_a_hole(false);
            fact::until_within(RESUMED, "a publish is accepted", async || {
                (publish(&world, &mut promised).await.0 == 202).then_some(())
            })
            .await;
            for event in &promised {
                let [delivery] = &world.deliveries_of(event).await[..] else { panic!("{event} has no delivery") };
                let id = delivery["id"].as_str().unwrap().to_owned();
                fact::until_within(RESUMED, "the event is delivered", async || {
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

/// Publishes an event; returns the status and how long the answer took. An acceptance is added to `promised`.
async fn publish(world: &World, promised: &mut Vec<String>) -> (u16, Duration) {
    let began = Instant::now();
    let body = json!({"event": "message.sent", "data": {}});
    let answer = try_send(world.client().json(Method::POST, "/events", &body)).await.expect("an answer");
    if answer.status == 202 {
        promised.push(id_of(&answer));
    }
    (answer.status, began.elapsed())
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
