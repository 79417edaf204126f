//! Medians, and ratios of what was measured in pairs.

/// A median and how far the values lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle value; between the two middle ones where their number is even.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many there were.
    pub count: usize,
}

/// The spread of `values`; `None` where there are none, or one is not a finite number.
#[must_use]
pub fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (&min, &max) = (sorted.first()?, sorted.last()?);
    if !sorted.iter().all(|value| value.is_finite()) {
        return None;
    }
    let count = sorted.len();
    let median = f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]);
    Some(Spread { median, min, max, count })
}

/// The spread of a ratio that is taken round by round, so that what changes between rounds (the
/// machine's speed) falls out. Each value comes with its round; a round that lacks either side is
/// left out, and so is one whose lower side is 0. `None` where no round is left.
#[must_use]
pub fn paired_ratio(upper: &[(u32, f64)], lower: &[(u32, f64)]) -> Option<Spread> {
    let of_round = |round| lower.iter().find(|(other, _)| *other == round).map(|(_, value)| *value);
    let ratio = |&(round, value): &(u32, f64)| of_round(round).map(|lower| value / lower);
    let ratios: Vec<f64> = upper.iter().filter_map(ratio).filter(|ratio| ratio.is_finite()).collect();
    spread(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle_of_any_order() {
        let odd = spread(&[9.0, 1.0, 5.0]).unwrap();
        assert_eq!(odd, Spread { median: 5.0, min: 1.0, max: 9.0, count: 3 });
        let even = spread(&[4.0, 1.0, 2.0, 100.0]).unwrap();
        assert_eq!(even, Spread { median: 3.0, min: 1.0, max: 100.0, count: 4 });
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[1.0, f64::NAN]), None);
        assert_eq!(spread(&[1.0, f64::INFINITY]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The ratio of the medians would be 1, that of each pair is 2 or 0.5.
        let upper = [(1, 2.0), (2, 20.0), (3, 1.0), (4, 7.0)];
        let lower = [(3, 2.0), (2, 10.0), (1, 1.0), (5, 9.0)];
        let ratio = paired_ratio(&upper, &lower).unwrap();
        assert_eq!(ratio, Spread { median: 2.0, min: 0.5, max: 2.0, count: 3 });
        assert_eq!(paired_ratio(&upper, &[(9, 1.0)]), None);
        assert_eq!(paired_ratio(&[(1, 1.0)], &[(1, 0.0)]), None);
    }
}
