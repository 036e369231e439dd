//! Receivers that break the rules of HTTP or abuse them: every attempt ends in time, only a bounded part of an answer
//! is kept, and the process does not grow.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::world::{World, attempts, text};

const TIME_LIMIT_MS: u64 = 3_000;
const TOLERANCE_MS: u64 = 500;
const KEPT: usize = 64 * 1024;

/// Rounds after the first one, in which memory left behind by attempts would show.
const ROUNDS: usize = 4;

/// Far less than one unbounded answer would take: receivers write as fast as the machine allows.
const GROWTH: u64 = 48 << 20;

const NO_PAUSE: Duration = Duration::ZERO;
const OK: &str = "HTTP/1.1 200 OK\r\n";

/// How an attempt must end.
#[derive(Clone, Copy)]
enum End {
    AtTheDeadline,
    BeforeIt(&'static str),
}

use End::{AtTheDeadline, BeforeIt};

fn in_bad_faith() -> Vec<(&'static str, Receiver, End)> {
    let many_headers: String = (0..10_000).map(|place| format!("x-{place}: a\r\n")).collect();
    let provisional = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(50);
    let second = Duration::from_secs(1);
    vec![
        ("silence", Receiver::hangs(), AtTheDeadline),
        ("a head, one byte a second", Receiver::pours("HTTP/1.1 200 OK\r\nx-a: ", "a", second), AtTheDeadline),
        ("a body, one byte a second", Receiver::pours("HTTP/1.1 200 OK\r\n\r\n", "a", second), AtTheDeadline),
        ("provisional answers", Receiver::pours("", provisional, Duration::from_millis(1)), AtTheDeadline),
        (
            "an endless body",
            Receiver::pours("HTTP/1.1 200 OK\r\n\r\n", vec![b'a'; 65_536], NO_PAUSE),
            BeforeIt("success"),
        ),
        ("an endless chunk", Receiver::pours(CHUNKED, vec![b'a'; 65_536], NO_PAUSE), BeforeIt("success")),
        ("an endless head", Receiver::pours(OK, "x-a: aaaaaaaa\r\n".repeat(100), NO_PAUSE), BeforeIt("protocol_error")),
        ("an endless line", Receiver::pours(OK, vec![b'a'; 65_536], NO_PAUSE), BeforeIt("protocol_error")),
        (
            "a header of 1 MB",
            Receiver::blurts(format!("{OK}x-a: {}\r\n\r\n", "a".repeat(1 << 20))),
            BeforeIt("protocol_error"),
        ),
        ("10,000 headers", Receiver::blurts(format!("{OK}{many_headers}\r\n")), BeforeIt("protocol_error")),
        ("garbage", Receiver::blurts((0..=255).cycle().take(100_000).collect::<Vec<u8>>()), BeforeIt("protocol_error")),
        ("HTTP/0.9", Receiver::blurts("<html>hello</html>\n"), BeforeIt("protocol_error")),
        ("nothing", Receiver::closes(), BeforeIt("protocol_error")),
        ("a gzip bomb", Receiver::blurts(compressed("gzip", gzip_bomb())), BeforeIt("success")),
        ("a zstd bomb", Receiver::blurts(compressed("zstd", zstd_bomb())), BeforeIt("success")),
        ("what claims to be Brotli", Receiver::blurts(compressed("br", vec![0x1b; 50_000])), BeforeIt("success")),
    ]
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFF\r\n";

#[tokio::test]
async fn whatever_a_receiver_says_the_attempt_ends_in_time_and_keeps_little() {
    let mut world = World::start().await;
    let mut hooks = Vec::new();
    for (what, receiver, end) in in_bad_faith() {
        let settings = json!({"timeoutMs": TIME_LIMIT_MS, "retryPolicy": {"maxRetries": 0}, "events": ["a.b"]});
        hooks.push((what, world.hook(receiver, settings).await, end));
    }
    check(&world, &hooks).await;
    let before = world.server().memory();

    for _ in 0..ROUNDS {
        check(&world, &hooks).await;
    }

    let (peak, after) = (world.server().peak_memory(), world.server().memory());
    assert!(peak < before + GROWTH, "{before} bytes, then {peak} at the peak and {after} at the end");
}

/// Publishes one event to all receivers and checks each attempt.
async fn check(world: &World, hooks: &[(&str, Hook, End)]) {
    let event = world.publish("a.b").await;
    let deliveries = world.all_settled(&event).await;
    for (what, hook, end) in hooks {
        let delivery = deliveries.iter().find(|delivery| delivery["webhookId"] == hook.id).expect("a delivery");
        let delivery = world.delivery(&text(delivery, "id")).await;
        let [attempt] = attempts(&delivery) else { panic!("{what}: not one attempt: {delivery}") };
        let took = attempt["durationMs"].as_u64().expect("a duration");
        let (outcome, earliest) = match end {
            AtTheDeadline => ("timed_out", TIME_LIMIT_MS),
            BeforeIt(outcome) => (*outcome, 0),
        };
        assert_eq!(attempt["outcome"], outcome, "{what}: {:?}", attempt["error"]);
        assert!((earliest..=TIME_LIMIT_MS + TOLERANCE_MS).contains(&took), "{what} took {took} ms");
        let kept = attempt["responseBody"].as_str().map_or(0, str::len);
        // Bytes that are no text grow when shown as text: each is replaced by three bytes.
        assert!(kept <= 3 * KEPT, "{what}: {kept} bytes kept");
        assert!(headers_of(attempt) <= 16 * 1024, "{what}: {attempt}");
    }
}

fn headers_of(attempt: &Value) -> usize {
    let headers = attempt["responseHeaders"].as_object();
    headers.into_iter().flatten().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum()
}

fn compressed(how: &str, body: Vec<u8>) -> Vec<u8> {
    let head = format!("{OK}content-encoding: {how}\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.into_bytes(), body].concat()
}

/// Gigabytes of zeros (RFC 8878, 3.1.1): each block of four bytes stands for 128 KiB.
fn zstd_bomb() -> Vec<u8> {
    let head = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    // Not the last block; an RLE block of 1 << 17 bytes.
    let block = [0x02, 0x00, 0x10, 0x00];
    [head.to_vec(), block.repeat(16_000)].concat()
}

/// Some 10 MB of zeros (RFC 1952, RFC 1951): a zero, and then copies of it, 258 at a time in 13 bits.
fn gzip_bomb() -> Vec<u8> {
    let mut bits = vec![true, true, false, false, false, true, true, false, false, false, false];
    for _ in 0..40_000 {
        bits.extend([true, true, false, false, false, true, false, true]);
        bits.extend([false; 5]);
    }
    let packed = bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |sum, bit| sum << 1 | u8::from(*bit)));
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255].into_iter().chain(packed).collect()
}
