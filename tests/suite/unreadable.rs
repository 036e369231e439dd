//! One unreadable row in each table: everything else keeps working, and the log, the metrics and `check` name the row.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::{send, try_send};
use crate::support::databases::{On, on_both};
use crate::support::fact;
use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::rows;
use crate::support::server;
use crate::support::world::{World, text};

/// Statements that damage one row of the first tenant: the table, the statement, and the databases on which it works.
/// PostgreSQL enforces column types, so some damage is possible on SQLite only.
const DAMAGE: [(&str, &str, &[On]); 17] = [
    ("fanout", "INSERT INTO fanout (event_seq, shard, targets) SELECT MIN(seq), 7, {80} FROM event", &BOTH),
    ("event_caller_id", "UPDATE event_caller_id SET digest = {01}", &BOTH),
    ("idempotency", "UPDATE idempotency SET answer = {01}", &BOTH),
    ("attempt", "UPDATE attempt SET reason = 99 WHERE number = 1", &BOTH),
    ("delivery", "UPDATE delivery SET attempts = -1", &BOTH),
    ("webhook", "UPDATE webhook SET policy = '{' WHERE name = 'damaged'", &BOTH),
    (
        "webhook_secret",
        "UPDATE webhook_secret SET sealed = {01} WHERE webhook_num = (SELECT num FROM webhook WHERE name = 'spare')",
        &BOTH,
    ),
    ("event", "UPDATE event SET kind = x'ff' WHERE seq = (SELECT MIN(seq) FROM event)", &SQLITE),
    ("event_type", "UPDATE event_type SET version = 'x' WHERE name = 'message.sent' AND tenant_num = 1", &SQLITE),
    ("endpoint_health", "UPDATE endpoint_health SET openings = 'x'", &SQLITE),
    ("engine_state", "UPDATE engine_state SET value = 'x' WHERE name = 'started_at'", &SQLITE),
    ("audit", "UPDATE audit SET at = 'x' WHERE num = 1", &SQLITE),
    ("delivery_log", "INSERT INTO delivery_log (webhook_num, event_seq) VALUES (1, 'x')", &SQLITE),
    ("shard", "INSERT INTO shard (num, owner, epoch) VALUES (999, NULL, 0)", &POSTGRES),
    ("config_change", "INSERT INTO config_change (kind, subject, changed_at) VALUES (99, 1, 0)", &POSTGRES),
    ("api_key", "UPDATE api_key SET id = {01} WHERE tenant_num = 1", &BOTH),
    ("tenant", "UPDATE tenant SET id = {01} WHERE num = 1", &BOTH),
];

const BOTH: [On; 2] = [On::Sqlite, On::Postgres];
const SQLITE: [On; 1] = [On::Sqlite];
const POSTGRES: [On; 1] = [On::Postgres];

/// Tables whose damage disappears: nodes accept changes of an unknown kind, and the next start rewrites its state.
const HEALED: [&str; 2] = ["config_change", "engine_state"];

/// Begins like a value that was sealed under a master key that nobody has.
const FOREIGN: &str = "01ffffffff00000000000000000000000000";

/// Replaces `{hex}` with a byte literal of the database.
fn spelled(sql: &str) -> String {
    ["01", "80", FOREIGN].iter().fold(sql.to_owned(), |sql, hex| {
        let literal = match On::this_test() {
            On::Sqlite => format!("x'{hex}'"),
            On::Postgres => format!("'\\x{hex}'"),
        };
        sql.replace(&format!("{{{hex}}}"), &literal)
    })
}

async fn status(world: &World, path: &str) -> u16 {
    world.client().get(path).await.status
}

on_both!(one_row_that_cannot_be_read_stops_nothing_else);
pub(crate) async fn one_row_that_cannot_be_read_stops_nothing_else() {
    let mut world = World::start().await;
    let policy = json!({"maxRetries": 5, "backoffStrategy": "schedule", "scheduleSeconds": [3600]});
    let damaged = json!({"name": "damaged", "retryPolicy": policy, "events": ["call.failed"]});
    let failing = world.hook(Receiver::status(500), damaged).await;
    world.hook(Receiver::ok(), json!({"name": "spare", "events": ["call.ringing"]})).await;
    let event = json!({"id": "mine", "event": "call.failed", "data": {}});
    send(world.client().json(Method::POST, "/events", &event).header("idempotency-key", "once")).await.expect(202);
    failing.saw(1).await;

    let other = world.another_tenant().await;
    let sound = Hook::create(&other.client, Receiver::ok(), json!({"events": ["call.failed"]})).await;
    let mut delivered = 0;
    let on = On::this_test();
    for (table, sql, _) in DAMAGE.iter().filter(|(_, _, databases)| databases.contains(&on)) {
        world.stop().await;
        rows::tamper(&world, &spelled(sql));
        world.restart().await;
        let published = json!({"event": "call.failed", "data": {}});
        other.client.post("/events", &published).await.expect(202);
        delivered += 1;
        sound.saw(delivered).await;
        let ready = send(world.anyone().root(Method::GET, "/readyz")).await.status;
        assert_eq!(ready, 200, "{table}");
        if !["api_key", "tenant"].contains(table) {
            for list in ["/webhooks", "/deliveries", "/events", "/event-types", "/backlogs"] {
                assert_eq!(status(&world, list).await, 200, "{table}: GET {list}");
            }
        }
    }
    for list in ["/tenants", "/audit", "/backlogs"] {
        assert_eq!(world.admin().get(list).await.status, 200, "GET {list}");
    }
    fact::until("the metrics count the unreadable rows", async || {
        let metrics = send(world.admin().root(Method::GET, "/metrics")).await.text;
        metrics.contains("posthaste_unreadable_rows_total{table=\"fanout\"} 1").then_some(())
    })
    .await;
    world.stop().await;

    let (code, said) = check(&mut world).await;
    assert_eq!(code, Some(1), "{said}");
    for (table, _, databases) in DAMAGE {
        let is_named = said.lines().any(|line| line.contains(&format!("{table} ")));
        assert!(is_named || HEALED.contains(&table) || !databases.contains(&on), "{table} is not named: {said}");
    }
}

/// Runs `check`; returns its exit code and output.
async fn check(world: &mut World) -> (Option<i32>, String) {
    let mut env = world.env().clone();
    env.retain(|name, _| ["POSTHASTE_DATABASE_URL", "POSTHASTE_MASTER_KEY"].contains(name));
    let (ended, output) = server::run(world.dir(), &["check"], &env).await;
    (ended.code(), output.all())
}

on_both!(a_call_about_a_webhook_whose_row_cannot_be_read_says_so_and_its_backlog_why);
pub(crate) async fn a_call_about_a_webhook_whose_row_cannot_be_read_says_so_and_its_backlog_why() {
    let mut world = World::start().await;
    let sound = world.hook(Receiver::ok(), json!({"name": "sound"})).await;
    let mut damaged = Vec::new();
    for name in ["policy", "events", "value"] {
        damaged.push(world.hook(Receiver::ok(), json!({"name": name})).await);
    }
    world.stop().await;
    rows::tamper(&world, "UPDATE webhook SET policy = '{bad' WHERE name = 'policy'");
    rows::tamper(&world, "UPDATE webhook SET events = '[' WHERE name = 'events'");
    let value = match On::this_test() {
        On::Sqlite => "UPDATE webhook SET url = {80} WHERE name = 'value'",
        On::Postgres => "UPDATE webhook SET headers = {01} WHERE name = 'value'",
    };
    rows::tamper(&world, &spelled(value));
    world.restart().await;

    let listed = world.client().walk("/webhooks").await;
    assert_eq!(listed.iter().map(|webhook| &webhook["id"]).collect::<Vec<_>>(), [sound.id.as_str()]);
    for hook in &damaged {
        let client = world.client();
        let backlog = fact::until("the owner's backlog is up to date", async || {
            let answer = client.get(&hook.path("/backlog")).await;
            (answer.status == 200).then(|| answer.json())
        })
        .await;
        assert_eq!(backlog["state"], "quarantined", "{backlog}");
        assert!(backlog["why"].as_str().is_some_and(|why| why.contains("posthaste check")), "{backlog}");
        let mut calls = vec![client.json(Method::PATCH, &hook.path(""), &json!({"name": "other"}))];
        for path in ["", "/logs"] {
            calls.push(client.call(Method::GET, &hook.path(path)));
        }
        for action in ["/pause", "/resume", "/test"] {
            calls.push(client.call(Method::POST, &hook.path(action)));
        }
        for call in calls {
            let answer = try_send(call).await.expect("an answer");
            assert_eq!(answer.expect(500)["code"], "unreadable_row", "{answer:?}");
        }
    }
}

on_both!(a_test_of_a_webhook_with_an_unreadable_secret_is_refused_and_a_rotation_ends_that);
async fn a_test_of_a_webhook_with_an_unreadable_secret_is_refused_and_a_rotation_ends_that() {
    let (mut world, hook) = World::with_webhook(Receiver::ok()).await;
    world.stop().await;
    rows::tamper(&world, &spelled("UPDATE webhook_secret SET sealed = {01}"));
    world.restart().await;
    let event = world.publish("message.sent").await;
    quarantines(&world, 1).await;

    let refused = world.client().act(&hook.path("/test")).await.problem(409);
    let retried = world.client().act(&format!("/deliveries/{}/retry", only_delivery(&world, &event.id).await)).await;

    for problem in [refused, retried.problem(409)] {
        assert_eq!(problem.code(), "webhook_quarantined");
        let parts = ["of the table `webhook_secret` (column `sealed`) cannot be read", "`graceSeconds` 0"];
        assert!(parts.iter().all(|part| problem.detail().contains(part)), "{problem:?}");
    }
    hook.rotate_secret(world.client(), 0).await;
    world.settled(&event).await;
    assert_eq!(hook.statuses(), [200]);
    quarantines(&world, 0).await;
    world.client().act(&hook.path("/test")).await.expect(200);
}

/// Waits until this many endpoints count as quarantined.
async fn quarantines(world: &World, expected: usize) {
    let line = format!("posthaste_endpoints_quarantined {expected}\n");
    fact::until(&line, async || {
        send(world.admin().root(Method::GET, "/metrics")).await.text.contains(&line).then_some(())
    })
    .await;
}

async fn only_delivery(world: &World, event: &str) -> String {
    let deliveries = world.deliveries_of(event).await;
    assert_eq!(deliveries.len(), 1);
    text(&deliveries[0], "id")
}

on_both!(what_a_webhook_is_owed_whose_policy_cannot_be_read_is_listed);
pub(crate) async fn what_a_webhook_is_owed_whose_policy_cannot_be_read_is_listed() {
    let policy = json!({"maxRetries": 5, "backoffStrategy": "schedule", "scheduleSeconds": [3600]});
    let mut world = World::start().await;
    let hook = world.hook(Receiver::status(500), json!({"retryPolicy": policy})).await;
    world.publish("message.sent").await;
    hook.saw(1).await;
    world.stop().await;
    rows::tamper(&world, "UPDATE webhook SET policy = '{bad'");
    world.restart().await;

    fact::until("the webhook is listed as quarantined", async || {
        let listed = world.client().walk("/backlogs").await;
        let is_it = |backlog: &Value| backlog["webhookId"] == hook.id && backlog["state"] == "quarantined";
        listed.iter().any(is_it).then_some(())
    })
    .await;
}

on_both!(an_attempt_that_cannot_be_read_is_left_out_and_counted);
pub(crate) async fn an_attempt_that_cannot_be_read_is_left_out_and_counted() {
    let (mut world, _hook) = World::with_webhook(Receiver::ok()).await;
    let event = world.publish("message.sent").await;
    let delivery = world.settled(&event).await;
    world.stop().await;
    rows::tamper(&world, "UPDATE attempt SET outcome = 99");
    world.restart().await;

    let metrics = async |world: &World| send(world.admin().root(Method::GET, "/metrics")).await.text;
    let before = metrics(&world).await;
    assert!(before.contains("posthaste_unreadable_rows_total{table=\"attempt\"} 0"), "{before}");
    let path = format!("/deliveries/{}", text(&delivery, "id"));
    let shown = world.client().get(&path).await.expect(200);
    assert_eq!((&shown["attemptCount"], &shown["attempts"]), (&json!(1), &json!([])), "{shown}");
    assert!(world.client().walk(&format!("{path}/attempts")).await.is_empty());
    assert!(world.client().walk("/deliveries").await.iter().all(|delivery| delivery["lastAttempt"].is_null()));
    fact::until("the unreadable row is counted", async || {
        metrics(&world).await.contains("posthaste_unreadable_rows_total{table=\"attempt\"} 1").then_some(())
    })
    .await;
}

on_both!(a_check_names_everything_that_is_wrong_in_one_go);
pub(crate) async fn a_check_names_everything_that_is_wrong_in_one_go() {
    let policy = json!({"maxRetries": 5, "backoffStrategy": "schedule", "scheduleSeconds": [3600]});
    let mut world = World::start().await;
    let hook = world.hook(Receiver::status(500), json!({"retryPolicy": policy})).await;
    world.publish("message.sent").await;
    world.publish("message.sent").await;
    hook.saw(2).await;
    world.stop().await;
    for sql in [
        "DELETE FROM event WHERE seq = (SELECT MAX(seq) FROM event)",
        "UPDATE event SET body = {01}",
        "UPDATE attempt SET outcome = 99",
        "UPDATE api_key SET scopes = 'nonsense' WHERE tenant_num = 1",
        "UPDATE webhook SET policy = '{}x'",
    ] {
        rows::tamper(&world, &spelled(sql));
    }

    let (code, said) = check(&mut world).await;

    assert_eq!(code, Some(1), "{said}");
    let webhook = format!("({})", hook.id);
    for named in ["1 pending deliveries without their event", "\nevent ", "\nattempt ", "\napi_key ", &webhook] {
        assert!(said.contains(named), "{named:?} is not named: {said}");
    }
    assert!(!said.contains(": ok"), "{said}");
}

/// PostgreSQL enforces the columns' types, so that only SQLite keeps such a value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_that_cannot_be_read_counts_as_none_and_is_replaced() {
    let mut world = World::start().await;
    let hook = world.hook(Receiver::status(500), json!({"retryPolicy": {"maxRetries": 0}})).await;
    let first = world.publish("message.sent").await;
    world.settled(&first).await;
    world.stop().await;
    rows::tamper(&world, "UPDATE endpoint_health SET openings = 'x'");
    let (code, said) = check(&mut world).await;
    assert!(code == Some(1) && said.contains("endpoint_health "), "{said}");
    world.restart().await;

    let second = world.publish("message.sent").await;
    world.settled(&second).await;

    assert_eq!(hook.statuses(), [500, 500]);
    let backlog = world.client().get(&hook.path("/backlog")).await.expect(200);
    assert_eq!((&backlog["state"], &backlog["breaker"]["consecutiveFailures"]), (&json!("active"), &json!(1)));
    let log = world.server().output().stderr();
    let is_named = |line: &str| line.contains("endpoint_health") && line.contains("cannot be read");
    assert!(log.lines().any(is_named), "{log}");
    world.stop().await;
    let (code, said) = check(&mut world).await;
    assert_eq!(code, Some(0), "{said}");
}

on_both!(a_check_opens_every_sealed_value_and_says_when_it_has_no_key);
async fn a_check_opens_every_sealed_value_and_says_when_it_has_no_key() {
    let mut world = World::start().await;
    let mut hooks = Vec::new();
    for name in ["moved", "foreign", "secret", "sound"] {
        let auth = json!({"type": "bearer", "token": "t"});
        hooks.push(world.hook(Receiver::ok(), json!({"name": name, "auth": auth})).await);
    }
    world.stop().await;
    let (code, said) = check(&mut world).await;
    assert!(code == Some(0) && said.contains("rows: ok") && !said.contains("sealed values"), "{said}");
    let of = |column: &str, name: &str| format!("(SELECT {column} FROM webhook WHERE name = '{name}')");
    let (moved, secret) = (of("headers", "sound"), of("num", "secret"));
    rows::tamper(&world, &format!("UPDATE webhook SET headers = {moved} WHERE name = 'moved'"));
    rows::tamper(&world, &spelled(&format!("UPDATE webhook SET credentials = {{{FOREIGN}}} WHERE name = 'foreign'")));
    rows::tamper(&world, &spelled(&format!("UPDATE webhook_secret SET sealed = {{01}} WHERE webhook_num = {secret}")));

    let (code, said) = check(&mut world).await;

    assert_eq!(code, Some(1), "{said}");
    for (table, hook, expected) in [
        ("webhook", &hooks[0], "headers: it does not belong to this row or was changed"),
        ("webhook", &hooks[1], "credentials: it was sealed under another master key"),
        ("webhook_secret", &hooks[2], "sealed: unknown layout"),
    ] {
        let expected = format!("({}), {expected}", hook.id);
        let is_named = |line: &str| line.starts_with(&format!("{table} ")) && line.ends_with(&expected);
        assert!(said.lines().any(is_named), "{expected:?} is not named: {said}");
    }
    assert!(!said.contains(&hooks[3].id), "{said}");
    without_key(&mut world);
    let (code, said) = check(&mut world).await;
    assert!(code == Some(0) && said.contains("rows: ok") && said.contains("sealed values: not opened"), "{said}");
}

fn without_key(world: &mut World) {
    match On::this_test() {
        On::Sqlite => std::fs::remove_file(world.dir().join("p.db.key")).expect("a key"),
        On::Postgres => drop(world.env().remove("POSTHASTE_MASTER_KEY")),
    }
}
