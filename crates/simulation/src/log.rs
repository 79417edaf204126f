//! What happened, as a digest and as text.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// State that several parts of one simulated world hold. Its lock is never contended, since there
/// is one thread; the seams ask for something that may be sent to another.
pub(crate) type Shared<T> = Arc<Mutex<T>>;

pub(crate) fn shared<T>(value: T) -> Shared<T> {
    Arc::new(Mutex::new(value))
}

/// A simulated death may leave a lock poisoned; what it guards is still what happened.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hashes every event (FNV-1a, 64 bits), and keeps their text where a trace is wanted.
#[derive(Debug)]
pub(crate) struct Log {
    digest: u64,
    trace: Option<String>,
}

impl Log {
    pub(crate) fn new(trace: bool) -> Self {
        Self { digest: 0xcbf2_9ce4_8422_2325, trace: trace.then(String::new) }
    }

    pub(crate) fn note(&mut self, event: fmt::Arguments<'_>) {
        let outcome = self.write_fmt(event).and_then(|()| self.write_char('\n'));
        debug_assert!(outcome.is_ok());
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn take_trace(&mut self) -> Option<String> {
        self.trace.take()
    }
}

impl Write for Log {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if let Some(trace) = &mut self.trace {
            trace.push_str(text);
        }
        Ok(())
    }
}

/// Notes an event in a shared [`Log`].
macro_rules! note {
    ($log:expr, $($text:tt)*) => { $crate::log::lock(&$log).note(format_args!($($text)*)) };
}
pub(crate) use note;
