//! A process that can die at any call to its disk or its store.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

/// One start of an instance.
#[derive(Debug, Default)]
pub(crate) struct Process {
    /// After so many calls it dies; 0 or less: it doesn't.
    fuse: AtomicI64,
    dead: AtomicBool,
}

/// What unwinds when a process dies: nothing of the product's code runs after it, but for drops,
/// which find a disk that is gone.
struct Killed;

impl Process {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn dies_after(&self, calls: u32) {
        self.fuse.store(i64::from(calls), Relaxed);
    }

    pub(crate) fn disarm(&self) {
        self.fuse.store(0, Relaxed);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }

    pub(crate) fn end(&self) {
        self.dead.store(true, Relaxed);
    }

    /// Counts a call; `true` where the process dies in it. The caller does what the call may still
    /// have done, and then [`die`](Self::die)s.
    #[must_use]
    pub(crate) fn tick(&self) -> bool {
        let fuse = self.fuse.load(Relaxed);
        if fuse > 0 {
            self.fuse.store(fuse - 1, Relaxed);
        }
        fuse == 1
    }

    pub(crate) fn die(&self) -> ! {
        self.end();
        resume_unwind(Box::new(Killed))
    }

    /// Dies here, if it is to.
    pub(crate) fn step(&self) {
        if self.tick() {
            self.die();
        }
    }
}

/// Runs a part of a process; `None` where it died. Any other panic goes on.
pub(crate) fn alive<T>(part: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(part)) {
        Ok(done) => Some(done),
        Err(cause) if cause.is::<Killed>() => None,
        Err(cause) => resume_unwind(cause),
    }
}
