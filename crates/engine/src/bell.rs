//! Waking the writer as rarely as can be.
//!
//! Waking a thread is the dearest thing on the way of an increment, so the writer says how many
//! must wait before it is worth it, and only the one who makes up that number wakes it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, Thread};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Bell {
    /// Below 0 for a moment when the writer takes a request before its sender rings.
    waiting: AtomicIsize,
    /// At how many the writer wants to be woken; `usize::MAX` while it is awake.
    wake_at: AtomicUsize,
    writer: OnceLock<Thread>,
}

impl Bell {
    pub(crate) fn new() -> Self {
        let (waiting, wake_at) = (AtomicIsize::new(0), AtomicUsize::new(usize::MAX));
        Self { waiting, wake_at, writer: OnceLock::new() }
    }

    /// One more waits. Everything that it waits for is in its place already.
    #[inline]
    pub(crate) fn ring(&self) {
        let waiting = self.waiting.fetch_add(1, SeqCst) + 1;
        if usize::try_from(waiting) == Ok(self.wake_at.load(SeqCst)) {
            self.wake();
        }
    }

    /// Wakes the writer whatever it waits for.
    pub(crate) fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        usize::try_from(self.waiting.load(SeqCst)).unwrap_or(0)
    }

    /// The writer has taken so many.
    pub(crate) fn taken(&self, count: usize) {
        self.waiting.fetch_sub(count as isize, SeqCst);
    }

    /// The calling thread is the writer from now on.
    pub(crate) fn attend(&self) {
        self.writer.get_or_init(thread::current);
    }

    /// Sleeps until `count` (at least 1) wait, until [`wake`](Self::wake), or for `time`. May
    /// return early. Only the thread that [attends](Self::attend) calls this.
    pub(crate) fn sleep(&self, count: usize, time: Duration) {
        self.wake_at.store(count, SeqCst);
        // Whoever rings from here on sees `wake_at`; whoever rang before is seen here.
        if self.waiting() < count {
            thread::park_timeout(time);
        }
        self.wake_at.store(usize::MAX, SeqCst);
    }
}
