//! What can be seen of an engine from outside: numbers that the writer publishes after each turn.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

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
    /// Updates pending: keys of the open batch and of those that are frozen.
    pub pending_updates: AtomicU64,
    /// When the oldest pending increment was accepted, milliseconds since the Unix epoch; 0 while
    /// nothing is pending.
    pub oldest_pending_ms: AtomicU64,
    /// Counters in memory.
    pub counters: AtomicU64,
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
        match self.phase.load(Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Stopping,
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        let byte = match phase {
            Phase::Starting => 0,
            Phase::Serving => 1,
            Phase::Stopping => 2,
        };
        self.phase.store(byte, Relaxed);
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
