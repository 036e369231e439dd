//! Runs the whole engine without waiting, as it ships, under a seeded scheduler and over the database in memory. The
//! simulation injects crashes, lost acknowledgements, refused batches, stale reads, full mailboxes, receivers that
//! change, operators who interfere, and clocks that are set. It runs one process, or several nodes on
//! one store, which are also frozen, cut off from the store, and miss each other's notifications.
//!
//! Registry, endpoints, lanes, attempts, dispatcher, cluster, config sync and the journal with its writer are the code
//! that ships. Simulated are what they ask of the world: time, tasks and chance ([`host`]), the
//! database ([`db`], [`cluster`], [`journal`]), receivers ([`attempt`], [`receivers`]), and the actors' mailboxes and
//! threads ([`endpoint`], [`registry`]). [`process`] is what a `kill -9` takes, [`world`] what it leaves. Time,
//! randomness and the order of concurrent steps come from the seed. The invariants are in [`oracle`], checked at the
//! moment of sending, and in [`checker`].
//!
//! `POSTHASTE_SIMULATION_SEEDS=100000` runs more seeds, `POSTHASTE_SIMULATION_SEED=17` only this one. A failure names
//! its seed and prints its last steps.

mod attempt;
mod checker;
mod cluster;
mod db;
mod endpoint;
mod host;
mod journal;
mod operator;
mod oracle;
mod plan;
mod process;
mod receivers;
mod registry;
mod scheduler;
mod tasks;
mod trace;
mod world;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::fault;

use self::scheduler::Scheduler;

/// Seeds of an ordinary run with one process.
const SEEDS: u64 = 1000;

/// Seeds of an ordinary run with several nodes; each seed takes as long as three of one process.
const SEEDS_OF_NODES: u64 = 250;

/// Steps that are printed for a failure.
const LAST_STEPS: usize = 150;

/// Failing seeds that are printed.
const MOST_TOLD: usize = 40;

/// A seed that fails, and why.
#[derive(Debug, Clone)]
struct Failure {
    seed: u64,
    why: String,
    /// The last steps.
    history: Vec<String>,
}

fn simulate(seed: u64, is_clustered: bool, with_history: bool) -> Result<(), Failure> {
    let world = plan::world(seed, is_clustered, with_history);
    let ended = world::with_current(&world, || {
        fault::simulated::set(Some(endpoint::at_fault_point));
        let ended = catch_unwind(AssertUnwindSafe(|| Scheduler::new(&world).run()));
        fault::simulated::set(None);
        world.tasks.forget();
        world.machines.iter().for_each(|place| drop(place.process.take()));
        ended
    });
    let history = world.history();
    ended.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let why = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned();
        Failure { seed, why, history }
    })
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs the seeds on all cores. Answers every seed that fails.
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

/// Runs all seeds, and panics with the first that fails.
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
