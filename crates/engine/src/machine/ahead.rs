//! Looking at what the next increments need, some dozens of them at a time, before it is their turn.
//!
//! From a name to its counter leads a chain: the table, the entry, and from there the name to compare
//! with and the row in the open batch. Each link mostly has to come from memory, since the rest of the
//! machine's work has been through the caches since this counter's last increment. One increment after the
//! other would wait for every link anew; link by link, the processor waits for many of them at once.

use std::hint::black_box;

use counter::{Decoder, Entry as Packed};

use super::Machine;
use crate::counters::Number;

/// So many increments are looked at together. What they need, some five cache lines each, stays in the
/// first-level cache.
const TOGETHER: usize = 64;
/// A request of more bytes than this has its increments looked at while they are admitted; those of the others are
/// looked at across requests.
const LONG_BYTES: usize = 1024;
/// Where increments come one right behind the other, fewer counters than these stay in the caches, and to
/// look at them would only take time.
const MOST_IN_CACHE: usize = 100_000;

/// How far what is about to be admitted has been looked at. Where it has been makes no difference but in time.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// So many bytes before the end that is common to all of `rest`.
    left: usize,
}

impl Ahead {
    /// Nothing has been looked at.
    pub(crate) fn new() -> Self {
        Self { left: usize::MAX }
    }

    /// For increments that come right behind one another, `bytes` of them: nothing will be looked at
    /// where that would be in vain.
    pub(crate) fn in_bulk(machine: &Machine, bytes: usize) -> Self {
        let worth_it = is_long(bytes) && machine.counters() >= MOST_IN_CACHE;
        Self { left: if worth_it { usize::MAX } else { 0 } }
    }

    /// Before a request of so many bytes: `rest` begins with it.
    #[inline]
    pub(crate) fn before_request(&mut self, machine: &Machine, bytes: usize, rest: &[u8]) {
        if !is_long(bytes) {
            self.look(machine, rest);
        }
    }

    /// `rest` is what is left to be admitted, packed: each time the end of the same bytes.
    #[inline]
    pub(crate) fn look(&mut self, machine: &Machine, rest: &[u8]) {
        if rest.len() <= self.left {
            self.left = machine.look(rest);
        }
    }
}

fn is_long(bytes: usize) -> bool {
    bytes > LONG_BYTES
}

impl Machine {
    /// Looks at the first increments of `packed`; how many bytes it left.
    #[inline(never)]
    fn look(&self, packed: &[u8]) -> usize {
        let mut numbers = [0; TOGETHER];
        let mut decoder = Decoder::new(packed);
        let keys = decoder.by_ref().take(TOGETHER).filter_map(|entry| match entry {
            Ok(Packed::Increment { key, .. }) => Some(key),
            Ok(Packed::Unit(_)) | Err(_) => None,
        });
        let guesses = keys.filter_map(|key| self.counters.guess(self.counters.hash(key)));
        let found = numbers.iter_mut().zip(guesses).map(|(number, guess)| *number = guess).count();
        let numbers: &[Number] = &numbers[..found];
        for &number in numbers {
            black_box(self.counters.entry(number).row);
        }
        let open = &self.batches.open;
        for &number in numbers {
            black_box(self.counters.name_begins_with(number));
            let row = self.counters.entry(number).row;
            if (row as usize) < open.len() {
                black_box(open.row(row).counter);
            }
        }
        decoder.rest().len()
    }
}

#[cfg(test)]
mod tests {
    use counter::Entries;

    use super::*;
    use crate::machine::Limits;

    fn packed(keys: std::ops::Range<u32>) -> Vec<u8> {
        let mut entries = Entries::new();
        keys.for_each(|key| entries.push(&format!("key {key:05}"), 1).unwrap());
        entries.bytes().to_vec()
    }

    #[test]
    fn in_bulk_it_looks_only_at_what_no_cache_can_hold() {
        let limits = Limits { max_counters: 1_000_000, max_ids: 1, id_window_ms: 1 };
        let mut machine = Machine::new(limits, 1);
        let few = packed(0..99_999);
        machine.admit(&few, 1).unwrap();
        let left = |machine: &Machine| {
            let mut ahead = Ahead::in_bulk(machine, few.len());
            ahead.look(machine, &few);
            ahead.left
        };
        assert_eq!(left(&machine), 0);
        machine.admit(&packed(99_999..100_000), 1).unwrap();
        assert_eq!(left(&machine), few.len() - TOGETHER * few.len() / 99_999);
        assert_eq!(Ahead::in_bulk(&machine, LONG_BYTES).left, 0, "it was looked at before it was admitted");
        let mut ahead = Ahead::new();
        ahead.before_request(&machine, LONG_BYTES + 1, &few);
        assert_eq!(ahead.left, usize::MAX, "it will be looked at while it is admitted");
        ahead.before_request(&machine, LONG_BYTES, &few);
        assert_eq!(ahead.left, left(&machine));
    }

    #[test]
    fn it_looks_at_as_many_again_when_the_last_have_been_admitted() {
        let limits = Limits { max_counters: 1_000_000, max_ids: 1, id_window_ms: 1 };
        let mut machine = Machine::new(limits, 1);
        let (known, unknown) = (packed(0..1000), packed(1000..1100));
        machine.admit(&known, 1).unwrap();
        let bytes = known.len() / 1000;
        let mut ahead = Ahead::new();
        let mut looks = Vec::new();
        for at in 0..1000 {
            let before = ahead.left;
            ahead.look(&machine, &known[at * bytes..]);
            if ahead.left != before {
                looks.push((at, (known.len() - ahead.left) / bytes));
            }
        }
        let expected: Vec<_> =
            (0..1000).step_by(TOGETHER).map(|at| (at, (at + TOGETHER).min(1000))).collect();
        assert_eq!(looks, expected);
        assert_eq!(machine.look(&unknown), unknown.len() - TOGETHER * bytes, "counters that don't exist");
        assert_eq!(
            (machine.look(&[]), machine.look(&[0xff; 9])),
            (0, 0),
            "nothing, and nothing that makes sense"
        );
    }
}
