//! One start of one instance on real files, driven step by step instead of by threads.

use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use counter::{Applied, Batch, Entries, Fingerprint, JournalId, OwnerId, Seq, StoreId};
use engine::{
    Ack, Counted, Engine, EngineFront, Front, Limits, Now, Policy, Refusal, Scratch, Starting, Writer,
};
use flusher::{FlushVitals, Flusher, bring_up, stopper};
use journal::{Journal, Options, RealDisk};
use store::{ApplyError, Claim, ClaimError, LoadError, Purge, Purged, Standing, Store, StoreError, StoreUrl};

const SEGMENT: u64 = 16 << 10;

/// How the store treats the next batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// It is away.
    Before,
    /// It commits, and its answer is lost.
    After,
}

/// SQLite, with faults.
struct Shaky {
    inner: Box<dyn Store>,
    fault: Arc<Mutex<Fault>>,
}

impl Store for Shaky {
    fn prepare(&mut self) -> Result<StoreId, StoreError> {
        self.inner.prepare()
    }

    fn standing(&mut self, journal: JournalId) -> Result<Option<Standing>, StoreError> {
        self.inner.standing(journal)
    }

    fn claim(&mut self, claim: &Claim, seen: Option<Standing>, now_ms: u64) -> Result<(), ClaimError> {
        self.inner.claim(claim, seen, now_ms)
    }

    fn load(
        &mut self,
        journal: JournalId,
        each: &mut dyn FnMut(&str, i64) -> Result<(), String>,
    ) -> Result<Seq, LoadError> {
        self.inner.load(journal, each)
    }

    fn apply_over(&mut self, claim: &Claim, batch: &Batch, over: Duration) -> Result<Applied, ApplyError> {
        let fault = std::mem::take(&mut *self.fault.lock().unwrap());
        let away = || Err(StoreError::Unavailable("put so by the test".to_owned()).into());
        match fault {
            Fault::None => self.inner.apply_over(claim, batch, over),
            Fault::Before => away(),
            Fault::After => {
                self.inner.apply_over(claim, batch, over)?;
                away()
            }
        }
    }

    fn load_ids(
        &mut self,
        since_ms: u64,
        limit: u32,
        each: &mut dyn FnMut(&str, Fingerprint, u64),
    ) -> Result<(), StoreError> {
        self.inner.load_ids(since_ms, limit, each)
    }

    fn purge(&mut self, claim: &Claim, purge: &Purge) -> Result<Purged, StoreError> {
        self.inner.purge(claim, purge)
    }

    fn close(&mut self, claim: &Claim, watermark: Seq) -> Result<(), StoreError> {
        self.inner.close(claim, watermark)
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Counted, Refusal>>>>;

/// Dropping it is a crash: nothing is finished, synced or flushed.
pub(crate) struct Instance {
    engine: Engine,
    front: EngineFront,
    driver: Pin<Box<dyn Future<Output = ()>>>,
    /// The number of a request, and its answer.
    waiting: Vec<(usize, Answer)>,
    writer: Writer<RealDisk>,
    scratch: Scratch,
    flusher: Flusher<Box<dyn Store>>,
    fault: Arc<Mutex<Fault>>,
    batch: Option<Arc<Batch>>,
}

impl Instance {
    pub(crate) fn start(directory: &Path, url: &StoreUrl, max_updates: usize, now: Now) -> Self {
        let options = Options::new(SEGMENT, 64 * SEGMENT);
        let opened = Journal::open(RealDisk::new(directory).unwrap(), options).unwrap();
        assert_eq!(opened.cut, None, "a process that dies leaves no half record");
        let policy = Policy { ack: Ack::Durable, max_updates, interval: Duration::from_secs(5) };
        let limits = Limits { max_counters: 10_000, max_ids: 100, id_window_ms: u64::MAX };
        let starting = Starting::new(opened.journal, limits, policy, 7);
        let engine = Engine::new(1, journal::max_payload_bytes(SEGMENT), Duration::from_secs(3600));
        let fault = Arc::default();
        let mut store: Box<dyn Store> =
            Box::new(Shaky { inner: store::open(url).unwrap(), fault: Arc::clone(&fault) });
        let mut reader = store::open_reader(url).unwrap();
        let owner = OwnerId::random().unwrap();
        let (_stopper, stop) = stopper();
        let freshness = Arc::clone(engine.freshness());
        let started =
            bring_up(starting, store.as_mut(), reader.as_mut(), owner, &freshness, &|| now, &stop).unwrap();
        let (front, driver) = engine.front(0);
        engine.begin(&started.writer, now);
        let vitals = Arc::<FlushVitals>::default();
        Self {
            flusher: Flusher::new(store, started.own, engine.clone(), Duration::MAX, vitals),
            writer: started.writer,
            engine,
            front,
            driver: Box::pin(driver),
            waiting: Vec::new(),
            scratch: Scratch::default(),
            fault,
            batch: None,
        }
    }

    /// Hands a request over; its answer comes with a later turn.
    pub(crate) fn send(&mut self, number: usize, entries: &[(String, i64)], id: Option<&str>) {
        let mut packed = Entries::new();
        for (key, value) in entries {
            packed.push(key, *value).unwrap();
        }
        // Equal for the same number alone, as a digest of the body would be.
        let mut fingerprint = Fingerprint::default();
        fingerprint[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let (front, id) = (self.front.clone(), id.map(str::to_owned));
        let mut answer: Answer =
            Box::pin(async move { front.count(&packed, id.as_deref().map(|id| (id, fingerprint))).await });
        // So that it is handed over, in this order.
        assert!(answer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        self.waiting.push((number, answer));
    }

    /// One turn of the writer; the requests that were answered in it.
    pub(crate) fn turn(&mut self, now: Now) -> Vec<(usize, Result<Counted, Refusal>)> {
        let turn = self.engine.turn(&mut self.writer, &mut self.scratch, now).unwrap();
        if turn.batch.is_some() {
            assert!(self.batch.is_none(), "two batches at once");
            self.batch = turn.batch;
        }
        let mut context = Context::from_waker(Waker::noop());
        assert!(self.driver.as_mut().poll(&mut context).is_pending());
        let mut answers = Vec::new();
        self.waiting.retain_mut(|(number, answer)| match answer.as_mut().poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                answers.push((*number, answer));
                false
            }
        });
        answers
    }

    /// One attempt of the flusher, where there is a batch.
    pub(crate) fn flush(&mut self, fault: Fault) {
        let Some(batch) = &self.batch else { return };
        *self.fault.lock().unwrap() = fault;
        if self.flusher.attempt(batch).unwrap().is_none() {
            self.batch = None;
        }
        *self.fault.lock().unwrap() = Fault::None;
    }

    /// Has everything flushed.
    pub(crate) fn drain(&mut self, now: Now) -> Vec<(usize, Result<Counted, Refusal>)> {
        let (done, drained) = std::sync::mpsc::channel();
        self.engine.controls().send(engine::Control::Drain { done });
        let mut answers = Vec::new();
        for _ in 0..100 {
            answers.extend(self.turn(now));
            self.flush(Fault::None);
            if drained.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected)
                && self.waiting.is_empty()
            {
                return answers;
            }
        }
        panic!("it doesn't come to rest");
    }

    /// The requests that wait for an answer.
    pub(crate) fn in_flight(&self) -> Vec<usize> {
        self.waiting.iter().map(|waiting| waiting.0).collect()
    }

    /// Ends as a stop does.
    pub(crate) fn finish(mut self, now: Now) {
        self.engine.finish(&mut self.writer, now).unwrap();
    }

    /// What a client reads.
    pub(crate) fn total(&mut self, key: &str, now: Now) -> Option<i64> {
        let mut context = Context::from_waker(Waker::noop());
        let front = self.front.clone();
        let mut answer = pin!(front.total(key));
        for _ in 0..2 {
            if let Poll::Ready(total) = answer.as_mut().poll(&mut context) {
                return total.unwrap();
            }
            let turned = self.engine.turn(&mut self.writer, &mut self.scratch, now).unwrap();
            assert!(turned.batch.is_none());
            assert!(self.driver.as_mut().poll(&mut context).is_pending());
        }
        panic!("no answer to a read");
    }
}
