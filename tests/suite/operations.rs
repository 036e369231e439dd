//! Operations on many deliveries: counted first, carried out at a rate through each endpoint's lane, paused, resumed,
//! cancelled, and continued after a crash or on another node. No delivery is sent more often than was asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::{Client, send};
use crate::support::databases::{On, on_both};
use crate::support::fact;
use crate::support::fleet::{Fleet, make_hooks};
use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::world::{Event, World, attempts, each_attempt, text};

/// Operations with many deliveries, on a machine on which many tests run at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A webhook whose deliveries failed, and the word by which its receiver is told what to answer from now on.
struct Failed {
    world: World,
    hook: Hook,
    answer: Arc<AtomicU16>,
    events: Vec<Event>,
}

/// No retries, and a breaker that stays closed.
fn fragile() -> Value {
    json!({"retryPolicy": {"maxRetries": 0}, "breaker": {"failureThreshold": 1000}, "maxInFlight": 4})
}

impl Failed {
    async fn new(count: usize) -> Self {
        let world = World::start().await;
        let (receiver, answer) = Receiver::told(500);
        let hook = world.hook(receiver, fragile()).await;
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(world.publish("call.ended").await);
        }
        let failed = Self { world, hook, answer, events };
        failed.has("failed", count).await;
        failed
    }

    fn client(&self) -> &Client {
        self.world.client()
    }

    fn accept_from_now_on(&self) {
        self.answer.store(200, Ordering::Relaxed);
    }

    /// Waits until so many deliveries have this status.
    async fn has(&self, status: &str, count: usize) {
        let path = format!("/deliveries?status={status}");
        fact::until_within(PATIENCE, &format!("{count} are {status}"), async || {
            (self.client().walk(&path).await.len() == count).then_some(())
        })
        .await;
    }

    async fn begin(&self, body: &Value) -> String {
        text(&self.client().post("/operations", body).await.expect(202), "id")
    }

    async fn when(&self, id: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        operation_when(self.client(), id, what, is_so).await
    }

    async fn done(&self, id: &str) -> Value {
        self.when(id, "the operation is done", |operation| operation["state"] == "done").await
    }

    /// How often each event was sent.
    fn sent(&self) -> BTreeMap<String, usize> {
        let mut sent = BTreeMap::new();
        for request in self.hook.requests() {
            *sent.entry(request.header("webhook-id").to_owned()).or_default() += 1;
        }
        sent
    }
}

async fn operation_when(client: &Client, id: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/operations/{id}");
    fact::until_within(PATIENCE, what, async || {
        let operation = client.get(&path).await.expect(200);
        is_so(&operation).then_some(operation)
    })
    .await
}

fn counts(operation: &Value) -> [u64; 5] {
    ["matched", "done", "success", "failed", "skipped"].map(|field| operation[field].as_u64().expect(field))
}

on_both!(failed_deliveries_are_counted_first_and_then_sent_once_more);
async fn failed_deliveries_are_counted_first_and_then_sent_once_more() {
    let failed = Failed::new(12).await;
    let ask = json!({"kind": "retry", "webhookIds": [failed.hook.id], "events": ["call.*"], "ratePerSecond": 1000});
    let mut preview = ask.clone();
    preview["dryRun"] = json!(true);
    let preview = failed.client().post("/operations", &preview).await.expect(200);
    assert_eq!((&preview["matched"], &preview["complete"]), (&json!(12), &json!(true)));
    assert_eq!(preview["sample"].as_array().map(Vec::len), Some(10));
    assert!(failed.client().walk("/operations").await.is_empty() && failed.hook.requests().len() == 12);

    failed.accept_from_now_on();
    let id = failed.begin(&ask).await;
    let done = failed.done(&id).await;
    assert_eq!(counts(&done), [12, 12, 12, 0, 0]);
    assert!(done["startedAt"].is_string() && done["finishedAt"].is_string() && done["error"].is_null(), "{done}");
    assert_eq!(failed.client().walk("/operations").await, [done]);
    for event in &failed.events {
        assert_eq!(failed.sent()[&event.id], 2);
        let [delivery] = &failed.world.deliveries_of(&event.id).await[..] else { panic!("one delivery") };
        let delivery = failed.world.delivery(&text(delivery, "id")).await;
        assert_eq!((&delivery["status"], &delivery["attemptCount"]), (&json!("success"), &json!(2)));
        assert_eq!(each_attempt(&delivery, "trigger"), ["scheduled", "replay"]);
    }
}

on_both!(a_replay_that_fails_changes_nothing_but_the_history);
async fn a_replay_that_fails_changes_nothing_but_the_history() {
    let failed = Failed::new(3).await;
    let path = failed.hook.path("/replay");
    let id = text(&failed.client().post(&path, &json!({})).await.expect(202), "id");
    assert_eq!(counts(&failed.done(&id).await), [3, 3, 0, 3, 0]);
    failed.has("failed", 3).await;

    failed.accept_from_now_on();
    let id = text(&failed.client().post(&path, &json!({"kind": "retry", "statusCode": 500})).await.expect(202), "id");
    assert_eq!(counts(&failed.done(&id).await), [3, 3, 3, 0, 0]);
    let id = text(&failed.client().post(&path, &json!({"status": "success"})).await.expect(202), "id");
    assert_eq!(counts(&failed.done(&id).await), [3, 3, 3, 0, 0]);
    let delivery = failed.world.settled(&failed.events[0]).await;
    assert_eq!(attempts(&delivery).len(), 4);
}

on_both!(an_operation_is_paused_slowed_resumed_and_cancelled_while_it_runs);
async fn an_operation_is_paused_slowed_resumed_and_cancelled_while_it_runs() {
    let failed = Failed::new(40).await;
    failed.accept_from_now_on();
    let id = failed.begin(&json!({"kind": "retry", "ratePerSecond": 10})).await;
    failed.when(&id, "some are sent", |operation| operation["success"].as_u64() > Some(1)).await;
    let act = async |action: &str| failed.client().act(&format!("/operations/{id}/{action}")).await;
    assert_eq!(act("pause").await.expect(200)["state"], "paused");
    act("pause").await.expect(200);
    // What was asked for before the pause still ends: a delivery that is not at rest would still be `pending`.
    failed.has("pending", 0).await;
    let rests = |operation: &Value| operation["done"].as_u64() == u64::try_from(failed.hook.requests().len() - 40).ok();
    let paused = failed.when(&id, "what was asked for has ended", rests).await;
    assert!(counts(&paused)[1] < 40, "{paused}");

    let path = format!("/operations/{id}");
    let quicker = failed.client().patch(&path, &json!({"ratePerSecond": 500})).await.expect(200);
    assert_eq!((&quicker["ratePerSecond"], &quicker["state"]), (&json!(500), &json!("paused")));
    let before = failed.hook.requests().len();
    failed.client().patch(&path, &json!({"ratePerSecond": 5})).await.expect(200);
    assert_eq!(failed.hook.requests().len(), before, "a paused operation asks for nothing");
    assert_eq!(act("resume").await.expect(200)["state"], "running");
    failed.hook.saw(before + 1).await;
    assert_eq!(act("cancel").await.expect(200)["state"], "cancelled");
    for action in ["pause", "resume"] {
        assert_eq!(act(action).await.problem(409).code(), "wrong_state");
    }
    failed.client().patch(&path, &json!({"ratePerSecond": 9})).await.problem(409);
    act("cancel").await.expect(200);
    let sent = failed.sent();
    assert!(sent.values().all(|times| *times <= 2) && sent.values().any(|times| *times == 1), "{sent:?}");
}

on_both!(an_operation_waits_for_an_open_breaker_and_goes_on_after_it);
async fn an_operation_waits_for_an_open_breaker_and_goes_on_after_it() {
    let world = World::start().await;
    let (receiver, answer) = Receiver::told(500);
    let breaker = json!({"failureThreshold": 3, "cooldownSeconds": 3600, "maxCooldownSeconds": 3600});
    let hook = world.hook(receiver, json!({"retryPolicy": {"maxRetries": 0}, "breaker": breaker})).await;
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(world.publish("a.b").await);
    }
    for event in &events {
        world.settled(event).await;
    }
    let state = async || world.client().get(&hook.path("/backlog")).await.expect(200);
    fact::until("the breaker opens", async || (state().await["state"] == "circuit_open").then_some(())).await;
    let id = text(&world.client().post(&hook.path("/replay"), &json!({})).await.expect(202), "id");
    let waiting = fact::until("the replays wait", async || {
        let backlog = state().await;
        (backlog["pending"] == 3).then_some(backlog)
    })
    .await;
    assert_eq!(waiting["state"], "circuit_open", "a replay is no probe: {waiting}");
    assert_eq!(hook.requests().len(), 3);

    answer.store(200, Ordering::Relaxed);
    world.client().act(&hook.path("/probe")).await.expect(200);
    let done = operation_when(world.client(), &id, "it is done", |operation| operation["state"] == "done").await;
    assert_eq!(counts(&done), [3, 3, 3, 0, 0]);
}

on_both!(a_purge_cancels_what_matches_and_nothing_else);
async fn a_purge_cancels_what_matches_and_nothing_else() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    world.client().act(&hook.path("/pause")).await.expect(200);
    for _ in 0..5 {
        world.publish("call.ended").await;
        world.publish("bill.paid").await;
    }
    let purge = json!({"kind": "purge", "events": ["call.*"], "ratePerSecond": 1000});
    let id = text(&world.client().post("/operations", &purge).await.expect(202), "id");
    let done = operation_when(world.client(), &id, "it is done", |operation| operation["state"] == "done").await;
    assert_eq!(counts(&done), [5, 5, 5, 0, 0]);
    assert_eq!(world.client().walk("/deliveries?status=cancelled&event=call.ended").await.len(), 5);
    world.client().act(&hook.path("/resume")).await.expect(200);
    let events: Vec<String> =
        hook.saw(5).await.iter().map(|request| request.header("x-webhook-event").into()).collect();
    assert!(events.iter().all(|event| event == "bill.paid"), "{events:?}");
}

on_both!(a_delivery_that_two_purges_cancel_at_once_is_counted_by_one_of_them);
async fn a_delivery_that_two_purges_cancel_at_once_is_counted_by_one_of_them() {
    const MANY: usize = 120;
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    world.client().act(&hook.path("/pause")).await.expect(200);
    let event = json!({"event": "call.ended", "data": {}});
    world.client().post("/events/batch", &json!({"events": vec![event; MANY]})).await.expect(202);
    fact::until("all are pending", async || {
        (world.client().walk("/deliveries?status=pending").await.len() == MANY).then_some(())
    })
    .await;
    let purge = json!({"kind": "purge", "ratePerSecond": 10_000});
    let begin = async || text(&world.client().post("/operations", &purge).await.expect(202), "id");
    let (one, two) = tokio::join!(begin(), begin());
    let mut cancelled = 0;
    for id in [one, two] {
        let done = operation_when(world.client(), &id, "it is done", |operation| operation["state"] == "done").await;
        cancelled += counts(&done)[2];
    }
    assert_eq!(cancelled, MANY as u64);
    world.client().act(&hook.path("/resume")).await.expect(200);
    assert_eq!(hook.requests().len(), 0);
}

on_both!(an_operation_goes_on_after_a_crash_and_sends_nothing_more_often_than_the_crash_excuses);
async fn an_operation_goes_on_after_a_crash_and_sends_nothing_more_often_than_the_crash_excuses() {
    let mut failed = Failed::new(60).await;
    failed.accept_from_now_on();
    let id = failed.begin(&json!({"kind": "retry", "ratePerSecond": 20})).await;
    for crash in 1..=2 {
        let sent = |it: &Value| it["success"].as_u64() > Some(10 * crash);
        let before = failed.when(&id, "some are sent", sent).await;
        assert_eq!(before["state"], "running", "{before}");
        failed.world.kill();
        failed.world.ended().await;
        failed.world.restart().await;
    }
    assert_eq!(counts(&failed.done(&id).await), [60, 60, 60, 0, 0]);
    let sent = failed.sent();
    assert!(sent.len() == 60 && sent.values().all(|times| (2..=4).contains(times)), "{sent:?}");
    // What a crash has lost no record of was asked for once.
    let succeeded = failed.client().walk("/deliveries?status=success").await;
    assert!(succeeded.len() == 60 && succeeded.iter().all(|delivery| delivery["attempts"] == 2), "{succeeded:?}");
}

on_both!(operations_over_the_same_deliveries_send_what_they_count);
async fn operations_over_the_same_deliveries_send_what_they_count() {
    let failed = Failed::new(20).await;
    let ask = json!({"kind": "retry", "ratePerSecond": 1000});
    let mut begun = Vec::new();
    for _ in 0..5 {
        begun.push(failed.begin(&ask).await);
    }
    let mut sent = 0;
    for id in &begun {
        let [matched, done, success, fails, _] = counts(&failed.done(id).await);
        assert_eq!((done, success), (matched, 0));
        sent += fails;
    }
    assert_eq!(failed.hook.requests().len() as u64 - 20, sent);
    assert!(failed.sent().values().all(|times| *times <= 6), "{:?}", failed.sent());
}

on_both!(what_others_have_sent_or_cancelled_meanwhile_is_skipped);
async fn what_others_have_sent_or_cancelled_meanwhile_is_skipped() {
    let failed = Failed::new(12).await;
    let id = failed.begin(&json!({"kind": "retry", "ratePerSecond": 1})).await;
    failed.when(&id, "it runs", |operation| operation["state"] == "running").await;
    failed.client().act(&format!("/operations/{id}/pause")).await.expect(200);
    fact::until("the metrics show it", async || {
        let page = send(failed.world.admin().root(Method::GET, "/metrics")).await.text;
        page.contains("posthaste_operations{state=\"paused\"} 1\n").then_some(())
    })
    .await;
    failed.accept_from_now_on();
    let other = failed.begin(&json!({"kind": "retry", "ratePerSecond": 1000})).await;
    let [_, _, by_other, failed_by_other, _] = counts(&failed.done(&other).await);
    failed.client().patch(&format!("/operations/{id}"), &json!({"ratePerSecond": 1000})).await.expect(200);
    failed.client().act(&format!("/operations/{id}/resume")).await.expect(200);
    let [matched, _, success, fails, skipped] = counts(&failed.done(&id).await);
    assert!(matched == 12 && skipped >= 10 && success + fails + skipped == 12);
    assert_eq!(failed.hook.requests().len() as u64, 12 + success + fails + by_other + failed_by_other);

    failed.client().act(&failed.hook.path("/pause")).await.expect(200);
    for _ in 0..6 {
        failed.world.publish("call.ended").await;
    }
    failed.has("pending", 6).await;
    let purges = [failed.begin(&json!({"kind": "purge"})).await, failed.begin(&json!({"kind": "purge"})).await];
    let mut cancelled = 0;
    for id in &purges {
        cancelled += counts(&failed.done(id).await)[2];
    }
    assert_eq!(cancelled, 6, "each was cancelled by one of them");
}

on_both!(what_a_cancelled_operation_had_asked_for_is_counted_although_the_server_was_killed);
async fn what_a_cancelled_operation_had_asked_for_is_counted_although_the_server_was_killed() {
    let mut failed = Failed::new(10).await;
    failed.client().act(&failed.hook.path("/pause")).await.expect(200);
    let id = failed.begin(&json!({"kind": "retry", "ratePerSecond": 1000})).await;
    failed.has("pending", 4).await;
    failed.client().act(&format!("/operations/{id}/cancel")).await.expect(200);
    failed.world.kill();
    failed.world.ended().await;
    failed.world.restart().await;
    failed.accept_from_now_on();
    failed.client().act_once_owned(&failed.hook.path("/resume")).await;
    let ended = failed.when(&id, "what was asked for is counted", |it| it["finishedAt"].is_string()).await;
    assert_eq!((counts(&ended), &ended["state"]), ([10, 4, 4, 0, 0], &json!("cancelled")));
    assert_eq!(failed.hook.requests().len(), 14);
}

on_both!(a_webhook_is_owed_what_it_has_missed_once);
async fn a_webhook_is_owed_what_it_has_missed_once() {
    let (world, first) = World::with_webhook(Receiver::ok()).await;
    let missed = [world.publish("call.ended").await, world.publish("call.ended").await];
    world.publish("bill.paid").await;
    first.saw(3).await;
    world.client().act(&first.path("/test")).await.succeeded();
    let second = world.hook(Receiver::ok(), json!({"events": ["call.*", "webhook.*"]})).await;
    let both = world.publish("call.ended").await;
    second.saw(1).await;

    let replay = async |body: Value| world.client().post(&second.path("/replay"), &body).await;
    let preview = replay(json!({"kind": "owe", "dryRun": true})).await.expect(200);
    assert_eq!((&preview["matched"], &preview["sample"][0]["status"]), (&json!(2), &json!("pending")));
    for (done, seen) in [([2, 2, 2, 0, 0], 3), ([0; 5], 3)] {
        let id = text(&replay(json!({"kind": "owe"})).await.expect(202), "id");
        let operation =
            operation_when(world.client(), &id, "it is done", |operation| operation["state"] == "done").await;
        assert_eq!((counts(&operation), &operation["status"]), (done, &Value::Null));
        second.saw(seen).await;
    }
    let mut expected: Vec<String> = missed.iter().chain([&both]).map(|event| event.id.clone()).collect();
    let mut sent: Vec<String> =
        second.requests().iter().map(|request| request.header("webhook-id").to_owned()).collect();
    expected.sort_unstable();
    sent.sort_unstable();
    assert_eq!(sent, expected);
    assert_eq!(first.requests().len(), 5);
}

on_both!(a_new_webhook_starts_from_where_its_owner_says);
async fn a_new_webhook_starts_from_where_its_owner_says() {
    let (world, first) = World::with_webhook(Receiver::ok()).await;
    world.publish("call.ended").await;
    let from = world.publish("call.ended").await;
    world.publish("call.ended").await;
    first.saw(3).await;
    let since = text(&world.deliveries_of(&from.id).await[0], "createdAt");
    let second = world.hook(Receiver::ok(), json!({"startFrom": since})).await;
    let [operation] = &world.client().walk("/operations").await[..] else { panic!("one operation") };
    let id = text(operation, "id");
    let live = world.publish("call.ended").await;
    let done = operation_when(world.client(), &id, "it is done", |operation| operation["state"] == "done").await;
    assert_eq!((counts(&done), &done["webhookIds"]), ([2, 2, 2, 0, 0], &json!([second.id])));
    let sent = second.saw(3).await;
    assert_eq!(sent.iter().filter(|request| request.header("webhook-id") == live.id).count(), 1);
    let earlier = json!({"name": "x", "url": second.receiver.url("/"), "events": ["*"], "startFrom": "soon"});
    assert_eq!(world.client().post("/webhooks", &earlier).await.problem(422).pointers(), ["/startFrom"]);
}

/// The items of all operations that are to be done, in the database.
const TO_DO: &str = "SELECT COUNT(*) FROM operation_item WHERE state = 0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_over_webhooks_of_several_nodes_survives_the_loss_of_one() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(("POSTHASTE_LEASE_MS", "3000")).await;
            let (_, answer) = Receiver::told(500);
            let hooks = make_hooks(&fleet, 8, |_| {
                let answer = answer.clone();
                let receiver =
                    Receiver::says(move |_| crate::support::receiver::Reply::Status(answer.load(Ordering::Relaxed)));
                (receiver, fragile())
            })
            .await;
            fleet.grow_to(2).await;
            fleet.is_shared_out().await;
            let client = fleet.world.client().clone();
            for _ in 0..10 {
                fleet.world.publish("call.ended").await;
            }
            let failed = async || (client.walk("/deliveries?status=failed").await.len() == 80).then_some(());
            fact::until_within(PATIENCE, "all have failed", failed).await;
            answer.store(200, Ordering::Relaxed);
            let ask = json!({"kind": "retry", "ratePerSecond": 30});
            let id = text(&client.post("/operations", &ask).await.expect(202), "id");
            operation_when(&client, &id, "some are sent", |operation| operation["success"].as_u64() > Some(10)).await;
            fleet.server(1).kill();
            let done = operation_when(&client, &id, "it is done", |operation| operation["state"] == "done").await;
            assert_eq!(counts(&done), [80, 80, 80, 0, 0]);
            assert_eq!(fleet.world.database().ask(TO_DO).trim(), "0");
            assert_eq!(client.walk("/deliveries?status=success").await.len(), 80);
            assert!(hooks.iter().all(|hook| hook.requests().len() >= 20));
            fleet.restart(1).await;
            fleet.stop_all().await;
        })
        .await;
}

#[tokio::test]
async fn what_cannot_be_an_operation_is_refused_with_what_would_be_accepted() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let refused = async |body: Value| world.client().post("/operations", &body).await.problem(422).pointers();
    assert_eq!(refused(json!({})).await, ["/kind"]);
    assert_eq!(refused(json!({"kind": "resend"})).await, ["/kind"]);
    assert_eq!(refused(json!({"kind": "retry", "status": "pending"})).await, ["/status"]);
    assert_eq!(refused(json!({"kind": "purge", "status": "failed"})).await, ["/status"]);
    assert_eq!(refused(json!({"kind": "retry", "ratePerSecond": 0})).await, ["/ratePerSecond"]);
    assert_eq!(refused(json!({"kind": "retry", "webhookIds": []})).await, ["/webhookIds"]);
    assert_eq!(refused(json!({"kind": "purge", "webhookIds": null})).await, ["/webhookIds"]);
    assert_eq!(refused(json!({"kind": "retry", "webhookIds": ["evt_1"]})).await, ["/webhookIds/0"]);
    assert_eq!(refused(json!({"kind": "retry", "events": ["a", "b*"]})).await, ["/events/1"]);
    let times = json!({"kind": "retry", "since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"});
    assert_eq!(refused(times).await, ["/until"]);
    assert_eq!(refused(json!({"kind": "owe"})).await, ["/webhookIds"]);
    let owe = json!({"kind": "owe", "webhookIds": [hook.id], "status": "failed", "outcome": "gone", "statusCode": 500});
    assert_eq!(refused(owe).await, ["/status", "/outcome", "/statusCode"]);
    let other = world.another_tenant().await;
    let theirs = json!({"kind": "retry", "webhookIds": [hook.id]});
    assert_eq!(other.client.post("/operations", &theirs).await.problem(422).pointers(), ["/webhookIds/0"]);
    other.client.post(&hook.path("/replay"), &json!({})).await.problem(404);
    let reader = world.caller(&["read"]).await;
    reader.post("/operations", &json!({"kind": "retry"})).await.problem(403);
    assert!(world.client().walk("/operations").await.is_empty());
}

#[tokio::test]
async fn the_same_key_begins_one_operation() {
    let world = World::start().await;
    let begin = async || {
        let call = world.client().json(reqwest::Method::POST, "/operations", &json!({"kind": "retry"}));
        crate::support::client::send(call.header("Idempotency-Key", "once")).await.expect(202)
    };
    let (first, second) = (begin().await, begin().await);
    world.client().get(&format!("/operations/{}", text(&first, "id"))).await.expect(200);
    assert_eq!(first["id"], second["id"]);
    assert_eq!(world.client().walk("/operations").await.len(), 1);
}
