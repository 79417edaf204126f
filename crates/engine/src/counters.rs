//! Every counter that memory holds: a table that costs about 45 bytes beside the key's own.
//!
//! Two parts, so that growth never copies much at once. Entries are fixed-size and lie in chunks,
//! each with the names of its counters one behind the other, so that 32 bits say where a name is
//! and how long. And 256 small hash tables of 4-byte numbers lead from a name to its entry, each
//! of which grows by itself.

use std::hash::BuildHasher;

use counter::MAX_KEY_BYTES;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// A counter's number: counters are numbered from 0 in the order in which they came.
pub(crate) type Number = u32;

/// Says that a counter has no row in the open batch.
pub(crate) const NO_ROW: u32 = u32::MAX;

const SHARDS: usize = 256;
/// So many loaded counters of a shard go into its table together: enough for the processor to look for
/// many of their places at once, and little enough that all shards' lists stay in its cache.
const INDEX_TOGETHER: usize = 128;
/// Small enough that copying a chunk's names, once, holds nobody up.
const CHUNK_BITS: u32 = 12;
const CHUNK: usize = 1 << CHUNK_BITS;
/// A name's length, less one, takes the lower bits of `Entry::name`; its offset the upper ones.
const LENGTH_BITS: u32 = 9;

const _: () = assert!(MAX_KEY_BYTES <= 1 << LENGTH_BITS);
const _: () = assert!(CHUNK * MAX_KEY_BYTES <= 1 << (u32::BITS - LENGTH_BITS));

/// What memory knows of one counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The store's total, as it was last heard of.
    pub(crate) base: i64,
    /// `base` plus all that is pending, held within 64 bits (see `Machine::total`).
    pub(crate) total: i64,
    /// Where its name is among those of its chunk, and how long.
    name: u32,
    hash: u32,
    /// The epoch in which `base` was heard of; 0 where the store was never asked.
    pub(crate) epoch: u32,
    /// The row that was last opened for it. Only the row itself can tell whether that is in the
    /// open batch: then it has this counter's number.
    pub(crate) row: u32,
}

/// The entries of a chunk. Aligned to a page, since for a smaller alignment the allocator makes a
/// block longer by as much, and so takes one of the next size for it, longer by a quarter.
#[derive(Debug)]
#[repr(align(4096))]
struct Entries([Entry; CHUNK]);

/// Counters whose numbers follow one another.
#[derive(Debug)]
struct Chunk {
    entries: Box<Entries>,
    names: Vec<u8>,
}

const UNUSED: Entry = Entry { base: 0, total: 0, name: 0, hash: 0, epoch: 0, row: NO_ROW };

#[derive(Debug)]
pub(crate) struct Counters {
    hasher: FixedState,
    shards: Vec<HashTable<Number>>,
    chunks: Vec<Chunk>,
    len: usize,
    /// By shard, the hashes and numbers of counters that were loaded and that its table doesn't lead to yet.
    to_index: Vec<Vec<(u32, Number)>>,
}

impl Counters {
    /// `seed` makes it unknowable from outside which names collide.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            hasher: FixedState::with_seed(seed),
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            chunks: Vec::new(),
            len: 0,
            to_index: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn entry(&self, number: Number) -> &Entry {
        self.chunks[number as usize / CHUNK].entry(number)
    }

    #[inline]
    pub(crate) fn entry_mut(&mut self, number: Number) -> &mut Entry {
        &mut self.chunks[number as usize / CHUNK].entries.0[number as usize % CHUNK]
    }

    #[inline]
    pub(crate) fn hash(&self, key: &str) -> u32 {
        // The upper half is the better one in foldhash's fast variant.
        (self.hasher.hash_one(key.as_bytes()) >> 32) as u32
    }

    #[inline]
    pub(crate) fn find(&self, key: &str, hash: u32) -> Option<Number> {
        debug_assert!(self.to_index.is_empty(), "before the end of the load nothing is found");
        let found = self.shards[shard(hash)].find(spread(hash), |&number| {
            let chunk = &self.chunks[number as usize / CHUNK];
            let entry = chunk.entry(number);
            entry.hash == hash && chunk.name(entry) == key.as_bytes()
        });
        found.copied()
    }

    /// Most likely the counter of this hash, if there is one, without a look at what memory has of it.
    #[inline]
    pub(crate) fn guess(&self, hash: u32) -> Option<Number> {
        self.shards[shard(hash)].find(spread(hash), |_| true).copied()
    }

    /// The first byte of a counter's name.
    #[inline]
    pub(crate) fn name_begins_with(&self, number: Number) -> u8 {
        let chunk = &self.chunks[number as usize / CHUNK];
        chunk.names[(chunk.entry(number).name >> LENGTH_BITS) as usize]
    }

    /// Adds a counter that [`find`](Self::find) did not find. There may be up to `u32::MAX` - 1.
    /// `key` satisfies `Key::check`, which keeps its name within the bits that there are for it.
    pub(crate) fn insert(&mut self, key: &str, hash: u32, total: i64, epoch: u32) -> Number {
        let number = self.add(key, hash, total, epoch);
        self.index(shard(hash), &[(hash, number)]);
        number
    }

    /// As [`insert`](Self::insert), for a counter among many: it is found only after
    /// [`end_load`](Self::end_load). One by one, each would wait for its place in its table to come from
    /// memory.
    pub(crate) fn load(&mut self, key: &str, hash: u32, total: i64, epoch: u32) {
        let number = self.add(key, hash, total, epoch);
        if self.to_index.is_empty() {
            self.to_index.resize_with(SHARDS, || Vec::with_capacity(INDEX_TOGETHER));
        }
        let shard = shard(hash);
        self.to_index[shard].push((hash, number));
        if self.to_index[shard].len() == INDEX_TOGETHER {
            let mut together = std::mem::take(&mut self.to_index[shard]);
            self.index(shard, &together);
            together.clear();
            self.to_index[shard] = together;
        }
    }

    /// Makes everything that was loaded be found.
    pub(crate) fn end_load(&mut self) {
        for (shard, rest) in std::mem::take(&mut self.to_index).iter().enumerate() {
            self.index(shard, rest);
        }
    }

    fn index(&mut self, shard: usize, counters: &[(u32, Number)]) {
        let (table, chunks) = (&mut self.shards[shard], &self.chunks);
        for &(hash, number) in counters {
            table.insert_unique(spread(hash), number, |&number| {
                spread(chunks[number as usize / CHUNK].entry(number).hash)
            });
        }
    }

    /// Adds an entry that no table leads to.
    fn add(&mut self, key: &str, hash: u32, total: i64, epoch: u32) -> Number {
        debug_assert!((1..=MAX_KEY_BYTES).contains(&key.len()));
        let number = self.len as Number;
        if self.len.is_multiple_of(CHUNK) {
            self.add_chunk();
        }
        let chunk = &mut self.chunks[self.len / CHUNK];
        let name = (chunk.names.len() as u32) << LENGTH_BITS | (key.len() as u32 - 1);
        chunk.names.extend_from_slice(key.as_bytes());
        chunk.entries.0[self.len % CHUNK] = Entry { base: total, total, name, hash, epoch, row: NO_ROW };
        self.len += 1;
        number
    }

    /// Takes back the newest [`insert`](Self::insert).
    pub(crate) fn remove_last(&mut self) {
        let Some(last) = self.len.checked_sub(1) else { return };
        let number = last as Number;
        let entry = *self.entry(number);
        self.chunks[last / CHUNK].names.truncate((entry.name >> LENGTH_BITS) as usize);
        if last.is_multiple_of(CHUNK) {
            self.chunks.pop();
        }
        self.len = last;
        let shard = &mut self.shards[shard(entry.hash)];
        if let Ok(occupied) = shard.find_entry(spread(entry.hash), |&other| other == number) {
            occupied.remove();
        }
    }

    /// A counter's name.
    #[cfg(test)]
    pub(crate) fn key(&self, number: Number) -> &str {
        // Only whole names go in, as text.
        let name = self.chunks[number as usize / CHUNK].name(self.entry(number));
        std::str::from_utf8(name).unwrap_or_default()
    }

    #[cold]
    fn add_chunk(&mut self) {
        let names = self.chunks.last_mut().map(Chunk::pack_names).unwrap_or_default();
        self.chunks.push(Chunk { entries: Box::new(Entries([UNUSED; CHUNK])), names });
    }
}

impl Chunk {
    #[inline]
    fn entry(&self, number: Number) -> &Entry {
        &self.entries.0[number as usize % CHUNK]
    }

    #[inline]
    fn name(&self, entry: &Entry) -> &[u8] {
        let start = (entry.name >> LENGTH_BITS) as usize;
        &self.names[start..=start + (entry.name as usize & ((1 << LENGTH_BITS) - 1))]
    }

    /// Moves the names to where they just fit. What they had grown into is for the next chunk's;
    /// to shrink it would leave the allocator up to half of it unused.
    fn pack_names(&mut self) -> Vec<u8> {
        let packed = self.names.as_slice().into();
        let mut roomy = std::mem::replace(&mut self.names, packed);
        roomy.clear();
        roomy
    }
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
        let key = |n: u32| format!("{n:x<0$}", 5 + n as usize % (MAX_KEY_BYTES - 4));
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
        let names: usize = counters.chunks.iter().map(|chunk| chunk.names.len()).sum();
        assert_eq!(
            names,
            (0..30_000).map(|n| key(n).len()).sum::<usize>(),
            "names of those taken back are left"
        );
        // What a chunk's names had grown into is passed on, and they still fit.
        let spare = |chunk: &Chunk| chunk.names.capacity() - chunk.names.len();
        let packed = &counters.chunks[..counters.chunks.len() - 1];
        assert_eq!(packed.iter().map(spare).max(), Some(0));
        for n in 0..30_000 {
            let found = counters.find(&key(n), counters.hash(&key(n)));
            assert_eq!(found, Some(n));
            assert_eq!((counters.entry(n).total, counters.key(n)), (i64::from(n), &*key(n)));
        }
    }

    #[test]
    fn what_is_loaded_is_found_beside_what_is_inserted() {
        let mut counters = Counters::new(3);
        let key = |n: u32| format!("key {n}");
        // So many that some shards' lists are full and some aren't.
        let loaded = (SHARDS * INDEX_TOGETHER) as u32;
        for n in 0..loaded {
            counters.load(&key(n), counters.hash(&key(n)), i64::from(n), 1);
        }
        counters.end_load();
        for n in loaded..2 * loaded {
            counters.insert(&key(n), counters.hash(&key(n)), i64::from(n), 1);
        }
        let found = |n: u32| counters.find(&key(n), counters.hash(&key(n)));
        assert_eq!((0..2 * loaded).find(|&n| found(n) != Some(n)), None);
        let indexed: usize = counters.shards.iter().map(HashTable::len).sum();
        assert_eq!((counters.len(), indexed), (2 * loaded as usize, 2 * loaded as usize));
    }

    #[test]
    fn a_chunk_of_the_longest_names_is_found() {
        let mut counters = Counters::new(2);
        let key = |n: usize| format!("{n:0$}", MAX_KEY_BYTES);
        for n in 0..=CHUNK {
            let hash = counters.hash(&key(n));
            counters.insert(&key(n), hash, 0, 1);
        }
        let unfound = (0..=CHUNK).find(|&n| counters.key(n as Number) != key(n));
        assert_eq!(unfound, None);
    }

    #[test]
    fn an_entry_stays_small() {
        assert_eq!(size_of::<Entry>(), 32);
        assert_eq!(size_of::<Entries>(), CHUNK * size_of::<Entry>());
    }
}
