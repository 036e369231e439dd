//! The receivers in `examples`, run as a newcomer would: real processes that accept requests of the engine and refuse
//! requests that it did not sign.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::hook;
use crate::support::server::{Env, Server};
use crate::support::verify;
use crate::support::world::{Event, World, each_attempt, text};

const EXAMPLES: [&str; 3] = ["receiver.rs", "receiver.mjs", "receiver.py"];

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const FOREIGN: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// More than the five minutes of Standard Webhooks, with room for a slow machine.
const STALE_S: i64 = 330;

/// A body longer than any example reads.
const TOO_LONG: usize = 3 << 20;

/// Any free port.
const ANY: &str = "127.0.0.1:0";

/// A running receiver and an HTTP client for it.
struct Example {
    name: &'static str,
    /// Declared before the directory, so that the process ends before its files are removed.
    server: Server,
    client: Client,
    _dir: TempDir,
}

impl Example {
    /// Starts the receiver with its address as the argument.
    async fn start(name: &'static str, secret: &str) -> Self {
        Self::start_with(name, &[ANY], Env::from([("WEBHOOK_SECRET", secret.to_owned())])).await
    }

    async fn start_with(name: &'static str, args: &[&str], env: Env) -> Self {
        let dir = TempDir::with_prefix("posthaste-example-").expect("a directory");
        let server = Server::start_other(program(name), dir.path(), args, &env).await;
        let client = Client::open(server.url());
        Self { name, server, client, _dir: dir }
    }

    /// The lines that the example has written about events, in order.
    fn handled(&self) -> Vec<String> {
        let out = self.server.output().stdout();
        out.lines().filter(|line| line.starts_with("handled ")).map(str::to_owned).collect()
    }

    /// Sends a request; returns the status and the text of the answer.
    async fn receives(&self, request: &Request) -> (u16, String) {
        self.try_receives(request).await.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    async fn try_receives(&self, request: &Request) -> Result<(u16, String), reqwest::Error> {
        let call = self
            .client
            .root(Method::POST, "/hooks")
            .header("webhook-id", &request.id)
            .header("webhook-timestamp", request.timestamp)
            .header("webhook-signature", &request.signature);
        let answer = call.body(request.body.clone()).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }
}

/// The command that starts an example.
fn program(name: &str) -> Command {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let interpreter = match Path::new(name).extension().and_then(|extension| extension.to_str()) {
        Some("mjs") => "node",
        Some("py") => "python3",
        _ => return built(),
    };
    let mut command = Command::new(interpreter);
    command.arg(source);
    command
}

/// The Rust example, which cargo builds beside the program whenever it builds all tests.
fn built() -> Command {
    let path = Path::new(env!("CARGO_BIN_EXE_posthaste")).with_file_name("examples").join("receiver");
    assert!(path.exists(), "run `cargo build --example receiver` first: there is no {}", path.display());
    Command::new(path)
}

/// A request as the engine would send it, or a forgery of one.
#[derive(Clone)]
struct Request {
    id: String,
    timestamp: i64,
    signature: String,
    body: String,
}

impl Request {
    fn signed(secret: &str, id: &str, timestamp: i64, data: &str) -> Self {
        let body = json!({"id": id, "event": "message.sent", "data": {"text": data}}).to_string();
        Self::of_body(secret, id, timestamp, body)
    }

    fn of_body(secret: &str, id: &str, timestamp: i64, body: String) -> Self {
        let key = BASE64_STANDARD.decode(secret.trim_start_matches("whsec_")).expect("base64");
        let digest = verify::hmac(&key, format!("{id}.{timestamp}.{body}").as_bytes());
        let signature = format!("v1,{}", BASE64_STANDARD.encode(digest));
        Self { id: id.to_owned(), timestamp, signature, body }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    i64::try_from(since.as_secs()).expect("a time before the end of i64")
}

/// Creates a webhook whose receiver is the example; returns the webhook's path and the example.
async fn subscribe(world: &World, name: &'static str) -> (String, Example) {
    // The example needs the secret to start, and the webhook then needs the example's port.
    let wish = hook::plain("http://127.0.0.1:9000/", json!({}));
    let created = world.client().post("/webhooks", &wish).await.expect(201);
    let path = format!("/webhooks/{}", text(&created, "id"));
    let example = Example::start(name, &text(&created, "secret")).await;
    let url = format!("{}/hooks", example.server.url());
    world.client().patch(&path, &json!({"url": url})).await.expect(200);
    (path, example)
}

/// Asserts that every example accepted the event at the first attempt and handled it.
async fn assert_accepted(world: &World, examples: &[(String, Example)], event: &Event) {
    assert_eq!(event.matched, examples.len() as u64);
    for delivery in world.all_settled(event).await {
        let delivery = world.delivery(&text(&delivery, "id")).await;
        assert_eq!(delivery["status"], "success", "{delivery}");
        assert_eq!(each_attempt(&delivery, "statusCode"), [204], "{delivery}");
    }
    for (_, example) in examples {
        let line = format!("handled {} message.sent", event.id);
        assert!(example.handled().contains(&line), "{}: {}", example.name, example.server.output().all());
    }
}

#[tokio::test]
async fn every_example_accepts_an_event_at_the_first_attempt_during_a_rotation_too() {
    let world = World::start().await;
    let mut examples = Vec::new();
    for name in EXAMPLES {
        examples.push(subscribe(&world, name).await);
    }

    let event = world.publish("message.sent").await;
    assert_accepted(&world, &examples, &event).await;

    for (path, _) in &examples {
        let answer = world.client().post(&format!("{path}/secret/rotate"), &json!({"graceSeconds": 3_600})).await;
        answer.succeeded();
    }
    let event = world.publish("message.sent").await;
    assert_accepted(&world, &examples, &event).await;
}

#[tokio::test]
async fn every_example_refuses_what_its_secret_did_not_sign_just_now() {
    for name in EXAMPLES {
        let example = Example::start(name, SECRET).await;
        let good = Request::signed(SECRET, "evt_1", now(), "hello");
        let unknown_version = good.signature.replace("v1,", "v2,");
        let forgeries = [
            ("another body", Request { body: good.body.replace("hello", "hullo"), ..good.clone() }),
            ("another id", Request { id: "evt_2".to_owned(), ..good.clone() }),
            ("another timestamp", Request { timestamp: good.timestamp - 1, ..good.clone() }),
            ("another secret", Request::signed(FOREIGN, "evt_1", now(), "hello")),
            ("an unknown version", Request { signature: unknown_version, ..good.clone() }),
            ("no signature", Request { signature: String::new(), ..good.clone() }),
            ("a timestamp of the past", Request::signed(SECRET, "evt_1", now() - STALE_S, "hello")),
            ("a timestamp of the future", Request::signed(SECRET, "evt_1", now() + STALE_S, "hello")),
        ];
        for (what, forgery) in forgeries {
            let (status, reason) = example.receives(&forgery).await;
            assert_eq!(status, 400, "{name}: {what}: {reason}");
            assert_eq!(reason.lines().count(), 1, "{name}: {what}: {reason:?}");
        }
        assert!(example.handled().is_empty(), "{name}: {:?}", example.handled());

        assert_eq!(example.receives(&good).await, (204, String::new()), "{name}");
        assert_eq!(example.handled(), ["handled evt_1 message.sent"], "{name}");
    }
}

#[tokio::test]
async fn every_example_handles_an_id_once() {
    for name in EXAMPLES {
        let example = Example::start(name, SECRET).await;
        let first = Request::signed(SECRET, "evt_1", now() - 10, "hello");
        let retry = Request::signed(SECRET, "evt_1", now(), "hello");
        let other = Request::signed(SECRET, "evt_2", now(), "hello");

        for request in [&first, &first, &retry, &other] {
            assert_eq!(example.receives(request).await.0, 204, "{name}");
        }

        assert_eq!(example.handled(), ["handled evt_1 message.sent", "handled evt_2 message.sent"], "{name}");
    }
}

#[tokio::test]
async fn no_example_accepts_a_body_that_it_cannot_read() {
    for name in EXAMPLES {
        let example = Example::start(name, SECRET).await;
        let unreadable = Request::of_body(SECRET, "evt_1", now(), "no JSON".to_owned());
        let readable = Request::signed(SECRET, "evt_1", now(), "hello");

        let (status, reason) = example.receives(&unreadable).await;
        assert!([400, 500].contains(&status) && !reason.is_empty(), "{name}: {status} {reason}");
        assert_eq!(example.receives(&readable).await.0, 204, "{name}");
        assert_eq!(example.handled(), ["handled evt_1 message.sent"], "{name}");
    }
}

#[tokio::test]
async fn every_example_bounds_the_body() {
    for name in EXAMPLES {
        let mut example = Example::start(name, SECRET).await;
        let long = Request::signed(SECRET, "evt_1", now(), &"x".repeat(TOO_LONG));
        let short = Request::signed(SECRET, "evt_2", now(), "hello");

        // A receiver that stops reading may close the connection before the sender has read the status.
        let answer = example.try_receives(&long).await;

        assert!(matches!(answer, Err(_) | Ok((413, _))), "{name}: {answer:?}");
        // The old client may still take that connection for an open one.
        example.client = Client::open(example.server.url());
        assert_eq!(example.receives(&short).await.0, 204, "{name}");
        assert_eq!(example.handled(), ["handled evt_2 message.sent"], "{name}");
    }
}

#[tokio::test]
async fn every_example_ends_when_it_is_asked_to() {
    for name in EXAMPLES {
        let env = Env::from([("WEBHOOK_SECRET", SECRET.to_owned()), ("LISTEN", ANY.to_owned())]);
        let mut example = Example::start_with(name, &[], env).await;
        // The client may use this connection again.
        example.receives(&Request::signed(SECRET, "evt_1", now(), "hello")).await;

        example.server.terminate();

        let status = example.server.ended().await;
        assert_eq!(status.code(), Some(0), "{name}: {}", example.server.output().all());
    }
}
