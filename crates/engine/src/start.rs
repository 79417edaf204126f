//! From an open journal and a store's totals to a writer.

use counter::{Fingerprint, OwnerId, Seq, StoreId};
use journal::{Disk, Fatal, Identity, Journal, OpenError, Seen};

use crate::clock::Now;
use crate::machine::{Limits, Machine};
use crate::writer::{Policy, Writer};

/// An engine that has its journal and not yet its totals.
#[derive(Debug)]
pub struct Starting<D: Disk> {
    machine: Machine,
    journal: Journal<D>,
    policy: Policy,
    limits: Limits,
    seed: u64,
}

impl<D: Disk> Starting<D> {
    /// `seed` is for the hash table of the counters.
    #[must_use]
    pub fn new(journal: Journal<D>, limits: Limits, policy: Policy, seed: u64) -> Self {
        Self { machine: Machine::new(limits, seed), journal, policy, limits, seed }
    }

    /// Which journal this is, and into which store it was flushed.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.journal.identity()
    }

    /// The journal's newest record.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.journal.last()
    }

    /// The oldest record that can be replayed.
    #[must_use]
    pub fn first_kept(&self) -> Seq {
        self.journal.first_kept()
    }

    /// The watermark that the journal itself remembers; the store's may be higher.
    #[must_use]
    pub fn applied(&self) -> Seq {
        self.journal.applied()
    }

    /// Whether the journal holds increments after `watermark`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn holds_increments_after(&self, watermark: Seq) -> Result<bool, OpenError> {
        let mut found = false;
        self.journal.replay(watermark, &mut |record| {
            found |= !record.payload.is_empty();
            Ok(())
        })?;
        Ok(found)
    }

    /// Remembers the store.
    ///
    /// # Errors
    /// See [`Fatal`].
    pub fn set_store(&mut self, store: StoreId) -> Result<(), Fatal> {
        self.journal.set_store(store)
    }

    /// Remembers, durably, that `owner` is about to take the journal over in the store, whose row
    /// of it is as `seen`.
    ///
    /// # Errors
    /// See [`Fatal`].
    pub fn set_owner(&mut self, owner: OwnerId, seen: Option<Seen>) -> Result<(), Fatal> {
        self.journal.set_owner(owner, seen)
    }

    /// Begins a new journal for another store; nothing may be pending.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn begin_anew(self, store: StoreId) -> Result<Self, OpenError> {
        Ok(Self { journal: self.journal.begin_anew(store)?, ..self })
    }

    /// Forgets what was loaded: the store went away in the middle.
    pub fn unload(&mut self) {
        self.machine = Machine::new(self.limits, self.seed);
    }

    /// Takes a total over from the store.
    ///
    /// # Errors
    /// There are more than `max_counters`.
    pub fn load(&mut self, key: &str, total: i64) -> Result<(), String> {
        self.machine.load(key, total)
    }

    /// Which idempotency keys memory wants of the store, where it is `now_ms` (milliseconds since
    /// the Unix epoch): those that were accepted at the first number or later, and at most as many
    /// as the second.
    #[must_use]
    pub fn wanted_ids(&self, now_ms: u64) -> (u64, u32) {
        let max = u32::try_from(self.limits.max_ids).unwrap_or(u32::MAX);
        (now_ms.saturating_sub(self.limits.id_window_ms), max)
    }

    /// Takes an idempotency key over from the store; the newest comes first.
    pub fn load_id(&mut self, id: &str, fingerprint: Fingerprint, accepted_ms: u64) {
        self.machine.load_id(id, fingerprint, accepted_ms);
    }

    /// Replays what the store doesn't have: the records after `watermark`, which belongs to the
    /// totals that were loaded. Returns the writer and how many records were replayed; it is `now`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn replay(mut self, watermark: Seq, now: Now) -> Result<(Writer<D>, u64), OpenError> {
        let Self { machine, journal, .. } = &mut self;
        machine.loaded(watermark);
        let mut records = 0;
        journal.replay(watermark, &mut |record| {
            machine.replay(record.seq, record.accepted_ms, record.payload);
            records += 1;
            Ok(())
        })?;
        // The journal is told before anything is flushed: what is applied again has a new age.
        let forgot = watermark < self.journal.applied();
        self.journal.resume(watermark, now.elapsed_ms(), now.unix_ms);
        Ok((Writer::new(self.machine, self.journal, self.policy, forgot), records))
    }
}
