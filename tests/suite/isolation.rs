//! Isolation of tenants and scopes (F26): no tenant reaches another one's objects, and no key does more than its scopes
//! allow. Every route of the OpenAPI document is called with another tenant's ids, wherever it takes an id.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::{Answer, Client, send};
use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::hook::Hook;
use crate::support::operations::{Ids, Operation, operation_done, operations};
use crate::support::receiver::Receiver;
use crate::support::world::{Tenant, World, id_of, new_admin_key, new_key, new_session, text};

/// A tenant with one object of each kind, and several of those that are listed.
struct Estate {
    tenant: Tenant,
    ids: Ids,
    _hooks: Vec<Hook>,
}

/// Position of a time digit in an id: a UUIDv7 in base32 begins with 48 bits of milliseconds.
const TIME_DIGIT: usize = 8;

impl Estate {
    async fn of(world: &World, tenant: Tenant) -> Self {
        let hooks = vec![
            Hook::create(&tenant.client, Receiver::ok(), json!({"events": ["message.sent"]})).await,
            Hook::create(&tenant.client, Receiver::ok(), json!({"events": ["call.*"]})).await,
        ];
        let event = json!({"event": "message.sent", "data": {}});
        let event = tenant.client.post("/events", &event).await;
        tenant.client.post("/events", &json!({"event": "call.ringing", "data": {}})).await.expect(202);
        event.expect(202);
        let delivery = hooks[0].saw(1).await[0].header("x-webhook-delivery").to_owned();
        hooks[1].saw(1).await;
        fact::until("both outcomes are recorded", async || {
            (tenant.client.walk("/deliveries?status=success").await.len() == 2).then_some(())
        })
        .await;
        tenant.client.post("/event-types", &json!({"name": "bolt.only"})).await.expect(201);
        let key = text(&new_key(&world.admin(), &tenant.id, &["read"]).await, "id");
        let (admin_key, session) = (new_admin_key(world).await, new_session(&tenant.client).await);
        let ids = Ids {
            tenant: tenant.id.clone(),
            key,
            admin_key,
            session,
            webhook: hooks[0].id.clone(),
            secret: text(&hooks[0].body["secrets"][0], "id"),
            event: id_of(&event),
            delivery,
            event_type: "bolt.only".to_owned(),
            operation: operation_done(&tenant.client).await,
        };
        Self { tenant, ids, _hooks: hooks }
    }

    /// Well-formed ids that do not exist: the same ids with another time.
    fn unknown(&self) -> Ids {
        let moved = |id: &str| {
            let at = id.find('_').expect("a prefix") + 1 + TIME_DIGIT;
            let digit = if &id[at..=at] == "0" { "1" } else { "0" };
            format!("{}{digit}{}", &id[..at], &id[at + 1..])
        };
        Ids {
            tenant: moved(&self.ids.tenant),
            key: moved(&self.ids.key),
            admin_key: moved(&self.ids.admin_key),
            session: moved(&self.ids.session),
            webhook: moved(&self.ids.webhook),
            secret: moved(&self.ids.secret),
            event: moved(&self.ids.event),
            delivery: moved(&self.ids.delivery),
            event_type: "nobody.only".to_owned(),
            operation: moved(&self.ids.operation),
        }
    }

    /// Everything that the owner can read.
    async fn seen(&self, operations: &[Operation], admin: &Client) -> BTreeMap<String, Value> {
        let mut seen = BTreeMap::new();
        for operation in operations.iter().filter(|operation| operation.method == Method::GET && !operation.is_open) {
            // These answers change by themselves, because the engine is at work.
            let changing =
                ["readEngine", "readSealing", "listBacklogs", "readBacklog", "readMetrics", "readEndpointMetrics"];
            if changing.contains(&operation.name.as_str()) {
                continue;
            }
            let client = if operation.needs_admin() { admin } else { &self.tenant.client };
            let path = operation.path_with(&self.ids);
            let mut answer = send(operation.call(client, &path)).await.expect(200);
            if operation.name == "listAdminKeys" {
                continue;
            }
            if operation.name == "listTenants" {
                answer["data"]
                    .as_array_mut()
                    .expect("a list")
                    .retain(|tenant| tenant["id"] == self.ids.tenant.as_str());
            }
            seen.insert(path, without_uses(answer));
        }
        seen
    }
}

/// Removes when keys were last used, which every read changes.
fn without_uses(mut answer: Value) -> Value {
    for item in answer["data"].as_array_mut().into_iter().flatten() {
        item.as_object_mut().and_then(|item| item.remove("lastUsedAt"));
    }
    answer
}

/// Status and body, without the request's id and without the ids that were asked for.
fn anonymous(answer: &Answer, ids: &Ids) -> (u16, String) {
    let mut body = answer.json();
    body.as_object_mut().and_then(|body| body.remove("requestId"));
    (answer.status, ids.covered(&body.to_string()))
}

on_both!(another_tenants_objects_cannot_be_told_from_unknown_ones_on_any_route);
async fn another_tenants_objects_cannot_be_told_from_unknown_ones_on_any_route() {
    let world = World::start().await;
    let theirs = Estate::of(&world, world.another_tenant().await).await;
    let nobodys = theirs.unknown();
    let operations = operations(&world.anyone()).await;
    let before = theirs.seen(&operations, &world.admin()).await;
    let callers = [world.client().clone(), world.admin().for_tenant(&world.tenant.id)];

    let mut tried = 0;
    for operation in operations.iter().filter(|operation| !operation.is_open && !operation.needs_admin()) {
        for caller in &callers {
            let ask = async |ids: &Ids, query: &str| {
                let answer = send(operation.call(caller, &format!("{}{query}", operation.path_with(ids)))).await;
                anonymous(&answer, ids)
            };
            if !operation.placeholders().is_empty() {
                let (foreign, unknown) = (ask(&theirs.ids, "").await, ask(&nobodys, "").await);
                assert_eq!(foreign, unknown, "{} {}", operation.method, operation.path);
                assert_eq!(foreign.0, 404, "{} {}: {}", operation.method, operation.path, foreign.1);
                tried += 1;
            }
            for (name, kinds) in operation.id_filters() {
                for kind in kinds {
                    let query = |ids: &Ids| format!("?{name}={}", ids.of(kind));
                    let foreign = ask(&theirs.ids, &query(&theirs.ids)).await;
                    let unknown = ask(&nobodys, &query(&nobodys)).await;
                    assert_eq!(foreign, unknown, "{} {} by {name}", operation.method, operation.path);
                    let nothing = json!({"data": [], "nextCursor": null}).to_string();
                    assert!(foreign.0 == 404 || foreign == (200, nothing), "{}: {foreign:?}", operation.path);
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 40, "few routes take an id: {tried}");
    assert_eq!(theirs.seen(&operations, &world.admin()).await, before, "untouched");
}

on_both!(no_key_and_no_header_lead_into_another_tenant);
async fn no_key_and_no_header_lead_into_another_tenant() {
    let world = World::start().await;
    let theirs = Estate::of(&world, world.another_tenant().await).await;
    let nobodys = theirs.unknown();
    let operations = operations(&world.anyone()).await;

    let ours = Estate::of(&world, world.tenant.clone()).await;
    let (mut cursors, mut strayed) = (0, 0);
    for operation in operations.iter().filter(|operation| !operation.is_open && !operation.needs_admin()) {
        // A tenant's key stays in its tenant, whatever the tenant header says.
        let path = operation.path_with(&theirs.ids);
        let into = async |tenant: &str, ids: &Ids| {
            let answer = send(operation.call(&world.client().for_tenant(tenant), &path)).await;
            anonymous(&answer, ids)
        };
        let (foreign, unknown) = (into(&theirs.ids.tenant, &theirs.ids).await, into(&nobodys.tenant, &nobodys).await);
        assert_eq!(foreign, unknown, "{} {path}", operation.method);
        assert_eq!(foreign.0, 404, "{} {path}: {}", operation.method, foreign.1);
        strayed += 1;
        if operation.method == Method::GET && operation.query.iter().any(|name| name == "cursor") {
            let page = send(operation.call(&theirs.tenant.client, &format!("{path}?limit=1"))).await.expect(200);
            let Some(cursor) = page["nextCursor"].as_str() else { continue };
            let own = format!("{}?limit=1&cursor={cursor}", operation.path_with(&ours.ids));
            let answer = send(operation.call(world.client(), &own)).await;
            assert_eq!(answer.problem(400).code(), "invalid_cursor", "{path}");
            cursors += 1;
        }
    }
    assert!(cursors >= 4 && strayed > 20, "{cursors} lists, {strayed} routes");

    // Even an admin cannot reach a key through another tenant's path.
    let mixed = |key: &str| format!("/tenants/{}/keys/{key}", world.tenant.id);
    let foreign = world.admin().delete(&mixed(&theirs.ids.key)).await;
    let unknown = world.admin().delete(&mixed(&nobodys.key)).await;
    assert_eq!(anonymous(&foreign, &theirs.ids), anonymous(&unknown, &nobodys));
    foreign.problem(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_is_opened_by_one_scope_alone_and_by_no_key_not_at_all() {
    let world = World::start().await;
    let nobodys = Estate::of(&world, world.another_tenant().await).await.unknown();
    let scopes = ["read", "publish", "manage", "operate"];
    let mut only = BTreeMap::new();
    let mut all_but = BTreeMap::new();
    for scope in scopes {
        let others: Vec<&str> = scopes.into_iter().filter(|other| *other != scope).collect();
        only.insert(scope, world.caller(&[scope]).await);
        all_but.insert(scope, world.caller(&others).await);
    }

    for operation in operations(&world.anyone()).await.iter().filter(|operation| !operation.is_open) {
        let what = format!("{} {}", operation.method, operation.path);
        let path = operation.path_with(&nobodys);
        let ask = async |client: &Client| send(operation.call(client, &path)).await;
        assert_eq!(ask(&world.anyone()).await.problem(401).code(), "unauthenticated", "{what}");
        let stranger = world.anyone().with_key(&format!("{}x", world.tenant.key));
        assert_eq!(ask(&stranger).await.problem(401).code(), "invalid_key", "{what}");
        if operation.needs_admin() {
            assert_eq!(ask(world.client()).await.problem(403).code(), "admin_only", "{what}");
            continue;
        }
        if operation.is_of_sessions() {
            continue;
        }
        let scope = operation.scope();
        assert_eq!(ask(&all_but[scope]).await.problem(403).code(), "missing_scope", "{what} without {scope}");
        let opened = ask(&only[scope]).await;
        assert!(![401, 403].contains(&opened.status), "{what} with {scope}: {opened:?}");
    }
}
