//! Sample receivers on loopback, each with its own behaviour. The demo starts them; they know nothing of the engine.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const ANY_PORT: &str = "127.0.0.1:0";

/// Slow, but well within the default timeout of 5 s.
const SLOW: Duration = Duration::from_secs(2);

const RETRY_AFTER_SECONDS: &str = "3";

/// Requests that the `Gone` receiver accepts before it answers 410.
const LAST_ACCEPTED: u64 = 3;

/// The server has stopped by then; only the hanging handler can still be running.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// How a receiver answers.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Accepts,
    Flaky,
    Slow,
    Hangs,
    Goes,
    Busy,
}

/// A receiver and the webhook that the demo creates for it.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) name: &'static str,
    pub(super) does: &'static str,
    pub(super) events: &'static [&'static str],
    path: &'static str,
    /// `None`: connections are refused.
    manner: Option<Manner>,
}

pub(super) const SAMPLES: [Sample; 7] = [
    Sample { name: "Steady", does: "answers 200 at once", events: &["*"], path: "/ok", manner: Some(Manner::Accepts) },
    Sample {
        name: "Flaky",
        does: "answers every third request with 500",
        events: &["message.*", "conversation.*"],
        path: "/flaky",
        manner: Some(Manner::Flaky),
    },
    Sample {
        name: "Slow",
        does: "answers 200 after 2 s",
        events: &["conversation.*"],
        path: "/slow",
        manner: Some(Manner::Slow),
    },
    Sample { name: "Hangs", does: "never answers", events: &["call.*"], path: "/hangs", manner: Some(Manner::Hangs) },
    Sample {
        name: "Gone",
        does: "answers 410 from the fourth request on",
        events: &["customer.*"],
        path: "/gone",
        manner: Some(Manner::Goes),
    },
    Sample {
        name: "Busy",
        does: "answers every other request with 429, Retry-After: 3",
        events: &["user.*"],
        path: "/busy",
        manner: Some(Manner::Busy),
    },
    Sample { name: "Refused", does: "refuses the connection", events: &["message.received"], path: "/", manner: None },
];

impl Manner {
    /// Answers request `number`, counted from one.
    async fn answer(self, number: u64) -> Response {
        match self {
            Self::Accepts => StatusCode::OK.into_response(),
            Self::Flaky if number.is_multiple_of(3) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Self::Flaky => StatusCode::OK.into_response(),
            Self::Slow => {
                tokio::time::sleep(SLOW).await;
                StatusCode::OK.into_response()
            }
            Self::Hangs => std::future::pending().await,
            Self::Goes if number > LAST_ACCEPTED => StatusCode::GONE.into_response(),
            Self::Goes => StatusCode::OK.into_response(),
            Self::Busy if number.is_multiple_of(2) => StatusCode::OK.into_response(),
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, RETRY_AFTER_SECONDS)]).into_response(),
        }
    }
}

/// Requests that each of [`SAMPLES`] has received.
pub(super) type Seen = [u64; SAMPLES.len()];

/// The running receivers.
pub(super) struct Receivers {
    address: SocketAddr,
    refusing: SocketAddr,
    /// Bound and never listening: connections are refused, and no other process gets the port.
    _refuses: TcpSocket,
    seen: Arc<[AtomicU64; SAMPLES.len()]>,
    stopping: CancellationToken,
    server: JoinHandle<io::Result<()>>,
}

impl Receivers {
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(ANY_PORT).await?;
        let address = listener.local_addr()?;
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let seen = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let stopping = CancellationToken::new();
        let stopped = stopping.clone().cancelled_owned();
        let router = router(&seen);
        let server = tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stopped).await });
        Ok(Self { address, refusing: socket.local_addr()?, _refuses: socket, seen, stopping, server })
    }

    pub(super) fn url(&self, sample: &Sample) -> String {
        let address = if sample.manner.is_some() { self.address } else { self.refusing };
        format!("http://{address}{}", sample.path)
    }

    /// Stops the receivers; returns how many requests each has received.
    pub(super) async fn stop(mut self) -> Seen {
        self.stopping.cancel();
        if tokio::time::timeout(STOP_PATIENCE, &mut self.server).await.is_err() {
            self.server.abort();
        }
        std::array::from_fn(|place| self.seen[place].load(Ordering::Relaxed))
    }
}

fn router(seen: &Arc<[AtomicU64; SAMPLES.len()]>) -> Router {
    let mut router = Router::new();
    for (place, sample) in SAMPLES.iter().enumerate() {
        let Some(manner) = sample.manner else { continue };
        let seen = seen.clone();
        // The body must be read before the connection can serve the next request.
        let answer = async move |_: Bytes| {
            let number = seen[place].fetch_add(1, Ordering::Relaxed) + 1;
            manner.answer(number).await
        };
        router = router.route(sample.path, post(answer));
    }
    router
}
