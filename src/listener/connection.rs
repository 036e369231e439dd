//! Serves one connection from its acceptance to its end: TLS, HTTP and the deadline. The acceptor in [`super`] starts
//! it, and [`super::activity`] computes the deadline.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::RETRY_AFTER;
use axum::http::{Extensions, HeaderValue, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::activity::{Activity, Limits, Manner};
use super::activity_io::ActivityIo;
use super::answer::{AnswerBody, PIECE, UnderWay};
use super::connections::ConnectionSlot;
use super::overload_response;
use super::streams::{self, Handed, Streams};
use super::strict::Strict;
use super::turns::Turns;

/// Size limit of a request head: request line, names and values together. HTTP/1 answers a larger head with `431`;
/// HTTP/2 refuses the request. The same amount is read ahead of a body. An incomplete head, also one that arrives in
/// CONTINUATION frames, occupies memory up to this limit.
const HEAD_BYTES: usize = 16 * 1024;

/// Header fields of a request; a request with more is answered `431`.
const HEAD_FIELDS: usize = 100;

/// HTTP/2: concurrent requests on one connection. [`super::connections`] bounds them over all connections.
const STREAMS: u32 = 100;

/// HTTP/2: a client that opens and resets streams faster than they are served loses its connection (CVE-2023-44487).
const PENDING_RESETS: usize = 20;

/// HTTP/2: a client whose streams break the protocol, so that the server has to reset them, loses its connection, too
/// (CVE-2025-8671).
const LOCAL_RESETS: usize = 100;

/// HTTP/2: body bytes that no handler has read yet, on one stream and on one connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;

/// HTTP/2: after this time without a frame the server sends a PING, and the peer has as long again to answer.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// A connection without a deadline is checked this often, even if nothing has happened on it.
const LOOK: Duration = Duration::from_secs(60);

/// Clients keep idle connections for up to 90 s and reconnect when the server closes one earlier.
const LIMITS: Limits = Limits {
    head: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    write: Duration::from_secs(30),
    close: Duration::from_secs(1),
};

/// Shared by all connections.
pub(super) struct Means {
    router: Router,
    /// Tells from a response's extensions whether its caller had a valid key.
    is_known: fn(&Extensions) -> bool,
    http: auto::Builder<Streams>,
    pub(super) tls: Option<TlsAcceptor>,
    limits: Limits,
    turns: Turns,
    /// Cancelled when the listener stops: no new request may begin.
    pub(super) stopping: CancellationToken,
}

impl Means {
    /// With a turn for half of the threads of the runtime that calls this.
    pub(super) fn new(
        router: Router,
        is_known: fn(&Extensions) -> bool,
        tls: Option<TlsAcceptor>,
        stopping: CancellationToken,
    ) -> Self {
        let turns = Turns::among(Handle::current().metrics().num_workers());
        Self { router, is_known, http: http(&LIMITS, &turns), tls, limits: LIMITS, turns, stopping }
    }
}

fn http(limits: &Limits, turns: &Turns) -> auto::Builder<Streams> {
    let mut http = auto::Builder::new(Streams { write: limits.write, turns: turns.clone() });
    // `Activity` limits the time for a head, since that limit must also hold before the HTTP version is known.
    http.http1().header_read_timeout(None).max_buf_size(HEAD_BYTES).max_headers(HEAD_FIELDS);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // hyper buffers no more than one piece of an answer until the peer has read it.
        .max_send_buf_size(PIECE)
        .keep_alive_interval(SIGN_OF_LIFE)
        .keep_alive_timeout(SIGN_OF_LIFE);
    http
}

/// Serves a connection until the connection ends, its deadline passes or its slot is needed.
pub(super) async fn serve<I>(stream: I, peer: SocketAddr, means: Arc<Means>, place: ConnectionSlot)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let leaving = means.stopping.child_token();
    let watched = ActivityIo::new(stream, place.activity.clone());
    let speaker = Speaker { peer, means: &means, place: &place, leaving: &leaving };
    let spoken = Box::pin(speaker.speak(watched));
    in_time(spoken, &means, &place, &leaving).await;
}

struct Speaker<'a> {
    peer: SocketAddr,
    means: &'a Arc<Means>,
    place: &'a ConnectionSlot,
    leaving: &'a CancellationToken,
}

impl Speaker<'_> {
    async fn speak<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, io: ActivityIo<I>) {
        let Some(tls) = &self.means.tls else { return self.converse(io).await };
        match self.leaving.run_until_cancelled(tls.accept(io)).await {
            Some(Ok(io)) => self.converse(io).await,
            Some(Err(error)) => tracing::debug!(%error, peer = %self.peer, "TLS handshake failed; connection closed"),
            None => {}
        }
    }

    async fn converse<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, io: I) {
        let Self { peer, means, place, leaving } = self;
        let service = service_fn(|request: Request<Incoming>| {
            let is_multiplexed = request.version() == Version::HTTP_2;
            let under_way = place.begin(is_multiplexed);
            if is_multiplexed {
                streams::handed(match &under_way {
                    None => Handed::Refused,
                    Some(_) if place.activity.lock().is_known() => Handed::Known,
                    Some(_) => Handed::Anonymous,
                });
            }
            answered(means.clone(), request, peer, under_way)
        });
        let mut conversation = pin!(means.http.serve_connection(TokioIo::new(Strict::new(io)), service));
        let ended = tokio::select! {
            ended = conversation.as_mut() => ended,
            () = leaving.cancelled() => {
                place.activity.lock().leave(Instant::now());
                conversation.as_mut().graceful_shutdown();
                conversation.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, %peer, "connection to the API ended in the middle of a request");
        }
    }
}

async fn answered(
    means: Arc<Means>,
    request: Request<Incoming>,
    peer: SocketAddr,
    under_way: Option<Arc<UnderWay>>,
) -> Result<Response<AnswerBody>, Infallible> {
    let is_multiplexed = request.version() == Version::HTTP_2;
    let Some(under_way) = under_way else { return Ok(overloaded(is_multiplexed)) };
    streams::attach(&under_way);
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    let response = means.router.clone().oneshot(request).await?;
    if (means.is_known)(response.extensions()) {
        under_way.caller_is_known();
    }
    Ok(response.map(|body| AnswerBody::new(body, Some(under_way), is_multiplexed)))
}

/// With HTTP/2 the answer has no body, so that the peer cannot leave it unread.
fn overloaded(is_multiplexed: bool) -> Response<AnswerBody> {
    let body = if is_multiplexed { Body::empty() } else { Body::from(overload_response::BODY) };
    let mut response = Response::new(AnswerBody::new(body, None, is_multiplexed));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Polls `conversation` until it ends or its deadline passes.
async fn in_time(
    mut conversation: Pin<Box<impl Future<Output = ()>>>,
    means: &Means,
    place: &ConnectionSlot,
    leaving: &CancellationToken,
) {
    let Means { limits, turns, .. } = means;
    let mut turn = turns.turn();
    let mut alarm = pin!(sleep_until(Instant::now() + limits.head));
    let mut evicted = pin!(place.evicted.cancelled());
    poll_fn(|cx| {
        let is_known = place.activity.lock().is_known();
        if turn.poll(conversation.as_mut(), is_known, cx).is_ready() {
            return Poll::Ready(());
        }
        // This only registers the waker: `Activity::ends` decides what an eviction means.
        if !place.evicted.is_cancelled() {
            let _ = evicted.as_mut().poll(cx);
        }
        time_is_up(alarm.as_mut(), cx, limits, &place.activity, leaving)
    })
    .await;
}

/// Ready when the connection has to end at once; begins a graceful shutdown when that is due.
fn time_is_up(
    mut alarm: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
    limits: &Limits,
    activity: &Mutex<Activity>,
    leaving: &CancellationToken,
) -> Poll<()> {
    loop {
        let now = Instant::now();
        let ends = activity.lock().ends(limits);
        match ends {
            Some((at, Manner::AtOnce)) if at <= now => return Poll::Ready(()),
            Some((at, Manner::Politely)) if at <= now => {
                activity.lock().leave(now);
                leaving.cancel();
                continue;
            }
            Some(_) | None => {}
        }
        let look = ends.map_or(now + LOOK, |(at, _)| at);
        if look < alarm.deadline() || alarm.is_elapsed() {
            alarm.as_mut().reset(look);
        }
        ready!(alarm.as_mut().poll(cx));
    }
}
