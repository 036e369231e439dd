//! Receivers come back or an operator resumes a backlog: much is due at once, and no receiver is overloaded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};

use crate::support::client::send;
use crate::support::fact;
use crate::support::receiver::{Receiver, Reply, Request};
use crate::support::world::World;

/// Long enough that requests would overlap if nothing prevented it.
const ANSWERING: Duration = Duration::from_millis(20);

/// Permits; an eighth of them is for failing endpoints.
const PLACES: usize = 128;

/// The number of endpoints: ten thousand in the long form.
fn endpoints() -> usize {
    std::env::var("POSTHASTE_RECOVERING_ENDPOINTS").map_or(1_000, |count| count.parse().expect("a number"))
}

/// Creates `count` webhooks for one event type, each with a cool-down of two seconds.
async fn subscribe(world: &World, url: &str, count: usize) {
    let webhook = json!({
        "name": "One of many", "url": url, "events": ["call.failed"],
        "retryPolicy": {"maxRetries": 20, "backoffStrategy": "schedule", "scheduleSeconds": [1]},
        "breaker": {"failureThreshold": 1, "cooldownSeconds": 2, "maxCooldownSeconds": 2},
    });
    let created =
        stream::iter(0..count).map(|_| async { world.client().post("/webhooks", &webhook).await.expect(201) });
    created.buffer_unordered(16).for_each(async |_: Value| {}).await;
}

/// The largest number of requests under way at once.
fn most_at_once(requests: &[Request]) -> usize {
    let began = requests.iter().map(|request| (request.arrived, 1_isize));
    let ended = requests.iter().filter_map(|request| request.answered).map(|at| (at, -1));
    let mut moments: Vec<(Instant, isize)> = began.chain(ended).collect();
    moments.sort_unstable();
    let under_way = moments.iter().scan(0, |under_way, (_, change)| {
        *under_way += change;
        Some(*under_way)
    });
    under_way.max().unwrap_or(0).cast_unsigned()
}

async fn statements(world: &World) -> f64 {
    let metrics = send(world.admin().root(reqwest::Method::GET, "/metrics")).await.text;
    let line = metrics.lines().find_map(|line| line.strip_prefix("posthaste_journal_statements_total "));
    line.and_then(|value| value.parse().ok()).expect("a count of statements")
}

#[tokio::test]
async fn endpoints_that_recover_at_once_are_spread_out_and_bound_what_the_database_does() {
    let places = PLACES.to_string();
    let world = World::with(&[("POSTHASTE_MAX_IN_FLIGHT", places.as_str())]).await;
    let neighbour = world.hook(Receiver::ok(), json!({"events": ["message.sent"]})).await;
    let status = Arc::new(AtomicU16::new(500));
    let script = status.clone();
    let receiver = Receiver::says(move |_| Reply::After(ANSWERING, script.load(Ordering::Relaxed)));
    let count = endpoints();
    subscribe(&world, &receiver.url("/"), count).await;
    let patience = Duration::from_secs(60) + ANSWERING * u32::try_from(count).unwrap();

    let event = world.publish("call.failed").await;
    assert_eq!(event.matched, count as u64);
    fact::until_within(patience, "every one of them fails", async || {
        let requests = receiver.requests();
        let asked: HashSet<&str> = requests.iter().map(|request| request.header("X-Webhook-Delivery")).collect();
        (asked.len() == count).then_some(())
    })
    .await;
    let failed = receiver.requests().len();
    status.store(200, Ordering::Relaxed);
    let before = statements(&world).await;
    let mut beside = Vec::new();
    fact::until_within(patience, "all of them recover", async || {
        beside.push(world.publish("message.sent").await.id);
        (receiver.accepted() >= count).then_some(())
    })
    .await;
    neighbour.saw(beside.len()).await;

    let requests = receiver.requests();
    let mut accepted: HashMap<&str, usize> = HashMap::new();
    let is_good = |request: &&Request| request.status == Some(200);
    for request in requests.iter().filter(is_good) {
        *accepted.entry(request.header("X-Webhook-Delivery")).or_default() += 1;
    }
    assert_eq!(accepted.len(), count);
    assert!(accepted.values().all(|times| *times == 1), "nothing is sent twice");
    let probes: Vec<Request> = requests.iter().filter(is_good).cloned().collect();
    assert!(most_at_once(&probes) <= PLACES / 8, "{} at once", most_at_once(&probes));
    let spent = statements(&world).await - before;
    let made = (requests.len() - failed + beside.len()) as f64;
    assert!(spent < 2.0 * made, "{spent} statements for {made} requests");
}

#[tokio::test]
async fn a_backlog_that_is_let_go_drains_in_order_and_no_faster_than_its_endpoint_may() {
    let world = World::start().await;
    let settings = json!({"maxInFlight": 1, "rateLimit": {"requests": 100, "perSeconds": 1, "burst": 1}});
    let hook = world.hook(Receiver::ok(), settings).await;
    world.client().act(&hook.path("/pause")).await.expect(200);
    let mut published = Vec::new();
    // More than a lane keeps in memory.
    for _ in 0..400 {
        published.push(world.publish("message.sent").await.id);
    }
    fact::until("all deliveries have rows: one without a row would be sent at once", async || {
        let waiting = world.client().walk(&hook.path("/logs?status=pending")).await;
        (waiting.len() == published.len()).then_some(())
    })
    .await;

    world.client().act(&hook.path("/resume")).await.expect(200);
    hook.saw(published.len()).await;

    assert_eq!(hook.accepted_events(), published);
    let requests = hook.requests();
    let took = requests[399].arrived.duration_since(requests[0].arrived);
    assert!(took >= Duration::from_millis(399 * 10 - 20), "{took:?}: never faster than 100 a second");
}
