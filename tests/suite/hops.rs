//! Engines that deliver to engines: a chain is limited in length, and a loop is refused.

use reqwest::Method;
use serde_json::json;

use crate::support::client::{Answer, try_send};
use crate::support::databases::{On, on_both};
use crate::support::fact;
use crate::support::fleet::Fleet;
use crate::support::hook::{plain, quick_retries};
use crate::support::raw::Raw;
use crate::support::receiver::Receiver;
use crate::support::world::{Event, World, each_attempt};

/// Publishes an event with this trail; returns the answer.
async fn published_by(world: &World, trail: &str) -> Answer {
    let call = world.client().json(Method::POST, "/events", &json!({"event": "message.sent", "data": {}}));
    try_send(call.header("CDN-Loop", trail)).await.expect("an answer")
}

fn engines(count: usize) -> String {
    (1..=count).map(|engine| format!("posthaste-{engine:016x}")).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn what_an_engine_has_sent_is_not_published_by_it_again() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    world.publish("message.sent").await;
    let name = hook.saw(1).await[0].header("cdn-loop").to_owned();

    let refused = published_by(&world, &format!("cdn.example, {name}; x=y")).await;

    assert_eq!(refused.problem(508).code(), "loop_detected");
    assert_eq!(world.client().walk("/events").await.len(), 1);
}

#[tokio::test]
async fn an_event_comes_through_a_few_engines_and_not_through_many() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    published_by(&world, &engines(4)).await.expect(202);
    let named = hook.saw(1).await[0].header("cdn-loop").to_owned();
    assert!(named.starts_with(&engines(4)) && named.matches("posthaste-").count() == 5, "{named}");

    assert_eq!(published_by(&world, &named).await.problem(508).code(), "loop_detected");
    assert_eq!(published_by(&world, &engines(5)).await.problem(508).code(), "loop_detected");
}

#[tokio::test]
async fn two_engines_that_deliver_into_each_other_publish_an_event_once_each() {
    let (one, other) = (World::start().await, World::start().await);
    deliver_into(&one, &other).await;
    deliver_into(&other, &one).await;

    let event = one.publish("message.sent").await;

    assert_eq!(one.settled(&event).await["status"], "success");
    let [echo] = &other.client().walk("/events").await[..] else { panic!("one event") };
    let back = other.settled(&Event::from(&with_matched(echo))).await;
    assert_eq!(back["status"], "failed");
    assert_eq!(each_attempt(&back, "statusCode"), [508]);
    assert_eq!(one.client().walk("/events").await.len(), 1);
}

/// The event in the form in which a publish answers it.
fn with_matched(event: &serde_json::Value) -> serde_json::Value {
    json!({"id": event["id"], "timestamp": event["timestamp"], "matched": 1, "duplicate": false})
}

async fn deliver_into(from: &World, into: &World) {
    let url = format!("{}/api/v1/events", into.url());
    let headers = json!({"Authorization": format!("Bearer {}", into.tenant.key)});
    let settings = json!({"headers": headers, "retryPolicy": {"maxRetries": 0}});
    from.client().post("/webhooks", &plain(&url, settings)).await.expect(201);
}

on_both!(the_way_of_an_event_is_known_after_a_crash);
async fn the_way_of_an_event_is_known_after_a_crash() {
    let mut world = World::start().await;
    let settings = json!({"retryPolicy": quick_retries(3)});
    let hook = world.hook(Receiver::fails(1).then_accepts(), settings).await;
    published_by(&world, &engines(2)).await.expect(202);
    hook.saw(1).await;

    world.kill();
    world.ended().await;
    world.restart().await;

    let requests = hook.saw(2).await;
    let named: Vec<&str> = requests.iter().map(|request| request.header("cdn-loop")).collect();
    assert!(named[0].starts_with(&engines(2)), "{named:?}");
    assert_eq!(named[0], named[1], "the engine keeps its name across the restart");
}

/// A body that a node receives for another node counts against its tenant, as a body of its own does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_for_another_node_count_for_their_tenant() {
    let test = async {
        let mut fleet = Fleet::of_one_with(&[]).await;
        let hook = fleet.world.hook(Receiver::ok(), json!({})).await;
        fleet.grow_to(2).await;
        let key = fleet.world.tenant.key.clone();
        let path = hook.path("/purge");
        for node in 0..2 {
            let (url, client) = (fleet.server(node).url().to_owned(), fleet.clients()[node].clone());
            // A quarter of 256 MiB, with some margin for bodies that a call below has displaced; far from all of it.
            let mut slow = Vec::new();
            fact::until("the tenant's bodies fill its share", async || {
                if slow.len() < 100 {
                    slow.push(Raw::saying(&url, &unfinished(&path, &key, (1 << 20) - 1)).await);
                }
                if slow.len() < 64 {
                    return None;
                }
                let whole = client.text(Method::POST, &path, "x".repeat(1 << 20));
                // Not the 503 of a node that cannot reach another one.
                let full = |answer: &Answer| answer.status == 503 && answer.text.contains("too many bodies");
                try_send(whole).await.ok().filter(full)
            })
            .await;
        }
    };
    On::Postgres.run(test).await;
}

fn unfinished(path: &str, key: &str, bytes: usize) -> String {
    let head = format!(
        "POST /api/v1{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        bytes + 1
    );
    head + &"x".repeat(bytes)
}
