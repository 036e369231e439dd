//! Access control: what each key may do, by scope and by tenant.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::send;
use crate::support::databases::{On, on_both};
use crate::support::fact;
use crate::support::fleet::Fleet;
use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::world::{ADMIN_KEY, World, id_of, new_key, text};

#[tokio::test]
async fn without_a_good_key_there_is_no_way_in() {
    let world = World::start().await;
    let key = &world.tenant.key;
    let bent = format!("{}{}", &key[..key.len() - 1], if key.ends_with('a') { 'b' } else { 'a' });
    let strangers = [
        world.anyone(),
        world.anyone().with_key("nonsense"),
        world.anyone().with_key(&bent),
        world.anyone().with_key(&key[..key.len() - 1]),
        world.anyone().with_key(&format!("{ADMIN_KEY}x")),
    ];

    for stranger in strangers {
        stranger.get("/webhooks").await.problem(401);
        stranger.post("/events", &json!({"event": "message.sent", "data": {}})).await.problem(401);
        stranger.get("/tenants").await.problem(401);
    }
    let basic = world.anyone().call(Method::GET, "/webhooks").header("Authorization", format!("Basic {key}"));
    send(basic).await.problem(401);
}

#[tokio::test]
async fn a_key_is_taken_from_either_header() {
    let world = World::start().await;
    let key = &world.tenant.key;
    let call = |name: &str, value: String| world.anyone().call(Method::GET, "/webhooks").header(name, value);

    send(call("X-API-Key", key.clone())).await.expect(200);
    send(call("Authorization", format!("Bearer {key}"))).await.expect(200);
}

#[tokio::test]
async fn a_key_opens_what_its_scopes_say_and_nothing_else() {
    let world = World::start().await;
    let receiver = Receiver::ok();
    let hook = json!({"name": "x", "url": receiver.url("/"), "events": ["*"]});
    let event = json!({"event": "message.sent", "data": {}});
    let reader = world.caller(&["read"]).await;
    let publisher = world.caller(&["publish"]).await;
    let manager = world.caller(&["manage"]).await;
    let operator = world.caller(&["operate"]).await;

    reader.get("/webhooks").await.expect(200);
    publisher.post("/events", &event).await.expect(202);
    manager.post("/webhooks", &hook).await.expect(201);
    for caller in [&reader, &manager, &operator] {
        caller.post("/events", &event).await.problem(403);
        caller.post("/events/batch", &json!({"events": [event]})).await.problem(403);
    }
    for caller in [&reader, &publisher, &operator] {
        caller.post("/webhooks", &hook).await.problem(403);
    }
    publisher.get("/webhooks").await.problem(403);
    for caller in [&reader, &publisher, &manager, &operator, world.client()] {
        caller.get("/tenants").await.problem(403);
        caller.post("/tenants", &json!({"name": "Mine"})).await.problem(403);
    }
}

#[tokio::test]
async fn a_key_is_shown_once_and_stops_working_when_revoked() {
    let world = World::start().await;
    let keys = format!("/tenants/{}/keys", world.tenant.id);
    let made = new_key(&world.admin(), &world.tenant.id, &["read"]).await;
    let (id, key) = (text(&made, "id"), text(&made, "key"));
    let caller = world.anyone().with_key(&key);
    caller.get("/webhooks").await.expect(200);
    assert!(id.starts_with("key_"), "{made}");
    assert_eq!(made["scopes"], json!(["read"]));
    let listed = Value::from(world.admin().walk(&keys).await);
    assert!(listed.to_string().contains(&id) && !listed.to_string().contains(&key), "{listed}");

    world.admin().delete(&format!("{keys}/{id}")).await.expect(204);

    caller.get("/webhooks").await.problem(401);
    world.client().get("/webhooks").await.expect(200);
}

#[tokio::test]
async fn a_key_needs_known_scopes() {
    let world = World::start().await;
    let keys = format!("/tenants/{}/keys", world.tenant.id);

    for scopes in [json!(["everything"]), json!("read"), json!(null)] {
        world.admin().post(&keys, &json!({"name": "x", "scopes": scopes})).await.problem(422);
    }
}

#[tokio::test]
async fn a_tenant_is_made_read_renamed_and_deleted() {
    let world = World::start().await;
    let admin = world.admin();
    let made = admin.post("/tenants", &json!({"name": "Carl"})).await;
    made.expect(201);
    let path = format!("/tenants/{}", id_of(&made));
    let key = text(&new_key(&admin, &id_of(&made), &["read"]).await, "key");
    let caller = world.anyone().with_key(&key);
    caller.get("/webhooks").await.expect(200);
    assert!(id_of(&made).starts_with("ten_"));

    let renamed = admin.patch(&path, &json!({"name": "Carla"})).await.expect(200);

    assert_eq!((&renamed["name"], renamed["id"].as_str()), (&json!("Carla"), Some(id_of(&made).as_str())));
    assert_eq!(admin.get(&path).await.expect(200)["name"], "Carla");
    assert_eq!(admin.walk("/tenants").await.len(), 2);
    admin.delete(&path).await.expect(204);
    admin.get(&path).await.problem(404);
    caller.get("/webhooks").await.problem(401);
}

#[tokio::test]
async fn an_admin_acts_for_the_tenant_that_it_names() {
    let world = World::start().await;
    let other = world.another_tenant().await;
    let ours = world.hook(Receiver::ok(), json!({})).await;
    let theirs = Hook::create(&other.client, Receiver::ok(), json!({})).await;

    let seen = world.admin().for_tenant(&world.tenant.id).walk("/webhooks").await;

    assert_eq!(seen.iter().map(|webhook| text(webhook, "id")).collect::<Vec<_>>(), vec![ours.id.clone()]);
    assert_eq!(world.admin().walk("/webhooks").await.len(), 2, "an admin who names none sees those of all");
    world.admin().get("/events").await.refusal();
    let unknown = other.id.replace(&other.id[other.id.len() - 4..], "0000");
    world.admin().for_tenant(&unknown).get("/webhooks").await.refusal();
    // A tenant's key stays in its tenant, whatever the tenant header says.
    let strayed = world.client().for_tenant(&other.id).get("/webhooks").await;
    assert!(strayed.status >= 400 || !strayed.text.contains(&theirs.id), "{strayed:?}");
}

#[tokio::test]
async fn a_key_ends_when_it_was_to_end() {
    let world = World::start().await;
    let of_tenant = format!("/tenants/{}/keys", world.tenant.id);
    ends_in_time(&world, &of_tenant, &json!({"name": "x", "scopes": ["read"]}), "/webhooks").await;
    ends_in_time(&world, "/admin-keys", &json!({"name": "x"}), "/tenants").await;
}

/// Creates a key at path `keys` that expires; checks that it opens path `opened` until then.
async fn ends_in_time(world: &World, keys: &str, plain: &Value, opened: &str) {
    let wish = |expires_at: &str| {
        let mut wish = plain.clone();
        wish["expiresAt"] = expires_at.into();
        wish
    };
    let past = world.admin().post(keys, &wish("2020-01-01T00:00:00.000Z")).await;
    assert_eq!(past.problem(422).pointers(), ["/expiresAt"]);
    let far = world.admin().post(keys, &wish("2100-01-01T00:00:00.000Z")).await.expect(201);
    assert_eq!(far["expiresAt"], "2100-01-01T00:00:00.000Z");
    world.anyone().with_key(&text(&far, "key")).get(opened).await.expect(200);
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    let brief = world.admin().post(keys, &wish(&format!("{soon:.3}"))).await.expect(201);
    let caller = world.anyone().with_key(&text(&brief, "key"));

    let refused = fact::until("the key has ended", async || {
        let answer = caller.get(opened).await;
        (answer.status != 200).then_some(answer)
    });

    assert_eq!(refused.await.problem(401).code(), "key_expired");
    // The server's own clock is close to the test's, not equal.
    let early = soon - jiff::SignedDuration::from_millis(500);
    assert!(jiff::Timestamp::now() >= early, "the key expired early");
}

#[tokio::test]
async fn when_a_key_was_last_used_is_known_after_a_stop() {
    let mut world = World::start().await;
    let unused = new_key(&world.admin(), &world.tenant.id, &["read"]).await;
    world.client().get("/webhooks").await.expect(200);
    world.stop().await;
    world.restart().await;

    let listed = world.admin().walk(&format!("/tenants/{}/keys", world.tenant.id)).await;

    for key in listed {
        let is_unused = key["id"] == unused["id"];
        assert_eq!(key["lastUsedAt"].is_null(), is_unused, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_revoked_on_one_node_opens_nothing_on_any() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(("POSTHASTE_LEASE_MS", "15000")).await;
            fleet.grow_to(2).await;
            let (admin, tenant) = (fleet.world.admin(), fleet.world.tenant.id.clone());
            let of_tenant = new_key(&admin, &tenant, &["read"]).await;
            let of_all = admin.post("/admin-keys", &json!({"name": "spare"})).await.expect(201);
            for (made, keys, opened) in [
                (of_tenant, format!("/tenants/{tenant}/keys"), "/webhooks"),
                (of_all, "/admin-keys".to_owned(), "/tenants"),
            ] {
                let key = text(&made, "key");
                let callers: Vec<_> = fleet.clients().iter().map(|client| client.with_key(&key)).collect();
                for caller in &callers {
                    caller.get(opened).await.expect(200);
                }

                admin.delete(&format!("{keys}/{}", text(&made, "id"))).await.expect(204);

                callers[0].get(opened).await.problem(401);
                fact::until("the other node follows the change", async || {
                    (callers[1].get(opened).await.status == 401).then_some(())
                })
                .await;
            }
            fleet.stop_all().await;
        })
        .await;
}

on_both!(an_admin_reads_and_steers_by_id_without_naming_the_tenant);
async fn an_admin_reads_and_steers_by_id_without_naming_the_tenant() {
    let world = World::start().await;
    let hook = world.hook(Receiver::status(500), json!({"retryPolicy": {"maxRetries": 0}})).await;
    let event = world.publish("message.sent").await;
    let delivery = text(&world.settled(&event).await, "id");
    let (admin, other) = (world.admin(), world.another_tenant().await);

    let webhook = admin.get(&hook.path("")).await.expect(200);
    assert_eq!((&webhook["id"], &webhook["tenantId"]), (&json!(hook.id), &json!(world.tenant.id)));
    for path in [hook.path("/backlog"), hook.path("/logs"), format!("/deliveries/{delivery}")] {
        admin.get(&path).await.expect(200);
    }
    assert_eq!(admin.get(&format!("/events/{}", event.id)).await.expect(200)["id"], event.id);
    assert_eq!(admin.walk(&format!("/events/{}/deliveries", event.id)).await.len(), 1);
    assert_eq!(admin.act(&hook.path("/pause")).await.expect(200)["changed"], true);
    assert_eq!(admin.act(&hook.path("/resume")).await.expect(200)["changed"], true);
    admin.act(&format!("/deliveries/{delivery}/retry")).await.expect(202);
    assert_eq!(admin.patch(&hook.path(""), &json!({"name": "Renamed"})).await.expect(200)["name"], "Renamed");

    for stranger in [&other.client, &admin.for_tenant(&other.id)] {
        stranger.get(&hook.path("")).await.problem(404);
        stranger.get(&format!("/deliveries/{delivery}")).await.problem(404);
    }
    assert_eq!(admin.get("/events").await.problem(400).code(), "tenant_required");
    assert_eq!(admin.get("/webhooks/wh_06h21jdq7lpj9dsn45uqq8elg0").await.problem(404).code(), "not_found");
}
