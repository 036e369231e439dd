//! F34: a webhook's credentials are given for one origin and are never sent to another: not when `url` or `tokenUrl` is
//! changed, and not when the row is rewritten in the database.

use serde_json::{Value, json};

use crate::support::databases::on_both;
use crate::support::hook::plain;
use crate::support::receiver::{Receiver, Reply};
use crate::support::rows;
use crate::support::world::{World, attempts, text};
use test_support::certificates::{Authority, Issued};

const REDACTED: &str = "[redacted]";

/// A kind of credential: the settings that give it, keep it, give it anew and remove it, and the pointer of the error
/// when it must be given again.
struct Case {
    given: Value,
    mark: Value,
    null: Value,
    pointer: &'static str,
}

fn cases(token_url: &str) -> Vec<Case> {
    let Issued { certificate, key } = Authority::new().issue("engine.example.com");
    let case = |given, mark, null, pointer| Case { given, mark, null, pointer };
    vec![
        case(
            json!({"headers": {"X-Session": "planted-header"}}),
            json!({"headers": {"X-Session": REDACTED}}),
            json!({"headers": {"X-Session": null}}),
            "/headers/X-Session",
        ),
        case(
            json!({"auth": {"type": "basic", "username": "me", "password": "planted-password"}}),
            json!({"auth": {"username": "you", "password": REDACTED}}),
            json!({"auth": null}),
            "/auth/password",
        ),
        case(
            json!({"auth": {"type": "bearer", "token": "planted-token"}}),
            json!({"auth": {"token": REDACTED}}),
            json!({"auth": null}),
            "/auth/token",
        ),
        case(
            json!({"auth": {"type": "oauth2", "tokenUrl": token_url, "clientId": "me", "clientSecret": "planted-secret"}}),
            json!({"auth": {"scope": "hooks"}}),
            json!({"auth": null}),
            "/auth/clientSecret",
        ),
        case(
            json!({"tls": {"clientCertificate": certificate, "clientKey": key}}),
            json!({"tls": {"clientCertificate": certificate, "clientKey": REDACTED}}),
            json!({"tls": null}),
            "/tls/clientKey",
        ),
    ]
}

/// A token endpoint that grants a new token for each request.
fn token_endpoint() -> Receiver {
    Receiver::says(|asked| {
        Reply::Text(json!({"access_token": format!("planted-{asked}"), "expires_in": 3600}).to_string())
    })
}

fn with(url: &str, settings: &Value) -> Value {
    let mut wish = settings.clone();
    wish["url"] = url.into();
    wish
}

async fn create(world: &World, url: &str, settings: Value) -> (String, String) {
    let created = world.client().post("/webhooks", &plain(url, settings)).await.expect(201);
    (format!("/webhooks/{}", text(&created, "id")), text(&created, "name"))
}

/// The pointers at which a change is refused; every error must be `bound_to_origin`.
async fn bound_at(world: &World, path: &str, change: &Value) -> Vec<String> {
    let problem = world.client().patch(path, change).await.expect(422);
    let errors = problem["errors"].as_array().expect("errors");
    assert!(errors.iter().all(|error| error["code"] == "bound_to_origin"), "{problem}");
    assert!(!problem.to_string().contains("planted"), "{problem}");
    errors.iter().map(|error| text(error, "pointer")).collect()
}

on_both!(a_url_that_moves_to_another_origin_takes_no_credentials_along);
async fn a_url_that_moves_to_another_origin_takes_no_credentials_along() {
    let world = World::start().await;
    let (owner, thief, endpoint) = (Receiver::ok(), Receiver::ok(), token_endpoint());
    for Case { given, mark, null, pointer } in cases(&endpoint.url("/token")) {
        let (path, _) = create(&world, &owner.url("/"), given.clone()).await;
        let away = thief.url("/");
        for kept in [json!({}), mark] {
            assert_eq!(bound_at(&world, &path, &with(&away, &kept)).await, [pointer], "{kept}");
        }
        assert_eq!(world.client().get(&path).await.expect(200)["url"], owner.url("/"));
        world.client().patch(&path, &json!({"url": owner.url("/elsewhere?a=b")})).await.expect(200);
        world.client().post(&format!("{path}/test"), &json!({})).await.expect(200);
        assert_eq!(thief.requests().len(), 0, "{pointer}");

        world.client().patch(&path, &with(&away, &given)).await.expect(200);
        world.client().patch(&path, &json!({"url": thief.url("/again")})).await.expect(200);
        assert_eq!(
            bound_at(&world, &path, &json!({"url": owner.url("/")})).await,
            [pointer],
            "the credential belongs to the other origin now"
        );
        world.client().patch(&path, &with(&owner.url("/"), &null)).await.expect(200);
        world.client().delete(&path).await.succeeded();
    }
}

#[tokio::test]
async fn everything_that_must_be_given_again_is_named_at_once() {
    let world = World::start().await;
    let Issued { certificate, key } = Authority::new().issue("engine.example.com");
    let all = json!({"headers": {"X-Key": "a", "X-Session": "b", "X-Team": "billing", "Accept": "*/*"},
        "publicHeaders": ["X-Team"], "auth": {"type": "bearer", "token": "c"},
        "tls": {"clientCertificate": certificate, "clientKey": key}});
    let (path, _) = create(&world, "https://example.com/", all.clone()).await;

    let named = bound_at(&world, &path, &json!({"url": "https://example.org/", "headers": {"X-Session": "d"}})).await;

    assert_eq!(named, ["/headers/X-Key", "/auth/token", "/tls/clientKey"]);
    for same in ["https://EXAMPLE.com:443/a", "https://example.com./b"] {
        world.client().patch(&path, &json!({"url": same})).await.expect(200);
    }
    for other in ["http://example.com/", "https://example.com:8443/", "https://www.example.com/"] {
        assert_eq!(bound_at(&world, &path, &json!({"url": other})).await.len(), 4, "{other}");
    }
    let moved = world.client().patch(&path, &with("https://example.org/", &all)).await.expect(200);
    assert_eq!(moved["headers"]["X-Team"], "billing");
}

#[tokio::test]
async fn a_public_header_and_an_authority_go_along() {
    let world = World::start().await;
    let settings =
        json!({"headers": {"X-Team": "billing"}, "publicHeaders": ["x-team"], "tls": {"ca": Authority::new().pem()}});
    let (path, _) = create(&world, "https://example.com/", settings).await;
    world.client().patch(&path, &json!({"url": "https://example.org/"})).await.expect(200);
}

on_both!(a_client_secret_is_for_the_token_endpoint_that_it_was_given_for);
async fn a_client_secret_is_for_the_token_endpoint_that_it_was_given_for() {
    let world = World::start().await;
    let (owner, endpoint, thief) = (Receiver::ok(), token_endpoint(), token_endpoint());
    let Issued { certificate, key } = Authority::new().issue("engine.example.com");
    let auth = json!({"type": "oauth2", "tokenUrl": endpoint.url("/token"), "clientId": "me", "clientSecret": "planted-secret"});
    let settings = json!({"auth": auth, "tls": {"clientCertificate": certificate, "clientKey": key}});
    let (path, _) = create(&world, &owner.url("/"), settings).await;

    for kept in [json!({}), json!({"clientSecret": REDACTED})] {
        let mut change = kept.clone();
        change["tokenUrl"] = thief.url("/token").into();
        let named = bound_at(&world, &path, &json!({"auth": change})).await;
        assert_eq!(named, ["/auth/clientSecret", "/tls/clientKey"]);
    }
    world.client().patch(&path, &json!({"auth": {"tokenUrl": endpoint.url("/other")}})).await.expect(200);
    world.client().post(&format!("{path}/test"), &json!({})).await.expect(200);
    assert_eq!((endpoint.requests().len(), thief.requests().len()), (1, 0));

    let anew = json!({"auth": {"tokenUrl": thief.url("/token"), "clientSecret": "another"},
        "tls": {"clientCertificate": certificate, "clientKey": key}});
    world.client().patch(&path, &anew).await.expect(200);
}

#[tokio::test]
async fn a_token_that_one_receiver_has_seen_is_not_sent_to_another() {
    let world = World::start().await;
    let (before, after, endpoint) = (Receiver::ok(), Receiver::ok(), token_endpoint());
    let auth =
        json!({"type": "oauth2", "tokenUrl": endpoint.url("/token"), "clientId": "me", "clientSecret": "hunter2"});
    let (path, _) = create(&world, &before.url("/"), json!({"auth": auth})).await;
    let test = format!("{path}/test");
    world.client().post(&test, &json!({})).await.expect(200);

    world.client().patch(&path, &json!({"url": after.url("/"), "auth": auth})).await.expect(200);
    world.client().post(&test, &json!({})).await.expect(200);

    let sent = |receiver: &Receiver| receiver.requests()[0].header("authorization").to_owned();
    assert_eq!((sent(&before), sent(&after)), ("Bearer planted-0".to_owned(), "Bearer planted-1".to_owned()));
}

on_both!(a_row_that_was_moved_to_another_origin_sends_no_credentials_there);
async fn a_row_that_was_moved_to_another_origin_sends_no_credentials_there() {
    let mut world = World::start().await;
    let (owner, thief, endpoint) = (Receiver::ok(), Receiver::ok(), token_endpoint());
    let mut hooks = Vec::new();
    for Case { mut given, pointer, .. } in cases(&endpoint.url("/token")) {
        given["retryPolicy"] = json!({"maxRetries": 0});
        let (path, name) = create(&world, &owner.url("/"), given.clone()).await;
        hooks.push((path, name, given, pointer));
    }
    world.stop().await;
    let away = thief.url("/stolen");
    rows::rewrite_urls(&world, hooks.iter().map(|(_, name, ..)| (name.as_str(), away.as_str())));
    world.restart().await;

    let event = world.publish("message.sent").await;

    for delivery in world.all_settled(&event).await {
        let delivery = world.delivery(&text(&delivery, "id")).await;
        let attempt = &attempts(&delivery)[0];
        assert_eq!(attempt["outcome"], "blocked", "{attempt}");
        let error = text(attempt, "error");
        assert!(error.contains(&thief.url("")) && error.contains(&owner.url("")), "{error}");
    }
    assert_eq!((thief.requests().len(), endpoint.requests().len()), (0, 0));
    for (path, _, given, pointer) in &hooks {
        // Neither an unrelated change nor a pause binds the credentials to the attacker's origin.
        let changed = world.client().patch(path, &json!({"description": "moved"})).await.expect(200);
        assert_eq!(changed["url"], away);
        world.client().act(&format!("{path}/pause")).await.expect(200);
        world.client().act(&format!("{path}/resume")).await.expect(200);
        let tested = world.client().post(&format!("{path}/test"), &json!({})).await.expect(200);
        assert_eq!(tested["attempt"]["outcome"], "blocked", "{tested}");
        let other = json!({"url": thief.url("/stolen/more")});
        let back = world.client().patch(path, &other).await.expect(200);
        assert_eq!(back["url"], other["url"], "the URL may move again, because the credentials stay bound");
        if !pointer.starts_with("/headers") {
            assert_eq!(bound_at(&world, path, &json!({"headers": {"X-New": "secret"}})).await, [*pointer]);
        }
        world.client().patch(path, &with(&thief.url("/"), given)).await.expect(200);
        assert_eq!(
            bound_at(&world, path, &json!({"url": owner.url("/")})).await,
            [*pointer],
            "the credential was given for the other origin now"
        );
    }
    assert_eq!(thief.requests().len(), 0);
}

on_both!(a_row_that_was_moved_and_calls_its_headers_public_sends_none_there);
async fn a_row_that_was_moved_and_calls_its_headers_public_sends_none_there() {
    let mut world = World::start().await;
    let (owner, thief) = (Receiver::ok(), Receiver::ok());
    let (path, name) = create(&world, &owner.url("/"), json!({"headers": {"X-Session": "planted-header"}})).await;
    world.stop().await;
    let away = thief.url("/stolen");
    rows::rewrite_urls(&world, std::iter::once((name.as_str(), away.as_str())));
    rows::tamper(&world, &format!("UPDATE webhook SET public_headers = '[\"X-Session\"]' WHERE name = '{name}'"));
    world.restart().await;

    for change in [json!({"description": "moved"}), json!({"url": thief.url("/stolen/more")})] {
        world.client().patch(&path, &change).await.expect(200);
        let tested = world.client().post(&format!("{path}/test"), &json!({})).await.expect(200);
        assert_eq!(tested["attempt"]["outcome"], "blocked", "{tested}");
    }

    assert_eq!(thief.requests().len(), 0);
}
