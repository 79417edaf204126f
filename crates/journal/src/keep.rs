//! How long applied segments are kept, and when they have to make way.
//!
//! `journal.keep` is best effort within `journal.max_bytes`: what is pending comes first, and kept
//! segments go, oldest first, where their room is needed.

use std::collections::VecDeque;

use counter::Seq;

use crate::journal::Segment;

/// How many trimmed segments are kept to be written over.
pub(crate) const SPARES: usize = 1;

/// What a journal tells of when the store had what: each record and each header says which
/// watermark was known, and when. It is how the age of applied segments survives a restart.
#[derive(Debug, Default)]
pub(crate) struct Sightings(Vec<(Seq, u64)>);

impl Sightings {
    /// At `unix_ms`, the store's watermark was `applied`. To be told in the journal's order.
    pub(crate) fn saw(&mut self, applied: Seq, unix_ms: u64) {
        if self.0.last().is_none_or(|(known, _)| *known != applied) {
            self.0.push((applied, unix_ms));
        }
    }

    /// Since when the store has been seen to have `seq`, without a break; milliseconds since the
    /// Unix epoch.
    fn since(&self, seq: Seq) -> Option<u64> {
        let having = self.0.iter().rev().take_while(|(applied, _)| *applied >= seq);
        having.last().map(|(_, unix_ms)| *unix_ms)
    }
}

/// Says until when (as of `now_ms`) the first `applied` segments are kept, by what was seen of
/// them before this start, at `unix_ms` by the calendar.
pub(crate) fn date(
    segments: &mut VecDeque<Segment>,
    applied: usize,
    keep_ms: u64,
    sightings: &Sightings,
    now_ms: u64,
    unix_ms: u64,
) {
    let firsts: Vec<Seq> = segments.iter().skip(1).map(|next| next.first).collect();
    for (segment, next) in segments.iter_mut().take(applied).zip(firsts) {
        let since = sightings.since(Seq(next.0.saturating_sub(1)));
        let age_ms = since.map_or(0, |since| unix_ms.saturating_sub(since));
        segment.kept_until_ms = Some(now_ms.saturating_add(keep_ms.saturating_sub(age_ms)));
    }
}

/// How many of the first `applied` segments go: those whose time has passed, but for a spare, and
/// those without which the journal would have `over` bytes too many.
pub(crate) fn surplus(segments: &VecDeque<Segment>, applied: usize, over: u64, now_ms: u64) -> usize {
    let applied = || segments.iter().take(applied);
    let aged = applied().take_while(|segment| segment.is_aged(now_ms)).count().saturating_sub(SPARES);
    let mut over = over;
    let crowded = applied().take_while(|segment| {
        let in_the_way = over > 0;
        over = over.saturating_sub(segment.bytes);
        in_the_way
    });
    aged.max(crowded.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(number: u64) -> Segment {
        Segment { number, first: Seq(number * 10), bytes: 100, kept_until_ms: None }
    }

    #[test]
    fn an_age_counts_from_when_the_store_last_got_it() {
        let mut sightings = Sightings::default();
        // Up to 15, then up to 30; then it forgot, and got there again.
        for (applied, unix_ms) in [(0, 1), (15, 5), (15, 7), (30, 9), (12, 20), (40, 30), (40, 31)] {
            sightings.saw(Seq(applied), unix_ms);
        }
        for (seq, since) in [(10, Some(5)), (12, Some(5)), (13, Some(30)), (40, Some(30)), (41, None)] {
            assert_eq!(sightings.since(Seq(seq)), since, "{seq}");
        }
        // They end at 19, 29, 39, and the last goes on.
        let mut segments: VecDeque<_> = (1..5).map(segment).collect();
        date(&mut segments, 3, 100, &sightings, 1_000, 70);
        let until: Vec<_> = segments.iter().map(|segment| segment.kept_until_ms).collect();
        assert_eq!(until, [Some(1_060), Some(1_060), Some(1_060), None]);
        // A calendar that was set back makes nothing older, and one set far ahead not negative.
        date(&mut segments, 1, 100, &sightings, 1_000, 10);
        assert_eq!(segments[0].kept_until_ms, Some(1_100));
        date(&mut segments, 1, 100, &sightings, 1_000, 10_000);
        assert_eq!(segments[0].kept_until_ms, Some(1_000));
    }

    #[test]
    fn what_is_aged_goes_but_for_a_spare_and_what_is_in_the_way_goes_at_any_age() {
        let mut segments: VecDeque<_> = (1..6).map(segment).collect();
        for (segment, until) in segments.iter_mut().zip([10, 10, 20, 30]) {
            segment.kept_until_ms = Some(until);
        }
        for (over, now_ms, expected) in
            [(0, 9, 0), (0, 10, 1), (0, 20, 2), (0, 99, 3), (1, 9, 1), (100, 9, 1), (101, 9, 2), (999, 9, 4)]
        {
            assert_eq!(surplus(&segments, 4, over, now_ms), expected, "{over} over at {now_ms}");
        }
        assert_eq!(surplus(&segments, 0, 999, 99), 0, "none is applied");
    }
}
