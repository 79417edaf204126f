//! Time, as the seed wants it.

use std::time::Duration;

use engine::Now;

/// Some day in 2026, in milliseconds since the Unix epoch.
const START_MS: u64 = 1_780_000_000_000;

/// The clocks of the world.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    pub(crate) elapsed: Duration,
    /// How far the calendar was set forward or back, milliseconds.
    pub(crate) jumped_ms: i64,
}

impl Clock {
    /// The present of a process that began at `began`, where the calendar is off by `skew_ms`.
    pub(crate) fn now(&self, began: Duration, skew_ms: i64) -> Now {
        Now {
            elapsed: self.elapsed.saturating_sub(began),
            unix_ms: self.right_ms().saturating_add_signed(self.jumped_ms + skew_ms),
        }
    }

    /// What a calendar shows that is never wrong: the store's.
    pub(crate) fn right_ms(&self) -> u64 {
        START_MS + self.elapsed.as_millis() as u64
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.elapsed += time;
    }
}
