//! A connection to the API without a client around it: for what no client would send, or not send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) struct Raw(TcpStream);

impl Raw {
    /// Connects to a server that says of itself `http://host:port`.
    pub(crate) async fn open(url: &str) -> Self {
        let address = url.split("://").last().expect("an address");
        Self(TcpStream::connect(address).await.expect("a connection"))
    }

    /// A connection that has said this much.
    pub(crate) async fn saying(url: &str, text: &str) -> Self {
        let mut raw = Self::open(url).await;
        assert!(raw.say(text).await, "the connection is gone");
        raw
    }

    /// Whether it could be said.
    pub(crate) async fn say(&mut self, text: &str) -> bool {
        self.0.write_all(text.as_bytes()).await.is_ok()
    }

    /// Everything that comes until the other side hangs up.
    pub(crate) async fn heard(&mut self) -> String {
        let mut heard = Vec::new();
        // A reset is an end, too.
        let _ = self.0.read_to_end(&mut heard).await;
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// Says a letter at a time, with these pauses, until the other side hangs up; answers what it said.
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
