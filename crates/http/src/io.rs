//! The socket under a connection: it collects answers and sends them in as few writes as it can.
//!
//! hyper flushes after every answer. Here a flush only leaves the bytes lined up; whoever drives
//! the connection sends them after each poll, when hyper has answered everything that had
//! arrived. Sixteen pipelined requests so cost one write, and no answer waits for a request that
//! is still on its way (hyper's own `pipeline_flush` holds answers back, without bound, as long
//! as a part of a next request lies in its buffer, and loses them when it closes then).
//!
//! There are two ways to the kernel: a [`ring`](crate::ring), where the system lets us, and the
//! calls that [tokio's epoll](crate::polled) announces.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use socket2::SockRef;
use tokio::net::TcpStream;
use tracing::error;

use crate::held::Held;
use crate::polled::Polled;
use crate::problem::Problem;
use crate::ring::{Handle, Ring};
use crate::watch::Watch;

/// With so many bytes unsent nothing more is read: a client that doesn't take its answers gets
/// no further ones made.
const HIGH_WATER_BYTES: usize = 64 << 10;
/// So many answers are held for one connection; a request after them waits by itself, so that a
/// client that pipelines doesn't fill the writer's lane.
const MAX_HELD: usize = 128;

/// A socket, and what is still to be sent on it.
pub(crate) struct Socket {
    way: Way,
    watch: Rc<Watch>,
    held: Held,
    /// hyper has bytes that it could not write yet.
    stuck: bool,
}

enum Way {
    Polled(Polled),
    Ring(Handle),
}

impl Socket {
    /// On the worker's ring, if it has one.
    ///
    /// # Errors
    /// The socket can't be moved to the ring.
    pub(crate) fn new(stream: TcpStream, ring: Option<&Rc<Ring>>, watch: Rc<Watch>) -> io::Result<Self> {
        let way = match ring {
            Some(ring) => Way::Ring(ring.add(stream.into_std()?, Rc::clone(&watch))?),
            None => Way::Polled(Polled::new(stream, Rc::clone(&watch))),
        };
        Ok(Self { way, watch, held: Held::default(), stuck: false })
    }

    /// Lines `bytes` up to be sent, behind what is held.
    #[inline]
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if !self.held.push(bytes) {
            self.way.push(bytes);
        }
    }

    /// Whether the next answer may be [held](Self::hold): it will be written alone, and at once.
    #[inline]
    pub(crate) fn may_hold(&self) -> bool {
        !self.stuck && self.held.len() < MAX_HELD && self.unsent() < HIGH_WATER_BYTES
    }

    /// Holds the next answer that is written, and all that is written behind it, until
    /// [`release`](Self::release).
    #[inline]
    pub(crate) fn hold(&mut self) {
        self.held.begin();
        self.watch.set_holding(true);
    }

    /// Lines the oldest answer that is held up to be sent, or what refuses in its place.
    /// [`go`](Self::go) sends it.
    #[inline]
    pub(crate) fn release(&mut self, refused: Option<&Problem>) {
        let Self { way, held, .. } = self;
        if !held.release(refused, |bytes| way.push(bytes)) {
            // It is gone from what is held, so nobody takes it for an acceptance.
            error!("An answer could not be replaced, so its connection is closed; please report it");
            way.sever();
        }
        if self.held.is_empty() {
            self.watch.set_holding(false);
        }
    }

    /// Sends what was released; from outside of the connection's task.
    #[inline]
    pub(crate) fn go(&mut self) {
        match &mut self.way {
            // Whatever fails, the connection finds as well.
            Way::Ring(handle) => drop(handle.send()),
            Way::Polled(_) => self.watch.wake(),
        }
        if let Some(waker) = self.held.take_waker() {
            waker.wake();
        }
    }

    /// Ready when no answer is held.
    pub(crate) fn poll_released(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.held.is_empty() {
            return Poll::Ready(());
        }
        self.held.wake_when_empty(cx);
        Poll::Pending
    }

    fn unsent(&self) -> usize {
        self.held.bytes()
            + match &self.way {
                Way::Polled(polled) => polled.unsent(),
                Way::Ring(handle) => handle.unsent(),
            }
    }

    /// Has what is lined up sent as far as the client takes it now. The rest follows by itself on
    /// a ring, and with the next call elsewhere, for which the task is woken.
    ///
    /// # Errors
    /// The connection is broken.
    #[inline]
    pub(crate) fn send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match &mut self.way {
            Way::Polled(polled) => match polled.poll_send(cx) {
                Poll::Ready(Err(error)) => Err(error),
                _ => Ok(()),
            },
            Way::Ring(handle) => handle.send(),
        }
    }

    /// Sends what is lined up; ready when the kernel has all of it, and nothing is held.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_released(cx).is_pending() {
            self.send(cx)?;
            return Poll::Pending;
        }
        match &mut self.way {
            Way::Polled(polled) => polled.poll_send(cx),
            Way::Ring(handle) => handle.poll_sent(cx),
        }
    }

    /// Whether something has come that was not read yet, told or not.
    pub(crate) fn has_more(&self) -> bool {
        match &self.way {
            Way::Polled(polled) => polled.has_more(),
            Way::Ring(handle) => handle.has_more(),
        }
    }

    /// Sends what is lined up, then says that nothing more will come.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx))?;
        match &mut self.way {
            Way::Polled(polled) => polled.poll_shutdown(cx),
            Way::Ring(handle) => Poll::Ready(handle.shutdown()),
        }
    }

    /// Reads and throws away; ready at the end of the stream or after an error.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // So many rounds, then the other connections have their turn.
        for _ in 0..16 {
            let mut ended = true;
            let taken = ready!(self.poll_take(cx, usize::MAX, |bytes| ended = bytes.is_empty()));
            if taken.is_err() || ended {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives `take` what has come, at most `most` bytes of it; none at the end of the stream.
    #[inline]
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        take: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<()>> {
        match &mut self.way {
            Way::Polled(polled) => polled.poll_take(cx, most, take),
            Way::Ring(handle) => handle.poll_take(cx, most, take),
        }
    }

    /// Ready while less is unsent than may be.
    #[inline]
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent() < HIGH_WATER_BYTES { Poll::Ready(Ok(())) } else { self.poll_sent(cx) }
    }
}

/// Whether the kernel holds bytes that came on a socket.
pub(crate) fn holds_more(socket: &impl AsFd) -> bool {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    let bytes = SockRef::from(socket).recv_with_flags(&mut [MaybeUninit::uninit()], flags);
    bytes.is_ok_and(|bytes| bytes > 0)
}

impl Way {
    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Polled(polled) => polled.push(bytes),
            Self::Ring(handle) => handle.push(bytes),
        }
    }

    /// Ends the connection both ways, at once.
    fn sever(&self) {
        match self {
            Self::Polled(polled) => polled.sever(),
            Self::Ring(handle) => handle.sever(),
        }
    }
}

/// hyper's side of a [`Socket`].
#[derive(Clone)]
pub(crate) struct Io(pub(crate) Rc<RefCell<Socket>>);

impl Read for Io {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut socket = self.0.borrow_mut();
        ready!(socket.poll_room(cx))?;
        let watch = Rc::clone(&socket.watch);
        socket.poll_take(cx, buffer.remaining(), |bytes| {
            buffer.put_slice(bytes);
            watch.bytes_came(bytes);
        })
    }
}

impl Write for Io {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut socket = self.0.borrow_mut();
        let room = socket.poll_room(cx)?;
        socket.stuck = room.is_pending();
        ready!(room);
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
