//! What can be seen of an engine from outside: numbers that the writer publishes after each turn.

use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use counter::Seq;

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for the store, loads totals or replays the journal.
    Starting,
    /// It takes increments.
    Serving,
    /// It flushes what is pending and takes nothing new.
    Stopping,
}

/// One writer, many readers; each number by itself is current, together they may be of two turns.
#[derive(Debug, Default)]
pub struct Vitals {
    phase: AtomicU8,
    /// Whether the journal was left with nothing pending, and nothing more is taken.
    pub(crate) closed: AtomicBool,
    /// Updates pending: keys of the open batch and of those that are frozen.
    pub pending_updates: AtomicU64,
    /// When the oldest pending increment was accepted, milliseconds since the Unix epoch; 0 while
    /// nothing is pending.
    pub oldest_pending_ms: AtomicU64,
    /// Counters in memory.
    pub counters: AtomicU64,
    /// Idempotency keys in memory.
    pub ids: AtomicU64,
    /// Whatever was accepted before this is in the store, milliseconds since the Unix epoch; 0
    /// before the first turn. Once true, it stays true, unless the calendar is set back.
    pub(crate) flushed_past_ms: AtomicU64,
    /// Bytes on disk of segments that hold what the store doesn't have yet.
    pub journal_bytes: AtomicU64,
    /// Bytes on disk of segments that the store has wholly.
    pub journal_kept_bytes: AtomicU64,
    /// Seq of the newest record.
    pub last_seq: AtomicU64,
    /// Seq of the newest durable record.
    pub durable_seq: AtomicU64,
    /// The store's watermark, as last confirmed.
    pub applied_seq: AtomicU64,
    /// Commits so far.
    pub commits: AtomicU64,
    /// Requests that were counted so far.
    pub counted_requests: AtomicU64,
    /// Requests that were refused so far.
    pub refused_requests: AtomicU64,
    /// Time spent in fdatasync so far, microseconds.
    pub sync_us: AtomicU64,
    /// 1 while the journal takes nothing (`journal.max_bytes`), 2 while the disk is full.
    pub no_room: AtomicU32,
}

impl Vitals {
    /// What the instance is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Stopping,
        }
    }

    /// Up to when everything is in the store (milliseconds since the Unix epoch), and the watermark
    /// that the store has at least when that is so. `None` before the first turn.
    #[must_use]
    pub fn flushed_past(&self) -> Option<(u64, Seq)> {
        // In this order: the watermark may be a younger one, never an older.
        let past_ms = self.flushed_past_ms.load(Acquire);
        (past_ms > 0).then(|| (past_ms, Seq(self.applied_seq.load(Relaxed))))
    }

    /// Whether the writer has ended, and left nothing pending behind.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        let byte = match phase {
            Phase::Starting => 0,
            Phase::Serving => 1,
            Phase::Stopping => 2,
        };
        // Whoever finds it so finds what was published before, too.
        self.phase.store(byte, Release);
    }

    /// How long ago the oldest pending increment was accepted, milliseconds; 0 while nothing is
    /// pending.
    #[must_use]
    pub fn lag_ms(&self, unix_ms: u64) -> u64 {
        match self.oldest_pending_ms.load(Relaxed) {
            0 => 0,
            oldest => unix_ms.saturating_sub(oldest),
        }
    }
}
