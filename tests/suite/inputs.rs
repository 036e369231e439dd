//! Invalid webhooks and events: each is refused with a pointer to the wrong field.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::support::client::send;
use crate::support::hook::plain;
use crate::support::receiver::Receiver;
use crate::support::world::World;

/// A public URL that no test calls.
const PUBLIC: &str = "https://example.com/hooks";

#[tokio::test]
async fn an_impossible_webhook_is_refused_with_a_pointer() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    for (settings, pointer) in impossible_webhooks() {
        let made = world.client().post("/webhooks", &plain(PUBLIC, settings.clone())).await.problem(422);
        assert_points(&made.pointers(), pointer, &settings);
        let patched = world.client().patch(&hook.path(""), &settings).await.problem(422);
        assert_points(&patched.pointers(), pointer, &settings);
    }

    assert_eq!(world.client().walk("/webhooks").await.len(), 1);
    assert_eq!(world.client().get(&hook.path("")).await.expect(200)["updatedAt"], hook.body["updatedAt"]);
}

fn impossible_webhooks() -> Vec<(Value, &'static str)> {
    let mut cases = vec![
        (json!({"name": ""}), "/name"),
        (json!({"name": 5}), "/name"),
        (json!({"url": "not a url"}), "/url"),
        (json!({"url": "ftp://example.com/"}), "/url"),
        (json!({"url": "https://user:secret@example.com/"}), "/url"),
        (json!({"url": "https://localhost/"}), "/url"),
        (json!({"url": ["https://example.com/"]}), "/url"),
        (json!({"events": []}), "/events"),
        (json!({"events": "*"}), "/events"),
        (json!({"events": [""]}), "/events/0"),
        (json!({"events": ["message.sent", "mess*ge.sent"]}), "/events/1"),
        (json!({"retryPolicy": {"maxRetries": 21}}), "/retryPolicy/maxRetries"),
        (json!({"retryPolicy": {"maxRetries": -1}}), "/retryPolicy/maxRetries"),
        (json!({"retryPolicy": {"maxRetries": "3"}}), "/retryPolicy/maxRetries"),
        (json!({"retryPolicy": {"backoffStrategy": "random"}}), "/retryPolicy/backoffStrategy"),
        (json!({"retryPolicy": {"backoffStrategy": "schedule"}}), "/retryPolicy/scheduleSeconds"),
        (
            json!({"retryPolicy": {"backoffStrategy": "schedule", "scheduleSeconds": []}}),
            "/retryPolicy/scheduleSeconds",
        ),
        (json!({"retryPolicy": {"maxDelaySeconds": 0}}), "/retryPolicy/maxDelaySeconds"),
        (json!({"retryPolicy": {"patience": 1}}), "/retryPolicy/patience"),
        (json!({"timeoutMs": 99}), "/timeoutMs"),
        (json!({"timeoutMs": 30_001}), "/timeoutMs"),
        (json!({"maxInFlight": 0}), "/maxInFlight"),
        (json!({"signature": {"format": "md5"}}), "/signature/format"),
        (json!({"headers": {"bad name": "x"}}), "/headers/bad name"),
        (json!({"headers": {"X-Bad": "line\nbreak"}}), "/headers/X-Bad"),
        (json!({"colour": "blue"}), "/colour"),
        (json!({"secret": "whsec_AAAA"}), "/secret"),
    ];
    cases.extend(RESERVED_HEADERS.map(|(name, pointer)| (json!({"headers": {name: "x"}}), pointer)));
    cases
}

const RESERVED_HEADERS: [(&str, &str); 9] = [
    ("X-Webhook-Signature", "/headers/X-Webhook-Signature"),
    ("x-webhook-event", "/headers/x-webhook-event"),
    ("Webhook-Id", "/headers/Webhook-Id"),
    ("webhook-signature", "/headers/webhook-signature"),
    ("Host", "/headers/Host"),
    ("Content-Length", "/headers/Content-Length"),
    ("Transfer-Encoding", "/headers/Transfer-Encoding"),
    ("Proxy-Authorization", "/headers/Proxy-Authorization"),
    ("X-Forwarded-For", "/headers/X-Forwarded-For"),
];

#[tokio::test]
async fn what_a_webhook_must_have_is_asked_for() {
    let world = World::start().await;
    for missing in ["name", "url", "events"] {
        let mut wish = plain(PUBLIC, json!({}));
        wish.as_object_mut().expect("an object").remove(missing);
        let problem = world.client().post("/webhooks", &wish).await.problem(422);
        assert_points(&problem.pointers(), &format!("/{missing}"), &wish);
    }
}

#[tokio::test]
async fn every_fault_of_a_webhook_is_named_at_once() {
    let world = World::start().await;
    let wish = json!({"name": "", "url": "ftp://example.com/", "events": [], "timeoutMs": 1});

    let problem = world.client().post("/webhooks", &wish).await.problem(422);

    for pointer in ["/name", "/url", "/events", "/timeoutMs"] {
        assert_points(&problem.pointers(), pointer, &wish);
    }
}

/// A server with default settings: HTTPS only, and no private addresses.
#[tokio::test]
async fn plain_http_and_private_addresses_are_refused_unless_allowed() {
    let world = World::with(&[("POSTHASTE_ALLOW_HTTP", "false"), ("POSTHASTE_EGRESS_ALLOW", "")]).await;
    world.client().post("/webhooks", &plain(PUBLIC, json!({}))).await.expect(201);
    let refused = [
        "http://example.com/hooks",
        "http://127.0.0.1:9999/",
        "https://127.0.0.1/",
        "https://10.1.2.3/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://168.63.129.16/",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1]/",
        "https://[fd00::1]/",
        "https://2130706433/",
        "https://0x7f.1/",
    ];

    for url in refused {
        let problem = world.client().post("/webhooks", &plain(url, json!({}))).await.problem(422);
        assert_points(&problem.pointers(), "/url", &json!(url));
    }
}

#[tokio::test]
async fn metadata_addresses_stay_refused_even_when_allowed() {
    let world = World::with(&[("POSTHASTE_EGRESS_ALLOW", "0.0.0.0/0")]).await;
    world.client().post("/webhooks", &plain("http://127.0.0.1:9999/", json!({}))).await.expect(201);

    for url in ["http://169.254.169.254/", "https://168.63.129.16/"] {
        let problem = world.client().post("/webhooks", &plain(url, json!({}))).await.problem(422);
        assert_points(&problem.pointers(), "/url", &json!(url));
    }
}

#[tokio::test]
async fn an_impossible_event_is_refused_with_a_pointer() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let cases = [
        (json!({"data": {}}), "/event"),
        (json!({"event": "", "data": {}}), "/event"),
        (json!({"event": 7, "data": {}}), "/event"),
        (json!({"event": "call.*", "data": {}}), "/event"),
        (json!({"event": "line\nbreak", "data": {}}), "/event"),
        (json!({"event": "a".repeat(1_000), "data": {}}), "/event"),
        (json!({"event": "message.sent"}), "/data"),
        (json!({"event": "message.sent", "data": {}, "timestamp": "yesterday"}), "/timestamp"),
        (json!({"event": "message.sent", "data": {}, "id": ""}), "/id"),
        (json!({"event": "message.sent", "data": {}, "id": "with.dot"}), "/id"),
        (json!({"event": "message.sent", "data": {}, "id": "x".repeat(10_000)}), "/id"),
        (json!({"event": "message.sent", "data": {}, "priority": 1}), "/priority"),
    ];

    for (wish, pointer) in &cases {
        let problem = world.client().post("/events", wish).await.problem(422);
        assert_points(&problem.pointers(), pointer, wish);
    }

    assert_eq!(world.client().walk("/events").await, Vec::<Value>::new());
    assert_eq!(hook.requests().len(), 0);
}

#[tokio::test]
async fn a_call_that_is_not_json_or_not_a_route_is_a_problem_too() {
    let world = World::start().await;
    let client = world.client();
    let good = json!({"event": "message.sent", "data": {}}).to_string();

    let plain_text = client.call(Method::POST, "/events").header(CONTENT_TYPE, "text/plain").body(good.clone());
    send(plain_text).await.problem(415);
    let call = || client.call(Method::POST, "/events").body(good.clone());
    send(call()).await.problem(415);
    let latin = send(call().header(CONTENT_TYPE, "application/json; charset=latin1")).await.problem(415);
    assert!(latin.detail().contains("UTF-8"), "{latin:?}");
    send(call().header(CONTENT_TYPE, "application/json; charset=\"UTF-8\"")).await.expect(202);
    client.post_text("/events", "{\"event\": ").await.problem(400);
    client.post_text("/events", "").await.problem(400);
    client.post_text("/webhooks", vec![0xff, 0xfe, b'{']).await.problem(400);
    let wrong_verb = send(client.call(Method::PUT, "/webhooks")).await;
    wrong_verb.problem(405);
    assert!(wrong_verb.header("allow").is_some_and(|verbs| verbs.contains("POST")), "{wrong_verb:?}");
    client.get("/nowhere").await.problem(404);
    send(client.root(Method::GET, "/nowhere/at/all")).await.problem(404);
}

#[tokio::test]
async fn an_id_of_the_wrong_kind_is_named() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let event = world.publish("message.sent").await;

    let given = world.client().get(&format!("/webhooks/{}", event.id)).await.problem(400);

    assert!(given.detail().contains("evt") || given.detail().contains("event"), "{given:?}");
    world.client().get(&format!("/events/{}", hook.id)).await.problem(400);
    world.client().get(&format!("/deliveries/{}", hook.id)).await.problem(400);
    world.client().get(&format!("/deliveries?webhookId={}", event.id)).await.problem(400);
    world.admin().get(&format!("/tenants/{}", hook.id)).await.problem(400);
}

fn assert_points(pointers: &[String], wanted: &str, wish: &Value) {
    let found = pointers.iter().any(|pointer| pointer == wanted);
    assert!(found, "{pointers:?} should hold {wanted:?} for {wish}");
}
