//! Credentials of a webhook for its receiver: TLS options, passwords, tokens. They are sent to their receiver only,
//! kept sealed, and never shown.

use serde_json::{Value, json};

use crate::support::databases::{On, on_both};
use crate::support::hook::plain;
use crate::support::receiver::{Receiver, Reply};
use crate::support::secure::Secure;
use crate::support::world::{World, attempts, each_attempt, text};
use test_support::certificates::{Authority, Issued, self_signed};

const HOST: &str = "127.0.0.1";
const REDACTED: &str = "[redacted]";

on_both!(a_receiver_with_a_private_authority_that_wants_a_certificate_is_served);
async fn a_receiver_with_a_private_authority_that_wants_a_certificate_is_served() {
    let mut world = World::start().await;
    let (ours, theirs) = (Authority::new(), Authority::new());
    let secure = Secure::before(Receiver::ok(), &theirs.issue(HOST), Some(&ours)).await;
    let Issued { certificate, key } = ours.issue_for("engine.example.com", 2020..=2090);
    let tls = json!({"ca": theirs.pem(), "clientCertificate": certificate, "clientKey": key});
    let path = create(&world, &secure.url("/"), json!({"tls": tls})).await;

    let shown = world.client().get(&path).await.expect(200);
    assert_eq!(shown["tls"], json!({"ca": theirs.pem(), "clientCertificate": certificate, "clientKey": REDACTED}));
    assert_eq!(shown["clientCertificateExpiresAt"], "2090-01-01T00:00:00.000Z");
    assert_delivers(&world).await;

    let back = world.client().patch(&path, &json!({"tls": shown["tls"]})).await.expect(200);
    assert_eq!(back["tls"], shown["tls"], "sending back what was shown changes nothing");
    assert_delivers(&world).await;
    world.stop().await;
    assert_nowhere(&world, &[&key]);
    world.restart().await;
    assert_delivers(&world).await;
    assert_eq!(secure.receiver.requests().len(), 3);

    let without = world.client().patch(&path, &json!({"tls": {"clientCertificate": null, "clientKey": null}})).await;
    assert_eq!(without.expect(200)["clientCertificateExpiresAt"], Value::Null);
    let tested = world.client().post(&format!("{path}/test"), &json!({})).await.expect(200);
    assert_eq!(tested["attempt"]["outcome"], "tls_failed", "{tested}");
    assert!(text(&tested["attempt"], "error").contains("tls.clientCertificate"), "{tested}");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_says_what_can_be_done() {
    let world = World::start().await;
    let shown = self_signed(HOST);
    let secure = Secure::before(Receiver::ok(), &shown, None).await;
    let path = create(&world, &secure.url("/"), json!({})).await;
    let tested = world.client().post(&format!("{path}/test"), &json!({})).await.expect(200);
    assert_eq!(tested["attempt"]["outcome"], "tls_failed", "{tested}");
    assert!(text(&tested["attempt"], "error").contains("tls.ca"), "{tested}");

    world.client().patch(&path, &json!({"tls": {"ca": shown.certificate}})).await.expect(200);

    let tested = world.client().post(&format!("{path}/test"), &json!({})).await.expect(200);
    assert_eq!(tested["attempt"]["outcome"], "success", "{tested}");
}

#[tokio::test]
async fn tls_options_that_cannot_work_are_refused_when_they_are_saved() {
    let world = World::start().await;
    let (one, other) = (Authority::new().issue(HOST), Authority::new().issue(HOST));
    for (tls, pointer) in [
        (json!({"ca": "hello"}), "/tls/ca"),
        (json!({"ca": one.key}), "/tls/ca"),
        (json!({"clientCertificate": one.certificate}), "/tls/clientKey"),
        (json!({"clientKey": one.key}), "/tls/clientCertificate"),
        (json!({"clientCertificate": one.certificate, "clientKey": other.key}), "/tls/clientCertificate"),
        (json!({"clientCertificate": one.certificate, "clientKey": REDACTED}), "/tls/clientKey"),
        (json!({"minVersion": "1.0"}), "/tls/minVersion"),
    ] {
        assert_eq!(refused_at(&world, json!({"tls": tls})).await, pointer);
    }
}

on_both!(a_tenant_may_have_a_hundred_different_tls_options);
async fn a_tenant_may_have_a_hundred_different_tls_options() {
    let world = World::start().await;
    let trusting = |ca: &str| json!({"tls": {"ca": ca}});
    let mut first = String::new();
    for _ in 0..100 {
        first = Authority::new().pem();
        create(&world, "https://hooks.example.com/", trusting(&first)).await;
    }
    let one_more = trusting(&Authority::new().pem());
    assert_eq!(refused_at(&world, one_more.clone()).await, "/tls");

    let path = create(&world, "https://hooks.example.com/", trusting(&format!("# the same\n{first}"))).await;
    world.client().patch(&path, &one_more).await.expect(422);
    world.client().patch(&path, &json!({"tls": null})).await.expect(200);
    let other = world.another_tenant().await.client;
    other.post("/webhooks", &plain("https://hooks.example.com/", one_more)).await.expect(201);
}

#[tokio::test]
async fn an_owner_is_told_what_is_wrong_with_its_credentials() {
    let world = World::start().await;
    let oauth = |url: &str| json!({"type": "oauth2", "tokenUrl": url, "clientId": "a", "clientSecret": "b"});
    for (auth, pointer) in [
        (json!({"username": "a"}), "/auth/type"),
        (json!({"type": "digest"}), "/auth/type"),
        (json!({"type": "basic", "password": "b"}), "/auth/username"),
        (json!({"type": "basic", "username": "a:b", "password": "b"}), "/auth/username"),
        (json!({"type": "bearer"}), "/auth/token"),
        (json!({"type": "bearer", "token": REDACTED}), "/auth/token"),
        (json!({"type": "bearer", "token": "a", "scope": "b"}), "/auth/scope"),
        (oauth("https://10.0.0.1/token"), "/auth/tokenUrl"),
        (oauth("https://localhost/token"), "/auth/tokenUrl"),
    ] {
        assert_eq!(refused_at(&world, json!({"auth": auth})).await, pointer);
    }
    let both = json!({"auth": {"type": "bearer", "token": "a"}, "headers": {"authorization": "Bearer b"}});
    assert_eq!(refused_at(&world, both).await, "/headers/authorization");
}

on_both!(a_password_is_sent_and_never_shown_and_its_mark_keeps_it);
async fn a_password_is_sent_and_never_shown_and_its_mark_keeps_it() {
    let mut world = World::start().await;
    let receiver = Receiver::ok();
    let auth = json!({"type": "basic", "username": "me", "password": "correct horse"});
    let path = create(&world, &receiver.url("/"), json!({"auth": auth})).await;

    let shown = world.client().get(&path).await.expect(200)["auth"].clone();
    assert_eq!(shown, json!({"type": "basic", "username": "me", "password": REDACTED}));
    assert_delivers(&world).await;
    world.client().patch(&path, &json!({"auth": shown})).await.expect(200);
    world.client().patch(&path, &json!({"auth": {"username": "you"}})).await.expect(200);
    assert_delivers(&world).await;
    let bearer = json!({"auth": {"type": "bearer", "token": "battery-staple"}});
    world.client().patch(&path, &bearer).await.expect(200);
    assert_delivers(&world).await;
    world.client().patch(&path, &json!({"auth": null})).await.expect(200);
    assert_delivers(&world).await;

    let sent: Vec<String> =
        receiver.requests().iter().map(|request| request.header("authorization").to_owned()).collect();
    assert_eq!(sent, ["Basic bWU6Y29ycmVjdCBob3JzZQ==", "Basic eW91OmNvcnJlY3QgaG9yc2U=", "Bearer battery-staple", ""]);
    world.stop().await;
    assert_nowhere(&world, &["correct horse", "battery-staple"]);
}

#[tokio::test]
async fn a_token_is_fetched_kept_and_replaced_when_the_receiver_refuses_it() {
    let mut world = World::start().await;
    let endpoint = Receiver::says(|asked| {
        let grant = json!({"access_token": format!("secret-{asked}"), "token_type": "Bearer", "expires_in": 3600});
        Reply::Text(grant.to_string())
    });
    let receiver = Receiver::says(|seen| Reply::Status(if seen == 1 { 401 } else { 200 }));
    let auth = json!({"type": "oauth2", "tokenUrl": endpoint.url("/token"), "clientId": "me",
        "clientSecret": "hunter2", "scope": "hooks"});
    let retries = json!({"maxRetries": 1, "backoffStrategy": "schedule", "scheduleSeconds": [1]});
    let path = create(&world, &receiver.url("/"), json!({"auth": auth, "retryPolicy": retries})).await;
    let shown = world.client().get(&path).await.expect(200)["auth"].clone();
    assert_eq!((&shown["clientSecret"], &shown["clientId"]), (&json!(REDACTED), &json!("me")));
    assert_eq!(shown["tokenEndpointAuthMethod"], "client_secret_basic");

    assert_delivers(&world).await;
    let second = world.publish("message.sent").await;
    let second = world.settled(&second).await;

    assert_eq!(each_attempt(&second, "outcome"), ["rejected", "success"]);
    let sent: Vec<String> =
        receiver.requests().iter().map(|request| request.header("authorization").to_owned()).collect();
    assert_eq!(sent, ["Bearer secret-0", "Bearer secret-0", "Bearer secret-1"]);
    assert_eq!(endpoint.requests()[0].text(), "grant_type=client_credentials&scope=hooks");
    world.stop().await;
    assert_nowhere(&world, &["hunter2", "secret-0", "secret-1"]);
}

#[tokio::test]
async fn a_token_endpoint_that_refuses_is_told_in_the_log() {
    let world = World::start().await;
    let (endpoint, receiver) = (Receiver::status(403), Receiver::ok());
    let auth = json!({"type": "oauth2", "tokenUrl": endpoint.url("/"), "clientId": "me", "clientSecret": "hunter2"});
    create(&world, &receiver.url("/"), json!({"auth": auth, "retryPolicy": {"maxRetries": 0}})).await;

    let event = world.publish("message.sent").await;

    let delivery = world.settled(&event).await;
    let attempt = &attempts(&delivery)[0];
    assert_eq!((&attempt["outcome"], &attempt["statusCode"]), (&json!("rejected"), &Value::Null));
    assert_eq!(attempt["error"], "token endpoint: answered 403; check `clientId` and `clientSecret`");
    assert_eq!(receiver.requests().len(), 0);
}

/// Creates a webhook; returns its path.
async fn create(world: &World, url: &str, settings: Value) -> String {
    let created = world.client().post("/webhooks", &plain(url, settings)).await.expect(201);
    format!("/webhooks/{}", text(&created, "id"))
}

/// The pointer of the one error for which a webhook with these settings is refused.
async fn refused_at(world: &World, settings: Value) -> String {
    let problem = world.client().post("/webhooks", &plain("https://example.com/", settings)).await.expect(422);
    let [error] = problem["errors"].as_array().expect("errors").as_slice() else { panic!("{problem}") };
    text(error, "pointer")
}

async fn assert_delivers(world: &World) {
    let event = world.publish("message.sent").await;
    let delivery = world.settled(&event).await;
    assert_eq!(delivery["status"], "success", "{delivery}");
}

/// Asserts that no secret is in the server's files or output. The store's own tests cover the rows in PostgreSQL.
fn assert_nowhere(world: &World, secrets: &[&str]) {
    let mut files = Vec::new();
    gather(world.dir(), &mut files);
    assert!(
        On::this_test() == On::Postgres || files.iter().any(|file| file.len() > 4096),
        "no database file was searched"
    );
    for secret in secrets {
        // A key has many lines; finding any one of them is a leak.
        for line in secret.lines().filter(|line| line.len() >= 7 && !line.starts_with("-----")) {
            let is_in = |file: &Vec<u8>| file.windows(line.len()).any(|window| window == line.as_bytes());
            assert!(!files.iter().any(is_in), "{line} is readable");
        }
    }
}

fn gather(dir: &std::path::Path, files: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            gather(&path, files);
        } else {
            files.push(std::fs::read(&path).unwrap_or_default());
        }
    }
}
