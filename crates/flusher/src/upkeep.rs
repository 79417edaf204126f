//! What the flusher does between batches: idempotency keys leave the store, a few at a time.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use store::{Purge, Purged, Store, StoreError};

use crate::flusher::Flusher;

/// So many ids leave in one call: some milliseconds of the store's time.
const IDS_AT_ONCE: u32 = 1_000;
/// The oldest id is looked at so often in a window …
const LOOKS: u32 = 16;
/// … but not more often than this …
const OFTENEST: Duration = Duration::from_millis(50);
/// … and not more seldom. It is also when other instances hear at the latest how far this one is.
const SELDOMEST: Duration = Duration::from_secs(60);
/// What lasts is said again so often.
const REMIND: Duration = Duration::from_secs(3600);

/// When the next ids leave.
///
/// Under load they leave behind each flush, twice as many as it brought, so that a flush waits for
/// little and the table still shrinks. Otherwise they leave whenever nothing is to be flushed, for
/// half of the time at most.
#[derive(Debug)]
pub(crate) struct Upkeep {
    every: Duration,
    next: Instant,
    reminded: Option<Instant>,
}

impl Upkeep {
    pub(crate) fn new(window: Duration) -> Self {
        let every = (window / LOOKS).clamp(OFTENEST, SELDOMEST);
        Self { every, next: Instant::now() + every, reminded: None }
    }

    /// How long to wait for a batch before there is something to do.
    pub(crate) fn wait(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    pub(crate) fn after_batch<S: AsMut<dyn Store>>(&mut self, flusher: &mut Flusher<S>, units: usize) {
        let mut calls = 1 + 2 * units / IDS_AT_ONCE as usize;
        while calls > 0 && Instant::now() >= self.next {
            calls -= 1;
            if self.step(flusher) {
                // The next batch may be waiting: no pause.
                self.next = Instant::now();
            }
        }
    }

    pub(crate) fn while_idle<S: AsMut<dyn Store>>(&mut self, flusher: &mut Flusher<S>) {
        let began = Instant::now();
        if self.step(flusher) {
            self.next = Instant::now() + began.elapsed();
        }
    }

    /// `true`: there is more to do at once.
    fn step<S: AsMut<dyn Store>>(&mut self, flusher: &mut Flusher<S>) -> bool {
        let outcome = flusher.purge();
        self.next = Instant::now() + self.every;
        match outcome {
            Ok(purged) => {
                self.remind_of_what_is_kept(flusher, &purged);
                purged.removed >= u64::from(IDS_AT_ONCE)
            }
            Err(StoreError::Unavailable(reason)) => {
                tracing::debug!(reason, "Old idempotency keys could not be looked for; it is tried again");
                false
            }
            Err(StoreError::Refused(reason)) => {
                if self.is_time_to_remind() {
                    tracing::warn!(
                        reason,
                        "Old idempotency keys can't leave the store, so that their table grows"
                    );
                }
                false
            }
        }
    }

    fn remind_of_what_is_kept<S>(&mut self, flusher: &Flusher<S>, purged: &Purged) {
        let (Some(journal), Some(oldest_ms)) = (purged.kept_for, purged.oldest_ms) else { return };
        let past_ms = flusher.engine.vitals().flushed_past().map_or(0, |(past_ms, _)| past_ms);
        let age = Duration::from_millis(past_ms.saturating_sub(oldest_ms));
        if age > 2 * flusher.window && self.is_time_to_remind() {
            tracing::warn!(
                %journal, oldest_hours = age.as_secs() / 3600,
                "Idempotency keys are kept for a journal that has not flushed for long: a repetition of their \
                 requests may be pending in it. Start its server, so that it flushes. After seven windows more \
                 they leave all the same, and what it then brings in under such a key is set aside"
            );
        }
    }

    fn is_time_to_remind(&mut self) -> bool {
        let due = self.reminded.is_none_or(|at| at.elapsed() >= REMIND);
        if due {
            self.reminded = Some(Instant::now());
        }
        due
    }
}

impl<S: AsMut<dyn Store>> Flusher<S> {
    /// Lets some idempotency keys leave the store, if any are old enough: one bounded call.
    ///
    /// # Errors
    /// See [`StoreError`]. It may be called again at any time.
    pub fn purge(&mut self) -> Result<Purged, StoreError> {
        let Some((flushed_past_ms, watermark)) = self.engine.vitals().flushed_past() else {
            return Ok(Purged::default());
        };
        let window_ms = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        let purge = Purge { window_ms, flushed_past_ms, watermark, limit: IDS_AT_ONCE };
        let purged = self.store.as_mut().purge(self.own.claim(), &purge)?;
        self.vitals.purged_ids.fetch_add(purged.removed, Relaxed);
        self.vitals.oldest_id_ms.store(purged.oldest_ms.unwrap_or(0), Relaxed);
        if purged.removed > 0 {
            tracing::debug!(removed = purged.removed, "Idempotency keys have left the store");
        }
        for journal in &purged.written_off {
            tracing::warn!(
                %journal,
                "A journal has not flushed for so long that idempotency keys leave the store without it. What it \
                 may still bring in from that time under such a key is set aside"
            );
        }
        Ok(purged)
    }

    /// Tells the store that nothing is pending, where the writer has ended so.
    pub fn close(&mut self) {
        let vitals = self.engine.vitals();
        let Some((_, watermark)) = vitals.flushed_past().filter(|_| vitals.is_closed()) else { return };
        if self.vitals.trouble().is_some() {
            return;
        }
        // Without it, ids are kept a little longer.
        if let Err(error) = self.store.as_mut().close(self.own.claim(), watermark) {
            tracing::debug!(reason = %error, "The store could not be told that nothing is pending");
        }
    }
}
