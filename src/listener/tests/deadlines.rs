//! Callers that send nothing or little, or read nothing, lose their connections in time: on virtual time, over pipes in
//! memory.

use axum::routing::{get, post};
use test_support::frames::{DATA, Frames, RST_STREAM};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::super::*;

/// Capacity of a pipe in each direction.
const PIPE: usize = 4096;

/// Longer than any pipe and any window, so that it cannot be sent without a reader.
const LONG: usize = 300_000;

/// Pause between bytes.
const PAUSE: Duration = Duration::from_millis(400);

/// A server that keeps a connection for this long keeps it for ever.
const FOR_EVER: Duration = Duration::from_hours(1);

const HEAD: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// How long the handler at `/slow-body` waits for its body.
const BODY_TIME: Duration = Duration::from_secs(30);

async fn slow_body(body: axum::body::Body) -> axum::http::StatusCode {
    let read = timeout(BODY_TIME, axum::body::to_bytes(body, usize::MAX)).await;
    if read.is_ok() { axum::http::StatusCode::OK } else { axum::http::StatusCode::REQUEST_TIMEOUT }
}

/// A connection to a server with a short answer at `/`, a long one at `/long`, and one after the body at `/slow-body`.
fn connect() -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let router = Router::new()
        .route("/", get(async || "short"))
        .route("/long", get(async || "x".repeat(LONG)))
        .route("/slow-body", post(slow_body));
    let means = Arc::new(Means::new(router, |_| false, None, CancellationToken::new()));
    let slot = Connections::new(8).admit([127, 0, 0, 1].into(), Instant::now()).unwrap();
    tokio::spawn(connection::serve(theirs, ([127, 0, 0, 1], 1).into(), means, slot));
    ours
}

/// Waits for what a server must do sooner or later.
async fn done<T>(what: impl Future<Output = T>) -> T {
    timeout(FOR_EVER, what).await.expect("the server waits for ever")
}

/// Sends `texts`, each when the server has had time to answer the one before, and then a byte at a time, or nothing
/// more, until the server closes the connection. Returns what the server sent.
async fn hung_up_on(texts: &[&str], dribbles: bool) -> String {
    let mut peer = connect();
    for text in texts {
        peer.write_all(text.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (mut reader, mut writer) = tokio::io::split(peer);
    let dribble = async {
        while dribbles && writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let mut heard = String::new();
    done(async { tokio::join!(reader.read_to_string(&mut heard), dribble).0 }).await.unwrap();
    heard
}

#[tokio::test(start_paused = true)]
async fn a_head_has_ten_seconds_from_its_first_byte_and_the_first_head_from_the_acceptance() {
    let part = "GET / HTTP/1.1\r\nx-slow: ";
    let (first, second) = (&[part][..], &[HEAD, part][..]);
    for (texts, dribbles) in [(&[][..], false), (first, false), (first, true), (second, false), (second, true)] {
        let began = Instant::now();
        let heard = hung_up_on(texts, dribbles).await;
        assert_eq!(began.elapsed().as_secs(), 10, "{texts:?}");
        let answers = texts.len().saturating_sub(1);
        assert_eq!(heard.matches("HTTP/1.1 200 ").count(), answers, "{texts:?}: {heard}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_dribbles_is_the_handlers_to_refuse() {
    let began = Instant::now();
    let head = "POST /slow-body HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    let heard = hung_up_on(&[head], true).await;
    assert!(heard.starts_with("HTTP/1.1 408 "), "{heard}");
    assert!(began.elapsed() >= BODY_TIME, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_rests_between_requests_is_kept_for_a_minute() {
    let began = Instant::now();
    let heard = hung_up_on(&[HEAD], false).await;
    assert_eq!(began.elapsed().as_secs(), 60);
    assert!(heard.starts_with("HTTP/1.1 200 ") && heard.ends_with("short"), "{heard}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_reads_nothing_is_given_up_after_half_a_minute_and_few_answers_are_kept() {
    let mut peer = connect();
    peer.write_all(HEAD.repeat(PIPE / HEAD.len()).as_bytes()).await.unwrap();
    let began = Instant::now();
    // The pipe takes more requests only while the server reads, and is closed when the server gives up.
    done(async { while peer.write_all(HEAD.as_bytes()).await.is_ok() {} }).await;
    assert_eq!(began.elapsed().as_secs(), 30);
    let mut heard = String::new();
    peer.read_to_string(&mut heard).await.unwrap();
    assert!(heard.starts_with("HTTP/1.1 200 ") && heard.len() <= PIPE, "{} bytes", heard.len());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_read_is_given_up_and_its_connection_of_http2_goes_on() {
    for (window, path) in [(0, "/"), (1, "/"), (20_000, "/long")] {
        let mut peer = Frames::over(connect(), window).await;
        peer.get(1, path).await;
        let began = Instant::now();
        let reset = done(peer.next_of(RST_STREAM)).await.map(|frame| frame.stream);
        assert_eq!((reset, began.elapsed().as_secs()), (Some(1), 30), "with a window of {window}");
        peer.set_window(65_535).await;
        peer.get(3, "/").await;
        assert_eq!(done(peer.next_of(DATA)).await.map(|frame| frame.stream), Some(3), "with a window of {window}");
    }
}
