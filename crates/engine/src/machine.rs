//! The state machine of the engine: totals and pending batches, without threads, clocks or I/O.
//!
//! The same calls in the same order give the same state. [`Machine::admit`] changes totals
//! before the journal has the increment; that is safe because nobody is shown them in between
//! (the writer answers reads before it admits), and because a failed commit ends the process.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use counter::{Applied, Batch, Decoder, Entry as Packed, OpenBatch, Seq, Unit, UnitHeader};

use crate::counters::{Counters, Number};
use crate::front::{Counted, Refusal};
use crate::ids::{Ids, Known};

/// A batch is sealed when it holds so many keys.
pub const SEAL_AT_KEYS: usize = 100_000;

/// What bounds a machine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many counters memory may hold.
    pub max_counters: u64,
    /// How many idempotency keys memory may hold.
    pub max_ids: usize,
}

/// A sealed batch, and when its oldest increment was accepted.
#[derive(Clone, Debug)]
struct Sealed {
    batch: Arc<Batch>,
    oldest_ms: u64,
}

/// Totals and pending batches. Only the writer touches it.
#[derive(Debug)]
pub struct Machine {
    limits: Limits,
    counters: Counters,
    /// What a total has beyond 64 bits. Only increments of other instances can bring it there;
    /// the store then sets aside what doesn't fit.
    excess: HashMap<Number, i128>,
    ids: Ids,
    /// Increases when other instances were seen to have flushed; see `Freshness`.
    epoch: u32,
    open: OpenBatch,
    open_number: u32,
    open_oldest_ms: u64,
    sealed: VecDeque<Sealed>,
    in_flight: Option<Sealed>,
    /// Everything up to here is in a sealed batch or in the store.
    sealed_upto: Seq,
    /// The watermark of the store, as it was last confirmed.
    watermark: Seq,
    /// Whether some rows of the batch in flight have been settled, and not all.
    settling: bool,
    /// Kept for its memory.
    undo: Vec<Undo>,
}

/// One admitted increment, to be taken back if a later one of its request is refused.
#[derive(Clone, Copy, Debug)]
struct Undo {
    counter: Number,
    value: i64,
    row: u32,
    new_counter: bool,
    new_row: bool,
    /// `Some` for a plain increment: what the row's flag was.
    plain: Option<bool>,
}

impl Machine {
    /// Empty; `seed` is for the hash table.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            counters: Counters::new(seed),
            excess: HashMap::new(),
            ids: Ids::new(limits.max_ids),
            epoch: 1,
            open: OpenBatch::default(),
            open_number: 1,
            open_oldest_ms: 0,
            sealed: VecDeque::new(),
            in_flight: None,
            sealed_upto: Seq::ZERO,
            watermark: Seq::ZERO,
            settling: false,
            undo: Vec::new(),
        }
    }

    /// Takes a total over from the store, before anything else.
    ///
    /// # Errors
    /// There are more than `max_counters`; the text says what to do.
    pub fn load(&mut self, key: &str, total: i64) -> Result<(), String> {
        let limit = self.limits.max_counters;
        if self.counters.len() as u64 >= limit {
            return Err(format!(
                "the store holds more than {limit} counters; raise max_counters to the number of rows in the \
                 table counters or above"
            ));
        }
        let hash = self.counters.hash(key);
        self.counters.insert(key, hash, total, self.epoch);
        Ok(())
    }

    /// Says from which watermark the totals were loaded.
    pub fn loaded(&mut self, watermark: Seq) {
        self.watermark = watermark;
        self.sealed_upto = watermark;
    }

    /// Applies a record of the journal that the store doesn't have. Its increments were admitted
    /// once, so none is refused.
    pub fn replay(&mut self, seq: Seq, accepted_ms: u64, payload: &[u8]) {
        let mut decoder = Decoder::new(payload);
        while let Some(Ok(entry)) = decoder.next() {
            match entry {
                Packed::Increment { key, value } => drop(self.increment(key, value, true, true)),
                Packed::Unit(header) => {
                    let replayed = self.unit(&mut decoder, &header, accepted_ms, true);
                    debug_assert!(replayed.is_ok());
                }
            }
        }
        self.committed(accepted_ms);
        if self.is_open_full() {
            self.seal(seq);
        }
    }

    /// Counts one request, packed: all of it or none.
    ///
    /// # Errors
    /// See [`Refusal`]; then nothing has changed.
    #[inline]
    pub fn admit(&mut self, request: &[u8], now_ms: u64) -> Result<Counted, Refusal> {
        let mut decoder = Decoder::new(request);
        let first = decoder.next();
        if let (Some(Ok(Packed::Increment { key, value })), []) = (first, decoder.rest()) {
            // By far the most: one increment, nothing to take back.
            let step = self.increment(key, value, true, false)?;
            return Ok(Counted { total: self.counters.entry(step.counter).total, replayed: false });
        }
        match first {
            Some(Ok(Packed::Unit(header))) => self.unit(&mut decoder, &header, now_ms, false),
            Some(Ok(Packed::Increment { .. })) => self.many(Decoder::new(request)),
            None | Some(Err(_)) => Ok(Counted::default()),
        }
    }

    /// Ends a commit: what was admitted since the last was accepted at `accepted_ms`.
    pub fn committed(&mut self, accepted_ms: u64) {
        if self.open_oldest_ms == 0 && !self.open.is_empty() {
            self.open_oldest_ms = accepted_ms.max(1);
        }
    }

    /// Whether the open batch holds so much that it has to be sealed.
    #[must_use]
    pub fn is_open_full(&self) -> bool {
        self.open.len() >= SEAL_AT_KEYS
    }

    /// Seals the open batch, if it holds anything. `upto` is the newest record, and durable.
    pub fn seal(&mut self, upto: Seq) {
        if self.open.is_empty() {
            return;
        }
        let batch = Arc::new(self.open.freeze(self.sealed_upto, upto));
        self.sealed.push_back(Sealed { batch, oldest_ms: self.open_oldest_ms });
        self.sealed_upto = upto;
        self.open_number = self.open_number.checked_add(1).unwrap_or(1);
        self.open_oldest_ms = 0;
    }

    /// The next sealed batch, if none is on its way. Before the next one, it has to be settled.
    pub fn hand_over(&mut self) -> Option<Arc<Batch>> {
        if self.in_flight.is_some() {
            return None;
        }
        self.in_flight = self.sealed.pop_front();
        self.in_flight.as_ref().map(|sealed| Arc::clone(&sealed.batch))
    }

    /// Takes over what the store says of some rows of the batch in flight; `epoch` is the one in
    /// which it was applied. When all rows have been settled, [`settled`](Self::settled).
    pub fn settle(&mut self, applied: &Applied, units: &UnitSums, rows: std::ops::Range<usize>, epoch: u32) {
        let Some(in_flight) = &self.in_flight else { return };
        let batch = Arc::clone(&in_flight.batch);
        self.settling = true;
        for at in rows {
            let row = &batch.rows()[at];
            let flushed = row.sum + units.of(at as u32);
            let number = row.counter;
            let pending = self.pending(number) - flushed;
            let base = applied.totals.get(at).copied().flatten().unwrap_or(0);
            let entry = self.counters.entry_mut(number);
            entry.base = base;
            entry.epoch = epoch;
            self.set_total(number, i128::from(base) + pending);
        }
    }

    /// The batch in flight is in the store, and all its rows are settled.
    pub fn settled(&mut self) {
        self.settling = false;
        if let Some(sealed) = self.in_flight.take() {
            self.watermark = sealed.batch.upto();
        }
    }

    /// The batch in flight.
    #[must_use]
    pub fn in_flight(&self) -> Option<&Arc<Batch>> {
        self.in_flight.as_ref().map(|sealed| &sealed.batch)
    }

    /// A total as memory knows it, and the epoch in which the store was last heard of it.
    #[must_use]
    pub fn read(&self, key: &str) -> Option<(i64, u32)> {
        let number = self.counters.find(key, self.counters.hash(key))?;
        let entry = self.counters.entry(number);
        Some((entry.total, entry.epoch))
    }

    /// Takes over what the store said of a key: `stored`, when the watermark was `watermark`,
    /// asked in `epoch`. Returns the total, or `None` where the answer came too late to be put
    /// together with what is pending: then ask again.
    pub fn refresh(
        &mut self,
        key: &str,
        stored: Option<i64>,
        watermark: Seq,
        epoch: u32,
    ) -> Option<Option<i64>> {
        let hash = self.counters.hash(key);
        let Some(number) = self.counters.find(key, hash) else {
            // Nothing of it is pending here, so the watermark doesn't matter.
            if let Some(total) = stored.filter(|_| (self.counters.len() as u64) < self.limits.max_counters) {
                self.counters.insert(key, hash, total, epoch);
            }
            return Some(stored);
        };
        if self.settling {
            return None;
        }
        let base = stored.unwrap_or(0);
        if watermark == self.watermark {
            let pending = self.pending(number);
            let entry = self.counters.entry_mut(number);
            entry.base = base;
            entry.epoch = epoch;
            self.set_total(number, i128::from(base) + pending);
            return Some(Some(self.counters.entry(number).total));
        }
        let in_flight = self.in_flight.as_ref().filter(|sealed| sealed.batch.upto() == watermark)?;
        // Committed, and on its way here: only the answer can be put together, without the batch.
        let flushed = flushed_of(&in_flight.batch, key);
        Some(Some(clamp(i128::from(base) + self.pending(number) - flushed)))
    }

    /// Keys of the open batch that a page may want.
    #[must_use]
    pub fn open_keys(&self, wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
        self.open.keys().filter(|key| wanted(key)).map(str::to_owned).collect()
    }

    /// All batches that are frozen and not settled.
    #[must_use]
    pub fn frozen(&self) -> Vec<Arc<Batch>> {
        self.in_flight.iter().chain(&self.sealed).map(|sealed| Arc::clone(&sealed.batch)).collect()
    }

    /// Other instances were seen to have flushed: what memory holds may be old.
    pub fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// Forgets idempotency keys that were accepted before `before_ms`.
    pub fn forget_ids(&mut self, before_ms: u64) {
        self.ids.forget(before_ms);
    }

    /// How many counters memory holds.
    #[must_use]
    pub fn counters(&self) -> usize {
        self.counters.len()
    }

    /// How many updates are pending: keys of the open batch, and of all others.
    #[must_use]
    pub fn pending_updates(&self) -> (usize, usize) {
        let frozen = self.in_flight.iter().chain(&self.sealed);
        (self.open.len(), frozen.map(|sealed| sealed.batch.rows().len()).sum())
    }

    /// Whether a sealed batch waits to be handed over.
    #[must_use]
    pub fn has_sealed(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// When the oldest increment of the open batch was accepted; `None` while it is empty.
    #[must_use]
    pub fn open_since_ms(&self) -> Option<u64> {
        (self.open_oldest_ms > 0).then_some(self.open_oldest_ms)
    }

    /// When the oldest pending increment was accepted; `None` while nothing is pending.
    #[must_use]
    pub fn oldest_ms(&self) -> Option<u64> {
        let oldest = self.in_flight.iter().chain(&self.sealed).map(|sealed| sealed.oldest_ms).next();
        oldest.or(self.open_since_ms())
    }

    /// The watermark of the store, as it was last confirmed.
    #[must_use]
    pub fn watermark(&self) -> Seq {
        self.watermark
    }

    fn many(&mut self, decoder: Decoder<'_>) -> Result<Counted, Refusal> {
        let mut undo = std::mem::take(&mut self.undo);
        undo.clear();
        let mut outcome = Ok(Counted::default());
        for entry in decoder {
            let Ok(Packed::Increment { key, value }) = entry else { break };
            match self.increment(key, value, true, false) {
                Ok(step) => undo.push(step),
                Err(refusal) => {
                    outcome = Err(refusal.at(undo.len() as u32));
                    self.take_back(&undo);
                    break;
                }
            }
        }
        if let (Ok(counted), Some(last)) = (&mut outcome, undo.last()) {
            counted.total = self.counters.entry(last.counter).total;
        }
        self.undo = undo;
        outcome
    }

    fn unit(
        &mut self,
        decoder: &mut Decoder<'_>,
        header: &UnitHeader<'_>,
        now_ms: u64,
        forced: bool,
    ) -> Result<Counted, Refusal> {
        let entries: Vec<(&str, i64)> = decoder
            .take(header.count as usize)
            .filter_map(|entry| match entry {
                Ok(Packed::Increment { key, value }) => Some((key, value)),
                Ok(Packed::Unit(_)) | Err(_) => None,
            })
            .collect();
        if !forced {
            match self.ids.look_up(header.id, &header.fingerprint) {
                Known::No => {}
                Known::Same { total } => return Ok(Counted { total, replayed: true }),
                Known::Other => return Err(Refusal::IdempotencyMismatch),
            }
        }
        let mut undo: Vec<Undo> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            match self.increment(key, value, false, forced) {
                Ok(step) => undo.push(step),
                Err(refusal) => {
                    self.take_back(&undo);
                    return Err(refusal.at(undo.len() as u32));
                }
            }
        }
        let total = undo.last().map_or(0, |last| self.counters.entry(last.counter).total);
        self.ids.remember(header.id, header.fingerprint, total, now_ms);
        self.open.push_unit(Unit {
            id: header.id.into(),
            fingerprint: header.fingerprint,
            accepted_ms: now_ms,
            increments: undo.iter().map(|step| (step.row, step.value)).collect(),
        });
        Ok(Counted { total, replayed: false })
    }

    /// One increment. `forced`: it was admitted before, so it isn't refused.
    #[inline]
    fn increment(&mut self, key: &str, value: i64, plain: bool, forced: bool) -> Result<Undo, Refusal> {
        let hash = self.counters.hash(key);
        let found = self.counters.find(key, hash);
        let counter = match found {
            Some(counter) => counter,
            None => self.new_counter(key, hash, forced)?,
        };
        let entry = self.counters.entry_mut(counter);
        match entry.total.checked_add(value).filter(|_| self.excess.is_empty()) {
            Some(total) => entry.total = total,
            None => self.add_wide(counter, key, value, forced)?,
        }
        let entry = self.counters.entry_mut(counter);
        // The row is looked at as well, because numbers of batches repeat after 2^32 of them.
        let has_row = entry.batch == self.open_number
            && (entry.row as usize) < self.open.len()
            && self.open.row(entry.row).counter == counter;
        if !has_row {
            entry.row = self.open.open_row(key, counter);
            entry.batch = self.open_number;
        }
        let row = entry.row;
        let was_plain = plain.then(|| self.open.row(row).plain);
        if plain {
            self.open.add(row, value);
        }
        Ok(Undo { counter, value, row, new_counter: found.is_none(), new_row: !has_row, plain: was_plain })
    }

    #[cold]
    fn new_counter(&mut self, key: &str, hash: u32, forced: bool) -> Result<Number, Refusal> {
        let limit = self.limits.max_counters;
        if !forced && self.counters.len() as u64 >= limit {
            return Err(Refusal::TooManyCounters { limit, key: key.to_owned() });
        }
        // Nobody else has flushed since the totals were loaded, so the key is new in the store
        // too; otherwise only the store could tell.
        let epoch = if self.epoch == 1 { 1 } else { 0 };
        Ok(self.counters.insert(key, hash, 0, epoch))
    }

    /// The rare case of [`increment`](Self::increment): past 64 bits, or some total is already.
    #[cold]
    fn add_wide(&mut self, counter: Number, key: &str, value: i64, forced: bool) -> Result<(), Refusal> {
        let before = self.total(counter);
        let after = before + i128::from(value);
        if !forced && i64::try_from(after).is_err() && after.unsigned_abs() > before.unsigned_abs() {
            // A new counter never comes here: one value fits.
            return Err(Refusal::Overflow { entry: 0, key: key.to_owned(), total: clamp(before), value });
        }
        self.set_total(counter, after);
        Ok(())
    }

    fn take_back(&mut self, undo: &[Undo]) {
        for step in undo.iter().rev() {
            let total = self.total(step.counter) - i128::from(step.value);
            self.set_total(step.counter, total);
            if let Some(plain) = step.plain {
                self.open.take_back(step.row, step.value, plain);
            }
            if step.new_row {
                self.open.close_last_row();
                self.counters.entry_mut(step.counter).batch = 0;
            }
            if step.new_counter {
                self.counters.remove_last();
            }
        }
    }

    /// A total, however wide.
    fn total(&self, number: Number) -> i128 {
        let total = i128::from(self.counters.entry(number).total);
        if self.excess.is_empty() { total } else { total + self.excess.get(&number).copied().unwrap_or(0) }
    }

    fn set_total(&mut self, number: Number, total: i128) {
        let held = clamp(total);
        self.counters.entry_mut(number).total = held;
        if total != i128::from(held) {
            self.excess.insert(number, total - i128::from(held));
        } else if !self.excess.is_empty() {
            self.excess.remove(&number);
        }
    }

    /// What of a counter is not in the store yet.
    fn pending(&self, number: Number) -> i128 {
        self.total(number) - i128::from(self.counters.entry(number).base)
    }

    /// A counter's name, for messages.
    #[must_use]
    pub fn key_of(&self, row: &counter::Row) -> &str {
        self.counters.key(row.counter)
    }
}

/// What the units of a batch add to each row, beside the row's own sum.
#[derive(Clone, Debug, Default)]
pub struct UnitSums(HashMap<u32, i128>);

impl UnitSums {
    /// Sums them up.
    #[must_use]
    pub fn of_batch(batch: &Batch) -> Self {
        let mut sums = HashMap::new();
        for (row, value) in batch.units().iter().flat_map(|unit| &unit.increments) {
            *sums.entry(*row).or_default() += i128::from(*value);
        }
        Self(sums)
    }

    fn of(&self, row: u32) -> i128 {
        if self.0.is_empty() { 0 } else { self.0.get(&row).copied().unwrap_or(0) }
    }
}

/// All that a batch adds to a key, as this instance counted it.
fn flushed_of(batch: &Batch, key: &str) -> i128 {
    let order = batch.in_key_order();
    let at =
        order.binary_search_by(|&row| batch.key(&batch.rows()[row as usize]).as_bytes().cmp(key.as_bytes()));
    at.map_or(0, |at| {
        let row = order[at];
        let units = batch.units().iter().flat_map(|unit| &unit.increments);
        let units: i128 = units.filter(|(of, _)| *of == row).map(|(_, value)| i128::from(*value)).sum();
        batch.rows()[row as usize].sum + units
    })
}

fn clamp(total: i128) -> i64 {
    total.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl Refusal {
    fn at(self, at: u32) -> Self {
        match self {
            Self::Overflow { key, total, value, .. } => Self::Overflow { entry: at, key, total, value },
            other => other,
        }
    }
}
