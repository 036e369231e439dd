//! Answers `503` to a connection for which there is no slot. The acceptor calls this; the request is never parsed.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Refusals being sent at once; further connections are closed without an answer.
const AT_ONCE: usize = 64;

/// Time for the peer to read the refusal and close.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of the request that are read and discarded: closing a socket with unread data sends a reset, and the peer
/// could lose the answer.
const TAKEN_IN: u64 = 64 * 1024;

pub(super) const BODY: &str = concat!(
    r#"{"type":"/problems/overloaded","title":"Overloaded","status":503,"code":"overloaded","#,
    r#""detail":"there are as many connections or requests as there may be, and every one is busy","requestId":"none"}"#
);

/// Sends refusals, a bounded number at once.
#[derive(Clone)]
pub(super) struct Refusals(Arc<Semaphore>);

impl Refusals {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }

    /// Refuses in a task of its own, or drops the connection if [`AT_ONCE`] refusals are being sent.
    pub(super) fn tell(&self, stream: TcpStream) {
        if let Ok(permit) = self.0.clone().try_acquire_owned() {
            tokio::spawn(async move {
                refuse(stream).await;
                drop(permit);
            });
        }
    }
}

/// Refuses one connection and waits until the peer closes it.
pub(super) async fn refuse(mut stream: TcpStream) {
    let told = async {
        stream.write_all(text().as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(TAKEN_IN), &mut tokio::io::sink()).await
    };
    if tokio::time::timeout(PATIENCE, told).await.is_err() {
        tracing::debug!("peer did not close a refused connection in time; connection dropped");
    }
}

fn text() -> String {
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
        x-request-id: none\r\nconnection: close\r\n";
    format!("{head}content-length: {}\r\n\r\n{BODY}", BODY.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_a_problem_document_of_the_length_it_says() {
        let text = text();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 ") && head.ends_with(&format!("content-length: {}", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["status"], &body["code"]), (&503.into(), &"overloaded".into()));
    }
}
