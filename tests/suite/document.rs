//! The OpenAPI document as generators and readers of it need it: named, grouped, and with examples that are true.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::send;
use crate::support::contract::{misfits, resolved};
use crate::support::fact;
use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::world::{World, text};

const DOCUMENT: &str = include_str!("../../docs/openapi.json");

fn document() -> Value {
    serde_json::from_str(DOCUMENT).expect("JSON")
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Every operation with its method and path, also that of receivers.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = members(&document["paths"]).chain(members(&document["webhooks"]));
    let all =
        paths.flat_map(|(path, item)| members(item).map(move |(method, operation)| (&**method, &**path, operation)));
    all.collect()
}

/// The bodies that the operation takes and answers, each with a name.
fn contents<'a>(document: &'a Value, operation: &'a Value) -> Vec<(String, &'a Value)> {
    let id = operation["operationId"].as_str().expect("an id");
    let body = members(&operation["requestBody"]["content"]).map(|(_, content)| (format!("the body of {id}"), content));
    let answers = members(&operation["responses"]).flat_map(|(status, answer)| {
        let content = members(&resolved(document, answer)["content"]);
        content.map(move |(_, content)| (format!("the answer {status} of {id}"), content))
    });
    body.chain(answers).collect()
}

#[test]
fn every_body_and_every_answer_has_an_example_that_fits_its_schema() {
    let document = document();
    let mut seen = 0;
    for (.., operation) in operations(&document) {
        for (place, content) in contents(&document, operation) {
            let several = members(&content["examples"]).map(|(_, example)| &example["value"]);
            let examples: Vec<&Value> = content.get("example").into_iter().chain(several).collect();
            assert!(!examples.is_empty(), "{place} has no example");
            for example in examples {
                assert_eq!(misfits(&document, &content["schema"], example), [""; 0], "{place}");
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "{seen} examples");
}

#[test]
fn an_example_that_does_not_fit_is_noticed() {
    let document = document();
    let schema = json!({"$ref": "#/components/schemas/Purged"});
    assert!(misfits(&document, &schema, &json!({"cancelled": 1})).is_empty());
    for wrong in [json!({"cancelled": "1"}), json!({}), json!({"cancelled": 1, "more": true})] {
        assert!(!misfits(&document, &schema, &wrong).is_empty(), "{wrong}");
    }
}

/// Every operation whose body has an example, with this example.
fn with_bodies(document: &Value) -> Vec<(Method, String, Value)> {
    let listed = operations(document).into_iter().filter_map(|(method, path, operation)| {
        let example = operation["requestBody"]["content"]["application/json"].get("example")?;
        Some((method.to_uppercase().parse().expect("a method"), path.to_owned(), example.clone()))
    });
    listed.collect()
}

/// An operation that waits for its webhook, which is paused.
async fn waiting_operation(world: &World, hook: &Hook) -> String {
    let event = world.publish("message.sent").await;
    world.settled(&event).await;
    world.client().act(&hook.path("/pause")).await.expect(200);
    let made = world.client().post(&hook.path("/replay"), &json!({"status": "success"})).await;
    let id = text(&made.expect(202), "id");
    let runs = async || {
        (world.client().get(&format!("/operations/{id}")).await.expect(200)["state"] == "running").then_some(())
    };
    fact::until("the operation runs", runs).await;
    id
}

#[tokio::test]
async fn the_server_accepts_every_example_of_a_body() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    world.client().post("/event-types", &json!({"name": "bolt.only"})).await.expect(201);
    let operation = waiting_operation(&world, &hook).await;
    let ids = [
        ("/tenants/{id}", &world.tenant.id),
        ("/webhooks/{id}", &hook.id),
        ("/operations/{id}", &operation),
        ("/event-types/{name}", &"bolt.only".to_owned()),
    ];
    let mut bodies = with_bodies(&document());
    assert!(bodies.len() > 14, "{} bodies", bodies.len());
    // Nothing is published once there is a webhook with the URL of the example, which no test may call.
    bodies.sort_by_key(|(_, path, _)| path == "/api/v1/webhooks");
    for (method, path, body) in bodies {
        let named = ids.iter().fold(path, |path, (place, id)| {
            let (list, _) = place.rsplit_once('/').expect("a list and a placeholder");
            path.replace(place, &format!("{list}/{id}"))
        });
        let is_of_admin = ["/tenants", "/admin-keys"].iter().any(|list| named.contains(list));
        let client = if is_of_admin { world.admin() } else { world.client().clone() };
        let call = client.root(method.clone(), &named).header("Content-Type", "application/json");
        let answer = send(call.body(body.to_string())).await;
        assert!(answer.status < 300, "{method} {named} refuses its own example: {answer:?}");
    }
}

/// What the name of an operation begins with, by its method.
fn verbs(method: &str) -> &'static [&'static str] {
    match method {
        "get" => &["list", "read", "explain"],
        "patch" => &["update"],
        "delete" => &["delete", "erase", "close"],
        _ => &[
            "create", "publish", "open", "pause", "resume", "cancel", "retry", "probe", "purge", "replay", "rotate",
            "test", "rewrap", "receive", "explain",
        ],
    }
}

#[test]
fn operations_are_named_by_one_grammar() {
    let document = document();
    let mut names = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let name = operation["operationId"].as_str().expect("an id");
        let verb = verbs(method).iter().find(|verb| name.starts_with(**verb));
        let noun = verb.and_then(|verb| name.strip_prefix(verb)).unwrap_or_default();
        assert!(noun.starts_with(|first: char| first.is_ascii_uppercase()), "{method} {path} is named {name}");
        assert!(noun.chars().all(|letter| letter.is_ascii_alphanumeric()), "{name}");
        assert!(names.insert(name), "two operations are named {name}");
        let answer = resolved(&document, &operation["responses"]["200"]);
        let page = members(&answer["content"]).find_map(|(_, content)| content["schema"]["$ref"].as_str());
        let is_list = page.is_some_and(|page| page.contains("Page_") || page.ends_with("Page"));
        let names_a_list = ["list", "explain"].iter().any(|verb| name.starts_with(verb)) || name == "readWebhookLog";
        assert_eq!(is_list, names_a_list, "{name} answers {page:?}");
    }
}

#[test]
fn every_group_of_operations_is_described_and_used() {
    let document = document();
    let tags = document["tags"].as_array().expect("tags");
    let described: BTreeSet<&str> = tags
        .iter()
        .filter(|tag| tag["description"].is_string())
        .map(|tag| tag["name"].as_str().expect("a name"))
        .collect();
    let used: BTreeSet<&str> =
        operations(&document).iter().map(|(.., operation)| operation["tags"][0].as_str().expect("a tag")).collect();
    assert_eq!(described, used);
}

#[test]
fn inputs_say_their_defaults_in_words_because_generated_clients_would_send_them() {
    let document = document();
    let inputs = members(&document["components"]["schemas"])
        .filter(|(name, _)| name.ends_with("Input") || name.ends_with("Patch"));
    for (name, schema) in inputs {
        for (property, schema) in members(&schema["properties"]) {
            assert_eq!(schema.get("default"), None, "{name}.{property}");
        }
    }
    let timeout = &document["components"]["schemas"]["WebhookInput"]["properties"]["timeoutMs"];
    assert!(timeout["description"].as_str().is_some_and(|text| text.contains("`5000` by default")), "{timeout}");
}
