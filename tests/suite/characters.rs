//! Problematic characters: NUL, which PostgreSQL stores in no text, in every text field of the OpenAPI document; and
//! invisible characters in names.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::client::{Answer, Client, send};
use crate::support::databases::on_both;
use crate::support::hook::plain;
use crate::support::operations::{Ids, Operation, operation_done, operations};
use crate::support::receiver::Receiver;
use crate::support::world::{World, id_of, new_admin_key, new_key, new_session, text};

const NUL: &str = "a\0b";

/// Free-form fields: their content belongs to the owner and is returned unchanged.
const FREE: [&str; 2] = ["data", "metadata"];

/// Collects JSON pointers to every text that a body can hold, according to its schema.
fn texts(document: &Value, schema: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().expect("a name");
        return texts(document, &document["components"]["schemas"][name], at, found);
    }
    for any in ["oneOf", "anyOf", "allOf"].into_iter().flat_map(|of| schema[of].as_array().into_iter().flatten()) {
        texts(document, any, at, found);
    }
    let is = |kind: &str| match &schema["type"] {
        Value::String(only) => only == kind,
        Value::Array(several) => several.iter().any(|one| one == kind),
        _ => false,
    };
    if is("string") {
        found.push(at.to_owned());
    }
    if is("array") {
        texts(document, &schema["items"], &format!("{at}/0"), found);
    }
    if schema["additionalProperties"].is_object() {
        texts(document, &schema["additionalProperties"], &format!("{at}/X-Nul"), found);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if !FREE.contains(&name.as_str()) {
            texts(document, property, &format!("{at}/{name}"), found);
        }
    }
}

/// Puts a value into a document and creates the missing parents.
fn put(place: &mut Value, pointer: &str, value: Value) {
    let Some((name, rest)) = pointer.strip_prefix('/').map(|tail| tail.split_once('/').unwrap_or((tail, ""))) else {
        return *place = value;
    };
    let rest = if rest.is_empty() { String::new() } else { format!("/{rest}") };
    if name == "0" {
        if place.as_array().is_none_or(Vec::is_empty) {
            *place = json!([null]);
        }
        return put(&mut place[0], &rest, value);
    }
    if !place.is_object() {
        *place = json!({});
    }
    put(&mut place[name], &rest, value);
}

/// The other fields of `auth` that must be present for the server to look at this one.
fn auth_with(pointer: &str) -> Value {
    match pointer {
        "/auth/username" | "/auth/password" => json!({"type": "basic", "username": "a", "password": "b"}),
        "/auth/token" => json!({"type": "bearer", "token": "a"}),
        _ => json!({"type": "oauth2", "tokenUrl": "https://id.example.com/", "clientId": "a", "clientSecret": "b"}),
    }
}

async fn ids(world: &World) -> Ids {
    let hook = world.hook(Receiver::ok(), json!({})).await;
    let event = world.client().post("/events", &json!({"event": "message.sent", "data": {}})).await;
    let delivery = hook.saw(1).await[0].header("x-webhook-delivery").to_owned();
    world.client().post("/event-types", &json!({"name": "nul.test"})).await.expect(201);
    let key = new_key(&world.admin(), &world.tenant.id, &["read"]).await;
    Ids {
        tenant: world.tenant.id.clone(),
        key: text(&key, "id"),
        admin_key: new_admin_key(world).await,
        session: new_session(world.client()).await,
        webhook: hook.id.clone(),
        secret: text(&hook.body["secrets"][0], "id"),
        event: id_of(&event),
        delivery,
        event_type: "nul.test".to_owned(),
        operation: operation_done(world.client()).await,
    }
}

async fn ask(world: &World, operation: &Operation, path: &str, body: Option<&Value>) -> Answer {
    let client = if operation.needs_admin() { world.admin() } else { world.client().clone() };
    let call = match body {
        None => operation.call(&client, path),
        Some(body) => client
            .root(operation.method.clone(), path)
            .header("Content-Type", "application/json")
            .body(body.to_string()),
    };
    send(call).await
}

on_both!(a_nul_character_is_refused_wherever_a_text_can_stand);
async fn a_nul_character_is_refused_wherever_a_text_can_stand() {
    let world = World::start().await;
    let ids = ids(&world).await;
    let document = send(world.anyone().root(Method::GET, "/openapi.json")).await.expect(200);
    let (mut of_paths, mut of_queries, mut of_bodies) = (0, 0, 0);
    for operation in operations(&world.anyone()).await {
        let path = operation.path_with(&ids);
        for (place, kind) in operation.placeholders() {
            let path = operation.path.replace(&place, "a%00b").replace(['{', '}'], "");
            let status = ask(&world, &operation, &path, None).await.status;
            assert!([400, 404].contains(&status), "{} {path} ({kind:?}): {status}", operation.method);
            of_paths += 1;
        }
        for name in &operation.query {
            let status = ask(&world, &operation, &format!("{path}?{name}=a%00b"), None).await.status;
            assert_eq!(status, 400, "{} {path}?{name}", operation.method);
            of_queries += 1;
        }
        let Some(body) = operation.body() else { continue };
        let method = operation.method.as_str().to_lowercase();
        let content = &document["paths"][&operation.path][method]["requestBody"]["content"]["application/json"];
        let mut pointers = Vec::new();
        texts(&document, &content["schema"], "", &mut pointers);
        for pointer in pointers {
            let mut body = body.clone();
            if pointer.starts_with("/auth/") {
                body["auth"] = auth_with(&pointer);
            }
            put(&mut body, &pointer, NUL.into());
            let answer = ask(&world, &operation, &path, Some(&body)).await;
            // Each event of a batch is judged on its own.
            let is_refused = [400, 422].contains(&answer.status)
                || answer.status == 202 && answer.text.contains("validation_failed");
            assert!(is_refused, "{} {pointer}: {answer:?}", operation.name);
            // A certificate is parsed together with its key.
            let named = pointer.trim_start_matches("/events/0").trim_end_matches("/0");
            let named = if named.starts_with("/tls/client") { "/tls/client" } else { named };
            assert!(answer.text.contains(named), "{} {pointer}: {answer:?}", operation.name);
            of_bodies += 1;
        }
    }
    assert!(of_paths > 20 && of_queries > 25 && of_bodies > 30, "{of_paths} {of_queries} {of_bodies}");
}

on_both!(nul_in_what_is_the_owners_comes_back_as_it_was);
async fn nul_in_what_is_the_owners_comes_back_as_it_was() {
    let world = World::start().await;
    let free = json!({"a\0": ["b\0", {"c": "\0"}]});
    let hook = world.hook(Receiver::ok(), json!({"metadata": free})).await;
    assert_eq!(world.client().get(&hook.path("")).await.expect(200)["metadata"], free);

    let event = world.publish_with(&json!({"event": "message.sent", "data": free})).await;

    assert_eq!(hook.saw(1).await[0].json()["data"], free);
    let read = world.client().get(&format!("/events/{}", event.id)).await.expect(200);
    assert_eq!(read["data"], free);
}

/// A cursor in the unsigned format of earlier versions, which anyone who knows the program can make.
fn forged(route: &str, tenant: i64, text: &str) -> String {
    let mut binding = Sha256::new();
    for part in [route.as_bytes(), &tenant.to_be_bytes()] {
        binding.update((part.len() as u64).to_be_bytes());
        binding.update(part);
    }
    let checksum = binding.chain_update(text).finalize();
    BASE64_URL_SAFE_NO_PAD.encode([text.as_bytes(), &checksum[..8]].concat())
}

on_both!(a_cursor_that_somebody_made_up_is_refused);
async fn a_cursor_that_somebody_made_up_is_refused() {
    let world = World::start().await;
    for tenant in 0..4 {
        for (route, path) in [("event-types", "/event-types"), ("webhooks", "/webhooks"), ("events", "/events")] {
            for text in [NUL, "call.ringing", "5", "-1", ""] {
                let cursor = forged(route, tenant, text);
                let refused = world.client().get(&format!("{path}?cursor={cursor}")).await.problem(400);
                assert_eq!(refused.code(), "invalid_cursor");
            }
        }
    }
}

#[tokio::test]
async fn a_cursor_outlives_its_server_and_its_master_key() {
    let mut world = World::start().await;
    for name in ["a.a", "b.b", "c.c"] {
        world.client().post("/event-types", &json!({"name": name})).await.expect(201);
    }
    let first = world.client().get("/event-types?limit=1").await.expect(200);
    let on = |client: &Client| {
        let (client, cursor) = (client.clone(), text(&first, "nextCursor"));
        async move { client.get(&format!("/event-types?limit=1&cursor={cursor}")).await }
    };
    let second = on(world.client()).await.expect(200);
    world.stop().await;
    let path = world.dir().join("p.db.key");
    let old = std::fs::read_to_string(&path).unwrap();
    let new = "bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=";
    std::fs::write(&path, format!("{new}\n{old}\n")).unwrap();
    world.restart().await;

    assert_eq!(on(world.client()).await.expect(200)["data"], second["data"]);

    let env = world.env().clone();
    let (rotated, output) = crate::support::server::run(world.dir(), &["keys", "rotate"], &env).await;
    assert!(rotated.success(), "{}", output.all());
    world.stop().await;
    std::fs::write(&path, new).unwrap();
    world.restart().await;
    on(world.client()).await.problem(400);
}

#[tokio::test]
async fn names_show_all_their_characters() {
    let world = World::start().await;
    let hook = world.hook(Receiver::ok(), json!({})).await;
    let (admin, client) = (world.admin(), world.client());
    let keys = format!("/tenants/{}/keys", world.tenant.id);
    let tenant = format!("/tenants/{}", world.tenant.id);
    for (odd, point) in [("pay\u{202e}gnillib", "U+202E"), ("bil\u{200b}ling", "U+200B"), ("a\u{e0061}", "U+E0061")] {
        let named = json!({"name": odd});
        let described = json!({"name": "odd.type", "description": odd});
        for (answer, pointer) in [
            (client.post("/webhooks", &plain("https://example.com/", named.clone())).await, "/name"),
            (client.patch(&hook.path(""), &named).await, "/name"),
            (client.patch(&hook.path(""), &json!({"description": odd})).await, "/description"),
            (client.post("/event-types", &described).await, "/description"),
            (admin.post("/tenants", &named).await, "/name"),
            (admin.patch(&tenant, &named).await, "/name"),
            (admin.post(&keys, &json!({"name": odd, "scopes": ["read"]})).await, "/name"),
        ] {
            let problem = answer.problem(422);
            assert_eq!(problem.pointers(), [pointer]);
            assert!(problem.detail().contains(point), "{problem:?}");
        }
    }
    let named = client.patch(&hook.path(""), &json!({"name": "👩\u{200d}💻 مدفوعات ❤\u{fe0f}"})).await.expect(200);
    assert_eq!(named["name"], "👩\u{200d}💻 مدفوعات ❤\u{fe0f}");
}

on_both!(times_that_no_key_can_say_are_the_last_one);
async fn times_that_no_key_can_say_are_the_last_one() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let event = world.publish("message.sent").await;
    world.settled(&event).await;
    for until in ["2163-05-15T07:35:11.104Z", "2400-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"] {
        for path in ["/events".to_owned(), "/deliveries".to_owned(), hook.path("/logs"), "/audit".to_owned()] {
            let until_then = world.client().walk(&format!("{path}?until={until}")).await;
            assert!(!until_then.is_empty(), "{path} until {until}");
            assert!(world.client().walk(&format!("{path}?since={until}")).await.is_empty(), "{path} since {until}");
        }
        world.client().post(&hook.path("/purge"), &json!({"before": until})).await.succeeded();
        let key = json!({"name": "long", "scopes": ["read"], "expiresAt": until});
        let key = world.admin().post(&format!("/tenants/{}/keys", world.tenant.id), &key).await.expect(201);
        world.anyone().with_key(&text(&key, "key")).get("/webhooks").await.expect(200);
        let old = json!({"event": "message.sent", "data": {}, "timestamp": until});
        assert_eq!(world.settled(&world.publish_with(&old).await).await["status"], "success");
    }
}
