//! Suspension of a webhook whose receiver is gone, and the operational events that tell of it and of other changes.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::world::{World, attempts, text};

async fn backlog_when(world: &World, hook: &Hook, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    fact::until(what, async || {
        let backlog = world.client().get(&hook.path("/backlog")).await.expect(200);
        is_so(&backlog).then_some(backlog)
    })
    .await
}

/// The types and data of the events that a receiver has got, in the order of their sequence.
fn heard(hook: &Hook) -> Vec<(String, Value)> {
    let mut events: Vec<Value> = hook.requests().iter().map(|request| request.json()).collect();
    events.sort_by_key(|event| event["data"]["sequence"].as_i64());
    events.dedup_by_key(|event| event["data"]["sequence"].as_i64());
    events.into_iter().map(|event| (text(&event, "event"), event["data"].clone())).collect()
}

on_both!(a_receiver_that_is_gone_is_left_alone_and_loses_nothing);
async fn a_receiver_that_is_gone_is_left_alone_and_loses_nothing() {
    let mut world = World::start().await;
    let (receiver, answer) = Receiver::told(410);
    let hook = world.hook(receiver, json!({"events": ["message.*"]})).await;
    let told = world.hook(Receiver::ok(), json!({"events": ["webhook.*"]})).await;
    let all = world.hook(Receiver::ok(), json!({"events": ["*"]})).await;

    let first = world.publish("message.sent").await;
    let delivery = fact::until("the delivery has failed", async || {
        let found = world.deliveries_of(&first.id).await;
        found.into_iter().find(|delivery| delivery["status"] == "failed")
    })
    .await;
    assert_eq!(attempts(&world.delivery(&text(&delivery, "id")).await)[0]["outcome"], "gone");
    let backlog = backlog_when(&world, &hook, "it is suspended", |backlog| backlog["state"] == "suspended").await;
    let why = text(&backlog, "why");
    assert!(why.contains("410 Gone") && why.contains("stay owed") && why.contains("probe it"), "{why}");
    assert_eq!(world.client().get(&hook.path("")).await.expect(200)["isActive"], true);

    for _ in 0..3 {
        assert_eq!(world.publish("message.sent").await.matched, 2, "it is owed what it subscribes to");
    }
    world.stop().await;
    world.restart().await;
    let backlog = backlog_when(&world, &hook, "three wait", |backlog| backlog["pending"] == 3).await;
    assert_eq!((&backlog["state"], &backlog["held"]), (&json!("suspended"), &json!(3)), "{backlog}");
    assert_eq!(hook.statuses(), [410], "asked once, and never again");

    world.client().act(&hook.path("/probe")).await.succeeded();
    fact::until("the probe is answered", async || (hook.statuses().len() == 2).then_some(())).await;
    backlog_when(&world, &hook, "it stays suspended", |backlog| {
        backlog["state"] == "suspended" && backlog["pending"] == 3
    })
    .await;
    answer.store(200, Ordering::Relaxed);
    world.client().act(&hook.path("/probe")).await.succeeded();
    backlog_when(&world, &hook, "all is sent", |backlog| backlog["pending"] == 0 && backlog["state"] == "active").await;
    assert_eq!(hook.statuses()[2..], [200, 200, 200]);

    fact::until("both events are told", async || (heard(&told).len() == 2).then_some(())).await;
    let [suspended, recovered] = &heard(&told)[..] else { panic!("two events") };
    let changed = |event: &(String, Value)| {
        let (kind, data) = event;
        (kind.clone(), text(data, "previous"), text(data, "current"), text(data, "webhookId"))
    };
    let [gone, back] = [("suspended", "active", "suspended"), ("recovered", "suspended", "active")]
        .map(|(kind, from, to)| (format!("webhook.{kind}"), from.to_owned(), to.to_owned(), hook.id.clone()));
    assert_eq!((changed(suspended), changed(recovered)), (gone, back));
    assert!(text(&suspended.1, "reason").contains("410"), "{suspended:?}");
    assert_eq!(suspended.1["path"], format!("/api/v1/webhooks/{}", hook.id));
    let kinds: Vec<String> = heard(&all).into_iter().map(|(kind, _)| kind).collect();
    assert!(kinds.iter().all(|kind| kind == "message.sent"), "a catch-all gets no operational events: {kinds:?}");
    let forged = json!({"event": "webhook.recovered", "data": {}});
    world.client().post("/events", &forged).await.problem(422);
    world.stop().await;
    world.check_integrity().await;
}

on_both!(a_tenant_that_subscribes_hears_of_each_change_once);
async fn a_tenant_that_subscribes_hears_of_each_change_once() {
    let world = World::start().await;
    let policy = json!({"events": ["message.*"], "retryPolicy": {"maxRetries": 0}});
    let hook = world.hook(Receiver::status(500), policy).await;
    let kinds = ["webhook.paused", "webhook.resumed", "secret.rotated", "delivery.failed", "operation.finished"];
    let told = world.hook(Receiver::ok(), json!({"events": kinds})).await;

    let pause = json!({"reason": "they asked"});
    world.client().post(&hook.path("/pause"), &pause).await.expect(200);
    world.client().act(&hook.path("/pause")).await.expect(200);
    world.client().act(&hook.path("/resume")).await.expect(200);
    let other = world.hook(Receiver::ok(), json!({"events": ["other.*"]})).await;
    world.client().act(&other.path("/secret/rotate")).await.expect(200);
    let event = world.publish("message.sent").await;
    world.settled(&event).await;
    let purge = world.client().post("/operations", &json!({"kind": "purge"})).await.expect(202);

    fact::until("all are told", async || (heard(&told).len() == kinds.len()).then_some(())).await;
    let told = heard(&told);
    let of = |kind: &str| told.iter().find(|(of, _)| of == kind).map(|(_, data)| data).unwrap_or(&Value::Null);
    assert_eq!(
        (&of("webhook.paused")["reason"], &of("webhook.paused")["current"]),
        (&json!("they asked"), &json!("paused"))
    );
    assert_eq!(of("webhook.resumed")["previous"], "paused");
    assert_eq!(of("secret.rotated")["webhookId"], json!(other.id));
    let failed = of("delivery.failed");
    assert_eq!((&failed["eventId"], &failed["statusCode"]), (&json!(event.id), &json!(500)), "{failed}");
    assert_eq!(of("operation.finished")["operationId"], purge["id"]);
    assert_eq!(of("operation.finished")["current"], "done");
    let stored = world.client().walk("/events?event=webhook.paused").await;
    assert_eq!(stored.len(), 1, "once for the change, not for the call that changed nothing");
}

on_both!(what_nobody_subscribes_to_leaves_no_event);
async fn what_nobody_subscribes_to_leaves_no_event() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    world.client().act(&hook.path("/pause")).await.expect(200);
    world.client().act(&hook.path("/resume")).await.expect(200);
    let told = world.hook(Receiver::ok(), json!({"events": ["webhook.paused"]})).await;
    world.client().act(&hook.path("/pause")).await.expect(200);
    told.saw(1).await;
    let kinds: Vec<String> = world.client().walk("/events").await.iter().map(|event| text(event, "event")).collect();
    assert!(kinds.iter().filter(|kind| *kind == "webhook.resumed").count() == 0, "{kinds:?}");
}
