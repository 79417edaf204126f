//! The seam to time.

use std::time::{Duration, Instant, SystemTime};

/// A moment, told in two ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since some fixed moment; never goes back. Intervals are measured by it.
    pub elapsed: Duration,
    /// Milliseconds since the Unix epoch; may jump either way. It only stamps.
    pub unix_ms: u64,
}

impl Now {
    /// `elapsed` in milliseconds.
    #[must_use]
    pub fn elapsed_ms(&self) -> u64 {
        self.elapsed.as_millis() as u64
    }
}

/// Tells the time.
pub trait Clock: Send + 'static {
    /// The present.
    fn now(&self) -> Now;
}

/// The operating system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Elapsed time counts from now on.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Now { elapsed: self.start.elapsed(), unix_ms: unix.as_millis() as u64 }
    }
}
