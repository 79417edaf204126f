//! Waiting between attempts, and being stopped while waiting.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Exponential, from 50 ms to 2 s, with full jitter in the upper half, so that instances that
/// lost the same store don't come back in step
/// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    /// `seed` decides the jitter.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { next: FIRST, random: fastrand::Rng::with_seed(seed) }
    }

    /// How long to wait before the next attempt.
    pub fn pause(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(LONGEST);
        now / 2 + now.mul_f64(self.random.f64() / 2.0)
    }

    /// An attempt succeeded.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

/// Ends the waiting of whoever holds the [`Stop`], when it is dropped.
#[derive(Debug)]
pub struct Stopper(#[expect(dead_code, reason = "it acts by being dropped")] SyncSender<()>);

/// Waits, unless stopped.
#[derive(Debug)]
pub struct Stop(Receiver<()>);

/// A pair of them.
#[must_use]
pub fn stopper() -> (Stopper, Stop) {
    let (sender, receiver) = sync_channel(0);
    (Stopper(sender), Stop(receiver))
}

/// Lets time pass between two attempts.
pub trait Wait {
    /// Waits for so long; `false` when it is to stop.
    #[must_use]
    fn wait(&self, time: Duration) -> bool;
}

impl Wait for Stop {
    fn wait(&self, time: Duration) -> bool {
        self.0.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
    }
}
