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
    /// The present of a process that began at `began`.
    pub(crate) fn now(&self, began: Duration) -> Now {
        let unix_ms = START_MS + self.elapsed.as_millis() as u64;
        Now {
            elapsed: self.elapsed.saturating_sub(began),
            unix_ms: unix_ms.saturating_add_signed(self.jumped_ms),
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.elapsed += time;
    }
}
