//! The retry schedule, seen from outside: no request comes earlier than promised after the end of a failed answer, and
//! the moment that the API names for the next attempt is no later than promised. How late the request itself comes
//! depends on the machine. All long waits share one world, so that the test takes only as long as the longest.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::hook::{Hook, quick_retries};
use crate::support::receiver::{Receiver, Request};
use crate::support::world::{Event, World, attempts, each_attempt, is_terminal, text};

/// Clocks that count whole milliseconds may be off by one.
const ROUNDING: Duration = Duration::from_millis(1);

/// Much longer than the longest schedule here, which takes 16 s.
const LONGEST: Duration = Duration::from_secs(90);

/// For each webhook, the planned wait before each retry, counted from zero.
type Planned = BTreeMap<String, BTreeMap<usize, Duration>>;

/// What a busy machine may take between the end of an attempt and the decision when to try again.
const DECIDED: Duration = Duration::from_millis(900);

#[tokio::test]
async fn retries_come_on_schedule_and_then_the_delivery_has_failed() {
    let world = World::start().await;
    let exponential = world.hook(Receiver::status(500), json!({"events": ["a.b"]})).await;
    let linear = json!({"maxRetries": 2, "backoffStrategy": "linear"});
    let linear = world.hook(Receiver::status(503), json!({"events": ["a.b"], "retryPolicy": linear})).await;
    let capped = json!({"maxRetries": 3, "backoffStrategy": "exponential", "maxDelaySeconds": 3});
    let capped = world.hook(Receiver::closes(), json!({"events": ["a.b"], "retryPolicy": capped})).await;
    let listed = json!({"maxRetries": 2, "backoffStrategy": "schedule", "scheduleSeconds": [3, 1]});
    let listed = world.hook(Receiver::status(404), json!({"events": ["a.b"], "retryPolicy": listed})).await;

    let event = world.publish("a.b").await;

    let promised: [(&Hook, &[u64]); 4] =
        [(&linear, &[5, 10]), (&exponential, &[2, 4, 8]), (&capped, &[2, 3, 3]), (&listed, &[3, 1])];
    assert_waits(&world, &event, &promised).await;
    let deliveries = world.all_settled(&event).await;
    assert_eq!(deliveries.len(), promised.len());
    for (hook, promised) in promised {
        let delivery = deliveries.iter().find(|delivery| delivery["webhookId"] == hook.id).expect("a delivery");
        assert_failed_for_good(&world, delivery, promised.len()).await;
        assert_eq!(hook.requests().len(), promised.len() + 1);
    }
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

    let event = world.publish("a.b").await;

    let promised: [(&Hook, &[u64]); 5] =
        [(&seconds, &[4]), (&junk, &[1]), (&negative, &[1]), (&sooner, &[1]), (&past, &[1])];
    let planned = assert_waits(&world, &event, &promised).await;
    assert_eq!(date.statuses(), [503, 503]);
    // A date has whole seconds, so the hint is between 4 and 5 s.
    let (measured, planned) = (waits(&date.requests())[0], &planned[&date.id]);
    assert!(measured + ROUNDING >= Duration::from_secs(4), "{measured:?}");
    let most = Duration::from_secs(5).mul_f64(1.1) + DECIDED;
    assert!(planned.values().all(|planned| *planned <= most), "{planned:?}");
}

#[tokio::test]
async fn a_receiver_is_not_heard_beyond_a_day() {
    let world = World::start().await;
    for huge in ["99999999999999999999", "172800", "Fri, 31 Dec 2100 23:59:59 GMT"] {
        let hook = world.hook(Receiver::retry_after(huge), json!({"retryPolicy": quick_retries(1)})).await;
        let event = world.publish("a.b").await;
        let is_waiting = |delivery: &Value| !attempts(delivery).is_empty() && delivery["nextAttemptAt"].is_string();
        let delivery = world.delivery_when(&event, "the receiver was heard", is_waiting).await;
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

/// Waits until the event's deliveries have ended. Asserts that their retries came no earlier than after these waits,
/// and were planned no later than a tenth (jitter) after them. Returns the planned waits of each webhook.
async fn assert_waits(world: &World, event: &Event, promised: &[(&Hook, &[u64])]) -> Planned {
    let deliveries = world.deliveries_of(&event.id).await;
    let planned = join_all(deliveries.iter().map(async |delivery| {
        let planned = planned_waits(world, &text(delivery, "id")).await;
        (text(delivery, "webhookId"), planned)
    }));
    let all: Planned = planned.await.into_iter().collect();
    for (hook, promised) in promised {
        let (measured, planned) = (waits(&hook.requests()), &all[&hook.id]);
        let shown = format!("promised {promised:?} s, planned {planned:?}, measured {measured:?}");
        println!("{shown}");
        assert_eq!(measured.len(), promised.len(), "{shown}");
        assert!(!planned.is_empty(), "{shown}");
        for (retry, promised) in promised.iter().map(|promised| Duration::from_secs(*promised)).enumerate() {
            assert!(measured[retry] + ROUNDING >= promised, "early: {shown}");
            let most = promised.mul_f64(1.1) + DECIDED;
            assert!(planned.get(&retry).is_none_or(|planned| *planned <= most), "late: {shown}");
        }
    }
    all
}

/// The wait before each retry, counted from zero, from the end of the attempt before to the moment that the API names,
/// as far as it is read in time. Returns once the delivery has ended.
async fn planned_waits(world: &World, id: &str) -> BTreeMap<usize, Duration> {
    let mut planned = BTreeMap::new();
    fact::until_within(LONGEST, "the delivery ends", async || {
        let delivery = world.delivery(id).await;
        if let (Some(last), true) = (attempts(&delivery).last(), delivery["nextAttemptAt"].is_string()) {
            let took = Duration::from_millis(last["durationMs"].as_u64().expect("a number"));
            let wait = moment(&delivery["nextAttemptAt"]).duration_since(moment(&last["startedAt"]));
            let wait = Duration::try_from(wait).expect("later").saturating_sub(took);
            planned.insert(attempts(&delivery).len() - 1, wait);
        }
        is_terminal(&delivery).then_some(())
    })
    .await;
    planned
}

fn moment(value: &Value) -> Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).expect("a time")
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
