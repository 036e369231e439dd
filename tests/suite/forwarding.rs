//! The headers that mark a request as forwarded by another node. Sent by any other caller, they have no effect.

use std::io::Read;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::send;
use crate::support::databases::{On, on_both};
use crate::support::fact;
use crate::support::fleet::{Fleet, make_hooks};
use crate::support::receiver::Receiver;
use crate::support::world::World;

const FORWARDED: &str = "X-Posthaste-Forwarded";

on_both!(a_caller_that_says_it_is_a_node_gets_no_longer_list);
async fn a_caller_that_says_it_is_a_node_gets_no_longer_list() {
    let world = World::start().await;
    let mut hooks = Vec::new();
    for _ in 0..4 {
        let hook = world.hook(Receiver::ok(), json!({})).await;
        world.client().act(&hook.path("/pause")).await.expect(200);
        hooks.push(hook);
    }
    world.publish("message.sent").await;
    fact::until("all four webhooks have a backlog", async || {
        (world.client().walk("/backlogs").await.len() == 4).then_some(())
    })
    .await;

    for proof in ["", "0 00", "nonsense"] {
        let call = world.client().call(Method::GET, "/backlogs?limit=1").header(FORWARDED, "1000000");
        let list = send(call.header("X-Posthaste-Node", proof)).await.expect(200);
        assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_says_it_was_forwarded_is_forwarded_like_any_other() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(("POSTHASTE_LEASE_MS", "15000")).await;
            let hooks = make_hooks(&fleet, 8, |_| (Receiver::ok(), json!({}))).await;
            fleet.grow_to(2).await;
            for client in fleet.clients() {
                for hook in &hooks {
                    for (method, path) in
                        [(Method::GET, "/backlog"), (Method::POST, "/pause"), (Method::POST, "/resume")]
                    {
                        send(client.call(method, &hook.path(path)).header(FORWARDED, "0")).await.expect(200);
                    }
                }
            }
            fleet.stop_all().await;
        })
        .await;
}

/// A node reads the lists of the others, and must not get them compressed as its caller wants its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_list_has_the_rows_of_every_node() {
    On::Postgres
        .run(async {
            let (mut fleet, hooks) = Fleet::of_two_with_backlogs(16).await;
            let clients = fleet.clients();
            for client in &clients {
                fact::until("all webhooks have a backlog", async || {
                    (client.walk("/backlogs").await.len() == hooks.len()).then_some(())
                })
                .await;
                let call = client.call(Method::GET, "/backlogs").header("Accept-Encoding", "gzip");
                let answer = call.send().await.expect("an answer");
                assert_eq!(answer.headers()["content-encoding"], "gzip");
                let (zipped, mut text) = (answer.bytes().await.expect("a body"), String::new());
                flate2::read::GzDecoder::new(&zipped[..]).read_to_string(&mut text).expect("gzip");
                let list: Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(list["data"].as_array().map(Vec::len), Some(hooks.len()));
            }
            fleet.stop_all().await;
        })
        .await;
}
