//! The commands other than `serve`, used as a newcomer would.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::support::databases::{self, On};
use crate::support::server::{self, Env};
use crate::support::world::World;
use test_support::cluster::Database;

/// Arguments of a short benchmark.
const SHORT: [&str; 8] = ["--deliveries", "100", "--rounds", "1", "--latency-seconds", "0", "--publishers", "4"];

/// Runs a benchmark; returns its report.
async fn bench(args: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let env = BTreeMap::from([("TMPDIR", dir.path().display().to_string())]);
    let (status, output) = server::run(dir.path(), &[&["bench", "--json"], args].concat(), &env).await;
    assert!(status.success(), "{}", output.all());
    assert_clean(dir.path());
    serde_json::from_str(&output.stdout()).unwrap()
}

#[track_caller]
fn assert_positive(report: &Value, pointers: &[&str]) {
    for pointer in pointers {
        let figure = report.pointer(pointer).and_then(Value::as_f64);
        assert!(figure.is_some_and(|figure| figure > 0.0), "{pointer}: {report}");
    }
}

#[tokio::test]
async fn the_benchmark_measures_the_engine_against_the_raw_limit() {
    let report = bench(&["--fan-out", "20", "--deliveries", "200", "--rounds", "2", "--latency-seconds", "1"]).await;
    assert_eq!(report["deliveries"], 400);
    let figures = ["/ratio", "/rowsPerDelivery", "/statementsPerDelivery", "/cpuSecondsPer1000"];
    assert_positive(&report, &figures);
    assert_eq!(report["at20PerSecond"]["arrival"]["samples"], 20);
    assert_positive(&report, &["/quietPublishes/toAll/p50Us"]);
}

#[tokio::test]
async fn the_benchmark_measures_healthy_webhooks_beside_bad_ones() {
    let scenario = ["--scenario", "isolation", "--endpoints", "5", "--hanging", "2", "--rounds", "1"];
    let pace = ["--every-ms", "100", "--phase-seconds", "1", "--timeout-ms", "200"];
    let report = bench(&[scenario.as_slice(), &pace].concat()).await;
    assert_eq!((&report["healthy"], &report["unsettled"]), (&3.into(), &0.into()));
    for phase in ["allHealthy", "oneHangsOneFails", "allHang"] {
        let samples = report[phase]["arrival"]["samples"].as_u64().unwrap();
        assert!(samples > 0 && samples % 3 == 0, "{report}");
    }
    assert_positive(&report, &["/oneHangsOneFailsRatio/median", "/allHangRatio/median"]);
}

#[tokio::test]
async fn the_benchmark_measures_a_webhook_with_a_backlog() {
    let report = bench(&["--scenario", "backlog", "--backlog", "300", "--reads", "3"]).await;
    assert_eq!(report["pending"], 300);
    assert_eq!(report["reads"][0]["read"], "GET /webhooks/{id}/backlog");
    assert_eq!(report["reads"][0]["backlog"]["samples"], 3);
    assert_positive(&report, &["/reads/0/ratio", "/actions/0/milliseconds", "/memoryMib"]);
}

#[tokio::test]
async fn the_benchmark_measures_one_event_to_very_many() {
    let args = ["--scenario", "fan-out-huge", "--webhooks", "40", "--publishes", "2", "--quiet-seconds", "1"];
    let report = bench(&args).await;
    assert_eq!(report["secondsUntilDelivered"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["publishToAll"]["samples"], 2);
    assert_positive(&report, &["/publishRatio", "/neighbourRatio", "/peakMemoryMib", "/neighbourBeside/p99Us"]);
}

#[tokio::test]
async fn the_benchmark_measures_what_idle_webhooks_cost() {
    let report = bench(&["--scenario", "idle", "--idle", "60", "--live", "20"]).await;
    assert_eq!((&report["idle"], &report["live"]), (&60.into(), &20.into()));
    assert_positive(&report, &["/readyAfterMs", "/readyAfterMsEmpty", "/secondsUntilLive", "/memoryLiveMib"]);
}

#[tokio::test]
async fn the_benchmark_calculates_how_shards_fall_on_nodes() {
    let report = bench(&["--scenario", "placement", "--nodes", "2,10"]).await;
    assert_eq!(report["fleets"].as_array().map(Vec::len), Some(2));
    assert_positive(&report, &["/fleets/1/joins/shardsMovedMean", "/fleets/1/dies/gapMeanMs"]);
}

/// Runs a short benchmark on this database; returns its exit code and output.
async fn bench_on(database: &Database) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let env = BTreeMap::from([("TMPDIR", dir.path().display().to_string())]);
    let url = database.url();
    let args = [&["bench", "--json", "--database-url", url.as_str()], SHORT.as_slice()].concat();
    let (status, output) = server::run(dir.path(), &args, &env).await;
    assert_clean(dir.path());
    (status.code(), output.all())
}

/// Runs a command on this database.
async fn run_on(database: &Database, args: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::from(databases::variables(database));
    let (status, output) = server::run(dir.path(), args, &env).await;
    assert!(status.success(), "{}", output.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_benchmark_refuses_a_database_that_holds_anything_and_leaves_it_as_it_is() {
    let used = Database::new();
    run_on(&used, &["migrate", "up"]).await;
    run_on(&used, &["keys", "admin", "create", "--name", "mine"]).await;
    let (code, said) = bench_on(&used).await;
    assert!(code == Some(2) && said.contains("--database-url: table `api_key` has rows"), "{said}");
    assert!(said.contains("an empty PostgreSQL database of its own"), "{said}");
    assert_eq!(used.ask("SELECT count(*) FROM api_key").trim(), "1");

    let foreign = Database::new();
    foreign.ask("CREATE TABLE event (num INT)");
    let (code, said) = bench_on(&foreign).await;
    assert!(code == Some(2) && said.contains("table `public.event` is not Posthaste's"), "{said}");
    assert_eq!(
        foreign.ask("SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname = 'public'").trim(),
        "event"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_benchmark_refuses_a_database_that_a_server_is_at_work_on() {
    On::Postgres
        .run(async {
            let mut world = World::start().await;
            let (code, said) = bench_on(world.database()).await;
            assert!(code == Some(2) && said.contains("is at work on this database"), "{said}");
            world.stop().await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_benchmark_leaves_a_database_empty_and_a_schema_that_was_there_in_place() {
    let database = Database::new();
    let (code, said) = bench_on(&database).await;
    assert_eq!(code, Some(0), "{said}");
    let tables = "SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(database.ask(tables).trim(), "seaql_migrations");
    run_on(&database, &["migrate", "up"]).await;
    let (code, said) = bench_on(&database).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(database.ask("SELECT count(*) FROM shard WHERE epoch = 0").trim(), "256");
    assert_eq!(database.ask("SELECT count(*) FROM tenant").trim(), "0");
}

#[tokio::test]
async fn the_demo_prints_lines_to_paste_and_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["demo", "--listen", "127.0.0.1:0", "--every-ms", "50", "--for-seconds", "2"];
    let env = BTreeMap::from([("TMPDIR", dir.path().display().to_string())]);
    let (status, output) = server::run(dir.path(), &args, &env).await;
    assert!(status.success(), "{}", output.all());
    let printed = output.stdout();
    for part in ["http://127.0.0.1:", "phk_", "curl ", "/api/v1/events", "/logs"] {
        assert!(printed.contains(part), "no {part} in:\n{printed}");
    }
    assert_clean(dir.path());
}

/// Asserts that the command left no files beside the harness's own.
fn assert_clean(dir: &Path) {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| !name.starts_with("output-")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}
