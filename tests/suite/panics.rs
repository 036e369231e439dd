//! A panic inside the server is contained: the endpoint is restarted and loses nothing, and no other webhook notices.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::checker::audit;
use crate::support::client::send;
use crate::support::databases::On;
use crate::support::fact;
use crate::support::fleet::{Fleet, make_hooks};
use crate::support::hook::{Hook, quick_retries};
use crate::support::receiver::Receiver;
use crate::support::world::{Event, World, attempts, each_attempt, text};

const EVENTS: usize = 20;

/// F20: an endpoint that panicked is back within a second; the other half second is for a busy machine.
const BACK: Duration = Duration::from_millis(1_500);

/// Commits, one after the other, until an endpoint is back; on a busy disk each takes long.
const COMMITS: u32 = 20;

/// A busy machine may fail one run, but not three in a row.
#[tokio::test]
async fn an_endpoint_that_panics_comes_back_soon() {
    let mut waits = Vec::new();
    for _ in 0..3 {
        let (wait, commit) = comes_back_and_loses_nothing().await;
        waits.push((wait, commit));
        if wait < BACK + commit * COMMITS {
            return;
        }
    }
    panic!("{waits:?}");
}

/// Returns how long the last event had to wait, and how long one commit takes at that time.
async fn comes_back_and_loses_nothing() -> (Duration, Duration) {
    let (mut world, victim, other) = world_with_victim("panic:endpoint.handle:3").await;

    let begun = Instant::now();
    let events = publish_all(&world).await;
    let published = Instant::now();
    let commit = (published - begun) / u32::try_from(events.len()).unwrap();

    audit(&world, &[&victim, &other], events.clone(), 1).await;
    let last = victim.requests().iter().map(|request| request.arrived).max().expect("a request");
    let wanted: Vec<&String> = events.iter().map(|event| &event.id).collect();
    for hook in [&victim, &other] {
        let accepted = hook.accepted_events();
        assert!(wanted.iter().all(|id| accepted.contains(id)), "{} of {EVENTS} arrived", accepted.len());
    }
    assert_untouched(&world, &other, &events).await;
    assert_panicked_and_lives(&mut world).await;
    (last.saturating_duration_since(published), commit)
}

#[tokio::test]
async fn an_endpoint_that_panics_again_and_again_is_left_alone_until_it_is_resumed() {
    let (mut world, victim, other) = world_with_victim("panic:endpoint.handle:1+").await;
    let state = async |world: &World| world.client().get(&victim.path("/backlog")).await.expect(200);

    let mut events = Vec::new();
    let quarantined = fact::until_within(Duration::from_secs(40), "the endpoint is quarantined", async || {
        events.push(world.publish("message.sent").await);
        let backlog = state(&world).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        (backlog["state"] == "quarantined").then_some(backlog)
    });
    let quarantined = quarantined.await;
    assert!(quarantined["why"].as_str().is_some_and(|why| why.contains("crashed 8 times")), "{quarantined}");
    assert_eq!(quarantined["actor"]["live"], false);
    let held = world.publish("message.sent").await;
    other.saw(events.len() + 1).await;
    assert_eq!(delivery_status(&world, &victim, &held).await, "pending");
    let refused = world.client().act(&victim.path("/test")).await.problem(409);
    assert_eq!(refused.code(), "webhook_quarantined");
    assert!(refused.detail().contains("crashed 8 times") && refused.detail().contains("resume"), "{refused:?}");

    world.client().act(&victim.path("/resume")).await.expect(200);
    for change in ["endpoint quarantined", "quarantine ended"] {
        let log = world.server().output().stderr();
        let line = log.lines().find(|line| line.contains(change)).unwrap_or_else(|| panic!("no line: {change}"));
        assert!(line.contains(&victim.id) && line.contains(&world.tenant.id), "{line}");
    }

    events.push(held);
    for event in &events {
        let delivery = delivery_to(&world, &victim, event).await;
        assert_eq!(delivery["status"], "success", "{delivery}");
    }
    assert_untouched(&world, &other, &events).await;
    world.stop().await;
}

async fn delivery_status(world: &World, hook: &Hook, event: &Event) -> String {
    let deliveries = world.deliveries_of(&event.id).await;
    let delivery = deliveries.iter().find(|delivery| delivery["webhookId"] == hook.id).expect("a delivery");
    text(delivery, "status")
}

#[tokio::test]
async fn an_attempt_that_panics_is_on_record_as_crashed_and_is_retried() {
    for fault in ["panic:attempt.admission:1", "panic:attempt.task:1"] {
        is_on_record_as_crashed_and_is_retried(fault).await;
    }
}

async fn is_on_record_as_crashed_and_is_retried(fault: &str) {
    let (mut world, victim, other) = world_with_victim(fault).await;

    let events = publish_all(&world).await;

    audit(&world, &[&victim, &other], events.clone(), 0).await;
    let mut crashed = 0;
    for event in &events {
        let delivery = delivery_to(&world, &victim, event).await;
        assert_eq!(delivery["status"], "success", "{delivery}");
        if attempts(&delivery).len() > 1 {
            assert_eq!(each_attempt(&delivery, "outcome"), ["crashed", "success"]);
            assert_eq!(each_attempt(&delivery, "trigger"), ["scheduled", "retry"]);
            crashed += 1;
        }
    }
    assert_eq!(crashed, 1);
    assert_untouched(&world, &other, &events).await;
    assert_panicked_and_lives(&mut world).await;
}

async fn world_with_victim(fault: &str) -> (World, Hook, Hook) {
    let log = ("POSTHASTE_LOG", "warn,posthaste::endpoint=info");
    let world = World::with(&[("POSTHASTE_FAULT", fault), ("POSTHASTE_FAULT_WEBHOOK", "victim"), log]).await;
    let settings = |name: &str| json!({"name": name, "retryPolicy": quick_retries(3)});
    let victim = world.hook(Receiver::ok(), settings("victim")).await;
    let other = world.hook(Receiver::ok(), settings("bystander")).await;
    (world, victim, other)
}

async fn publish_all(world: &World) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..EVENTS {
        events.push(world.publish("message.sent").await);
    }
    events
}

/// Asserts that the bystander got each event once, at the first attempt.
async fn assert_untouched(world: &World, bystander: &Hook, events: &[Event]) {
    assert_eq!(bystander.requests().len(), events.len());
    for event in events {
        let delivery = delivery_to(world, bystander, event).await;
        assert_eq!(each_attempt(&delivery, "outcome"), ["success"], "{delivery}");
    }
}

async fn delivery_to(world: &World, hook: &Hook, event: &Event) -> Value {
    let deliveries = world.all_settled(event).await;
    let delivery = deliveries.iter().find(|delivery| delivery["webhookId"] == hook.id).expect("a delivery");
    world.delivery(&text(delivery, "id")).await
}

/// Asserts that the fault fired and the process survived.
async fn assert_panicked_and_lives(world: &mut World) {
    let server = world.server();
    assert!(server.lives());
    assert!(server.output().all().contains("panic"), "nothing panicked: {}", server.output().all());
    let event = world.publish("message.sent").await;
    world.all_settled(&event).await;
    world.stop().await;
}

/// Quarantined endpoints in the metrics of one node.
async fn quarantined_here(world: &World) -> usize {
    let metrics = send(world.admin().root(reqwest::Method::GET, "/metrics")).await.text;
    let line = metrics.lines().find_map(|line| line.strip_prefix("posthaste_endpoints_quarantined "));
    line.and_then(|value| value.parse().ok()).expect("a count")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_left_alone_is_forgotten_when_another_node_deletes_its_webhook() {
    On::Postgres.run(deleted_by_another_node()).await;
}

async fn deleted_by_another_node() {
    let fault = [("POSTHASTE_FAULT", "panic:endpoint.handle:1+"), ("POSTHASTE_FAULT_WEBHOOK", "victim")];
    let mut fleet = Fleet::of_one_with(&fault).await;
    let settings = json!({"name": "victim", "events": ["message.sent"]});
    let hooks = make_hooks(&fleet, 6, |_| (Receiver::ok(), settings.clone())).await;
    fleet.grow_to(2).await;
    let of_first: Vec<String> = fleet.owned_by(0, &hooks).into_iter().map(|hook| hook.id.clone()).collect();
    assert!(!of_first.is_empty(), "of six webhooks the first node serves none");
    let all = fact::until_within(Duration::from_secs(90), "all of the first node are left alone", async || {
        fleet.world.publish("message.sent").await;
        (quarantined_here(&fleet.world).await == of_first.len()).then_some(())
    });
    all.await;

    fleet.clients()[1].delete(&format!("/webhooks/{}", of_first[0])).await.expect(204);

    fact::until("the first node has dropped a quarantined endpoint", async || {
        (quarantined_here(&fleet.world).await == of_first.len() - 1).then_some(())
    })
    .await;
    fleet.stop_all().await;
}
