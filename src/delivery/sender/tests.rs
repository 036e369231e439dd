//! Tests one attempt against receivers that behave, misbehave or do not exist.

mod kept;
mod tls;
mod tokens;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::delivery::answer::MAX_BODY;
use crate::delivery::client::Making;
use crate::delivery::resolver::{ResolveError, in_time};
use crate::delivery::signature::{SigningSecret, standard_webhooks, x_webhook_signature};
use crate::delivery::{Dns, GuardError};
use crate::domain::policy::Policy;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const TIMEOUT: Duration = Duration::from_millis(300);
/// How late a machine under load may be without failing a test.
const GENEROUS: Duration = Duration::from_secs(10);

/// A receiver on a port of its own. It takes one connection at a time and stops when dropped.
struct Receiver {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Reads each request whole and leaves the answer to `serve`.
    async fn serving<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = read_request(&mut stream).await;
                seen.lock().unwrap().push(request);
                serve(stream).await;
            }
        });
        Self { url, requests, task }
    }

    /// Writes these bytes and closes the connection.
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        Self::serving(move |mut stream| {
            let answer = Arc::clone(&answer);
            async move {
                // An error is fine: the sender may close before everything is written.
                let _ = stream.write_all(&answer).await;
            }
        })
        .await
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return text;
        }
    }
}

fn guard() -> Arc<Guard> {
    Arc::new(Guard::new(true, vec!["127.0.0.0/8".parse().unwrap()]))
}

fn sender() -> Sender {
    let dns = Arc::new(Dns::new(Vec::new(), 1).unwrap());
    Sender::new(
        Clients::new(guard(), dns, Making::default(), true).unwrap(),
        Tokens::default(),
        guard(),
        EngineName::new(7),
    )
}

fn sender_resolving_with(resolver: impl reqwest::dns::Resolve + 'static, guard: Arc<Guard>) -> Sender {
    let clients = Clients::resolving_with(Arc::new(resolver), guard.clone(), 8).unwrap();
    Sender::new(clients, Tokens::default(), guard, EngineName::new(7))
}

fn target(url: &str) -> Target {
    let headers = BTreeMap::from([("X-Team".to_owned(), "billing".to_owned())]);
    let secrets = vec![SigningSecret::parse(SECRET).unwrap()];
    let target = Target::try_new(&guard(), url, &headers, secrets, &Policy::default()).unwrap();
    Target { timeout: TIMEOUT, ..target }
}

fn message() -> Message {
    Message {
        event_id: "evt_1".to_owned(),
        event_type: "message.sent".to_owned(),
        delivery_id: "dlv_1".to_owned(),
        attempt: 2,
        trail: None,
        body: Bytes::from_static(br#"{"id":"evt_1"}"#),
    }
}

async fn attempt(url: &str) -> Report {
    sender().attempt(&target(url), message()).await
}

/// An attempt with a long timeout, so that a slow machine changes nothing.
async fn patient_attempt(url: &str) -> Report {
    let target = Target { timeout: GENEROUS, ..target(url) };
    sender().attempt(&target, message()).await
}

async fn answered(answer: impl Into<Vec<u8>>) -> Report {
    let receiver = Receiver::answering(answer).await;
    patient_attempt(&receiver.url).await
}

fn assert_ended_at_the_deadline(report: &Report, since: Instant) {
    assert_eq!(report.outcome, Outcome::TimedOut);
    assert!(since.elapsed() >= TIMEOUT);
    assert!(since.elapsed() < TIMEOUT + GENEROUS);
    assert!(u128::from(report.duration_us) >= TIMEOUT.as_micros());
}

#[tokio::test]
async fn a_receiver_gets_what_the_docs_promise() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: b\r\n\r\nok").await;
    let report = patient_attempt(&receiver.url).await;
    assert_eq!((&report.outcome, report.status, &report.error), (&Outcome::Success, Some(200), &None));
    assert_eq!(report.response_body, "ok");
    assert!(report.response_headers.contains(&("x-a".to_owned(), "b".to_owned())));
    assert!(report.head_us.unwrap() <= report.duration_us);

    let request = receiver.requests().remove(0);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap();
    assert!(head.starts_with("POST /hook HTTP/1.1\r\n"));
    assert_eq!(body, r#"{"id":"evt_1"}"#);
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("user-agent"), concat!("Posthaste/", env!("CARGO_PKG_VERSION")));
    assert_eq!(header("x-webhook-event"), "message.sent");
    assert_eq!(header("x-webhook-delivery"), "dlv_1");
    assert_eq!(header("x-webhook-attempt"), "2");
    assert_eq!(header("webhook-id"), "evt_1");
    assert_eq!(header("x-team"), "billing");

    let (target, time) = (target(&receiver.url), header("webhook-timestamp").parse().unwrap());
    let ours = x_webhook_signature(&target.secrets, target.format, time, body.as_bytes());
    assert_eq!(header("x-webhook-signature"), ours);
    assert_eq!(header("webhook-signature"), standard_webhooks(&target.secrets, "evt_1", time, body.as_bytes()));
}

#[tokio::test]
async fn no_content_is_success() {
    let report = answered("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!((report.outcome, report.status), (Outcome::Success, Some(204)));
}

#[tokio::test]
async fn an_answer_that_is_not_2xx_is_rejected_and_kept() {
    let report = answered("HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\noops").await;
    assert_eq!((report.outcome, report.status), (Outcome::Rejected, Some(500)));
    assert_eq!(report.error.as_deref(), Some("answered 500, expected 2xx"));
    assert_eq!(report.response_body, "oops");
}

#[tokio::test]
async fn a_throttling_receiver_is_heard() {
    let report = answered("HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(report.outcome, Outcome::Throttled { retry_after: Some(Duration::from_secs(7)) });
}

#[tokio::test]
async fn a_hanging_head_ends_at_the_deadline() {
    let receiver = Receiver::serving(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let start = Instant::now();
    let report = attempt(&receiver.url).await;
    assert_ended_at_the_deadline(&report, start);
    assert_eq!((report.status, report.error.as_deref()), (None, Some("no answer within 300 ms")));
}

#[tokio::test]
async fn a_dribbling_head_ends_at_the_deadline() {
    let receiver = Receiver::serving(|mut stream| async move {
        let mut part = stream.write_all(b"HTTP/1.1 200 OK\r\nx-a: ").await;
        while part.is_ok() {
            part = stream.write_all(b"a").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let start = Instant::now();
    assert_ended_at_the_deadline(&attempt(&receiver.url).await, start);
}

#[tokio::test]
async fn a_flood_of_provisional_answers_ends_at_the_deadline() {
    let receiver = Receiver::serving(|mut stream| async move {
        let mut part = Ok(());
        while part.is_ok() {
            part = stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await;
        }
    })
    .await;
    let start = Instant::now();
    assert_ended_at_the_deadline(&attempt(&receiver.url).await, start);
}

#[tokio::test]
async fn a_head_beyond_all_measure_is_a_protocol_error() {
    let flood: String = (0..10_000).fold("HTTP/1.1 200 OK\r\n".to_owned(), |head, _| head + "x-a: a\r\n");
    assert_eq!(answered(flood + "\r\n").await.outcome, Outcome::ProtocolError);
    let long = format!("HTTP/1.1 200 OK\r\nx-a: {}\r\n\r\n", "a".repeat(1_000_000));
    assert_eq!(answered(long).await.outcome, Outcome::ProtocolError);
}

#[tokio::test]
async fn a_dribbling_body_ends_at_the_deadline_and_what_came_is_kept() {
    let receiver = Receiver::serving(|mut stream| async move {
        let mut part = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n").await;
        while part.is_ok() {
            part = stream.write_all(b"a").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let start = Instant::now();
    let report = attempt(&receiver.url).await;
    assert_ended_at_the_deadline(&report, start);
    assert_eq!(report.status, Some(200));
    assert!(!report.response_body.is_empty());
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let receiver = Receiver::answering("HTTP/1.1 307 Go\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n").await;
    let report = patient_attempt(&receiver.url).await;
    assert_eq!((report.outcome, report.status), (Outcome::Rejected, Some(307)));
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn a_redirect_to_nonsense_is_rejected_too() {
    for location in ["http://256.256.256.256/", "http://a b/", ":", "http://"] {
        let report = answered(format!("HTTP/1.1 302 Go\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")).await;
        assert_eq!(report.outcome, Outcome::Rejected, "{location}");
    }
}

#[tokio::test]
async fn a_compressed_body_is_kept_as_bytes() {
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n".to_vec();
    answer.extend([0x1f, 0x8b, 0x08, 0x00]);
    assert_eq!(answered(answer).await.response_body, [0x1f, 0x8b, 0x08, 0x00].as_slice());
}

#[tokio::test]
async fn an_endless_body_is_cut() {
    let receiver = Receiver::serving(|mut stream| async move {
        let mut part = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while part.is_ok() {
            part = stream.write_all(&[b'a'; 5000]).await;
        }
    })
    .await;
    let report = patient_attempt(&receiver.url).await;
    assert_eq!((report.outcome, report.response_body.len()), (Outcome::Success, MAX_BODY));
}

#[tokio::test]
async fn too_many_headers_are_cut() {
    let headers: String = (0..90).map(|place| format!("x-{place}: {}\r\n", "a".repeat(100))).collect();
    let report = answered(format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n")).await;
    assert_eq!((report.outcome, report.response_headers.len()), (Outcome::Success, 64));

    let report = answered(format!("HTTP/1.1 200 OK\r\nx-a: {}\r\nx-b: b\r\n\r\n", "a".repeat(20_000))).await;
    assert_eq!((report.outcome, report.response_headers.len()), (Outcome::Success, 0));
}

#[tokio::test]
async fn a_header_that_is_not_text_is_shown_as_far_as_it_is() {
    let report = answered(b"HTTP/1.1 200 OK\r\nx-a: \xff!\r\ncontent-length: 0\r\n\r\n".as_slice()).await;
    assert!(report.response_headers.contains(&("x-a".to_owned(), "\u{fffd}!".to_owned())));
}

#[tokio::test]
async fn garbage_is_a_protocol_error() {
    let report = answered("SSH-2.0-OpenSSH_9.9\r\n").await;
    assert_eq!((report.outcome, report.status), (Outcome::ProtocolError, None));
    assert!(report.error.unwrap().starts_with("no valid HTTP answer: "));
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_is_a_protocol_error() {
    assert_eq!(answered("").await.outcome, Outcome::ProtocolError);
}

#[tokio::test]
async fn a_2xx_answer_that_breaks_off_in_its_body_is_success() {
    let report = answered("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    assert_eq!((report.outcome, report.error), (Outcome::Success, None));
    assert_eq!(report.response_body, "half");
}

#[tokio::test]
async fn a_refused_connection_is_a_connect_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let report = patient_attempt(&format!("http://{address}/")).await;
    assert_eq!((report.outcome, report.error.as_deref()), (Outcome::ConnectFailed, Some("connection refused")));
}

#[tokio::test]
async fn a_receiver_without_tls_fails_the_handshake() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let plain = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    });
    let report = patient_attempt(&url).await;
    assert_eq!(report.outcome, Outcome::TlsFailed);
    assert_eq!(report.error.as_deref(), Some("the receiver does not speak TLS on this port"));
    drop(plain.await);
}

#[tokio::test]
async fn a_connection_closed_during_the_handshake_is_a_tls_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let closing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 4096];
        stream.read(&mut hello).await.unwrap()
    });
    let report = patient_attempt(&url).await;
    assert_eq!(report.outcome, Outcome::TlsFailed);
    assert!(closing.await.unwrap() > 0);
}

#[tokio::test]
async fn a_literal_that_may_not_be_called_is_blocked_before_it_is_dialled() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let strict = Arc::new(Guard::new(true, Vec::new()));
    let report = Sender { guard: strict, ..sender() }.attempt(&target(&receiver.url), message()).await;
    assert_eq!(report.outcome, Outcome::Blocked);
    assert_eq!(receiver.requests(), [""; 0]);
}

#[tokio::test]
async fn a_name_that_may_not_be_called_is_blocked_and_its_address_not_told() {
    let report = attempt_resolving(ResolveError::Refused(GuardError::ResolvedAddress)).await;
    assert_eq!(report.outcome, Outcome::Blocked);
    assert_eq!(report.error.as_deref(), Some("the name resolves to an address that may not be called"));
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_a_dns_failure() {
    let report = attempt_resolving(ResolveError::NoSuchName).await;
    let told = "there is no such name; check the URL's host";
    assert_eq!((report.outcome, report.error.as_deref()), (Outcome::DnsFailed, Some(told)));
}

#[tokio::test]
async fn a_name_that_is_not_resolved_by_the_deadline_is_a_dns_failure() {
    struct Hanging;
    impl reqwest::dns::Resolve for Hanging {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            Box::pin(async { Err(in_time(std::future::pending()).await.unwrap_err().into()) })
        }
    }
    let report = sender_resolving_with(Hanging, guard()).attempt(&target("http://hooks.example.com/"), message()).await;
    assert_eq!(report.outcome, Outcome::DnsFailed);
    assert!(report.error.unwrap().starts_with("the name was not resolved in time"));
}

/// The checks of the URL and of the name's addresses pass here; only the check of the connection is left.
#[tokio::test]
async fn nothing_is_sent_through_a_connection_to_where_nobody_may_call() {
    struct Mistaken(std::net::SocketAddr);
    impl reqwest::dns::Resolve for Mistaken {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            let addresses = Box::new(std::iter::once(self.0)) as reqwest::dns::Addrs;
            Box::pin(async move { Ok(addresses) })
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let reached = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut sent = Vec::new();
        stream.read_to_end(&mut sent).await.map(|_| sent)
    });
    let strict = Arc::new(Guard::new(true, Vec::new()));
    let target = Target { timeout: GENEROUS, ..target("http://hooks.example.com/") };
    let report = sender_resolving_with(Mistaken(address), strict).attempt(&target, message()).await;
    assert_eq!(report.outcome, Outcome::Blocked);
    assert_eq!(report.error.as_deref(), Some("the connection came to an address that may not be called"));
    assert_eq!(reached.await.unwrap().unwrap(), b"");
}

/// A resolver that fails for every name with this error.
struct Failing(ResolveError);

impl reqwest::dns::Resolve for Failing {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let error = self.0.clone();
        Box::pin(async move { Err(error.into()) })
    }
}

async fn attempt_resolving(error: ResolveError) -> Report {
    sender_resolving_with(Failing(error), guard()).attempt(&target("http://hooks.example.com/"), message()).await
}

#[tokio::test]
async fn an_event_type_that_no_header_can_carry_is_not_sent() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let message = Message { event_type: "a\r\nx-injected: b".to_owned(), ..message() };
    let report = sender().attempt(&target(&receiver.url), message).await;
    assert_eq!(report.outcome, Outcome::ProtocolError);
    assert_eq!(receiver.requests(), [""; 0]);
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_whole_answer() {
    let receiver = Receiver::serving(|mut stream| async move {
        loop {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            if read_request(&mut stream).await.is_empty() {
                return;
            }
        }
    })
    .await;
    let (sender, target) = (sender(), Target { timeout: GENEROUS, ..target(&receiver.url) });
    for _ in 0..3 {
        assert_eq!(sender.attempt(&target, message()).await.outcome, Outcome::Success);
    }
    assert_eq!(receiver.requests().len(), 1, "only a connection's first request is recorded");
}
