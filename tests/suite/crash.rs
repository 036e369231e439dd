//! A server that is killed at any moment keeps every promise that it made and can explain every request that it sent.
//! `checker` has the invariants that must hold afterwards.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::support::checker::audit;
use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::hook::{Hook, quick_retries};
use crate::support::load::{Load, mixed_hooks};
use crate::support::receiver::Receiver;
use crate::support::world::World;

/// Enough to hit most kinds of moments; `POSTHASTE_CRASH_ROUNDS` sets another number.
const ROUNDS: usize = 20;

/// In this many rounds some crash is practically certain to cut a request short.
const ROUNDS_THAT_MUST_HIT: usize = 10;

/// The publishers of a round continue until the server dies.
const WITHOUT_END: usize = usize::MAX;

/// Calls of each publisher on the way to a fault point: more than enough to reach the wanted passage.
const CALLS_TO_A_FAULT: usize = 20;

/// Few rounds, because an ordered webhook takes one event at a time.
const ORDERED_ROUNDS: usize = 5;
const CALLS_OF_A_ROUND: usize = 25;

/// Short, because on PostgreSQL a restart waits until the killed node's lease ends.
const QUICK_LEASE: (&str, &str) = ("POSTHASTE_LEASE_MS", "1500");

const SIGABRT: i32 = 6;

on_both!(nothing_acknowledged_is_lost_however_often_the_server_is_killed);
async fn nothing_acknowledged_is_lost_however_often_the_server_is_killed() {
    let rounds = std::env::var("POSTHASTE_CRASH_ROUNDS").map_or(ROUNDS, |n| n.parse().expect("a number of rounds"));
    let mut world = World::with(&[QUICK_LEASE]).await;
    let hooks = mixed_hooks(&world).await;
    let load = Arc::new(Load::default());

    for _ in 0..rounds {
        let client = world.client().clone();
        let moment = Duration::from_millis(rand::random_range(100..600));
        // The moment of the kill is deliberately a time and not a fact.
        let death = async {
            tokio::time::sleep(moment).await;
            world.kill();
        };
        tokio::join!(load.publish(&client, WITHOUT_END), death);
        world.restart().await;
    }

    let committed = load.settle_doubts(world.client()).await;
    let summary = audit(&world, &all(&hooks), load.promises(), rounds).await;
    println!("{rounds} rounds: {summary:?}, {committed} committed without an answer");
    assert!(rounds < ROUNDS_THAT_MUST_HIT || summary.recoveries > 0, "no crash cut anything short");
    world.stop().await;
    world.check_integrity().await;
}

on_both!(an_ordered_webhook_sees_its_events_in_the_order_of_publishing_across_kills);
/// I5: the order holds even if requests are refused or cut short in between.
async fn an_ordered_webhook_sees_its_events_in_the_order_of_publishing_across_kills() {
    let mut world = World::with(&[QUICK_LEASE]).await;
    let settings = json!({"ordered": true, "retryPolicy": quick_retries(20)});
    let hook = world.hook(Receiver::fails_every(60), settings).await;
    let load = Arc::new(Load::default());

    for _ in 0..ORDERED_ROUNDS {
        let client = world.client().clone();
        let moment = Duration::from_millis(rand::random_range(100..400));
        let death = async {
            tokio::time::sleep(moment).await;
            world.kill();
        };
        tokio::join!(load.publish(&client, CALLS_OF_A_ROUND), death);
        world.restart().await;
    }
    load.settle_doubts(world.client()).await;

    let mut promised: Vec<String> = load.promises().into_iter().map(|event| event.id).collect();
    promised.sort();
    promised.dedup();
    fact::until_within(Duration::from_secs(90), "every event has arrived", async || {
        let arrived: BTreeSet<String> = hook.accepted_events().into_iter().collect();
        promised.iter().all(|event| arrived.contains(event)).then_some(())
    })
    .await;
    let mut seen = BTreeSet::new();
    let mut requested: Vec<String> =
        hook.requests().iter().map(|request| request.header("webhook-id").to_owned()).collect();
    requested.retain(|event| seen.insert(event.clone()));
    assert!(requested.is_sorted(), "{} events, not in order", requested.len());
    assert!(requested.len() > CALLS_OF_A_ROUND);
    world.stop().await;
}

on_both!(an_abort_before_a_publish_is_committed_breaks_no_promise);
async fn an_abort_before_a_publish_is_committed_breaks_no_promise() {
    survives_abort_at("publish.before_commit", 3).await;
}

on_both!(an_abort_after_a_publish_is_committed_loses_nothing);
async fn an_abort_after_a_publish_is_committed_loses_nothing() {
    let committed = survives_abort_at("publish.after_commit", 3).await;
    assert!(committed > 0, "the event that was committed before the abort was not found again");
}

on_both!(an_abort_after_a_dispatch_loses_nothing);
async fn an_abort_after_a_dispatch_loses_nothing() {
    survives_abort_at("fanout.after_dispatch", 3).await;
}

on_both!(an_abort_before_a_connect_loses_nothing);
async fn an_abort_before_a_connect_loses_nothing() {
    survives_abort_at("attempt.before_connect", 4).await;
}

on_both!(an_abort_after_the_answer_of_a_receiver_is_explained_by_a_recovery);
async fn an_abort_after_the_answer_of_a_receiver_is_explained_by_a_recovery() {
    survives_abort_at("attempt.after_send", 4).await;
}

on_both!(an_abort_before_an_outcome_is_committed_is_explained_by_a_recovery);
async fn an_abort_before_an_outcome_is_committed_is_explained_by_a_recovery() {
    survives_abort_at("outcome.before_commit", 2).await;
}

on_both!(an_abort_after_an_outcome_is_committed_sends_nothing_twice_without_reason);
async fn an_abort_after_an_outcome_is_committed_sends_nothing_twice_without_reason() {
    survives_abort_at("outcome.after_commit", 2).await;
}

/// Returns how many events were committed without an answer to their publisher.
async fn survives_abort_at(point: &str, passage: usize) -> usize {
    let mut world = World::with(&[QUICK_LEASE, ("POSTHASTE_FAULT", &format!("abort:{point}:{passage}"))]).await;
    let hooks = mixed_hooks(&world).await;
    let load = Arc::new(Load::default());

    load.publish(world.client(), CALLS_TO_A_FAULT).await;
    let status = world.ended().await;
    assert_eq!(status.signal(), Some(SIGABRT), "{point} was never reached: {status}");
    world.env().remove("POSTHASTE_FAULT");
    world.restart().await;

    let committed = load.settle_doubts(world.client()).await;
    let summary = audit(&world, &all(&hooks), load.promises(), 1).await;
    println!("abort at {point}: {summary:?}, {committed} committed without an answer");
    world.stop().await;
    world.check_integrity().await;
    committed
}

fn all(hooks: &[Hook]) -> Vec<&Hook> {
    hooks.iter().collect()
}
