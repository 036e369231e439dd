//! A request is cancelled when its caller disconnects, over HTTP/1.1 and HTTP/2: no work goes on for a caller that is
//! gone.

mod deadlines;

use std::time::Duration;

use axum::routing::get;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

use super::*;

/// Time limit for events that are certain to happen.
const SOON: Duration = Duration::from_secs(20);

/// A listener whose handlers never answer. Each handler that begins sends a channel that closes when the handler ends.
async fn never_answers() -> (ServerHandle, SocketAddr, mpsc::Receiver<oneshot::Sender<()>>) {
    let (began, begun) = mpsc::channel(8);
    let handler = async move || {
        let (alive, ended) = oneshot::channel::<()>();
        let _ = began.send(alive).await;
        let _ = ended.await;
    };
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), 8, None).await.unwrap();
    let address = listener.address();
    let serving = listener.serve(Router::new().route("/", get(handler)), |_| false).unwrap();
    (serving, address, begun)
}

async fn ends(mut alive: oneshot::Sender<()>) {
    tokio::time::timeout(SOON, alive.closed()).await.expect("the handler ends when its caller is gone");
}

#[tokio::test]
async fn a_request_of_http1_ends_when_its_connection_does() {
    let (serving, address, mut begun) = never_answers().await;
    let mut caller = TcpStream::connect(address).await.unwrap();
    caller.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let alive = begun.recv().await.unwrap();
    assert!(!alive.is_closed());

    drop(caller);

    ends(alive).await;
    assert!(serving.stop(Instant::now() + SOON).await);
}

#[tokio::test]
async fn a_request_of_http2_ends_when_its_stream_or_its_connection_does() {
    let (serving, address, mut begun) = never_answers().await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let ask = || tokio::spawn(client.get(format!("http://{address}/")).send());
    let reset = ask();
    let alive = begun.recv().await.unwrap();
    assert!(!alive.is_closed());
    reset.abort();
    ends(alive).await;

    let mut caller = TcpStream::connect(address).await.unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // `GET /` of `x`, from the static table.
    let get = [0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x01, 1, b'x'];
    caller.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &get[..]].concat()).await.unwrap();
    let alive = begun.recv().await.unwrap();
    assert!(!alive.is_closed());
    drop(caller);
    ends(alive).await;
    drop(client);
    assert!(serving.stop(Instant::now() + SOON).await);
}
