//! A request that is under way, until the last of its answer is handed over: what makes a connection busy.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::activity::Activity;

/// Counts as a request under way while it lives.
pub(super) struct UnderWay(Arc<Mutex<Activity>>);

impl UnderWay {
    pub(super) fn begin(activity: &Arc<Mutex<Activity>>, is_multiplexed: bool) -> Self {
        activity.lock().began(is_multiplexed);
        Self(activity.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.lock().ended(Instant::now());
    }
}

/// The body of an answer, which keeps its request under way.
pub(super) struct AnswerBody {
    body: Body,
    _under_way: UnderWay,
}

impl AnswerBody {
    pub(super) fn new(body: Body, under_way: UnderWay) -> Self {
        Self { body, _under_way: under_way }
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
