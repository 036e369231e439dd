//! The commands beside `serve`, as a newcomer tries them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::server;

#[tokio::test]
async fn the_benchmark_measures_the_engine_against_the_raw_limit() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["bench", "--fan-out", "20", "--deliveries", "200", "--rounds", "2", "--latency-seconds", "1", "--json"];
    let env = BTreeMap::from([("TMPDIR", dir.path().display().to_string())]);
    let (status, output) = server::run(dir.path(), &args, &env).await;
    assert!(status.success(), "{}", output.all());
    let report: Value = serde_json::from_str(&output.stdout()).unwrap();
    assert_eq!(report["deliveries"], 400);
    for figure in ["ratio", "rowsPerDelivery", "statementsPerDelivery", "cpuSecondsPer1000"] {
        assert!(report[figure].as_f64().is_some_and(|value| value > 0.0), "{figure}: {report}");
    }
    assert_eq!(report["at20PerSecond"]["arrival"]["samples"], 20);
    assert!(report["quietPublishes"]["toAll"]["p50Us"].as_u64().is_some_and(|us| us > 0));
    assert_clean(dir.path());
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

/// Nothing but what the harness wrote itself.
fn assert_clean(dir: &Path) {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| !name.starts_with("output-")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}
