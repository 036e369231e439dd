//! Who may do what: keys, scopes, tenants. What belongs to another tenant looks exactly like what does not exist.

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Client, Problem, send};
use crate::hook::Hook;
use crate::receiver::Receiver;
use crate::world::{ADMIN_KEY, Tenant, World, id_of, new_key, text};

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
    world.admin().get("/webhooks").await.refusal();
    let unknown = other.id.replace(&other.id[other.id.len() - 4..], "0000");
    world.admin().for_tenant(&unknown).get("/webhooks").await.refusal();
    // A tenant's key stays where it belongs, whatever the header says.
    let strayed = world.client().for_tenant(&other.id).get("/webhooks").await;
    assert!(strayed.status >= 400 || !strayed.text.contains(&theirs.id), "{strayed:?}");
}

#[tokio::test]
async fn another_tenants_objects_cannot_be_told_from_unknown_ones() {
    let world = World::start().await;
    let theirs = Estate::of(world.another_tenant().await).await;
    let nobodys = theirs.unknown();

    for (method, path, body) in theirs.routes() {
        let foreign = knock(world.client(), &method, &path(&theirs.ids), body.as_ref()).await;
        let unknown = knock(world.client(), &method, &path(&nobodys), body.as_ref()).await;
        assert_eq!(theirs.ids.covered(&foreign), nobodys.covered(&unknown), "{method} {}", path(&theirs.ids));
    }

    let everything = [
        world.client().walk("/webhooks").await,
        world.client().walk("/events").await,
        world.client().walk("/deliveries").await,
    ];
    assert_eq!(everything.iter().map(Vec::len).sum::<usize>(), 0, "{everything:?}");
    let filtered = format!("/deliveries?webhookId={}", theirs.ids.webhook);
    let filtered = world.client().get(&filtered).await;
    assert!(filtered.status == 404 || filtered.json()["data"] == json!([]), "{filtered:?}");
    let read = theirs.tenant.client.get(&format!("/webhooks/{}", theirs.ids.webhook)).await.expect(200);
    assert_eq!((&read["name"], &read["isActive"]), (&theirs.hook.body["name"], &json!(true)), "untouched");
}

async fn knock(client: &Client, method: &Method, path: &str, body: Option<&Value>) -> Problem {
    let call = match body {
        Some(body) => client.json(method.clone(), path, body),
        None => client.call(method.clone(), path),
    };
    send(call).await.problem(404)
}

/// A tenant that owns one of everything.
struct Estate {
    tenant: Tenant,
    hook: Hook,
    ids: Ids,
}

/// The place in an id of a digit that stands for time: UUIDv7 in base32 begins with 48 bits of milliseconds.
const TIME_DIGIT: usize = 8;

struct Ids {
    webhook: String,
    event: String,
    delivery: String,
}

impl Ids {
    /// What a problem document says when the ids in it are covered up.
    fn covered(&self, problem: &Problem) -> String {
        [&self.webhook, &self.event, &self.delivery]
            .iter()
            .fold(problem.anonymous(), |text, id| text.replace(id.as_str(), "ID"))
    }
}

type Route = (Method, fn(&Ids) -> String, Option<Value>);

impl Estate {
    async fn of(tenant: Tenant) -> Self {
        let hook = Hook::create(&tenant.client, Receiver::ok(), json!({})).await;
        let event = tenant.client.post("/events", &json!({"event": "message.sent", "data": {}})).await;
        event.expect(202);
        let delivery = hook.saw(1).await[0].header("x-webhook-delivery").to_owned();
        let ids = Ids { webhook: hook.id.clone(), event: id_of(&event), delivery };
        Self { tenant, hook, ids }
    }

    /// Well-formed ids that nobody has: of another moment in time.
    fn unknown(&self) -> Ids {
        let moved = |id: &str| {
            let at = id.find('_').expect("a prefix") + 1 + TIME_DIGIT;
            let digit = if &id[at..=at] == "0" { "1" } else { "0" };
            format!("{}{digit}{}", &id[..at], &id[at + 1..])
        };
        Ids { webhook: moved(&self.ids.webhook), event: moved(&self.ids.event), delivery: moved(&self.ids.delivery) }
    }

    fn routes(&self) -> Vec<Route> {
        vec![
            (Method::GET, |ids| format!("/webhooks/{}", ids.webhook), None),
            (Method::PATCH, |ids| format!("/webhooks/{}", ids.webhook), Some(json!({"isActive": false}))),
            (Method::POST, |ids| format!("/webhooks/{}/test", ids.webhook), None),
            (Method::POST, |ids| format!("/webhooks/{}/secret/rotate", ids.webhook), Some(json!({"graceSeconds": 0}))),
            (Method::GET, |ids| format!("/webhooks/{}/logs", ids.webhook), None),
            (Method::GET, |ids| format!("/events/{}", ids.event), None),
            (Method::GET, |ids| format!("/events/{}/deliveries", ids.event), None),
            (Method::GET, |ids| format!("/deliveries/{}", ids.delivery), None),
            (Method::POST, |ids| format!("/deliveries/{}/retry", ids.delivery), None),
            (Method::POST, |ids| format!("/deliveries/{}/cancel", ids.delivery), None),
            (Method::DELETE, |ids| format!("/webhooks/{}", ids.webhook), None),
        ]
    }
}
