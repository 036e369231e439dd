//! The metrics pages of a running server: sound in both formats, and true of what the server has done.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::ACCEPT;
use serde_json::json;

use crate::support::client::{Answer, Client, send};
use crate::support::databases::{On, on_both};
use crate::support::exposition::{CLASSIC, OPENMETRICS, Page};
use crate::support::fact;
use crate::support::hook::{Hook, quick_retries};
use crate::support::receiver::Receiver;
use crate::support::world::{World, free_port, is_terminal, text};

/// Half the time after which the server gives a question to the database up.
const A_WHILE: Duration = Duration::from_secs(5);

async fn page_as(world: &World, path: &str, accept: &str) -> Answer {
    send(world.admin().root(Method::GET, path).header(ACCEPT, accept)).await
}

async fn metrics(world: &World) -> Page {
    Page::of(&page_as(world, "/metrics", OPENMETRICS).await)
}

fn series(page: &Page) -> BTreeSet<String> {
    page.samples().map(|sample| format!("{} {:?}", sample.name, sample.labels)).collect()
}

/// Waits until the page, which is shared for a second, shows a fact.
async fn metrics_when(world: &World, what: &str, fact: impl Fn(&Page) -> bool) -> Page {
    fact::until(what, async || Some(metrics(world).await).filter(&fact)).await
}

/// A server that has accepted, delivered, failed at and cancelled something.
async fn busy() -> (World, [Hook; 2]) {
    let world = World::start().await;
    let settings = json!({"events": ["message.failed"], "retryPolicy": {"maxRetries": 0}});
    let failing = world.hook(Receiver::status(500), settings).await;
    let accepting = world.hook(Receiver::ok(), json!({"events": ["message.sent"]})).await;
    for kind in ["message.sent", "message.failed"] {
        let event = world.publish(kind).await;
        world.all_settled(&event).await;
    }
    world.client().get("/no/such/route").await.problem(404);
    (world, [failing, accepting])
}

#[tokio::test]
async fn each_page_is_sound_in_both_formats_and_has_the_same_samples() {
    let (world, _hooks) = busy().await;
    world.hook(Receiver::ok(), json!({"events": ["a"], "name": "quote \" slash \\ line"})).await;
    let paused = world.hook(Receiver::ok(), json!({"events": ["b"]})).await;
    world.client().act(&paused.path("/pause")).await.expect(200);
    world.publish("b").await;

    for path in ["/metrics", "/metrics/endpoints"] {
        let read = async || {
            let [classic, openmetrics] =
                [page_as(&world, path, "text/plain").await, page_as(&world, path, OPENMETRICS).await];
            assert_eq!((classic.header("content-type"), classic.header("vary")), (Some(CLASSIC), Some("accept")));
            let [classic, openmetrics] = [classic, openmetrics].map(|answer| series(&Page::of(&answer)));
            assert!(!classic.is_empty());
            (classic == openmetrics).then_some(())
        };
        fact::until("both formats show the same series, computed at once", read).await;
    }
    for (accept, kind) in [("*/*", CLASSIC), ("text/html", CLASSIC), ("application/openmetrics-text", OPENMETRICS)] {
        assert_eq!(page_as(&world, "/metrics", accept).await.header("content-type"), Some(kind), "{accept}");
    }
}

#[tokio::test]
async fn the_guide_explains_every_metric_and_no_other() {
    let (_, tables) = include_str!("../../docs/METRICS.md").split_once("## Deliveries").expect("the tables");
    let names = |row: &'static str| row.split('|').nth(1).expect("a column").split('`').skip(1).step_by(2);
    let rows = tables.lines().filter(|line| ["| `posthaste_", "| `process_"].iter().any(|row| line.starts_with(row)));
    let explained: BTreeSet<&str> = rows.flat_map(names).map(|name| name.split('{').next().expect("a name")).collect();
    let (world, _hooks) = busy().await;

    let [engine, endpoints] =
        [page_as(&world, "/metrics", CLASSIC).await, page_as(&world, "/metrics/endpoints", CLASSIC).await];

    let [engine, endpoints] = [engine, endpoints].map(|answer| Page::of(&answer).families);
    let shown: BTreeSet<&str> = engine.keys().chain(endpoints.keys()).map(String::as_str).collect();
    assert_eq!(explained, shown);
}

/// However many tenants there are, labels of `/metrics` have few values.
#[tokio::test]
async fn no_metric_names_a_tenant_or_a_webhook() {
    let (world, _hooks) = busy().await;

    let page = metrics(&world).await;

    for (label, value) in page.samples().flat_map(|sample| &sample.labels) {
        assert!(!["tenant", "webhook", "event", "delivery"].contains(&label.as_str()), "{label}");
        assert!(["ten_", "wh_", "evt_", "dlv_", "key_"].iter().all(|kind| !value.starts_with(kind)), "{label}={value}");
    }
}

#[tokio::test]
async fn metrics_are_shown_to_an_admin_alone_or_on_a_listener_of_their_own() {
    let address = format!("127.0.0.1:{}", free_port());
    let world = World::with(&[("POSTHASTE_METRICS_LISTEN", &address)]).await;
    let hook = world.hook(Receiver::status(500), json!({})).await;
    world.publish("message.sent").await;
    hook.saw(1).await;

    let (engine, endpoint) =
        ("posthaste_deliveries_pending 1", format!("posthaste_endpoint_pending{{webhook=\"{}\"}} 1", hook.id));
    for (path, shown) in [("/metrics", engine), ("/metrics/endpoints?top=1000", endpoint.as_str())] {
        assert_eq!(send(world.anyone().root(Method::GET, path)).await.problem(401).code(), "unauthenticated");
        assert_eq!(send(world.client().root(Method::GET, path)).await.problem(403).code(), "admin_only");
        for caller in [world.admin(), Client::open(&format!("http://{address}"))] {
            let page = send(caller.root(Method::GET, path)).await;
            assert!(page.status == 200 && page.text.contains(shown), "{page:?}");
        }
    }
    let elsewhere = send(Client::open(&format!("http://{address}")).root(Method::GET, "/api/v1/webhooks")).await;
    assert_eq!(elsewhere.problem(404).code(), "no_such_route");
}

on_both!(durations_count_each_publish_attempt_and_delivery_once);
async fn durations_count_each_publish_attempt_and_delivery_once() {
    let world = World::start().await;
    let before = metrics(&world).await;
    let _hook = world.hook(Receiver::fails(2).then_accepts(), json!({"retryPolicy": quick_retries(2)})).await;
    let event = world.publish("message.sent").await;
    let delivery = world.settled(&event).await;
    world.client().act(&format!("/deliveries/{}/retry", text(&delivery, "id"))).await.succeeded();
    let again = |delivery: &serde_json::Value| delivery["attempts"].as_array().map(Vec::len) == Some(4);
    world.delivery_when(&event, "the retry by hand is recorded", again).await;

    let count = |page: &Page, name: &str, labels: &[(&str, &str)]| page.value(&format!("{name}_count"), labels);
    let after = metrics_when(&world, "four attempts are counted", |page| {
        page.value("posthaste_journal_attempts_total", &[]) == 4.0
    });
    let after = after.await;
    let since = |name: &str, labels: &[(&str, &str)]| count(&after, name, labels) - count(&before, name, labels);
    assert_eq!(since("posthaste_publish_duration_seconds", &[]), 1.0);
    assert_eq!(since("posthaste_attempt_duration_seconds", &[("outcome_class", "refused")]), 2.0);
    assert_eq!(since("posthaste_attempt_duration_seconds", &[("outcome_class", "success")]), 2.0);
    assert_eq!(since("posthaste_attempt_duration_seconds", &[("outcome_class", "timed_out")]), 0.0);
    assert_eq!(since("posthaste_delivery_latency_seconds", &[]), 1.0, "what is sent by hand is no latency");
    let waited = after.value("posthaste_delivery_latency_seconds_sum", &[]);
    let attempts = after.value("posthaste_attempt_duration_seconds_sum", &[("outcome_class", "success")]);
    assert!(waited >= 2.0 && waited > attempts, "two retries, a second each at least: {waited}");
}

on_both!(deliveries_that_have_ended_are_counted_by_status);
async fn deliveries_that_have_ended_are_counted_by_status() {
    let (world, _hooks) = busy().await;
    let paused = world.hook(Receiver::ok(), json!({"events": ["message.held"]})).await;
    world.client().act(&paused.path("/pause")).await.expect(200);
    for _ in 0..3 {
        world.publish("message.held").await;
    }
    world.client().act(&paused.path("/purge")).await.expect(200);
    let failed = world.client().walk("/deliveries?status=failed").await;
    let retry = format!("/deliveries/{}/retry", text(&failed[0], "id"));
    world.client().act(&retry).await.succeeded();

    let ended = |page: &Page| {
        ["success", "failed", "cancelled"]
            .map(|status| page.value("posthaste_deliveries_final_total", &[("status", status)]))
    };
    let page = metrics_when(&world, "six ends are counted", |page| ended(page).iter().sum::<f64>() >= 6.0).await;
    assert_eq!(ended(&page), [1.0, 2.0, 3.0]);
    let rows = world.client().walk("/deliveries").await;
    assert_eq!(rows.iter().filter(|delivery| is_terminal(delivery)).count(), 5, "one of them has ended twice");
}

#[tokio::test]
async fn requests_count_by_the_template_of_their_route_and_never_by_their_path() {
    let world = World::start().await;
    let hook = world.hook(Receiver::ok(), json!({})).await;
    for _ in 0..3 {
        world.client().get(&hook.path("")).await.expect(200);
    }
    let deleted = world.hook(Receiver::ok(), json!({})).await;
    world.client().delete(&deleted.path("")).await.succeeded();
    world.client().get(&deleted.path("")).await.problem(404);
    for path in ["/webhooks/one/two/three", "/events/%22%0a/x/y", "/nowhere"] {
        world.anyone().get(path).await.problem(404);
    }
    let brew = Method::from_bytes(b"BREW").unwrap();
    send(world.client().call(brew, "/webhooks")).await.problem(405);

    let page = metrics(&world).await;

    let count = |method: &str, route: &str, code: &str| {
        page.find("posthaste_http_requests_total", &[("method", method), ("route", route), ("code", code)])
    };
    assert_eq!(count("GET", "/api/v1/webhooks/{id}", "200"), Some(3.0));
    assert_eq!(count("GET", "/api/v1/webhooks/{id}", "404"), Some(1.0));
    assert_eq!(count("GET", "unmatched", "404"), Some(3.0));
    assert_eq!(count("other", "/api/v1/webhooks", "405"), Some(1.0));
    let timed = [("method", "GET"), ("route", "/api/v1/webhooks/{id}")];
    assert_eq!(page.value("posthaste_http_request_duration_seconds_count", &timed), 4.0);
    let routes: BTreeSet<&str> =
        page.samples().filter_map(|sample| sample.labels.get("route")).map(String::as_str).collect();
    let document = send(world.anyone().root(Method::GET, "/openapi.json")).await.expect(200);
    let known = document["paths"].as_object().expect("paths");
    for route in routes {
        assert!(["unmatched", "/openapi.json"].contains(&route) || known.contains_key(route), "{route}");
    }
}

on_both!(the_database_is_timed_by_operation);
async fn the_database_is_timed_by_operation() {
    let (world, _hooks) = busy().await;
    world.client().get("/webhooks").await.expect(200);

    let page = metrics(&world).await;

    let count = |op: &str| page.value("posthaste_database_seconds_count", &[("op", op)]);
    for op in ["begin", "query", "execute", "commit"] {
        assert!(count(op) > 0.0, "{op}");
    }
    assert!(count("commit") >= page.value("posthaste_journal_commits_total", &[]));
}

on_both!(gauges_say_in_which_state_webhooks_are_and_since_when_deliveries_are_due);
async fn gauges_say_in_which_state_webhooks_are_and_since_when_deliveries_are_due() {
    let world = World::start().await;
    let failing = json!({"events": ["a"], "retryPolicy": quick_retries(9), "breaker": {"failureThreshold": 1}});
    let failing = world.hook(Receiver::status(500), failing).await;
    let paused = world.hook(Receiver::ok(), json!({"events": ["a"]})).await;
    world.client().act(&paused.path("/pause")).await.expect(200);
    world.hook(Receiver::ok(), json!({"events": ["b"]})).await;
    let deleted = world.hook(Receiver::ok(), json!({"events": ["b"]})).await;
    world.client().delete(&deleted.path("")).await.succeeded();
    world.publish("a").await;
    let held = async |path: String| {
        let backlog = world.client().get(&path).await.expect(200);
        (backlog["held"] == 1).then_some(())
    };
    for hook in [&failing, &paused] {
        fact::until("its delivery is due and held", async || held(hook.path("/backlog")).await).await;
    }

    let due = |page: &Page, reason: &str| page.value("posthaste_oldest_due_seconds", &[("reason", reason)]);
    let page = metrics_when(&world, "the figures of the database show both deliveries", |page| {
        due(page, "circuit_open") > 0.0 && due(page, "paused") > 0.0
    });
    let page = page.await;
    let webhooks = |state: &str| page.value("posthaste_webhooks", &[("state", state)]);
    assert_eq!(["active", "paused", "inactive", "suspended", "circuit_open"].map(webhooks), [1.0, 1.0, 0.0, 0.0, 1.0]);
    assert_eq!(page.value("posthaste_breakers_open", &[]), 1.0);
    assert!(due(&page, "circuit_open") < 60.0 && due(&page, "ready") == 0.0 && due(&page, "inactive") == 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_answer_holds_no_page_up() {
    On::Postgres.run(with_locked_webhooks()).await;
}

async fn with_locked_webhooks() {
    let world = World::start().await;
    let mut holder = world.database().begin("BEGIN; LOCK TABLE webhook; SELECT pg_sleep(600)");
    let of_holder = |what: &str| {
        let is_holder = "wait_event = 'PgSleep' AND datname = current_database()";
        world.database().ask(&format!("SELECT {what} FROM pg_stat_activity WHERE {is_holder}"))
    };
    fact::until("the table is locked", async || (of_holder("count(*)").trim() == "1").then_some(())).await;

    let asked_at = Instant::now();
    let without = metrics(&world).await;
    assert!(asked_at.elapsed() < A_WHILE, "{:?}", asked_at.elapsed());
    assert!(!without.families.contains_key("posthaste_webhooks"), "{without:?}");
    assert_eq!(without.value("posthaste_events_published_total", &[]), 0.0);

    of_holder("pg_terminate_backend(pid)");
    holder.wait().expect("a child");
    metrics_when(&world, "the figures are back", |page| page.find("posthaste_breakers_open", &[]) == Some(0.0)).await;
}

#[tokio::test]
async fn the_process_shows_what_it_is_and_what_it_uses() {
    let world = World::start().await;

    let page = metrics(&world).await;

    let version = [("version", env!("CARGO_PKG_VERSION")), ("database", "sqlite")];
    assert_eq!(page.value("posthaste_build_info", &version), 1.0);
    assert!(page.value("process_cpu_seconds_total", &[]) > 0.0);
    let resident = page.value("process_resident_memory_bytes", &[]);
    assert!(resident > 1e6 && resident <= page.value("process_virtual_memory_bytes", &[]), "{resident}");
    let open = page.value("process_open_fds", &[]);
    assert!(open > 3.0 && open <= page.value("process_max_fds", &[]), "{open}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let started = page.value("process_start_time_seconds", &[]);
    assert!(started <= now && now - started < 60.0, "{started}");
}
