//! A request that is under way, until the last of its answer is taken in: what makes a connection busy.
//!
//! HTTP/2 lets the peer say how much of each answer it takes, so what was handed over may stay here for as long as the peer
//! likes. An answer is therefore given in pieces, the next one when the last was taken in, and the clock of
//! [`super::activity`] runs while a piece waits. With HTTP/1.1 the socket says as much.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use bytes::Buf;
use futures_util::task::AtomicWaker;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::activity::{Activity, RequestId};

/// HTTP/2's usual frame. Taken in within the time for writing, it is the least that a peer gets through: 546 bytes a second.
pub(super) const PIECE: usize = 16 * 1024;

/// Counts as a request under way while it lives.
pub(super) struct UnderWay {
    activity: Arc<Mutex<Activity>>,
    id: RequestId,
    /// Of all connections.
    requests: Arc<AtomicUsize>,
    /// Waits until a piece was taken in.
    next_piece: AtomicWaker,
}

impl UnderWay {
    /// `requests` counts it already.
    pub(super) fn begin(
        activity: &Arc<Mutex<Activity>>,
        requests: Arc<AtomicUsize>,
        is_multiplexed: bool,
    ) -> Arc<Self> {
        let id = activity.lock().began(is_multiplexed, Instant::now());
        Arc::new(Self { activity: activity.clone(), id, requests, next_piece: AtomicWaker::new() })
    }

    /// The caller had a valid key.
    pub(super) fn caller_is_known(&self) {
        self.activity.lock().caller_is_known();
    }

    /// Since when the peer has not taken in a piece of the answer.
    pub(super) fn unread_since(&self) -> Option<Instant> {
        self.activity.lock().unread_since(self.id)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.activity.lock().ended(self.id, Instant::now());
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer, which keeps its request under way.
pub(super) struct AnswerBody {
    body: Body,
    /// Of the last frame, what was not given yet.
    rest: Bytes,
    is_in_pieces: bool,
    /// `None` for an answer that is not counted.
    under_way: Option<Arc<UnderWay>>,
}

impl AnswerBody {
    /// `is_in_pieces`: with HTTP/2.
    pub(super) fn new(body: Body, under_way: Option<Arc<UnderWay>>, is_in_pieces: bool) -> Self {
        Self { body, rest: Bytes::new(), is_in_pieces, under_way }
    }

    fn is_unread(&self) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| under_way.unread_since().is_some())
    }

    fn next_piece(&mut self) -> Piece {
        let length = if self.is_in_pieces { self.rest.len().min(PIECE) } else { self.rest.len() };
        let receipt = self.under_way.clone().filter(|_| self.is_in_pieces).map(|under_way| {
            under_way.activity.lock().offered(under_way.id, Instant::now());
            Receipt(under_way)
        });
        Piece { bytes: self.rest.split_to(length), receipt }
    }
}

impl HttpBody for AnswerBody {
    type Data = Piece;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Some(under_way) = self.under_way.as_ref().filter(|_| self.is_in_pieces) {
            under_way.next_piece.register(cx.waker());
            if self.is_unread() {
                return Poll::Pending;
            }
        }
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)?).map(Frame::into_data) {
                None => return Poll::Ready(None),
                Some(Ok(data)) => self.rest = data,
                Some(Err(other)) => {
                    let other = other.into_trailers().map(Frame::trailers).ok();
                    return Poll::Ready(other.map(Ok));
                }
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.next_piece()))))
    }

    /// Not before the last piece was taken in: nothing ends an answer that hyper takes for complete.
    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream() && !(self.is_in_pieces && self.is_unread())
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole
    }
}

/// Part of an answer on its way out. With HTTP/2, the next one follows once this is gone.
pub(super) struct Piece {
    bytes: Bytes,
    receipt: Option<Receipt>,
}

struct Receipt(Arc<UnderWay>);

impl Drop for Receipt {
    fn drop(&mut self) {
        let Self(under_way) = self;
        under_way.activity.lock().taken(under_way.id);
        under_way.next_piece.wake();
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if self.bytes.is_empty() {
            self.receipt = None;
        }
    }
}
