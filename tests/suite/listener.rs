//! Hostile or faulty callers of the API: callers that send nothing, little or too much, that read nothing, or that are
//! too many (F21); and a process with few descriptors (F22). Other callers hardly notice.

use std::fs;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::support::client::{Client, send, try_send};
use crate::support::fact;
use crate::support::hook::Hook;
use crate::support::raw::Raw;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::world::{ADMIN_KEY, Event, World, new_key, sober_env, text};

const PAUSE: Duration = Duration::from_millis(400);

/// Longer than the ten seconds for a head, and shorter than the minute for an idle connection.
const HUNG_UP: Duration = Duration::from_secs(45);

/// A complete head of a request whose body is still missing: it keeps the connection busy.
pub(crate) fn head(key: &str, body_bytes: usize) -> String {
    format!(
        "POST /api/v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {body_bytes}\r\n\r\n"
    )
}

fn open_sockets(server: &Server) -> usize {
    let entries = fs::read_dir(format!("/proc/{}/fd", server.id())).expect("a process");
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// The deadlines themselves are tested on virtual time, beside the listener's code; here real connections meet one.
#[tokio::test]
async fn a_caller_that_sends_no_whole_head_is_hung_up_on() {
    let mut world = World::start().await;
    let url = world.server().url().to_owned();

    let silent = async { Raw::open(&url).await.heard().await };
    let slow_head = async { Raw::saying(&url, "GET /livez HTTP/1.1\r\nx-slow: ").await.dribble(PAUSE).await };
    let slow_second_head = async {
        let mut raw = Raw::saying(&url, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
        raw.say("GET /livez HTTP/1.1\r\nx-slow: ").await;
        raw.dribble(PAUSE).await
    };
    let ended = async { tokio::join!(silent, slow_head, slow_second_head) };
    let (silent, slow_head, slow_second_head) =
        tokio::time::timeout(HUNG_UP, ended).await.expect("every connection is closed");

    assert_eq!((silent.as_str(), slow_head.as_str()), ("", ""));
    assert!(slow_second_head.starts_with("HTTP/1.1 200 "), "{slow_second_head}");
    world.publish("message.sent").await;
}

#[tokio::test]
async fn a_body_of_100_megabytes_is_refused_without_being_kept() {
    let mut world = World::start().await;
    world.publish("message.sent").await;
    let before = world.server().memory();
    let (url, key) = (world.server().url().to_owned(), world.tenant.key.clone());

    let sent = join_all((0..8).map(async |_| {
        let mut raw = Raw::saying(&url, &head(&key, 100 << 20)).await;
        let piece = "x".repeat(1 << 20);
        for _ in 0..100 {
            if !raw.say(&piece).await {
                break;
            }
        }
        raw.heard().await
    }));
    let answers = sent.await;

    // A caller that keeps sending may lose the answer to a reset; a caller that stops and reads gets it.
    for answer in answers.iter().filter(|answer| !answer.is_empty()) {
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
    let declared = world.client().text(Method::POST, "/events", "x".repeat(2 << 20));
    assert_eq!(send(declared).await.problem(413).code(), "payload_too_large");
    world.server().has_grown_by_at_most(64 << 20, before);
    world.publish("message.sent").await;
}

#[tokio::test]
async fn many_members_or_values_in_a_body_are_counted_and_not_built() {
    let mut world = World::start().await;
    let members = |count: usize| (0..count).map(|n| format!("\"{n:x}\":0")).collect::<Vec<_>>().join(",");
    let before = world.server().memory();

    let in_data = format!("{{\"event\":\"message.sent\",\"data\":{{{}}}}}", members(100_000));
    world.client().post_text("/events", in_data).await.expect(202);
    let unknown = format!("{{\"event\":\"message.sent\",\"data\":{{}},{}}}", members(100_000));
    world.client().post_text("/events", unknown).await.problem(422);
    let a_million = format!("{{\"event\":\"message.sent\",\"data\":{{{}}}}}", members(1_000_000));
    // The answer comes before the body was read: a caller that keeps writing may find the connection closed first.
    let refused = fact::until("the caller receives the refusal", async || {
        try_send(world.client().text(Method::POST, "/events", a_million.clone())).await.ok()
    });
    refused.await.problem(413);

    world.server().has_grown_by_at_most(64 << 20, before);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let mut world = World::start().await;
    let url = world.server().url().to_owned();
    let fields = (0..200).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let long = format!("x-long: {}\r\n", "y".repeat(100_000));

    for odd in [fields, long] {
        let mut raw = Raw::saying(&url, "GET /livez HTTP/1.1\r\nhost: x\r\n").await;
        raw.say(&odd).await;
        raw.say("\r\n").await;
        let heard = raw.heard().await;
        assert!(heard.starts_with("HTTP/1.1 431 "), "{heard}");
    }
    let mut raw = Raw::saying(&url, "\u{16}\u{3}\u{1} nothing of HTTP\r\n\r\n").await;
    let heard = raw.heard().await;
    assert!(heard.starts_with("HTTP/1.1 400 "), "{heard}");
}

#[tokio::test]
async fn connections_that_do_nothing_keep_nobody_out() {
    let mut world = World::with(&[("POSTHASTE_MAX_CONNECTIONS", "64")]).await;
    let url = world.server().url().to_owned();
    let before = open_sockets(world.server());

    let client = world.client().clone();
    let publish = async || {
        let publish = client.json(Method::POST, "/events", &json!({"event": "a.b", "data": {}}));
        try_send(publish).await.ok().filter(|answer| answer.status == 202)
    };
    let mut crowd = Vec::new();
    for number in 0..400 {
        let said = if number % 2 == 0 { "" } else { "GET /livez HTTP/1.1\r\nx-slow: " };
        crowd.push(Raw::saying(&url, said).await);
        if number % 50 == 49 {
            fact::until("a publish finds a slot beside idle connections", publish).await;
        }
    }

    let more = fact::until("the evicted connections are closed", async || {
        let more = open_sockets(world.server()).saturating_sub(before);
        (more <= 64).then_some(more)
    });
    assert!(more.await > 32, "more connections were evicted than necessary");
    drop(crowd);
}

#[tokio::test]
async fn when_everybody_is_busy_the_next_one_is_asked_to_come_again() {
    let mut world = World::with(&[("POSTHASTE_MAX_CONNECTIONS", "16")]).await;
    let (url, key) = (world.server().url().to_owned(), world.tenant.key.clone());
    // The client's own idle connection is evicted for a busy one.
    let busy = fact::until("every connection is busy", async || {
        let begun = head(&key, 100);
        let busy = join_all((0..24).map(|_| Raw::saying(&url, &begun))).await;
        let refused = Raw::open(&url).await.heard().await;
        refused.starts_with("HTTP/1.1 503 ").then_some((busy, refused))
    });
    let (busy, refused) = busy.await;

    let refused = refused.to_lowercase();
    assert!(refused.contains("\r\nretry-after: 1\r\n") && refused.contains("application/problem+json"), "{refused}");
    assert!(refused.contains("\"code\":\"overloaded\""), "{refused}");
    drop(busy);
    let event = fact::until("a publish finds a slot again", async || {
        let publish = world.client().json(Method::POST, "/events", &json!({"event": "a.b", "data": {}}));
        try_send(publish).await.ok().filter(|answer| answer.status == 202)
    });
    event.await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_connections_that_ask_for_nothing() {
    let mut world = World::with(&[("POSTHASTE_STOP_GRACE_MS", "120000")]).await;
    let url = world.server().url().to_owned();
    let silent = Raw::open(&url).await;
    let half = Raw::saying(&url, "GET /livez HTTP/1.1\r\nx-slow: ").await;
    let kept = Raw::saying(&url, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    world.publish("message.sent").await;

    world.stop().await;

    drop((silent, half, kept));
}

/// F22: the process works with fewer descriptors, and no webhook is penalised for it.
#[tokio::test]
async fn a_process_with_256_descriptors_sheds_and_recovers() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut env = sober_env(dir.path());
    env.insert("POSTHASTE_LISTEN", "127.0.0.1:0".to_owned());
    let server = Server::start_with_files(dir.path(), &env, 256).await;
    let admin = Client::open(server.url()).with_key(ADMIN_KEY);
    let tenant = text(&admin.post("/tenants", &json!({"name": "Acme"})).await.expect(201), "id");
    let key = text(&new_key(&admin, &tenant, &["read", "publish", "manage", "operate"]).await, "key");
    let client = admin.with_key(&key);
    let mut hooks = Vec::new();
    for _ in 0..150 {
        let receiver = Receiver::answers_after(Duration::from_millis(300));
        hooks.push(Hook::create(&client, receiver, json!({"timeoutMs": 30_000})).await);
    }

    let publish = async || {
        let publish = client.json(Method::POST, "/events", &json!({"event": "message.sent", "data": {}}));
        let answer = try_send(publish).await.ok().filter(|answer| answer.status == 202)?;
        Some(Event::from(&answer.json()))
    };
    let begun = head(&key, 100);
    let (mut crowd, mut events) = (Vec::new(), Vec::new());
    fact::until("a connection is refused", async || {
        crowd.extend(join_all((0..50).map(|_| Raw::saying(server.url(), &begun))).await);
        events.extend(publish().await);
        Raw::open(server.url()).await.heard().await.starts_with("HTTP/1.1 503 ").then_some(())
    })
    .await;
    drop(crowd);

    events.push(fact::until("the server accepts events again", &publish).await);
    for event in &events {
        let deliveries = fact::until_within(Duration::from_secs(60), "everything is delivered", async || {
            let deliveries = client.walk(&format!("/events/{}/deliveries", event.id)).await;
            let is_done = deliveries.len() == hooks.len() && deliveries.iter().all(|of| of["status"] == "success");
            is_done.then_some(deliveries)
        });
        for delivery in deliveries.await {
            assert_eq!(delivery["attempts"], 1, "a lack of descriptors cost a webhook an attempt: {delivery}");
        }
    }
    for hook in &hooks {
        assert_eq!(client.get(&hook.path("")).await.expect(200)["isActive"], true);
    }
}

/// A proxy in front may reject framing that hyper accepts, so that each would see a different request.
#[tokio::test]
async fn a_head_that_can_be_read_in_two_ways_is_refused() {
    let mut world = World::start().await;
    let url = world.server().url().to_owned();
    let answer = async |text: &str| Raw::saying(&url, text).await.heard().await;

    let hosts = ["host: a.example\r\nhost: b.example\r\n", "host: x\r\nHost: x\r\n", "", "host: a b\r\n"];
    for host in hosts {
        let heard = answer(&format!("GET /livez HTTP/1.1\r\n{host}connection: close\r\n\r\n")).await;
        assert!(heard.starts_with("HTTP/1.1 400 ") && heard.contains("\"code\":\"invalid_host\""), "{host:?}: {heard}");
    }
    for text in [
        "\nGET /livez HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /livez HTTP/1.1\nhost: x\r\n\r\n",
        "GET /livez HTTP/1.1\r\nhost: x\nx-hidden: y\r\n\r\n",
        "GET /livez HTTP/1.1\r\nhost: x\r\n\n",
        "GET /livez HTTP/1.1\nhost: x\n\n",
    ] {
        for before in [0, 1] {
            let heard = answer(&format!("{}{text}", "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".repeat(before))).await;
            assert_eq!(heard.matches("HTTP/1.1 200 ").count(), before, "{text:?}: {heard}");
            assert!(heard.contains("HTTP/1.1 400 "), "{text:?}: {heard}");
        }
    }
    let old = answer("GET /livez HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 "), "HTTP/1.0 knows no Host: {old}");

    let body = r#"{"event":"message.sent","data":{"lines":"a"}}"#.replace(',', ",\n");
    let head = head(&world.tenant.key, body.len());
    let heard = answer(&format!("{head}{body}GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
    assert!(
        heard.starts_with("HTTP/1.1 202 ") && heard.contains("HTTP/1.1 200 "),
        "a body may contain any line ends: {heard}"
    );
}
