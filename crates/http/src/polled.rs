//! Sockets on tokio's epoll: a call for each read and each write.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::watch::Watch;

/// A buffer for sending that has grown past this is not kept.
const SEND_KEPT: usize = 64 << 10;

/// A socket, and what is still to be sent on it.
#[derive(Debug)]
pub(crate) struct Polled {
    stream: TokioIo<TcpStream>,
    out: Vec<u8>,
    sent: usize,
    watch: Rc<Watch>,
}

impl Polled {
    pub(crate) fn new(stream: TcpStream, watch: Rc<Watch>) -> Self {
        Self { stream: TokioIo::new(stream), out: Vec::new(), sent: 0, watch }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn unsent(&self) -> usize {
        self.out.len() - self.sent
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
        if self.out.capacity() > SEND_KEPT {
            self.out = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    #[inline]
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }

    /// Throws away what comes; ready with `true` at the end of the stream.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut bytes = [0; 4096];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(self.stream.inner_mut()).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().is_empty()))
    }
}
