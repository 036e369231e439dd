//! The body of an answer, with its share of the memory for answers. Every piece on its way to the connection keeps the
//! share, which is given back when the last byte is written or the connection is gone.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

use crate::api::budget::Share;

/// Bytes that are handed to a connection at a time: what is handed over waits there, however slowly the client reads.
const PIECE: usize = 64 * 1024;

pub(super) struct HeldBody {
    body: Body,
    /// What is left of the last frame of the body.
    rest: Bytes,
    share: Arc<Share>,
}

/// Bytes of an answer that keep its share.
struct Part {
    bytes: Bytes,
    _share: Arc<Share>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HeldBody {
    /// Wraps a body. If its length is known, the share becomes as large.
    pub(super) fn of(body: Body, mut share: Share) -> Body {
        if let Some(bytes) = body.size_hint().exact() {
            share.correct(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        Body::new(Self { body, rest: Bytes::new(), share: Arc::new(share) })
    }
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => this.rest = Bytes::from_owner(Part { bytes, _share: this.share.clone() }),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;
    use crate::api::budget::{Budget, Sender};
    use crate::domain::id::TenantNum;

    #[tokio::test]
    async fn an_answer_takes_what_it_is_long_until_its_last_piece_is_gone() {
        let (budget, tenant) = (Budget::of_answers(1 << 20), Sender(TenantNum(1)));
        let mut share = budget.open(Some(tenant));
        share.grow(10 * PIECE).unwrap();

        let text = Bytes::from(vec![b'x'; 2 * PIECE + 1]);
        let body = HeldBody::of(Body::from(text.clone()), share);
        assert_eq!((budget.taken(), body.size_hint().exact()), (text.len(), Some(text.len() as u64)));

        let mut pieces: Vec<Bytes> = body.into_data_stream().try_collect().await.unwrap();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [PIECE, PIECE, 1]);
        assert_eq!((pieces.concat(), budget.taken()), (text.to_vec(), text.len()), "they are not sent yet");
        let last = pieces.pop();
        drop(pieces);
        assert_eq!(budget.taken(), text.len());
        drop(last);
        assert_eq!(budget.taken(), 0);
    }
}
