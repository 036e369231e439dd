//! F25: the machine's clock jumps by an hour, forward and back, while the server works. No retry comes early, no retry
//! is lost, and no lease is lost. libfaketime makes the clock of the process jump without its knowledge.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::support::checker::audit;
use crate::support::databases::On;
use crate::support::fact;
use crate::support::fleet::Fleet;
use crate::support::hook::Hook;
use crate::support::load::{Load, TYPES};
use crate::support::receiver::{Receiver, Reply, Request};
use crate::support::server::Output;
use crate::support::world::World;

const HOUR_S: i64 = 3600;

/// Retry waits.
const WAITS_S: [u64; 3] = [1, 2, 4];

/// Tolerance for clocks that count whole milliseconds, and for the process's clock, which slews by a millisecond a
/// second.
const ROUNDING: Duration = Duration::from_millis(10);

/// A clock that is off by more than this has jumped; less is a slow machine.
const ABOUT_S: i64 = 600;

/// The clock that libfaketime shows to a process.
struct Shown {
    file: PathBuf,
}

impl Shown {
    fn new(dir: &Path) -> Self {
        let shown = Self { file: dir.join("clock") };
        shown.jump_to(0);
        shown
    }

    /// Shows a clock that is off by `seconds` from now on.
    fn jump_to(&self, seconds: i64) {
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n")).expect("a file");
        fs::rename(next, &self.file).expect("a file that is there whole, or not yet");
    }

    fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }

    /// Jumps an hour ahead, then an hour back, then to the correct time. After each of the first two jumps the process
    /// must log the jump. Each clock is shown until every webhook has had a whole retry wait with it, so that there are
    /// waits that span a jump, and waits that do not.
    async fn jump_about(&self, output: &Output, hooks: &Failing) {
        for seconds in [HOUR_S, -HOUR_S] {
            self.jump_to(seconds);
            fact::until("the process logs the jump", async || {
                let said_ms = said_ms(&output.stderr())?;
                ((said_ms / 1000 - seconds).abs() < ABOUT_S).then_some(())
            })
            .await;
            hooks.have_waited().await;
        }
        self.jump_to(0);
        hooks.have_waited().await;
        hooks.accept_everything();
    }
}

/// The jump that the process last logged.
fn said_ms(log: &str) -> Option<i64> {
    let (_, rest) = log.rsplit_once("\"by_ms\":")?;
    rest.split(['}', ',']).next()?.parse().ok()
}

fn library() -> PathBuf {
    let places = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut libraries = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1"));
    libraries.find(|path| path.is_file()).expect("libfaketime in /usr/lib; scripts/test installs it")
}

fn unix_s(moment: SystemTime) -> i64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("before the end of time")
}

/// Webhooks that fail every other request, each with another retry wait, until they shall accept everything.
struct Failing {
    hooks: Vec<Hook>,
    is_over: Arc<AtomicBool>,
}

impl Failing {
    async fn new(world: &World) -> Self {
        let mut failing = Self { hooks: Vec::new(), is_over: Arc::new(AtomicBool::new(false)) };
        failing.add_to(world).await;
        failing
    }

    /// Creates one more webhook for each retry wait.
    async fn add_to(&mut self, world: &World) {
        for (wait, kind) in WAITS_S.into_iter().zip(TYPES) {
            let policy = json!({"maxRetries": 20, "backoffStrategy": "schedule", "scheduleSeconds": vec![wait; 20]});
            let settings = json!({"events": [kind], "retryPolicy": policy});
            let is_over = self.is_over.clone();
            let fails = move |seen: usize| !seen.is_multiple_of(2) && !is_over.load(Ordering::Relaxed);
            let receiver = Receiver::says(move |seen| Reply::Status(if fails(seen) { 500 } else { 200 }));
            self.hooks.push(world.hook(receiver, settings).await);
        }
    }

    fn accept_everything(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Waits until every webhook has got a retry whose wait began after this call.
    async fn have_waited(&self) {
        let now = Instant::now();
        for hook in &self.hooks {
            fact::until("a wait for a retry begins and ends", async || {
                waits(&hook.receiver.requests()).iter().any(|(began, _)| *began > now).then_some(())
            })
            .await;
        }
    }

    /// Asserts that no retry came early; returns how many retries there were.
    fn retries_in_time(&self) -> usize {
        let mut retries = 0;
        for (hook, promised) in self.hooks.iter().zip(WAITS_S.into_iter().cycle()) {
            for (began, ended) in waits(&hook.requests()) {
                let waited = ended - began;
                assert!(waited + ROUNDING >= Duration::from_secs(promised), "{waited:?} instead of {promised} s");
                retries += 1;
            }
        }
        retries
    }
}

/// When the wait for each retry began and ended.
fn waits(requests: &[Request]) -> Vec<(Instant, Instant)> {
    let mut of = BTreeMap::<&str, Vec<&Request>>::new();
    for request in requests {
        of.entry(request.header("x-webhook-delivery")).or_default().push(request);
    }
    let pairs = of.values().flat_map(|requests| requests.windows(2));
    pairs.map(|pair| (pair[0].answered.expect("it was answered"), pair[1].arrived)).collect()
}

/// The largest difference between a request's timestamp and its arrival.
fn stamps_are_off_by(hooks: &[Hook]) -> i64 {
    let off = |request: Request| {
        let arrived = unix_s(SystemTime::now() - request.arrived.elapsed());
        let stamp: i64 = request.header("webhook-timestamp").parse().expect("a number");
        (stamp - arrived).abs()
    };
    hooks.iter().flat_map(Hook::requests).map(off).max().expect("a request")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_jumps_keeps_the_time_of_the_database() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(("POSTHASTE_LEASE_MS", "15000")).await;
            let mut failing = Failing::new(&fleet.world).await;
            let shown = Shown::new(fleet.world.dir());
            fleet.join_with(shown.variables()).await;
            fleet.grow_to(3).await;
            // The clock of a node that sends nothing proves nothing.
            while fleet.owned_by(1, &failing.hooks).is_empty() {
                failing.add_to(&fleet.world).await;
            }
            let nodes = "SELECT string_agg(num::text, ',' ORDER BY num) FROM node";
            let (before, clients, load) =
                (fleet.world.database().ask(nodes), fleet.clients(), Arc::new(Load::default()));
            let output = fleet.server(1).output().clone();

            load.publish_to_all(&clients, shown.jump_about(&output, &failing)).await;

            assert_eq!(fleet.world.database().ask(nodes), before, "a lease was lost");
            fleet.account(&failing.hooks, &load, 0).await;
            println!("{} retries, none early", failing.retries_in_time());
            let off = stamps_are_off_by(&failing.hooks);
            assert!(off < ABOUT_S, "a signature is off by {off} s");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_alone_with_a_clock_that_jumps_waits_as_long_as_it_was_to() {
    let place = tempfile::tempdir().expect("a directory");
    let shown = Shown::new(place.path());
    let variables = shown.variables();
    let settings: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut world = World::with(&settings).await;
    let failing = Failing::new(&world).await;
    let load = Arc::new(Load::default());

    let (output, client) = (world.server().output().clone(), world.client().clone());
    load.publish_to_all(&[client], shown.jump_about(&output, &failing)).await;

    load.settle_doubts(world.client()).await;
    let summary = audit(&world, &failing.hooks.iter().collect::<Vec<_>>(), load.promises(), 0).await;
    println!("{summary:?}, {} retries, none early", failing.retries_in_time());
    // Receivers compare signatures with their own clocks, so signatures carry the machine's time, the only one known
    // here.
    let off = stamps_are_off_by(&failing.hooks);
    assert!((off - HOUR_S).abs() < ABOUT_S, "off by {off} s");
    world.stop().await;
    world.check_integrity().await;
}
