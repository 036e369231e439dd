//! Why an event was owed to a webhook or not, and what a publisher is warned of.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::databases::on_both;
use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::world::{Event, World, text};

/// Reason, clause, value and time of the only webhook that is asked about.
async fn why(client: &Client, event: &Event, hook: &Hook) -> [Value; 4] {
    let path = format!("/events/{}/explain?webhookId={}", event.id, hook.id);
    let told = client.get(&path).await.expect(200)["data"][0].clone();
    assert_eq!(told["webhookId"], hook.id);
    assert_eq!(told["matched"] == true, told["delivery"].is_object(), "{told}");
    ["reason", "clause", "was", "config"].map(|member| told[member].clone())
}

on_both!(each_webhook_says_why_it_was_owed_an_event_or_not);
async fn each_webhook_says_why_it_was_owed_an_event_or_not() {
    let world = World::start().await;
    let client = world.client();
    let owed = world.hook(Receiver::ok(), json!({"events": ["call.*"]})).await;
    let held = world.hook(Receiver::ok(), json!({"events": ["*"]})).await;
    client.act(&held.path("/pause")).await.expect(200);
    let other = world.hook(Receiver::ok(), json!({"events": ["bill.paid", "message.*"]})).await;
    let off = world.hook(Receiver::ok(), json!({"events": ["call.*"], "isActive": false})).await;
    let changed = world.hook(Receiver::ok(), json!({"events": ["bill.*"]})).await;
    let event = world.publish("call.ended").await;
    owed.saw(1).await;
    let later = world.hook(Receiver::ok(), json!({"events": ["call.*"]})).await;
    client.patch(&changed.path(""), &json!({"events": ["call.*"]})).await.expect(200);
    let replayed = world.hook(Receiver::ok(), json!({"events": ["call.*"]})).await;
    client.post(&replayed.path("/replay"), &json!({"kind": "owe"})).await.expect(202);
    replayed.saw(1).await;

    let null = Value::Null;
    for hook in [&owed, &held] {
        assert_eq!(why(client, &event, hook).await, [json!("matched"), null.clone(), null.clone(), json!("then")]);
    }
    let subscriptions = json!(["bill.paid", "message.*"]);
    let type_is_not_asked_for = [json!("type"), json!("events"), subscriptions, json!("then")];
    assert_eq!(why(client, &event, &other).await, type_is_not_asked_for);
    assert_eq!(why(client, &event, &off).await, [json!("inactive"), json!("isActive"), json!(false), json!("then")]);
    let created = later.body["createdAt"].clone();
    assert_eq!(why(client, &event, &later).await, [json!("created_later"), json!("createdAt"), created, json!("then")]);
    let [reason, clause, _, config] = why(client, &event, &changed).await;
    assert_eq!([reason, clause, config], [json!("changed_later"), json!("updatedAt"), json!("now")]);
    assert_eq!(why(client, &event, &replayed).await, [json!("owed_later"), null.clone(), null, json!("then")]);

    client.patch(&other.path(""), &json!({"name": "renamed"})).await.expect(200);
    assert_eq!(why(client, &event, &other).await[3], json!("now"), "nobody knows how it was configured then");

    let path = format!("/events/{}/explain", event.id);
    let pages = client.pages(&path, 3).await;
    let ids: Vec<String> = pages.iter().flatten().map(|told| text(told, "webhookId")).collect();
    let newest_first = [&replayed, &later, &changed, &off, &other, &held, &owed].map(|hook| hook.id.clone());
    assert_eq!(ids, newest_first);
    let stranger = world.another_tenant().await;
    stranger.client.get(&path).await.problem(404);
    let theirs = Hook::create(&stranger.client, Receiver::ok(), json!({})).await;
    client.get(&format!("{path}?webhookId={}", theirs.id)).await.problem(404);
}

on_both!(a_test_event_is_for_its_webhook_alone);
async fn a_test_event_is_for_its_webhook_alone() {
    let (world, tested) = World::with_webhook(Receiver::ok()).await;
    let other = world.hook(Receiver::ok(), json!({})).await;
    let answer = world.client().act(&tested.path("/test")).await.expect(200);
    let event = Event { id: text(&answer["delivery"], "eventId"), ..world.publish("a.b").await };
    other.saw(1).await;
    assert_eq!(why(world.client(), &event, &tested).await[0], "matched");
    assert_eq!(why(world.client(), &event, &other).await[0], "test");
}

on_both!(an_event_that_is_not_published_is_explained_by_the_present_configuration);
async fn an_event_that_is_not_published_is_explained_by_the_present_configuration() {
    let world = World::start().await;
    let all = world.hook(Receiver::ok(), json!({"events": ["a", "call.*"]})).await;
    let other = world.hook(Receiver::ok(), json!({"events": ["bill.*"]})).await;
    let reader = world.caller(&["read"]).await;
    let explain = async |query: &str, body: Value| reader.post(&format!("/explain{query}"), &body).await;

    let told = explain("", json!({"event": "call.ended"})).await.expect(200)["data"].clone();
    let expected = |hook: &Hook, matched: bool, reason: &str, was: Value| {
        json!({"webhookId": hook.id, "matched": matched, "reason": reason, "clause": "events", "was": was,
            "config": "now", "delivery": null})
    };
    assert_eq!(
        told,
        json!([expected(&other, false, "type", json!(["bill.*"])), expected(&all, true, "matched", json!(["call.*"]))])
    );
    let one = explain(&format!("?webhookId={}", all.id), json!({"event": "x"})).await.expect(200);
    assert_eq!(one["data"][0]["was"], json!(["a", "call.*"]));
    assert_eq!(explain("", json!({"event": "a..b"})).await.problem(422).pointers(), ["/event"]);
    assert_eq!(explain("", json!({})).await.problem(422).pointers(), ["/event"]);
    let publisher = world.caller(&["publish"]).await;
    publisher.post("/explain", &json!({"event": "a"})).await.problem(403);
    assert_eq!(world.client().walk("/events").await.len(), 0, "nothing was published");
}

fn codes(published: &Value) -> Vec<String> {
    published["warnings"].as_array().into_iter().flatten().map(|warning| text(warning, "code")).collect()
}

on_both!(a_publisher_is_warned_of_a_type_that_nobody_knows_or_wants);
async fn a_publisher_is_warned_of_a_type_that_nobody_knows_or_wants() {
    let world = World::start().await;
    let hook = world.hook(Receiver::ok(), json!({"events": ["call.*"]})).await;
    let publish =
        async |kind: &str| world.client().post("/events", &json!({"event": kind, "data": {}})).await.expect(202);
    let good = publish("call.ended").await;
    assert_eq!(codes(&good), ["undeclared_type"], "the catalogue has no call.ended");
    let good = publish("call.answered").await;
    assert!(good.get("warnings").is_none(), "{good}");
    assert_eq!(codes(&publish("message.sent").await), ["no_subscriber"]);
    let lost = publish("mesage.sent").await;
    assert_eq!(codes(&lost), ["undeclared_type", "no_subscriber"]);
    assert!(text(&lost["warnings"][1], "message").contains("mesage.sent"), "{lost}");

    let events = ["call.answered", "mesage.sent", "not a type"].map(|kind| json!({"event": kind, "data": {}}));
    let batch = world.client().post("/events/batch", &json!({"events": events})).await.expect(202);
    let results = batch["results"].as_array().expect("results");
    assert_eq!(
        results.iter().map(codes).collect::<Vec<_>>(),
        [vec![], vec!["undeclared_type".to_owned(), "no_subscriber".to_owned()], vec![]]
    );
    hook.saw(3).await;

    for declared in world.client().walk("/event-types").await {
        world.client().delete(&format!("/event-types/{}", text(&declared, "name"))).await.succeeded();
    }
    assert_eq!(codes(&publish("no.catalogue").await), ["no_subscriber"], "without a catalogue every type is as good");
}
