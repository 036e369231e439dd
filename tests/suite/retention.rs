//! Retention: what is settled is deleted when it is old, what is owed stays, whenever the process dies.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::send;
use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::receiver::Receiver;
use crate::support::world::{World, text};

/// The shortest retention that the server accepts, and time for the passes after it.
const KEPT: &str = "10s";
const GONE: Duration = Duration::from_secs(60);

/// More webhooks than deliveries that are deleted at once at first, so that an event to all of them goes in parts.
const LARGE: usize = 70;

const SETTINGS: [(&str, &str); 1] = [("POSTHASTE_RETENTION_EVENTS", KEPT)];

async fn is_gone(world: &World, path: &str) {
    fact::until_within(GONE, &format!("{path} is gone"), async || {
        (world.client().get(path).await.status == 404).then_some(())
    })
    .await;
}

/// Waits until so many rows were deleted from a table since the server's start: the page may be a second old.
async fn has_deleted(world: &World, table: &str, rows: u64) {
    fact::until_within(GONE, &format!("{rows} rows of {table} are deleted"), async || {
        (deleted(world, table).await == rows).then_some(())
    })
    .await;
}

async fn deleted(world: &World, table: &str) -> u64 {
    let page = send(world.admin().root(Method::GET, "/metrics")).await.text;
    let line = format!("posthaste_retention_deleted_total{{table=\"{table}\"}} ");
    let count = page.lines().find_map(|found| found.strip_prefix(&line)).unwrap_or_else(|| panic!("{line} in {page}"));
    count.parse().expect("a number")
}

on_both!(settled_events_are_deleted_by_age_and_owed_ones_are_not);
/// What was owed is deleted once it is settled: the sweep looks back.
async fn settled_events_are_deleted_by_age_and_owed_ones_are_not() {
    let mut world = World::with(&SETTINGS).await;
    let hook = world.hook(Receiver::ok(), json!({"events": ["a.*"]})).await;
    let paused = world.hook(Receiver::ok(), json!({"events": ["b.*"]})).await;
    world.client().act(&paused.path("/pause")).await.succeeded();
    let wish = json!({"event": "a.one", "data": {}, "id": "order-1"});
    let settled = world.publish_with(&wish).await;
    let owed = world.publish("b.one").await;
    let unmatched = world.publish("c.one").await;
    let delivery = text(&world.settled(&settled).await, "id");
    let newest = world.publish("c.two").await;

    let events = [&settled, &unmatched].map(|event| format!("/events/{}", event.id));
    for path in events.iter().chain([&format!("/deliveries/{delivery}")]) {
        is_gone(&world, path).await;
    }
    let retried = world.client().act(&format!("/deliveries/{delivery}/retry")).await;
    assert_eq!(retried.status, 404, "{}", retried.text);
    assert_eq!(world.client().walk(&hook.path("/logs")).await, Vec::<Value>::new());
    let left = world.client().walk("/events").await;
    let left: Vec<String> = left.iter().map(|event| text(event, "id")).collect();
    assert_eq!(left, [newest.id.clone(), owed.id.clone()], "what is owed, and the newest event");
    has_deleted(&world, "event", 2).await;
    has_deleted(&world, "delivery", 1).await;
    has_deleted(&world, "attempt", 1).await;
    let again = world.publish_with(&wish).await;
    assert!(!again.duplicate && again.id != settled.id, "the id of a deleted event is free again");

    world.client().act(&paused.path("/resume")).await.succeeded();
    paused.saw(1).await;
    hook.saw(2).await;
    is_gone(&world, &format!("/events/{}", owed.id)).await;
    world.stop().await;
    world.check_integrity().await;
}

on_both!(a_process_that_dies_within_a_large_event_leaves_the_rest_to_the_next);
async fn a_process_that_dies_within_a_large_event_leaves_the_rest_to_the_next() {
    let mut world = World::with(&SETTINGS).await;
    let receiver = Receiver::ok();
    for _ in 0..LARGE {
        let wish = json!({"name": "one of many", "url": receiver.url("/hooks"), "events": ["*"]});
        world.client().post("/webhooks", &wish).await.expect(201);
    }
    let event = world.publish("message.sent").await;
    assert_eq!(event.matched, LARGE as u64);
    let deliveries = world.all_settled(&event).await;
    world.publish("message.sent").await;
    world.stop().await;
    // The event itself, and the first part of its deliveries.
    world.env().insert("POSTHASTE_FAULT", "abort:retention.after_deletion:2".to_owned());
    world.restart().await;
    world.ended().await;

    world.env().remove("POSTHASTE_FAULT");
    world.restart().await;
    let first = text(&deliveries[0], "id");
    for path in [format!("/events/{}", event.id), format!("/deliveries/{first}")] {
        assert_eq!(world.client().get(&path).await.status, 404, "{path}");
    }
    has_deleted(&world, "delivery", (LARGE - 64) as u64).await;
    world.stop().await;
    world.check_integrity().await;
}

on_both!(answers_are_cleared_and_their_events_stay);
async fn answers_are_cleared_and_their_events_stay() {
    let off = [("POSTHASTE_RETENTION_EVENTS", "off"), ("POSTHASTE_RETENTION_RESPONSES", KEPT)];
    let world = World::with(&off).await;
    let hook = world.hook(Receiver::ok(), json!({})).await;
    let event = world.publish("message.sent").await;
    let delivery = text(&world.settled(&event).await, "id");
    hook.saw(1).await;
    fact::until_within(GONE, "the answer is cleared", async || (deleted(&world, "response").await > 0).then_some(()))
        .await;
    let attempt = world.delivery(&delivery).await["attempts"][0].clone();
    assert_eq!((&attempt["statusCode"], &attempt["responseBody"]), (&json!(200), &json!("")), "{attempt}");
    assert!(attempt["request"].is_null(), "{attempt}");
    assert_eq!(deleted(&world, "event").await, 0);
}

on_both!(a_tenant_may_keep_events_for_longer_than_the_engine_does);
async fn a_tenant_may_keep_events_for_longer_than_the_engine_does() {
    let world = World::with(&SETTINGS).await;
    let (admin, path) = (world.admin(), format!("/tenants/{}", world.tenant.id));
    let tenant = admin.get(&path).await.expect(200);
    assert_eq!(tenant["retention"], json!({"eventsSeconds": null, "responsesSeconds": null}));
    for (wrong, pointer) in [
        (json!({"retention": {"eventsSeconds": 3599}}), "/retention/eventsSeconds"),
        (json!({"retention": {"responsesSeconds": 315_360_001}}), "/retention/responsesSeconds"),
        (json!({"retention": {"auditSeconds": 3600}}), "/retention/auditSeconds"),
    ] {
        assert_eq!(admin.patch(&path, &wrong).await.problem(422).pointers(), [pointer], "{wrong}");
    }
    let keeping = admin.patch(&path, &json!({"retention": {"eventsSeconds": 3600, "responsesSeconds": 7200}})).await;
    let changed = json!({"eventsSeconds": 3600, "responsesSeconds": 7200});
    assert_eq!(keeping.expect(200)["retention"], changed);
    let keeping = admin.patch(&path, &json!({"retention": {"responsesSeconds": null}})).await;
    assert_eq!(keeping.expect(200)["retention"], json!({"eventsSeconds": 3600, "responsesSeconds": null}));
    let audit = admin.get("/audit?action=tenant.update").await.expect(200);
    assert_eq!(audit["data"][0]["fields"], json!(["retention.responsesSeconds"]), "{audit}");

    let kept = world.publish("message.sent").await;
    let other = world.another_tenant().await;
    let wish = json!({"event": "message.sent", "data": {}});
    let gone = text(&other.client.post("/events", &wish).await.expect(202), "id");
    other.client.post("/events", &wish).await.expect(202);
    fact::until_within(GONE, "the other tenant's event is gone", async || {
        (other.client.get(&format!("/events/{gone}")).await.status == 404).then_some(())
    })
    .await;
    world.client().get(&format!("/events/{}", kept.id)).await.expect(200);
    has_deleted(&world, "event", 1).await;
    admin.patch(&path, &json!({"retention": null})).await.expect(200);
    let tenant = admin.get(&path).await.expect(200);
    assert_eq!(tenant["retention"], json!({"eventsSeconds": null, "responsesSeconds": null}));
}

on_both!(an_erased_payload_is_gone_and_its_event_stays);
async fn an_erased_payload_is_gone_and_its_event_stays() {
    let (mut world, hook) = World::with_webhook(Receiver::says_at_length(100)).await;
    world.client().act(&hook.path("/pause")).await.succeeded();
    let event = world.publish_with(&json!({"event": "a.one", "data": {"name": "Ada"}, "id": "order-1"})).await;
    let (path, payload) = (format!("/events/{}", event.id), format!("/events/{}/payload", event.id));
    let refused = world.client().delete(&payload).await.problem(409);
    assert_eq!(refused.code(), "event_owed");
    world.client().act(&hook.path("/resume")).await.succeeded();
    let delivery = text(&world.settled(&event).await, "id");

    let reader = world.caller(&["read", "publish", "operate"]).await;
    reader.delete(&payload).await.problem(403);
    world.client().delete(&payload).await.expect(204);
    world.client().delete(&payload).await.expect(204);
    let erased = world.client().get(&path).await.expect(200);
    assert_eq!((&erased["data"], &erased["callerId"]), (&Value::Null, &json!("order-1")), "{erased}");
    assert!(erased["erasedAt"].is_string() && erased["progress"]["success"] == 1, "{erased}");
    let attempt = world.delivery(&delivery).await["attempts"][0].clone();
    assert_eq!((&attempt["statusCode"], &attempt["responseBody"]), (&json!(200), &json!("")), "{attempt}");
    assert!(attempt["request"].is_null(), "{attempt}");
    let retried = world.client().act(&format!("/deliveries/{delivery}/retry")).await.problem(409);
    assert_eq!(retried.code(), "payload_erased");
    let audit = world.client().get("/audit?action=event.erase_payload").await.expect(200);
    assert_eq!(audit["data"].as_array().map(Vec::len), Some(1), "{audit}");
    assert_eq!(audit["data"][0]["subject"], json!(event.id));
    world.stop().await;
    world.check_integrity().await;
}
