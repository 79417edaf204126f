//! What a batch comes to once the store has said which of its units are new. No I/O: both
//! stores decide alike.

use std::collections::{HashMap, HashSet};

use counter::{Batch, Fingerprint, Row, SetAside};

/// What the store knows of an idempotency key after the batch's own keys have been written.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// It holds a request with this fingerprint; `here` tells whether this very batch wrote it.
    Counted { fingerprint: Fingerprint, here: bool },
    /// It would not hold the key at all, for this reason.
    Refused(String),
}

/// The numbers of the units to offer to the store: the first under each id, ids bytewise.
pub(crate) fn first_of_each_id(batch: &Batch) -> Vec<u32> {
    let id = |unit: u32| batch.units()[unit as usize].id.as_bytes();
    let mut units: Vec<u32> = (0..batch.units().len() as u32).collect();
    // A stable sort: the first in the batch stays the first of its id.
    units.sort_by(|&a, &b| id(a).cmp(id(b)));
    units.dedup_by(|later, earlier| id(*later) == id(*earlier));
    units
}

/// Parts those units (as of [`first_of_each_id`]) that are to be offered from those that were
/// accepted before their journal was written off: whether they have counted already, no id tells
/// any more.
pub(crate) fn part_unknowable(
    batch: &Batch,
    units: Vec<u32>,
    written_off_ms: Option<u64>,
) -> (Vec<u32>, Vec<u32>) {
    let Some(written_off_ms) = written_off_ms else { return (units, Vec::new()) };
    units.into_iter().partition(|&unit| batch.units()[unit as usize].accepted_ms >= written_off_ms)
}

/// Why such a unit doesn't count, unless the store still holds its id.
pub(crate) fn unknowable() -> Known {
    let reason = "ids of its time have left the store without its journal, so that \
                  nobody can tell whether the request had been counted under another server";
    Known::Refused(reason.to_owned())
}

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What each row of the batch comes to, by row number; `None` where nothing is meant for it,
    /// so that it must not come into being.
    pub(crate) sums: Vec<Option<i128>>,
    /// As in [`counter::Applied`].
    pub(crate) duplicates: Vec<u32>,
    /// As in [`counter::Applied`].
    pub(crate) set_aside: Vec<SetAside>,
}

impl Plan {
    /// Decides for each unit of `batch`, in order: the first under an id that this batch wrote
    /// counts; another with the fingerprint that the store holds has been counted; the rest is
    /// set aside. `None` where an id of the batch is missing in `known`.
    pub(crate) fn new(batch: &Batch, known: &HashMap<&str, Known>) -> Option<Self> {
        let mut plan = Self {
            sums: batch.rows().iter().map(|row| row.plain.then_some(row.sum)).collect(),
            ..Self::default()
        };
        let mut counted = HashSet::new();
        for (number, unit) in batch.units().iter().enumerate() {
            let reason = match known.get(&*unit.id)? {
                Known::Counted { here: true, .. } if counted.insert(&*unit.id) => {
                    for &(row, value) in &unit.increments {
                        let sum = plan.sums[row as usize].get_or_insert(0);
                        *sum += i128::from(value);
                    }
                    continue;
                }
                Known::Counted { fingerprint, .. } if *fingerprint == unit.fingerprint => {
                    plan.duplicates.push(number as u32);
                    continue;
                }
                Known::Counted { .. } => {
                    format!("the idempotency key {:?} has been used for another request", unit.id)
                }
                Known::Refused(reason) => format!("the idempotency key {:?} was refused: {reason}", unit.id),
            };
            plan.set_aside.extend(unit.increments.iter().map(|&(row, value)| {
                set_aside(batch, &batch.rows()[row as usize], value.into(), reason.clone())
            }));
        }
        plan.drop_hopeless(batch);
        Some(plan)
    }

    /// A total has 64 bits, so no sum past ±(2^64 − 1) leads from one total to another.
    fn drop_hopeless(&mut self, batch: &Batch) {
        for (sum, row) in self.sums.iter_mut().zip(batch.rows()) {
            if let Some(hopeless) = sum.take_if(|sum| sum.unsigned_abs() > u128::from(u64::MAX)) {
                let reason = "the sum of one batch is too large for any total".to_owned();
                self.set_aside.push(set_aside(batch, row, hopeless, reason));
            }
        }
    }
}

pub(crate) fn set_aside(batch: &Batch, row: &Row, value: i128, reason: String) -> SetAside {
    SetAside { key: batch.key(row).to_owned(), value, reason }
}

/// A sum as 64-bit parts of one sign, so that the total moves one way only and passes its range
/// on the way exactly if it does at the end. At least one part: 0 brings a key into being.
pub(crate) fn parts(sum: i128) -> impl Iterator<Item = i64> {
    let mut rest = Some(sum);
    std::iter::from_fn(move || {
        let sum = rest?;
        let part = sum.clamp(i64::MIN.into(), i64::MAX.into());
        rest = Some(sum - part).filter(|&rest| rest != 0);
        Some(part as i64)
    })
}

/// An acceptance time that both stores can show as a date: at most the end of the year 9999.
pub(crate) fn date_ms(accepted_ms: u64) -> i64 {
    const END_OF_9999_MS: u64 = 253_402_300_799_999;
    accepted_ms.min(END_OF_9999_MS) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use counter::{OpenBatch, Seq, Unit};

    fn unit(id: &str, fingerprint: u8, increments: &[(u32, i64)]) -> Unit {
        let increments = increments.to_vec();
        Unit { id: id.into(), fingerprint: [fingerprint; 16], accepted_ms: 0, increments }
    }

    #[test]
    fn parts_have_one_sign_and_add_up() {
        let top = u64::MAX as i128;
        for sum in [0, 1, -1, i64::MAX.into(), i64::MIN.into(), top, -top, i128::from(i64::MIN) - 1] {
            let parts: Vec<i64> = parts(sum).collect();
            assert_eq!(parts.iter().map(|&part| i128::from(part)).sum::<i128>(), sum);
            assert!((1..=3).contains(&parts.len()));
            assert!(parts.iter().all(|part| i128::from(part.signum()) == sum.signum()));
        }
    }

    #[test]
    fn units_are_decided_in_order() {
        let mut open = OpenBatch::default();
        for key in ["plain", "new", "only-duplicate", "only-refused"] {
            open.open_row(key, 0);
        }
        open.add(0, 5);
        open.push_unit(unit("b", 1, &[(0, 1), (1, 2), (1, 3)]));
        open.push_unit(unit("a", 1, &[(2, 7)]));
        open.push_unit(unit("b", 1, &[(1, 2)]));
        open.push_unit(unit("b", 2, &[(3, 9)]));
        open.push_unit(unit("c", 1, &[(0, 1)]));
        let batch = open.freeze(Seq(0), Seq(1));
        assert_eq!(first_of_each_id(&batch), [1, 0, 4]);

        let known = HashMap::from([
            ("a", Known::Counted { fingerprint: [1; 16], here: false }),
            ("b", Known::Counted { fingerprint: [1; 16], here: true }),
            ("c", Known::Refused("no".to_owned())),
        ]);
        let plan = Plan::new(&batch, &known).unwrap();
        assert_eq!(plan.sums, [Some(6), Some(5), None, None]);
        assert_eq!(plan.duplicates, [1, 2]);
        let set_aside: Vec<_> = plan.set_aside.iter().map(|part| (part.key.as_str(), part.value)).collect();
        assert_eq!(set_aside, [("only-refused", 9), ("plain", 1)]);
        assert!(Plan::new(&batch, &HashMap::new()).is_none());
    }

    #[test]
    fn a_sum_that_no_total_can_take_is_set_aside() {
        let mut open = OpenBatch::default();
        open.open_row("wide", 0);
        open.open_row("hopeless", 1);
        for _ in 0..2 {
            open.add(0, i64::MAX);
        }
        for _ in 0..3 {
            open.add(1, i64::MAX);
        }
        let plan = Plan::new(&open.freeze(Seq(0), Seq(1)), &HashMap::new()).unwrap();
        assert_eq!(plan.sums, [Some(2 * i128::from(i64::MAX)), None]);
        assert_eq!(plan.set_aside[0].value, 3 * i128::from(i64::MAX));
    }
}
