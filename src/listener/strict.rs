//! Wraps a socket and refuses ambiguous HTTP/1 framing, as [`super::framing`] finds it. [`super::connection`] reads
//! plain HTTP through it. In place of a refused line end, hyper gets bytes that no head and no chunk may contain; hyper
//! then answers `400` and closes the connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::Framing;

/// NUL is valid in no line, and the empty line makes hyper parse the head.
const REFUSED: &[u8] = b"\0\r\n\r\n";

pub(super) struct Strict<I> {
    io: I,
    framing: Framing,
    /// Bytes to return before any others.
    instead: &'static [u8],
}

impl<I> Strict<I> {
    /// `io` yields the peer's bytes in plain text, after TLS.
    pub(super) fn new(io: I) -> Self {
        Self { io, framing: Framing::new(), instead: &[] }
    }

    fn give_instead(&mut self, buffer: &mut ReadBuf<'_>) {
        let (now, later) = self.instead.split_at(self.instead.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.instead = later;
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Strict<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.instead.is_empty() {
            self.give_instead(buffer);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        if let Some(at) = self.framing.inspect(&buffer.filled()[before..]) {
            buffer.set_filled(before + at);
            self.instead = REFUSED;
            self.give_instead(buffer);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Strict<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
