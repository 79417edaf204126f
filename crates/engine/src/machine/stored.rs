//! What the store says of counters, put together with what is pending.

use counter::{Applied, Key, Seq};

use super::{Machine, clamp};
use crate::batches::{UnitSums, flushed_of};
use crate::counters::Number;

impl Machine {
    /// Takes over what the store says of some rows of the batch in flight; `epoch` is the one in
    /// which it was applied. When all rows have been settled, [`settled`](Self::settled).
    pub(crate) fn settle(
        &mut self,
        applied: &Applied,
        units: &UnitSums,
        rows: std::ops::Range<usize>,
        epoch: u32,
    ) {
        let Some(batch) = self.batches.in_flight().cloned() else { return };
        self.settling = true;
        for at in rows {
            let row = &batch.rows()[at];
            let flushed = row.sum + units.of(at as u32);
            let number = row.counter;
            let pending = self.pending(number) - flushed;
            let stored = applied.totals.get(at).copied().flatten();
            self.take_over(number, stored, epoch, pending);
            self.look_if_absent(number, stored, false);
        }
    }

    /// The batch in flight is in the store, and all its rows are settled.
    pub(crate) fn settled(&mut self) {
        self.settling = false;
        self.batches.confirmed();
    }

    /// Takes over what the store said of a key: `stored`, when the watermark was `watermark`,
    /// asked in `epoch`. Returns the total, or `None` where the answer came too late to be put
    /// together with what is pending: then ask again.
    pub(crate) fn refresh(
        &mut self,
        key: &str,
        stored: Option<i64>,
        watermark: Seq,
        epoch: u32,
    ) -> Option<Option<i64>> {
        let hash = self.counters.hash(key);
        let Some(number) = self.counters.find(key, hash) else {
            // Nothing of it is pending here, so the watermark doesn't matter.
            let fits = (self.counters.len() as u64) < self.limits.max_counters && Key::check(key).is_ok();
            if let Some(total) = stored.filter(|_| fits) {
                self.counters.insert(key, hash, total, epoch);
            }
            return Some(stored);
        };
        if self.settling {
            return None;
        }
        if watermark == self.batches.watermark() {
            self.take_over(number, stored, epoch, self.pending(number));
            self.look_if_absent(number, stored, true);
            return Some((!self.is_absent(number)).then(|| self.counters.entry(number).total));
        }
        let in_flight = self.batches.in_flight().filter(|batch| batch.upto() == watermark)?;
        // Committed, and on its way here: only the answer can be put together, without the batch.
        let pending = self.pending(number) - flushed_of(in_flight, key);
        let exists = stored.is_some() || self.is_pending(number, false);
        Some(exists.then(|| clamp(i128::from(stored.unwrap_or(0)) + pending)))
    }

    /// The store has `stored` of a counter, as it said in `epoch`; `pending` is to be added.
    fn take_over(&mut self, number: Number, stored: Option<i64>, epoch: u32, pending: i128) {
        let base = stored.unwrap_or(0);
        let entry = self.counters.entry_mut(number);
        entry.base = base;
        entry.epoch = epoch;
        self.set_total(number, i128::from(base) + pending);
    }

    /// Remembers whether a counter exists: the store has it, or something of it is pending
    /// (`in_flight`: the batch in flight counts).
    fn look_if_absent(&mut self, number: Number, stored: Option<i64>, in_flight: bool) {
        if stored.is_none() && !self.is_pending(number, in_flight) {
            self.absent.insert(number);
        } else if !self.absent.is_empty() {
            self.absent.remove(&number);
        }
    }

    pub(super) fn is_absent(&self, number: Number) -> bool {
        !self.absent.is_empty() && self.absent.contains(&number)
    }

    /// Whether some batch that the store lacks has a row of this counter, be it of value 0;
    /// `in_flight`: the batch in flight counts.
    fn is_pending(&self, number: Number, in_flight: bool) -> bool {
        self.batches.is_pending(number, self.counters.entry(number).row, in_flight)
    }
}
