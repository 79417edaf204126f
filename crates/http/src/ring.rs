//! Sockets on io_uring: what every connection of a worker wants of the kernel goes in with one
//! system call for all of them.
//!
//! A worker's event loop stays tokio's. Before it would sleep, it calls [`turn`]: everything that
//! was asked for since goes into the kernel together, and what is done by then wakes whoever
//! waited. While it sleeps, an eventfd that the kernel writes to wakes it. (The ring's own
//! descriptor would not do: with deferred task work it doesn't become readable in time.)
//!
//! The kernel writes into, and reads from, buffers that belong to a [`Port`] and stay where they
//! are until the kernel has said that it is done, whatever becomes of the connection meanwhile.
#![allow(unsafe_code, reason = "the kernel is given pointers; each use says why they stay valid")]

use std::cell::RefCell;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, opcode, squeue, types};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::watch::Watch;

/// How many operations fit between two system calls; more only cost another one.
const SUBMISSIONS: u32 = 1024;
/// How many completions fit; past that the kernel keeps them for us.
const COMPLETIONS: u32 = 8192;
/// What a connection's buffer for reading has at least, and at most, in bytes. It shrinks
/// after a short read.
const READ_LEAST: usize = 1 << 10;
const READ_MOST: usize = 64 << 10;
/// A buffer for sending that has grown past this is not kept.
const SEND_KEPT: usize = 16 << 10;
/// `IORING_RECVSEND_POLL_FIRST`: there is rarely anything to read at once, so don't look first.
const POLL_FIRST: u16 = 1;

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
    /// Whom the last turn has to wake.
    woken: Vec<Waker>,
    failure: Option<io::Error>,
    on_failure: Option<Waker>,
}

/// One socket, as the ring sees it.
struct Port {
    stream: TcpStream,
    watch: Rc<Watch>,
    reading: bool,
    /// What has come lies between `taken` and `filled`.
    input: Box<[u8]>,
    taken: usize,
    filled: usize,
    /// The stream has ended, or failed.
    read_end: Option<Result<(), i32>>,
    reader: Option<Waker>,
    /// What the kernel is sending, from `sent` on.
    sending: Vec<u8>,
    sent: usize,
    is_sending: bool,
    /// What goes next.
    out: Vec<u8>,
    send_error: Option<i32>,
    sender: Option<Waker>,
    /// Its connection is gone; it goes when the kernel is done with it.
    abandoned: bool,
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
        let (event, ports, woken) = (Some(event), Slab::new(), Vec::new());
        let inner = Inner { uring, event, ports, woken, failure: None, on_failure: None };
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
        std::future::poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            if let Some(error) = inner.failure.take() {
                return Poll::Ready(error);
            }
            inner.on_failure = Some(cx.waker().clone());
            drop(inner);
            loop {
                match fd.poll_read_ready(cx) {
                    // Being awake is all: before it sleeps again, the loop takes a turn.
                    Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                    Poll::Ready(Err(error)) => return Poll::Ready(error),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
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
        let port = Port {
            stream,
            watch,
            reading: false,
            input: Box::default(),
            taken: 0,
            filled: 0,
            read_end: None,
            reader: None,
            sending: Vec::new(),
            sent: 0,
            is_sending: false,
            out: Vec::new(),
            send_error: None,
            sender: None,
            abandoned: false,
        };
        let at = self.0.borrow_mut().ports.insert(port);
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

    /// One system call, or none where there is nothing to do; `wait` for so many completions.
    fn turn(&mut self, wait: usize) -> io::Result<()> {
        if wait > 0 || self.is_due() {
            self.enter(wait)?;
        }
        self.reap();
        Ok(())
    }

    fn enter(&mut self, wait: usize) -> io::Result<()> {
        loop {
            match self.uring.submit_and_wait(wait) {
                Ok(_) => return Ok(()),
                // A signal came; or there are so many completions that some have to be taken first.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => self.reap(),
                Err(error) => return Err(error),
            }
        }
    }

    fn reap(&mut self) {
        let Self { uring, ports, woken, .. } = self;
        // Operations that a completion leads to; they can't go in while the queue is read.
        let mut next = Vec::new();
        for completion in uring.completion() {
            let (at, what) = from_user_data(completion.user_data());
            let port = &mut ports[at];
            match what {
                Operation::Read => port.read_done(completion.result(), woken),
                Operation::Send => {
                    port.send_done(completion.result(), woken);
                    next.extend(port.next_send(at));
                }
            }
            if port.abandoned && port.is_idle() {
                ports.remove(at);
            }
        }
        for entry in next {
            if let Err(error) = self.push(&entry) {
                self.failure = Some(error);
            }
        }
    }

    /// Lines an operation up.
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: every entry is made by `Port::next_read` or `Port::next_send`, whose buffers and
        // descriptor stay in their port, unmoved, until the completion has been taken.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.enter(0)?;
        }
        Ok(())
    }
}

impl Drop for Inner {
    /// The kernel may still be writing into buffers: they go only when it is done with them.
    fn drop(&mut self) {
        for (_, port) in &mut self.ports {
            port.abandon();
        }
        self.ports.retain(|_, port| !port.is_idle());
        while !self.ports.is_empty() {
            if self.turn(1).is_err() {
                // It can't be asked any more, so what it was given is left to it.
                std::mem::forget(std::mem::take(&mut self.ports));
            }
        }
    }
}

impl Port {
    fn is_idle(&self) -> bool {
        !self.reading && !self.is_sending
    }

    /// Ends what the kernel still waits for.
    fn abandon(&mut self) {
        self.abandoned = true;
        // Nobody is left to be woken. A turn that wakes nobody must know it, or the loop would
        // sleep with the eventfd off.
        (self.reader, self.sender) = (None, None);
        self.out.clear();
        if !self.is_idle() {
            // Fails where the peer is gone already; then both operations end anyhow.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    fn next_read(&mut self, at: usize) -> squeue::Entry {
        let len = self.input.len();
        let wanted = match self.filled {
            _ if len == 0 => READ_LEAST,
            filled if filled == len => (len * 4).min(READ_MOST),
            filled if filled < len / 8 => READ_LEAST,
            _ => len,
        };
        if wanted != len {
            self.input = vec![0; wanted].into_boxed_slice();
        }
        (self.taken, self.filled, self.reading) = (0, 0, true);
        let (fd, buffer) = (types::Fd(self.stream.as_raw_fd()), &mut self.input);
        let entry = opcode::Recv::new(fd, buffer.as_mut_ptr(), buffer.len() as u32).ioprio(POLL_FIRST);
        entry.build().user_data(to_user_data(at, Operation::Read))
    }

    fn read_done(&mut self, result: i32, woken: &mut Vec<Waker>) {
        self.reading = false;
        match result {
            0 => self.read_end = Some(Ok(())),
            bytes if bytes > 0 => self.filled = bytes as usize,
            error => self.read_end = Some(Err(-error)),
        }
        woken.extend(self.reader.take());
    }

    /// What is lined up, if nothing is on its way.
    fn next_send(&mut self, at: usize) -> Option<squeue::Entry> {
        if self.is_sending || self.abandoned || self.send_error.is_some() {
            return None;
        }
        if self.sent == self.sending.len() {
            self.sent = 0;
            self.sending.clear();
            if self.sending.capacity() > SEND_KEPT {
                self.sending = Vec::new();
            }
            std::mem::swap(&mut self.sending, &mut self.out);
        }
        let rest = &self.sending[self.sent..];
        if rest.is_empty() {
            return None;
        }
        self.is_sending = true;
        self.watch.set_blocked(true);
        let fd = types::Fd(self.stream.as_raw_fd());
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(fd, rest.as_ptr(), len).flags(libc::MSG_NOSIGNAL);
        Some(entry.build().user_data(to_user_data(at, Operation::Send)))
    }

    fn send_done(&mut self, result: i32, woken: &mut Vec<Waker>) {
        self.is_sending = false;
        self.watch.set_blocked(false);
        if result > 0 {
            self.sent += result as usize;
        } else {
            self.send_error = Some(if result == 0 { libc::EPIPE } else { -result });
            // Whatever the connection waits for, it has to hear of it.
            woken.extend(self.reader.take());
        }
        woken.extend(self.sender.take());
    }

    fn unsent(&self) -> usize {
        self.sending.len() - self.sent + self.out.len()
    }
}

/// A connection's socket on the ring.
pub(crate) struct Handle {
    ring: Rc<Ring>,
    at: usize,
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
        match port.next_send(self.at) {
            Some(entry) => inner.push(&entry),
            None => Ok(()),
        }
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

    /// Says that nothing more will come.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        self.ring.0.borrow().ports[self.at].stream.shutdown(Shutdown::Write)
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
        if !port.reading && port.taken < port.filled {
            let upto = port.filled.min(port.taken.saturating_add(most));
            take(&port.input[port.taken..upto]);
            port.taken = upto;
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
            inner.push(&entry)?;
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

#[derive(Clone, Copy)]
enum Operation {
    Read,
    Send,
}

fn to_user_data(at: usize, operation: Operation) -> u64 {
    (at as u64) << 1 | operation as u64
}

fn from_user_data(data: u64) -> (usize, Operation) {
    ((data >> 1) as usize, if data & 1 == 0 { Operation::Read } else { Operation::Send })
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

/// Keeps the task's waker; mostly it is there already.
#[inline]
fn keep(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}
