//! Sockets on tokio's epoll: a call for each read and each write.

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::io::holds_more;
use crate::watch::Watch;

/// At most so much is read at once, in bytes.
const READ_MOST: usize = 16 << 10;
/// A buffer for sending that has grown past this is not kept.
const SEND_KEPT: usize = 64 << 10;

/// A socket, and what is still to be sent on it.
#[derive(Debug)]
pub(crate) struct Polled {
    stream: TcpStream,
    out: Vec<u8>,
    sent: usize,
    watch: Rc<Watch>,
}

impl Polled {
    pub(crate) fn new(stream: TcpStream, watch: Rc<Watch>) -> Self {
        Self { stream, out: Vec::new(), sent: 0, watch }
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
                    self.forget_sent();
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

    /// A client that always leaves something unsent would have it grow.
    fn forget_sent(&mut self) {
        if self.sent >= SEND_KEPT {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Whether something has come that was not taken yet.
    pub(crate) fn has_more(&self) -> bool {
        holds_more(&self.stream)
    }

    /// Ends the connection both ways, at once.
    pub(crate) fn sever(&self) {
        // Fails where the peer is gone already.
        let _ = SockRef::from(&self.stream).shutdown(Shutdown::Both);
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Gives `take` what has come, at most `most` bytes of it; none at the end of the stream.
    #[inline]
    pub(crate) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        take: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<()>> {
        let mut bytes = [MaybeUninit::uninit(); READ_MOST];
        let mut buffer = ReadBuf::uninit(&mut bytes[..most.min(READ_MOST)]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        take(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;
    use crate::Options;
    use crate::watch::Watchdog;

    /// A client that takes some of what it asks for, and asks for more.
    #[test]
    fn what_was_sent_takes_no_memory_though_something_is_always_unsent() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            SockRef::from(&listener).set_recv_buffer_size(4 << 10).unwrap();
            let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            SockRef::from(&stream).set_send_buffer_size(4 << 10).unwrap();
            stream.set_nonblocking(true).unwrap();
            let (mut client, _) = listener.accept().unwrap();
            let (_, watch) = Watchdog::new(&Options::default()).add();
            let mut polled = Polled::new(TcpStream::from_std(stream).unwrap(), watch);
            let mut taken = 0;
            while taken < 4 << 20 {
                while polled.unsent() < SEND_KEPT {
                    polled.push(&[b'x'; 1 << 10]);
                }
                // The task has to be left for tokio to hear of room.
                tokio::task::yield_now().await;
                let sent = poll_fn(|cx| Poll::Ready(polled.poll_send(cx))).await;
                assert!(sent.is_pending(), "the kernel took all");
                assert!(polled.out.capacity() <= 4 * SEND_KEPT, "{}", polled.out.capacity());
                taken += client.read(&mut [0; 4 << 10]).unwrap();
            }
        });
    }
}
