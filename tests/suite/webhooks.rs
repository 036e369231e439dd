//! The life cycle of a webhook: created, read, changed, tested, switched off and on, deleted.

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::send;
use crate::support::databases::on_both;
use crate::support::hook::{plain, quick_retries};
use crate::support::receiver::{Down, Receiver};
use crate::support::world::{World, each_attempt, text};

on_both!(a_webhook_is_answered_with_its_defaults_and_a_secret_that_is_shown_once);
async fn a_webhook_is_answered_with_its_defaults_and_a_secret_that_is_shown_once() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;

    let read = world.client().get(&hook.path("")).await.expect(200);
    let listed = world.client().walk("/webhooks").await;

    let made = &hook.body;
    assert!(hook.id.starts_with("wh_"), "{made}");
    assert_eq!(made["isActive"], true);
    assert_eq!((&made["events"], &made["url"]), (&json!(["*"]), &json!(hook.receiver.url("/hooks"))));
    assert_eq!(made["retryPolicy"]["maxRetries"], 3);
    assert_eq!(made["retryPolicy"]["backoffStrategy"], "exponential");
    assert_eq!(made["retryPolicy"]["maxDelaySeconds"], 86_400);
    assert_eq!((&made["timeoutMs"], &made["maxInFlight"]), (&json!(5_000), &json!(16)));
    assert_eq!(made["signature"], json!({"format": "hex"}));
    assert!(made["createdAt"].is_string() && made["updatedAt"].is_string(), "{made}");
    let secret = hook.secrets()[0].clone();
    let bytes = secret.strip_prefix("whsec_").map(|rest| BASE64_STANDARD.decode(rest).map(|bytes| bytes.len()));
    assert_eq!(bytes, Some(Ok(32)), "{secret}");
    assert!(!read.to_string().contains(&secret) && read["secret"].is_null(), "{read}");
    let mut listed = listed[0].clone();
    for (member, value) in [("state", json!("active")), ("oldestPendingAt", Value::Null), ("trouble", Value::Null)] {
        let shown = listed.as_object_mut().expect("a webhook").remove(member);
        assert_eq!(shown, Some(value), "{member}, which only a list shows");
    }
    assert_eq!(listed, read);
}

on_both!(every_answer_of_a_webhook_has_the_same_fields);
async fn every_answer_of_a_webhook_has_the_same_fields() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let client = world.client();
    let fields = |shown: &Value| -> BTreeSet<String> {
        let names = shown.as_object().expect("a webhook").keys();
        names
            .filter(|name| {
                !["secret", "changed", "state", "why", "oldestPendingAt", "trouble"].contains(&name.as_str())
            })
            .cloned()
            .collect()
    };
    let read = fields(&client.get(&hook.path("")).await.expect(200));

    assert!(["tenantId", "lastError", "secrets"].iter().all(|name| read.contains(*name)), "{read:?}");
    for (what, shown) in [
        ("created", hook.body.clone()),
        ("listed", client.walk("/webhooks").await.remove(0)),
        ("changed", client.patch(&hook.path(""), &json!({"name": "another"})).await.expect(200)),
        ("paused", client.act(&hook.path("/pause")).await.expect(200)),
        ("resumed", client.act(&hook.path("/resume")).await.expect(200)),
        ("rotated", client.act(&hook.path("/secret/rotate")).await.expect(200)),
    ] {
        assert_eq!(fields(&shown), read, "{what}");
    }
}

on_both!(a_patch_changes_what_it_names_and_nothing_else);
async fn a_patch_changes_what_it_names_and_nothing_else() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let elsewhere = Receiver::ok();

    let wish = json!({"url": elsewhere.url("/new"), "events": ["user.*"], "metadata": {"team": "billing"}});
    let patched = world.client().patch(&hook.path(""), &wish).await.expect(200);

    assert_eq!((&patched["url"], &patched["events"]), (&wish["url"], &wish["events"]));
    assert_eq!((&patched["name"], &patched["metadata"]), (&hook.body["name"], &wish["metadata"]));
    assert_eq!(world.client().get(&hook.path("")).await.expect(200), patched);
    assert_eq!(world.publish("message.sent").await.matched, 0);
    let event = world.publish("user.created").await;
    assert_eq!(world.settled(&event).await["status"], "success");
    assert_eq!((elsewhere.saw(1).await[0].path.as_str(), hook.requests().len()), ("/new", 0));
}

on_both!(a_stale_if_match_changes_nothing);
async fn a_stale_if_match_changes_nothing() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let client = world.client();
    let tag = async || client.get(&hook.path("")).await.header("etag").expect("an ETag").to_owned();
    let rename = |name: &str, tag: &str| {
        client.json(Method::PATCH, &hook.path(""), &json!({"name": name})).header("If-Match", tag)
    };
    let first = tag().await;

    let renamed = send(rename("second name", &first)).await;

    assert_eq!(renamed.expect(200)["name"], "second name");
    let second = tag().await;
    assert_ne!(first, second);
    assert_eq!(renamed.header("etag"), Some(second.as_str()));
    send(rename("third name", &first)).await.problem(412);
    send(client.call(Method::DELETE, &hook.path("")).header("If-Match", &first)).await.problem(412);
    assert_eq!(client.get(&hook.path("")).await.expect(200)["name"], "second name");
    send(client.call(Method::DELETE, &hook.path("")).header("If-Match", &second)).await.expect(204);
}

on_both!(a_webhook_that_is_switched_off_gets_nothing_until_it_is_on_again);
/// The control webhook has the same receiver and schedule; its retry proves that the switched-off webhook's was due.
async fn a_webhook_that_is_switched_off_gets_nothing_until_it_is_on_again() {
    let world = World::start().await;
    let policy = json!({"retryPolicy": quick_retries(5)});
    let held = world.hook(Receiver::fails(1).then_accepts(), policy.clone()).await;
    let control = world.hook(Receiver::fails(1).then_accepts(), policy).await;
    let owed = world.publish("message.sent").await;
    held.saw(1).await;
    control.saw(1).await;

    let off = world.client().patch(&held.path(""), &json!({"isActive": false})).await.expect(200);
    let while_off = world.publish("message.sent").await;
    control.saw(3).await;

    assert_eq!((&off["isActive"], while_off.matched), (&json!(false), 1));
    assert_eq!(held.statuses(), [500], "the switched-off webhook got an event or a retry");
    let waiting = world.deliveries_of(&owed.id).await;
    let waiting = waiting.iter().find(|delivery| delivery["webhookId"] == held.id).expect("still owed");
    assert_eq!(waiting["status"], "pending");
    world.client().patch(&held.path(""), &json!({"isActive": true})).await.expect(200);
    world.all_settled(&owed).await;
    assert_eq!(held.statuses(), [500, 200]);
    assert_eq!(held.accepted_events(), [owed.id]);
}

on_both!(webhooks_are_listed_by_whether_they_are_active);
async fn webhooks_are_listed_by_whether_they_are_active() {
    let world = World::start().await;
    let on = world.hook(Receiver::ok(), json!({})).await;
    let off = world.hook(Receiver::ok(), json!({})).await;
    world.client().patch(&off.path(""), &json!({"isActive": false})).await.expect(200);

    let ids = async |filter: &str| {
        let found = world.client().walk(&format!("/webhooks?isActive={filter}")).await;
        found.iter().map(|webhook| text(webhook, "id")).collect::<Vec<_>>()
    };

    assert_eq!(ids("true").await, vec![on.id.clone()]);
    assert_eq!(ids("false").await, vec![off.id.clone()]);
}

on_both!(a_deleted_webhook_is_gone_and_gets_nothing);
async fn a_deleted_webhook_is_gone_and_gets_nothing() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;

    world.client().delete(&hook.path("")).await.expect(204);

    world.client().get(&hook.path("")).await.problem(404);
    world.client().delete(&hook.path("")).await.problem(404);
    assert_eq!(world.client().walk("/webhooks").await, Vec::<Value>::new());
    assert_eq!(world.publish("message.sent").await.matched, 0);
    assert_eq!(hook.requests().len(), 0);
}

on_both!(what_a_deleted_webhook_was_owed_is_not_sent);
async fn what_a_deleted_webhook_was_owed_is_not_sent() {
    let world = World::start().await;
    let policy = json!({"retryPolicy": quick_retries(5)});
    let deleted = world.hook(Receiver::fails(1).then_accepts(), policy.clone()).await;
    let control = world.hook(Receiver::fails(1).then_accepts(), policy).await;
    world.publish("message.sent").await;
    deleted.saw(1).await;
    control.saw(1).await;

    world.client().delete(&deleted.path("")).await.expect(204);
    control.saw(2).await;

    assert_eq!(deleted.statuses(), [500], "the deleted webhook got the retry that was due");
}

on_both!(a_test_event_goes_the_real_way_and_reports_what_happened);
async fn a_test_event_goes_the_real_way_and_reports_what_happened() {
    let world = World::start().await;
    let good = world.hook(Receiver::ok(), json!({"events": ["user.created"]})).await;
    let bad = world.hook(Receiver::status(503), json!({})).await;

    let passed = world.client().act(&good.path("/test")).await.expect(200);
    let failed = world.client().act(&bad.path("/test")).await.expect(200);

    let attempt = &passed["attempt"];
    assert_eq!((&attempt["trigger"], &attempt["outcome"]), (&json!("test"), &json!("success")));
    assert_eq!(attempt["statusCode"], 200);
    assert!(attempt["durationMs"].is_number(), "{passed}");
    assert_eq!(
        (&passed["delivery"]["event"], &passed["delivery"]["status"]),
        (&json!("webhook.test"), &json!("success"))
    );
    assert_eq!((&failed["attempt"]["outcome"], &failed["attempt"]["statusCode"]), (&json!("rejected"), &json!(503)));
    let seen = good.saw(1).await;
    assert_eq!(seen[0].header("x-webhook-event"), "webhook.test");
    assert_eq!(seen[0].json()["event"], "webhook.test");
    assert_eq!(seen[0].header("x-webhook-delivery"), passed["delivery"]["id"]);
    assert_eq!(bad.requests()[0].header("x-webhook-event"), "webhook.test");
}

on_both!(a_test_of_a_receiver_that_is_down_says_so);
async fn a_test_of_a_receiver_that_is_down_says_so() {
    let world = World::start().await;
    let down = Down::new();
    let made = world.client().post("/webhooks", &plain(&down.url("/"), json!({}))).await.expect(201);

    let report = world.client().act(&format!("/webhooks/{}/test", text(&made, "id"))).await.expect(200);

    assert_eq!(report["attempt"]["outcome"], "connect_failed", "{report}");
    assert!(report["attempt"]["statusCode"].is_null(), "{report}");
    assert!(report["attempt"]["error"].as_str().is_some_and(|error| !error.is_empty()), "{report}");
}

on_both!(the_log_is_filtered_by_what_became_of_a_delivery);
async fn the_log_is_filtered_by_what_became_of_a_delivery() {
    let world = World::start().await;
    let receiver = Receiver::fails(2).then_accepts();
    let hook = world.hook(receiver, json!({"events": ["first.*"], "retryPolicy": {"maxRetries": 0}})).await;
    let slow = json!({"events": ["late.*"], "retryPolicy": {"maxRetries": 1, "backoffStrategy": "linear"}});
    let late = world.hook(Receiver::status(500), slow).await;
    let mut events = Vec::new();
    for event in ["first.a", "first.b", "first.c"] {
        let event = world.publish(event).await;
        world.settled(&event).await;
        events.push(event.id);
    }
    let waiting = world.publish("late.one").await;
    let retries = |delivery: &Value| each_attempt(delivery, "outcome") == ["rejected"];
    world.delivery_when(&waiting, "the first attempt is recorded", retries).await;

    let log = async |path: String| {
        let items = world.client().walk(&path).await;
        items.iter().map(|item| text(item, "eventId")).collect::<Vec<_>>()
    };

    let newest_first = [events[2].clone(), events[1].clone(), events[0].clone()];
    assert_eq!(log(hook.path("/logs")).await, newest_first);
    assert_eq!(log(hook.path("/logs?status=failed")).await, newest_first[1..]);
    assert_eq!(log(hook.path("/logs?status=success")).await, newest_first[..1]);
    assert_eq!(log(hook.path("/logs?status=pending")).await, Vec::<String>::new());
    assert_eq!(log(late.path("/logs?status=pending")).await, [waiting.id]);
    world.client().get(&hook.path("/logs?status=sideways")).await.refusal();
}
