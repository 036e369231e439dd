//! The backlog of a webhook and what an operator can do about it: read, pause, resume, purge, probe.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::hook::{Hook, quick_retries};
use crate::support::receiver::{Receiver, Reply};
use crate::support::world::{World, each_attempt, text};

const PATIENCE: Duration = Duration::from_secs(20);

async fn backlog(world: &World, hook: &Hook) -> Value {
    world.client().get(&hook.path("/backlog")).await.expect(200)
}

/// Waits until the backlog satisfies `fact`; returns the backlog.
async fn backlog_when(world: &World, hook: &Hook, what: &str, fact: impl Fn(&Value) -> bool) -> Value {
    fact::until_within(PATIENCE, what, async || {
        let backlog = backlog(world, hook).await;
        assert_adds_up(&backlog);
        fact(&backlog).then_some(backlog)
    })
    .await
}

fn assert_adds_up(backlog: &Value) {
    let parts = ["ready", "scheduled", "held", "inFlight"].map(|part| backlog[part].as_u64().expect(part));
    assert_eq!(backlog["pending"], parts.iter().sum::<u64>(), "{backlog}");
}

on_both!(a_webhook_with_nothing_to_do_has_an_empty_backlog);
async fn a_webhook_with_nothing_to_do_has_an_empty_backlog() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;

    let before = backlog(&world, &hook).await;
    let event = world.publish("message.sent").await;
    world.settled(&event).await;
    let after = backlog_when(&world, &hook, "nothing is pending", |backlog| backlog["pending"] == 0).await;

    for backlog in [&before, &after] {
        assert_eq!(backlog["webhookId"], hook.id);
        assert_eq!((&backlog["state"], &backlog["why"]), (&json!("active"), &Value::Null));
        assert_eq!(backlog["oldestPendingAt"], Value::Null);
        assert_eq!(backlog["rates"]["drainEtaSeconds"], 0.0);
    }
    assert_eq!((&before["actor"]["live"], &after["actor"]["live"]), (&json!(false), &json!(true)));
    assert_eq!(after["successRate"]["5m"], 1.0);
    assert!(after["latencyMs"]["p99"].as_f64().is_some_and(|ms| ms > 0.0), "{after}");
}

on_both!(a_paused_webhook_gets_nothing_and_loses_nothing);
async fn a_paused_webhook_gets_nothing_and_loses_nothing() {
    let (mut world, hook) = World::with_webhook(Receiver::ok()).await;

    let paused = world.client().act(&hook.path("/pause")).await.expect(200);
    assert!(paused["pausedAt"].is_string(), "{paused}");
    for _ in 0..5 {
        assert_eq!(world.publish("message.sent").await.matched, 1);
    }
    let held = backlog_when(&world, &hook, "five deliveries are held", |backlog| backlog["held"] == 5).await;
    assert_eq!(held["state"], "paused");
    assert!(held["why"].as_str().is_some_and(|why| why.contains("resume")), "{held}");
    assert_eq!(held["nextAttemptAt"], Value::Null);
    world.client().act(&hook.path("/test")).await.problem(409);

    world.stop().await;
    world.restart().await;
    let held = backlog_when(&world, &hook, "five deliveries are held", |backlog| backlog["held"] == 5).await;
    assert_eq!(held["state"], "paused", "the webhook stays paused");
    assert!(hook.requests().is_empty());

    let resumed = world.client().act(&hook.path("/resume")).await.expect(200);
    assert_eq!(resumed["pausedAt"], Value::Null);
    hook.saw(5).await;
    backlog_when(&world, &hook, "nothing is pending", |backlog| backlog["pending"] == 0).await;
}

on_both!(a_purge_cancels_what_waits_and_nothing_that_comes_after_it);
async fn a_purge_cancels_what_waits_and_nothing_that_comes_after_it() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    world.client().act(&hook.path("/pause")).await.expect(200);
    let mut old = Vec::new();
    for _ in 0..7 {
        old.push(world.publish("message.sent").await);
    }

    let purged = world.client().act(&hook.path("/purge")).await.expect(200);
    assert_eq!(purged["cancelled"], 7);
    let new = world.publish("message.sent").await;
    world.client().act(&hook.path("/resume")).await.expect(200);

    assert_eq!(world.settled(&new).await["status"], "success");
    for event in &old {
        let delivery = world.settled(event).await;
        assert_eq!((&delivery["status"], each_attempt(&delivery, "number").len()), (&json!("cancelled"), 0));
    }
    assert_eq!(hook.accepted_events(), [new.id]);
    assert_eq!(backlog(&world, &hook).await["pending"], 0);
    assert_eq!(world.client().act(&hook.path("/purge")).await.expect(200)["cancelled"], 0);
}

on_both!(a_purge_up_to_a_time_leaves_what_was_accepted_later);
async fn a_purge_up_to_a_time_leaves_what_was_accepted_later() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    world.client().act(&hook.path("/pause")).await.expect(200);
    world.publish("message.sent").await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let later = world.publish("message.sent").await;

    let before = json!({"before": later.timestamp});
    let purged = world.client().post(&hook.path("/purge"), &before).await.expect(200);

    assert_eq!(purged["cancelled"], 1);
    world.client().act(&hook.path("/resume")).await.expect(200);
    assert_eq!(world.settled(&later).await["status"], "success");
    assert_eq!(hook.accepted_events(), [later.id]);
    let wrong = world.client().post(&hook.path("/purge"), &json!({"before": "yesterday"})).await;
    assert_eq!(wrong.problem(422).pointers(), ["/before"]);
}

on_both!(a_purge_while_requests_are_under_way_lets_them_end_and_makes_none_again);
async fn a_purge_while_requests_are_under_way_lets_them_end_and_makes_none_again() {
    let world = World::start().await;
    let settings = json!({"maxInFlight": 2, "retryPolicy": quick_retries(3)});
    let hook = world.hook(Receiver::says(|_| Reply::After(Duration::from_secs(1), 500)), settings).await;
    let mut events = Vec::new();
    for _ in 0..20 {
        events.push(world.publish("message.sent").await);
    }
    hook.receiver.was_asked(2).await;

    let purged = world.client().act(&hook.path("/purge")).await.expect(200);

    for event in &events {
        assert_eq!(world.settled(event).await["status"], "cancelled");
    }
    let asked = hook.receiver.requests().len() as u64;
    assert!(asked <= 4, "{asked}");
    assert!(purged["cancelled"].as_u64().is_some_and(|cancelled| (16..=18).contains(&cancelled)), "{purged}");
    backlog_when(&world, &hook, "nothing is pending", |backlog| backlog["pending"] == 0).await;
}

on_both!(a_receiver_that_only_fails_is_left_alone_and_probed_when_asked);
async fn a_receiver_that_only_fails_is_left_alone_and_probed_when_asked() {
    let mut world = World::start().await;
    let (receiver, answer) = Receiver::told(500);
    let breaker = json!({"failureThreshold": 3, "cooldownSeconds": 3600, "maxCooldownSeconds": 3600});
    let settings = json!({"events": ["message.*"], "breaker": breaker, "retryPolicy": quick_retries(10)});
    let hook = world.hook(receiver, settings).await;
    for _ in 0..6 {
        world.publish("message.sent").await;
    }
    let open = backlog_when(&world, &hook, "the breaker opens", |backlog| backlog["state"] == "circuit_open").await;
    assert!(
        open["why"].as_str().is_some_and(|why| why.contains("breaker open after 3 failures, the last rejected (500)")),
        "{open}"
    );
    assert_eq!((&open["pending"], &open["breaker"]["state"]), (&json!(6), &json!("open")));
    assert_eq!(open["nextAttemptAt"], open["breaker"]["nextProbeAt"]);

    world.stop().await;
    world.restart().await;
    let asked = hook.requests().len();
    let open = backlog_when(&world, &hook, "all are pending", |backlog| backlog["pending"] == 6).await;
    assert_eq!(open["state"], "circuit_open", "a restart does not close the breaker");
    let same = json!({"events": ["call.*"], "retryPolicy": quick_retries(10)});
    let control = world.hook(Receiver::status(500), same).await;
    world.publish("call.ringing").await;
    control.saw(2).await;
    assert_eq!(hook.requests().len(), asked, "a request was sent through the open breaker");

    world.client().act(&hook.path("/probe")).await.expect(200);
    hook.saw(asked + 1).await;
    backlog_when(&world, &hook, "the failed probe opens the breaker again", |backlog| {
        backlog["state"] == "circuit_open"
    })
    .await;
    assert_eq!(hook.requests().len(), asked + 1, "a probe is one request");

    answer.store(200, Ordering::Relaxed);
    world.client().act(&hook.path("/probe")).await.expect(200);
    let closed = backlog_when(&world, &hook, "all are delivered", |backlog| backlog["pending"] == 0).await;
    assert_eq!((&closed["state"], &closed["breaker"]["state"]), (&json!("active"), &json!("closed")));
}

on_both!(a_test_and_a_manual_retry_pass_an_open_breaker);
async fn a_test_and_a_manual_retry_pass_an_open_breaker() {
    let world = World::start().await;
    let (receiver, answer) = Receiver::told(500);
    let breaker = json!({"failureThreshold": 1, "cooldownSeconds": 3600, "maxCooldownSeconds": 3600});
    let hook = world.hook(receiver, json!({"breaker": breaker})).await;
    let event = world.publish("message.sent").await;
    let waiting =
        world.delivery_when(&event, "the delivery failed once", |d| each_attempt(d, "number").len() == 1).await;
    backlog_when(&world, &hook, "the breaker opens", |backlog| backlog["state"] == "circuit_open").await;

    let tested = world.client().act(&hook.path("/test")).await.expect(200);
    assert_eq!(tested["attempt"]["statusCode"], 500);
    assert_eq!(backlog(&world, &hook).await["state"], "circuit_open");

    answer.store(200, Ordering::Relaxed);
    world.client().act(&format!("/deliveries/{}/retry", text(&waiting, "id"))).await.succeeded();
    let done = world.settled(&event).await;
    assert_eq!(each_attempt(&done, "trigger"), ["scheduled", "manual"]);
    backlog_when(&world, &hook, "a success closes the breaker", |backlog| backlog["state"] == "active").await;
}

on_both!(the_worst_backlogs_come_first);
async fn the_worst_backlogs_come_first() {
    let world = World::start().await;
    let deep = world.hook(Receiver::ok(), json!({"events": ["a.*"]})).await;
    let old = world.hook(Receiver::ok(), json!({"events": ["b.*"]})).await;
    let idle = world.hook(Receiver::ok(), json!({"events": ["c.*"]})).await;
    for hook in [&deep, &old] {
        world.client().act(&hook.path("/pause")).await.expect(200);
    }
    world.publish("b.b").await;
    for _ in 0..3 {
        world.publish("a.a").await;
    }
    backlog_when(&world, &deep, "three deliveries are held", |backlog| backlog["held"] == 3).await;
    let other = world.another_tenant().await;

    let ids = async |client: &crate::support::client::Client, query: &str| -> Vec<String> {
        let listed = client.walk(&format!("/backlogs{query}")).await;
        listed.iter().map(|backlog| text(backlog, "webhookId")).collect()
    };

    assert_eq!(ids(world.client(), "?sort=depth").await, [deep.id.clone(), old.id.clone()]);
    assert_eq!(ids(world.client(), "?sort=oldest").await, [old.id.clone(), deep.id.clone()]);
    assert_eq!(ids(world.client(), "").await, [old.id.clone(), deep.id.clone()]);
    assert_eq!(ids(&world.admin(), "?sort=depth").await, [deep.id.clone(), old.id.clone()]);
    assert!(ids(&other.client, "").await.is_empty());
    world.client().get("/backlogs?sort=name").await.problem(400);
    other.client.get(&idle.path("/backlog")).await.problem(404);
    let engine = world.admin().get("/engine").await.expect(200);
    assert_eq!((&engine["backlog"]["pending"], &engine["backlog"]["webhooks"]), (&json!(4), &json!(2)));
    world.client().get("/engine").await.problem(403);
}

on_both!(a_retry_is_ready_when_it_is_due_and_not_before);
async fn a_retry_is_ready_when_it_is_due_and_not_before() {
    let world = World::start().await;
    let policy = json!({"maxRetries": 1, "backoffStrategy": "schedule", "scheduleSeconds": [3]});
    let hook = world.hook(Receiver::status(500), json!({"retryPolicy": policy})).await;
    world.publish("message.sent").await;
    let waiting =
        backlog_when(&world, &hook, "the delivery waits for its retry", |backlog| backlog["scheduled"] == 1).await;
    let due = text(&waiting, "nextAttemptAt");
    assert!(due > text(&waiting, "asOf"), "{waiting}");

    let done = backlog_when(&world, &hook, "the retry is made", |backlog| {
        // Timestamps of this form sort like texts.
        if text(backlog, "asOf") < due {
            assert_eq!(backlog["ready"], 0, "{backlog}");
        }
        if let Some(next) = backlog["nextAttemptAt"].as_str() {
            assert!(next == due && text(backlog, "asOf") < due, "{backlog}");
        }
        backlog["pending"] == 0
    });
    done.await;
}

on_both!(a_backlog_drains_no_faster_than_its_rate_limit_and_not_at_all_where_nothing_flows);
async fn a_backlog_drains_no_faster_than_its_rate_limit_and_not_at_all_where_nothing_flows() {
    let world = World::start().await;
    let limit = json!({"requests": 1, "perSeconds": 3600, "burst": 20});
    let hook = world.hook(Receiver::ok(), json!({"rateLimit": limit})).await;
    for _ in 0..50 {
        world.publish("message.sent").await;
    }

    let limited = backlog_when(&world, &hook, "the burst is sent", |backlog| backlog["pending"] == 30).await;
    let eta = limited["rates"]["drainEtaSeconds"].as_f64().expect("a time");
    world.client().act(&hook.path("/pause")).await.expect(200);
    let paused = backlog_when(&world, &hook, "the webhook is paused", |backlog| backlog["state"] == "paused").await;

    assert!(eta >= 108_000.0, "30 deliveries take 30 hours: {limited}");
    assert_eq!(paused["rates"]["drainEtaSeconds"], Value::Null);
}

on_both!(the_last_error_and_the_last_success_are_told_and_survive_a_restart);
async fn the_last_error_and_the_last_success_are_told_and_survive_a_restart() {
    let mut world = World::start().await;
    let (receiver, answer) = Receiver::told(200);
    let hook = world.hook(receiver, json!({"retryPolicy": {"maxRetries": 0}})).await;
    let read = async |world: &World| world.client().get(&hook.path("")).await.expect(200);
    let new = read(&world).await;
    assert_eq!([&new["lastError"], &new["failingSince"], &new["lastSuccessAt"]], [&Value::Null; 3]);
    let good = world.publish("message.sent").await;
    world.settled(&good).await;
    assert!(read(&world).await["lastSuccessAt"].is_string());

    answer.store(503, Ordering::Relaxed);
    let bad = world.publish("message.sent").await;
    let failed = world.settled(&bad).await;
    let shown = read(&world).await;

    let error = &shown["lastError"];
    assert_eq!((&error["outcome"], &error["statusCode"]), (&json!("rejected"), &json!(503)));
    assert_eq!(error["deliveryId"], failed["id"]);
    assert_eq!(shown["failingSince"], error["at"]);
    assert!(shown["lastSuccessAt"].as_str() < error["at"].as_str(), "{shown}");
    let of = |body: &Value| ["lastError", "failingSince", "lastSuccessAt"].map(|field| body[field].clone());
    assert_eq!(of(&backlog(&world, &hook).await), of(&shown));
    let listed = world.client().walk("/webhooks").await;
    assert_eq!(of(&listed[0]), of(&shown));
    world.stop().await;
    world.restart().await;
    assert_eq!(of(&read(&world).await), of(&shown));
    assert_eq!(of(&backlog(&world, &hook).await), of(&shown));

    answer.store(200, Ordering::Relaxed);
    let good = world.publish("message.sent").await;
    world.settled(&good).await;
    let well = read(&world).await;
    assert_eq!((&well["failingSince"], &well["lastError"]), (&Value::Null, error), "the last error is kept");
    assert!(well["lastSuccessAt"].as_str() > error["at"].as_str(), "{well}");
}

on_both!(pause_and_resume_say_whether_they_had_an_effect);
async fn pause_and_resume_say_whether_they_had_an_effect() {
    let world = World::start().await;
    let hook = world.hook(Receiver::ok(), json!({})).await;
    let act = async |action: &str| {
        let body = world.client().act(&hook.path(action)).await.expect(200);
        assert_eq!(body["id"], hook.id);
        (body["changed"].clone(), body["state"].clone(), body["why"].is_string())
    };
    let is = |changed: bool, state: &str, has_cause: bool| (json!(changed), json!(state), has_cause);

    assert_eq!(act("/resume").await, is(false, "active", false));
    assert_eq!(act("/pause").await, is(true, "paused", true));
    assert_eq!(act("/pause").await, is(false, "paused", true));
    assert_eq!(act("/resume").await, is(true, "active", false));
    world.client().patch(&hook.path(""), &json!({"isActive": false})).await.expect(200);
    assert_eq!(act("/resume").await, is(false, "inactive", true));
}

on_both!(a_backlog_says_whose_it_is);
async fn a_backlog_says_whose_it_is() {
    let world = World::start().await;
    let hook = world.hook(Receiver::ok(), json!({"name": "Orders"})).await;
    world.client().act(&hook.path("/pause")).await.expect(200);
    world.publish("message.sent").await;
    backlog_when(&world, &hook, "the delivery is held", |backlog| backlog["held"] == 1).await;

    for client in [world.client(), &world.admin()] {
        let listed = client.walk("/backlogs").await;
        assert_eq!((&listed[0]["name"], &listed[0]["tenantId"]), (&json!("Orders"), &json!(world.tenant.id)));
    }
}
