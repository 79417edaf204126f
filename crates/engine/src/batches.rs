//! What the store doesn't have yet: the batch that grows, those that are sealed, the one in flight.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use counter::{Batch, OpenBatch, Seq};

/// A batch is sealed when it holds so many keys.
pub const SEAL_AT_KEYS: usize = 100_000;

#[derive(Debug)]
pub(crate) struct Batches {
    pub(crate) open: OpenBatch,
    open_oldest_ms: u64,
    /// As the oldest, but the lowest: the calendar may be set back.
    open_lowest_ms: u64,
    sealed: VecDeque<Sealed>,
    in_flight: Option<Sealed>,
    /// Everything up to here is in a sealed batch or in the store.
    sealed_upto: Seq,
    /// The watermark of the store, as it was last confirmed.
    watermark: Seq,
}

/// A sealed batch, when its oldest increment was accepted, and the lowest of such times.
#[derive(Clone, Debug)]
struct Sealed {
    batch: Arc<Batch>,
    oldest_ms: u64,
    lowest_ms: u64,
}

impl Default for Batches {
    fn default() -> Self {
        Self {
            open: OpenBatch::default(),
            open_oldest_ms: 0,
            open_lowest_ms: u64::MAX,
            sealed: VecDeque::new(),
            in_flight: None,
            sealed_upto: Seq::ZERO,
            watermark: Seq::ZERO,
        }
    }
}

impl Batches {
    /// Nothing is pending, and the store is at `watermark`.
    pub(crate) fn begin(&mut self, watermark: Seq) {
        self.watermark = watermark;
        self.sealed_upto = watermark;
    }

    /// Ends a commit: what was admitted since the last was accepted at `accepted_ms`.
    pub(crate) fn committed(&mut self, accepted_ms: u64) {
        if self.open_oldest_ms == 0 && !self.open.is_empty() {
            self.open_oldest_ms = accepted_ms.max(1);
        }
        self.open_lowest_ms = self.open_lowest_ms.min(accepted_ms);
    }

    /// Whether the open batch holds so much that it has to be sealed.
    pub(crate) fn is_open_full(&self) -> bool {
        self.open.len() >= SEAL_AT_KEYS
    }

    /// Seals the open batch, if it holds anything. `upto` is the newest record, and durable.
    pub(crate) fn seal(&mut self, upto: Seq) {
        if self.open.is_empty() {
            return;
        }
        let batch = Arc::new(self.open.freeze(self.sealed_upto, upto));
        let lowest_ms = std::mem::replace(&mut self.open_lowest_ms, u64::MAX);
        self.sealed.push_back(Sealed { batch, oldest_ms: self.open_oldest_ms, lowest_ms });
        self.sealed_upto = upto;
        self.open_oldest_ms = 0;
    }

    /// The next sealed batch, if none is on its way. Before the next one, it has to be confirmed.
    pub(crate) fn hand_over(&mut self) -> Option<Arc<Batch>> {
        if self.in_flight.is_some() {
            return None;
        }
        self.in_flight = self.sealed.pop_front();
        self.in_flight().cloned()
    }

    /// The store has the batch in flight.
    pub(crate) fn confirmed(&mut self) {
        if let Some(sealed) = self.in_flight.take() {
            self.watermark = sealed.batch.upto();
        }
    }

    pub(crate) fn in_flight(&self) -> Option<&Arc<Batch>> {
        self.in_flight.as_ref().map(|sealed| &sealed.batch)
    }

    /// Whether a sealed batch waits to be handed over.
    pub(crate) fn has_sealed(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// All batches that are frozen and not confirmed.
    pub(crate) fn frozen(&self) -> impl Iterator<Item = &Arc<Batch>> {
        self.in_flight.iter().chain(&self.sealed).map(|sealed| &sealed.batch)
    }

    /// Whether the newest row of a counter, number `row`, is still pending. `in_flight` tells
    /// whether the batch in flight counts. Batches leave in order, so where that row has left, no
    /// batch that is pending has any of this counter's.
    pub(crate) fn is_pending(&self, counter: u32, row: u32, in_flight: bool) -> bool {
        let holds = |batch: &Batch| batch.rows().get(row as usize).is_some_and(|row| row.counter == counter);
        let is_open = (row as usize) < self.open.len() && self.open.row(row).counter == counter;
        let mut frozen = self.in_flight.iter().filter(|_| in_flight).chain(&self.sealed);
        is_open || frozen.any(|sealed| holds(&sealed.batch))
    }

    /// How many updates are pending, one per key of each batch.
    pub(crate) fn updates(&self) -> usize {
        self.open.len() + self.frozen().map(|batch| batch.rows().len()).sum::<usize>()
    }

    /// When the oldest increment of the open batch was accepted; `None` while it is empty.
    pub(crate) fn open_since_ms(&self) -> Option<u64> {
        (self.open_oldest_ms > 0).then_some(self.open_oldest_ms)
    }

    /// When the oldest pending increment was accepted; `None` while nothing is pending.
    pub(crate) fn oldest_ms(&self) -> Option<u64> {
        let frozen = self.in_flight.iter().chain(&self.sealed).map(|sealed| sealed.oldest_ms).next();
        frozen.or(self.open_since_ms())
    }

    /// Whatever was accepted before this is in the store, and nothing that is accepted from
    /// `now_ms` on changes that.
    pub(crate) fn flushed_past_ms(&self, now_ms: u64) -> u64 {
        let frozen = self.in_flight.iter().chain(&self.sealed).map(|sealed| sealed.lowest_ms);
        frozen.fold(self.open_lowest_ms.min(now_ms), u64::min)
    }

    /// The watermark of the store, as it was last confirmed.
    pub(crate) fn watermark(&self) -> Seq {
        self.watermark
    }
}

/// What the units of a batch add to each row, beside the row's own sum.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnitSums(HashMap<u32, i128>);

impl UnitSums {
    /// Sums them up.
    #[must_use]
    pub(crate) fn of_batch(batch: &Batch) -> Self {
        let mut sums = HashMap::new();
        for (row, value) in batch.units().iter().flat_map(|unit| &unit.increments) {
            *sums.entry(*row).or_default() += i128::from(*value);
        }
        Self(sums)
    }

    pub(crate) fn of(&self, row: u32) -> i128 {
        if self.0.is_empty() { 0 } else { self.0.get(&row).copied().unwrap_or(0) }
    }
}

/// All that a batch adds to a key, as this instance counted it.
pub(crate) fn flushed_of(batch: &Batch, key: &str) -> i128 {
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
