//! What a person can do with a delivery: read it, retry it, cancel it.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::support::databases::on_both;
use crate::support::hook::quick_retries;
use crate::support::receiver::{Receiver, Reply};
use crate::support::world::{World, attempts, each_attempt, text};

on_both!(a_failed_delivery_is_sent_again_by_hand_and_keeps_its_history);
async fn a_failed_delivery_is_sent_again_by_hand_and_keeps_its_history() {
    let world = World::start().await;
    let hook = world.hook(Receiver::fails(2).then_accepts(), json!({"retryPolicy": quick_retries(1)})).await;
    let event = world.publish("message.sent").await;
    let failed = world.settled(&event).await;
    assert_eq!(failed["status"], "failed");

    world.client().act(&action(&failed, "retry")).await.succeeded();

    let done = world.delivery_when(&event, "the manual attempt succeeds", |d| d["status"] == "success").await;
    assert_eq!(each_attempt(&done, "trigger"), ["scheduled", "retry", "manual"]);
    assert_eq!(each_attempt(&done, "number"), [1, 2, 3]);
    assert_eq!(each_attempt(&done, "statusCode"), [500, 500, 200]);
    assert_eq!(hook.statuses(), [500, 500, 200]);
    assert_eq!(hook.requests()[2].header("webhook-id"), event.id, "the same event, so that a receiver can tell");
}

on_both!(a_failed_manual_attempt_eats_no_automatic_retry);
async fn a_failed_manual_attempt_eats_no_automatic_retry() {
    let world = World::start().await;
    let policy = json!({"maxRetries": 2, "backoffStrategy": "schedule", "scheduleSeconds": [3, 1]});
    let hook = world.hook(Receiver::status(500), json!({"retryPolicy": policy})).await;
    let event = world.publish("message.sent").await;
    let first = |delivery: &Value| each_attempt(delivery, "outcome") == ["rejected"];
    let waiting = world.delivery_when(&event, "the first attempt is recorded", first).await;

    world.client().act(&action(&waiting, "retry")).await.succeeded();

    let failed = world.settled(&event).await;
    assert_eq!(failed["status"], "failed");
    assert_eq!(each_attempt(&failed, "trigger"), ["scheduled", "manual", "retry", "retry"]);
    assert_eq!(each_attempt(&failed, "number"), [1, 2, 3, 4]);
    assert_eq!(hook.requests().len(), 4);
}

on_both!(an_attempt_shows_what_it_has_called);
async fn an_attempt_shows_what_it_has_called() {
    let world = World::start().await;
    let settings = json!({
        "headers": {"X-Team": "billing"}, "auth": {"type": "bearer", "token": "a-token-of-theirs"},
        "retryPolicy": {"maxRetries": 0},
    });
    let (receiver, answer) = Receiver::told(500);
    let hook = world.hook(receiver, settings).await;
    let event = world.publish("message.sent").await;
    let delivery = world.settled(&event).await;
    let (shown, sent) = (attempts(&delivery)[0]["request"].clone(), hook.requests()[0].clone());

    assert_eq!(shown["url"], hook.receiver.url("/hooks"));
    assert_eq!(shown["address"], hook.receiver.address().to_string());
    let headers = shown["headers"].as_object().expect("headers");
    for (name, value) in headers {
        let hidden = ["x-team", "authorization"].contains(&name.as_str());
        assert_eq!(value, if hidden { "[redacted]" } else { sent.header(name) }, "{name}");
    }
    let added = ["host", "content-length", "accept"];
    let missing = sent.headers.iter().filter(|(name, _)| !headers.contains_key(&name.to_ascii_lowercase()));
    let missing: Vec<&str> = missing.map(|(name, _)| name.as_str()).filter(|name| !added.contains(name)).collect();
    assert_eq!(missing, [""; 0], "only what the client adds is not shown");
    for list in ["/deliveries", &hook.path("/logs"), &format!("/events/{}/deliveries", event.id)] {
        assert_eq!(world.client().walk(list).await[0]["lastAttempt"]["request"], shown, "{list}");
    }

    answer.store(200, Ordering::Relaxed);
    let succeeded = world.settled(&world.publish("message.sent").await).await;
    let shown_then = attempts(&succeeded)[0]["request"].clone();
    let without = ["cdn-loop", "user-agent", "webhook-signature", "x-webhook-signature"];
    let names =
        |request: &Value| -> Vec<String> { request["headers"].as_object().expect("headers").keys().cloned().collect() };
    let kept: Vec<String> = names(&shown).into_iter().filter(|name| !without.contains(&name.as_str())).collect();
    assert_eq!((&shown_then["address"], names(&shown_then)), (&shown["address"], kept), "a success keeps less");
}

on_both!(a_request_without_an_answer_shows_its_address_too);
/// The second event goes over the connection that the first one has left.
async fn a_request_without_an_answer_shows_its_address_too() {
    let replies = |seen| if seen == 0 { Reply::Status(200) } else { Reply::Close };
    let world = World::start().await;
    let hook = world.hook(Receiver::says(replies), json!({"retryPolicy": {"maxRetries": 0}})).await;
    for outcome in ["success", "protocol_error"] {
        let attempt = attempts(&world.settled(&world.publish("message.sent").await).await)[0].clone();
        assert_eq!(attempt["outcome"], outcome);
        assert_eq!(attempt["request"]["address"], hook.receiver.address().to_string(), "{attempt}");
    }
}

on_both!(an_attempt_that_was_refused_has_called_nothing);
async fn an_attempt_that_was_refused_has_called_nothing() {
    let mut world = World::start().await;
    let hook = world.hook(Receiver::ok(), json!({"retryPolicy": {"maxRetries": 0}})).await;
    world.stop().await;
    world.env().remove("POSTHASTE_EGRESS_ALLOW");
    world.restart().await;
    let attempt = attempts(&world.settled(&world.publish("message.sent").await).await)[0].clone();
    assert_eq!((&attempt["outcome"], &attempt["request"]), (&json!("blocked"), &Value::Null), "{attempt}");
    assert!(hook.requests().is_empty());
}

/// How much of an answer is kept.
const LONG: usize = 64 * 1024;

on_both!(a_delivery_with_long_answers_shows_the_newest_and_leads_to_the_others);
async fn a_delivery_with_long_answers_shows_the_newest_and_leads_to_the_others() {
    let (world, hook) = World::with_webhook(Receiver::says_at_length(LONG)).await;
    let event = world.publish("message.sent").await;
    let mut delivery = world.settled(&event).await;
    for made in 2..=20 {
        world.client().act(&action(&delivery, "retry")).await.succeeded();
        let is_made = |d: &Value| d["attemptCount"] == made && d["status"] == "success";
        delivery = world.delivery_when(&event, "the manual attempt is recorded", is_made).await;
    }

    let shown = attempts(&delivery).len() as u64;
    assert!((2..20).contains(&shown), "{shown} attempts");
    assert_eq!(each_attempt(&delivery, "number"), (21 - shown..=20).collect::<Vec<_>>(), "the newest, oldest first");
    let (path, cursor) = (format!("/deliveries/{}/attempts", text(&delivery, "id")), text(&delivery, "attemptsCursor"));
    let older = world.client().get(&format!("{path}?limit=100&cursor={cursor}")).await.expect(200);
    let number = |attempt: &Value| attempt["number"].as_u64().expect("a number");
    let older: Vec<u64> = older["data"].as_array().expect("a list").iter().map(number).collect();
    let from = 21 - shown - older.len() as u64;
    assert!(!older.is_empty(), "the delivery has older attempts");
    assert_eq!(older, (from..21 - shown).rev().collect::<Vec<_>>(), "the older attempts, newest first");

    let all = world.client().walk(&path).await;
    assert_eq!(all.iter().map(number).collect::<Vec<_>>(), (1..=20).rev().collect::<Vec<_>>());
    for attempt in &all {
        assert_eq!((text(attempt, "responseBody").len(), &attempt["responseBodyTruncated"]), (LONG, &json!(false)));
    }
    for list in ["/deliveries", &hook.path("/logs"), &format!("/events/{}/deliveries", event.id)] {
        let last = &world.client().walk(list).await[0]["lastAttempt"];
        assert_eq!((text(last, "responseBody").len(), &last["responseBodyTruncated"]), (1024, &json!(true)), "{list}");
    }
}

on_both!(a_cancelled_delivery_is_not_tried_again);
/// The control webhook has the same schedule; its retry proves that the cancelled one's was due.
async fn a_cancelled_delivery_is_not_tried_again() {
    let world = World::start().await;
    let retries = json!({"maxRetries": 5, "backoffStrategy": "schedule", "scheduleSeconds": [5]});
    let policy = json!({"events": ["a.*"], "retryPolicy": retries});
    let hook = world.hook(Receiver::status(500), policy.clone()).await;
    let event = world.publish("a.b").await;
    let first = |delivery: &Value| each_attempt(delivery, "outcome") == ["rejected"];
    let waiting = world.delivery_when(&event, "the first attempt is recorded", first).await;

    world.client().act(&action(&waiting, "cancel")).await.succeeded();

    let control = world.hook(Receiver::status(500), policy).await;
    world.client().patch(&hook.path(""), &json!({"events": ["other.type"]})).await.expect(200);
    world.publish("a.b").await;
    control.saw(2).await;
    let cancelled = world.delivery(&text(&waiting, "id")).await;
    assert_eq!(cancelled["status"], "cancelled");
    assert!(cancelled["nextAttemptAt"].is_null(), "{cancelled}");
    assert_eq!(hook.statuses(), [500]);
}

on_both!(what_is_due_or_under_way_has_no_next_attempt_and_what_is_sent_again_is_not_settled);
async fn what_is_due_or_under_way_has_no_next_attempt_and_what_is_sent_again_is_not_settled() {
    let world = World::start().await;
    let script = |request| if request == 0 { Reply::Status(500) } else { Reply::Hang };
    let settings = json!({"maxInFlight": 1, "timeoutMs": 30_000, "retryPolicy": {"maxRetries": 0}});
    let hook = world.hook(Receiver::says(script), settings).await;
    let event = world.publish("message.sent").await;
    let failed = world.settled(&event).await;

    let retried = world.client().act(&action(&failed, "retry")).await.succeeded();
    hook.receiver.was_asked(2).await;
    world.publish("message.sent").await;
    let waiting = world.client().walk("/deliveries?status=pending").await;

    let under_way = world.delivery(&text(&failed, "id")).await;
    assert_eq!(waiting.len(), 2, "the retried delivery and the one that waits behind it: {waiting:?}");
    for delivery in waiting.iter().chain([&retried["delivery"], &under_way]) {
        assert_eq!(delivery["status"], "pending", "{delivery}");
        assert!(delivery["settledAt"].is_null() && delivery["nextAttemptAt"].is_null(), "{delivery}");
    }
}

on_both!(a_finished_delivery_cannot_be_cancelled);
async fn a_finished_delivery_cannot_be_cancelled() {
    let (world, _hook) = World::with_webhook(Receiver::ok()).await;
    let event = world.publish("message.sent").await;
    let done = world.settled(&event).await;

    world.client().act(&action(&done, "cancel")).await.problem(409);

    assert_eq!(world.delivery(&text(&done, "id")).await["status"], "success");
}

on_both!(a_retry_for_a_deleted_webhook_says_that_the_webhook_is_deleted);
async fn a_retry_for_a_deleted_webhook_says_that_the_webhook_is_deleted() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let event = world.publish("message.sent").await;
    let done = world.settled(&event).await;
    assert_eq!(world.client().delete(&hook.path("")).await.status, 204);

    let problem = world.client().act(&action(&done, "retry")).await.problem(404);

    assert!(problem.detail().contains("the webhook is deleted"), "{problem:?}");
    assert_eq!(hook.statuses(), [200]);
}

on_both!(what_was_called_off_is_not_sent);
/// A delivery is on its way as soon as its event is accepted: either it is cancelled, or the answer says that it is too
/// late.
async fn what_was_called_off_is_not_sent() {
    const EVENTS: usize = 200;
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let mut called_off = Vec::new();
    for _ in 0..EVENTS {
        let event = world.publish("message.sent").await;
        let delivery = &world.deliveries_of(&event.id).await[0];
        let answer = world.client().act(&action(delivery, "cancel")).await;
        if answer.status == 200 {
            called_off.push(event.id.clone());
        } else {
            answer.problem(409);
        }
        world.delivery_when(&event, "the delivery ends", |delivery| delivery["status"] != "pending").await;
    }

    hook.saw(EVENTS - called_off.len()).await;
    let sent = hook.accepted_events();
    assert!(called_off.iter().all(|event| !sent.contains(event)), "{} were called off", called_off.len());
    assert_eq!(sent.len() + called_off.len(), EVENTS);
}

on_both!(deliveries_are_found_by_webhook_event_status_and_type);
async fn deliveries_are_found_by_webhook_event_status_and_type() {
    let world = World::start().await;
    let good = world.hook(Receiver::ok(), json!({})).await;
    let bad = world.hook(Receiver::status(500), json!({"retryPolicy": {"maxRetries": 0}})).await;
    let first = world.publish("user.created").await;
    let second = world.publish("call.failed").await;
    world.all_settled(&first).await;
    world.all_settled(&second).await;

    let count = async |filter: &str| world.client().walk(&format!("/deliveries{filter}")).await.len();

    assert_eq!(count("").await, 4);
    assert_eq!(count(&format!("?webhookId={}", good.id)).await, 2);
    assert_eq!(count(&format!("?eventId={}", first.id)).await, 2);
    assert_eq!(count("?status=failed").await, 2);
    assert_eq!(count("?event=call.failed").await, 2);
    assert_eq!(count(&format!("?webhookId={}&status=failed&event=call.failed", bad.id)).await, 1);
    assert_eq!(count(&format!("?webhookId={}&status=failed", good.id)).await, 0);
    assert_eq!(count("?status=pending").await, 0);
}

on_both!(a_delivery_is_there_to_be_read_before_its_first_attempt_is_over);
/// A delivery whose first attempt is under way is only owed by the fan-out, without a row. It must be listed all the
/// same.
async fn a_delivery_is_there_to_be_read_before_its_first_attempt_is_over() {
    let (world, hook) = World::with_webhook(Receiver::says(|_| Reply::Hang)).await;

    let event = world.publish("message.sent").await;
    hook.receiver.was_asked(1).await;

    let owed = world.deliveries_of(&event.id).await;
    assert_eq!(owed.len(), 1);
    assert_eq!((&owed[0]["status"], &owed[0]["webhookId"]), (&json!("pending"), &json!(hook.id)));
    let by_id = world.delivery(&text(&owed[0], "id")).await;
    assert_eq!(by_id["status"], "pending");
    assert_eq!(hook.requests()[0].header("x-webhook-delivery"), by_id["id"]);
}

fn action(delivery: &Value, verb: &str) -> String {
    format!("/deliveries/{}/{verb}", text(delivery, "id"))
}
