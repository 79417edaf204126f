//! What the threads beside the writer ask of it: the flusher, the reader, the supervisor.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use counter::{Applied, Batch, Seq};

use crate::bell::Bell;

/// How often a drain looks whether there is still hope.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A request to the writer from beside.
#[derive(Debug)]
pub enum Control {
    /// The batch in flight is in the store. `epoch` is the one in which it was applied.
    Settled {
        /// What became of it.
        applied: Applied,
        /// See `Freshness`.
        epoch: u32,
    },
    /// The store was asked for keys that memory doesn't hold, or not freshly.
    Refresh {
        /// Each key with the store's total.
        keys: Vec<(String, Option<i64>)>,
        /// The watermark of the snapshot.
        watermark: Seq,
        /// The epoch in which it was asked.
        epoch: u32,
        /// One total for each key; `None` where the snapshot is too old: ask again.
        reply: Sender<Option<Vec<Option<i64>>>>,
    },
    /// The totals of some keys, each with whether it is young enough.
    Totals {
        /// Which keys.
        keys: Vec<String>,
        /// `None` where memory doesn't hold the key.
        reply: Sender<Vec<Option<(i64, bool)>>>,
    },
    /// Keys that may not be in the store yet.
    PendingKeys {
        /// They begin with this.
        prefix: String,
        /// They come after this one, bytewise.
        after: Option<String>,
        /// Those of the open batch that match, and the frozen batches whole.
        reply: Sender<(Vec<String>, Vec<Arc<Batch>>)>,
    },
    /// Flush everything that is pending at once; the reply comes when nothing is.
    Drain {
        /// Is dropped when nothing is pending.
        done: Sender<()>,
    },
    /// End the thread, leaving the journal durable.
    Quit,
}

/// Hands controls to the writer. A clone hands to the same one.
#[derive(Clone, Debug)]
pub struct Controls {
    waiting: Arc<Mutex<Vec<Control>>>,
    bell: Arc<Bell>,
}

/// The writer is gone: the instance is going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine's writer has ended")]
pub struct WriterGone;

impl Controls {
    pub(crate) fn new(bell: Arc<Bell>) -> Self {
        Self { waiting: Arc::default(), bell }
    }

    /// Hands one over; it doesn't wait. How many there may be is bounded by their senders: the
    /// flusher has one batch, the reader one request at a time.
    pub fn send(&self, control: Control) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(control);
        self.bell.wake();
    }

    /// Hands one over and waits for what the writer replies.
    ///
    /// # Errors
    /// [`WriterGone`], also where it doesn't reply within 10 s.
    pub fn ask<T>(&self, control: impl FnOnce(Sender<T>) -> Control) -> Result<T, WriterGone> {
        let (reply, answer) = mpsc::channel();
        self.send(control(reply));
        answer.recv_timeout(Duration::from_secs(10)).map_err(|_| WriterGone)
    }

    /// Has everything flushed that is pending; `true` when it is within `time`. Gives up early
    /// where `hopeless` says that nobody flushes any more.
    #[must_use]
    pub fn drain(&self, time: Duration, hopeless: &dyn Fn() -> bool) -> bool {
        let (done, drained): (Sender<()>, Receiver<()>) = mpsc::channel();
        self.send(Control::Drain { done });
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // It never sends: it lets go.
            match drained.recv_timeout(left.min(LOOK_EVERY)) {
                Err(RecvTimeoutError::Disconnected) => return true,
                _ if left.is_zero() || hopeless() => return false,
                _ => {}
            }
        }
    }

    pub(crate) fn take(&self) -> Vec<Control> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
