//! One socket, as the ring sees it: its buffers, and what the kernel does with them.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::Waker;

use io_uring::{opcode, squeue, types};

use crate::watch::Watch;

/// What a connection's buffer for reading has at least, and at most, in bytes. It shrinks
/// after a short read.
const READ_LEAST: usize = 1 << 10;
const READ_MOST: usize = 64 << 10;
/// What it has at most while no request is on its way: nobody knows how long that lasts.
const READ_IDLE: usize = 4 << 10;
/// A buffer for sending that has grown past this is not kept.
const SEND_KEPT: usize = 16 << 10;
/// `IORING_RECVSEND_POLL_FIRST`: there is rarely anything to read at once, so don't look first.
const POLL_FIRST: u16 = 1;

/// One socket, as the ring sees it.
pub(super) struct Port {
    pub(super) stream: TcpStream,
    pub(super) watch: Rc<Watch>,
    pub(super) reading: bool,
    /// What has come lies between `taken` and `filled`.
    pub(super) input: Box<[u8]>,
    pub(super) taken: usize,
    pub(super) filled: usize,
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
        if !self.is_idle() {
            // Fails where the peer is gone already; then both operations end anyhow.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn next_read(&mut self, at: usize) -> squeue::Entry {
        let len = self.input.len();
        let wanted = match self.filled {
            _ if len == 0 => READ_LEAST,
            filled if filled == len => (len * 4).min(READ_MOST),
            filled if filled < len / 8 => READ_LEAST,
            _ => len,
        };
        let wanted = if self.watch.is_idle() { wanted.min(READ_IDLE) } else { wanted };
        if wanted != len {
            self.input = vec![0; wanted].into_boxed_slice();
        }
        (self.taken, self.filled, self.reading) = (0, 0, true);
        let (fd, buffer) = (types::Fd(self.stream.as_raw_fd()), &mut self.input);
        let entry = opcode::Recv::new(fd, buffer.as_mut_ptr(), buffer.len() as u32).ioprio(POLL_FIRST);
        entry.build().user_data(to_user_data(at, Operation::Read))
    }

    pub(super) fn read_done(&mut self, result: i32, woken: &mut Vec<Waker>) {
        self.reading = false;
        match result {
            0 => self.read_end = Some(Ok(())),
            bytes if bytes > 0 => self.filled = bytes as usize,
            error => self.read_end = Some(Err(-error)),
        }
        woken.extend(self.reader.take());
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

#[derive(Clone, Copy)]
pub(super) enum Operation {
    Read,
    Send,
}

pub(super) fn to_user_data(at: usize, operation: Operation) -> u64 {
    (at as u64) << 1 | operation as u64
}

pub(super) fn from_user_data(data: u64) -> (usize, Operation) {
    ((data >> 1) as usize, if data & 1 == 0 { Operation::Read } else { Operation::Send })
}
