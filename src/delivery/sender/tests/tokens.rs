//! Tests tokens that are fetched before a request is sent, with real token endpoints and receivers.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::domain::credentials::{Auth, ClientCredentials, Credentials, TokenAuthMethod};
use crate::domain::id::{TenantNum, WebhookId};

/// As many as a webhook has in flight by default.
const AT_ONCE: usize = 16;

/// A server that answers each request on a connection of its own and remembers the requests; the n-th answer (from 0)
/// comes from `script`.
struct Scripted {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Scripted {
    async fn new(script: impl Fn(usize) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, script) = (Arc::clone(&requests), Arc::new(script));
        let task = tokio::spawn(async move {
            let connections = AtomicUsize::new(0);
            while let Ok((mut stream, _)) = listener.accept().await {
                let place = connections.fetch_add(1, Ordering::SeqCst);
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                tokio::spawn(async move {
                    let request = read_request(&mut stream).await;
                    seen.lock().unwrap().push(request);
                    match script(place) {
                        Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
                        None => std::future::pending().await,
                    }
                });
            }
        });
        Self { url, requests, task }
    }

    /// Hands out `token-1`, `token-2`, …
    async fn granting(expires_in: u64) -> Self {
        Self::new(move |place| Some(granted(place + 1, expires_in))).await
    }

    async fn answering(status: u16) -> Self {
        Self::new(move |_| Some(answer(status, "", ""))).await
    }

    fn seen(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// One header of each request.
    fn headers(&self, name: &str) -> Vec<String> {
        let value = |request: &String| {
            request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default().to_owned()
        };
        self.requests.lock().unwrap().iter().map(value).collect()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(status: u16, header: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} Scripted\r\n{header}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn granted(number: usize, expires_in: u64) -> String {
    let body = format!(r#"{{"access_token":"token-{number}","token_type":"Bearer","expires_in":{expires_in}}}"#);
    answer(200, "content-type: application/json\r\n", &body)
}

fn credentials(token_url: &str) -> ClientCredentials {
    ClientCredentials {
        token_url: token_url.to_owned(),
        client_id: "me".to_owned(),
        client_secret: "hunter2".to_owned().into(),
        scope: Some("hooks".to_owned()),
        audience: None,
        token_endpoint_auth_method: TokenAuthMethod::ClientSecretBasic,
    }
}

fn with_token(receiver: &str, with: ClientCredentials) -> Target {
    let credentials = Credentials { tls: None, auth: Some(Auth::OAuth2(Box::new(with))) };
    let target =
        target(receiver).with_credentials(&guard(), (TenantNum(1), WebhookId::generate()), credentials).unwrap();
    Target { timeout: GENEROUS, ..target }
}

async fn attempt_with(receiver: &Scripted, endpoint: &Scripted) -> Report {
    sender().attempt(&with_token(&receiver.url, credentials(&endpoint.url)), message()).await
}

/// Attempts that begin at the same moment.
async fn attempts_at_once(sender: &Sender, target: &Target) -> Vec<Report> {
    futures_util::future::join_all((0..AT_ONCE).map(|_| sender.attempt(target, message()))).await
}

#[tokio::test]
async fn a_token_is_fetched_once_and_goes_with_every_request() {
    let (endpoint, receiver) = (Scripted::granting(3600).await, Scripted::answering(200).await);
    let (sender, target) = (sender(), with_token(&receiver.url, credentials(&endpoint.url)));
    let reports = attempts_at_once(&sender, &target).await;
    assert!(reports.iter().all(|report| report.outcome == Outcome::Success), "{reports:?}");
    sender.attempt(&target, message()).await;
    assert_eq!(receiver.headers("authorization"), vec!["Bearer token-1"; AT_ONCE + 1]);
    assert_eq!(endpoint.headers("authorization"), ["Basic bWU6aHVudGVyMg=="]);
    let request = endpoint.requests.lock().unwrap()[0].clone();
    assert!(request.ends_with("\r\n\r\ngrant_type=client_credentials&scope=hooks"), "{request}");
}

#[tokio::test]
async fn another_webhook_has_a_token_of_its_own() {
    let (endpoint, receiver) = (Scripted::granting(3600).await, Scripted::answering(200).await);
    let sender = sender();
    for _ in 0..2 {
        sender.attempt(&with_token(&receiver.url, credentials(&endpoint.url)), message()).await;
    }
    assert_eq!(receiver.headers("authorization"), ["Bearer token-1", "Bearer token-2"]);
}

#[tokio::test]
async fn a_client_may_show_itself_in_the_form() {
    let (endpoint, receiver) = (Scripted::granting(3600).await, Scripted::answering(200).await);
    let post = TokenAuthMethod::ClientSecretPost;
    let with = ClientCredentials { token_endpoint_auth_method: post, ..credentials(&endpoint.url) };
    assert_eq!(sender().attempt(&with_token(&receiver.url, with), message()).await.outcome, Outcome::Success);
    assert_eq!(endpoint.headers("authorization"), [""]);
    assert!(endpoint.requests.lock().unwrap()[0].ends_with("&client_id=me&client_secret=hunter2"));
}

#[tokio::test]
async fn a_token_that_the_receiver_refuses_is_thrown_away_and_asked_for_once() {
    let endpoint = Scripted::granting(3600).await;
    let receiver = Scripted::new(|place| Some(answer(if place == 0 { 401 } else { 200 }, "", ""))).await;
    let (sender, target) = (sender(), with_token(&receiver.url, credentials(&endpoint.url)));

    let refused = sender.attempt(&target, message()).await;

    assert_eq!((refused.outcome, refused.status), (Outcome::Rejected, Some(401)));
    assert_eq!((receiver.seen(), endpoint.seen()), (1, 1), "the attempt that is refused is over");
    assert_eq!(sender.attempt(&target, message()).await.outcome, Outcome::Success);
    assert_eq!(sender.attempt(&target, message()).await.outcome, Outcome::Success);
    assert_eq!(receiver.headers("authorization"), ["Bearer token-1", "Bearer token-2", "Bearer token-2"]);
}

#[tokio::test]
async fn a_token_that_does_not_last_is_asked_for_again() {
    let (endpoint, receiver) = (Scripted::granting(0).await, Scripted::answering(200).await);
    let (sender, target) = (sender(), with_token(&receiver.url, credentials(&endpoint.url)));
    for _ in 0..3 {
        assert_eq!(sender.attempt(&target, message()).await.outcome, Outcome::Success);
    }
    assert_eq!(receiver.headers("authorization"), ["Bearer token-1", "Bearer token-2", "Bearer token-3"]);
}

#[tokio::test]
async fn a_token_endpoint_that_refuses_is_asked_once_by_many() {
    let endpoint =
        Scripted::new(|_| Some(answer(401, "", r#"{"error":"invalid_client","error_description":"hunter2"}"#))).await;
    let receiver = Scripted::answering(200).await;
    let (sender, target) = (sender(), with_token(&receiver.url, credentials(&endpoint.url)));
    for report in attempts_at_once(&sender, &target).await {
        assert_eq!((report.outcome, report.status), (Outcome::Rejected, None));
        let text = report.error.unwrap();
        assert!(text.starts_with("token endpoint: answered 401 invalid_client; check `clientId`"), "{text}");
        assert!(!text.contains("hunter2") && report.response_body.is_empty());
    }
    assert_eq!((endpoint.seen(), receiver.seen()), (1, 0));
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_takes_no_longer_than_the_attempt_and_is_asked_once() {
    let endpoint = Scripted::new(|_| None).await;
    let receiver = Scripted::answering(200).await;
    let target = Target { timeout: TIMEOUT, ..with_token(&receiver.url, credentials(&endpoint.url)) };
    let start = Instant::now();
    for report in attempts_at_once(&sender(), &target).await {
        assert_eq!(report.outcome, Outcome::TimedOut);
        assert!(report.error.unwrap().starts_with("token endpoint: "));
    }
    assert!(start.elapsed() >= TIMEOUT && start.elapsed() < TIMEOUT + GENEROUS);
    assert_eq!((endpoint.seen(), receiver.seen()), (1, 0));
}

#[tokio::test]
async fn whatever_a_token_endpoint_answers_has_an_outcome() {
    let receiver = Scripted::answering(200).await;
    let endless = answer(200, "", &"x".repeat(200_000));
    let redirect = answer(307, &format!("location: {}\r\n", receiver.url), "");
    let busy = answer(429, "retry-after: 7\r\n", "");
    for (said, outcome) in [
        (answer(200, "", "<html>"), Outcome::ProtocolError),
        (endless, Outcome::ProtocolError),
        ("SSH-2.0-OpenSSH\r\n".to_owned(), Outcome::ProtocolError),
        (String::new(), Outcome::ProtocolError),
        (redirect, Outcome::Rejected),
        (answer(410, "", ""), Outcome::Rejected),
        (answer(500, "", ""), Outcome::Rejected),
        (busy, Outcome::Throttled { retry_after: Some(Duration::from_secs(7)) }),
    ] {
        let endpoint = Scripted::new(move |_| Some(said.clone())).await;
        let report = attempt_with(&receiver, &endpoint).await;
        assert_eq!(report.outcome, outcome, "{report:?}");
        assert!(report.error.unwrap().starts_with("token endpoint: "));
    }
    assert_eq!(receiver.seen(), 0, "nothing is sent without a token");
}

#[tokio::test]
async fn a_token_endpoint_is_called_by_the_same_rules_as_a_receiver() {
    let (endpoint, receiver) = (Scripted::granting(3600).await, Scripted::answering(200).await);
    // The token endpoint has another loopback address than the receiver, and only the receiver's is open when the
    // request is sent.
    let elsewhere = endpoint.url.replace("127.0.0.1", "127.0.0.2");
    let target = with_token(&receiver.url, credentials(&elsewhere));
    let strict = Arc::new(Guard::new(true, vec!["127.0.0.1/32".parse().unwrap()]));
    let report = Sender { guard: strict, ..sender() }.attempt(&target, message()).await;
    assert_eq!(report.outcome, Outcome::Blocked);
    assert!(report.error.unwrap().starts_with("token endpoint: 127.0.0.2 is "));
    assert_eq!((endpoint.seen(), receiver.seen()), (0, 0));
}

#[tokio::test]
async fn what_keeps_a_token_endpoint_from_being_reached_is_told_as_its_own() {
    let receiver = Scripted::answering(200).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let target = with_token(&receiver.url, credentials(&format!("http://{gone}/")));
    let report = sender().attempt(&target, message()).await;
    assert_eq!(report.outcome, Outcome::ConnectFailed);
    assert_eq!(report.error.as_deref(), Some("token endpoint: connection refused"));

    let target = with_token(&receiver.url, credentials("http://id.example.com/token"));
    let report = sender_resolving_with(Failing(ResolveError::NoSuchName), guard()).attempt(&target, message()).await;
    assert_eq!(report.outcome, Outcome::DnsFailed);
    assert_eq!(report.error.as_deref(), Some("token endpoint: there is no such name; check the URL's host"));

    let blocked = ResolveError::Refused(GuardError::ResolvedAddress);
    let report = sender_resolving_with(Failing(blocked), guard()).attempt(&target, message()).await;
    assert_eq!(report.outcome, Outcome::Blocked);
}

#[tokio::test]
async fn a_password_or_a_token_of_the_owner_goes_with_every_request() {
    let receiver = Scripted::answering(200).await;
    let basic = Auth::Basic { username: "a".to_owned(), password: "b".to_owned().into() };
    let bearer = Auth::Bearer { token: "t".to_owned().into() };
    for auth in [basic, bearer] {
        let credentials = Credentials { tls: None, auth: Some(auth) };
        let target = target(&receiver.url)
            .with_credentials(&guard(), (TenantNum(1), WebhookId::generate()), credentials)
            .unwrap();
        let report = sender().attempt(&Target { timeout: GENEROUS, ..target }, message()).await;
        assert_eq!(report.outcome, Outcome::Success);
    }
    assert_eq!(receiver.headers("authorization"), ["Basic YTpi", "Bearer t"]);
}
