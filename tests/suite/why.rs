//! The `why` of a backlog: brings about every cause that a test can on a running server and checks the sentence that
//! names it. It prints the table of causes; `cargo nextest run --no-capture` shows it. A full journal, too few
//! descriptors and too many payloads in memory pass too quickly to be observed: `engine/backlog/why` tests their
//! sentences.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::databases::On;
use crate::support::fact;
use crate::support::fleet::{Fleet, make_hooks};
use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::rows;
use crate::support::world::{World, text};

/// An endpoint is quarantined after some 13 s of restarts.
const PATIENCE: Duration = Duration::from_secs(60);

/// Retries far enough in the future to be observed.
fn late_retries(most: u64) -> Value {
    json!({"maxRetries": most, "backoffStrategy": "schedule", "scheduleSeconds": [3600]})
}

/// Crashes, of which the test observes at least one in time.
const CRASHES: u32 = 30;

/// Batches of a thousand events that a node reads back after a crash, before the event that the test looks at: enough that
/// reading them takes longer than a look.
const BATCHES: usize = 24;

/// The sentence of each case.
#[derive(Default)]
struct Table(Vec<(&'static str, String)>);

impl Table {
    /// Waits until the sentence is the expected one, apart from times, ids and the like.
    async fn expect(&mut self, world: &World, hook: &Hook, case: &'static str, expected: &str) {
        let (what, mut last) = (format!("{case}: {expected}"), String::new());
        let said = fact::until_within(PATIENCE, &what, async || {
            let backlog = world.client().get(&hook.path("/backlog")).await.expect(200);
            let why = backlog["why"].as_str().unwrap_or("null");
            if normalised(why) == expected {
                assert_is_in_the_future(&backlog);
                return Some(why.to_owned());
            }
            if why != last {
                println!("{case}, so far: {why}");
                why.clone_into(&mut last);
            }
            None
        });
        let said = said.await;
        self.0.push((case, said));
    }

    fn print(&self) {
        for (case, said) in &self.0 {
            println!("| {case} | {said} |");
        }
    }
}

fn assert_is_in_the_future(backlog: &Value) {
    if let Some(at) = backlog["nextAttemptAt"].as_str() {
        assert!(
            at > backlog["asOf"].as_str().unwrap_or_default(),
            "timestamps of this form sort like texts: {backlog}"
        );
    }
}

/// The sentence with `…` for the parts that differ each time.
fn normalised(why: &str) -> String {
    let word = |word: &str| {
        let bare = word.trim_end_matches([';', ',', '.', ':']);
        let rest = &word[bare.len()..];
        let is_time = bare.starts_with("20") && bare.ends_with('Z');
        let is_id = ["dlv_", "evt_", "key_"].iter().any(|prefix| bare.starts_with(prefix));
        let is_place = bare.starts_with("src/");
        if is_time || is_id || is_place { format!("…{rest}") } else { word.to_owned() }
    };
    let words: Vec<String> = why.split(' ').map(word).collect();
    // One or two further crashes may have happened before the test looked.
    let text = words.join(" ").replace(" time, last", " times, last");
    let crashed = text.contains(" times, last").then_some("crashed ");
    [Some("may start in "), crashed].into_iter().flatten().fold(text, |text, before| match text.split_once(before) {
        Some((start, rest)) => {
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{start}{before}…{rest}")
        }
        None => text,
    })
}

/// Creates a webhook for one event type.
async fn hook(world: &World, kind: &str, receiver: Receiver, mut settings: Value) -> Hook {
    settings["events"] = json!([kind]);
    settings["name"] = json!(kind);
    settings["timeoutMs"] = json!(30_000);
    world.hook(receiver, settings).await
}

async fn publish(world: &World, kind: &str, times: usize) {
    for _ in 0..times {
        world.publish(kind).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_state_and_cause_is_named_with_what_ends_it() {
    let mut table = Table::default();
    states(&mut table).await;
    days_of_failures(&mut table).await;
    failures(&mut table).await;
    full_lanes(&mut table).await;
    crashes(&mut table).await;
    places(&mut table).await;
    after_a_crash(&mut table).await;
    while_it_stops(&mut table).await;
    On::Postgres.run(while_it_is_purged(&mut table)).await;
    On::Postgres.run(while_it_is_handed_over(&mut table)).await;
    On::Postgres.run(without_a_lease(&mut table)).await;
    table.print();
}

async fn states(table: &mut Table) {
    let world = World::start().await;
    let idle = hook(&world, "idle.a", Receiver::ok(), json!({})).await;
    table.expect(&world, &idle, "nothing is pending", "null").await;

    let off = hook(&world, "off.a", Receiver::ok(), json!({})).await;
    world.client().patch(&off.path(""), &json!({"isActive": false})).await.expect(200);
    let expected =
        "switched off by its owner: it gets no new events, and what it is owed is kept; switch it on to send it";
    table.expect(&world, &off, "switched off by its owner", expected).await;

    let gone = hook(&world, "gone.a", Receiver::status(410), json!({})).await;
    publish(&world, "gone.a", 1).await;
    let expected = "suspended since …: its receiver answered 410 Gone; its events stay owed; no probe is sent; change its \
                    URL, or probe it";
    table.expect(&world, &gone, "suspended by a 410", expected).await;

    let paused = hook(&world, "paused.a", Receiver::ok(), json!({})).await;
    world.client().act(&paused.path("/pause")).await.expect(200);
    publish(&world, "paused.a", 2).await;
    table.expect(&world, &paused, "paused", "paused since … by …; resume it to let its deliveries flow").await;
}

/// The test sets the beginning of the failures back by an hour in the row.
async fn days_of_failures(table: &mut Table) {
    let mut world = World::start().await;
    let settings = json!({"disableAfterSeconds": 3600, "retryPolicy": {"maxRetries": 0}});
    let failing = hook(&world, "failing.a", Receiver::status(500), settings).await;
    let event = world.publish("failing.a").await;
    world.settled(&event).await;
    world.stop().await;
    rows::tamper(&world, "UPDATE endpoint_health SET failing_since = failing_since - 3600000");
    world.restart().await;
    publish(&world, "failing.a", 1).await;
    let expected = "suspended since …: every attempt has failed since …, the last rejected (500); its events stay owed; \
                    next probe …; a success ends the suspension, and so does a change of its URL";
    table.expect(&world, &failing, "suspended after days of failures", expected).await;
}

async fn failures(table: &mut Table) {
    let world = World::start().await;
    let (receiver, answer) = Receiver::told(500);
    let breaker = json!({"failureThreshold": 3, "cooldownSeconds": 3600, "maxCooldownSeconds": 3600});
    let settings = json!({"breaker": breaker, "retryPolicy": late_retries(3)});
    let open = hook(&world, "open.a", receiver, settings).await;
    publish(&world, "open.a", 5).await;
    let expected = "breaker open after 3 failures, the last rejected (500); next probe …";
    table.expect(&world, &open, "circuit open", expected).await;
    answer.store(0, Ordering::Relaxed);
    publish(&world, "open.a", 1).await;
    world.client().act(&open.path("/probe")).await.expect(200);
    let expected = "breaker half-open after 3 failures, the last rejected (500); a probe is under way";
    table.expect(&world, &open, "circuit half-open", expected).await;

    let retry = hook(&world, "retry.a", Receiver::status(503), json!({"retryPolicy": late_retries(3)})).await;
    publish(&world, "retry.a", 1).await;
    let expected = "1 delivery waits for a retry; the first, …, failed with rejected (503) at …; retry 1 of 3 is at …";
    table.expect(&world, &retry, "waiting for a retry", expected).await;
    let delivery = text(&world.client().walk(&retry.path("/logs")).await[0], "id");
    world.client().act(&format!("/deliveries/{delivery}/cancel")).await.expect(200);
    let expected = "nothing is pending: … failed with rejected (503) and was cancelled before its next try";
    table.expect(&world, &retry, "cancelled after a failure", expected).await;

    let last = hook(&world, "last.a", Receiver::closes(), json!({"retryPolicy": {"maxRetries": 0}})).await;
    publish(&world, "last.a", 1).await;
    let expected = "nothing is pending: … failed with protocol_error (no valid HTTP answer: connection closed before message \
                    completed) after 1 attempt and has no retries left; retry it by hand";
    table.expect(&world, &last, "no retries left", expected).await;

    let settings = json!({"ordered": true, "retryPolicy": late_retries(2)});
    let ordered = hook(&world, "ordered.a", Receiver::status(500), settings).await;
    publish(&world, "ordered.a", 4).await;
    let expected =
        "strict order: 3 deliveries wait behind …, which failed with rejected (500) at …; retry 1 of 2 is at …";
    table.expect(&world, &ordered, "behind a failing head", expected).await;
}

async fn full_lanes(table: &mut Table) {
    let world = World::start().await;
    let settings = json!({"ordered": true});
    let ordered = hook(&world, "ordered.a", Receiver::hangs(), settings).await;
    publish(&world, "ordered.a", 3).await;
    let expected = "strict order: one request at a time; 2 deliveries wait for its answer";
    table.expect(&world, &ordered, "strict order, one under way", expected).await;

    let limit = json!({"rateLimit": {"requests": 2, "perSeconds": 3600, "burst": 2}});
    let limited = hook(&world, "limited.a", Receiver::ok(), limit).await;
    publish(&world, "limited.a", 5).await;
    let expected =
        "its rate limit of 2 requests in 3600 s is used up: 3 deliveries wait, the next request may start in … ms";
    table.expect(&world, &limited, "rate limit", expected).await;

    let slow = hook(&world, "slow.a", Receiver::hangs(), json!({})).await;
    publish(&world, "slow.a", 6).await;
    let expected = "4 of 16 requests at once are allowed, it begins with few and rises with answers that succeed; \
                    2 deliveries wait for the answers of 4";
    table.expect(&world, &slow, "slow start", expected).await;

    let full = hook(&world, "full.a", Receiver::hangs(), json!({"maxInFlight": 2})).await;
    publish(&world, "full.a", 3).await;
    let expected = "2 of 2 requests at once are under way; 1 delivery waits for their answers";
    table.expect(&world, &full, "all requests at once under way", expected).await;

    let (receiver, answer) = Receiver::told(429);
    let reduced = hook(&world, "reduced.a", receiver, json!({"retryPolicy": late_retries(3)})).await;
    publish(&world, "reduced.a", 1).await;
    let expected = "1 delivery waits for a retry; the first, …, failed with throttled (429) at …; retry 1 of 3 is at …";
    table.expect(&world, &reduced, "throttled once", expected).await;
    answer.store(0, Ordering::Relaxed);
    publish(&world, "reduced.a", 5).await;
    let expected = "2 of 16 requests at once are allowed, reduced after throttled (429); it rises again with answers that \
                    succeed; 3 deliveries wait for the answers of 2; besides, 1 delivery waits for a retry; the first, …, \
                    failed with throttled (429) at …; retry 1 of 3 is at …";
    table.expect(&world, &reduced, "reduced concurrency", expected).await;
}

async fn crashes(table: &mut Table) {
    let fault = [("POSTHASTE_FAULT", "panic:endpoint.handle:1+"), ("POSTHASTE_FAULT_WEBHOOK", "crash.a")];
    let world = World::with(&fault).await;
    let victim = hook(&world, "crash.a", Receiver::ok(), json!({})).await;
    publish(&world, "crash.a", 1).await;
    let expected = "its actor crashed … times, last at …; it is started again within 30 s";
    table.expect(&world, &victim, "its actor crashed", expected).await;
    fact::until_within(PATIENCE, "the endpoint is quarantined", async || {
        world.publish("crash.a").await;
        let backlog = world.client().get(&victim.path("/backlog")).await.expect(200);
        (backlog["state"] == "quarantined").then_some(())
    })
    .await;
    let expected = "its actor crashed 8 times in a row, last at …; resume or probe it to start it again";
    table.expect(&world, &victim, "quarantined", expected).await;
}

async fn places(table: &mut Table) {
    let world = World::with(&[("POSTHASTE_MAX_IN_FLIGHT", "2")]).await;
    let first = hook(&world, "first.a", Receiver::hangs(), json!({})).await;
    let second = hook(&world, "second.a", Receiver::hangs(), json!({})).await;
    publish(&world, "first.a", 1).await;
    first.receiver.was_asked(1).await;
    // After a second, a request counts as slow.
    publish(&world, "first.a", 1).await;
    first.receiver.was_asked(2).await;
    publish(&world, "second.a", 1).await;
    let expected =
        "1 request waits for a place: 1 of the node's 1 places for healthy webhooks are in use; tenants take turns";
    table.expect(&world, &second, "no place left", expected).await;
}

async fn after_a_crash(table: &mut Table) {
    let mut world = World::start().await;
    let _many = hook(&world, "many.a", Receiver::hangs(), json!({})).await;
    let last = hook(&world, "last.a", Receiver::hangs(), json!({})).await;
    let batch: Vec<Value> = (0..1000).map(|_| json!({"event": "many.a", "data": {}})).collect();
    let batch = json!({"events": batch});
    let mut end = batch.clone();
    end["events"].as_array_mut().expect("a list").push(json!({"event": "last.a", "data": {}}));
    end["events"].as_array_mut().expect("a list").remove(0);
    for body in std::iter::repeat_n(&batch, BATCHES).chain([&end]) {
        world.client().post("/events/batch", body).await.expect(202);
    }
    let expected = "this node is still reading what was accepted before; 1 delivery waits to be sent";
    // The state is short, and a look may miss it. Everything is still owed, so the next crash leads to the state again.
    for crash in 1.. {
        world.kill();
        world.ended().await;
        world.restart().await;
        let backlog = world.client().get(&last.path("/backlog")).await.expect(200);
        let why = backlog["why"].as_str().unwrap_or("null").to_owned();
        if normalised(&why) == expected {
            table.0.push(("recovery after a crash", why));
            break;
        }
        assert!(crash < CRASHES, "after {crash} crashes: {why}");
    }
}

async fn while_it_stops(table: &mut Table) {
    let mut world = World::start().await;
    let slow = hook(&world, "slow.a", Receiver::hangs(), json!({"maxInFlight": 1})).await;
    publish(&world, "slow.a", 2).await;
    slow.receiver.was_asked(1).await;
    world.server().terminate();
    let expected =
        "this node is stopping and begins nothing; what is pending is sent after the start, or by another node";
    table.expect(&world, &slow, "the node is stopping", expected).await;
    world.kill();
    world.ended().await;
}

/// The test locks the webhook's row, so that the purge has to wait.
async fn while_it_is_purged(table: &mut Table) {
    let world = World::start().await;
    let purged = hook(&world, "purged.a", Receiver::status(500), json!({"retryPolicy": late_retries(3)})).await;
    publish(&world, "purged.a", 1).await;
    let has_row = async || (world.database().ask("SELECT count(*) FROM delivery").trim() == "1").then_some(());
    fact::until("the delivery has a row", has_row).await;
    let mut holder = world.database().begin("BEGIN; SELECT 1 FROM delivery FOR UPDATE; SELECT pg_sleep(600); ROLLBACK");
    let of_holder = |what: &str| {
        let is_holder = "wait_event = 'PgSleep' AND datname = current_database()";
        world.database().ask(&format!("SELECT {what} FROM pg_stat_activity WHERE {is_holder}"))
    };
    fact::until("the row is locked", async || (of_holder("count(*)").trim() == "1").then_some(())).await;
    let path = purged.path("/purge");
    let expected = "its backlog is being purged; what is not purged is sent after that";
    let looked = async {
        table.expect(&world, &purged, "a purge is under way", expected).await;
        of_holder("pg_terminate_backend(pid)");
    };
    let (answer, ()) = tokio::join!(world.client().act(&path), looked);
    assert_eq!(answer.expect(200)["cancelled"], 1);
    let ended = async || holder.try_wait().expect("a child");
    fact::until("the row's lock is released", ended).await;
}

/// Only `/backlogs` shows this state: meanwhile a request for one backlog is forwarded or refused. A node stops serving
/// a shard at a survey, once a second, if no request has been under way for a second. The shard moves once its requests
/// have ended.
async fn while_it_is_handed_over(table: &mut Table) {
    let mut fleet = Fleet::of_one(("POSTHASTE_LEASE_MS", "15000")).await;
    let settings = json!({"maxInFlight": 1, "timeoutMs": 30_000});
    let make = |_| (Receiver::answers_after(Duration::from_secs(5)), settings.clone());
    let _hooks = make_hooks(&fleet, 8, make).await;
    publish(&fleet.world, "moved.a", 20).await;
    let client = fleet.world.client().clone();
    let expected = "its shard is being handed over to another node, which goes on within seconds";
    let is_moved = async || {
        let backlogs = client.walk("/backlogs").await;
        backlogs.iter().any(|backlog| backlog["why"] == expected).then_some(())
    };
    tokio::join!(fact::until_within(PATIENCE, expected, is_moved), fleet.join());
    table.0.push(("its shard is handed over", expected.to_owned()));
}

/// The test locks the node's row, so that the lease cannot be renewed while everything can still be read.
async fn without_a_lease(table: &mut Table) {
    let world = World::start().await;
    let held = hook(&world, "held.a", Receiver::hangs(), json!({"maxInFlight": 1})).await;
    publish(&world, "held.a", 2).await;
    held.receiver.was_asked(1).await;
    let hold = "BEGIN; SELECT num FROM node FOR UPDATE; SELECT pg_sleep(10); ROLLBACK";
    let mut holder = world.database().begin(hold);
    let expected = "this node's lease has ended and it sends nothing; it goes on once the database renews the lease, or \
                    another node takes over";
    table.expect(&world, &held, "lease lost", expected).await;
    let ended = async || holder.try_wait().expect("a child");
    assert!(fact::until_within(PATIENCE, "the row's lock is released", ended).await.success());
}
