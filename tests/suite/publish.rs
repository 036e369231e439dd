//! The promises to a publisher: an accepted event reaches every webhook that it matches, unchanged, and once for each
//! id that the publisher gave it.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::client::{Answer, Client, send, try_send};
use crate::support::databases::on_both;
use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::world::{Event, World, attempts, text};

/// The largest body that is accepted.
const BODY_LIMIT: usize = 1024 * 1024;

on_both!(an_event_is_delivered_signed_and_logged);
async fn an_event_is_delivered_signed_and_logged() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;

    let event = world.publish("conversation.created").await;

    let delivery = world.settled(&event).await;
    assert_eq!(event.matched, 1);
    assert_eq!(hook.saw(1).await.len(), 1, "one request, its signatures verified");
    assert_eq!(delivery["status"], "success");
    assert_eq!((&delivery["eventId"], &delivery["webhookId"]), (&event.id.clone().into(), &hook.id.clone().into()));
    assert_eq!(delivery["event"], "conversation.created");
    assert!(delivery["settledAt"].is_string() && delivery["nextAttemptAt"].is_null(), "{delivery}");
    let [attempt] = attempts(&delivery) else { panic!("one attempt: {delivery}") };
    assert_eq!((&attempt["number"], &attempt["trigger"]), (&json!(1), &json!("scheduled")));
    assert_eq!((&attempt["statusCode"], &attempt["outcome"]), (&json!(200), &json!("success")));
    assert_eq!(attempt["responseBody"], "ok");
    assert!(attempt["durationMs"].is_number() && attempt["startedAt"].is_string(), "{attempt}");
    let log = world.client().walk(&hook.path("/logs")).await;
    assert_eq!(log.iter().map(|item| &item["id"]).collect::<Vec<_>>(), [&delivery["id"]]);
}

on_both!(a_request_says_who_what_and_when_in_its_headers);
async fn a_request_says_who_what_and_when_in_its_headers() {
    let world = World::start().await;
    let hook = world.hook(Receiver::ok(), json!({"headers": {"X-Team": "billing"}})).await;

    let event = world.publish("call.recording.available").await;

    let delivery = world.settled(&event).await;
    let requests = hook.saw(1).await;
    let header = |name| requests[0].header(name);
    assert_eq!(requests[0].path, "/hooks");
    assert_eq!(header("content-type"), "application/json");
    assert!(header("user-agent").starts_with("Posthaste/"), "{}", header("user-agent"));
    assert_eq!(header("x-webhook-event"), "call.recording.available");
    assert_eq!(header("x-webhook-delivery"), text(&delivery, "id"));
    assert_eq!(header("x-webhook-attempt"), "1");
    assert_eq!(header("webhook-id"), event.id);
    assert_eq!(header("x-team"), "billing");
    let age = unix_now().abs_diff(header("webhook-timestamp").parse().expect("seconds"));
    assert!(age < 30, "sent {age} s ago");
}

on_both!(the_body_is_id_event_timestamp_and_the_data_byte_for_byte);
async fn the_body_is_id_event_timestamp_and_the_data_byte_for_byte() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let data = r#"{"zulu":12345678901234567890123,"alpha":[1.10,1e2,-0.0],"emoji":"🦉 \u00e9 \"\\\/","":null,"deep":{"b":{"a":[[],{}]}},"mike":true}"#;

    let wish = format!(r#"{{"event":"message.sent","data":{data}}}"#);
    let event = Event::from(&world.client().post_text("/events", wish).await.expect(202));

    let (id, timestamp) = (&event.id, &event.timestamp);
    let wanted = format!(r#"{{"id":"{id}","event":"message.sent","timestamp":"{timestamp}","data":{data}}}"#);
    assert_eq!(hook.saw(1).await[0].text(), wanted);
    assert!(id.starts_with("evt_"), "{id}");
    assert!(timestamp.len() == "2026-11-23T08:00:00.000Z".len() && timestamp.ends_with('Z'), "{timestamp}");
}

on_both!(awkward_data_survives);
async fn awkward_data_survives() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let samples = [json!({}), json!({"list": []}), json!({"text": "line\nbreak\u{0}\u{2028}"})];
    for data in &samples {
        world.publish_with(&json!({"event": "message.sent", "data": data})).await;
    }

    let seen = hook.saw(samples.len()).await;

    let seen: BTreeSet<String> = seen.iter().map(|request| request.json()["data"].to_string()).collect();
    assert_eq!(seen, samples.iter().map(Value::to_string).collect());
}

on_both!(the_publishers_own_timestamp_is_kept);
async fn the_publishers_own_timestamp_is_kept() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;

    let wish = json!({"event": "message.sent", "data": {}, "timestamp": "2026-01-02T03:04:05.678Z"});
    let event = world.publish_with(&wish).await;

    assert_eq!(event.timestamp, "2026-01-02T03:04:05.678Z");
    assert_eq!(hook.saw(1).await[0].json()["timestamp"], "2026-01-02T03:04:05.678Z");
}

on_both!(an_event_goes_where_its_type_matches_and_nowhere_else);
async fn an_event_goes_where_its_type_matches_and_nowhere_else() {
    let world = World::start().await;
    let exact = world.hook(Receiver::ok(), json!({"events": ["call.ringing", "user.created"]})).await;
    let prefix = world.hook(Receiver::ok(), json!({"events": ["call.*"]})).await;
    let all = world.hook(Receiver::ok(), json!({"events": ["*"]})).await;
    let cases =
        [("call.ringing", 3), ("call.recording.available", 2), ("user.created", 2), ("caller.id", 1), ("call", 1)];

    for (event, matched) in cases {
        let event = world.publish(event).await;
        assert_eq!(event.matched, matched, "{event:?}");
        assert_eq!(world.all_settled(&event).await.len() as u64, matched);
    }

    assert_eq!(types_seen(&exact), BTreeSet::from(["call.ringing", "user.created"].map(String::from)));
    assert_eq!(types_seen(&prefix), BTreeSet::from(["call.ringing", "call.recording.available"].map(String::from)));
    assert_eq!(types_seen(&all).len(), cases.len());
}

on_both!(an_event_that_nobody_wants_is_accepted_and_kept);
async fn an_event_that_nobody_wants_is_accepted_and_kept() {
    let world = World::start().await;
    let hook = world.hook(Receiver::ok(), json!({"events": ["user.created"]})).await;

    let event = world.publish("call.failed").await;

    assert_eq!(event.matched, 0);
    let kept = world.client().get(&format!("/events/{}", event.id)).await.expect(200);
    assert_eq!((&kept["id"], &kept["event"]), (&json!(event.id), &json!("call.failed")));
    assert_eq!(world.deliveries_of(&event.id).await, Vec::<Value>::new());
    assert_eq!(hook.requests().len(), 0);
}

on_both!(each_event_of_a_batch_is_judged_on_its_own);
async fn each_event_of_a_batch_is_judged_on_its_own() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let batch = json!({"events": [
        {"event": "message.sent", "data": {"n": 0}},
        {"event": "", "data": {"n": 1}},
        {"event": "message.sent", "data": {"n": 2}, "id": "twice"},
        {"event": "message.sent", "data": {"n": 3}, "timestamp": "yesterday"},
        {"event": "message.sent", "data": {"n": 2}, "id": "twice"},
        {"event": "message.received", "data": {"n": 5}},
    ]});

    let answer = world.client().post("/events/batch", &batch).await.expect(202);

    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 6, "one result for each event, in order: {answer}");
    for refused in [1, 3] {
        assert!(results[refused]["id"].is_null(), "{answer}");
        assert!(results[refused].to_string().contains(r#""code""#), "the refused event's result has a code: {answer}");
    }
    let accepted = [0, 2, 4, 5].map(|index: usize| Event::from(&results[index]));
    assert_eq!(accepted.clone().map(|event| event.duplicate), [false, false, true, false]);
    assert_eq!(accepted[1].id, accepted[2].id);
    for event in &accepted {
        assert_eq!(world.settled(event).await["status"], "success");
    }
    let numbers: BTreeSet<_> = hook.requests().iter().map(|request| request.json()["data"]["n"].as_u64()).collect();
    assert_eq!(numbers, BTreeSet::from([Some(0), Some(2), Some(5)]));
    assert_eq!(hook.requests().len(), 3);
}

on_both!(a_batch_of_a_thousand_is_accepted_and_one_more_is_not);
async fn a_batch_of_a_thousand_is_accepted_and_one_more_is_not() {
    let world = World::start().await;
    let batch = |size: usize| json!({"events": vec![json!({"event": "message.sent", "data": {}}); size]});

    let full = world.client().post("/events/batch", &batch(1_000)).await.expect(202);

    assert_eq!(full["results"].as_array().map(Vec::len), Some(1_000));
    world.client().post("/events/batch", &batch(1_001)).await.refusal();
    world.client().post("/events/batch", &batch(0)).await.refusal();
}

on_both!(an_id_seen_before_gets_the_first_answer_and_no_second_delivery);
async fn an_id_seen_before_gets_the_first_answer_and_no_second_delivery() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let wish = json!({"event": "message.sent", "data": {"n": 1}, "id": "order-17"});
    let first = world.publish_with(&wish).await;
    world.settled(&first).await;

    let second = world.publish_with(&wish).await;
    let other = json!({"event": "message.sent", "data": {"n": 2}, "id": "order-17"});
    world.client().post("/events", &other).await.problem(409);

    assert_eq!((first.duplicate, second.duplicate), (false, true));
    assert_eq!((&first.id, &first.timestamp, first.matched), (&second.id, &second.timestamp, second.matched));
    let after = world.publish("message.sent").await;
    world.settled(&after).await;
    assert_eq!(hook.accepted_events(), [first.id, after.id]);
}

on_both!(the_same_id_published_at_once_by_many_is_one_event);
async fn the_same_id_published_at_once_by_many_is_one_event() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let wish = json!({"event": "message.sent", "data": {"n": 1}, "id": "one-and-only"});
    let mut publishers = JoinSet::new();
    for _ in 0..20 {
        let call = world.client().json(Method::POST, "/events", &wish);
        publishers.spawn(async { Event::from(&send(call).await.expect(202)) });
    }

    let events = publishers.join_all().await;

    assert_eq!(events.iter().map(|event| &event.id).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(events.iter().filter(|event| !event.duplicate).count(), 1);
    assert_eq!(world.all_settled(&events[0]).await.len(), 1);
    assert_eq!(world.client().walk("/events").await.len(), 1);
    assert_eq!(hook.requests().len(), 1);
}

on_both!(two_tenants_may_use_the_same_id_for_different_events);
async fn two_tenants_may_use_the_same_id_for_different_events() {
    let world = World::start().await;
    let other = world.another_tenant().await;
    let ours = world.hook(Receiver::ok(), json!({})).await;
    let theirs = Hook::create(&other.client, Receiver::ok(), json!({})).await;

    world.publish_with(&json!({"event": "message.sent", "data": {"whose": "ours"}, "id": "same"})).await;
    let wish = json!({"event": "message.sent", "data": {"whose": "theirs"}, "id": "same"});
    let event = Event::from(&other.client.post("/events", &wish).await.expect(202));

    assert!(!event.duplicate);
    assert_eq!(ours.saw(1).await[0].json()["data"]["whose"], "ours");
    assert_eq!(theirs.saw(1).await[0].json()["data"]["whose"], "theirs");
}

on_both!(an_idempotency_key_gets_the_first_answer_again_and_refuses_another_body);
async fn an_idempotency_key_gets_the_first_answer_again_and_refuses_another_body() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let wish = json!({"event": "message.sent", "data": {"n": 1}});

    let first = keyed(world.client(), "/events", "k-1", &wish).await.expect(202);
    let again = keyed(world.client(), "/events", "k-1", &wish).await.expect(202);
    let changed = json!({"event": "message.sent", "data": {"n": 2}});
    let reused = keyed(world.client(), "/events", "k-1", &changed).await.problem(422);

    assert_eq!(first, again);
    assert_eq!(reused.code(), "idempotency_key_reused");
    world.settled(&Event::from(&first)).await;
    assert_eq!(world.client().walk("/events").await.len(), 1);
    assert_eq!(hook.requests().len(), 1);
}

on_both!(an_idempotency_key_makes_one_webhook_out_of_two_tries);
async fn an_idempotency_key_makes_one_webhook_out_of_two_tries() {
    let world = World::start().await;
    let receiver = Receiver::ok();
    let wish = json!({"name": "once", "url": receiver.url("/hooks"), "events": ["*"]});

    let first = keyed(world.client(), "/webhooks", "k-2", &wish).await.expect(201);
    let again = keyed(world.client(), "/webhooks", "k-2", &wish).await.expect(201);

    assert_eq!(first, again, "the repeated answer includes the secret");
    assert_eq!(world.client().walk("/webhooks").await.len(), 1);
}

on_both!(a_body_of_one_mebibyte_is_delivered_and_one_byte_more_is_refused);
async fn a_body_of_one_mebibyte_is_delivered_and_one_byte_more_is_refused() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let frame = r#"{"event":"message.sent","data":{"text":""}}"#.len();
    let body = |size: usize| {
        let text = "x".repeat(size - frame);
        format!(r#"{{"event":"message.sent","data":{{"text":"{text}"}}}}"#)
    };

    let event = Event::from(&world.client().post_text("/events", body(BODY_LIMIT)).await.expect(202));
    let too_large = try_send(world.client().text(Method::POST, "/events", body(BODY_LIMIT + 1))).await;

    too_large.expect("an answer, not a broken connection").problem(413);
    assert_eq!(world.settled(&event).await["status"], "success");
    let data = hook.saw(1).await[0].json()["data"]["text"].as_str().map(str::len);
    assert_eq!(data, Some(BODY_LIMIT - frame));
}

async fn keyed(client: &Client, path: &str, key: &str, body: &Value) -> Answer {
    send(client.json(Method::POST, path, body).header("Idempotency-Key", key)).await
}

fn types_seen(hook: &Hook) -> BTreeSet<String> {
    hook.requests().iter().map(|request| request.header("x-webhook-event").to_owned()).collect()
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

on_both!(an_event_is_found_by_the_id_that_its_publisher_gave_it);
async fn an_event_is_found_by_the_id_that_its_publisher_gave_it() {
    let world = World::start().await;
    let mine = world.publish_with(&json!({"event": "order.paid", "id": "order-17:a", "data": {}})).await;
    world.publish_with(&json!({"event": "order.paid", "id": "order-18", "data": {}})).await;

    let found = async |query: &str| world.client().walk(&format!("/events?{query}")).await;
    let by_id = found("callerId=order-17:a").await;

    assert_eq!((by_id.len(), &by_id[0]["id"], &by_id[0]["callerId"]), (1, &json!(mine.id), &json!("order-17:a")));
    assert_eq!(found("callerId=order-18&event=order.paid").await.len(), 1);
    assert_eq!(found("callerId=order-18&event=order.lost").await.len(), 0);
    assert_eq!(found("callerId=order-19").await.len(), 0);
    let other = world.another_tenant().await;
    assert!(other.client.walk("/events?callerId=order-18").await.is_empty());
}
