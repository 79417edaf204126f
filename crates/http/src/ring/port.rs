//! One socket, as the ring sees it: its buffers, and what the kernel does with them.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::Waker;

use io_uring::{cqueue, opcode, squeue, types};

use super::pool::{self, Pool};
use crate::watch::Watch;

/// With so many bytes that nobody has taken the kernel is told to stop. What it receives before it
/// hears of that comes on top: at most what the pool holds, and mostly much less.
pub(super) const UNTAKEN_MOST: usize = 64 << 10;
/// A buffer that has grown past this is not kept once it is empty: nobody knows how long a
/// connection rests.
const INPUT_KEPT: usize = 4 << 10;
/// A buffer for sending that has grown past this is not kept.
const SEND_KEPT: usize = 16 << 10;

/// One socket, as the ring sees it.
pub(super) struct Port {
    pub(super) stream: TcpStream,
    pub(super) watch: Rc<Watch>,
    /// The kernel receives, again and again, until it says that it has stopped.
    pub(super) reading: bool,
    /// It was told to stop.
    stopping: bool,
    /// What has come; the first `taken` bytes have been taken.
    pub(super) input: Vec<u8>,
    taken: usize,
    /// The stream has ended, or failed.
    pub(super) read_end: Option<Result<(), i32>>,
    pub(super) reader: Option<Waker>,
    /// What the kernel is sending, from `sent` on.
    pub(super) sending: Vec<u8>,
    pub(super) sent: usize,
    pub(super) is_sending: bool,
    /// What goes next.
    pub(super) out: Vec<u8>,
    pub(super) send_error: Option<i32>,
    pub(super) sender: Option<Waker>,
    /// Its connection is gone; it goes when the kernel is done with it.
    pub(super) abandoned: bool,
}

impl Port {
    pub(super) fn new(stream: TcpStream, watch: Rc<Watch>) -> Self {
        Self {
            stream,
            watch,
            reading: false,
            stopping: false,
            input: Vec::new(),
            taken: 0,
            read_end: None,
            reader: None,
            sending: Vec::new(),
            sent: 0,
            is_sending: false,
            out: Vec::new(),
            send_error: None,
            sender: None,
            abandoned: false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.reading && !self.is_sending
    }

    /// Ends what the kernel still waits for.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
        // Nobody is left to be woken. A turn that wakes nobody must know it, or the loop would
        // sleep with the eventfd off.
        (self.reader, self.sender) = (None, None);
        self.out.clear();
        (self.input, self.taken) = (Vec::new(), 0);
        if !self.is_idle() {
            // Fails where the peer is gone already; then both operations end anyhow.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn next_read(&mut self, at: usize) -> squeue::Entry {
        (self.reading, self.stopping) = (true, false);
        let entry = opcode::RecvMulti::new(types::Fd(self.stream.as_raw_fd()), pool::GROUP);
        entry.build().user_data(to_user_data(at, Operation::Read))
    }

    /// Something has come, or nothing more will. It is copied at once, so that no connection that
    /// isn't attended to keeps the others' buffers.
    pub(super) fn read_done(&mut self, completion: &cqueue::Entry, pool: &mut Pool, woken: &mut Vec<Waker>) {
        self.reading = cqueue::more(completion.flags());
        let bytes = usize::try_from(completion.result()).unwrap_or(0);
        if let Some(id) = cqueue::buffer_select(completion.flags()) {
            if !self.abandoned {
                self.put(pool.bytes(id, bytes));
            }
            pool.give_back(id);
        } else {
            debug_assert_eq!(bytes, 0, "the kernel has told of bytes without a buffer");
        }
        match -completion.result() {
            0 => self.read_end = Some(Ok(())),
            // No buffer was free, or it was told to stop.
            libc::ENOBUFS | libc::ECANCELED => self.input.shrink_to(INPUT_KEPT),
            error if error > 0 => self.read_end = Some(Err(error)),
            _ => {}
        }
        if !self.untaken().is_empty() || self.read_end.is_some() {
            woken.extend(self.reader.take());
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        // A client that always leaves something untaken would have it grow.
        if self.taken > 0 && self.taken >= self.untaken().len() {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// What becomes of receiving after [`read_done`](Self::read_done): begun again, where somebody
    /// still waits; stopped, where more has come than anybody takes.
    pub(super) fn after_read(&mut self, at: usize) -> Option<squeue::Entry> {
        if !self.reading {
            return self.reader.is_some().then(|| self.next_read(at));
        }
        if self.stopping || self.untaken().len() < UNTAKEN_MOST {
            return None;
        }
        self.stopping = true;
        let entry = opcode::AsyncCancel::new(to_user_data(at, Operation::Read));
        Some(entry.build().user_data(to_user_data(at, Operation::Stop)))
    }

    /// What has come and was not taken.
    #[inline]
    pub(super) fn untaken(&self) -> &[u8] {
        &self.input[self.taken..]
    }

    /// The first `bytes` of it are taken.
    #[inline]
    pub(super) fn take(&mut self, bytes: usize) {
        self.taken += bytes;
        if self.taken == self.input.len() {
            self.taken = 0;
            self.input.clear();
            if self.input.capacity() > INPUT_KEPT {
                self.input = Vec::new();
            }
        }
    }

    /// What is lined up, if nothing is on its way.
    pub(super) fn next_send(&mut self, at: usize) -> Option<squeue::Entry> {
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

    pub(super) fn send_done(&mut self, result: i32, woken: &mut Vec<Waker>) {
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

    pub(super) fn unsent(&self) -> usize {
        self.sending.len() - self.sent + self.out.len()
    }
}

/// What a completion is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Send,
    /// Of a [`Read`](Self::Read). Its port may be gone when this is done.
    Stop,
}

pub(super) fn to_user_data(at: usize, operation: Operation) -> u64 {
    (at as u64) << 2 | operation as u64
}

pub(super) fn from_user_data(data: u64) -> (usize, Operation) {
    let operation = match data & 3 {
        0 => Operation::Read,
        1 => Operation::Send,
        _ => Operation::Stop,
    };
    ((data >> 2) as usize, operation)
}
