//! Sends malformed and impossible bodies to every route that takes a body, and hostile ids to every route that takes an
//! id. The server must answer each with a problem document, never fail, and stay healthy.

use reqwest::Method;
use serde_json::json;

use crate::support::client::{Client, send, try_send};
use crate::support::receiver::Receiver;
use crate::support::world::World;

/// Nesting deeper than any real payload, and deeper than a recursive parser's stack allows.
const DEEP: usize = 100_000;

#[tokio::test]
async fn no_body_makes_the_server_fail() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let tenant = &world.tenant.id;
    let ours = [
        (Method::POST, "/webhooks".to_owned()),
        (Method::PATCH, hook.path("")),
        (Method::POST, hook.path("/secret/rotate")),
        (Method::POST, "/events".to_owned()),
        (Method::POST, "/events/batch".to_owned()),
    ];
    let admins = [
        (Method::POST, "/tenants".to_owned()),
        (Method::PATCH, format!("/tenants/{tenant}")),
        (Method::POST, format!("/tenants/{tenant}/keys")),
    ];

    for body in malformed_bodies() {
        for (method, path) in &ours {
            assert_refused(world.client(), method, path, &body).await;
        }
        for (method, path) in &admins {
            assert_refused(&world.admin(), method, path, &body).await;
        }
    }

    let event = world.publish("message.sent").await;
    assert_eq!(world.settled(&event).await["status"], "success");
    assert_eq!(hook.requests().len(), 1);
}

fn malformed_bodies() -> Vec<Vec<u8>> {
    let texts = [
        "{",
        "}",
        "[",
        "nul",
        "{]",
        "\"",
        "{\"event\"}",
        "{\"event\":}",
        "{'event': 'x'}",
        "{\"a\":1,}",
        "// no\n{}",
        "{\"event\":\"a.b\",\"data\":{}} trailing",
        "null",
        "true",
        "42",
        "\"text\"",
        "[]",
        "[{}]",
        "[[[[]]]]",
        "{\"event\":\"\\ud800\",\"data\":{}}",
        "{\"event\":\"a\\u0000b\",\"data\":\"\\",
        "{\"event\":1e999999,\"data\":{}}",
        "{\"\":\"\"}",
        "{\"__proto__\":{}}",
        "{\"name\":null,\"url\":null,\"events\":null,\"graceSeconds\":null,\"scopes\":null}",
        "{\"name\":{},\"url\":{},\"events\":{},\"event\":{},\"graceSeconds\":{},\"scopes\":{}}",
        "{\"name\":[],\"url\":[],\"events\":7,\"event\":[],\"graceSeconds\":[],\"scopes\":7}",
        "{\"name\":\"x\",\"name\":\"y\",\"unknown\":1}",
        "{\"graceSeconds\":-1}",
        "{\"graceSeconds\":604801}",
        "{\"graceSeconds\":99999999999999999999}",
        "\u{feff}{}",
        "\u{0}",
    ];
    let mut bodies: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    bodies.push(vec![0xc3, 0x28]);
    bodies.push(b"{\"event\":\"\xff\",\"data\":{}}".to_vec());
    bodies.push("[".repeat(DEEP).into_bytes());
    bodies.push(format!("{{\"event\":\"a.b\",\"data\":{}1{}}}", "[".repeat(DEEP), "]".repeat(DEEP)).into_bytes());
    bodies.push("{\"a\":".repeat(DEEP).into_bytes());
    bodies
}

async fn assert_refused(client: &Client, method: &Method, path: &str, body: &[u8]) {
    let answer = send(client.text(method.clone(), path, body.to_vec())).await;
    let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
    assert!((400..500).contains(&answer.status), "{method} {path} took {shown}: {answer:?}");
    answer.refusal();
}

#[tokio::test]
async fn no_id_makes_the_server_fail() {
    let world = World::start().await;
    let long = "a".repeat(4_000);
    let hostile = [
        "x",
        "wh_",
        "evt_",
        "wh_!",
        "%00",
        "%ff%fe",
        "..%2f..%2fetc",
        "wh_00000000000000000000000000",
        "wh_vvvvvvvvvvvvvvvvvvvvvvvvvv",
        "evt_zzzzzzzzzzzzzzzzzzzzzzzzzz",
        "dlv_' OR 1=1 --",
        "ten_%F0%9F%A6%89",
        "-1",
        "null",
        &long,
    ];
    for id in hostile {
        for route in ["/webhooks/ID", "/webhooks/ID/logs", "/events/ID", "/events/ID/deliveries", "/deliveries/ID"] {
            world.client().get(&route.replace("ID", id)).await.refusal();
        }
        for route in ["/webhooks/ID/test", "/deliveries/ID/retry", "/deliveries/ID/cancel"] {
            world.client().act(&route.replace("ID", id)).await.refusal();
        }
        world.client().delete(&format!("/webhooks/{id}")).await.refusal();
        world.admin().get(&format!("/tenants/{id}")).await.refusal();
        world.admin().delete(&format!("/tenants/{}/keys/{id}", world.tenant.id)).await.refusal();
    }
}

#[tokio::test]
async fn no_header_makes_the_server_fail() {
    let world = World::start().await;
    let wish = json!({"event": "message.sent", "data": {}});
    let long = "k".repeat(5_000);
    let hostile: [(&str, &[u8]); 6] = [
        ("Idempotency-Key", b""),
        ("Idempotency-Key", b"\xff\xfe"),
        ("Idempotency-Key", long.as_bytes()),
        ("Authorization", b"Bearer \xff"),
        ("X-Tenant-Id", b"\xff"),
        ("Content-Encoding", b"gzip"),
    ];

    for (name, value) in hostile {
        let call = world.client().json(Method::POST, "/events", &wish).header(name, value);
        let answer = try_send(call).await.expect("an answer");
        assert!(answer.status < 500, "{name}: {answer:?}");
        if answer.status >= 400 {
            answer.refusal();
        }
    }
    let event = world.publish("message.sent").await;
    assert_eq!(event.matched, 0);
}
