//! Rests between the parts of a batch, so that PostgreSQL leaves the processors to others for most of
//! the time.
//!
//! A statement for 10,000 rows keeps one processor busy for some 40 ms. On a machine with few of them
//! everybody else waits, and what has gathered meanwhile makes those wait who come after. The same work
//! in parts of 2 ms, with rests in between, is hardly felt.

use std::time::{Duration, Instant};

/// So many rows are added without a rest.
pub(crate) const PART_ROWS: usize = 500;
/// A part that took longer than this has waited for somebody, most likely for rows that another
/// transaction has locked.
const LONGEST_PART: Duration = Duration::from_millis(50);
/// A rest is so many times as long as the part before it took.
const REST_FOR_WORK: u32 = 3;

/// Over how long the parts of one batch are spread.
#[derive(Debug)]
pub(crate) struct Spread {
    began: Instant,
    over: Duration,
}

impl Spread {
    /// From now on, over so long; not at all where that is zero.
    pub(crate) fn over(over: Duration) -> Self {
        Self { began: Instant::now(), over }
    }

    /// How many of `rows` rows are to be added next.
    pub(crate) fn next_part(&self, rows: usize) -> usize {
        if self.left().is_zero() { rows } else { rows.min(PART_ROWS) }
    }

    /// Rests after a part that took so long, before another `rows` rows. Where it takes long to
    /// reach the server, the time is over before all parts are done, and the rest goes in one; so it does
    /// where others want the same rows.
    pub(crate) async fn rest(&mut self, took: Duration, rows: usize) {
        if took > LONGEST_PART {
            self.over = Duration::ZERO;
        }
        let rest = rest(took, self.left(), rows);
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
    }

    fn left(&self) -> Duration {
        self.over.saturating_sub(self.began.elapsed())
    }
}

/// No longer than the parts that follow have, each, of the time that is left.
fn rest(took: Duration, left: Duration, rows: usize) -> Duration {
    let parts = u32::try_from(rows.div_ceil(PART_ROWS)).unwrap_or(u32::MAX);
    took.saturating_mul(REST_FOR_WORK).min(left.checked_div(parts).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_rest_is_in_proportion_and_within_what_is_left() {
        assert_eq!(rest(2 * MS, 250 * MS, 10 * PART_ROWS), 6 * MS);
        assert_eq!(rest(20 * MS, 250 * MS, 10 * PART_ROWS), 25 * MS);
        assert_eq!(rest(20 * MS, 250 * MS, 10 * PART_ROWS + 1), 250 * MS / 11);
        assert_eq!(rest(2 * MS, Duration::ZERO, PART_ROWS), Duration::ZERO);
        assert_eq!(rest(2 * MS, 250 * MS, 0), Duration::ZERO, "there is nothing to rest before");
    }

    #[test]
    fn without_time_all_rows_are_one_part() {
        assert_eq!(Spread::over(Duration::ZERO).next_part(100_000), 100_000);
        let spread = Spread::over(Duration::from_secs(3600));
        assert_eq!((spread.next_part(100_000), spread.next_part(7)), (PART_ROWS, 7));
    }
}
