//! Bad receivers and what the engine does about them: too slow, gone, moved, unreachable. One bad receiver does not
//! affect the others.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::hook::Hook;
use crate::support::receiver::{Down, Receiver, Reply};
use crate::support::world::{World, attempts, each_attempt, text};

/// The default timeout, and the precision with which it must be kept.
const TIME_LIMIT: Duration = Duration::from_secs(5);
const TOLERANCE: Duration = Duration::from_millis(500);

/// Deliveries that must reach a healthy receiver while another one hangs.
const UNAFFECTED: usize = 20;

#[tokio::test]
async fn a_hanging_receiver_is_cut_off_in_time_and_costs_nobody_else_anything() {
    let world = World::start().await;
    let silent = once(&world, Receiver::hangs(), json!({"events": ["bad.one"]})).await;
    let dribbling = once(&world, Receiver::dribbles_body(), json!({"events": ["bad.one"]})).await;
    let healthy = once(&world, Receiver::ok(), json!({"events": ["good.one"]})).await;
    let bad = world.publish("bad.one").await;
    silent.receiver.was_asked(1).await;
    dribbling.receiver.was_asked(1).await;

    for _ in 0..UNAFFECTED {
        world.publish("good.one").await;
    }

    let served = healthy.saw(UNAFFECTED).await;
    assert_eq!(served.len(), UNAFFECTED);
    let cut = [&silent, &dribbling].map(|hook| hook.requests()[0].cut);
    assert_eq!(cut, [None, None], "the healthy receiver had to wait for the hanging ones");
    for hook in [&silent, &dribbling] {
        let seen = hook.saw(1).await;
        let held = seen[0].cut.expect("cut off") - seen[0].arrived;
        assert!((TIME_LIMIT - TOLERANCE..=TIME_LIMIT + TOLERANCE).contains(&held), "held for {held:?}");
    }
    for delivery in world.all_settled(&bad).await {
        let delivery = world.delivery(&text(&delivery, "id")).await;
        let took = attempts(&delivery)[0]["durationMs"].as_u64().expect("a duration");
        assert!((4_500..=5_500).contains(&took), "{delivery}");
        if delivery["webhookId"] == silent.id {
            assert_eq!(attempts(&delivery)[0]["outcome"], "timed_out", "{delivery}");
        }
    }
}

#[tokio::test]
async fn a_webhook_may_have_a_time_limit_of_its_own() {
    let world = World::start().await;
    let hook = once(&world, Receiver::hangs(), json!({"timeoutMs": 300})).await;

    let event = world.publish("message.sent").await;

    let delivery = world.settled(&event).await;
    assert_eq!(attempts(&delivery)[0]["outcome"], "timed_out");
    let seen = hook.saw(1).await;
    let held = seen[0].cut.expect("cut off") - seen[0].arrived;
    assert!((Duration::from_millis(200)..Duration::from_millis(800)).contains(&held), "held for {held:?}");
}

/// The 410 comes from a URL that the webhook no longer has.
#[tokio::test]
async fn a_webhook_that_has_moved_on_is_not_switched_off_by_its_old_receiver() {
    let world = World::start().await;
    let hook = world.hook(Receiver::says(|_| Reply::After(Duration::from_secs(1), 410)), json!({})).await;
    let successor = Receiver::ok();
    let event = world.publish("message.sent").await;
    hook.receiver.was_asked(1).await;

    world.client().patch(&hook.path(""), &json!({"url": successor.url("/moved")})).await.expect(200);

    let delivery = world.settled(&event).await;
    assert_eq!(each_attempt(&delivery, "outcome"), ["gone", "success"]);
    assert_eq!(world.client().get(&hook.path("")).await.expect(200)["isActive"], true);
    assert_eq!(successor.requests().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_a_refusal_and_is_not_followed() {
    let world = World::start().await;
    let canary = Receiver::ok();
    let mut hooks = Vec::new();
    for status in [301, 302, 303, 307, 308] {
        hooks.push(once(&world, Receiver::redirects_to(status, canary.url("/elsewhere")), json!({})).await);
    }

    let event = world.publish("message.sent").await;

    for delivery in world.all_settled(&event).await {
        let delivery = world.delivery(&text(&delivery, "id")).await;
        assert_eq!(delivery["status"], "failed", "{delivery}");
        assert_eq!(attempts(&delivery)[0]["outcome"], "rejected", "{delivery}");
    }
    assert!(hooks.iter().all(|hook| hook.requests().len() == 1));
    assert_eq!(canary.requests().len(), 0);
}

#[tokio::test]
async fn any_2xx_is_success_and_nothing_else_is() {
    let world = World::start().await;
    let mut hooks = Vec::new();
    for status in [200, 201, 202, 204, 299, 304, 400, 404, 500, 599] {
        hooks.push((status, once(&world, Receiver::status(status), json!({})).await));
    }

    let event = world.publish("message.sent").await;

    let deliveries = world.all_settled(&event).await;
    for (status, hook) in &hooks {
        let delivery = of(&deliveries, hook);
        let wanted = if (200..300).contains(status) { "success" } else { "failed" };
        assert_eq!(delivery["status"], wanted, "{status}: {delivery}");
        assert_eq!(delivery["lastAttempt"]["statusCode"], *status, "{delivery}");
    }
}

#[tokio::test]
async fn the_log_says_why_an_attempt_failed() {
    let world = World::start().await;
    let nobody = Down::new();
    let nowhere = json!({"name": "down", "url": nobody.url("/"), "events": ["*"], "retryPolicy": {"maxRetries": 0}});
    let refused = text(&world.client().post("/webhooks", &nowhere).await.expect(201), "id");
    let closing = once(&world, Receiver::closes(), json!({})).await;
    let busy = once(&world, Receiver::retry_after("1"), json!({})).await;

    let event = world.publish("message.sent").await;

    let deliveries = world.all_settled(&event).await;
    let outcome_of = |id: &str| {
        let delivery = deliveries.iter().find(|delivery| delivery["webhookId"] == id).expect("a delivery");
        text(&delivery["lastAttempt"], "outcome")
    };
    assert_eq!(outcome_of(&refused), "connect_failed");
    assert_eq!(outcome_of(&closing.id), "protocol_error");
    assert_eq!(outcome_of(&busy.id), "throttled");
    let log = world.client().walk(&format!("/webhooks/{refused}/logs")).await;
    assert!(log[0]["lastAttempt"]["error"].as_str().is_some_and(|error| !error.is_empty()), "{log:?}");
}

#[tokio::test]
async fn a_long_answer_is_kept_only_in_part() {
    let world = World::start().await;
    let hook = once(&world, Receiver::says_at_length(200_000), json!({})).await;

    let event = world.publish("message.sent").await;

    let delivery = world.settled(&event).await;
    assert_eq!(delivery["status"], "success");
    let kept = text(&attempts(&delivery)[0], "responseBody").len();
    assert!((1..=64 * 1024).contains(&kept), "{kept} bytes kept");
    assert_eq!(hook.requests().len(), 1);
}

/// Creates a webhook that makes one attempt for each event.
async fn once(world: &World, receiver: Receiver, mut settings: Value) -> Hook {
    settings["retryPolicy"] = json!({"maxRetries": 0});
    world.hook(receiver, settings).await
}

fn of<'a>(deliveries: &'a [Value], hook: &Hook) -> &'a Value {
    deliveries.iter().find(|delivery| delivery["webhookId"] == hook.id).expect("a delivery to this webhook")
}
