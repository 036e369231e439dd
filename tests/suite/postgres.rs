//! Faults that only a shared database allows: a second server, a server that was frozen, and a database that is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::client::{Client, try_send};
use crate::support::databases::On;
use crate::support::fact;
use crate::support::fleet::{Fleet, make_hooks};
use crate::support::receiver::{Receiver, Reply};
use crate::support::server::{Env, Server};
use crate::support::world::{Event, World, each_attempt, text};

/// Time for a takeover after the end of the lease of three seconds, on a busy machine.
const TAKEOVER: Duration = Duration::from_secs(30);

/// Enough that each of two nodes owns some of them.
const WEBHOOKS: usize = 8;

/// The environment of a second server on the same database.
fn beside(world: &mut World) -> Env {
    let mut env = world.env().clone();
    env.insert("POSTHASTE_LISTEN", "127.0.0.1:0".to_owned());
    env
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_the_same_database_joins_and_both_serve_their_share() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(("POSTHASTE_LOG", "warn")).await;
            let hooks = make_hooks(&fleet, WEBHOOKS, |_| (Receiver::ok(), json!({}))).await;
            assert_eq!(fleet.owned_by(0, &hooks).len(), WEBHOOKS);

            fleet.grow_to(2).await;

            let shares = [fleet.owned_by(0, &hooks).len(), fleet.owned_by(1, &hooks).len()];
            assert_eq!(shares.iter().sum::<usize>(), WEBHOOKS, "{shares:?}");
            assert!(!shares.contains(&0), "{shares:?}");
            let mut published = BTreeSet::new();
            for client in fleet.clients() {
                let event = client.post("/events", &json!({"event": "message.sent", "data": {}})).await.expect(202);
                published.insert(text(&event, "id"));
                fleet.world.all_settled(&Event::from(&event)).await;
            }
            for hook in &hooks {
                let seen = hook.accepted_events();
                assert_eq!(seen.len(), published.len(), "{} saw {seen:?}", hook.id);
                assert_eq!(BTreeSet::from_iter(seen), published);
            }
            fleet.stop_all().await;
        })
        .await;
}

/// F4, with two nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_frozen_and_overtaken_sends_nothing_more_and_ends() {
    On::Postgres
        .run(async {
            let mut world = World::start().await;
            let hook = world.hook(Receiver::says(|_| Reply::Hang), json!({"timeoutMs": 30_000})).await;
            let event = world.publish("message.sent").await;
            hook.receiver.was_asked(1).await;
            let env = beside(&mut world);

            world.server().freeze();
            let next = Server::start(world.dir(), &[], &env).await;
            hook.receiver.was_asked(2).await;
            let asked = hook.requests().len();
            world.server().thaw();

            let status = world.ended().await;
            assert_eq!(status.code(), Some(1), "{}", world.server().output().all());
            let said = world.server().output().stderr();
            assert!(said.contains("another posthaste has taken over the database"), "{said}");
            assert_eq!(hook.requests().len(), asked, "the reaped node sent something");
            let client = Client::open(next.url()).with_key(&world.tenant.key);
            let found = client.walk(&format!("/events/{}/deliveries", event.id)).await;
            assert_eq!(found.len(), 1);
        })
        .await;
}

/// F6: no publish is acknowledged falsely, nothing is sent once the lease may have ended, and afterwards everything
/// resumes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_for_longer_than_the_lease_costs_time_and_no_event() {
    On::Postgres
        .run(async {
            let mut world = World::start().await;
            let hook = world.hook(Receiver::answers_after(Duration::from_millis(20)), json!({})).await;
            let mut promised = Vec::new();
            for _ in 0..50 {
                promised.push(world.publish("message.sent").await.id);
            }

            world.database().open_for_all(false);
            let body = json!({"event": "message.sent", "data": {}});
            assert_eq!(publish(&world, &body).await, 503);
            let out =
                async || world.server().output().stderr().contains("the lease could not be renewed").then_some(());
            fact::until("the lease is not renewed", out).await;
            let lapsed = async || world.server().output().stderr().contains("\"left_ms\":0").then_some(());
            fact::until_within(TAKEOVER, "the lease has lapsed", lapsed).await;
            let asked = hook.requests().len();
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(hook.requests().len(), asked, "something was sent without a lease");

            world.database().open_for_all(true);
            fact::until_within(TAKEOVER, "a publish is accepted", async || {
                (publish(&world, &body).await == 202).then_some(())
            })
            .await;
            for event in &promised {
                let [delivery] = &world.deliveries_of(event).await[..] else { panic!("{event} has no delivery") };
                let id = delivery["id"].as_str().unwrap().to_owned();
                let ended = async || {
                    let delivery = world.delivery(&id).await;
                    each_attempt(&delivery, "outcome").contains(&&json!("success")).then_some(())
                };
                fact::until_within(TAKEOVER, "the event is delivered", ended).await;
            }
            world.stop().await;
        })
        .await;
}

/// Publishes `body`; returns the status of the answer.
async fn publish(world: &World, body: &Value) -> u16 {
    try_send(world.client().json(Method::POST, "/events", body)).await.expect("an answer").status
}
