//! Sockets on io_uring: what every connection of a worker wants of the kernel goes in with one
//! system call for all of them.
//!
//! A worker's event loop stays tokio's. Before it would sleep, it calls [`turn`]: everything that
//! was asked for since goes into the kernel together, and what is done by then wakes whoever
//! waited. While it sleeps, an eventfd that the kernel writes to wakes it. (The ring's own
//! descriptor would not do: with deferred task work it doesn't become readable in time.)
//!
//! A connection asks once to receive; from then on the kernel tells of whatever has come, in
//! buffers that it picks from a [`Pool`] of the ring. What it sends belongs to a [`Port`], and stays
//! where it is until the kernel has said that it is done, whatever becomes of the connection
//! meanwhile.
#![allow(unsafe_code, reason = "the kernel is given pointers; each use says why they stay valid")]

#[cfg(test)]
pub(crate) mod faults;
mod handle;
mod pool;
mod port;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::mem::ManuallyDrop;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::{IoUring, squeue};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use self::handle::Handle;
use self::pool::Pool;
use self::port::{Operation, Port, from_user_data};
use crate::watch::Watch;

/// How many operations fit between two system calls; more only cost another one. Few in tests, so
/// that it happens there.
const SUBMISSIONS: u32 = if cfg!(test) { 16 } else { 1024 };
/// How many completions fit; past that the kernel keeps them for us.
const COMPLETIONS: u32 = 8192;
/// How long to wait before the kernel is asked again that lacked something.
const RETRY_PAUSE: Duration = Duration::from_millis(1);
/// How often it is asked again for buffers that are to go.
const MOST_RETRIES: u32 = 1000;

thread_local! {
    static RING: RefCell<Option<Rc<Ring>>> = const { RefCell::new(None) };
}

/// Does what is due on the ring of the calling thread, if it has one: for tokio's
/// `on_thread_park`.
pub(crate) fn turn() {
    RING.with_borrow(|ring| {
        if let Some(ring) = ring {
            ring.turn();
        }
    });
}

/// A worker's ring.
pub(crate) struct Ring(RefCell<Inner>);

struct Inner {
    uring: IoUring,
    /// What the kernel writes to when something is done, while that is enabled.
    event: Option<OwnedFd>,
    ports: Slab<Port>,
    /// Goes only when the kernel has nothing under way that could write into it.
    pool: ManuallyDrop<Pool>,
    /// Operations that found the queue full; they go with the next system call.
    waiting: Vec<squeue::Entry>,
    /// Whom the last turn has to wake.
    woken: Vec<Waker>,
    /// Why the last system call failed; [`passes`] tells what becomes of it.
    failure: Option<io::Error>,
    on_failure: Option<Waker>,
}

impl Ring {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// The system has no io_uring, has too old a one (before Linux 6.1), or doesn't let this
    /// process use it, as is usual in containers.
    pub(crate) fn install() -> io::Result<Rc<Self>> {
        let uring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .dontfork()
            .build(SUBMISSIONS)?;
        let event = eventfd()?;
        uring.submitter().register_eventfd(event.as_raw_fd())?;
        let pool = ManuallyDrop::new(Pool::register(&uring.submitter())?);
        let (event, ports, waiting, woken) = (Some(event), Slab::new(), Vec::new(), Vec::new());
        let inner = Inner { uring, event, ports, pool, waiting, woken, failure: None, on_failure: None };
        let ring = Rc::new(Self(RefCell::new(inner)));
        RING.set(Some(Rc::clone(&ring)));
        Ok(ring)
    }

    /// Takes the ring from the calling thread.
    pub(crate) fn uninstall() {
        RING.take();
    }

    /// Wakes the event loop when the kernel has something to say. Never ends but by failing.
    pub(crate) async fn watch(self: Rc<Self>) -> io::Error {
        let Some(event) = self.0.borrow_mut().event.take() else {
            return io::Error::other("it is watched already");
        };
        // SAFETY: an `OwnedFd` is open, and the same, for as long as it lives.
        let fd = match unsafe { AsyncFd::register_with_interest(event, Interest::READABLE) } {
            Ok(fd) => fd,
            Err(error) => return error.into(),
        };
        loop {
            let error = std::future::poll_fn(|cx| self.poll_failure(&fd, cx)).await;
            if !passes(&error) {
                return error;
            }
            // Being awake is all: before it sleeps again, the loop takes a turn.
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn poll_failure(&self, fd: &AsyncFd<OwnedFd>, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut inner = self.0.borrow_mut();
        if let Some(error) = inner.failure.take() {
            return Poll::Ready(error);
        }
        inner.on_failure = Some(cx.waker().clone());
        drop(inner);
        loop {
            match fd.poll_read_ready(cx) {
                Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Submits what is lined up, and wakes those whose operations are done.
    pub(crate) fn turn(&self) {
        let mut woken = {
            let mut inner = self.0.borrow_mut();
            if let Err(error) = inner.before_sleep() {
                inner.failure = Some(error);
                let on_failure = inner.on_failure.take();
                inner.woken.extend(on_failure);
            }
            std::mem::take(&mut inner.woken)
        };
        // With the ring free: a waker that is the last to hold a task drops its connection here.
        woken.drain(..).for_each(Waker::wake);
        self.0.borrow_mut().woken = woken;
    }

    /// Takes a connection.
    pub(crate) fn add(self: &Rc<Self>, stream: TcpStream, watch: Rc<Watch>) -> io::Result<Handle> {
        // On a socket that doesn't block, the ring would fail instead of waiting.
        stream.set_nonblocking(false)?;
        let at = self.0.borrow_mut().ports.insert(Port::new(stream, watch));
        Ok(Handle { ring: Rc::clone(self), at })
    }
}

impl Inner {
    /// What the loop does before it would sleep. It sleeps only where nobody was woken; then the
    /// eventfd is on, and off otherwise, so that the kernel wakes nobody who is awake.
    fn before_sleep(&mut self) -> io::Result<()> {
        self.uring.completion().disable_eventfd();
        self.turn(0)?;
        if self.woken.is_empty() {
            self.uring.completion().enable_eventfd();
            // Either the kernel finds the eventfd on, or what it did before is found here. Once is
            // enough, and has to be: the flag that says that work waits may stay set when it is done.
            fence(Ordering::SeqCst);
            self.turn(0)?;
        }
        Ok(())
    }

    fn is_due(&mut self) -> bool {
        let submission = self.uring.submission();
        let due = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        due || !self.uring.completion().is_empty()
    }

    /// One system call, or none where there is nothing to do, and more only where the queue was
    /// full; `wait` for so many completions.
    fn turn(&mut self, mut wait: usize) -> io::Result<()> {
        loop {
            let entered = if wait > 0 || self.is_due() { self.enter(wait) } else { Ok(()) };
            self.reap();
            entered?;
            if !self.line_up_waiting() {
                return Ok(());
            }
            wait = 0;
        }
    }

    fn enter(&mut self, wait: usize) -> io::Result<()> {
        self.submit(wait).or_else(|error| {
            if !passes(&error) {
                return Err(error);
            }
            // There may be so many completions that some have to be taken first.
            self.reap();
            self.submit(wait)
        })
    }

    fn submit(&mut self, wait: usize) -> io::Result<()> {
        #[cfg(test)]
        faults::next()?;
        self.uring.submit_and_wait(wait).map(drop)
    }

    fn reap(&mut self) {
        let Self { uring, ports, pool, woken, .. } = self;
        // Operations that a completion leads to; they can't go in while the queue is read.
        let mut next = Vec::new();
        for completion in uring.completion() {
            let (at, what) = from_user_data(completion.user_data());
            if what == Operation::Stop {
                continue;
            }
            let port = &mut ports[at];
            if what == Operation::Read {
                port.read_done(&completion, pool, woken);
                next.extend(port.after_read(at));
            } else {
                port.send_done(completion.result(), woken);
                next.extend(port.next_send(at));
            }
            if port.abandoned && port.is_idle() {
                ports.remove(at);
            }
        }
        pool.publish();
        for entry in next {
            self.push(entry);
        }
    }

    /// Lines an operation up.
    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: every entry is made by a `Port`. Its descriptor, and what it sends, stay in it,
        // unmoved, until the completion has been taken; the pool stays until no port is left. Only
        // what stops a read may outlive its port, and that has no pointers.
        if unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.waiting.push(entry);
        }
    }

    /// Lines those up that found the queue full; whether any has found a place now.
    fn line_up_waiting(&mut self) -> bool {
        let before = self.waiting.len();
        // SAFETY: as in `push`.
        while let Some(entry) = self.waiting.last()
            && unsafe { self.uring.submission().push(entry) }.is_ok()
        {
            self.waiting.pop();
        }
        self.waiting.len() < before
    }
}

/// Whether the kernel only lacks something for now, or was interrupted.
fn passes(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR | libc::ENOMEM))
}

impl Drop for Inner {
    /// The kernel may still be writing into buffers: they go only when it is done with them.
    fn drop(&mut self) {
        for (_, port) in &mut self.ports {
            port.abandon();
        }
        self.ports.retain(|_, port| !port.is_idle());
        let mut retries = MOST_RETRIES;
        while !self.ports.is_empty() {
            match self.turn(1) {
                Ok(()) => {}
                Err(error) if passes(&error) && retries > 0 => {
                    retries -= 1;
                    std::thread::sleep(RETRY_PAUSE);
                }
                // It can't be asked any more, so what it was given is left to it.
                Err(_) => return std::mem::forget(std::mem::take(&mut self.ports)),
            }
        }
        // SAFETY: it is dropped here alone, and nobody looks at it after this.
        unsafe { ManuallyDrop::drop(&mut self.pool) };
    }
}

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: it takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is new, open, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
