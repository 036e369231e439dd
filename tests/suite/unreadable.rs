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
const DAMAGE: [(&str, &str, &[On]); 21] = [
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
    // Still open, so that the engine reads it each second, beside a sound one that has to end.
    ("operation", "UPDATE operation SET kind = 99, finished_at = NULL WHERE num = 1", &BOTH),
    (
        "operation_item",
        "INSERT INTO operation_item (operation, webhook_num, event_seq, state) SELECT 1, 1, MIN(seq), 99 FROM event",
        &BOTH,
    ),
    ("event", "UPDATE event SET kind = x'ff' WHERE seq = (SELECT MIN(seq) FROM event)", &SQLITE),
    ("event_type", "UPDATE event_type SET version = 'x' WHERE name = 'message.sent' AND tenant_num = 1", &SQLITE),
    ("endpoint_health", "UPDATE endpoint_health SET openings = 'x'", &SQLITE),
    ("engine_state", "UPDATE engine_state SET value = 'x' WHERE name = 'started_at'", &SQLITE),
    ("audit", "UPDATE audit SET at = 'x' WHERE num = 1", &SQLITE),
    (
        "operational_event",
        "INSERT INTO operational_event (tenant_num, kind, data, at) VALUES (1, 'webhook.paused', 'no object', 0)",
        &BOTH,
    ),
    (
        "operational_event",
        "INSERT INTO operational_event (tenant_num, kind, data, at) VALUES (1, 'webhook.paused', '{}', 'x')",
        &SQLITE,
    ),
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

    let none = json!({"kind": "retry", "status": "success"});
    world.client().post("/operations", &none).await.expect(202);

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
            for list in ["/webhooks", "/deliveries", "/events", "/event-types", "/backlogs", "/operations"] {
                assert_eq!(status(&world, list).await, 200, "{table}: GET {list}");
            }
        }
    }
    let operation = other.client.post("/operations", &none).await.expect(202);
    let path = format!("/operations/{}", text(&operation, "id"));
    fact::until("an operation ends beside one that cannot be read", async || {
        (other.client.get(&path).await.expect(200)["state"] == "done").then_some(())
    })
    .await;
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

/// Webhooks of which one column each cannot be read: name, the column, the damage, and the fields that a change must
/// give.
const DAMAGED: [(&str, &str, &str, &[&str]); 4] = [
    (
        "policy",
        "policy",
        "'{bad'",
        &[
            "/breaker",
            "/disableAfterSeconds",
            "/filter",
            "/maxInFlight",
            "/rateLimit",
            "/retryPolicy",
            "/signature",
            "/timeoutMs",
        ],
    ),
    ("events", "events", "'['", &["/events"]),
    ("headers", "headers", "{01}", &["/headers"]),
    ("credentials", "credentials", "{01}", &["/auth", "/tls"]),
];

/// A world in which the webhooks of [`DAMAGED`] are damaged, and one more is sound.
async fn damaged_world() -> (World, Vec<Hook>, Hook) {
    let mut world = World::start().await;
    let mut damaged = Vec::new();
    for (name, ..) in DAMAGED {
        let settings = json!({"name": name, "headers": {"X-Team": "a"}, "auth": {"type": "bearer", "token": "t"}});
        damaged.push(world.hook(Receiver::ok(), settings).await);
    }
    let sound = world.hook(Receiver::ok(), json!({"name": "sound"})).await;
    world.stop().await;
    for (name, column, value, _) in DAMAGED {
        rows::tamper(&world, &spelled(&format!("UPDATE webhook SET {column} = {value} WHERE name = '{name}'")));
    }
    world.restart().await;
    (world, damaged, sound)
}

on_both!(a_webhook_that_cannot_be_read_is_named_with_its_damage_wherever_it_is_asked_for);
async fn a_webhook_that_cannot_be_read_is_named_with_its_damage_wherever_it_is_asked_for() {
    let (world, damaged, sound) = damaged_world().await;
    let client = world.client();

    let page = client.get("/webhooks").await.expect(200);

    let listed = |list: &Value| list.as_array().expect("a list").iter().map(|it| text(it, "id")).collect::<Vec<_>>();
    assert_eq!(listed(&page["data"]), [sound.id.as_str()]);
    assert_eq!(listed(&page["unreadable"]), damaged.iter().rev().map(|hook| hook.id.as_str()).collect::<Vec<_>>());
    for (hook, (name, column, ..)) in damaged.iter().zip(DAMAGED) {
        let place = format!("of the table `webhook` (column `{column}`) cannot be read");
        let is_it = |it: &&Value| it["name"] == name && text(it, "damage").contains(&place);
        assert!(page["unreadable"].as_array().and_then(|list| list.iter().find(is_it)).is_some(), "{name}: {page}");
        let backlog = fact::until("the owner's backlog is up to date", async || {
            let answer = client.get(&hook.path("/backlog")).await;
            (answer.status == 200).then(|| answer.json())
        })
        .await;
        assert_eq!(backlog["state"], "quarantined", "{backlog}");
        let why = text(&backlog, "why");
        assert!(why.contains(&place) && why.contains("posthaste check"), "{backlog}");
        let read = try_send(client.call(Method::GET, &hook.path(""))).await.expect("an answer");
        assert_eq!(read.expect(500)["code"], "unreadable_row", "{read:?}");
        assert!(text(&read.json(), "detail").contains(&place), "{read:?}");
        assert_eq!(status(&world, &hook.path("/logs")).await, 200);
        let refused = client.act(&hook.path("/test")).await.problem(409);
        assert!(refused.code() == "webhook_quarantined" && refused.detail().contains(&place), "{refused:?}");
    }
}

on_both!(a_webhook_that_cannot_be_read_is_paused_resumed_purged_and_deleted);
async fn a_webhook_that_cannot_be_read_is_paused_resumed_purged_and_deleted() {
    let (mut world, damaged, _sound) = damaged_world().await;
    let event = world.publish("message.sent").await;
    for (hook, (name, ..)) in damaged.iter().zip(DAMAGED) {
        let client = world.client();
        let act = async |action: &str| {
            fact::until("the owner of the webhook is known", async || {
                let answer = client.act(&hook.path(action)).await;
                (answer.status != 503).then(|| answer.expect(200))
            })
            .await
        };
        let paused = act("/pause").await;
        let is_it = (&paused["id"], &paused["state"], &paused["changed"]);
        assert_eq!(is_it, (&json!(hook.id), &json!("paused"), &json!(true)), "{paused}");
        assert!(text(&paused, "damage").contains("cannot be read"), "{paused}");
        assert_eq!(act("/pause").await["changed"], false);
        assert_eq!(client.act(&hook.path("/test")).await.problem(409).code(), "webhook_quarantined");
        let resumed = act("/resume").await;
        assert_eq!((&resumed["state"], &resumed["changed"]), (&json!("quarantined"), &json!(true)), "{resumed}");
        // Nothing is owed to a webhook whose subscriptions cannot be read.
        let owed = u64::from(name != "events");
        assert_eq!(act("/purge").await["cancelled"], owed, "{name}");
        let stale = client.call(Method::DELETE, &hook.path("")).header("if-match", "\"v99\"");
        send(stale).await.problem(412);
        assert_eq!(client.delete(&hook.path("")).await.status, 204);
        client.get(&hook.path("")).await.problem(404);
        assert!(hook.requests().is_empty());
    }
    world.all_settled(&event).await;
    assert_eq!(world.client().get("/webhooks").await.expect(200)["unreadable"], json!([]));
    world.stop().await;
    let (code, said) = check(&mut world).await;
    assert_eq!(code, Some(0), "nothing reads a deleted webhook: {said}");
}

on_both!(a_change_that_gives_what_cannot_be_read_mends_a_webhook);
async fn a_change_that_gives_what_cannot_be_read_mends_a_webhook() {
    let (mut world, damaged, _sound) = damaged_world().await;
    let mut mended = 0;
    for (hook, (name, _, _, lost)) in damaged.iter().zip(DAMAGED) {
        let refused = world.client().patch(&hook.path(""), &json!({"description": "x"})).await.problem(422);
        assert_eq!(refused.pointers(), lost, "{name}");
        let mut change = json!({"description": "mended"});
        for pointer in lost {
            change[&pointer[1..]] = if *pointer == "/events" { json!(["message.*"]) } else { Value::Null };
        }

        let changed = world.client().patch(&hook.path(""), &change).await.expect(200);

        assert_eq!((&changed["name"], &changed["url"]), (&json!(name), &hook.body["url"]), "the rest is kept");
        assert_eq!(changed["auth"].is_null(), name == "credentials", "{changed}");
        assert_eq!(changed["headers"] == json!({}), name == "headers", "{changed}");
        let fields = &world.client().walk("/audit?action=webhook.update").await[0]["fields"];
        let is_named = |pointer: &&str| fields.as_array().is_some_and(|it| it.contains(&json!(pointer[1..])));
        assert!(lost.iter().all(is_named), "{fields}");
        world.publish("message.sent").await;
        mended += 1;
        hook.saw(1).await;
    }
    assert_eq!(world.client().walk("/webhooks").await.len(), mended + 1);
    world.stop().await;
    let (code, said) = check(&mut world).await;
    assert_eq!(code, Some(0), "{said}");
}

/// PostgreSQL enforces the columns' types, so that only SQLite keeps such values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_another_type_can_be_replaced_in_every_column() {
    let mut world = World::start().await;
    let columns = ["name", "url", "public_headers", "description", "metadata", "is_active", "inactive_reason"];
    let others = ["created_at", "updated_at", "tls_digest", "bound_url", "ordered", "paused_at", "version"];
    let all = [&columns[..], &others[..]].concat();
    let mut hooks = Vec::new();
    for column in &all {
        hooks.push(world.hook(Receiver::ok(), json!({"name": column})).await);
    }
    world.stop().await;
    for column in &all {
        let value = if *column == "tls_digest" { "'x'" } else { "{80}" };
        let sql = format!("UPDATE webhook SET {column} = {value} WHERE name = '{column}'");
        rows::tamper(&world, &spelled(&sql));
    }
    world.restart().await;
    let given = |hook: &Hook, pointer: &str| match pointer {
        "/name" | "/url" => hook.body[&pointer[1..]].clone(),
        _ => Value::Null,
    };
    for (hook, column) in hooks.iter().zip(&all) {
        let client = world.client();
        if *column == "version" {
            client.act(&hook.path("/pause")).await.expect(200);
        }
        if ["paused_at", "version"].contains(column) {
            client.act(&hook.path("/resume")).await.expect(200);
        }
        let asked = client.patch(&hook.path(""), &json!({})).await;
        if asked.status == 422 {
            let pointers = asked.problem(422).pointers();
            let change = pointers.iter().map(|pointer| (pointer[1..].to_owned(), given(hook, pointer)));
            client.patch(&hook.path(""), &Value::Object(change.collect())).await.expect(200);
        } else {
            asked.expect(200);
        }
        let read = client.get(&hook.path("")).await.expect(200);
        assert_eq!((&read["url"], &read["pausedAt"]), (&hook.body["url"], &Value::Null), "{column}");
        // The time in the webhook's id replaces one that was lost; it is another millisecond.
        let (read, made) = (text(&read, "createdAt"), text(&hook.body, "createdAt"));
        assert!(read == made || *column == "created_at" && read[..16] == made[..16], "{column}: {read}, {made}");
    }
    world.stop().await;
    let (code, said) = check(&mut world).await;
    assert_eq!(code, Some(0), "{said}");
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
