//! The audit log: every route that changes something writes one entry with its author; other routes write none.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::{Client, send};
use crate::support::databases::{On, on_both};
use crate::support::fact;
use crate::support::fleet::Fleet;
use crate::support::hook::Hook;
use crate::support::operations::{Ids, Operation, operation_done, operations};
use crate::support::receiver::Receiver;
use crate::support::world::{Tenant, World, id_of, new_admin_key, new_key, new_session, text};

/// Publishing changes no configuration, and an event is its own record.
const UNRECORDED: [&str; 3] = ["publishEvent", "publishEvents", "explainDraft"];

/// A tenant with one object of each kind, created for one change.
struct Estate {
    tenant: Tenant,
    /// The author of changes made with the tenant's key.
    author: String,
    ids: Ids,
    hook: Hook,
}

impl Estate {
    async fn new(world: &World) -> Self {
        let tenant = world.another_tenant().await;
        let keys = format!("/tenants/{}/keys", tenant.id);
        let author = text(&world.admin().walk(&keys).await[0], "id");
        let hook = Hook::create(&tenant.client, Receiver::ok(), json!({})).await;
        let event = tenant.client.post("/events", &json!({"event": "message.sent", "data": {}})).await;
        event.expect(202);
        let delivery = hook.saw(1).await[0].header("x-webhook-delivery").to_owned();
        recorded(&tenant.client, &delivery).await;
        tenant.client.post("/event-types", &json!({"name": "bolt.only"})).await.expect(201);
        let key = text(&new_key(&world.admin(), &tenant.id, &["read"]).await, "id");
        let (admin_key, session) = (new_admin_key(world).await, new_session(&tenant.client).await);
        let ids = Ids {
            tenant: tenant.id.clone(),
            key,
            admin_key,
            session,
            webhook: hook.id.clone(),
            secret: text(&hook.body["secrets"][0], "id"),
            event: id_of(&event),
            delivery,
            event_type: "bolt.only".to_owned(),
            operation: operation_done(&tenant.client).await,
        };
        Self { tenant, author, ids, hook }
    }

    /// With a signing secret that is not the current one.
    async fn with_rotated_secret(world: &World) -> Self {
        let estate = Self::new(world).await;
        estate.hook.rotate_secret(&estate.tenant.client, 3_600).await;
        estate
    }

    /// With an operation that waits for a paused webhook.
    async fn with_running_operation(world: &World) -> Self {
        let mut estate = Self::new(world).await;
        let client = &estate.tenant.client;
        client.act(&format!("/webhooks/{}/pause", estate.ids.webhook)).await.expect(200);
        let replay = json!({"status": "success"});
        let made = client.post(&format!("/webhooks/{}/replay", estate.ids.webhook), &replay).await.expect(202);
        let path = format!("/operations/{}", text(&made, "id"));
        let runs = async || (client.get(&path).await.expect(200)["state"] == "running").then_some(());
        fact::until("the operation runs", runs).await;
        estate.ids.operation = text(&made, "id");
        estate
    }

    async fn with_paused_operation(world: &World) -> Self {
        let estate = Self::with_running_operation(world).await;
        estate.tenant.client.act(&format!("/operations/{}/pause", estate.ids.operation)).await.expect(200);
        estate
    }

    /// With a pending delivery of a paused webhook.
    async fn with_pending_delivery(world: &World) -> Self {
        let mut estate = Self::new(world).await;
        let client = &estate.tenant.client;
        client.act(&format!("/webhooks/{}/pause", estate.ids.webhook)).await.expect(200);
        let event = client.post("/events", &json!({"event": "message.sent", "data": {}})).await;
        event.expect(202);
        // A delivery without a row is on its way to its endpoint and cannot be cancelled.
        let path = format!("/events/{}", id_of(&event));
        let has_row = async || (client.get(&path).await.json()["progress"]["pending"] == 1).then_some(());
        fact::until("the delivery has a row", has_row).await;
        let pending = client.walk(&format!("/deliveries?status=pending&eventId={}", id_of(&event))).await;
        estate.ids.delivery = text(&pending[0], "id");
        estate
    }
}

/// Waits until the attempt of `delivery` is recorded.
async fn recorded(client: &Client, delivery: &str) {
    fact::until("the outcome is recorded", async || {
        let delivery = client.get(&format!("/deliveries/{delivery}")).await.json();
        (delivery["status"] == "success").then_some(())
    })
    .await;
}

async fn entries_of(admin: &Client, request: &str) -> Vec<Value> {
    let all = admin.walk("/audit").await;
    all.into_iter().filter(|entry| entry["requestId"] == request).collect()
}

on_both!(every_route_that_changes_something_leaves_one_entry_with_its_author);
async fn every_route_that_changes_something_leaves_one_entry_with_its_author() {
    let world = World::start().await;
    let operations = operations(&world.anyone()).await;
    let changes = |operation: &&Operation| operation.method != Method::GET && !operation.is_of_sessions();
    let mut actions = std::collections::BTreeSet::new();
    for operation in operations.iter().filter(changes) {
        let estate = match operation.name.as_str() {
            "cancelDelivery" => Estate::with_pending_delivery(&world).await,
            "deleteSecret" => Estate::with_rotated_secret(&world).await,
            "pauseOperation" | "cancelOperation" => Estate::with_running_operation(&world).await,
            "updateOperation" | "resumeOperation" => Estate::with_paused_operation(&world).await,
            _ => Estate::new(&world).await,
        };
        let (client, author) = match operation.needs_admin() {
            true => (world.admin(), "admin"),
            false => (estate.tenant.client.clone(), estate.author.as_str()),
        };
        let answer = send(operation.call(&client, &operation.path_with(&estate.ids))).await;
        answer.succeeded();
        let request = answer.header("x-request-id").expect("an id").to_owned();
        let entries = entries_of(&world.admin(), &request).await;
        let what = format!("{} {}: {entries:?}", operation.method, operation.path);
        if UNRECORDED.contains(&operation.name.as_str()) {
            assert!(entries.is_empty(), "{what}");
            continue;
        }
        let [entry] = &entries[..] else { panic!("{what}") };
        assert_eq!(entry["author"], author, "{what}");
        let peer = entry["peer"].as_str();
        assert!(peer.is_none_or(|peer| peer == "127.0.0.1"), "{what}");
        actions.insert(text(entry, "action"));
    }
    assert!(actions.len() > 15, "each route has its own action name: {actions:?}");
}

#[tokio::test]
async fn what_is_refused_or_only_read_leaves_no_entry() {
    let world = World::start().await;
    let estate = Estate::new(&world).await;
    let client = &estate.tenant.client;
    let before = world.admin().walk("/audit").await.len();

    client.patch(&format!("/webhooks/{}", estate.ids.webhook), &json!({"timeoutMs": 0})).await.problem(422);
    client.post("/event-types", &json!({"name": "bolt.only"})).await.problem(409);
    client.post("/tenants", &json!({"name": "Mine"})).await.problem(403);
    client.act(&format!("/deliveries/{}/cancel", estate.ids.delivery)).await.problem(409);
    world.client().delete(&format!("/webhooks/{}", estate.ids.webhook)).await.problem(404);
    client.get(&format!("/webhooks/{}", estate.ids.webhook)).await.expect(200);

    assert_eq!(world.admin().walk("/audit").await.len(), before);
}

#[tokio::test]
async fn a_tenant_reads_its_own_audit_by_action_subject_and_time() {
    let world = World::start().await;
    let estate = Estate::new(&world).await;
    let client = &estate.tenant.client;
    let path = format!("/webhooks/{}", estate.ids.webhook);
    let secret = json!({"headers": {"Authorization": "Bearer hush"}, "timeoutMs": 1234});
    client.patch(&path, &secret).await.expect(200);

    let ours = client.walk("/audit").await;
    assert!(ours.iter().all(|entry| entry["tenantId"] == estate.tenant.id.as_str()), "{ours:?}");
    assert_eq!(world.admin().for_tenant(&estate.tenant.id).walk("/audit").await, ours);
    assert_eq!(client.pages("/audit", 2).await.concat(), ours);
    let changed = client.walk(&format!("/audit?action=webhook.update&subject={}", estate.ids.webhook)).await;
    assert_eq!((changed.len(), &changed[0]["fields"]), (1, &json!(["headers", "timeoutMs"])));
    assert!(!Value::from(ours).to_string().contains("hush"));
    assert!(client.walk("/audit?since=2100-01-01T00:00:00.000Z").await.is_empty());
    client.get("/audit?action=webhook.think").await.problem(400);
}

/// The newest entry of a tenant.
async fn newest(client: &Client) -> Value {
    client.walk("/audit").await[0].clone()
}

on_both!(an_entry_says_why_and_how_much);
async fn an_entry_says_why_and_how_much() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let client = world.client();
    let act = async |action: &str, reason: &str| {
        client.post(&hook.path(action), &json!({"reason": reason})).await.expect(200)
    };
    act("/pause", "receiver moves — ticket 17").await;
    let paused = newest(client).await;
    assert_eq!((&paused["action"], &paused["reason"]), (&json!("webhook.pause"), &json!("receiver moves — ticket 17")));
    assert_eq!((&paused["affected"], &paused["changes"]), (&Value::Null, &json!({})));
    for _ in 0..3 {
        world.publish("message.sent").await;
    }
    assert_eq!(act("/purge", "sent by hand").await["cancelled"], 3);
    let purged = newest(client).await;
    assert_eq!((&purged["action"], &purged["reason"]), (&json!("webhook.purge"), &json!("sent by hand")));
    assert_eq!(purged["affected"], 3);
    act("/resume", "moved").await;
    assert_eq!(newest(client).await["reason"], "moved");
    act("/resume", "it was not paused").await;
    assert_eq!(newest(client).await["reason"], "it was not paused");
    client.act(&hook.path("/pause")).await.expect(200);
    assert_eq!(newest(client).await["reason"], Value::Null);

    for wrong in [json!("a\nb"), json!("pay\u{202e}gnillib"), json!("é".repeat(501)), json!(""), json!("  "), json!(1)]
    {
        for action in ["/pause", "/resume", "/purge"] {
            let refused = client.post(&hook.path(action), &json!({"reason": wrong})).await;
            assert_eq!(refused.problem(422).pointers(), ["/reason"], "{wrong}");
        }
    }
    act("/resume", &"é".repeat(500)).await;
}

on_both!(an_entry_shows_what_a_change_has_replaced_unless_it_is_secret_or_long);
async fn an_entry_shows_what_a_change_has_replaced_unless_it_is_secret_or_long() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let client = world.client();
    let change = json!({
        "timeoutMs": 1234, "rateLimit": {"requests": 5}, "description": "long ".repeat(400), "metadata": {"a": [1]},
        "headers": {"X-Session": "hush"}, "auth": {"type": "bearer", "token": "hush"},
    });
    client.patch(&hook.path(""), &change).await.expect(200);

    let entry = newest(client).await;
    assert_eq!(entry["changes"]["timeoutMs"], json!({"from": 5000, "to": 1234}));
    assert_eq!(entry["changes"]["metadata"], json!({"from": null, "to": {"a": [1]}}));
    assert_eq!(entry["changes"]["rateLimit"]["to"], json!({"requests": 5, "perSeconds": 1, "burst": 5}));
    assert!(!entry.to_string().contains("hush"), "{entry}");
    let names = |of: &Value| of.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&entry["changes"]), ["description", "metadata", "rateLimit", "timeoutMs"]);
    let longer = json!({"description": "é".repeat(2000), "name": "b"});
    client.patch(&hook.path(""), &longer).await.expect(200);
    let entry = newest(client).await;
    assert_eq!(
        (&entry["fields"], names(&entry["changes"])),
        (&json!(["name", "description"]), vec!["name".to_owned()])
    );

    let tenant = format!("/tenants/{}", world.tenant.id);
    world.admin().patch(&tenant, &json!({"allowUndeclaredTypes": false})).await.expect(200);
    assert_eq!(newest(client).await["changes"], json!({"allowUndeclaredTypes": {"from": true, "to": false}}));
    world.admin().patch(&tenant, &json!({"retention": {"eventsSeconds": 3600}})).await.expect(200);
    let retention = json!({"retention.eventsSeconds": {"from": null, "to": 3600}});
    assert_eq!(newest(client).await["changes"], retention);
    client.post("/event-types", &json!({"name": "bolt.only"})).await.expect(201);
    client.patch("/event-types/bolt.only", &json!({"description": "d"})).await.expect(200);
    assert_eq!(newest(client).await["changes"], json!({"description": {"from": null, "to": "d"}}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_node_is_asked_the_entry_is_of_the_caller() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(("POSTHASTE_LEASE_MS", "15000")).await;
            let hooks =
                [fleet.world.hook(Receiver::ok(), json!({})).await, fleet.world.hook(Receiver::ok(), json!({})).await];
            fleet.grow_to(2).await;
            let keys = fleet.world.admin().walk(&format!("/tenants/{}/keys", fleet.world.tenant.id)).await;
            let author = text(&keys[0], "id");
            for (number, client) in fleet.clients().iter().enumerate() {
                for hook in &hooks {
                    let request = format!("r-{number}-{}", hook.id);
                    let call = client.call(Method::POST, &hook.path("/probe")).header("X-Request-Id", &request);
                    // A caller cannot forge its address with the headers of nodes or proxies.
                    let forged =
                        call.header("X-Posthaste-Peer", "203.0.113.9 00").header("X-Forwarded-For", "203.0.113.9");
                    send(forged).await.expect(200);
                    let entries = entries_of(&fleet.world.admin(), &request).await;
                    let [entry] = &entries[..] else { panic!("{request}: {entries:?}") };
                    assert_eq!(entry["author"], author.as_str(), "{entry}");
                    assert!(entry["peer"].as_str().is_none_or(|peer| peer == "127.0.0.1"), "{entry}");
                }
            }
            fleet.stop_all().await;
        })
        .await;
}
