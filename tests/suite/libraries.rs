//! Signatures verified by independent code: the published `standardwebhooks` libraries of PyPI and npm, and plain HMAC
//! in Python and JavaScript as in `docs/RECEIVERS.md`. The scripts are in `tests/verify`.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use crate::support::hook::Hook;
use crate::support::receiver::{Receiver, Request};
use crate::support::world::World;

#[tokio::test]
async fn independent_libraries_verify_what_is_sent() {
    let tools = install();
    let world = World::start().await;
    let plain = world.hook(Receiver::ok(), json!({})).await;
    let rotated = world.hook(Receiver::ok(), json!({})).await;
    rotated.rotate_secret(world.client(), 3_600).await;
    for data in [json!({}), json!({"emoji": "🦉", "text": "é\n\"\\"}), json!({"big": "x".repeat(100_000)})] {
        world.publish_with(&json!({"event": "message.sent", "data": data})).await;
    }
    plain.saw(3).await;
    rotated.saw(3).await;

    let recorded = [record(&plain, 1), record(&rotated, 2)].concat();
    let file = world.dir().join("recorded.json");
    std::fs::write(&file, Value::from(recorded).to_string()).expect("a file");

    // Three requests with one secret and three with two: nine pairs of a request and a secret that signed it.
    for (program, script) in [("python3", "check_recorded.py"), ("node", "check_recorded.mjs")] {
        // Keeps Python from writing bytecode next to the scripts, in the checkout.
        let mut command = Command::new(program);
        let said = run(command.arg(scripts().join(script)).args([&tools, &file]).env("PYTHONDONTWRITEBYTECODE", "1"));
        assert!(said.contains("verified 9, refused 36 forgeries"), "{program}: {said}");
    }
}

/// The requests of a webhook, each with the secrets that must verify it, newest first.
fn record(hook: &Hook, signing: usize) -> Vec<Value> {
    let secrets = hook.secrets();
    assert_eq!(secrets.len(), signing);
    let headers = |request: &Request| {
        let lower = request.headers.iter().map(|(name, value)| (name.to_lowercase(), json!(value)));
        lower.collect::<Map<_, _>>()
    };
    let line = |request: &Request| {
        let body = BASE64_STANDARD.encode(&request.body);
        json!({"secrets": secrets, "headers": headers(request), "body": body})
    };
    hook.requests().iter().map(line).collect()
}

/// Installs the libraries unless they are installed already; returns their directory.
fn install() -> PathBuf {
    let said = run(Command::new("sh").arg(scripts().join("install.sh")));
    PathBuf::from(said.lines().last().expect("the directory of the libraries"))
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out
}
