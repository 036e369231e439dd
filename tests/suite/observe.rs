//! What a running server shows of itself: health, the OpenAPI document and request ids.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::support::client::{Answer, send};
use crate::support::world::World;

async fn open(world: &World, path: &str) -> Answer {
    send(world.anyone().root(Method::GET, path)).await
}

#[tokio::test]
async fn health_is_open_to_all() {
    let world = World::start().await;

    assert_eq!(open(&world, "/livez").await.status, 200);
    assert_eq!(open(&world, "/readyz").await.status, 200);
}

#[tokio::test]
async fn the_server_describes_every_route_that_it_has() {
    let world = World::start().await;

    let document = open(&world, "/openapi.json").await.expect(200);

    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{}", document["openapi"]);
    let described = operations(&document);
    for (method, path) in PROMISED {
        assert!(described.contains(&(method.to_owned(), path.to_owned())), "{method} {path} is not in {described:#?}");
    }
}

const PROMISED: [(&str, &str); 21] = [
    ("get", "/webhooks"),
    ("post", "/webhooks"),
    ("get", "/webhooks/{}"),
    ("patch", "/webhooks/{}"),
    ("delete", "/webhooks/{}"),
    ("post", "/webhooks/{}/test"),
    ("post", "/webhooks/{}/secret/rotate"),
    ("get", "/webhooks/{}/logs"),
    ("get", "/events"),
    ("post", "/events"),
    ("post", "/events/batch"),
    ("get", "/events/{}"),
    ("get", "/events/{}/deliveries"),
    ("get", "/deliveries"),
    ("get", "/deliveries/{}"),
    ("post", "/deliveries/{}/retry"),
    ("post", "/deliveries/{}/cancel"),
    ("post", "/tenants"),
    ("get", "/tenants/{}"),
    ("post", "/tenants/{}/keys"),
    ("delete", "/tenants/{}/keys/{}"),
];

/// The operations of a document; their paths lack the base and the names of parameters.
fn operations(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().expect("paths");
    let bare = |path: &str| {
        let path = path.strip_prefix("/api/v1").unwrap_or(path);
        let parts = path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part });
        parts.collect::<Vec<_>>().join("/")
    };
    let methods = |item: &Value| item.as_object().expect("a path item").keys().cloned().collect::<Vec<_>>();
    paths.iter().flat_map(|(path, item)| methods(item).into_iter().map(move |method| (method, bare(path)))).collect()
}

#[tokio::test]
async fn an_answer_carries_the_callers_request_id_if_it_is_sane() {
    let world = World::start().await;
    let ask = async |id: &str| {
        let answer = send(world.client().call(Method::GET, "/webhooks").header("X-Request-Id", id)).await;
        answer.header("x-request-id").expect("always an id").to_owned()
    };

    assert_eq!(ask("order-17_a").await, "order-17_a");
    let long = "x".repeat(2_000);
    assert_ne!(ask(&long).await, long);
    assert_ne!(ask("with spaces and \"quotes\"").await, "with spaces and \"quotes\"");
    let (first, second) = (open(&world, "/livez").await, open(&world, "/livez").await);
    let ids = [&first, &second].map(|answer| answer.header("x-request-id").expect("always an id").to_owned());
    assert_ne!(ids[0], ids[1]);
    let refused = send(world.anyone().call(Method::GET, "/webhooks").header("X-Request-Id", "mine")).await;
    refused.problem(401);
    assert_eq!(refused.header("x-request-id"), Some("mine"));
}
