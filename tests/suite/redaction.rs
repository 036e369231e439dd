//! A planted secret appears in no log line, in no answer of the API after the one that shows it, in no metric and in no
//! row. The test uses the most verbose log level, every route of the OpenAPI document and the whole database.

use std::path::Path;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use reqwest::Method;
use serde_json::json;

use crate::support::client::{Client, send};
use crate::support::databases::{MASTER_KEY, On, on_both};
use crate::support::fact;
use crate::support::hook::Hook;
use crate::support::operations::{Ids, operation_done, operations};
use crate::support::receiver::Receiver;
use crate::support::verify::hex;
use crate::support::world::{ADMIN_KEY, World, id_of, new_admin_key, new_key, new_session, text};

const HEADER: &str = "planted-header-value-0123456789";
const CREDENTIAL: &str = "planted-credential-0123456789";
const PASSWORD: &str = "planted-database-password-0123456789";

/// The planted secrets: for each its name and every form in which it could appear.
struct Planted(Vec<(String, Vec<String>)>);

/// Each byte as one character, so that texts and bytes are searched alike.
fn characters(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

impl Planted {
    /// Adds a secret that is text.
    fn text(&mut self, name: &str, secret: &str) {
        assert!(secret.len() >= 16, "{name} would be found by chance");
        self.bytes(name, secret.as_bytes());
    }

    /// Adds a secret that consists of bytes and is shown in base64.
    fn base64(&mut self, name: &str, secret: &str) {
        self.text(name, secret);
        self.bytes(&format!("{name}, decoded"), &BASE64_STANDARD.decode(secret).expect("base64"));
    }

    fn bytes(&mut self, name: &str, secret: &[u8]) {
        // Within longer base64 text, the secret starts at one of three offsets.
        let shifted = |skip: usize| {
            let padded = [&vec![0; skip], secret].concat();
            let text = BASE64_URL_SAFE_NO_PAD.encode(&padded);
            let text = &text[(skip * 4).div_ceil(3)..text.len() - 2];
            [text.replace('-', "+").replace('_', "/"), text.to_owned()]
        };
        let hex = hex(secret);
        let mut forms = vec![characters(secret), hex.to_uppercase(), hex];
        forms.extend((0..3).flat_map(shifted));
        self.0.push((name.to_owned(), forms));
    }

    fn assert_absent(&self, place: &str, haystack: &[u8]) {
        let text = characters(haystack);
        for (name, forms) in &self.0 {
            for form in forms {
                if let Some((before, _)) = text.split_once(form) {
                    let before: String = before.chars().rev().take(300).collect();
                    panic!("{name} is in {place}, behind {}", before.chars().rev().collect::<String>());
                }
            }
        }
    }
}

#[test]
fn what_is_planted_would_be_found_in_every_form() {
    let mut planted = Planted(Vec::new());
    planted.text("it", HEADER);
    let found = |haystack: Vec<u8>| std::panic::catch_unwind(|| planted.assert_absent("a text", &haystack)).is_err();
    for before in ["", "a", "ab", "abc"] {
        let inside = format!("{before}{HEADER} and more");
        assert!(found(inside.clone().into_bytes()) && found(hex(inside.as_bytes()).into_bytes()));
        assert!(found(BASE64_STANDARD.encode(&inside).into_bytes()), "{before}");
        assert!(found(BASE64_URL_SAFE_NO_PAD.encode(&inside).into_bytes()), "{before}");
    }
    assert!(!found(HEADER.as_bytes()[1..].to_vec()));
}

/// A server with the most verbose log, and a database with a password.
async fn talkative() -> World {
    let mut world = World::with(&[("POSTHASTE_LOG", "trace")]).await;
    if On::this_test() == On::Postgres {
        world.stop().await;
        let url = world.database().url().replace("posthaste@", &format!("posthaste:{PASSWORD}@"));
        world.env().insert("POSTHASTE_DATABASE_URL", url);
        world.restart().await;
    }
    world
}

/// Sends requests that fail, so that failures are logged.
async fn fail(world: &World, hook: &Hook, keys: &[String]) {
    for key in keys {
        let (most, last) = key.split_at(key.len() - 1);
        let bent = format!("{most}{}", if last == "a" { "b" } else { "a" });
        world.anyone().with_key(&bent).get("/webhooks").await.problem(401);
    }
    let long = json!({"headers": {"Authorization": HEADER, "Host": HEADER}, "secret": HEADER});
    world.client().patch(&hook.path(""), &long).await.problem(422);
    world.client().post_text("/webhooks", format!("{{\"headers\": {{\"X-A\": \"{HEADER}\"}}, ")).await.refusal();
}

/// Creates webhooks with every kind of authentication; the last one's token endpoint answers without a token.
async fn webhooks_with_credentials(world: &World) -> Vec<Hook> {
    let endpoint = Receiver::ok();
    let mut hooks = Vec::new();
    for auth in [
        json!({"type": "basic", "username": "planted", "password": CREDENTIAL}),
        json!({"type": "bearer", "token": CREDENTIAL}),
        json!({"type": "oauth2", "tokenUrl": endpoint.url("/token"), "clientId": "planted", "clientSecret": CREDENTIAL}),
    ] {
        let hook = world.hook(Receiver::ok(), json!({"auth": auth})).await;
        world.client().act(&hook.path("/test")).await.succeeded();
        let bent = json!({"auth": {"type": "basic", "username": CREDENTIAL, "password": 7, "token": CREDENTIAL}});
        world.client().patch(&hook.path(""), &bent).await.problem(422);
        hooks.push(hook);
    }
    hooks
}

async fn assert_no_answer_shows(planted: &Planted, world: &World, ids: &Ids) {
    let mut asked = 0;
    for operation in operations(&world.anyone()).await.iter().filter(|operation| operation.method == Method::GET) {
        let callers: &[Client] = &[world.client().clone(), world.admin(), world.admin().for_tenant(&world.tenant.id)];
        for caller in callers {
            let answer = send(operation.call(caller, &operation.path_with(ids))).await;
            planted.assert_absent(&operation.path, format!("{answer:?}").as_bytes());
            asked += usize::from(answer.status == 200);
        }
    }
    assert!(asked > 30, "{asked} answers");
}

fn stored(world: &World) -> Vec<(String, Vec<u8>)> {
    match On::this_test() {
        On::Sqlite => {
            let files = std::fs::read_dir(world.dir()).unwrap().map(|entry| entry.unwrap().path());
            let is_database =
                |path: &Path| path.is_file() && path.extension().is_none_or(|extension| extension != "key");
            files
                .filter(|path| is_database(path))
                .map(|path| (path.display().to_string(), std::fs::read(path).unwrap()))
                .collect()
        }
        On::Postgres => vec![("the dump".to_owned(), world.database().dump())],
    }
}

on_both!(no_secret_is_found_where_it_does_not_belong);
async fn no_secret_is_found_where_it_does_not_belong() {
    let mut world = talkative().await;
    let hook = world.hook(Receiver::ok(), json!({"headers": {"Authorization": HEADER}})).await;
    hook.rotate_secret(world.client(), 3_600).await;
    let repeated = json!({"name": "x", "url": hook.receiver.url("/again"), "events": ["never.sent"]});
    let again = world.client().json(Method::POST, "/webhooks", &repeated).header("Idempotency-Key", "once");
    let again = send(again).await.expect(201);
    let made = new_key(&world.admin(), &world.tenant.id, &["read"]).await;
    let keys = [world.tenant.key.clone(), text(&made, "key")];
    let mut planted = Planted(Vec::new());
    for secret in hook.secrets().into_iter().chain([text(&again, "secret")]) {
        planted.text("a signing secret", &secret);
        planted.base64("a signing secret without its prefix", secret.trim_start_matches("whsec_"));
    }
    for key in &keys {
        planted.text("an API key", key);
        planted.text("the secret of an API key", &key["phk_".len() + 27..]);
    }
    planted.text("the admin key", ADMIN_KEY);
    planted.text("a header's value", HEADER);
    planted.text("a credential", CREDENTIAL);
    planted.text("the database's password", PASSWORD);
    planted.base64("the master key", &master_key_of(&world));

    let event = world.client().post("/events", &json!({"event": "message.sent", "data": {}})).await;
    event.expect(202);
    let delivery = hook.saw(1).await[0].header("x-webhook-delivery").to_owned();
    world.client().act(&hook.path("/test")).await.succeeded();
    let _guarded = webhooks_with_credentials(&world).await;
    fail(&world, &hook, &keys).await;
    let (admin_key, session) = (new_admin_key(&world).await, new_session(world.client()).await);
    let ids = Ids {
        tenant: world.tenant.id.clone(),
        key: text(&made, "id"),
        admin_key,
        session,
        webhook: hook.id.clone(),
        secret: text(&hook.body["secrets"][0], "id"),
        event: id_of(&event),
        delivery,
        event_type: "message.sent".to_owned(),
        operation: operation_done(world.client()).await,
    };
    assert_no_answer_shows(&planted, &world, &ids).await;
    for (place, bytes) in stored(&world) {
        planted.assert_absent(&place, &bytes);
    }
    world.stop().await;
    for (place, bytes) in stored(&world) {
        planted.assert_absent(&place, &bytes);
    }
    let log = world.server().output().all();
    assert!(log.contains("\"TRACE\"") && log.len() > 10_000, "it says little: {}", log.len());
    planted.assert_absent("the log", log.as_bytes());
    if On::this_test() == On::Postgres {
        assert_nothing_shows_of_what_cannot_be_read(&planted, &mut world, &hook).await;
    }
}

fn master_key_of(world: &World) -> String {
    match On::this_test() {
        On::Sqlite => std::fs::read_to_string(world.dir().join("p.db.key")).unwrap().trim().to_owned(),
        On::Postgres => MASTER_KEY.to_owned(),
    }
}

/// Headers sealed under a key that the server lacks: reading them fails, and the log says so without the secret.
async fn assert_nothing_shows_of_what_cannot_be_read(planted: &Planted, world: &mut World, hook: &Hook) {
    world.database().ask("UPDATE webhook SET headers = set_byte(headers, 1, get_byte(headers, 1) # 255)");
    world.restart().await;
    let answer = world.client().call(Method::GET, &hook.path("")).send().await.unwrap();
    assert_eq!(answer.status(), 500);
    planted.assert_absent("a failure", &answer.bytes().await.unwrap());
    world.publish("message.sent").await;
    let output = world.server().output().clone();
    let says_why = async || output.all().contains("sealed under another master key").then_some(());
    fact::until("the log gives the reason", says_why).await;
    world.stop().await;
    planted.assert_absent("the log of failures", world.server().output().all().as_bytes());
}

#[tokio::test]
async fn a_panic_shows_no_secret() {
    let mut world = World::with(&[("POSTHASTE_LOG", "trace"), ("POSTHASTE_FAULT", "panic:endpoint.handle:1")]).await;
    let hook = world.hook(Receiver::ok(), json!({"headers": {"Authorization": HEADER}})).await;
    world.publish("message.sent").await;
    hook.saw(1).await;
    world.stop().await;
    let mut planted = Planted(Vec::new());
    planted.text("a header's value", HEADER);
    planted.text("a signing secret", &hook.secrets()[0]);
    planted.text("an API key", &world.tenant.key);
    let log = world.server().output().all();
    assert!(log.contains("panicked at"), "the endpoint did not panic");
    planted.assert_absent("the log", log.as_bytes());
}
