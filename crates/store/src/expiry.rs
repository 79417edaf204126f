//! When idempotency keys leave the store. No I/O: both stores decide alike.
//!
//! An id may leave when every repetition of its request that was accepted within the window is in
//! the store already; any later one is allowed to count. Such a repetition may lie unflushed in any
//! journal, for as long as an outage lasts. So each journal's row tells up to when the journal has
//! flushed past (`flushed_past`), and an id accepted at `a` leaves when all of them are past
//! `a + kept`, where `kept` is the window and two margins. A journal that was silent for too long is written off up to a time
//! (`written_off`): ids leave without it, and what it brings in from before that time under an id
//! that the store doesn't know is set aside, because nobody can tell any more whether it counted.
//!
//! A journal whose row is missing, or says that it was closed, keeps nothing. It may still hold
//! something: the store may have forgotten, in a failover, that it was claimed. And where a data
//! directory was copied, what one copy told says nothing of the other's records. So before ids leave,
//! the store notes for which times a repetition can't be told any more (`unknowable_before`: ids
//! from `kept` before `past` are gone, and a repetition is at most a window and a margin younger),
//! and whoever claims a journal is written off up to there. What a journal itself told is never less
//! than that, so a start on its own directory is in no doubt.

use crate::Purge;

/// The clocks of two instances may be so far apart, as a part of the window, without an id
/// leaving before its window has passed.
const MARGIN: u64 = 8;
/// After so many windows more, a silent journal is written off.
const PATIENCE: u64 = 7;

/// The times that follow from a window, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    /// How long an id is kept at least.
    pub(crate) kept_ms: u64,
    /// How far clocks may be apart.
    pub(crate) margin_ms: u64,
    patience_ms: u64,
}

impl Expiry {
    pub(crate) fn of(purge: &Purge) -> Self {
        let window_ms = purge.window_ms;
        let margin_ms = window_ms / MARGIN;
        let kept_ms = window_ms.saturating_add(2 * margin_ms);
        Self { kept_ms, margin_ms, patience_ms: window_ms.saturating_mul(PATIENCE) }
    }

    /// Whether an id that was accepted at `oldest_ms` may leave, as far as a journal decides that
    /// has flushed past `flushed_past_ms`.
    pub(crate) fn has_passed(self, oldest_ms: u64, flushed_past_ms: u64) -> bool {
        oldest_ms.saturating_add(self.kept_ms) < flushed_past_ms
    }

    /// Before when a repetition may have been accepted of a request whose id leaves, where all
    /// journals have flushed past `past_ms`.
    pub(crate) fn unknowable_ms(self, past_ms: u64) -> u64 {
        past_ms.saturating_sub(self.margin_ms)
    }

    /// Up to when silent journals are to be written off, where this journal has flushed past
    /// `flushed_past_ms` and the oldest id was accepted at `oldest_ms`; `None` where it can wait.
    pub(crate) fn write_off_ms(self, oldest_ms: u64, flushed_past_ms: u64) -> Option<u64> {
        let until = flushed_past_ms.checked_sub(self.patience_ms)?;
        self.has_passed(oldest_ms, until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use counter::Seq;

    #[test]
    fn an_id_is_kept_for_its_window_and_the_margin_and_a_silent_journal_is_waited_for() {
        let purge = Purge { window_ms: 800, flushed_past_ms: 0, watermark: Seq::ZERO, limit: 1 };
        let expiry = Expiry::of(&purge);
        assert!(!expiry.has_passed(1_000, 2_000));
        assert!(expiry.has_passed(1_000, 2_001));
        // The last repetition within the window, by a clock that is an eighth ahead.
        assert_eq!(expiry.unknowable_ms(2_001), 1_000 + 800 + 100 + 1);
        assert_eq!(expiry.write_off_ms(1_000, 2_000 + 7 * 800), None);
        assert_eq!(expiry.write_off_ms(1_000, 2_001 + 7 * 800), Some(2_001));
        assert_eq!(expiry.write_off_ms(0, 100), None);
    }
}
