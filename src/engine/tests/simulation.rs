//! The whole engine without waiting: everything of it that is pure, driven by a seeded scheduler against a model of the
//! store, with crashes, lost acknowledgements, refused batches, stale reads, full mailboxes, moody receivers, meddling
//! operators and clocks that are set.
//!
//! Real are the lanes with all that they hold, permits, routes, dispatch line, restarts, and of the journal its queues,
//! feed, ledger, open fan-outs and late outcomes. The glue between them is mirrored, function by function, and says so:
//! [`process`] is what a `kill -9` takes, [`world`] what it leaves. Time, chance and the order of what happens at once
//! come from the seed. What must hold is in [`book`], at the moment of sending, and in [`checker`].
//!
//! `POSTHASTE_SIMULATION_SEEDS=100000` runs more seeds, `POSTHASTE_SIMULATION_SEED=17` this one alone. A failure names
//! its seed and tells what happened last.

mod attempt;
mod book;
mod checker;
mod chores;
mod dispatcher;
mod endpoint;
mod handle;
mod messages;
mod operator;
mod plan;
mod process;
mod receivers;
mod registry;
mod scheduler;
mod tasks;
mod words;
mod world;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use self::scheduler::Scheduler;

/// Seeds of an ordinary run.
const SEEDS: u64 = 1000;

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

fn simulate(seed: u64, with_history: bool) -> Result<(), Failure> {
    let world = plan::world(seed, with_history);
    let ended = catch_unwind(AssertUnwindSafe(|| Scheduler::new(&world).run()));
    let history = world.history();
    if let Some(process) = world.process.take() {
        process.world.tasks.forget();
    }
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
fn run(seeds: Range<u64>) -> Vec<Failure> {
    let (next, failures) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let work = || {
        while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < seeds.end) {
            failures.lock().extend(simulate(seed, false).err());
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut failures = failures.into_inner();
    failures.sort_by_key(|failure: &Failure| failure.seed);
    failures
}

#[test]
fn whatever_happens_every_event_arrives_or_says_why_not() {
    let seeds = match setting("POSTHASTE_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("POSTHASTE_SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    let failures = run(seeds);
    let Some(first) = failures.first() else { return };
    let told = simulate(first.seed, true).expect_err("the same seed fails again");
    let most = if setting("POSTHASTE_SIMULATION_SEED").is_some() { usize::MAX } else { LAST_STEPS };
    println!("{}", told.history[told.history.len().saturating_sub(most)..].join("\n"));
    assert_eq!(told.why, first.why, "the same seed fails the same way");
    for Failure { seed, why, .. } in failures.iter().take(MOST_TOLD) {
        println!("seed {seed}: {why}");
    }
    panic!("{} seeds fail; POSTHASTE_SIMULATION_SEED={} cargo test --lib simulation", failures.len(), first.seed);
}
