//! The socket under a connection: it collects answers and sends them in as few writes as it can.
//!
//! hyper flushes after every answer. Here a flush only leaves the bytes in `out`; whoever drives
//! the connection sends them after each poll, when hyper has answered everything that had
//! arrived. Sixteen pipelined requests so cost one write, and no answer waits for a request that
//! is still on its way (hyper's own `pipeline_flush` holds answers back, without bound, as long
//! as a part of a next request lies in its buffer, and loses them when it closes then).

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::watch::Watch;

/// With so many bytes unsent nothing more is read: a client that doesn't take its answers gets
/// no further ones made.
const HIGH_WATER_BYTES: usize = 64 << 10;

/// A socket, and what is still to be sent on it.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TokioIo<TcpStream>,
    out: Vec<u8>,
    sent: usize,
    watch: Rc<Watch>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, watch: Rc<Watch>) -> Self {
        Self { stream: TokioIo::new(stream), out: Vec::new(), sent: 0, watch }
    }

    /// Lines `bytes` up for [`Socket::poll_send`].
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Sends what is lined up.
    #[inline]
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.sent < self.out.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out[self.sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => {
                    self.sent += bytes;
                    self.watch.set_blocked(false);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.watch.set_blocked(true);
                    return Poll::Pending;
                }
            }
        }
        self.sent = 0;
        self.out.clear();
        if self.out.capacity() > HIGH_WATER_BYTES {
            self.out = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is lined up, then says that nothing more will come.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Reads and throws away; `Ready` at the end of the stream or after an error.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 4096];
        // So many rounds, then the other connections have their turn.
        for _ in 0..16 {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(self.stream.inner_mut()).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }
}

/// hyper's side of a [`Socket`].
#[derive(Clone, Debug)]
pub(crate) struct Io(pub(crate) Rc<RefCell<Socket>>);

impl Read for Io {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut socket = self.0.borrow_mut();
        if socket.unsent() >= HIGH_WATER_BYTES {
            ready!(socket.poll_send(cx))?;
        }
        ready!(Pin::new(&mut socket.stream).poll_read(cx, buffer))?;
        socket.watch.bytes_came();
        Poll::Ready(Ok(()))
    }
}

impl Write for Io {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut socket = self.0.borrow_mut();
        if socket.unsent() >= HIGH_WATER_BYTES {
            ready!(socket.poll_send(cx))?;
        }
        socket.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_close(cx)
    }
}
