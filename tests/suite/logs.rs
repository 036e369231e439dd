//! The log at its default level: failures with ids, changes and refusals, and no flood of any of them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::try_send;
use crate::support::databases::{On, on_both};
use crate::support::fact;
use crate::support::fleet::Fleet;
use crate::support::hook::{Hook, plain, quick_retries};
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::world::{Event, World, new_key, text};

async fn world() -> World {
    World::with(&[("POSTHASTE_LOG", "info")]).await
}

/// The fields of the lines with this target, with their level.
fn lines(world: &mut World, target: &str) -> Vec<Value> {
    lines_of(world.server(), target)
}

fn lines_of(server: &Server, target: &str) -> Vec<Value> {
    let text = server.output().stderr();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines = lines.filter(|line| line["target"] == target).map(|mut line| {
        line["fields"]["level"] = line["level"].take();
        line["fields"].take()
    });
    lines.collect()
}

/// How many occurrences these lines stand for.
fn told(lines: &[Value]) -> u64 {
    let is_line = |line: &&Value| line["webhook"].is_null() || line["delivery"].is_string();
    let suppressed: u64 = lines.iter().filter_map(|line| line["suppressed"].as_u64()).sum();
    suppressed + lines.iter().filter(is_line).count() as u64
}

#[tokio::test]
async fn an_attempt_that_fails_is_a_line_with_everything_to_find_it_by() {
    let mut world = world().await;
    let receiver = Receiver::fails(1).then_accepts();
    let url = receiver.url("/hooks?token=planted-in-the-query");
    let wish = plain(&url, json!({"retryPolicy": quick_retries(2)}));
    let webhook = text(&world.client().post("/webhooks", &wish).await.expect(201), "id");
    let event = world.publish("message.sent").await;
    let delivery = world.settled(&event).await;

    let [line] = &lines(&mut world, "posthaste::attempt")[..] else { panic!("one attempt has failed") };
    assert_eq!(line["level"], "INFO", "{line}");
    assert_eq!(
        [&line["tenant"], &line["webhook"], &line["event"], &line["delivery"]],
        [&json!(world.tenant.id), &json!(webhook), &json!(event.id), &delivery["id"]]
    );
    assert_eq!((&line["attempt"], &line["outcome"]), (&json!(1), &json!("rejected")));
    assert_eq!((&line["status_code"], &line["host"]), (&json!(500), &json!("127.0.0.1")));
    assert!(line["next_attempt_at"].is_string() && line["duration_ms"].is_u64(), "{line}");
    assert!(!world.server().output().all().contains("planted-in-the-query"));
}

#[tokio::test]
async fn many_attempts_that_fail_are_few_lines_that_say_how_many() {
    let mut world = world().await;
    let settings = json!({"retryPolicy": {"maxRetries": 0}, "breaker": {"failureThreshold": 1000}, "maxInFlight": 64});
    world.hook(Receiver::status(500), settings).await;
    let events = vec![json!({"event": "message.sent", "data": {}}); 300];
    let answer = world.client().post("/events/batch", &json!({"events": events})).await.expect(202);
    for event in answer["results"].as_array().expect("results") {
        world
            .settled(&Event::from(&json!({"id": event["id"], "timestamp": event["timestamp"],
            "matched": 1, "duplicate": false})))
            .await;
    }
    world.stop().await;

    let lines = lines(&mut world, "posthaste::attempt");
    assert!(lines.len() < 200, "{} lines", lines.len());
    assert_eq!(told(&lines), 300, "{lines:?}");
}

#[tokio::test]
async fn a_breaker_says_when_it_opens_and_when_it_closes() {
    let mut world = world().await;
    let settings = json!({"retryPolicy": {"maxRetries": 0}, "breaker": {"failureThreshold": 2}});
    let hook: Hook = world.hook(Receiver::fails(2).then_accepts(), settings).await;
    for _ in 0..2 {
        let event = world.publish("message.sent").await;
        world.settled(&event).await;
    }
    let opened = fact::until("the log says that the breaker is open", async || {
        lines(&mut world, "posthaste::endpoint").pop().filter(|line| line["level"] == "WARN")
    });
    let opened = opened.await;
    assert_eq!((&opened["webhook"], &opened["consecutive_failures"]), (&json!(hook.id), &json!(2)), "{opened}");

    world.client().act(&hook.path("/test")).await.succeeded();

    let closed = fact::until("the log says that the breaker is closed", async || {
        lines(&mut world, "posthaste::endpoint").pop().filter(|line| line["level"] == "INFO")
    });
    assert!(text(&closed.await, "message").contains("closed"));
}

#[tokio::test]
async fn a_breaker_that_stays_open_is_one_line_however_many_probes_fail() {
    let mut world = world().await;
    let retries = json!({"maxRetries": 20, "backoffStrategy": "schedule", "scheduleSeconds": [1]});
    let breaker = json!({"failureThreshold": 1, "cooldownSeconds": 1, "maxCooldownSeconds": 1});
    let hook = world.hook(Receiver::status(500), json!({"retryPolicy": retries, "breaker": breaker})).await;
    world.publish("message.sent").await;
    hook.receiver.saw(4).await;
    world.stop().await;

    let [opened] = &lines(&mut world, "posthaste::endpoint")[..] else { panic!("the breaker opened once") };
    assert!(text(opened, "message").contains("circuit breaker opened"), "{opened}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_refuses_to_commit_is_one_error_and_a_node_that_is_not_ready() {
    On::Postgres.run(without_a_table_for_events()).await;
}

async fn without_a_table_for_events() {
    let mut world = world().await;
    let published = async |status: u16| {
        let event = json!({"event": "message.sent", "data": {}});
        let answer = try_send(world.client().json(Method::POST, "/events", &event)).await.expect("an answer");
        let ready = try_send(world.anyone().root(Method::GET, "/readyz")).await.expect("an answer");
        (answer.status == status).then_some((answer, ready.status))
    };
    world.database().ask("ALTER TABLE event RENAME TO event_away");
    let refused =
        fact::until("the server is not ready", async || published(503).await.filter(|(_, ready)| *ready == 503)).await;
    world.database().ask("ALTER TABLE event_away RENAME TO event");
    fact::until("the server is ready again", async || published(202).await.filter(|(_, ready)| *ready == 200)).await;
    world.stop().await;

    assert_eq!(refused.0.json()["code"], "storage_unavailable");
    let lines_of_requests = lines(&mut world, "posthaste::request");
    let reason = lines_of_requests.iter().find_map(|line| line["reason"].as_str()).expect("a reason");
    assert!(reason.contains("event") && !refused.0.text.contains(reason), "{reason}");
    let stderr = world.server().output().stderr();
    for (level, message) in [("ERROR", "a journal batch was refused;"), ("INFO", "commits journal batches again")] {
        let said = stderr.lines().filter(|line| line.contains(message) && line.contains(level)).count();
        assert_eq!(said, 1, "{level} {message}: {stderr}");
    }
}

#[tokio::test]
async fn changes_and_refusals_are_lines_and_what_is_read_or_published_is_none() {
    let mut world = world().await;
    let hook = world.hook(Receiver::ok(), json!({})).await;
    world.publish("message.sent").await;
    world.client().get("/webhooks").await.expect(200);
    let before = lines(&mut world, "posthaste::request").len();
    world.client().patch(&hook.path(""), &json!({"name": "another"})).await.expect(200);
    world.client().get("/events?nonsense=1").await.problem(400);

    let all = lines(&mut world, "posthaste::request");
    let [changed, refused] = &all[before..] else { panic!("two lines: {all:?}") };
    assert_eq!((&changed["method"], &changed["status"]), (&json!("PATCH"), &json!(200)));
    assert_eq!(changed["route"], "/api/v1/webhooks/{id}");
    assert_eq!(
        (&changed["tenant"], &changed["path"]),
        (&json!(world.tenant.id), &json!(format!("/api/v1{}", hook.path(""))))
    );
    assert!(
        text(changed, "key").starts_with("key_") && changed["request"].is_string() && changed["peer"] == "127.0.0.1"
    );
    assert_eq!((&refused["route"], &refused["status"]), (&json!("/api/v1/events"), &json!(400)));
    assert!(refused["code"].is_string() && refused["path"] == "/api/v1/events", "{refused}");
    assert!(all.iter().all(|line| line["route"] != "/api/v1/events" || line["status"] != 202), "{all:?}");
}

#[tokio::test]
async fn a_loop_that_anybody_can_pretend_is_a_refusal_and_no_failure_of_ours() {
    let mut world = world().await;
    let engines: Vec<String> = (1..=5).map(|engine| format!("posthaste-{engine:016x}")).collect();
    let call = world.anyone().json(Method::POST, "/events", &json!({})).header("CDN-Loop", engines.join(", "));
    try_send(call).await.expect("an answer").problem(508);

    let line = lines(&mut world, "posthaste::request").pop().expect("a line");
    assert_eq!((&line["level"], &line["code"]), (&json!("INFO"), &json!("loop_detected")), "{line}");
}

#[tokio::test]
async fn a_refused_key_is_named_by_its_id_and_a_flood_of_them_is_summed_up() {
    let mut world = world().await;
    let made = new_key(&world.admin(), &world.tenant.id, &["read"]).await;
    let (id, key) = (text(&made, "id"), text(&made, "key"));
    let path = format!("/tenants/{}/keys/{id}", world.tenant.id);
    world.admin().delete(&path).await.succeeded();
    let refused = world.anyone().with_key(&key);
    for _ in 0..60 {
        refused.get("/webhooks").await.problem(401);
    }

    let first = lines(&mut world, "posthaste::key");
    assert_eq!((&first[0]["key"], &first[0]["peer"]), (&json!(id), &json!("127.0.0.1")), "{first:?}");
    assert!(first[0]["reason"].is_string() && !world.server().output().all().contains(&key));
    let last = fact::until("one line sums up the refused keys", async || {
        refused.get("/webhooks").await.problem(401);
        let lines = lines(&mut world, "posthaste::key");
        lines.iter().any(|line| line["suppressed"].as_u64() > Some(0)).then_some(lines)
    });
    assert!(told(&last.await) >= 60);
}

on_both!(a_start_says_which_version_has_which_database);
async fn a_start_says_which_version_has_which_database() {
    let mut world = world().await;
    let [start] = &lines(&mut world, "posthaste::start")[..] else { panic!("one start") };
    assert_eq!(start["url"], world.url());
    let (database, nodes) = match On::this_test() {
        On::Sqlite => ("sqlite://", Value::Null),
        On::Postgres => ("postgres://", json!(1)),
    };
    assert!(start["version"].is_string() && text(start, "database").starts_with(database), "{start}");
    assert_eq!((&start["nodes"], start["node"].is_null()), (&nodes, nodes.is_null()), "{start}");
    assert!(text(start, "engine").starts_with("posthaste-"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_and_the_shards_that_move_to_it_are_lines() {
    On::Postgres.run(joins_and_acquires_shards()).await;
}

async fn joins_and_acquires_shards() {
    let mut fleet = Fleet::of_one(("POSTHASTE_LOG", "info")).await;
    fleet.grow_to(2).await;

    let mut shards = |node: usize, message: &str| -> u64 {
        let lines = lines_of(fleet.server(node), "posthaste::cluster::member");
        let lines = lines.iter().filter(|line| text(line, "message").starts_with(message));
        lines.map(|line| line["shards"].as_u64().expect("a number")).sum()
    };
    let moved = fact::until("the shards that one node hands off are those that the other acquires", async || {
        let moved = shards(0, "shards handed off");
        (moved > 0 && moved == shards(1, "shards acquired")).then_some(moved)
    });
    assert!(moved.await < shards(0, "shards acquired"));
    let [start] = &lines_of(fleet.server(1), "posthaste::start")[..] else { panic!("one start") };
    assert_eq!(start["nodes"], 2, "{start}");
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_start_says_what_is_owed_from_before() {
    let mut world = world().await;
    let hook = world.hook(Receiver::ok(), json!({})).await;
    world.client().act(&hook.path("/pause")).await.expect(200);
    world.publish("message.sent").await;
    world.kill();
    world.ended().await;
    world.restart().await;

    let last = fact::until("the second start is logged", async || {
        lines(&mut world, "posthaste::start").pop().filter(|start| start["pending"] == 1)
    });
    assert!(text(&last.await, "message").contains("started"));
}
