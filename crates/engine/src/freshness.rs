//! How old what memory holds may be.
//!
//! Other instances show themselves by the watermarks of their journals: while none moves, nobody
//! else has changed a total. So one small query, every half `read.max_age`, keeps all of memory
//! fresh at once; only after another instance has flushed does a key have to be asked for again,
//! once, when it is read. An *epoch* is the time in which no other watermark was seen to move.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// Shared by the writer, which judges, and the reader, which looks.
#[derive(Debug)]
pub struct Freshness {
    max_age: Duration,
    epoch: AtomicU32,
    /// Milliseconds of `Now::elapsed`; a look that began then found no other watermark moved
    /// since the epoch began.
    looked_ms: AtomicU64,
    store_away: AtomicBool,
}

impl Freshness {
    /// Memory was loaded at `now_ms` (milliseconds of `Now::elapsed`): epoch 1 begins.
    #[must_use]
    pub fn new(max_age: Duration, now_ms: u64) -> Self {
        let (epoch, looked_ms) = (AtomicU32::new(1), AtomicU64::new(now_ms));
        Self { max_age, epoch, looked_ms, store_away: AtomicBool::new(false) }
    }

    /// How old a read may be.
    #[must_use]
    pub fn max_age(&self) -> Duration {
        self.max_age
    }

    /// The epoch. What is asked of the store from now on belongs to it or to a later one.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch.load(SeqCst)
    }

    /// The others were looked at, at `began_ms`; `moved`: a watermark was not as before.
    pub fn looked(&self, began_ms: u64, moved: bool) {
        if moved {
            // 0 stands for "never asked". 2^32 epochs of a second are 136 years.
            self.epoch.fetch_add(1, SeqCst);
        }
        self.looked_ms.store(began_ms, SeqCst);
    }

    /// Says whether the store could be asked last time. While it can't, memory is as fresh as can
    /// be had.
    pub fn set_store_away(&self, away: bool) {
        self.store_away.store(away, SeqCst);
    }

    /// Whether what was heard of the store in `epoch` is young enough at `now_ms`.
    #[must_use]
    pub fn is_fresh(&self, epoch: u32, now_ms: u64) -> bool {
        let age_ms = now_ms.saturating_sub(self.looked_ms.load(SeqCst));
        let young = epoch == self.epoch() && u128::from(age_ms) < self.max_age.as_millis();
        young || self.store_away.load(SeqCst)
    }
}
