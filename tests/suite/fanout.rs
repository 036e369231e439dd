//! Fan-out: one event reaches many webhooks, and its progress is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::hook::plain;
use crate::support::receiver::Receiver;
use crate::support::verify::{self, Format};
use crate::support::world::{Event, World, text};

const WEBHOOKS: usize = 300;

/// Shorter than the timeout of the receiver that never answers.
const PATIENCE: Duration = Duration::from_secs(20);

on_both!(an_event_for_three_hundred_webhooks_reaches_each_exactly_once);
async fn an_event_for_three_hundred_webhooks_reaches_each_exactly_once() {
    let world = World::start().await;
    let receiver = Receiver::ok();
    let create = async |n: usize| {
        let path = format!("/hooks/{n}");
        let wish = plain(&receiver.url(&path), json!({}));
        (path, text(&world.client().post("/webhooks", &wish).await.expect(201), "secret"))
    };
    let secrets = stream::iter(0..WEBHOOKS).map(create).buffer_unordered(8);
    let secrets: BTreeMap<String, String> = secrets.collect().await;

    let event = world.publish("message.sent").await;

    assert_eq!(event.matched, WEBHOOKS as u64);
    let deliveries = world.all_settled(&event).await;
    assert!(deliveries.iter().all(|delivery| delivery["status"] == "success"));
    let requests = receiver.requests();
    let mut paths: Vec<&String> = requests.iter().map(|request| &request.path).collect();
    paths.sort();
    assert_eq!(paths, secrets.keys().collect::<Vec<_>>(), "each path once");
    for request in &requests {
        let secret = [secrets[&request.path].clone()];
        assert_eq!(verify::signatures(request, &secret, Format::Hex), Ok(()));
    }
    assert_eq!(receiver.accepted(), WEBHOOKS);
}

on_both!(an_event_says_how_far_its_fan_out_has_come);
/// One delivery of each kind: one whose receiver has not answered has no row, one of a paused webhook has one.
async fn an_event_says_how_far_its_fan_out_has_come() {
    let world = World::start().await;
    let _good = world.hook(Receiver::ok(), json!({})).await;
    let _bad = world.hook(Receiver::status(500), json!({"retryPolicy": {"maxRetries": 0}})).await;
    let _slow = world.hook(Receiver::hangs(), json!({"timeoutMs": 30_000})).await;
    let held = world.hook(Receiver::ok(), json!({})).await;
    world.client().act(&held.path("/pause")).await.expect(200);

    let event = world.publish("message.sent").await;

    let wanted = json!({"matched": 4, "owed": 1, "pending": 1, "success": 1, "failed": 1, "cancelled": 0});
    progress_when(&world, &event, "three deliveries are recorded", &wanted).await;
    world.client().act(&held.path("/purge")).await.expect(200);
    let wanted = json!({"matched": 4, "owed": 1, "pending": 0, "success": 1, "failed": 1, "cancelled": 1});
    progress_when(&world, &event, "the held delivery is cancelled", &wanted).await;
    let listed = &world.client().walk("/events").await[0];
    assert_eq!((&listed["matched"], &listed["progress"]), (&json!(4), &Value::Null), "lists do not count");
}

on_both!(what_deleted_webhooks_were_owed_ends_as_cancelled);
async fn what_deleted_webhooks_were_owed_ends_as_cancelled() {
    let world = World::start().await;
    let _good = world.hook(Receiver::ok(), json!({})).await;
    let doomed = world.hook(Receiver::ok(), json!({})).await;
    world.client().act(&doomed.path("/pause")).await.expect(200);
    let event = world.publish("message.sent").await;

    world.client().delete(&doomed.path("")).await.succeeded();

    let wanted = json!({"matched": 2, "owed": 0, "pending": 0, "success": 1, "failed": 0, "cancelled": 1});
    progress_when(&world, &event, "all deliveries have ended", &wanted).await;
}

/// Waits until the progress of an event equals `wanted`. At every look the counts must add up.
async fn progress_when(world: &World, event: &Event, what: &str, wanted: &Value) {
    fact::until_within(PATIENCE, what, async || {
        let progress = world.client().get(&format!("/events/{}", event.id)).await.expect(200)["progress"].take();
        let parts = ["owed", "pending", "success", "failed", "cancelled"].map(|part| progress[part].as_u64());
        assert_eq!(parts.into_iter().sum::<Option<u64>>(), Some(event.matched), "{progress}");
        (progress == *wanted).then_some(())
    })
    .await;
}
