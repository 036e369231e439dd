//! Tests real handshakes: bad certificates, private authorities, client certificates, receivers that stall.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWrite;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::domain::credentials::{Credentials, TlsOptions};
use crate::domain::id::{TenantNum, WebhookId};
use test_support::certificates::{Authority, Issued, accept, acceptor, self_signed};

const ADDRESS: &str = "127.0.0.1";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A receiver that speaks TLS, many connections at once.
struct Secure {
    url: String,
    handshakes: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Secure {
    /// Answers every request of every connection.
    async fn with(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind((ADDRESS, 0)).await.unwrap();
        let url = format!("https://{}/hook", listener.local_addr().unwrap());
        let handshakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&handshakes);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counter) = (acceptor.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    let Some(stream) = accept(&acceptor, stream).await else { return };
                    counter.fetch_add(1, Ordering::SeqCst);
                    answer_all(stream).await;
                });
            }
        });
        Self { url, handshakes, task }
    }

    fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::SeqCst)
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer_all(mut stream: impl tokio::io::AsyncRead + AsyncWrite + Unpin) {
    while !read_request(&mut stream).await.is_empty() {
        if stream.write_all(OK).await.is_err() {
            return;
        }
    }
}

fn trusting(url: &str, ca: &Authority) -> Target {
    with_options(url, TlsOptions { ca: Some(ca.pem()), ..TlsOptions::default() })
}

fn with_options(url: &str, tls: TlsOptions) -> Target {
    let credentials = Credentials { tls: Some(tls), auth: None };
    let target = target(url).with_credentials(&guard(), (TenantNum(1), WebhookId::generate()), credentials).unwrap();
    Target { timeout: GENEROUS, ..target }
}

fn identified(url: &str, ca: &Authority, by: Issued) -> Target {
    let Issued { certificate, key } = by;
    let tls = TlsOptions { ca: Some(ca.pem()), client_certificate: Some(certificate), client_key: Some(key.into()) };
    with_options(url, tls)
}

/// The error of an attempt that trusts the authority of the receiver's certificate.
async fn tls_failure(authority: &Authority, shown: &Issued) -> String {
    let receiver = Secure::with(acceptor(shown, None)).await;
    let report = sender().attempt(&trusting(&receiver.url, authority), message()).await;
    assert_eq!((report.outcome, report.status), (Outcome::TlsFailed, None));
    report.error.unwrap()
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named_and_nowhere_else() {
    let authority = Authority::new();
    let receiver = Secure::with(acceptor(&authority.issue(ADDRESS), None)).await;
    let sender = sender();
    assert_eq!(sender.attempt(&trusting(&receiver.url, &authority), message()).await.outcome, Outcome::Success);
    for target in [trusting(&receiver.url, &Authority::new()), Target { timeout: GENEROUS, ..target(&receiver.url) }] {
        let report = sender.attempt(&target, message()).await;
        assert_eq!(report.outcome, Outcome::TlsFailed);
        assert!(report.error.unwrap().contains("`tls.ca`"));
    }
}

#[tokio::test]
async fn a_certificate_that_has_expired_or_is_not_valid_yet_says_when() {
    let authority = Authority::new();
    let expired = tls_failure(&authority, &authority.issue_for(ADDRESS, 2020..=2021)).await;
    assert_eq!(expired, "certificate expired at 2021-01-01T00:00:00.000Z");
    let early = tls_failure(&authority, &authority.issue_for(ADDRESS, 2090..=2091)).await;
    assert_eq!(early, "certificate not valid before 2090-01-01T00:00:00.000Z");
}

#[tokio::test]
async fn a_certificate_for_another_host_says_for_which_one_it_is() {
    let authority = Authority::new();
    let text = tls_failure(&authority, &authority.issue("hooks.example.com")).await;
    assert_eq!(text, "certificate not made out to 127.0.0.1, but to hooks.example.com");
}

#[tokio::test]
async fn a_self_signed_certificate_says_what_can_be_done() {
    let text = tls_failure(&Authority::new(), &self_signed(ADDRESS)).await;
    assert!(text.contains("self-signed") && text.contains("`tls.ca`"), "{text}");
}

#[tokio::test]
async fn a_self_signed_certificate_can_be_trusted_by_itself() {
    let shown = self_signed(ADDRESS);
    let receiver = Secure::with(acceptor(&shown, None)).await;
    let tls = TlsOptions { ca: Some(shown.certificate), ..TlsOptions::default() };
    let report = sender().attempt(&with_options(&receiver.url, tls), message()).await;
    assert_eq!((report.outcome, report.error), (Outcome::Success, None));
}

#[tokio::test]
async fn a_stalled_handshake_is_a_tls_failure_at_the_deadline() {
    let listener = TcpListener::bind((ADDRESS, 0)).await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let silent = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
        drop(stream);
    });
    let start = Instant::now();
    let report = attempt(&url).await;
    assert_eq!((report.outcome, report.error.as_deref()), (Outcome::TlsFailed, Some(STALLED_HANDSHAKE)));
    assert!(start.elapsed() >= TIMEOUT && start.elapsed() < TIMEOUT + GENEROUS);
    silent.abort();
}

#[tokio::test]
async fn a_receiver_that_is_slow_after_its_handshake_is_just_slow() {
    let authority = Authority::new();
    let acceptor = acceptor(&authority.issue(ADDRESS), None);
    let listener = TcpListener::bind((ADDRESS, 0)).await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let slow = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let request = read_request(&mut stream).await;
        std::future::pending::<()>().await;
        drop((stream, request));
    });
    let target = Target { timeout: Duration::from_secs(2), ..trusting(&url, &authority) };
    let report = sender().attempt(&target, message()).await;
    assert_eq!((report.outcome, report.error.as_deref()), (Outcome::TimedOut, Some("no answer within 2000 ms")));
    slow.abort();
}

/// The client hands the second request to the first connection as soon as that is free, and finishes the second
/// connection without an attempt.
#[tokio::test]
async fn a_handshake_that_nobody_waits_for_any_more_is_not_to_blame() {
    let authority = Authority::new();
    let acceptor = acceptor(&authority.issue(ADDRESS), None);
    let listener = TcpListener::bind((ADDRESS, 0)).await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let receiver = tokio::spawn(async move {
        let first = listener.accept().await.unwrap().0;
        let stalled = listener.accept().await.unwrap();
        let mut first = acceptor.accept(first).await.unwrap();
        read_request(&mut first).await;
        first.write_all(OK).await.unwrap();
        read_request(&mut first).await;
        std::future::pending::<()>().await;
        drop((first, stalled));
    });
    let (sender, target) = (sender(), Target { timeout: Duration::from_secs(2), ..trusting(&url, &authority) });

    let (one, other) = tokio::join!(sender.attempt(&target, message()), sender.attempt(&target, message()));

    let mut outcomes = [one.outcome, other.outcome];
    outcomes.sort_by_key(|outcome| outcome.kind().code());
    assert_eq!(outcomes, [Outcome::Success, Outcome::TimedOut]);
    receiver.abort();
}

#[tokio::test]
async fn a_receiver_that_speaks_only_old_versions_is_refused() {
    // An alert of TLS 1.1, `protocol_version`; and a hello that chooses TLS 1.1.
    let alert = [21, 3, 2, 0, 2, 2, 70].to_vec();
    let mut hello = [22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2].to_vec();
    hello.extend([7; 32]);
    hello.extend([0, 0xc0, 0x13, 0]);
    for answer in [alert, hello] {
        let listener = TcpListener::bind((ADDRESS, 0)).await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let old = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut theirs = [0; 4096];
            assert!(stream.read(&mut theirs).await.unwrap() > 0);
            stream.write_all(&answer).await.unwrap();
            let _ = stream.read(&mut theirs).await;
        });
        let report = patient_attempt(&url).await;
        let text = "the receiver speaks no TLS version or cipher that is accepted; TLS 1.2 and 1.3 are";
        assert_eq!((report.outcome, report.error.as_deref()), (Outcome::TlsFailed, Some(text)));
        old.await.unwrap();
    }
}

#[tokio::test]
async fn a_receiver_that_wants_a_certificate_gets_it() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let receiver = Secure::with(acceptor(&theirs.issue(ADDRESS), Some(&ours))).await;
    let target = identified(&receiver.url, &theirs, ours.issue("engine.example.com"));
    let report = sender().attempt(&target, message()).await;
    assert_eq!((report.outcome, report.error), (Outcome::Success, None));
}

#[tokio::test]
async fn a_receiver_that_wants_a_certificate_says_so_and_what_is_wrong_with_it() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let receiver = Secure::with(acceptor(&theirs.issue(ADDRESS), Some(&ours))).await;
    let none = trusting(&receiver.url, &theirs);
    let foreign = identified(&receiver.url, &theirs, Authority::new().issue("engine.example.com"));
    let expired = identified(&receiver.url, &theirs, ours.issue_for("engine.example.com", 2020..=2021));
    for (target, told) in [(none, "requires a client certificate"), (foreign, "who issued"), (expired, "has expired")] {
        let report = sender().attempt(&target, message()).await;
        assert_eq!(report.outcome, Outcome::TlsFailed, "{:?}", report.error);
        let text = report.error.unwrap();
        assert!(text.contains(told), "{text}");
    }
    assert_eq!(receiver.handshakes(), 0);
}

#[tokio::test]
async fn connections_are_used_again_for_the_same_options_alone() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let receiver = Secure::with(acceptor(&theirs.issue(ADDRESS), Some(&ours))).await;
    let (sender, one) = (sender(), ours.issue("one.example.com"));
    let first = identified(&receiver.url, &theirs, one.clone());
    let same = identified(&receiver.url, &theirs, one);
    let other = identified(&receiver.url, &theirs, ours.issue("two.example.com"));
    for target in [&first, &first, &same, &first] {
        assert_eq!(sender.attempt(target, message()).await.outcome, Outcome::Success);
    }
    assert_eq!(receiver.handshakes(), 1);
    assert_eq!(sender.attempt(&other, message()).await.outcome, Outcome::Success);
    assert_eq!(receiver.handshakes(), 2);
}
