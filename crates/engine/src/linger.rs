//! Staying awake for what is about to come, and whether that is worth it.
//!
//! To wake a thread, and the processor that slept with it, takes a third as long as a commit on a fast disk. A
//! lone client that sends one request after the other waits for that each time, while nobody else wants the
//! writer. So the writer stays awake for a moment; where that was in vain, because the client takes longer, it
//! is tried more and more rarely. Whoever else wants the processor gets it, and ends that.

use std::time::{Duration, Instant};

/// The writer stays awake for no longer than this. A client on the same machine takes some 70 µs from one
/// answer to its next request.
pub(crate) const LONGEST: Duration = Duration::from_micros(200);
/// Who gets the processor back so late after giving way isn't alone on it.
const LATE: Duration = Duration::from_micros(50);
/// After so many times in vain, or more, one in 2 to this power is tried.
const MOST_MISSES: u32 = 8;

/// What became of it lately.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    misses: u32,
    skip: u32,
}

impl Linger {
    /// Whether it is to be tried this time.
    pub(crate) fn is_worth_it(&mut self) -> bool {
        let tries = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        tries
    }

    /// Stays awake until `has_come`, until `end`, or until somebody else wants the processor.
    pub(crate) fn until(&mut self, end: Instant, has_come: impl Fn() -> bool) {
        const LOOKS_AT_A_TIME: u32 = 16;
        let mut in_time = has_come();
        let mut now = Instant::now();
        while !in_time && now < end {
            let before = now;
            for _ in 0..LOOKS_AT_A_TIME {
                std::hint::spin_loop();
            }
            std::thread::yield_now();
            in_time = has_come();
            now = Instant::now();
            if now.duration_since(before) > LATE {
                break;
            }
        }
        self.ended(in_time);
    }

    fn ended(&mut self, in_time: bool) {
        self.misses = if in_time { 0 } else { (self.misses + 1).min(MOST_MISSES) };
        self.skip = (1 << self.misses) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_vain_is_tried_more_and_more_rarely() {
        let mut linger = Linger::default();
        let mut skipped = |in_time| {
            let skipped = (0..).take_while(|_| !linger.is_worth_it()).count();
            linger.ended(in_time);
            skipped
        };
        let skips: Vec<_> = (0..11).map(|_| skipped(false)).collect();
        assert_eq!(skips, [0, 1, 3, 7, 15, 31, 63, 127, 255, 255, 255]);
        assert_eq!((skipped(true), skipped(true), skipped(false), skipped(false)), (255, 0, 0, 1));
    }

    #[test]
    fn it_ends_when_it_comes_and_when_it_does_not() {
        let mut linger = Linger::default();
        let looks = std::cell::Cell::new(0);
        linger.until(Instant::now() + Duration::from_secs(3600), || looks.replace(looks.get() + 1) == 1);
        assert_eq!((looks.get(), linger.is_worth_it()), (2, true));
        linger.until(Instant::now(), || false);
        assert_eq!((linger.is_worth_it(), linger.is_worth_it()), (false, true));
    }
}
