//! HTTP as clients expect it: where a new object is, what has not changed since, and where the next page is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::support::client::{Answer, Client, send};
use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::hook::plain;
use crate::support::operations::operations;
use crate::support::receiver::Receiver;
use crate::support::world::World;

fn location(answer: &Answer) -> String {
    answer.header("location").unwrap_or_else(|| panic!("no Location: {answer:?}")).to_owned()
}

async fn post_once(client: &Client, path: &str, body: &Value) -> Answer {
    send(client.json(Method::POST, path, body).header("Idempotency-Key", format!("once {path}").replace(' ', "-")))
        .await
}

async fn reread(client: &Client, path: &str, tag: &str) -> Answer {
    send(client.call(Method::GET, path).header("If-None-Match", tag)).await
}

fn tag(answer: &Answer) -> String {
    answer.header("etag").unwrap_or_else(|| panic!("no ETag: {answer:?}")).to_owned()
}

#[tokio::test]
async fn a_new_object_is_found_at_its_location_also_when_it_is_asked_for_again() {
    let world = World::start().await;
    let keys = format!("/tenants/{}/keys", world.tenant.id);
    let webhook = plain("https://example.com/", json!({}));
    let named = json!({"name": "another"});
    for (client, path, body, method, status) in [
        (world.client().clone(), "/webhooks", webhook, Method::GET, 200),
        (world.client().clone(), "/event-types", json!({"name": "bolt.only-1"}), Method::GET, 200),
        (world.admin(), "/tenants", named.clone(), Method::GET, 200),
        (world.admin(), "/admin-keys", named, Method::DELETE, 204),
        (world.admin(), keys.as_str(), json!({"name": "another", "scopes": ["read"]}), Method::DELETE, 204),
    ] {
        let made = post_once(&client, path, &body).await;
        made.expect(201);
        let again = post_once(&client, path, &body).await;

        let found = send(client.root(method, &location(&made))).await;
        assert_eq!(found.status, status, "{found:?}");
        assert_eq!((again.header("idempotency-replayed"), location(&again)), (Some("true"), location(&made)));
        let shown = made.json();
        let name = if shown["id"].is_string() { &shown["id"] } else { &shown["name"] };
        assert!(location(&made).ends_with(&format!("{path}/{}", name.as_str().expect("a name"))), "{made:?}");
    }
    let opened = world.client().act("/session").await;
    let session = send(world.client().root(Method::GET, &location(&opened))).await;
    assert_eq!((opened.status, session.status), (201, 200));
}

on_both!(what_the_caller_has_is_not_sent_again_until_something_in_it_changes);
async fn what_the_caller_has_is_not_sent_again_until_something_in_it_changes() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let (client, path) = (world.client(), hook.path(""));
    let first = tag(&client.get(&path).await);

    let unchanged = reread(client, &path, &first).await;

    assert_eq!((unchanged.status, unchanged.text.as_str(), unchanged.header("etag")), (304, "", Some(&*first)));
    assert_eq!(unchanged.header("content-length").unwrap_or("0"), "0");
    assert_eq!(reread(client, &path, "\"v1\"").await.status, 200, "the tag of another answer");
    let event = world.publish("message.sent").await;
    world.settled(&event).await;
    let delivered = fact::until("the webhook shows the success", async || {
        let answer = reread(client, &path, &first).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert!(delivered.json()["lastSuccessAt"].is_string(), "{delivered:?}");
    let renamed = send(client.json(Method::PATCH, &path, &json!({"name": "b"})).header("If-Match", &first)).await;
    renamed.expect(200);
    assert_eq!(reread(client, &path, &tag(&delivered)).await.expect(200)["name"], "b");
    assert_eq!(reread(client, &path, &tag(&renamed)).await.status, 304);
}

#[tokio::test]
async fn tenants_and_event_types_are_not_sent_again_either() {
    let world = World::start().await;
    world.client().post("/event-types", &json!({"name": "bolt.only", "description": "a"})).await.expect(201);
    let tenant = format!("/tenants/{}", world.tenant.id);
    for (client, path, change) in [
        (world.client().clone(), "/event-types/bolt.only", json!({"description": "b"})),
        (world.admin(), tenant.as_str(), json!({"name": "Acme & Co"})),
    ] {
        let known = tag(&client.get(path).await);
        assert_eq!(reread(&client, path, &known).await.status, 304, "{path}");
        client.patch(path, &change).await.expect(200);
        assert_eq!(reread(&client, path, &known).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_client_that_follows_the_links_reads_the_whole_list() {
    let world = World::start().await;
    for kind in ["a.b", "c.d", "a.b", "a.b", "c.d", "a.b", "a.b"] {
        world.publish(kind).await;
    }
    let filtered = "event=a.b&since=2020-01-01T00%3A00%3A00.000Z";
    let all = world.client().walk(&format!("/events?{filtered}")).await;
    let mut url: Url = format!("{}/api/v1/events?{filtered}&limit=2", world.url()).parse().expect("a URL");
    let (mut read, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let path = format!("{}?{}", url.path(), url.query().expect("a query"));
        let page = send(world.client().root(Method::GET, &path)).await;
        let items = page.expect(200)["data"].as_array().expect("a list").clone();
        sizes.push(items.len());
        read.extend(items);
        let Some(link) = page.header("link") else { break };
        let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).expect("a link");
        url = url.join(next).expect("a reference");
    }
    assert_eq!((read, sizes), (all, vec![2, 2, 1]));
}

/// Every action on a webhook.
const ACTIONS: [&str; 6] = ["/pause", "/resume", "/probe", "/purge", "/test", "/secret/rotate"];

on_both!(an_action_on_a_version_that_is_not_the_last_does_nothing);
async fn an_action_on_a_version_that_is_not_the_last_does_nothing() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let client = world.client();
    let act = async |action: &str, tag: &str| {
        send(client.call(Method::POST, &hook.path(action)).header("If-Match", tag)).await
    };
    let stale = tag(&client.get(&hook.path("")).await);
    client.patch(&hook.path(""), &json!({"name": "b"})).await.expect(200);
    let audited = client.walk("/audit").await.len();
    for action in ACTIONS {
        let refused = act(action, &stale).await;
        assert_eq!(refused.problem(412).code(), "precondition_failed", "{action}");
        assert_eq!(act(action, "v1").await.problem(400).code(), "invalid_if_match", "{action}");
    }
    assert_eq!(client.walk("/audit").await.len(), audited);
    assert!(hook.requests().is_empty());

    let fresh = tag(&client.get(&hook.path("")).await);
    let paused = act("/pause", &fresh).await;
    assert_eq!(paused.expect(200)["changed"], true);
    assert_eq!(act("/resume", &fresh).await.problem(412).code(), "precondition_failed");
    assert_eq!(act("/resume", &tag(&paused)).await.expect(200)["changed"], true);
    for action in ["/probe", "/purge", "/test", "/pause"] {
        act(action, &tag(&client.get(&hook.path("")).await)).await.expect(200);
    }
    let version = tag(&client.get(&hook.path("")).await);
    let answer = act("/secret/rotate", &version).await;
    hook.rotated_to(&answer.expect(200));
    assert_eq!(act("/secret/rotate", &version).await.problem(412).code(), "precondition_failed");
}

#[tokio::test]
async fn an_action_refuses_what_it_cannot_do() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let client = world.client();
    let event = world.publish("message.sent").await;
    let delivery = format!("/deliveries/{}", world.settled(&event).await["id"].as_str().expect("an id"));
    let rewrap = "/engine/secrets/rewrap".to_owned();
    let on_webhook = ACTIONS.map(|action| (client.clone(), hook.path(action)));
    let others = [
        (client.clone(), format!("{delivery}/retry")),
        (client.clone(), format!("{delivery}/cancel")),
        (client.clone(), "/session".to_owned()),
        (world.admin(), rewrap.clone()),
    ];
    let audited = world.admin().walk("/audit").await.len();
    for (client, path) in on_webhook.into_iter().chain(others) {
        let refused = client.post(&path, &json!({"untl": "2026-01-01T00:00:00.000Z"})).await.problem(422);
        assert_eq!(refused.pointers(), ["/untl"], "{path}");
        client.post(&path, &json!([])).await.problem(422);
        client.post_text(&path, "{").await.problem(400);
        send(client.call(Method::POST, &path).body("{}")).await.problem(415);
    }
    assert_eq!(world.admin().walk("/audit").await.len(), audited, "none of them has begun");
    client.post(&hook.path("/pause"), &json!({})).await.expect(200);
    world.admin().post(&rewrap, &json!({})).await.expect(200);
}

async fn act_once(client: &Client, path: &str, key: &str) -> Answer {
    send(client.call(Method::POST, path).header("Idempotency-Key", key)).await
}

on_both!(a_rotation_that_is_repeated_gets_its_secret_again_and_makes_no_other);
async fn a_rotation_that_is_repeated_gets_its_secret_again_and_makes_no_other() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let (client, path) = (world.client(), hook.path("/secret/rotate"));

    let rotated = act_once(client, &path, "rotation-1").await;
    hook.rotated_to(&rotated.expect(200));
    client.patch(&hook.path(""), &json!({"name": "b"})).await.expect(200);
    let repeated = client.call(Method::POST, &path).header("Idempotency-Key", "rotation-1");
    let again = send(repeated.header("If-Match", "\"v1\"")).await;

    assert_eq!((again.expect(200), tag(&again)), (rotated.json(), tag(&rotated)));
    assert_eq!((again.header("idempotency-replayed"), rotated.header("idempotency-replayed")), (Some("true"), None));
    let secrets = client.get(&hook.path("")).await.json()["secrets"].clone();
    assert_eq!((secrets.as_array().map(Vec::len), &secrets), (Some(2), &rotated.json()["secrets"]));
    let other = client.json(Method::POST, &path, &json!({"graceSeconds": 0})).header("Idempotency-Key", "rotation-1");
    assert_eq!(send(other).await.problem(422).code(), "idempotency_key_reused");
    let second = act_once(client, &path, "rotation-2").await;
    hook.rotated_to(&second.expect(200));
    assert_ne!(second.json()["secret"], rotated.json()["secret"]);
    world.publish("message.sent").await;
    hook.saw(1).await;
}

on_both!(a_test_that_is_repeated_sends_nothing_again);
async fn a_test_that_is_repeated_sends_nothing_again() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let (client, path) = (world.client(), hook.path("/test"));

    let first = act_once(client, &path, "test-1").await;
    let again = act_once(client, &path, "test-1").await;

    assert_eq!(again.expect(200), first.expect(200));
    assert_eq!((again.header("idempotency-replayed"), first.header("idempotency-replayed")), (Some("true"), None));
    act_once(client, &path, "test-2").await.expect(200);
    assert_eq!(hook.saw(2).await.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_repeated_safely_takes_no_idempotency_key() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let event = world.publish("message.sent").await;
    let delivery = world.settled(&event).await["id"].as_str().expect("an id").to_owned();
    for path in ["/session".to_owned(), format!("/deliveries/{delivery}/retry")] {
        let refused = act_once(world.client(), &path, "once").await;
        assert_eq!(refused.problem(400).code(), "idempotency_key_not_taken", "{path}");
    }
    assert_eq!((hook.requests().len(), world.client().walk("/sessions").await.len()), (1, 0));
}

#[tokio::test]
async fn a_path_says_which_methods_it_takes() {
    let world = World::start().await;
    let operations = operations(&world.anyone()).await;
    let mut paths: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for operation in &operations {
        paths.entry(operation.path.clone()).or_default().insert(operation.method.to_string());
    }
    for (path, mut methods) in paths {
        methods.insert("OPTIONS".to_owned());
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        let path = path.replace(['{', '}'], "");
        let told = send(world.anyone().root(Method::OPTIONS, &path)).await;
        let refused = send(world.anyone().root(Method::TRACE, &path)).await;
        assert_eq!((told.status, told.text.as_str()), (204, ""), "{path}");
        assert_eq!(refused.problem(405).code(), "method_not_allowed", "{path}");
        for answer in [told, refused] {
            let allowed = answer.header("allow").expect("Allow").split(',').map(str::to_owned).collect::<BTreeSet<_>>();
            assert_eq!(allowed, methods, "{path}");
        }
    }
    assert_eq!(
        send(world.anyone().root(Method::OPTIONS, "/api/v1/nowhere")).await.problem(404).code(),
        "no_such_route"
    );
}

async fn accepting(client: &Client, path: &str, codings: &str) -> reqwest::Response {
    let call = client.root(Method::GET, path).header("Accept-Encoding", codings);
    call.send().await.expect("an answer")
}

fn coding(answer: &reqwest::Response) -> Option<&str> {
    answer.headers().get("content-encoding").map(|coding| coding.to_str().expect("text"))
}

async fn unzipped(answer: reqwest::Response) -> String {
    assert_eq!(coding(&answer), Some("gzip"), "{answer:?}");
    assert_eq!(answer.headers()["vary"], "accept-encoding");
    let (zipped, mut text) = (answer.bytes().await.expect("a body"), String::new());
    flate2::read::GzDecoder::new(&zipped[..]).read_to_string(&mut text).expect("gzip");
    assert!(zipped.len() < text.len(), "{} bytes of {}", zipped.len(), text.len());
    text
}

#[tokio::test]
async fn a_long_list_is_compressed_for_a_caller_that_accepts_it() {
    let world = World::start().await;
    for _ in 0..20 {
        world.publish("message.sent").await;
    }
    let (client, path) = (world.client(), "/api/v1/events");
    let plain = send(client.root(Method::GET, path)).await;

    assert_eq!(unzipped(accepting(client, path, "br, gzip;q=0.5").await).await, plain.text);
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), (None, Some("accept-encoding")));
    for (path, codings) in
        [(path, "gzip;q=0, br"), (path, "identity"), ("/api/v1/events?limit=1", "gzip"), ("/openapi.json", "gzip")]
    {
        let answer = accepting(client, path, codings).await;
        assert_eq!((coding(&answer), answer.status().as_u16()), (None, 200), "{path} {codings}");
    }
}

#[tokio::test]
async fn no_answer_with_a_secret_or_a_tag_is_compressed() {
    let world = World::start().await;
    let long = plain("https://example.com/", json!({"description": "long ".repeat(400)}));
    let call = world.client().json(Method::POST, "/webhooks", &long).header("Accept-Encoding", "gzip");
    let made = send(call).await;
    let id = made.expect(201)["id"].as_str().expect("an id").to_owned();

    assert_eq!((made.header("content-encoding"), made.header("vary")), (None, None));
    let read = accepting(world.client(), &format!("/api/v1/webhooks/{id}"), "gzip").await;
    assert_eq!((coding(&read), read.status().as_u16()), (None, 200));
    unzipped(accepting(world.client(), "/api/v1/webhooks", "gzip").await).await;
}
