//! One start of one instance: the product's engine, journal and flusher, driven step by step.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use counter::{Batch, JournalId, OwnerId};
use engine::{
    Ack, Control, Counted, Engine, EngineFront, Front as _, Limits, Now, OpenError, Policy, Refusal, Scratch,
    Starting, Writer,
};
use fastrand::Rng;
use flusher::{FlushError, FlushVitals, Flusher, Own, StartError, Wait, bring_up};
use journal::{Journal, Options};
use store::{Purged, Store, StoreError};

use crate::clock::Clock;
use crate::disk::{Machine, SimDisk};
use crate::log::{Log, Shared, lock, note};
use crate::process::Process;
use crate::reading::Reading;
use crate::sabotage::Sabotage;
use crate::store::{Server, SimStore};

/// How old what is only read may be.
pub(crate) const MAX_AGE: Duration = Duration::from_millis(400);

/// How an instance is configured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) segment_bytes: u64,
    pub(crate) max_bytes: u64,
    pub(crate) keep: Duration,
    pub(crate) policy: Policy,
    pub(crate) limits: Limits,
}

/// What all parts of the world share.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) log: Shared<Log>,
    pub(crate) clock: Shared<Clock>,
    pub(crate) server: Shared<Server>,
    pub(crate) sabotage: Option<Sabotage>,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>>>>;

/// A request on its way.
pub(crate) struct Waiting {
    pub(crate) op: usize,
    /// Which of its tries.
    pub(crate) number: usize,
    pub(crate) answer: Answer<Counted>,
}

/// A read on its way.
pub(crate) struct WaitingRead {
    pub(crate) key: usize,
    pub(crate) asked_at: u64,
    pub(crate) answer: Answer<Option<i64>>,
}

/// A running instance.
pub(crate) struct Running {
    pub(crate) process: Arc<Process>,
    pub(crate) engine: Engine,
    pub(crate) front: EngineFront,
    pub(crate) waiting: Vec<Waiting>,
    /// Which try of which operation was submitted and is not answered yet, oldest first.
    pub(crate) submitted: VecDeque<(usize, usize)>,
    pub(crate) reads: Vec<WaitingRead>,
    driver: Pin<Box<dyn Future<Output = ()>>>,
    writer: Writer<SimDisk>,
    scratch: Scratch,
    flusher: Flusher<Box<dyn Store>>,
    reading: Reading,
    common: Common,
    own: Own,
    disk: SimDisk,
    pub(crate) batch: Option<Arc<Batch>>,
    /// Batches that a sabotaged flusher has reported and not applied.
    owed: Vec<Arc<Batch>>,
    attempts: u32,
    next_attempt: Duration,
    began: Duration,
    skew_ms: i64,
    stopping: Option<(Receiver<()>, Duration)>,
}

/// Lets simulated time pass while a start waits for its store.
struct SimWait<'a> {
    common: &'a Common,
    rng: RefCell<Rng>,
    tries: Cell<u32>,
}

impl Wait for SimWait<'_> {
    fn wait(&self, time: Duration) -> bool {
        lock(&self.common.clock).pass(time);
        self.tries.set(self.tries.get() + 1);
        let mut rng = self.rng.borrow_mut();
        let mut server = lock(&self.common.server);
        if rng.u32(..3) == 0 {
            server.up = true;
        }
        if rng.u32(..3) == 0 {
            server.land_late();
        }
        self.tries.get() < 30
    }
}

/// Starts an instance on the files of `machine`.
pub(crate) fn start(
    machine: &Shared<Machine>,
    process: &Arc<Process>,
    settings: &Settings,
    skew_ms: i64,
    common: &Common,
    rng: &mut Rng,
) -> Result<Running, StartError> {
    let began = lock(&common.clock).elapsed;
    let clock = Arc::clone(&common.clock);
    let now = move || lock(&clock).now(began, skew_ms);
    let disk = SimDisk { machine: Arc::clone(machine), process: Arc::clone(process) };
    let opened = Journal::open(disk.clone(), options(settings, common.sabotage, rng))?;
    if let Some(cut) = &opened.cut {
        note!(common.log, "cut record {} off {} at {}", cut.seq, cut.file, cut.offset);
    }
    let journal = opened.journal;
    note!(
        common.log,
        "opened: records {}..={}, applied {}",
        journal.first_kept(),
        journal.last(),
        journal.applied()
    );
    let starting = Starting::new(journal, settings.limits, settings.policy, rng.u64(..));
    let engine = Engine::new(1, journal::max_payload_bytes(settings.segment_bytes), MAX_AGE);
    let connect = || SimStore { server: Arc::clone(&common.server), process: Arc::clone(process) };
    let (mut store, mut reader) = (connect(), connect());
    let owner = OwnerId(rng.u128(..).to_le_bytes());
    let wait = SimWait { common, rng: RefCell::new(rng.fork()), tries: Cell::new(0) };
    let started = bring_up(starting, &mut store, &mut reader, owner, engine.freshness(), &now, &wait)?;
    note!(common.log, "up: {} records replayed, {} counters loaded", started.replayed, started.loaded);
    let blind = common.sabotage == Some(Sabotage::BlindReader);
    let reading = Reading::new(&engine, reader, started.own.clone(), started.others, blind);
    let vitals = Arc::new(FlushVitals::default());
    let window = Duration::from_millis(settings.limits.id_window_ms);
    let (front, driver) = engine.front(0);
    engine.begin(&started.writer, now());
    Ok(Running {
        process: Arc::clone(process),
        front,
        waiting: Vec::new(),
        submitted: VecDeque::new(),
        reads: Vec::new(),
        driver: Box::pin(driver),
        writer: started.writer,
        scratch: Scratch::default(),
        flusher: Flusher::new(Box::new(store), started.own.clone(), engine.clone(), window, vitals),
        reading,
        common: common.clone(),
        own: started.own,
        disk,
        batch: None,
        owed: Vec::new(),
        attempts: 0,
        next_attempt: Duration::ZERO,
        began,
        skew_ms,
        stopping: None,
        engine,
    })
}

/// A journal's options, with the seed's randomness.
pub(crate) fn options(settings: &Settings, sabotage: Option<Sabotage>, rng: &mut Rng) -> Options {
    let keep = if sabotage == Some(Sabotage::TrimKept) { Duration::ZERO } else { settings.keep };
    let entropy = crate::log::shared(rng.fork());
    Options {
        keep,
        segment_bytes: settings.segment_bytes,
        max_bytes: settings.max_bytes,
        entropy: Arc::new(move || lock(&entropy).u64(..)),
    }
}

impl Running {
    fn now(&self) -> Now {
        lock(&self.common.clock).now(self.began, self.skew_ms)
    }

    /// One turn of the writer; `true` when it was the last.
    pub(crate) fn turn(&mut self) -> Result<bool, engine::Fatal> {
        self.look_at_stop();
        let now = self.now();
        let turn = self.engine.turn(&mut self.writer, &mut self.scratch, now)?;
        if let Some(batch) = turn.batch {
            note!(self.common.log, "batch {}..{} of {} rows", batch.from(), batch.upto(), batch.rows().len());
            self.attempts = 0;
            self.next_attempt = Duration::ZERO;
            self.batch = Some(batch);
        }
        if turn.quit {
            self.engine.finish(&mut self.writer, now)?;
            self.flusher.close();
            if self.common.sabotage == Some(Sabotage::CloseTooSoon) {
                // What it answers is nobody's concern any more.
                drop(self.flusher_store().close(self.own.claim(), counter::Seq::ZERO));
            }
        }
        Ok(turn.quit)
    }

    /// One attempt of the flusher, if one is due.
    pub(crate) fn flush(&mut self) -> Result<(), FlushError> {
        if let Some(batch) = self.owed.first().cloned() {
            if self.flusher_store().apply(self.own.claim(), &batch).is_ok() {
                self.owed.remove(0);
            }
            return Ok(());
        }
        let now = self.now();
        let Some(batch) = self.batch.clone().filter(|_| now.elapsed >= self.next_attempt) else {
            return Ok(());
        };
        self.attempts += 1;
        match self.common.sabotage {
            Some(Sabotage::TrimBeforeCommit) => {
                self.settle_by_guess(&batch);
                self.owed.push(batch);
                return Ok(());
            }
            Some(Sabotage::Regroup) if self.attempts > 1 => return self.regroup(&batch),
            _ => {}
        }
        match self.flusher.attempt(&batch)? {
            None => self.batch = None,
            Some(_) if self.common.sabotage == Some(Sabotage::GuessCommit) => self.settle_by_guess(&batch),
            Some(pause) => self.next_attempt = now.elapsed + pause,
        }
        Ok(())
    }

    /// One step of letting idempotency keys leave.
    pub(crate) fn purge(&mut self) -> Result<Purged, StoreError> {
        self.flusher.purge()
    }

    /// One step of the reader.
    pub(crate) fn read(&mut self) -> Result<(), FlushError> {
        let now = self.now();
        self.reading.step(&self.engine, now)
    }

    /// Begins a stop as SIGTERM does: nothing new, flush, end.
    pub(crate) fn stop(&mut self, within: Duration) {
        if self.stopping.is_some() {
            return;
        }
        self.engine.stop_taking();
        let (done, drained) = channel();
        self.engine.controls().send(Control::Drain { done });
        self.stopping = Some((drained, self.now().elapsed + within));
    }

    pub(crate) fn journal(&self) -> JournalId {
        self.own.claim().journal
    }

    /// Whether no other start has taken its journal over.
    pub(crate) fn owns_its_journal(&self, server: &Server) -> bool {
        let standing = server.db.journals.get(&self.journal());
        standing.is_some_and(|standing| standing.owner == self.own.claim().owner)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Whether all that was taken has been answered and is in the store.
    pub(crate) fn is_settled(&self) -> bool {
        let pending = self.engine.vitals().pending_updates.load(Relaxed);
        pending == 0
            && self.batch.is_none()
            && self.waiting.is_empty()
            && self.submitted.is_empty()
            && self.reads.is_empty()
            && self.owed.is_empty()
    }

    /// Hands out what the writer has answered: (operation, which try, answer) and (read, answer).
    #[allow(clippy::type_complexity, reason = "two lists of what came")]
    pub(crate) fn answers(
        &mut self,
    ) -> (Vec<(usize, usize, Result<Counted, Refusal>)>, Vec<(usize, u64, Result<Option<i64>, Refusal>)>)
    {
        let mut context = Context::from_waker(Waker::noop());
        let (mut counted, mut read) = (Vec::new(), Vec::new());
        if self.driver.as_mut().poll(&mut context).is_ready() {
            return (counted, read);
        }
        let mut answers = Vec::new();
        self.front.poll_submitted(&context, &mut answers);
        for answer in answers {
            if let Some((op, number)) = self.submitted.pop_front() {
                counted.push((op, number, answer.map_err(|refusal| *refusal)));
            }
        }
        self.waiting.retain_mut(|waiting| match waiting.answer.as_mut().poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                counted.push((waiting.op, waiting.number, answer));
                false
            }
        });
        self.reads.retain_mut(|waiting| match waiting.answer.as_mut().poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                read.push((waiting.key, waiting.asked_at, answer));
                false
            }
        });
        (counted, read)
    }

    fn look_at_stop(&mut self) {
        let now = self.now().elapsed;
        let Some((drained, deadline)) = &self.stopping else { return };
        if drained.try_recv() == Err(TryRecvError::Disconnected) || now >= *deadline {
            self.engine.controls().send(Control::Quit);
        }
    }

    fn flusher_store(&self) -> SimStore {
        SimStore { server: Arc::clone(&self.common.server), process: Arc::clone(&self.process) }
    }

    /// Sabotage: reports a batch as if the store had it.
    fn settle_by_guess(&mut self, batch: &Batch) {
        let counters = lock(&self.common.server).db.counters.clone();
        let total = |row: &counter::Row| {
            let units = batch.units().iter().flat_map(|unit| &unit.increments);
            let here = units.filter(|(at, _)| batch.rows()[*at as usize].counter == row.counter);
            let sum: i128 = row.sum + here.map(|(_, value)| i128::from(*value)).sum::<i128>();
            let before = counters.get(batch.key(row)).copied().unwrap_or(0);
            i64::try_from(i128::from(before) + sum).ok()
        };
        let totals = batch.rows().iter().map(total).collect();
        let applied = counter::Applied { totals, ..Default::default() };
        let epoch = self.engine.freshness().epoch();
        self.engine.controls().send(Control::Settled { applied, epoch });
        self.batch = None;
    }

    /// Sabotage: a retry takes in everything that is in the journal by now.
    fn regroup(&mut self, batch: &Batch) -> Result<(), FlushError> {
        let mut open = counter::OpenBatch::default();
        let mut rows: Vec<String> = Vec::new();
        let mut upto = batch.upto();
        let read = journal::read_all(&self.disk, &mut |_, _, record| {
            if record.seq <= batch.from() {
                return Ok(());
            }
            upto = record.seq.max(upto);
            for entry in counter::Decoder::new(record.payload) {
                let Ok(counter::Entry::Increment { key, value }) = entry else { continue };
                let row = rows.iter().position(|known| known == key).unwrap_or_else(|| {
                    rows.push(key.to_owned());
                    open.open_row(key, 0) as usize
                });
                open.add(row as u32, value);
            }
            Ok::<(), OpenError>(())
        });
        if read.is_err() {
            return Ok(());
        }
        match self.flusher.attempt(&open.freeze(batch.from(), upto))? {
            None => self.batch = None,
            Some(pause) => self.next_attempt = self.now().elapsed + pause,
        }
        Ok(())
    }
}

/// As the product's defaults, but small.
pub(crate) fn settings(rng: &mut Rng) -> Settings {
    let segment_bytes = [8, 8, 12, 16][rng.usize(..4)] << 10;
    Settings {
        segment_bytes,
        max_bytes: segment_bytes * rng.u64(4..=8),
        keep: Duration::ZERO,
        policy: Policy {
            ack: Ack::Durable,
            max_updates: rng.usize(2..=10),
            interval: Duration::from_millis(rng.u64(10..=300)),
        },
        limits: Limits {
            max_counters: 1000,
            max_ids: [4, 1000][rng.usize(..2)],
            // See `Plan`.
            id_window_ms: 0,
        },
    }
}
