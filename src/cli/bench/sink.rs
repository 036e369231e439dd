//! The receiver that everything in a benchmark is sent to: answers 200 at once and notes when events arrive.
//!
//! Reads just enough HTTP/1.1 to find where a request ends, so that it takes as little of the machine as it can.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::cli::CliError;

use super::report::Latency;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Events whose moment of publishing is remembered; later ones overwrite.
const REMEMBERED: usize = 1 << 20;

/// How the sink recognises an event: `"n":<index>` is the first field of its data.
pub(super) const INDEX_FIELD: &str = r#""data":{"n":"#;

pub(super) struct Sink {
    pub(super) address: SocketAddr,
    arrived: AtomicU64,
    owed: AtomicU64,
    epoch: Instant,
    /// Nanoseconds since `epoch` at which event n was published; zero once it has arrived.
    published: Vec<AtomicU64>,
    next: AtomicU64,
    arrivals: Mutex<Histogram<u64>>,
}

impl Sink {
    pub(super) async fn start() -> Result<Arc<Self>, CliError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(CliError::failed)?;
        let sink = Arc::new(Self {
            address: listener.local_addr().map_err(CliError::failed)?,
            arrived: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            epoch: Instant::now(),
            published: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicU64::new(0),
            arrivals: Mutex::new(Latency::histogram()),
        });
        let serving = sink.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let _ = connection.set_nodelay(true);
                let sink = serving.clone();
                tokio::spawn(async move { sink.serve(connection).await });
            }
        });
        Ok(sink)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Requests so far, those of the raw measurement left out.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Deliveries that accepted events are owed.
    pub(super) fn owed(&self) -> u64 {
        self.owed.load(Ordering::Relaxed)
    }

    pub(super) fn owe(&self, deliveries: u64) {
        self.owed.fetch_add(deliveries, Ordering::Relaxed);
    }

    /// An index for an event that is published now.
    pub(super) fn publishing(&self) -> u64 {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        self.place(index).store(self.nanos(), Ordering::Relaxed);
        index
    }

    pub(super) fn forget_latencies(&self) {
        self.arrivals.lock().reset();
    }

    pub(super) fn arrival_latency(&self) -> Latency {
        Latency::of(&self.arrivals.lock())
    }

    fn place(&self, index: u64) -> &AtomicU64 {
        &self.published[usize::try_from(index).unwrap_or(0) % REMEMBERED]
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    async fn serve(&self, mut connection: TcpStream) {
        let mut buffer = BytesMut::with_capacity(16 * 1024);
        loop {
            while let Some(end) = request_end(&buffer) {
                self.arrive(&buffer[..end]);
                buffer.advance(end);
                if connection.write_all(ANSWER).await.is_err() {
                    return;
                }
            }
            match connection.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn arrive(&self, request: &[u8]) {
        let Some(index) = event_index(request) else { return };
        let at = self.place(index).swap(0, Ordering::Relaxed);
        if at != 0 {
            self.arrivals.lock().saturating_record(self.nanos().saturating_sub(at) / 1000);
        }
        self.arrived.fetch_add(1, Ordering::Relaxed);
    }
}

/// The length of the first request in `buffer` once it is complete.
fn request_end(buffer: &[u8]) -> Option<usize> {
    let head = find(buffer, b"\r\n\r\n")? + 4;
    let length = buffer[..head].split(|byte| *byte == b'\n').find_map(content_length)?;
    (buffer.len() >= head + length).then_some(head + length)
}

fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let value = line.get(NAME.len()..).filter(|_| line[..NAME.len()].eq_ignore_ascii_case(NAME))?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

fn event_index(request: &[u8]) -> Option<u64> {
    let start = find(request, INDEX_FIELD.as_bytes())? + INDEX_FIELD.len();
    let digits = request[start..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_after_its_body() {
        let request = b"POST / HTTP/1.1\r\nhost: x\r\nContent-Length: 20\r\n\r\n{\"data\":{\"n\":17,....POST";
        let end = request_end(request).unwrap();
        assert_eq!(&request[end..], b"POST");
        assert_eq!(event_index(&request[..end]), Some(17));
        assert_eq!(request_end(&request[..end - 1]), None);
    }
}
