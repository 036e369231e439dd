//! The answer to a connection for which there is no place: `503` in one piece, whatever it has to say.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Refusals that are being said at once; whoever comes beyond is hung up on.
const AT_ONCE: usize = 64;

/// For the peer to hear it and to hang up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Of what the peer says is taken in, so that closing does not take back what it is told.
const TAKEN_IN: u64 = 64 * 1024;

pub(super) const BODY: &str = concat!(
    r#"{"type":"urn:posthaste:problem:overloaded","title":"Overloaded","status":503,"code":"overloaded","#,
    r#""detail":"there are as many connections or requests as there may be, and every one is busy","requestId":"none"}"#
);

/// Says no, to a bounded number at once.
#[derive(Clone)]
pub(super) struct Refusals(Arc<Semaphore>);

impl Refusals {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }

    /// In a task of its own, if there are not too many.
    pub(super) fn tell(&self, stream: TcpStream) {
        if let Ok(permit) = self.0.clone().try_acquire_owned() {
            tokio::spawn(async move {
                refuse(stream).await;
                drop(permit);
            });
        }
    }
}

/// Tells one connection, and waits until it has heard it.
pub(super) async fn refuse(mut stream: TcpStream) {
    let told = async {
        stream.write_all(text().as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(TAKEN_IN), &mut tokio::io::sink()).await
    };
    if tokio::time::timeout(PATIENCE, told).await.is_err() {
        tracing::debug!("a connection that was refused does not hang up");
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
