//! The state machine of the engine: totals and pending batches, without threads, clocks or I/O.
//!
//! The same calls in the same order give the same state. [`Machine::admit`] changes totals
//! before the journal has the increment; that is safe because nobody is shown them in between
//! (the writer answers reads before it admits), and because a failed commit ends the process.

pub(crate) mod ahead;
mod stored;

use std::collections::{HashMap, HashSet};

use counter::{Decoder, Entry as Packed, Fingerprint, Key, Seq, Unit, UnitHeader};

use self::ahead::Ahead;
use crate::batches::Batches;
use crate::counters::{Counters, Number};
use crate::front::{Counted, Refusal};
use crate::ids::{Ids, Known};

/// What bounds a machine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many counters memory may hold.
    pub max_counters: u64,
    /// How many idempotency keys memory may hold.
    pub max_ids: usize,
    /// How long a repetition under one must not count, milliseconds: so long memory holds it.
    pub id_window_ms: u64,
}

/// Totals and pending batches. Only the writer touches it.
#[derive(Debug)]
pub(crate) struct Machine {
    limits: Limits,
    counters: Counters,
    /// What a total has beyond 64 bits. Only increments of other instances can bring it there;
    /// the store then sets aside what doesn't fit.
    excess: HashMap<Number, i128>,
    /// Counters that don't exist, though memory has an entry for them: nothing of them is pending,
    /// and the store has no such key, because it set aside all that was meant for it.
    absent: HashSet<Number>,
    ids: Ids,
    /// Increases when other instances were seen to have flushed; see `Freshness`.
    epoch: u32,
    /// What the store doesn't have yet.
    pub(crate) batches: Batches,
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
    was_absent: bool,
    /// Where a row was opened for it: the row that the counter remembered before.
    row_before: Option<u32>,
    /// `Some` for a plain increment: what the row's flag was.
    plain: Option<bool>,
}

impl Machine {
    /// Empty; `seed` is for the hash table.
    #[must_use]
    pub(crate) fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            counters: Counters::new(seed),
            excess: HashMap::new(),
            absent: HashSet::new(),
            ids: Ids::new(limits.max_ids),
            epoch: 1,
            batches: Batches::default(),
            settling: false,
            undo: Vec::new(),
        }
    }

    /// Takes a total over from the store, before anything else. A row whose key no increment can
    /// have, because somebody else wrote it, stays in the store: reads find it there.
    ///
    /// # Errors
    /// There are more than `max_counters`; the text says what to do.
    pub(crate) fn load(&mut self, key: &str, total: i64) -> Result<(), String> {
        if Key::check(key).is_err() {
            return Ok(());
        }
        let limit = self.limits.max_counters;
        if self.counters.len() as u64 >= limit {
            return Err(format!(
                "the store holds more than {limit} counters; raise max_counters to the number of rows in the \
                 table counters or above"
            ));
        }
        let hash = self.counters.hash(key);
        self.counters.load(key, hash, total, self.epoch);
        Ok(())
    }

    /// Takes an idempotency key over from the store: the newest first, before the replay.
    pub(crate) fn load_id(&mut self, id: &str, fingerprint: Fingerprint, accepted_ms: u64) {
        self.ids.load(id, fingerprint, accepted_ms);
    }

    /// Says that all totals were loaded, and from which watermark. Nothing is found before.
    pub(crate) fn loaded(&mut self, watermark: Seq) {
        self.counters.end_load();
        self.batches.begin(watermark);
    }

    /// Applies a record of the journal that the store doesn't have. Its increments were admitted
    /// once, so none is refused.
    pub(crate) fn replay(&mut self, seq: Seq, accepted_ms: u64, payload: &[u8]) {
        let mut decoder = Decoder::new(payload);
        let mut ahead = Ahead::in_bulk(self, payload.len());
        loop {
            ahead.look(self, decoder.rest());
            let Some(Ok(entry)) = decoder.next() else { break };
            match entry {
                Packed::Increment { key, value } => drop(self.increment(key, value, true, true)),
                Packed::Unit(header) => {
                    let replayed = self.unit(&mut decoder, &header, accepted_ms, true);
                    debug_assert!(replayed.is_ok());
                }
            }
        }
        self.batches.committed(accepted_ms);
        if self.batches.is_open_full() {
            self.batches.seal(seq);
        }
    }

    /// Counts one request, packed: all of it or none.
    ///
    /// # Errors
    /// See [`Refusal`]; then nothing has changed.
    #[inline]
    pub(crate) fn admit(&mut self, request: &[u8], now_ms: u64) -> Result<Counted, Refusal> {
        let mut decoder = Decoder::new(request);
        let first = decoder.next();
        if let (Some(Ok(Packed::Increment { key, value })), []) = (first, decoder.rest()) {
            // By far the most: one increment, nothing to take back.
            let step = self.increment(key, value, true, false)?;
            return Ok(self.counted(step.counter));
        }
        match first {
            Some(Ok(Packed::Unit(header))) => self.unit(&mut decoder, &header, now_ms, false),
            Some(Ok(Packed::Increment { .. })) => self.many(Decoder::new(request)),
            None | Some(Err(_)) => Ok(Counted::default()),
        }
    }

    /// A total as memory knows it, and the epoch in which the store was last heard of it. `None`
    /// where memory doesn't hold the key, and where there is no such key as far as it knows.
    #[must_use]
    pub(crate) fn read(&self, key: &str) -> Option<(i64, u32)> {
        let number = self.counters.find(key, self.counters.hash(key))?;
        let entry = self.counters.entry(number);
        (!self.is_absent(number)).then_some((entry.total, entry.epoch))
    }

    /// Other instances were seen to have flushed: what memory holds may be old.
    pub(crate) fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// Forgets idempotency keys whose window has passed.
    pub(crate) fn forget_ids(&mut self, now_ms: u64) {
        self.ids.forget(now_ms.saturating_sub(self.limits.id_window_ms));
    }

    /// How many idempotency keys memory holds.
    #[must_use]
    pub(crate) fn ids(&self) -> usize {
        self.ids.len()
    }

    /// How many counters memory holds.
    #[must_use]
    pub(crate) fn counters(&self) -> usize {
        self.counters.len()
    }

    fn many(&mut self, mut decoder: Decoder<'_>) -> Result<Counted, Refusal> {
        let mut undo = std::mem::take(&mut self.undo);
        undo.clear();
        let mut outcome = Ok(Counted::default());
        let mut ahead = Ahead::in_bulk(self, decoder.rest().len());
        loop {
            ahead.look(self, decoder.rest());
            let Some(Ok(Packed::Increment { key, value })) = decoder.next() else { break };
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
            *counted = self.counted(last.counter);
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
        let known = self.ids.look_up(header.id, &header.fingerprint);
        if !forced {
            match known {
                Known::No => {}
                Known::Same { total } => {
                    let last = entries.last().map_or("", |(key, _)| *key);
                    let present = self.present(last);
                    let (total, partial) = total.map_or(present, |total| (total, false));
                    return Ok(Counted { total, replayed: true, partial });
                }
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
        let counted = undo.last().map_or_else(Counted::default, |last| self.counted(last.counter));
        // Where the store knows another request under this id, that is the one that counts.
        if known != Known::Other {
            self.ids.remember(header.id, header.fingerprint, counted.total, now_ms);
        }
        self.batches.open.push_unit(Unit {
            id: header.id.into(),
            fingerprint: header.fingerprint,
            accepted_ms: now_ms,
            increments: undo.iter().map(|step| (step.row, step.value)).collect(),
        });
        Ok(counted)
    }

    /// The total of a key as it is now, and whether only the store could tell it.
    fn present(&self, key: &str) -> (i64, bool) {
        match self.counters.find(key, self.counters.hash(key)) {
            Some(number) => {
                let counted = self.counted(number);
                (counted.total, counted.partial)
            }
            None => (0, true),
        }
    }

    /// The answer to a request that ended with this counter.
    #[inline]
    fn counted(&self, counter: Number) -> Counted {
        let entry = self.counters.entry(counter);
        Counted { total: entry.total, replayed: false, partial: entry.epoch == 0 }
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
        let open = &mut self.batches.open;
        // A row that was left from an earlier batch is past the end here, or another counter's.
        let has_row = (entry.row as usize) < open.len() && open.row(entry.row).counter == counter;
        let row_before = (!has_row).then_some(entry.row);
        if !has_row {
            entry.row = open.open_row(key, counter);
        }
        let row = entry.row;
        let was_plain = plain.then(|| open.row(row).plain);
        if plain {
            open.add(row, value);
        }
        let was_absent = !self.absent.is_empty() && self.absent.remove(&counter);
        Ok(Undo {
            counter,
            value,
            row,
            new_counter: found.is_none(),
            was_absent,
            row_before,
            plain: was_plain,
        })
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
                self.batches.open.take_back(step.row, step.value, plain);
            }
            if let Some(row) = step.row_before {
                self.batches.open.close_last_row();
                self.counters.entry_mut(step.counter).row = row;
            }
            if step.was_absent {
                self.absent.insert(step.counter);
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
