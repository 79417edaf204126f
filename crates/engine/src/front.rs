//! What a front door (HTTP today) asks of the engine.

use std::future::Future;
use std::task::Context;

use counter::{Entries, Fingerprint};

/// Why a request was not counted, or could not be answered. Nothing of it has been counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A total would leave the range of a signed 64-bit integer.
    #[error("adding {value} to {key:?}, which is at {total}, would pass 64 bits")]
    Overflow {
        /// Which increment of the request, from 0.
        entry: u32,
        /// Its key.
        key: String,
        /// The key's total before it (entries of the same request before it included).
        total: i64,
        /// What it would have added.
        value: i64,
    },
    /// A new key, and there are `limit` counters already.
    #[error("there are {limit} counters already, and {key:?} would be a new one")]
    TooManyCounters {
        /// The setting `max_counters`.
        limit: u64,
        /// The new key.
        key: String,
    },
    /// The journal holds as much as it may (`journal.max_bytes`), because the store is away or
    /// slow.
    #[error("the journal is full: {max_bytes} bytes wait for the store")]
    JournalFull {
        /// The setting `journal.max_bytes`.
        max_bytes: u64,
    },
    /// The disk has no room for another segment of the journal.
    #[error("the disk has no room for the journal: {reason}")]
    DiskFull {
        /// The operating system's words.
        reason: String,
    },
    /// As many requests wait for the writer as may.
    #[error("too many requests wait for the writer")]
    Busy,
    /// Packed, the request is larger than a record of the journal may be.
    #[error("the request is larger than the {max_bytes} bytes that one record may hold")]
    TooLarge {
        /// What a record may hold, packed.
        max_bytes: u64,
    },
    /// The same idempotency key came with another body before.
    #[error("the idempotency key was used before, with another body")]
    IdempotencyMismatch,
    /// The instance is starting: the journal is still being replayed.
    #[error("the server is starting: {0}")]
    Starting(&'static str),
    /// The instance is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// Only the store could answer, and it can't be asked. Only reads are refused so.
    #[error("the store can't be asked: {0}")]
    StoreAway(String),
}

/// A request that was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// The new total of the key of the request's last increment, as far as this instance knows.
    pub total: i64,
    /// Whether it had been counted before, under the same idempotency key; nothing was added
    /// this time.
    pub replayed: bool,
    /// Whether `total` lacks what other instances may have flushed, because the key is new here
    /// and the store has not been asked for it; [`Front::total`] asks.
    pub partial: bool,
}

/// Which page of counters is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Keys begin with this; empty for all.
    pub prefix: String,
    /// Keys come after this one, bytewise.
    pub after: Option<String>,
    /// At most so many; at least 1.
    pub limit: u32,
}

/// A page of counters, in bytewise key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and totals.
    pub counters: Vec<(String, i64)>,
    /// What `after` of the next page is; `None` where this page is the last.
    pub next: Option<String>,
}

/// What a front door asks. A clone is cheap; each front door's thread has one of its own.
///
/// Dropping a future takes nothing back: an increment that was handed over may still count.
pub trait Front: Clone + Send + 'static {
    /// Counts one request: all of its increments or none. Answers once that is durable (or, with
    /// ack `memory`, at once). `unit` is its idempotency key and the digest of its body.
    ///
    /// # Errors
    /// See [`Refusal`]; then nothing of the request was counted.
    fn count(
        &self,
        entries: &Entries,
        unit: Option<(&str, Fingerprint)>,
    ) -> impl Future<Output = Result<Counted, Refusal>> + Send;

    /// Hands over one request like [`count`](Self::count), without a place to wait in: the answer comes
    /// through [`poll_submitted`](Self::poll_submitted). `None`: that is not offered, here or
    /// right now, and nothing was handed over.
    ///
    /// # Errors
    /// See [`Refusal`]; then there will be no answer.
    fn submit(&self, entries: &Entries) -> Option<Result<(), Refusal>> {
        let _ = entries;
        None
    }

    /// Appends the answers there are to what was [submitted](Self::submit) through this front and its clones,
    /// in the order of submission, and has the task woken when there are more. To be called by one task
    /// alone, on the thread that submits.
    fn poll_submitted(&self, cx: &Context<'_>, answers: &mut Vec<Result<Counted, Box<Refusal>>>) {
        let _ = (cx, answers);
    }

    /// The total of `key`: everything that this instance has answered for is in it, and what
    /// other instances flushed at most `read.max_age` ago. `None` where there is no such key.
    ///
    /// # Errors
    /// [`Refusal::StoreAway`], where memory doesn't hold the key; or the instance is not serving.
    fn total(&self, key: &str) -> impl Future<Output = Result<Option<i64>, Refusal>> + Send;

    /// A page of counters.
    ///
    /// # Errors
    /// [`Refusal::StoreAway`], or the instance is not serving.
    fn page(&self, request: PageRequest) -> impl Future<Output = Result<Page, Refusal>> + Send;
}
