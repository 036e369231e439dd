//! A plain connection to the API without an HTTP client, for requests that no client would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) struct Raw(TcpStream);

impl Raw {
    /// Connects to the server at `url`, in the form `http://host:port`.
    pub(crate) async fn open(url: &str) -> Self {
        let address = url.split("://").last().expect("an address");
        Self(TcpStream::connect(address).await.expect("a connection"))
    }

    /// Connects and sends `text`.
    pub(crate) async fn saying(url: &str, text: &str) -> Self {
        let mut raw = Self::open(url).await;
        assert!(raw.say(text).await, "the connection is gone");
        raw
    }

    /// Sends `text`; returns whether that was possible.
    pub(crate) async fn say(&mut self, text: &str) -> bool {
        self.0.write_all(text.as_bytes()).await.is_ok()
    }

    /// Reads everything until the server closes the connection.
    pub(crate) async fn heard(&mut self) -> String {
        let mut heard = Vec::new();
        // A reset also ends the connection.
        let _ = self.0.read_to_end(&mut heard).await;
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// Sends one byte at a time, with pauses, until the server closes the connection; returns what the server sent.
    pub(crate) async fn dribble(mut self, pause: Duration) -> String {
        let (mut reader, mut writer) = self.0.split();
        let mut heard = Vec::new();
        tokio::select! {
            _ = reader.read_to_end(&mut heard) => {}
            () = async {
                while writer.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(pause).await;
                }
            } => {}
        }
        String::from_utf8_lossy(&heard).into_owned()
    }
}
