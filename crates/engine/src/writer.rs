//! One turn of the writer: take what waits, append, sync, answer, hand a batch over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release};
use std::sync::mpsc::Sender;
use std::time::Duration;

use counter::{Applied, Batch};
use journal::{Disk, Fatal, Journal, Kind, NoRoom, RecordBuffer};

use crate::batches::UnitSums;
use crate::clock::Now;
use crate::control::Control;
use crate::freshness::Freshness;
use crate::front::Refusal;
use crate::lane::{Answer, Inbox, Lane, Slot};
use crate::machine::Machine;
use crate::machine::ahead::Ahead;
use crate::vitals::Vitals;

/// With ack `memory`, the journal is synced so long after the first record that is not durable.
/// Promised are 100 ms.
const SYNC_AFTER: Duration = Duration::from_millis(50);
/// So many rows of a flushed batch are settled in one turn, so that nobody waits for long.
const SETTLE_ROWS: usize = 4096;

/// When an increment is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// When it is durable.
    Durable,
    /// At once. A crash of the machine may lose what came in the last 100 ms; a crash of the
    /// process loses nothing that was answered.
    Memory,
}

/// When a batch is flushed, and when an increment is answered.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// See [`Ack`].
    pub ack: Ack,
    /// A batch is handed over when it holds so many updates, one per key …
    pub max_updates: usize,
    /// … or when its oldest increment is so old, whichever is first.
    pub interval: Duration,
}

/// The state machine and its journal, put together.
#[derive(Debug)]
pub struct Writer<D: Disk> {
    machine: Machine,
    journal: Journal<D>,
    policy: Policy,
    record: RecordBuffer,
    /// Since when the open batch holds something.
    open_since: Option<Duration>,
    /// Since when a record waits for a sync.
    unsynced_since: Option<Duration>,
    settling: Option<Settling>,
    /// The store has more than the newest record says, or less.
    mark_due: bool,
    /// For so many bytes there was no room.
    no_room_for: usize,
    draining: Vec<Sender<()>>,
    commits: u64,
    sync_time: Duration,
}

#[derive(Debug)]
struct Settling {
    applied: Applied,
    units: UnitSums,
    epoch: u32,
    next_row: usize,
}

/// What is kept from one turn to the next for its memory.
#[derive(Debug, Default)]
pub struct Scratch {
    inboxes: Vec<Inbox>,
    answers: Vec<Vec<(Slot, Answer)>>,
}

/// What a turn did.
#[derive(Debug, Default)]
pub struct Turn {
    /// To be flushed.
    pub batch: Option<Arc<Batch>>,
    /// How many requests were taken.
    pub(crate) taken: usize,
    /// Whether there is more to do at once.
    pub more: bool,
    /// Whether it was asked to be the last one: then [`Engine::finish`](crate::Engine::finish).
    pub quit: bool,
}

impl<D: Disk> Writer<D> {
    /// Both have been brought up to date with the store. `mark_due`: the newest record says
    /// something else of its watermark.
    pub(crate) fn new(machine: Machine, journal: Journal<D>, policy: Policy, mark_due: bool) -> Self {
        // What was replayed has waited long enough.
        let open_since = machine.batches.open_since_ms().map(|_| Duration::ZERO);
        Self {
            machine,
            journal,
            policy,
            record: RecordBuffer::default(),
            open_since,
            unsynced_since: None,
            settling: None,
            mark_due,
            no_room_for: 0,
            draining: Vec::new(),
            commits: 0,
            sync_time: Duration::ZERO,
        }
    }

    pub(crate) fn turn(
        &mut self,
        lanes: &[Lane],
        controls: Vec<Control>,
        scratch: &mut Scratch,
        freshness: &Freshness,
        vitals: &Vitals,
        now: Now,
    ) -> Result<Turn, Fatal> {
        self.machine.set_epoch(freshness.epoch());
        self.machine.forget_ids(now.unix_ms);
        for control in controls {
            self.obey(control, freshness, now);
        }
        self.settle(now);
        let taken = scratch.take(lanes);
        self.read(scratch, freshness, now);
        self.count(scratch, lanes, vitals, now)?;
        // Before the answers: whoever has one finds it in the vitals, and a stop counts on that.
        self.publish(vitals, now);
        scratch.answer(lanes);
        self.mark(now)?;
        self.sync_if_due(now)?;
        let batch = self.hand_over(now)?;
        if self.machine.batches.oldest_ms().is_none() {
            self.draining.clear();
        }
        self.publish(vitals, now);
        Ok(Turn { batch, taken, more: self.settling.is_some(), quit: false })
    }

    /// When the writer has to take a turn even if nobody wants anything; as of `Now::elapsed`.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let sync = self.unsynced_since.map(|since| since + SYNC_AFTER);
        let idle = self.machine.batches.in_flight().is_none();
        let flush = self.open_since.filter(|_| idle).map(|since| since + self.policy.interval);
        sync.into_iter().chain(flush).min()
    }

    /// Makes the journal durable, and lets it remember what the store has. `true`: nothing is
    /// pending in it.
    pub(crate) fn finish(&mut self, now: Now) -> Result<bool, Fatal> {
        self.mark(now)?;
        self.journal.sync()?;
        Ok(self.machine.batches.oldest_ms().is_none())
    }

    fn obey(&mut self, control: Control, freshness: &Freshness, now: Now) {
        // Whoever asked may be gone by the time of the reply; that is all a failed send means.
        match control {
            Control::Settled { applied, epoch } => {
                if let Some(batch) = self.machine.batches.in_flight() {
                    let units = UnitSums::of_batch(batch);
                    self.settling = Some(Settling { applied, units, epoch, next_row: 0 });
                }
            }
            Control::Refresh { keys, watermark, epoch, reply } => {
                let refresh = |(key, stored): (String, Option<i64>)| {
                    self.machine.refresh(&key, stored, watermark, epoch)
                };
                let _ = reply.send(keys.into_iter().map(refresh).collect());
            }
            Control::Totals { keys, reply } => {
                let totals = keys.iter().map(|key| self.total(key, freshness, now)).collect();
                let _ = reply.send(totals);
            }
            Control::PendingKeys { prefix, after, reply } => {
                let wanted =
                    |key: &str| key.starts_with(&prefix) && after.as_deref().is_none_or(|after| key > after);
                let batches = &self.machine.batches;
                let open = batches.open.keys().filter(|key| wanted(key)).map(str::to_owned).collect();
                let _ = reply.send((open, batches.frozen().cloned().collect()));
            }
            Control::Drain { done } => self.draining.push(done),
            // The thread looks for it.
            Control::Quit => {}
        }
    }

    fn total(&self, key: &str, freshness: &Freshness, now: Now) -> Option<(i64, bool)> {
        let (total, epoch) = self.machine.read(key)?;
        Some((total, freshness.is_fresh(epoch, now.elapsed_ms())))
    }

    fn settle(&mut self, now: Now) {
        let Some(settling) = &mut self.settling else { return };
        let rows = self.machine.batches.in_flight().map_or(0, |batch| batch.rows().len());
        let upto = (settling.next_row + SETTLE_ROWS).min(rows);
        self.machine.settle(&settling.applied, &settling.units, settling.next_row..upto, settling.epoch);
        settling.next_row = upto;
        if upto == rows {
            self.settling = None;
            self.machine.settled();
            self.journal.trim(self.machine.batches.watermark(), now.elapsed_ms());
            self.mark_due = true;
        }
    }

    /// Before anything is admitted: a read shows nothing that is not durable.
    fn read(&self, scratch: &mut Scratch, freshness: &Freshness, now: Now) {
        for (inbox, answers) in scratch.inboxes.iter().zip(&mut scratch.answers) {
            let mut start = 0;
            for &(slot, end) in &inbox.reads {
                let key = &inbox.keys[start..end as usize];
                start = end as usize;
                answers.push((slot, Answer::Total(self.total(key, freshness, now))));
            }
        }
    }

    fn count(
        &mut self,
        scratch: &mut Scratch,
        lanes: &[Lane],
        vitals: &Vitals,
        now: Now,
    ) -> Result<(), Fatal> {
        let mut left: usize = scratch.inboxes.iter().map(|inbox| inbox.packed.len()).sum();
        if left == 0 {
            // While there was no room, nobody may be sending any more: look by itself.
            return if vitals.no_room.load(Relaxed) > 0 {
                self.make_room(self.no_room_for, vitals, now).map(drop)
            } else {
                Ok(())
            };
        }
        let max = self.journal.max_payload_bytes() as usize;
        let mut together = self.make_room(left.min(max), vitals, now)?.is_ok();
        let (mut counted, mut refused) = (0, 0);
        for at in 0..lanes.len() {
            let mut start = 0;
            let mut ahead = Ahead::new();
            for request in 0..scratch.inboxes[at].counts.len() {
                let (slot, end) = scratch.inboxes[at].counts[request];
                let bytes = end as usize - start;
                ahead.before_request(&self.machine, bytes, &scratch.inboxes[at].packed[start..]);
                if self.record.len() + bytes > max {
                    self.commit(now)?;
                    self.publish(vitals, now);
                    scratch.answer(lanes);
                    together = self.make_room(left.min(max), vitals, now)?.is_ok();
                }
                // Where there is no room for all that waits, there may be for some.
                let room =
                    if together { Ok(()) } else { self.make_room(self.record.len() + bytes, vitals, now)? };
                let packed = &scratch.inboxes[at].packed[start..end as usize];
                let outcome = room.and_then(|()| self.machine.admit(packed, now.unix_ms));
                let answer = match outcome {
                    Ok(new) => {
                        counted += 1;
                        if !new.replayed {
                            self.record.extend(packed);
                        }
                        Answer::Counted(new)
                    }
                    Err(refusal) => {
                        refused += 1;
                        Answer::Refused(Box::new(refusal))
                    }
                };
                scratch.answers[at].push((slot, answer));
                start = end as usize;
                left -= bytes;
            }
        }
        self.commit(now)?;
        add(&vitals.counted_requests, counted);
        add(&vitals.refused_requests, refused);
        Ok(())
    }

    fn make_room(&mut self, bytes: usize, vitals: &Vitals, now: Now) -> Result<Result<(), Refusal>, Fatal> {
        let (refusal, code) = match self.journal.make_room(bytes, now.elapsed_ms()) {
            Ok(()) => (None, 0),
            Err(NoRoom::Full { max_bytes }) => (Some(Refusal::JournalFull { max_bytes }), 1),
            Err(NoRoom::DiskFull { reason }) => (Some(Refusal::DiskFull { reason }), 2),
            Err(NoRoom::TooLarge { max_bytes }) => (Some(Refusal::TooLarge { max_bytes }), 0),
            Err(NoRoom::Fatal(fatal)) => return Err(fatal),
        };
        if code > 0 {
            self.no_room_for = bytes;
        }
        vitals.no_room.store(code, Relaxed);
        Ok(refusal.map_or(Ok(()), Err))
    }

    /// Appends what has been admitted as one record, and makes it durable unless ack is `memory`.
    fn commit(&mut self, now: Now) -> Result<(), Fatal> {
        if self.record.is_empty() {
            return Ok(());
        }
        self.journal.append(Kind::Increments, now.unix_ms, &mut self.record)?;
        self.record.clear();
        self.machine.batches.committed(now.unix_ms);
        self.mark_due = false;
        self.commits += 1;
        self.open_since.get_or_insert(now.elapsed);
        self.make_durable(now)?;
        if self.machine.batches.is_open_full() {
            self.seal()?;
        }
        Ok(())
    }

    /// At once; with ack `memory`, soon.
    fn make_durable(&mut self, now: Now) -> Result<(), Fatal> {
        match self.policy.ack {
            Ack::Durable => self.sync(),
            Ack::Memory => {
                self.unsynced_since.get_or_insert(now.elapsed);
                Ok(())
            }
        }
    }

    fn sync(&mut self) -> Result<(), Fatal> {
        self.unsynced_since = None;
        let start = std::time::Instant::now();
        self.journal.sync()?;
        self.sync_time += start.elapsed();
        Ok(())
    }

    fn sync_if_due(&mut self, now: Now) -> Result<(), Fatal> {
        match self.unsynced_since {
            Some(since) if now.elapsed >= since + SYNC_AFTER => self.sync(),
            _ => Ok(()),
        }
    }

    /// Lets the journal remember the watermark where no increments carry it. Made durable like
    /// any record: behind one that is not, damage to it couldn't be told from a torn write.
    fn mark(&mut self, now: Now) -> Result<(), Fatal> {
        if !std::mem::take(&mut self.mark_due) {
            return Ok(());
        }
        self.record.clear();
        match self.journal.make_room(0, now.elapsed_ms()) {
            Ok(()) => {
                self.journal.append(Kind::Mark, now.unix_ms, &mut self.record)?;
                self.make_durable(now)
            }
            Err(NoRoom::Fatal(fatal)) => Err(fatal),
            Err(_no_room) => Ok(()),
        }
    }

    /// Seals the open batch; only what is durable may go to the store.
    fn seal(&mut self) -> Result<(), Fatal> {
        self.sync()?;
        self.machine.batches.seal(self.journal.last());
        self.open_since = None;
        Ok(())
    }

    fn hand_over(&mut self, now: Now) -> Result<Option<Arc<Batch>>, Fatal> {
        if self.machine.batches.in_flight().is_some() {
            return Ok(None);
        }
        let open = self.machine.batches.open.len();
        let aged = self.open_since.is_some_and(|since| now.elapsed >= since + self.policy.interval);
        let due = open >= self.policy.max_updates || aged || !self.draining.is_empty();
        if due && !self.machine.batches.has_sealed() {
            self.seal()?;
        }
        Ok(self.machine.batches.hand_over())
    }

    pub(crate) fn publish(&self, vitals: &Vitals, now: Now) {
        vitals.pending_updates.store(self.machine.batches.updates() as u64, Relaxed);
        vitals.oldest_pending_ms.store(self.machine.batches.oldest_ms().unwrap_or(0), Relaxed);
        vitals.counters.store(self.machine.counters() as u64, Relaxed);
        vitals.ids.store(self.machine.ids() as u64, Relaxed);
        vitals.journal_bytes.store(self.journal.bytes(), Relaxed);
        vitals.journal_kept_bytes.store(self.journal.kept_bytes(), Relaxed);
        vitals.last_seq.store(self.journal.last().0, Relaxed);
        vitals.commits.store(self.commits, Relaxed);
        vitals.durable_seq.store(self.journal.durable().0, Relaxed);
        vitals.applied_seq.store(self.machine.batches.watermark().0, Relaxed);
        // After the watermark: whoever reads this first finds one that is as high at least.
        vitals.flushed_past_ms.store(self.machine.batches.flushed_past_ms(now.unix_ms), Release);
        vitals.sync_us.store(self.sync_time.as_micros() as u64, Relaxed);
    }
}

impl Scratch {
    /// Swaps every inbox out; how many requests that were.
    fn take(&mut self, lanes: &[Lane]) -> usize {
        self.inboxes.resize_with(lanes.len(), Inbox::default);
        self.answers.resize_with(lanes.len(), Vec::new);
        let mut taken = 0;
        for (lane, inbox) in lanes.iter().zip(&mut self.inboxes) {
            inbox.clear();
            lane.take(inbox);
            taken += inbox.counts.len() + inbox.reads.len();
        }
        taken
    }

    fn answer(&mut self, lanes: &[Lane]) {
        for (lane, answers) in lanes.iter().zip(&mut self.answers) {
            lane.answer(answers);
        }
    }
}

/// Only the writer writes, so a load and a store are enough.
fn add(number: &AtomicU64, more: u64) {
    number.store(number.load(Relaxed) + more, Relaxed);
}
