//! Every counter that memory holds: a table that costs about 51 bytes beside the key's own.
//!
//! Three parts, so that growth never copies much at once: names lie one behind the other in
//! chunks that never move; entries are fixed-size and lie in chunks too; and 256 small hash
//! tables of 4-byte numbers lead from a name to its entry, each of which grows by itself.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// A counter's number: counters are numbered from 0 in the order in which they came.
pub(crate) type Number = u32;

const SHARDS: usize = 256;
const CHUNK_BITS: u32 = 14;
const NAMES_CHUNK: usize = 1 << 20;

/// What memory knows of one counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The store's total, as it was last heard of.
    pub(crate) base: i64,
    /// `base` plus all that is pending, held within 64 bits (see `Machine::total`).
    pub(crate) total: i64,
    /// Where its name is: chunk in the upper half, offset in the lower.
    name: u64,
    hash: u32,
    /// The epoch in which `base` was heard of; 0 where the store was never asked.
    pub(crate) epoch: u32,
    /// The batch that last opened a row for it, and which.
    pub(crate) batch: u32,
    pub(crate) row: u32,
}

#[derive(Debug)]
pub(crate) struct Counters {
    hasher: FixedState,
    shards: Vec<HashTable<Number>>,
    entries: Vec<Vec<Entry>>,
    names: Vec<Vec<u8>>,
    len: usize,
}

impl Counters {
    /// `seed` makes it unknowable from outside which names collide.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            hasher: FixedState::with_seed(seed),
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            entries: Vec::new(),
            names: Vec::new(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn entry(&self, number: Number) -> &Entry {
        &self.entries[(number >> CHUNK_BITS) as usize][number as usize & ((1 << CHUNK_BITS) - 1)]
    }

    #[inline]
    pub(crate) fn entry_mut(&mut self, number: Number) -> &mut Entry {
        &mut self.entries[(number >> CHUNK_BITS) as usize][number as usize & ((1 << CHUNK_BITS) - 1)]
    }

    #[inline]
    pub(crate) fn hash(&self, key: &str) -> u32 {
        // The upper half is the better one in foldhash's fast variant.
        (self.hasher.hash_one(key.as_bytes()) >> 32) as u32
    }

    #[inline]
    pub(crate) fn find(&self, key: &str, hash: u32) -> Option<Number> {
        let found = self.shards[shard(hash)].find(spread(hash), |&number| {
            let entry = self.entry(number);
            entry.hash == hash && name(&self.names, entry) == key.as_bytes()
        });
        found.copied()
    }

    /// Adds a counter that [`find`](Self::find) did not find. There may be up to `u32::MAX` - 1.
    pub(crate) fn insert(&mut self, key: &str, hash: u32, total: i64, epoch: u32) -> Number {
        let number = self.len as Number;
        let name = self.push_name(key.as_bytes());
        if self.entries.last().is_none_or(|chunk| chunk.len() == 1 << CHUNK_BITS) {
            self.entries.push(Vec::with_capacity(1 << CHUNK_BITS));
        }
        let entry = Entry { base: total, total, name, hash, epoch, batch: 0, row: 0 };
        if let Some(chunk) = self.entries.last_mut() {
            chunk.push(entry);
        }
        let entries = &self.entries;
        self.shards[shard(hash)].insert_unique(spread(hash), number, |&number| {
            let chunk = &entries[(number >> CHUNK_BITS) as usize];
            spread(chunk[number as usize & ((1 << CHUNK_BITS) - 1)].hash)
        });
        self.len += 1;
        number
    }

    /// Takes back the newest [`insert`](Self::insert).
    pub(crate) fn remove_last(&mut self) {
        let Some(entry) = self.entries.last_mut().and_then(Vec::pop) else { return };
        self.len -= 1;
        let number = self.len as Number;
        let shard = &mut self.shards[shard(entry.hash)];
        if let Ok(occupied) = shard.find_entry(spread(entry.hash), |&other| other == number) {
            occupied.remove();
        }
        if let Some(chunk) = self.names.last_mut() {
            chunk.truncate(entry.name as u32 as usize);
        }
        if self.entries.last().is_some_and(Vec::is_empty) {
            self.entries.pop();
        }
    }

    /// A counter's name.
    #[cfg(test)]
    pub(crate) fn key(&self, number: Number) -> &str {
        // Only whole names go in, as text.
        std::str::from_utf8(name(&self.names, self.entry(number))).unwrap_or_default()
    }

    fn push_name(&mut self, key: &[u8]) -> u64 {
        let need = key.len() + 2;
        if self.names.last().is_none_or(|chunk| chunk.len() + need > chunk.capacity()) {
            self.names.push(Vec::with_capacity(NAMES_CHUNK));
        }
        let at = self.names.len() as u64 - 1;
        let Some(chunk) = self.names.last_mut() else { return 0 };
        let offset = chunk.len() as u64;
        chunk.extend_from_slice(&(key.len() as u16).to_le_bytes());
        chunk.extend_from_slice(key);
        at << 32 | offset
    }
}

#[inline]
fn name<'a>(names: &'a [Vec<u8>], entry: &Entry) -> &'a [u8] {
    let from = &names[(entry.name >> 32) as usize][entry.name as u32 as usize..];
    let bytes = from.first_chunk().map_or(0, |len| usize::from(u16::from_le_bytes(*len)));
    &from[2..2 + bytes]
}

#[inline]
fn shard(hash: u32) -> usize {
    hash as usize % SHARDS
}

/// 64 bits out of 32, since the table takes its buckets from the lower ones and its tags from
/// the upper ones (Fibonacci hashing, Knuth, The Art of Computer Programming, vol. 3, 6.4).
#[inline]
fn spread(hash: u32) -> u64 {
    let product = u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ (product >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_counters_are_found_and_the_newest_can_be_taken_back() {
        let mut counters = Counters::new(1);
        let key = |n: u32| format!("key {n} {}", "x".repeat(n as usize % 500));
        for n in 0..40_000 {
            let hash = counters.hash(&key(n));
            assert_eq!(counters.find(&key(n), hash), None);
            assert_eq!(counters.insert(&key(n), hash, i64::from(n), 1), n);
        }
        for n in (30_000..40_000).rev() {
            counters.remove_last();
            assert_eq!(counters.find(&key(n), counters.hash(&key(n))), None);
        }
        assert_eq!(counters.len(), 30_000);
        for n in 0..30_000 {
            let found = counters.find(&key(n), counters.hash(&key(n)));
            assert_eq!(found, Some(n));
            assert_eq!((counters.entry(n).total, counters.key(n)), (i64::from(n), &*key(n)));
        }
    }

    #[test]
    fn an_entry_stays_small() {
        assert_eq!(size_of::<Entry>(), 40);
    }
}
