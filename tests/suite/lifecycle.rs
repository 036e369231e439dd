//! Start and stop: what survives a restart, what a graceful stop waits for, and which settings a server refuses.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::client::{Client, try_send};
use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::load::Load;
use crate::support::receiver::{Down, Receiver, Reply};
use crate::support::server::{self, Env, Server};
use crate::support::world::{World, each_attempt, sober_env, text};

/// Requests that must have arrived before the server under load is stopped.
const UNDER_WAY: usize = 40;

on_both!(what_could_not_be_delivered_before_a_restart_is_delivered_after_it);
async fn what_could_not_be_delivered_before_a_restart_is_delivered_after_it() {
    let mut world = World::start().await;
    let down = Down::new();
    let wish = json!({"name": "down", "url": down.url("/"), "events": ["*"]});
    let webhook = world.client().post("/webhooks", &wish).await.expect(201);
    let mut published = BTreeSet::new();
    for _ in 0..5 {
        let event = world.publish("message.sent").await;
        let failed = |delivery: &_| each_attempt(delivery, "outcome").contains(&&json!("connect_failed"));
        world.delivery_when(&event, "the first attempt fails", failed).await;
        published.insert(event.id);
    }

    world.stop().await;
    let receiver = down.come_up(|_| Reply::Status(200));
    world.restart().await;

    let requests = receiver.saw(published.len()).await;
    let seen: BTreeSet<String> = requests.iter().map(|request| request.header("webhook-id").to_owned()).collect();
    assert_eq!(seen, published);
    assert_eq!(requests.len(), published.len(), "no event came twice");
    assert_eq!(world.client().get(&format!("/webhooks/{}", text(&webhook, "id"))).await.expect(200)["isActive"], true);
}

on_both!(a_graceful_stop_lets_a_request_in_flight_finish);
async fn a_graceful_stop_lets_a_request_in_flight_finish() {
    let mut world = World::start().await;
    let hook = world.hook(Receiver::answers_after(Duration::from_secs(1)), json!({})).await;
    let event = world.publish("message.sent").await;
    hook.receiver.was_asked(1).await;

    world.stop().await;
    world.restart().await;

    let delivery = world.settled(&event).await;
    assert_eq!(each_attempt(&delivery, "outcome"), ["success"]);
    assert_eq!(hook.requests().len(), 1);
}

/// The status of `/readyz`, asked on a new connection as a load balancer does.
async fn readiness(world: &World) -> Option<u16> {
    let anyone = world.anyone();
    try_send(anyone.root(Method::GET, "/readyz")).await.ok().map(|answer| answer.status)
}

#[tokio::test]
async fn a_process_that_stops_says_so_before_it_closes_its_port() {
    let mut world = World::start().await;
    let permits = Arc::new(Semaphore::new(0));
    let hook = world.hook(Receiver::accepts_with(&permits), json!({"timeoutMs": 30_000})).await;
    world.publish("message.sent").await;
    hook.receiver.was_asked(1).await;
    assert_eq!(readiness(&world).await, Some(200));

    world.server().terminate();

    fact::until("the server reports that it is not ready", async || {
        (readiness(&world).await == Some(503)).then_some(())
    })
    .await;
    permits.add_permits(1);
    assert_eq!(world.ended().await.code(), Some(0));
    assert_eq!(hook.requests().len(), 1);
}

#[tokio::test]
async fn with_a_delay_a_process_that_is_asked_to_stop_goes_on_for_a_while() {
    let mut world = World::with(&[("POSTHASTE_STOP_DELAY_MS", "3000")]).await;
    let hook = world.hook(Receiver::ok(), json!({})).await;

    world.server().terminate();

    fact::until("the server reports that it is not ready", async || {
        (readiness(&world).await == Some(503)).then_some(())
    })
    .await;
    let event = world.publish("message.sent").await;
    world.settled(&event).await;
    assert_eq!(hook.requests().len(), 1);
    assert_eq!(world.ended().await.code(), Some(0));
}

on_both!(a_second_signal_ends_it_at_once_and_what_is_owed_stays_owed);
async fn a_second_signal_ends_it_at_once_and_what_is_owed_stays_owed() {
    let mut world = World::with(&[("POSTHASTE_STOP_GRACE_MS", "120000")]).await;
    let first_hangs = |request| if request == 0 { Reply::Hang } else { Reply::Status(200) };
    let hook = world.hook(Receiver::says(first_hangs), json!({"timeoutMs": 30_000})).await;
    let event = world.publish("message.sent").await;
    hook.receiver.was_asked(1).await;

    world.server().terminate();
    fact::until("the server is stopping", async || (readiness(&world).await == Some(503)).then_some(())).await;
    world.server().terminate();
    // Long before the sender would give up the request in flight.
    fact::until_within(Duration::from_secs(15), "the process ends", async || (!world.server().lives()).then_some(()))
        .await;
    assert_eq!(world.ended().await.code(), Some(130));

    world.restart().await;
    let delivery = world.settled(&event).await;
    assert_eq!(delivery["status"], "success");
}

on_both!(a_graceful_stop_under_load_sends_nothing_twice_and_loses_nothing);
/// F5: a graceful stop leaves nothing half done.
async fn a_graceful_stop_under_load_sends_nothing_twice_and_loses_nothing() {
    let mut world = World::start().await;
    let good = world.hook(Receiver::ok(), json!({})).await;
    let slow = world.hook(Receiver::answers_after(Duration::from_millis(20)), json!({"events": ["load.*"]})).await;
    let load = Arc::new(Load::default());
    let client = world.client().clone();

    let stop = async {
        slow.receiver.was_asked(UNDER_WAY).await;
        world.stop().await;
    };
    tokio::join!(load.publish(&client, usize::MAX), stop);
    world.restart().await;

    load.settle_doubts(world.client()).await;
    let promises = load.promises();
    for event in &promises {
        let deliveries = world.all_settled(event).await;
        assert!(deliveries.iter().all(|delivery| delivery["status"] == "success"), "{deliveries:?}");
    }
    for hook in [&good, &slow] {
        let accepted = hook.accepted_events();
        assert_eq!(accepted.len(), accepted.iter().collect::<BTreeSet<_>>().len(), "an event came twice");
        assert_eq!(accepted.len(), hook.requests().len());
    }
    assert_eq!(good.accepted_events().len(), promises.len());
    assert!(slow.accepted_events().len() >= UNDER_WAY);
}

#[tokio::test]
async fn a_server_says_where_it_listens_when_it_may_choose() {
    let world = World::with(&[("POSTHASTE_LISTEN", "127.0.0.1:0")]).await;

    assert_eq!(world.publish("message.sent").await.matched, 0);
}

#[tokio::test]
async fn two_servers_cannot_share_a_database() {
    let mut world = World::start().await;
    let mut env = sober_env(world.dir());
    env.insert("POSTHASTE_LISTEN", "127.0.0.1:0".to_owned());

    let (status, output) = server::run(world.dir(), &["serve"], &env).await;

    assert!(!status.success(), "the second server started");
    let said = output.all().to_lowercase();
    let clear = ["another process", "another posthaste", "in use", "already", "locked"];
    assert!(clear.iter().any(|words| said.contains(words)), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(world.server().lives());
    world.publish("message.sent").await;
}

#[tokio::test]
async fn a_setting_that_is_unknown_or_wrong_is_named() {
    let cases = [
        ("POSTHASTE_NONSENSE", "1"),
        ("POSTHASTE_LISTEN", "banana"),
        ("POSTHASTE_DATABASE_URL", "mysql://x/y"),
        ("POSTHASTE_ADMIN_KEY", "too short"),
        ("POSTHASTE_ALLOW_HTTP", "perhaps"),
        ("POSTHASTE_EGRESS_ALLOW", "127.0.0.0/99"),
        ("POSTHASTE_DNS_SERVERS", "127.0.0.1:53,dns.example.com:53"),
    ];

    for (key, value) in cases {
        let said = refused_with(&[], &[(key, value)]).await.to_lowercase().replace('-', "_");
        let bare = key.trim_start_matches("POSTHASTE_").to_lowercase();
        assert!(said.contains(&bare), "{key} is not named: {said}");
    }
}

#[tokio::test]
async fn an_unknown_key_in_the_configuration_file_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("posthaste.toml");
    fs::write(&file, "nonsense = 1\n").expect("a file");

    let said = refused_with(&["--config", &file.display().to_string()], &[]).await;

    assert!(said.contains("nonsense"), "{said}");
}

#[tokio::test]
async fn an_unknown_flag_is_named() {
    assert!(refused_with(&["--nonsense"], &[]).await.contains("--nonsense"));
}

#[tokio::test]
async fn a_master_key_that_does_not_fit_the_database_is_named() {
    let (mut world, _hook) = World::with_webhook(Receiver::ok()).await;
    world.stop().await;
    let mut env = sober_env(world.dir());
    env.insert("POSTHASTE_MASTER_KEY", STANDARD.encode([7; 32]));

    assert!(refused_in(world.dir(), &[], &env).await.contains("POSTHASTE_MASTER_KEY"));

    let key = world.dir().join("p.db.key");
    fs::write(&key, STANDARD.encode([7; 32])).expect("a key");
    env.remove("POSTHASTE_MASTER_KEY");
    assert!(refused_in(world.dir(), &[], &env).await.contains(&key.display().to_string()));
}

async fn refused_with(args: &[&str], settings: &[(&'static str, &str)]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let mut env = sober_env(dir.path());
    env.extend(settings.iter().map(|(key, value)| (*key, (*value).to_owned())));
    refused_in(dir.path(), args, &env).await
}

/// The error of `posthaste serve` when it refuses to start, which it must do with exit code 2.
async fn refused_in(dir: &Path, args: &[&str], env: &Env) -> String {
    let (status, output) = server::run(dir, &[&["serve"], args].concat(), env).await;
    let said = output.all();
    assert_eq!(status.code(), Some(2), "{env:?} {args:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[tokio::test]
async fn the_check_notices_a_broken_database() {
    let mut world = World::start().await;
    world.stop().await;
    world.check_integrity().await;
    let file = world.dir().join("p.db");
    let mut bytes = fs::read(&file).expect("a database");
    let half = bytes.len() / 2;
    bytes[half..].fill(0xa5);
    fs::write(&file, bytes).expect("a broken database");

    let url = format!("sqlite://{}", file.display());
    let (status, output) = server::run(world.dir(), &["check", "--database-url", &url], &Env::new()).await;

    assert_eq!(status.code(), Some(1), "{}", output.all());
    assert!(!output.all().contains("integrity: ok"), "{}", output.all());
}

on_both!(a_generated_admin_key_is_printed_on_the_first_start_only);
/// Without an admin key in the environment, the first start creates one and prints it once.
async fn a_generated_admin_key_is_printed_on_the_first_start_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut env = sober_env(dir.path());
    env.remove("POSTHASTE_ADMIN_KEY");
    let mut first = Server::start(dir.path(), &[], &env).await;
    let key = admin_key_in(&first).await.expect("a key that works is printed");
    first.terminate();
    assert_eq!(first.ended().await.code(), Some(0));

    let second = Server::start(dir.path(), &[], &env).await;

    assert_eq!(admin_key_in(&second).await, None);
    Client::open(second.url()).with_key(&key).get("/tenants").await.expect(200);
}

/// The word of the server's output that works as an admin key.
async fn admin_key_in(server: &Server) -> Option<String> {
    let output = server.output().all();
    let words = output.split(|c: char| c.is_whitespace() || c == '"' || c == '\'');
    for word in words.filter(|word| word.len() >= 32 && word.is_ascii()) {
        if Client::open(server.url()).with_key(word).get("/tenants").await.status == 200 {
            return Some(word.to_owned());
        }
    }
    None
}
