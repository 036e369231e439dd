//! The receiver of all events in a benchmark: an axum server that records when events arrive. One path answers 200 at
//! once; further paths belong to [`Receivers`] with their own behaviour.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{Path, State};
use axum::routing::post;
use axum::serve::ListenerExt;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::cli::CliError;

use super::percentiles::Latency;
use super::receivers::Receivers;

/// Events whose publish time is remembered; later events overwrite earlier ones.
const REMEMBERED: usize = 1 << 20;

/// The sink recognises an event by this text: `"n":<index>` is the first field of its data.
pub(super) const INDEX_FIELD: &str = r#""data":{"n":"#;

pub(super) struct Sink {
    pub(super) address: SocketAddr,
    arrived: AtomicU64,
    owed: AtomicU64,
    epoch: Instant,
    /// Publish time of event n in nanoseconds since `epoch`; zero once the event has arrived.
    published: Vec<AtomicU64>,
    next: AtomicU64,
    arrivals: Mutex<Histogram<u64>>,
    pub(super) receivers: Receivers,
}

impl Sink {
    pub(super) async fn start(receivers: Receivers) -> Result<Arc<Self>, CliError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(CliError::failed)?;
        let sink = Arc::new(Self {
            address: listener.local_addr().map_err(CliError::failed)?,
            arrived: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            epoch: Instant::now(),
            published: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicU64::new(0),
            arrivals: Mutex::new(Latency::histogram()),
            receivers,
        });
        let router =
            axum::Router::new().route("/at/{place}", post(arrive_at)).fallback(arrive).with_state(sink.clone());
        let listener = listener.tap_io(|connection| {
            let _ = connection.set_nodelay(true);
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(sink)
    }

    /// The URL that is answered at once.
    pub(super) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// The URL of one of the receivers.
    pub(super) fn url_at(&self, place: usize) -> String {
        format!("http://{}/at/{place}", self.address)
    }

    /// Arrivals of events so far, without the requests of the raw measurement.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Deliveries owed for the events published so far.
    pub(super) fn owed(&self) -> u64 {
        self.owed.load(Ordering::Relaxed)
    }

    pub(super) fn owe(&self, deliveries: u64) {
        self.owed.fetch_add(deliveries, Ordering::Relaxed);
    }

    /// Returns the index of an event that is published now.
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

    fn note(&self, body: &[u8]) {
        let Some(index) = event_index(body) else { return };
        let at = self.place(index).swap(0, Ordering::Relaxed);
        if at != 0 {
            self.arrivals.lock().saturating_record(self.nanos().saturating_sub(at) / 1000);
        }
        self.arrived.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts an event at a receiver, even if other receivers got the same event.
async fn arrive_at(State(sink): State<Arc<Sink>>, Path(place): Path<usize>, body: Bytes) -> StatusCode {
    if !sink.receivers.accepts(place).await {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    if let Some(index) = event_index(&body) {
        let at = sink.place(index).load(Ordering::Relaxed);
        sink.receivers.note(place, sink.nanos().saturating_sub(at) / 1000);
        sink.arrived.fetch_add(1, Ordering::Relaxed);
    }
    StatusCode::OK
}

async fn arrive(State(sink): State<Arc<Sink>>, body: Bytes) {
    sink.note(&body);
}

fn event_index(body: &[u8]) -> Option<u64> {
    let field = INDEX_FIELD.as_bytes();
    let start = body.windows(field.len()).position(|window| window == field)? + field.len();
    let digits = body[start..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_known_by_its_index_and_a_raw_request_is_none() {
        assert_eq!(event_index(br#"{"event":"a","data":{"n":17,"padding":""}}"#), Some(17));
        assert_eq!(event_index(br#"{"event":"a","raw":{"n":17}}"#), None);
    }
}
