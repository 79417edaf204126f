//! A connection's side of the ring.

use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Ring;
use crate::io::holds_more;

/// A connection's socket on the ring.
pub(crate) struct Handle {
    pub(super) ring: Rc<Ring>,
    pub(super) at: usize,
}

impl Handle {
    pub(crate) fn push(&self, bytes: &[u8]) {
        self.ring.0.borrow_mut().ports[self.at].out.extend_from_slice(bytes);
    }

    pub(crate) fn unsent(&self) -> usize {
        self.ring.0.borrow().ports[self.at].unsent()
    }

    /// Has what is lined up sent, without waiting for it.
    #[inline]
    pub(crate) fn send(&self) -> io::Result<()> {
        let mut inner = self.ring.0.borrow_mut();
        let port = &mut inner.ports[self.at];
        if let Some(error) = port.send_error {
            return Err(io::Error::from_raw_os_error(error));
        }
        if let Some(entry) = port.next_send(self.at) {
            inner.push(entry);
        }
        Ok(())
    }

    /// Sends what is lined up; ready when the kernel has taken all of it.
    pub(crate) fn poll_sent(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.send()?;
        let mut inner = self.ring.0.borrow_mut();
        let port = &mut inner.ports[self.at];
        if port.unsent() == 0 {
            return Poll::Ready(Ok(()));
        }
        keep(&mut port.sender, cx);
        Poll::Pending
    }

    /// Whether something has come that was not taken yet.
    pub(crate) fn has_more(&self) -> bool {
        let mut inner = self.ring.0.borrow_mut();
        // The kernel may have put it into the buffer already.
        inner.reap();
        let port = &inner.ports[self.at];
        !port.untaken().is_empty() || holds_more(&port.stream)
    }

    /// Says that nothing more will come.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        self.ring.0.borrow().ports[self.at].stream.shutdown(Shutdown::Write)
    }

    /// Ends the connection both ways, at once.
    pub(crate) fn sever(&self) {
        // Fails where the peer is gone already.
        let _ = self.ring.0.borrow().ports[self.at].stream.shutdown(Shutdown::Both);
    }

    /// Gives `take` what has come, at most `most` bytes of it; none at the end of the stream.
    #[inline]
    pub(crate) fn poll_take(
        &self,
        cx: &Context<'_>,
        most: usize,
        take: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<()>> {
        let mut inner = self.ring.0.borrow_mut();
        let port = &mut inner.ports[self.at];
        let untaken = port.untaken();
        if !untaken.is_empty() {
            let bytes = untaken.len().min(most);
            take(&untaken[..bytes]);
            port.take(bytes);
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = port.read_end {
            end.map_err(io::Error::from_raw_os_error)?;
            take(&[]);
            return Poll::Ready(Ok(()));
        }
        keep(&mut port.reader, cx);
        if !port.reading {
            let entry = port.next_read(self.at);
            inner.push(entry);
        }
        Poll::Pending
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut inner = self.ring.0.borrow_mut();
        let port = &mut inner.ports[self.at];
        port.abandon();
        if port.is_idle() {
            inner.ports.remove(self.at);
        }
    }
}

/// Keeps the task's waker; mostly it is there already.
#[inline]
fn keep(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}
