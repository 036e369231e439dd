//! Several nodes serve one database as one engine would: each webhook gets an event once, whichever node accepted it,
//! and a node that dies, freezes, leaves or joins costs time and nothing else. `checker` has the invariants that must
//! hold after a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::support::client::Client;
use crate::support::databases::On;
use crate::support::fact;
use crate::support::fleet::{Fleet, make_hooks};
use crate::support::hook::{Hook, quick_retries};
use crate::support::load::{Load, TYPES};
use crate::support::receiver::{Receiver, Reply, Request};
use crate::support::world::{Event, each_attempt};

const NODES: usize = 3;

/// Enough that every node owns some of them.
const HOOKS: usize = 24;
const HOOKS_UNDER_LOAD: usize = 12;

/// For tests in which no node dies: a long lease, so that a busy machine does not make a node look dead.
const PATIENT: (&str, &str) = ("POSTHASTE_LEASE_MS", "15000");

const LEASE: Duration = Duration::from_secs(2);
const QUICK_LEASE: (&str, &str) = ("POSTHASTE_LEASE_MS", "2000");

/// By then receivers have read what a dead node's process had handed to the kernel.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// A takeover is specified to take the lease and 5 s; a busy machine gets more time.
const TAKEOVER: Duration = Duration::from_secs(30);

/// 50,000 in the long form; see [`number`].
const DELIVERIES: usize = 3_000;
const KILLS: usize = 4;
const TIMED: usize = 30;

/// F4: the answer that a frozen node waits for arrives during the freeze, and the node finds it after the thaw.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
const EVENTS_OF_A_FREEZE: usize = 10;

/// How often the same event is published on all nodes at once, and how many events are published one after the other.
const RACES: usize = 60;
const IN_ORDER: usize = 50;

/// The wait before the first retry.
const LEAST_RETRY: Duration = Duration::from_secs(1);

/// Concurrent publishers.
const PUBLISHERS: usize = 8;

/// The number in the environment variable, which the long form sets, or else `plain`.
fn number(variable: &str, plain: usize) -> usize {
    std::env::var(variable).map_or(plain, |n| n.parse().expect("a number"))
}

/// Creates webhooks that divide the event types of the load among them.
async fn hooks_for_load(fleet: &Fleet, receivers: impl Fn(usize) -> Receiver) -> Vec<Hook> {
    let settings = |n: usize| json!({"events": [TYPES[n % TYPES.len()]], "retryPolicy": quick_retries(20)});
    make_hooks(fleet, HOOKS_UNDER_LOAD, |n| (receivers(n), settings(n))).await
}

async fn publish(client: &Client, kind: &str) -> Event {
    Event::from(&client.post("/events", &json!({"event": kind, "data": {"hello": "world"}})).await.expect(202))
}

/// Counts how often each event arrived.
fn times(hook: &Hook) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for request in hook.requests() {
        *times.entry(request.header("webhook-id").to_owned()).or_default() += 1;
    }
    times
}

pub(crate) fn assert_no_duplicates(hooks: &[Hook]) {
    for hook in hooks {
        let twice: Vec<_> = times(hook).into_iter().filter(|(_, times)| *times > 1).collect();
        assert!(twice.is_empty(), "{} got these more than once: {twice:?}", hook.id);
    }
}

/// The longest gap between arrivals at a webhook that should have received events all the time.
fn longest_gap(hook: &Hook) -> Duration {
    let requests = hook.receiver.requests();
    let gaps = requests.windows(2).map(|pair| pair[1].arrived.saturating_duration_since(pair[0].arrived));
    gaps.max().unwrap_or_default()
}

fn print_gaps(hooks: &[Hook]) {
    let gaps: Vec<u128> = hooks.iter().map(|hook| longest_gap(hook).as_millis()).collect();
    println!("longest gaps between arrivals, by webhook: {gaps:?} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_published_on_any_node_arrive_once_at_every_webhook() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(PATIENT).await;
            let hooks = make_hooks(&fleet, HOOKS, |_| (Receiver::ok(), json!({}))).await;
            fleet.grow_to(NODES).await;
            let clients = fleet.clients();
            let count = number("POSTHASTE_NODES_DELIVERIES", DELIVERIES).div_ceil(HOOKS);

            let began = Instant::now();
            let published = (0..count).map(|n| publish(&clients[n % NODES], "message.sent"));
            let published: Vec<Event> = stream::iter(published).buffer_unordered(PUBLISHERS).collect().await;
            assert!(published.iter().all(|event| event.matched == HOOKS as u64 && !event.duplicate));
            let patience = fact::DEADLINE + Duration::from_millis(10) * u32::try_from(count * HOOKS).unwrap();
            for hook in &hooks {
                hook.receiver.saw_within(patience, count).await;
            }
            let took = began.elapsed();

            // All attempts are recorded before further ones can begin.
            for event in &published {
                fleet.world.all_settled(event).await;
            }
            let wanted: BTreeMap<String, usize> = published.into_iter().map(|event| (event.id, 1)).collect();
            for hook in &hooks {
                assert_eq!(times(hook), wanted, "{}", hook.id);
            }
            println!("{count} events for {HOOKS} webhooks arrived once each, in {took:?}");
            fleet.stop_all().await;
            fleet.world.check_integrity().await;
        })
        .await;
}

/// A publisher without an answer in time asks another node, and may then get two answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_published_on_all_nodes_at_once_is_one_and_disturbs_nobody() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(PATIENT).await;
            let hooks = make_hooks(&fleet, 2, |_| (Receiver::ok(), json!({}))).await;
            fleet.grow_to(NODES).await;
            let clients = fleet.clients();

            let mut ids = BTreeSet::new();
            let mut others = 0;
            for n in 0..RACES {
                let body = json!({"event": "message.sent", "data": {}, "id": format!("race-{n}")});
                let same = join_all(clients.iter().map(|client| client.post("/events", &body)));
                let other = join_all(clients.iter().map(|client| publish(client, "message.sent")));
                let (same, other) = tokio::join!(same, other);
                let same: Vec<Event> = same.into_iter().map(|answer| Event::from(&answer.expect(202))).collect();
                let known: BTreeSet<String> = same.iter().map(|event| event.id.clone()).collect();
                assert_eq!(known.len(), 1, "race-{n} is more than one event: {same:?}");
                assert_eq!(same.iter().filter(|event| !event.duplicate).count(), 1, "{same:?}");
                ids.extend(known);
                others += other.len();
            }

            for hook in &hooks {
                hook.saw(RACES + others).await;
                let times = times(hook);
                assert_eq!(times.len(), RACES + others);
                assert!(times.values().all(|times| *times == 1) && ids.iter().all(|id| times.contains_key(id)));
            }
            fleet.stop_all().await;
        })
        .await;
}

/// I5: a publisher that gets an answer from one node and then publishes through another has published in this order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_webhook_sees_what_was_published_one_after_the_other_in_order_whatever_node_took_it() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(PATIENT).await;
            let ordered = json!({"ordered": true, "retryPolicy": quick_retries(20)});
            let hooks = make_hooks(&fleet, NODES, |_| (Receiver::fails_every(25), ordered.clone())).await;
            fleet.grow_to(NODES).await;

            let (clients, count) = (fleet.clients(), number("POSTHASTE_NODES_ORDERED", IN_ORDER));
            let published = join_all((0..NODES).map(async |publisher| {
                let mut published = Vec::new();
                for turn in 0..count {
                    // Each publisher uses all nodes in turn, and sometimes one node twice in a row.
                    let node = (publisher + turn + turn / 4) % NODES;
                    published.push(publish(&clients[node], "message.sent").await.id);
                }
                published
            }))
            .await;

            for hook in &hooks {
                let all = || (hook.receiver.accepted() >= count * NODES).then_some(());
                // Each failure delays all later events until its retry.
                let patience = Duration::from_secs(30) + LEAST_RETRY * u32::try_from(count * NODES / 10).unwrap();
                fact::until_within(patience, "all are accepted", async || all()).await;
                let accepted = hook.accepted_events();
                for of_one in &published {
                    let seen: Vec<&String> = accepted.iter().filter(|event| of_one.contains(event)).collect();
                    let differs = seen.iter().zip(of_one).position(|(seen, published)| *seen != published);
                    assert_eq!((differs, seen.len()), (None, count), "{} got these in another order", hook.id);
                }
            }
            fleet.stop_all().await;
        })
        .await;
}

/// F2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_killed_lose_nothing_and_others_take_over() {
    On::Postgres
        .run(async {
            let rounds = number("POSTHASTE_NODES_KILLS", KILLS);
            let mut fleet = Fleet::of_one(QUICK_LEASE).await;
            let hooks = hooks_for_load(&fleet, |n| match n % 4 {
                0 | 1 => Receiver::ok(),
                2 => Receiver::fails_every(5),
                _ => Receiver::answers_after(Duration::from_millis(20)),
            })
            .await;
            fleet.grow_to(NODES).await;
            let load = Arc::new(Load::default());

            let clients = fleet.clients();
            let took = load
                .publish_to_all(&clients, async {
                    let mut took = Vec::new();
                    for _ in 0..rounds {
                        took.extend(kill_one(&mut fleet, &hooks).await);
                        fleet.is_shared_out().await;
                    }
                    took
                })
                .await;

            println!("{rounds} nodes killed; from a kill to the next request of a webhook of that node, at worst:");
            println!("{took:?}, with a lease of {LEASE:?}");
            fleet.account(&hooks, &load, rounds).await;
        })
        .await;
}

/// Kills a random node and starts a new one. Returns the longest time that a webhook of that node waited for its next
/// request; `None` if the node owned no webhook.
async fn kill_one(fleet: &mut Fleet, hooks: &[Hook]) -> Option<Duration> {
    // The moment of the kill is deliberately a time and not a fact.
    tokio::time::sleep(Duration::from_millis(rand::random_range(200..1_500))).await;
    let victim = rand::random_range(0..NODES);
    let orphans = fleet.owned_by(victim, hooks);
    fleet.server(victim).kill();
    let killed = Instant::now();
    let resumed = async {
        let mut last = None;
        for hook in orphans {
            let what = format!("{} is served again", hook.id);
            let heard = async || hook.receiver.asked_after(killed + STRAGGLERS);
            last = last.max(Some(fact::until_within(TAKEOVER, &what, heard).await));
        }
        last.map(|last| last - killed)
    };
    let (took, ()) = tokio::join!(resumed, fleet.restart(victim));
    took
}

/// F5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_sends_nothing_twice_and_loses_nothing() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(PATIENT).await;
            let hooks = hooks_for_load(&fleet, prompt_or_slow).await;
            fleet.grow_to(NODES).await;
            let load = Arc::new(Load::default());

            let clients = fleet.clients();
            let meanwhile = async {
                for node in 0..NODES {
                    let asked = Instant::now();
                    fleet.stop(node).await;
                    println!("node {node} ended after {:?}", asked.elapsed());
                    fleet.restart(node).await;
                    fleet.is_shared_out().await;
                }
            };
            load.publish_to_all(&clients, meanwhile).await;

            fleet.account(&hooks, &load, 0).await;
            assert_no_duplicates(&hooks);
            print_gaps(&hooks);
        })
        .await;
}

pub(crate) fn prompt_or_slow(n: usize) -> Receiver {
    if n.is_multiple_of(2) { Receiver::ok() } else { Receiver::answers_after(Duration::from_millis(50)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_under_load_takes_its_share_and_nothing_is_sent_twice() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(PATIENT).await;
            let hooks = hooks_for_load(&fleet, prompt_or_slow).await;
            fleet.grow_to(2).await;
            let load = Arc::new(Load::default());

            let clients = fleet.clients();
            let meanwhile = async {
                all_are_asked(&hooks).await;
                let joins = Instant::now();
                fleet.grow_to(NODES).await;
                println!("shared out {:?} after the join began", joins.elapsed());
                all_are_asked(&hooks).await;
                assert_ne!(fleet.owned_by(2, &hooks).len(), 0, "the new node serves no webhook");
            };
            load.publish_to_all(&clients, meanwhile).await;

            fleet.account(&hooks, &load, 0).await;
            assert_no_duplicates(&hooks);
            print_gaps(&hooks);
        })
        .await;
}

/// A webhook with a slow receiver shares a shard with another webhook, and the shard has to move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_request_does_not_silence_the_other_webhooks_of_its_shard_when_that_is_to_move() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(PATIENT).await;
            let slow = json!({"events": ["slow"], "timeoutMs": 15_000, "retryPolicy": {"maxRetries": 0}});
            let mut hooks = make_hooks(&fleet, HOOKS_UNDER_LOAD, |_| (Receiver::hangs(), slow.clone())).await;
            // Makes the next webhooks' numbers fall into the same shards.
            fleet.world.database().ask("SELECT setval(pg_get_serial_sequence('webhook', 'num'), 256)");
            let prompt = json!({"events": ["prompt"]});
            hooks.extend(make_hooks(&fleet, HOOKS_UNDER_LOAD, |_| (Receiver::ok(), prompt.clone())).await);
            let (slow, prompt) = hooks.split_at(HOOKS_UNDER_LOAD);
            publish(fleet.world.client(), "slow").await;
            for hook in slow {
                hook.receiver.was_asked(1).await;
            }

            // After a second the endpoints count as slow.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            fleet.join().await;
            // After several surveys the first node has seen the second one and wants to hand over shards.
            tokio::time::sleep(Duration::from_secs(3)).await;
            publish(fleet.world.client(), "prompt").await;
            for hook in prompt {
                hook.saw(1).await;
            }
            assert!(slow.iter().all(|hook| hook.requests()[0].cut.is_none()), "the slow requests were over");

            let moved = async || (fleet.owned_by(1, &hooks).len() >= 2).then_some(());
            fact::until("a shard moves once its slow requests are over", moved).await;
            fleet.stop_all().await;
        })
        .await;
}

/// Waits until every webhook has received one more request.
pub(crate) async fn all_are_asked(hooks: &[Hook]) {
    let now = Instant::now();
    for hook in hooks {
        fact::until("the webhook gets a further request", async || hook.receiver.asked_after(now)).await;
    }
}

/// F4, with three nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_frozen_and_buried_sends_and_records_nothing_more_and_ends() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(QUICK_LEASE).await;
            let first_is_slow = |seen| if seen == 0 { Reply::After(FIRST_ANSWER, 200) } else { Reply::Status(200) };
            let one_by_one = json!({"maxInFlight": 1, "retryPolicy": quick_retries(20)});
            let make = |_| (Receiver::says(first_is_slow), one_by_one.clone());
            let hooks = make_hooks(&fleet, HOOKS_UNDER_LOAD, make).await;
            fleet.grow_to(NODES).await;
            let clients = fleet.clients();
            let mut published = Vec::new();
            for n in 0..EVENTS_OF_A_FREEZE {
                published.push(publish(&clients[n % 2], "message.sent").await);
            }
            for hook in &hooks {
                hook.receiver.was_asked(1).await;
            }

            let frozen = 2;
            let left = fleet.owned_by(frozen, &hooks);
            assert!(!left.is_empty(), "the frozen node serves no webhook");
            fleet.server(frozen).freeze();
            let since = Instant::now();
            for event in &published {
                fleet.world.all_settled(event).await;
            }
            fact::until("two leases have passed", async || (since.elapsed() > 2 * LEASE).then_some(())).await;
            let asked: Vec<usize> = hooks.iter().map(|hook| hook.requests().len()).collect();
            fleet.server(frozen).thaw();

            let status = fleet.server(frozen).ended().await;
            let said = fleet.server(frozen).output().stderr();
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.contains("another node has reaped this one; the process ends"), "{said}");
            let asked_since: Vec<usize> = hooks.iter().map(|hook| hook.requests().len()).collect();
            assert_eq!(asked_since, asked, "the frozen node sent something after its thaw");
            for hook in &left {
                assert_recovered(&fleet, hook).await;
            }
            fleet.restart(frozen).await;
            fleet.is_shared_out().await;
            let load = Load::promising(published);
            fleet.account(&hooks, &load, 1).await;
        })
        .await;
}

/// The request that was in flight when its node froze was sent again, and only the second attempt is recorded.
async fn assert_recovered(fleet: &Fleet, hook: &Hook) {
    let mut sent = BTreeMap::<String, usize>::new();
    for request in hook.requests() {
        *sent.entry(request.header("x-webhook-delivery").to_owned()).or_default() += 1;
    }
    let twice: Vec<_> = sent.iter().filter(|(_, times)| **times != 1).collect();
    let [(delivery, 2)] = &twice[..] else { panic!("{} saw {sent:?}", hook.id) };
    let delivery = fleet.world.delivery(delivery).await;
    assert_eq!(each_attempt(&delivery, "trigger"), ["recovery"], "{delivery}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_elsewhere_arrives_as_calls_are_heard_or_at_the_next_look() {
    On::Postgres
        .run(async {
            for poll_only in ["false", "true"] {
                let mut fleet = Fleet::of_one(("POSTHASTE_DATABASE_POLL_ONLY", poll_only)).await;
                let hooks = make_hooks(&fleet, HOOKS_UNDER_LOAD, |_| (Receiver::ok(), json!({}))).await;
                fleet.grow_to(2).await;
                let owned = fleet.owned_by(1, &hooks);
                for (node, client) in fleet.clients().iter().enumerate() {
                    let took = time_to_arrive(client, &owned).await;
                    let place = if node == 1 { "by its owner" } else { "elsewhere" };
                    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
                    println!("poll only {poll_only}, published {place}: p50 {:?}, p99 {:?}", at(50), at(99));
                }
            }
        })
        .await;
}

/// Times from before the publish to the arrival, sorted.
async fn time_to_arrive(client: &Client, hooks: &[&Hook]) -> Vec<Duration> {
    let mut asked = BTreeMap::new();
    for _ in 0..number("POSTHASTE_NODES_TIMED", TIMED) {
        let now = Instant::now();
        asked.insert(publish(client, "message.sent").await.id, now);
        // At a random moment between two scans.
        tokio::time::sleep(Duration::from_millis(rand::random_range(10..60))).await;
    }
    let mut took = Vec::new();
    for hook in hooks {
        let arrived = fact::until("all have arrived", async || {
            let requests = hook.receiver.requests();
            let arrived =
                |request: &Request| Some((asked.get(request.header("webhook-id"))?.to_owned(), request.arrived));
            let arrived: Vec<_> = requests.iter().filter_map(arrived).collect();
            (arrived.len() >= asked.len()).then_some(arrived)
        })
        .await;
        took.extend(arrived.into_iter().map(|(asked, arrived)| arrived - asked));
    }
    took.sort_unstable();
    took
}
