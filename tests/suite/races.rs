//! The same idempotent request sent to every node at once: one node carries it out, and all give the same answer.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::support::client::{Answer, Client, send};
use crate::support::databases::On;
use crate::support::fleet::Fleet;
use crate::support::world::ADMIN_KEY;

const NODES: usize = 3;
const ROUNDS: usize = 25;

/// A long lease, so that a busy machine does not make a node look dead.
const PATIENT: (&str, &str) = ("POSTHASTE_LEASE_MS", "15000");

/// Sends one request to all nodes at once; returns their answers.
async fn sent_to_all(clients: &[Client], key: &str, path: &str, body: &Value) -> Vec<Answer> {
    let call = |client: &Client| client.json(Method::POST, path, body).header("Idempotency-Key", key);
    join_all(clients.iter().map(|client| send(call(client)))).await
}

/// Asserts that all answers are the same; returns their body.
fn same_answer(answers: &[Answer], status: u16) -> Value {
    let said: BTreeSet<String> = answers.iter().map(|answer| answer.expect(status).to_string()).collect();
    assert_eq!(said.len(), 1, "one request, several answers: {said:?}");
    answers[0].json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_an_idempotency_key_is_done_once_whichever_nodes_get_it() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(PATIENT).await;
            fleet.grow_to(NODES).await;
            let clients = fleet.clients();
            let admins: Vec<Client> = clients.iter().map(|client| client.with_key(ADMIN_KEY)).collect();
            let webhook = json!({"name": "Race", "url": "https://hooks.example.com/", "events": ["call.*"]});
            let batch =
                json!({"events": [{"event": "user.created", "data": {}}, {"event": "user.updated", "data": {}}]});

            let mut events = BTreeSet::new();
            for round in 0..ROUNDS {
                let sent = async |kind: &str, path: &str, body: &Value| {
                    sent_to_all(&clients, &format!("{kind}-{round}"), path, body).await
                };
                let single = json!({"event": "message.sent", "data": {"round": round}});
                let answers = sent("event", "/events", &single).await;
                let ids: BTreeSet<String> = answers.iter().map(|answer| answer.expect(202)["id"].to_string()).collect();
                assert_eq!(ids.len(), 1, "one request, several events: {answers:?}");
                events.extend(ids);
                let answers = sent("batch", "/events/batch", &batch).await;
                let ids = |answer: &Answer| {
                    let results = answer.expect(202)["results"].as_array().expect("a list").clone();
                    results.iter().map(|result| result["id"].to_string()).collect::<Vec<_>>()
                };
                assert!(answers.iter().all(|answer| ids(answer) == ids(&answers[0])), "{answers:?}");
                let made = same_answer(&sent("webhook", "/webhooks", &webhook).await, 201);
                let rotate = format!("/webhooks/{}/secret/rotate", made["id"].as_str().expect("an id"));
                let rotated = same_answer(&sent("rotate", &rotate, &json!({"graceSeconds": 60})).await, 200);
                assert_eq!(rotated["secrets"].as_array().map(Vec::len), Some(2), "{rotated}");
                let tenant = json!({"name": format!("Race {round}")});
                same_answer(&sent_to_all(&admins, &format!("tenant-{round}"), "/tenants", &tenant).await, 201);
            }

            assert_eq!(events.len(), ROUNDS);
            let listed = fleet.world.client().walk("/events").await;
            assert_eq!(listed.len(), 3 * ROUNDS, "each round published three events: one alone and a batch of two");
            assert_eq!(fleet.world.client().walk("/webhooks").await.len(), ROUNDS);
            let rotations = fleet.world.client().walk("/audit?action=webhook.rotate_secret").await;
            assert_eq!(rotations.len(), ROUNDS);
            fleet.stop_all().await;
        })
        .await;
}
