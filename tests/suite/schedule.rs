//! The retry schedule, measured from outside: from the end of a failed answer to the arrival of the next request. All
//! long waits share one world, so that the test takes only as long as the longest.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::databases::on_both;
use crate::support::hook::{Hook, quick_retries};
use crate::support::receiver::{Receiver, Request};
use crate::support::world::{World, attempts, each_attempt};

/// Clocks that count whole milliseconds may be off by one.
const ROUNDING: Duration = Duration::from_millis(1);

/// Longer than the longest schedule here: linear, 5 + 10 + 15 s, ten percent late, with some margin.
const LONGEST: Duration = Duration::from_secs(45);

#[tokio::test]
async fn retries_come_on_schedule_and_then_the_delivery_has_failed() {
    let world = World::start().await;
    let exponential = world.hook(Receiver::status(500), json!({"events": ["a.b"]})).await;
    let linear = json!({"maxRetries": 3, "backoffStrategy": "linear"});
    let linear = world.hook(Receiver::status(503), json!({"events": ["a.b"], "retryPolicy": linear})).await;
    let capped = json!({"maxRetries": 3, "backoffStrategy": "exponential", "maxDelaySeconds": 3});
    let capped = world.hook(Receiver::closes(), json!({"events": ["a.b"], "retryPolicy": capped})).await;
    let listed = json!({"maxRetries": 2, "backoffStrategy": "schedule", "scheduleSeconds": [3, 1]});
    let listed = world.hook(Receiver::status(404), json!({"events": ["a.b"], "retryPolicy": listed})).await;

    let event = world.publish("a.b").await;

    assert_waits(&linear, &[5, 10, 15]).await;
    assert_waits(&exponential, &[2, 4, 8]).await;
    assert_waits(&capped, &[2, 3, 3]).await;
    assert_waits(&listed, &[3, 1]).await;
    let deliveries = world.all_settled(&event).await;
    assert_eq!(deliveries.len(), 4);
    for delivery in &deliveries {
        assert_failed_for_good(&world, delivery, if delivery["webhookId"] == listed.id { 2 } else { 3 }).await;
    }
    assert_eq!([&exponential, &linear, &capped, &listed].map(|hook| hook.requests().len()), [4, 4, 4, 3]);
}

#[tokio::test]
async fn a_receivers_hint_only_ever_delays() {
    let world = World::start().await;
    let hook = async |receiver| world.hook(receiver, json!({"retryPolicy": quick_retries(1)})).await;
    let seconds = hook(Receiver::retry_after("4")).await;
    let junk = hook(Receiver::retry_after("soon")).await;
    let negative = hook(Receiver::retry_after("-7")).await;
    let sooner = hook(Receiver::retry_after("0")).await;
    let date = hook(Receiver::retry_after_date(Duration::from_secs(5))).await;
    let past = hook(Receiver::retry_after("Thu, 01 Jan 1970 00:00:00 GMT")).await;

    world.publish("a.b").await;

    assert_waits(&seconds, &[4]).await;
    assert_waits(&junk, &[1]).await;
    assert_waits(&negative, &[1]).await;
    assert_waits(&sooner, &[1]).await;
    assert_waits(&past, &[1]).await;
    // A date has whole seconds, so the hint is between 4 and 5 s.
    let wait = waits(&date.receiver.saw_within(LONGEST, 2).await)[0];
    assert!((Duration::from_secs(4) - ROUNDING..Duration::from_secs(6)).contains(&wait), "{wait:?}");
    assert_eq!(date.statuses(), [503, 503]);
}

#[tokio::test]
async fn a_receiver_is_not_heard_beyond_a_day() {
    let world = World::start().await;
    for huge in ["99999999999999999999", "172800", "Fri, 31 Dec 2100 23:59:59 GMT"] {
        let hook = world.hook(Receiver::retry_after(huge), json!({"retryPolicy": quick_retries(1)})).await;
        let event = world.publish("a.b").await;
        let is_waiting = |delivery: &Value| !attempts(delivery).is_empty() && delivery["nextAttemptAt"].is_string();
        let delivery = world.delivery_when(&event, "the receiver was heard", is_waiting).await;
        let moment =
            |value: &Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()).expect("a time");
        let asked = moment(each_attempt(&delivery, "startedAt")[0]);
        let wait = Duration::try_from(moment(&delivery["nextAttemptAt"]).duration_since(asked)).expect("later");
        let day = Duration::from_hours(24);
        assert!((day - ROUNDING..day.mul_f64(1.1) + Duration::from_secs(5)).contains(&wait), "{huge}: {wait:?}");
        world.client().patch(&hook.path(""), &json!({"isActive": false})).await.expect(200);
    }
}

on_both!(a_failing_receiver_is_retried_until_it_accepts);
async fn a_failing_receiver_is_retried_until_it_accepts() {
    let world = World::start().await;
    let hook = world.hook(Receiver::fails(2).then_accepts(), json!({"retryPolicy": quick_retries(3)})).await;

    let event = world.publish("message.sent").await;

    let delivery = world.settled(&event).await;
    assert_eq!(delivery["status"], "success");
    assert_eq!(each_attempt(&delivery, "outcome"), ["rejected", "rejected", "success"]);
    assert_eq!(each_attempt(&delivery, "trigger"), ["scheduled", "retry", "retry"]);
    assert_eq!(hook.statuses(), [500, 500, 200]);
    assert_eq!(header_of_each(&hook, "x-webhook-attempt"), ["1", "2", "3"]);
    assert_eq!(header_of_each(&hook, "webhook-id"), vec![event.id; 3]);
    let stamps: Vec<u64> = header_of_each(&hook, "webhook-timestamp").iter().flat_map(|t| t.parse()).collect();
    assert!(stamps.len() == 3 && stamps[0] < stamps[2], "each attempt has its own timestamp: {stamps:?}");
}

#[tokio::test]
async fn a_webhook_without_retries_gets_one_attempt() {
    let world = World::start().await;
    let hook = world.hook(Receiver::status(500), json!({"retryPolicy": {"maxRetries": 0}})).await;

    let event = world.publish("message.sent").await;

    assert_failed_for_good(&world, &world.settled(&event).await, 0).await;
    assert_eq!(hook.statuses(), [500]);
}

/// Asserts that the retries came after these waits: never early, and late by at most a tenth (jitter) plus half a
/// second.
async fn assert_waits(hook: &Hook, promised_s: &[u64]) {
    let requests = hook.receiver.saw_within(LONGEST, promised_s.len() + 1).await;
    let measured = waits(&requests);
    let shown = format!("promised {promised_s:?} s, measured {measured:?}");
    println!("{shown}");
    assert_eq!(measured.len(), promised_s.len(), "{shown}");
    for (wait, promised) in measured.iter().zip(promised_s) {
        let promised = Duration::from_secs(*promised);
        assert!(*wait + ROUNDING >= promised, "early: {shown}");
        assert!(*wait <= promised.mul_f64(1.1) + Duration::from_millis(500), "late: {shown}");
    }
}

fn waits(requests: &[Request]) -> Vec<Duration> {
    let wait = |pair: &[Request]| pair[1].arrived - pair[0].answered.expect("an answer, or an end without one");
    requests.windows(2).map(wait).collect()
}

async fn assert_failed_for_good(world: &World, delivery: &Value, retries: usize) {
    let delivery = world.delivery(delivery["id"].as_str().expect("an id")).await;
    assert_eq!(delivery["status"], "failed", "{delivery}");
    assert!(delivery["nextAttemptAt"].is_null() && delivery["settledAt"].is_string(), "{delivery}");
    let numbers: Vec<_> = each_attempt(&delivery, "number").iter().map(|number| number.as_u64()).collect();
    assert_eq!(numbers, (1..=retries as u64 + 1).map(Some).collect::<Vec<_>>());
}

fn header_of_each(hook: &Hook, name: &str) -> Vec<String> {
    hook.requests().iter().map(|request| request.header(name).to_owned()).collect()
}
