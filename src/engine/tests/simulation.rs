//! The whole engine without waiting: everything of it that is pure, driven by a seeded scheduler against a model of the
//! store, with crashes, lost acknowledgements, refused batches, stale reads, full mailboxes, moody receivers, meddling
//! operators and clocks that are set; one process alone, or several nodes on one store, which are also frozen, cut off from
//! it and deaf to each other.
//!
//! Real are the lanes with all that they hold, permits, routes, dispatch line, restarts, terms of leases and placement; of
//! the store what a node holds, how far it has looked for news, and of the journal its queues, feed, ledger, fences,
//! watched fan-outs and late outcomes. The glue between them is mirrored, function by function, and says so: [`process`] is
//! what a `kill -9` takes, [`world`] what it leaves. Time, chance and the order of what happens at once come from the seed.
//! What must hold is in [`book`], at the moment of sending, and in [`checker`].
//!
//! `POSTHASTE_SIMULATION_SEEDS=100000` runs more seeds, `POSTHASTE_SIMULATION_SEED=17` this one alone. A failure names
//! its seed and tells what happened last.

mod attempt;
mod background;
mod checker;
mod dispatcher;
mod endpoint;
mod follower;
mod handle;
mod member;
mod messages;
mod node_lease;
mod operator;
mod oracle;
mod plan;
mod process;
mod receivers;
mod registry;
mod remote_shards;
mod scheduler;
mod tasks;
mod trace;
mod world;
mod writer;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use self::scheduler::Scheduler;

/// Seeds of an ordinary run of one process.
const SEEDS: u64 = 1000;

/// Of several nodes, each of which takes as long as three of one.
const SEEDS_OF_NODES: u64 = 250;

/// What is told of a failure.
const LAST_STEPS: usize = 150;

/// Seeds that are told of.
const MOST_TOLD: usize = 40;

/// A seed that fails, and why.
#[derive(Debug, Clone)]
struct Failure {
    seed: u64,
    why: String,
    /// What happened last.
    history: Vec<String>,
}

fn simulate(seed: u64, is_clustered: bool, with_history: bool) -> Result<(), Failure> {
    let world = plan::world(seed, is_clustered, with_history);
    let ended = catch_unwind(AssertUnwindSafe(|| Scheduler::new(&world).run()));
    let history = world.history();
    world.tasks.forget();
    world.machines.iter().for_each(|place| drop(place.process.take()));
    ended.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let why = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned();
        Failure { seed, why, history }
    })
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Every seed that fails, the first one with its history.
fn run(seeds: Range<u64>, is_clustered: bool) -> Vec<Failure> {
    let (next, failures) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let work = || {
        while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < seeds.end) {
            failures.lock().extend(simulate(seed, is_clustered, false).err());
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut failures = failures.into_inner();
    failures.sort_by_key(|failure: &Failure| failure.seed);
    failures
}

/// Runs all seeds, and tells of the first that fails.
fn check(is_clustered: bool) {
    let seeds = match setting("POSTHASTE_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("POSTHASTE_SIMULATION_SEEDS").unwrap_or(if is_clustered { SEEDS_OF_NODES } else { SEEDS }),
    };
    let failures = run(seeds, is_clustered);
    let Some(first) = failures.first() else { return };
    let told = simulate(first.seed, is_clustered, true).expect_err("the same seed fails again");
    let most = if setting("POSTHASTE_SIMULATION_SEED").is_some() { usize::MAX } else { LAST_STEPS };
    println!("{}", told.history[told.history.len().saturating_sub(most)..].join("\n"));
    assert_eq!(told.why, first.why, "the same seed fails the same way");
    for Failure { seed, why, .. } in failures.iter().take(MOST_TOLD) {
        println!("seed {seed}: {why}");
    }
    let name = if is_clustered { "on_several_nodes" } else { "whatever_happens_every" };
    panic!("{} seeds fail; POSTHASTE_SIMULATION_SEED={} cargo test --lib {name}", failures.len(), first.seed);
}

#[test]
fn whatever_happens_every_event_arrives_or_says_why_not() {
    check(false);
}

#[test]
fn whatever_happens_on_several_nodes_every_event_arrives_or_says_why_not() {
    check(true);
}
