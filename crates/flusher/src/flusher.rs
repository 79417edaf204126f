//! Applies batches, one at a time, each for as long as it takes; between them, idempotency keys
//! leave the store.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use counter::{Applied, Batch};
use engine::{Control, Engine, Phase};
use store::{ApplyError, Store, StoreError};

use crate::backoff::{Backoff, Stop, Wait};
use crate::own::Own;
use crate::upkeep::Upkeep;

/// While a store stays away, it is said again so often.
const REMIND: Duration = Duration::from_secs(30);

/// A flush may take longer than it must by so large a part of the time since the one before it …
const SPREAD_SHARE: u32 = 8;
/// … and by no more than this: for as long, nobody else can change its counters.
const LONGEST_SPREAD: Duration = Duration::from_millis(250);
/// For so long after another instance was seen to flush, nothing is spread. The looks at the others are a
/// minute apart at most.
const OTHERS_FOR: Duration = Duration::from_secs(120);

/// Why no batch can be applied any more. The instance has to stop taking increments.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// Another start owns the journal.
    #[error(
        "another server has taken over this journal: {0}. The data directory was copied and the copy \
         started, or replaced. What this server acknowledged and had not flushed is in its data directory \
         alone: don't start it again beside the other one; `incrementer journal inspect` shows what is pending"
    )]
    Fenced(String),
    /// The store lost what it had confirmed.
    #[error(
        "the store has forgotten commits that it had confirmed: {0} (a failover or a restore). Start this \
         server again: it applies again what its journal still has (the setting journal.keep says for how \
         long it keeps that), or says what is missing"
    )]
    Forgot(String),
}

/// What can be seen of a flusher from outside.
#[derive(Debug, Default)]
pub struct FlushVitals {
    /// Batches that the store has confirmed.
    pub flushes: AtomicU64,
    /// Updates in them, one per key.
    pub flushed_updates: AtomicU64,
    /// Attempts that failed.
    pub failures: AtomicU64,
    /// Parts of batches that went into the table `set_aside`.
    pub set_aside: AtomicU64,
    /// Requests that the store had counted before, under the same idempotency key.
    pub duplicates: AtomicU64,
    /// Time spent in flushes that succeeded, microseconds.
    pub flush_us: AtomicU64,
    /// Idempotency keys that have left the store by this instance's doing.
    pub purged_ids: AtomicU64,
    /// When the oldest idempotency key in the store was accepted, as last seen, milliseconds since
    /// the Unix epoch; 0 where there was none.
    pub oldest_id_ms: AtomicU64,
    /// Why the last attempt failed; `None` where it succeeded.
    trouble: Mutex<Option<String>>,
}

impl FlushVitals {
    /// Why the store could not be reached at the last attempt; `None` where it could.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// Owns the store's connection.
#[derive(Debug)]
pub struct Flusher<S> {
    pub(crate) store: S,
    pub(crate) own: Own,
    pub(crate) engine: Engine,
    /// For how long a repetition under an idempotency key must not count.
    pub(crate) window: Duration,
    pub(crate) vitals: Arc<FlushVitals>,
    backoff: Backoff,
    /// When it was last said that the store is away.
    reminded: Option<Instant>,
    pace: Pace,
}

impl<S: AsMut<dyn Store>> Flusher<S> {
    /// Writes as `own` says; reports to the writer of `engine`. A repetition under an idempotency
    /// key must not count for `window`.
    #[must_use]
    pub fn new(store: S, own: Own, engine: Engine, window: Duration, vitals: Arc<FlushVitals>) -> Self {
        let seed = own.claim().owner.0.iter().fold(0, |seed: u64, byte| seed << 4 ^ u64::from(*byte));
        Self {
            store,
            own,
            engine,
            window,
            vitals,
            backoff: Backoff::new(seed),
            reminded: None,
            pace: Pace::default(),
        }
    }

    /// The flusher's thread: applies what comes until there is no more, or until it is stopped
    /// between two attempts.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub fn run(&mut self, batches: &Receiver<Arc<Batch>>, stop: &Stop) -> Result<(), FlushError> {
        let mut upkeep = Upkeep::new(self.window);
        loop {
            match batches.recv_timeout(upkeep.wait()) {
                Ok(batch) => {
                    while let Some(pause) = self.attempt(&batch)? {
                        if !stop.wait(pause) {
                            return Ok(());
                        }
                    }
                    upkeep.after_batch(self, batch.units().len());
                }
                Err(RecvTimeoutError::Timeout) => upkeep.while_idle(self),
                Err(RecvTimeoutError::Disconnected) => {
                    self.close();
                    return Ok(());
                }
            }
        }
    }

    /// Applies a batch once. `None`: the store has it, and the writer has been told; otherwise the
    /// same batch is to be tried again after so long.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub fn attempt(&mut self, batch: &Batch) -> Result<Option<Duration>, FlushError> {
        let epoch = self.engine.freshness().epoch();
        let start = Instant::now();
        let over = self.pace.spread(start, epoch);
        let over = if self.engine.vitals().phase() == Phase::Stopping { Duration::ZERO } else { over };
        match self.store.as_mut().apply_over(self.own.claim(), batch, over) {
            Ok(applied) => {
                self.succeeded(batch, &applied, start.elapsed());
                self.engine.controls().send(Control::Settled { applied, epoch });
                Ok(None)
            }
            Err(error @ (ApplyError::Fenced { .. } | ApplyError::Forgot { .. })) => Err(self.own.of(&error)),
            Err(ApplyError::Store(StoreError::Unavailable(reason) | StoreError::Refused(reason))) => {
                self.failed(batch, reason);
                Ok(Some(self.backoff.pause()))
            }
        }
    }

    fn succeeded(&mut self, batch: &Batch, applied: &Applied, took: Duration) {
        self.backoff.reset();
        let add = |number: &AtomicU64, more: u64| number.fetch_add(more, Relaxed);
        add(&self.vitals.flushes, 1);
        add(&self.vitals.flushed_updates, batch.rows().len() as u64);
        add(&self.vitals.set_aside, applied.set_aside.len() as u64);
        add(&self.vitals.duplicates, applied.duplicates.len() as u64);
        add(&self.vitals.flush_us, took.as_micros() as u64);
        let (upto, updates) = (batch.upto(), batch.rows().len());
        if self.reminded.take().is_some() {
            tracing::info!(%upto, updates, "The store is back; what is pending is being flushed");
        }
        self.vitals.set_trouble(None);
        tracing::debug!(%upto, updates, took_ms = took.as_millis() as u64, "Flushed a batch");
        for aside in &applied.set_aside {
            tracing::error!(
                key = aside.key, value = %aside.value, reason = aside.reason, %upto,
                "The store refused an update for good; it was put into the table set_aside"
            );
        }
    }

    fn failed(&mut self, batch: &Batch, reason: String) {
        self.vitals.failures.fetch_add(1, Relaxed);
        self.pace.failed();
        if self.reminded.is_none_or(|at| at.elapsed() >= REMIND) {
            let updates = batch.rows().len();
            tracing::warn!(
                reason, upto = %batch.upto(), updates,
                "A flush failed and is tried again until it succeeds; increments are still taken"
            );
            self.reminded = Some(Instant::now());
        }
        self.vitals.set_trouble(Some(reason));
    }
}

/// Over how long a flush may be spread.
#[derive(Debug, Default)]
struct Pace {
    /// When the last flush began, unless it failed.
    last: Option<Instant>,
    epoch: Option<u32>,
    others_seen: Option<Instant>,
}

impl Pace {
    /// A flush begins `now`. Not at all after one that failed, when there is something to catch up on; nor
    /// where other instances flush, who would wait for its locks, and it for theirs.
    fn spread(&mut self, now: Instant, epoch: u32) -> Duration {
        if self.epoch.replace(epoch).is_some_and(|before| before != epoch) {
            self.others_seen = Some(now);
        }
        let since = |then: Instant| now.saturating_duration_since(then);
        let last = self.last.replace(now);
        if self.others_seen.is_some_and(|seen| since(seen) < OTHERS_FOR) {
            return Duration::ZERO;
        }
        last.map_or(Duration::ZERO, |last| since(last) / SPREAD_SHARE).min(LONGEST_SPREAD)
    }

    fn failed(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Duration = Duration::ZERO;

    /// What it says at these times, in milliseconds, in these epochs.
    fn spreads(pace: &mut Pace, begin: Instant, flushes: &[(u64, u32)]) -> Vec<Duration> {
        let at = |&(ms, epoch): &(u64, u32)| pace.spread(begin + Duration::from_millis(ms), epoch);
        flushes.iter().map(at).collect()
    }

    #[test]
    fn a_flush_is_spread_in_proportion_to_the_time_since_the_last() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        let expected = [NOTHING, Duration::from_millis(100), LONGEST_SPREAD];
        assert_eq!(spreads(&mut pace, begin, &[(0, 7), (800, 7), (60_000, 7)]), expected);
        pace.failed();
        assert_eq!(
            spreads(&mut pace, begin, &[(70_000, 7), (70_800, 7)]),
            [NOTHING, Duration::from_millis(100)]
        );
    }

    #[test]
    fn it_is_not_spread_for_a_while_after_others_were_seen() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        let flushes = [(0, 7), (5_000, 8), (10_000, 8), (124_999, 8), (125_000, 8), (130_000, 9)];
        let expected = [NOTHING, NOTHING, NOTHING, NOTHING, Duration::from_micros(125), NOTHING];
        assert_eq!(spreads(&mut pace, begin, &flushes), expected);
    }
}
