//! Finding webhooks: by text, by state, by event type, and the worst first.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::databases::{On, on_both};
use crate::support::fact;
use crate::support::fleet::Fleet;
use crate::support::hook::{Hook, quick_retries};
use crate::support::receiver::Receiver;
use crate::support::world::{World, text};

fn names(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| text(row, "name")).collect()
}

async fn found(client: &Client, query: &str) -> Vec<String> {
    names(&client.walk(&format!("/webhooks?{query}")).await)
}

on_both!(a_webhook_is_found_by_any_part_of_its_name_its_url_and_its_id);
async fn a_webhook_is_found_by_any_part_of_its_name_its_url_and_its_id() {
    let world = World::start().await;
    let client = world.client();
    let billing = world.hook(Receiver::ok(), json!({"name": "Billing Größe", "events": ["call.*"]})).await;
    let shipping = world.hook(Receiver::ok(), json!({"name": "Shipping 100%", "events": ["call.ended", "a"]})).await;
    world.another_tenant().await;

    assert_eq!(found(client, "q=bILL").await, ["Billing Größe"]);
    assert_eq!(found(client, "q=GR%C3%96SSE").await, [""; 0], "case is folded, spelling is not");
    assert_eq!(found(client, "q=GR%C3%96%C3%9FE").await, ["Billing Größe"]);
    assert_eq!(found(client, "q=100%25").await, ["Shipping 100%"]);
    assert_eq!(found(client, "q=_").await, ["Shipping 100%", "Billing Größe"], "every id has one");
    assert_eq!(found(client, &format!("q=:{}/", billing.receiver.port())).await, ["Billing Größe"]);
    assert_eq!(found(client, &format!("q={}", shipping.id)).await, ["Shipping 100%"]);
    assert_eq!(found(client, "event=call.started").await, ["Billing Größe"]);
    assert_eq!(found(client, "event=call.ended&sort=name").await, ["Billing Größe", "Shipping 100%"]);
    assert_eq!(found(client, "event=call.ended&q=ship").await, ["Shipping 100%"]);
    for wrong in ["q=", &format!("q={}", "x".repeat(201)), "state=sleepy", "sort=age", "isActive=1"] {
        assert_eq!(client.get(&format!("/webhooks?{wrong}")).await.problem(400).code(), "invalid_parameter", "{wrong}");
    }
}

on_both!(a_list_by_name_is_walked_in_order_and_has_each_webhook_once);
async fn a_list_by_name_is_walked_in_order_and_has_each_webhook_once() {
    let world = World::start().await;
    let mut expected = Vec::new();
    for place in 0..12 {
        let name = format!("hook {}", (place * 7) % 12 / 2);
        let hook = world.hook(Receiver::ok(), json!({"name": name, "events": ["a"]})).await;
        expected.push((name, hook));
    }
    let other = world.another_tenant().await;
    let theirs = Hook::create(&other.client, Receiver::ok(), json!({"name": "hook 3"})).await;
    expected.sort_by(|(one, _), (other, _)| one.cmp(other));

    let pages = world.client().pages("/webhooks?sort=name", 5).await;
    let ids: Vec<String> = pages.iter().flatten().map(|row| text(row, "id")).collect();
    assert_eq!(ids, expected.iter().map(|(_, hook)| hook.id.clone()).collect::<Vec<_>>(), "equal names by age");

    for sort in ["name", "created"] {
        let all = world.admin().pages(&format!("/webhooks?sort={sort}"), 5).await.concat();
        let mut ids: Vec<String> = all.iter().map(|row| text(row, "id")).collect();
        let tenants = all.iter().filter(|row| row["tenantId"] == other.id.as_str()).count();
        assert_eq!((ids.len(), tenants), (13, 1), "an admin sees the webhooks of all tenants");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 13);
    }
    assert_eq!(found(&other.client, "sort=name").await, [text(&theirs.body, "name")]);
}

/// A webhook for each kind of trouble but quarantine, and one without.
async fn troubled(world: &World) -> Vec<Hook> {
    let breaker = json!({"failureThreshold": 1, "cooldownSeconds": 3600, "maxCooldownSeconds": 3600});
    let hooks = vec![
        world.hook(Receiver::ok(), json!({"name": "healthy"})).await,
        world.hook(Receiver::ok(), json!({"name": "waiting"})).await,
        world.hook(Receiver::status(500), json!({"name": "failing", "retryPolicy": {"maxRetries": 0}})).await,
        world.hook(Receiver::status(500), json!({"name": "broken", "breaker": breaker})).await,
        world.hook(Receiver::status(410), json!({"name": "gone"})).await,
    ];
    world.client().act(&hooks[1].path("/pause")).await.expect(200);
    world.publish("message.sent").await;
    hooks
}

const WORST_FIRST: [&str; 4] = ["gone", "broken", "failing", "waiting"];

async fn worst_first(client: &Client) {
    fact::until("each trouble is known", async || (found(client, "sort=trouble").await == WORST_FIRST).then_some(()))
        .await;
}

on_both!(the_webhooks_in_trouble_come_worst_first_and_say_why);
async fn the_webhooks_in_trouble_come_worst_first_and_say_why() {
    let mut world = World::start().await;
    let hooks = troubled(&world).await;
    worst_first(world.client()).await;

    world.stop().await;
    world.restart().await;
    worst_first(world.client()).await;
    let rows = world.client().pages("/webhooks?sort=trouble", 3).await.concat();
    assert_eq!(names(&rows), WORST_FIRST, "page by page");
    let kinds: Vec<&Value> = rows.iter().map(|row| &row["trouble"]["kind"]).collect();
    assert_eq!(kinds, ["suspended", "circuit_open", "failing", "backlog"]);
    let states: Vec<&Value> = rows.iter().map(|row| &row["state"]).collect();
    assert_eq!(states, ["suspended", "circuit_open", "active", "paused"]);
    assert_eq!(rows[3]["trouble"]["since"], rows[3]["oldestPendingAt"]);
    assert_eq!(rows[2]["trouble"]["since"], rows[2]["failingSince"]);

    let client = world.client();
    for (query, expected) in [
        ("state=circuit_open", vec!["broken"]),
        ("state=paused", vec!["waiting"]),
        ("state=suspended", vec!["gone"]),
        ("state=active", vec!["failing", "healthy"]),
        ("sort=trouble&state=active", vec!["failing"]),
        ("sort=trouble&isActive=true", vec!["gone", "broken", "failing", "waiting"]),
        ("sort=trouble&q=FAILING", vec!["failing"]),
    ] {
        assert_eq!(found(client, query).await, expected, "{query}");
    }
    let healthy = client.get(&format!("/webhooks?q={}", hooks[0].id)).await.expect(200)["data"][0].clone();
    assert_eq!((&healthy["trouble"], &healthy["state"]), (&Value::Null, &json!("active")));
    let other = world.another_tenant().await;
    assert_eq!(found(&other.client, "sort=trouble").await, [""; 0]);
    assert_eq!(found(&world.admin(), "sort=trouble").await, WORST_FIRST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_webhooks_in_trouble_are_merged_over_the_nodes() {
    On::Postgres
        .run(async {
            let (mut fleet, hooks) = Fleet::of_two_with_backlogs(16).await;
            let clients = fleet.clients();
            for client in &clients {
                fact::until("all webhooks are in trouble", async || {
                    let pages = client.pages("/webhooks?sort=trouble", 5).await;
                    let mut ids: Vec<String> = pages.iter().flatten().map(|row| text(row, "id")).collect();
                    ids.sort_unstable();
                    ids.dedup();
                    (ids.len() == hooks.len() && pages.iter().flatten().count() == hooks.len()).then_some(())
                })
                .await;
            }
            fleet.stop_all().await;
        })
        .await;
}

on_both!(deliveries_are_found_by_how_often_they_were_tried);
async fn deliveries_are_found_by_how_often_they_were_tried() {
    let world = World::start().await;
    let once = world.hook(Receiver::ok(), json!({})).await;
    let twice = world.hook(Receiver::fails(1).then_accepts(), json!({"retryPolicy": quick_retries(1)})).await;
    let never = world.hook(Receiver::ok(), json!({})).await;
    world.client().act(&never.path("/pause")).await.expect(200);
    let event = world.publish("message.sent").await;
    once.saw(1).await;
    twice.saw(2).await;
    for (attempts, hook) in [(0, &never), (1, &once), (2, &twice)] {
        fact::until("only this delivery was tried so often", async || {
            let rows = world.client().walk(&format!("/deliveries?attempts={attempts}&eventId={}", event.id)).await;
            let webhooks: Vec<String> = rows.iter().map(|row| text(row, "webhookId")).collect();
            (webhooks == [hook.id.clone()]).then_some(())
        })
        .await;
    }
    for wrong in ["-1", "many", "100000"] {
        let refused = world.client().get(&format!("/deliveries?attempts={wrong}")).await.problem(400);
        assert_eq!(refused.code(), "invalid_parameter", "{wrong}");
    }
}
