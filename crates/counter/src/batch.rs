//! What is pending, summed by key.

use std::sync::OnceLock;

use crate::{Fingerprint, Seq};

/// One key of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    start: u32,
    key_bytes: u16,
    /// Whether a plain increment (one without an idempotency key) touched the key. Where none
    /// did, the key must come into being only if one of its units turns out to be new.
    pub plain: bool,
    /// The engine's number for this counter; the store hands it back untouched.
    pub counter: u32,
    /// The sum of the plain increments. Wider than 64 bits because a batch may lead from one
    /// end of the range of a total to the other.
    pub sum: i128,
}

/// A request with an idempotency key: it counts once as a whole, and only the store can say
/// whether it has been counted already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The idempotency key, 1 to 255 bytes.
    pub id: Box<str>,
    /// Tells a retry (same) from another request under the same id (different).
    pub fingerprint: Fingerprint,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub accepted_ms: u64,
    /// Which rows it adds to, and how much, in the order of the request.
    pub increments: Vec<(u32, i64)>,
}

/// The batch that still grows. Only the engine's writer touches it.
#[derive(Debug, Default)]
pub struct OpenBatch {
    keys: String,
    rows: Vec<Row>,
    units: Vec<Unit>,
}

impl OpenBatch {
    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing is pending in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A row for a key that has none yet; its number.
    pub fn open_row(&mut self, key: &str, counter: u32) -> u32 {
        let row = self.rows.len() as u32;
        let start = self.keys.len() as u32;
        self.keys.push_str(key);
        self.rows.push(Row { start, key_bytes: key.len() as u16, plain: false, counter, sum: 0 });
        row
    }

    /// Adds a plain increment to a row.
    #[inline]
    pub fn add(&mut self, row: u32, value: i64) {
        let row = &mut self.rows[row as usize];
        row.sum += i128::from(value);
        row.plain = true;
    }

    /// Takes back an [`add`](Self::add); `plain` is what the row's flag was before it.
    pub fn take_back(&mut self, row: u32, value: i64, plain: bool) {
        let row = &mut self.rows[row as usize];
        row.sum -= i128::from(value);
        row.plain = plain;
    }

    /// Takes back the newest [`open_row`](Self::open_row).
    pub fn close_last_row(&mut self) {
        if let Some(row) = self.rows.pop() {
            self.keys.truncate(row.start as usize);
        }
    }

    /// Adds a request with an idempotency key; its rows have been opened before.
    pub fn push_unit(&mut self, unit: Unit) {
        self.units.push(unit);
    }

    /// The row of that number.
    #[must_use]
    pub fn row(&self, row: u32) -> &Row {
        &self.rows[row as usize]
    }

    /// The keys, in the order in which they were first touched.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|row| key_of(&self.keys, row))
    }

    /// Ends its growth: what it holds, `from` (exclusive) to `upto` (inclusive), as a batch that
    /// never changes again. An empty one stays behind.
    pub fn freeze(&mut self, from: Seq, upto: Seq) -> Batch {
        let Self { keys, rows, units } = std::mem::take(self);
        Batch { from, upto, keys, rows, units, ordered: OnceLock::new() }
    }
}

/// Every increment of the records after `from` up to `upto`, summed by key. It never changes: it
/// is applied as it is until the store has it.
#[derive(Debug)]
pub struct Batch {
    from: Seq,
    upto: Seq,
    keys: String,
    rows: Vec<Row>,
    units: Vec<Unit>,
    ordered: OnceLock<Ordered>,
}

impl Batch {
    /// The watermark that the store must have for this batch to be next (exclusive).
    #[must_use]
    pub fn from(&self) -> Seq {
        self.from
    }

    /// The watermark that the store has once it is applied (inclusive).
    #[must_use]
    pub fn upto(&self) -> Seq {
        self.upto
    }

    /// One row for each key, in the order in which they were first touched.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The name of a row's counter.
    #[must_use]
    pub fn key(&self, row: &Row) -> &str {
        key_of(&self.keys, row)
    }

    /// The requests with an idempotency key, in the order in which they were accepted.
    #[must_use]
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The numbers of the rows in the one order in which every instance writes them: keys sorted
    /// bytewise. Sorted on the first call, so that the flusher pays for it and not the writer.
    #[must_use]
    pub fn in_key_order(&self) -> &[u32] {
        &self.ordered().rows
    }

    /// The key of row `in_key_order()[at]`, from a copy in which they lie one behind the other: who
    /// goes through all of them doesn't wait for memory.
    #[must_use]
    pub fn key_in_order(&self, at: usize) -> &str {
        let Ordered { keys, ends, .. } = self.ordered();
        let begin = if at == 0 { 0 } else { ends[at - 1] };
        &keys[begin as usize..ends[at] as usize]
    }

    fn ordered(&self) -> &Ordered {
        self.ordered.get_or_init(|| Ordered::of(self))
    }
}

/// The rows of a batch in the order of their keys.
#[derive(Debug)]
struct Ordered {
    rows: Box<[u32]>,
    keys: String,
    /// Where each key ends in `keys`.
    ends: Box<[u32]>,
}

impl Ordered {
    fn of(batch: &Batch) -> Self {
        let key = |row: u32| batch.key(&batch.rows[row as usize]);
        // With their first bytes beside them, most are told apart without a look at the keys,
        // which lie anywhere in memory.
        let with_start = |row| (start(key(row).as_bytes()), row);
        let mut sorted: Vec<(u128, u32)> = (0..batch.rows.len() as u32).map(with_start).collect();
        sorted.sort_unstable_by(|(a, this), (b, other)| {
            a.cmp(b).then_with(|| key(*this).as_bytes().cmp(key(*other).as_bytes()))
        });
        let rows: Box<[u32]> = sorted.into_iter().map(|(_, row)| row).collect();
        let mut keys = String::with_capacity(batch.keys.len());
        let append = |&row: &u32| {
            keys.push_str(key(row));
            keys.len() as u32
        };
        let ends = rows.iter().map(append).collect();
        Self { rows, keys, ends }
    }
}

/// The first 16 bytes as a number that has their order: where two keys' differ, the keys differ in
/// the same direction.
fn start(key: &[u8]) -> u128 {
    let mut start = [0; 16];
    let len = key.len().min(start.len());
    start[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(start)
}

/// What became of a batch that the store has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The store's total for each row of the batch, by row number, read in the transaction that
    /// applied it or (where the answer to COMMIT was lost) after it. `None`: the store has no
    /// such key, because all that was meant for it was set aside or counted before.
    pub totals: Vec<Option<i64>>,
    /// Units that the store had counted before, by number in [`Batch::units`].
    pub duplicates: Vec<u32>,
    /// What went into the table `set_aside` instead of into totals.
    pub set_aside: Vec<SetAside>,
}

/// A part of a batch that the store refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The counter's name.
    pub key: String,
    /// What should have been added; wider than 64 bits where a batch's sum is.
    pub value: i128,
    /// The store's own words.
    pub reason: String,
}

fn key_of<'a>(keys: &'a str, row: &Row) -> &'a str {
    let start = row.start as usize;
    &keys[start..start + usize::from(row.key_bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_batch_holds_what_went_in_and_sorts_bytewise() {
        let mut open = OpenBatch::default();
        for (counter, key) in ["b", "ä", "a", "B"].into_iter().enumerate() {
            let row = open.open_row(key, counter as u32);
            open.add(row, i64::MAX);
            open.add(row, i64::MAX);
        }
        let last = open.open_row("gone", 9);
        open.add(last, 1);
        open.take_back(last, 1, false);
        open.close_last_row();

        let batch = open.freeze(Seq(3), Seq(7));
        assert!(open.is_empty());
        assert_eq!((batch.from(), batch.upto()), (Seq(3), Seq(7)));
        let rows = batch.in_key_order().iter().map(|&row| &batch.rows()[row as usize]);
        let sorted: Vec<_> = rows.map(|row| (batch.key(row), row.counter)).collect();
        assert_eq!(sorted, [("B", 3), ("a", 2), ("b", 0), ("ä", 1)]);
        assert!(batch.rows().iter().all(|row| row.sum == 2 * i128::from(i64::MAX) && row.plain));
    }

    proptest::proptest! {
        /// Also where they differ late, or not before one of them ends.
        #[test]
        fn keys_are_in_the_order_of_their_bytes(keys in proptest::collection::btree_set("a{0,17}[a-c\u{1}\u{e4}]{1,4}", 1..50)) {
            let mut open = OpenBatch::default();
            // Not in their order.
            for (counter, key) in keys.iter().rev().enumerate() {
                let row = open.open_row(key, counter as u32);
                open.add(row, 1);
            }
            let batch = open.freeze(Seq(0), Seq(1));
            let rows = batch.in_key_order();
            let sorted = rows.iter().map(|&row| batch.key(&batch.rows()[row as usize]));
            proptest::prop_assert_eq!(sorted.collect::<Vec<_>>(), keys.iter().collect::<Vec<_>>());
            let copied = (0..rows.len()).map(|at| batch.key_in_order(at));
            proptest::prop_assert_eq!(copied.collect::<Vec<_>>(), keys.iter().collect::<Vec<_>>());
        }
    }
}
