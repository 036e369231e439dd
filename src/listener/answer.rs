//! Counts a request as under way until the peer has read the end of its answer. Used by [`super::connection`].
//!
//! With HTTP/2 the peer controls how much of each answer it accepts, so data given to hyper may wait there for as long
//! as the peer likes. An HTTP/2 answer is therefore sent in pieces: each piece follows when the peer has read the
//! previous one, and [`super::activity`] measures how long a piece waits. With HTTP/1.1 a blocked socket shows the
//! same.

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

/// The default frame size of HTTP/2. One piece within the write limit of 30 s means at least 546 bytes a second.
pub(super) const PIECE: usize = 16 * 1024;

/// Counts as one request under way until it is dropped.
pub(super) struct UnderWay {
    activity: Arc<Mutex<Activity>>,
    id: RequestId,
    /// Requests under way on all connections.
    requests: Arc<AtomicUsize>,
    /// Wakes the body when the peer has read a piece.
    next_piece: AtomicWaker,
}

impl UnderWay {
    /// The caller has already added this request to `requests`.
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

    /// Since when a piece of the answer waits for the peer.
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

/// The body of an answer. The request stays under way while this body exists.
pub(super) struct AnswerBody {
    body: Body,
    /// The part of the last frame that was not handed to hyper yet.
    rest: Bytes,
    is_in_pieces: bool,
    /// `None` for the answer to a refused request, which is not counted.
    under_way: Option<Arc<UnderWay>>,
}

impl AnswerBody {
    /// `is_in_pieces` is set for HTTP/2.
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

    /// Not before the peer has read the last piece: once hyper considers an answer complete, nothing can give it up.
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

/// A part of an answer that hyper sends. With HTTP/2 the next piece follows once this one is sent.
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
