//! The handle to the writer, and the writer's thread.

use std::fmt::Debug;
use std::future::Future;
use std::sync::atomic::Ordering::Release;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::task::Context;
use std::time::{Duration, Instant};

use counter::{Batch, Entries, Fingerprint};
use journal::{Disk, Fatal};
use tokio::sync::oneshot;

use crate::bell::Bell;
use crate::clock::{Clock, Now};
use crate::control::{Control, Controls};
use crate::freshness::Freshness;
use crate::front::{Counted, Front, Page, PageRequest, Refusal};
use crate::lane::{Answer, Lane, Waiting};
use crate::linger::{self, Linger};
use crate::vitals::{Phase, Vitals};
use crate::writer::{Scratch, Turn, Writer};

/// Commits are this far apart at least, unless enough wait (see [`Pace`]).
const PAUSE: Duration = Duration::from_millis(2);
/// A commit that so many share costs each of them little enough: it doesn't wait for more.
const SHARED_BY_MANY: usize = 160;
/// The writer looks around at least so often.
const IDLE: Duration = Duration::from_millis(500);
/// How many packed bytes may wait in one lane, unless a single request may have more.
const LANE_BYTES: u64 = 64 << 20;

/// The store, for what memory can't answer. Neither call waits.
pub trait Lookup: Debug + Send + Sync {
    /// Asks for one total.
    fn total(&self, key: String, reply: oneshot::Sender<Result<Option<i64>, Refusal>>);

    /// Asks for a page.
    fn page(&self, request: PageRequest, reply: oneshot::Sender<Result<Page, Refusal>>);
}

/// The handle to the writer. A clone is the same engine. It exists from the very start, so that
/// front doors can be open; until [`Engine::run`] they are refused.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lanes: Vec<Lane>,
    bell: Arc<Bell>,
    controls: Controls,
    vitals: Arc<Vitals>,
    freshness: Arc<Freshness>,
    lookup: OnceLock<Arc<dyn Lookup>>,
    max_request_bytes: u64,
}

impl Engine {
    /// With so many lanes, one for each thread of a front door. A request, packed, may have
    /// `max_request_bytes` (see `journal::max_payload_bytes`); what is only read may be `max_age`
    /// old.
    #[must_use]
    pub fn new(lanes: usize, max_request_bytes: u64, max_age: Duration) -> Self {
        let bell = Arc::new(Bell::new());
        let max_packed = LANE_BYTES.max(max_request_bytes) as usize;
        Self(Arc::new(Shared {
            lanes: (0..lanes).map(|_| Lane::new(Arc::clone(&bell), max_packed)).collect(),
            controls: Controls::new(Arc::clone(&bell)),
            bell,
            vitals: Arc::default(),
            freshness: Arc::new(Freshness::new(max_age, 0)),
            lookup: OnceLock::new(),
            max_request_bytes,
        }))
    }

    /// The front of lane `at`, and the future that has to run on that lane's thread.
    pub fn front(&self, at: usize) -> (EngineFront, impl Future<Output = ()> + Send + use<>) {
        let lane = self.0.lanes[at % self.0.lanes.len()].clone();
        (EngineFront { lane: lane.clone(), engine: self.clone() }, lane.drive())
    }

    /// The way to the writer for threads beside it.
    #[must_use]
    pub fn controls(&self) -> &Controls {
        &self.0.controls
    }

    /// What can be seen of it.
    #[must_use]
    pub fn vitals(&self) -> &Arc<Vitals> {
        &self.0.vitals
    }

    /// How old what memory holds may be.
    #[must_use]
    pub fn freshness(&self) -> &Arc<Freshness> {
        &self.0.freshness
    }

    /// Says who asks the store. Only the first call counts.
    pub fn set_lookup(&self, lookup: Arc<dyn Lookup>) {
        let _ = self.0.lookup.set(lookup);
    }

    /// Refuses new requests from now on; those that were taken are still answered.
    pub fn stop_taking(&self) {
        self.0.vitals.set_phase(Phase::Stopping);
    }

    /// The writer's thread: serves until [`Control::Quit`]. Batches go to `batches`, one at a
    /// time: the next when the last has been reported with [`Control::Settled`].
    ///
    /// # Errors
    /// The journal failed; nothing is taken any more and the process has to end.
    pub fn run<D: Disk>(
        &self,
        mut writer: Writer<D>,
        clock: impl Clock,
        batches: Sender<Arc<Batch>>,
    ) -> Result<(), Fatal> {
        let bell = &self.0.bell;
        bell.attend();
        self.begin(&writer, clock.now());
        let mut scratch = Scratch::default();
        // On a single processor, whoever stays awake stands in the way of those it waits for.
        let lingers = std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
        let mut pace = Pace { lingers, ..Pace::default() };
        let mut more = true;
        loop {
            let mut now = clock.now();
            if !more {
                pace.wait(bell, &writer, now);
                now = clock.now();
            }
            let turn = self.turn(&mut writer, &mut scratch, now)?;
            pace.took(turn.taken, bell.waiting(), now);
            if let Some(batch) = turn.batch {
                // A flusher that is gone has been noticed by whoever supervises it.
                let _ = batches.send(batch);
            }
            if turn.quit {
                return self.finish(&mut writer, clock.now());
            }
            more = turn.more;
        }
    }

    /// Takes requests from now on. [`run`](Self::run) begins with it; so does whoever calls
    /// [`turn`](Self::turn) instead.
    pub fn begin<D: Disk>(&self, writer: &Writer<D>, now: Now) {
        // First: a stop that finds it serving asks the vitals whether anything has to be flushed.
        writer.publish(&self.0.vitals, now);
        if self.0.vitals.phase() == Phase::Starting {
            self.0.vitals.set_phase(Phase::Serving);
        }
    }

    /// One turn of the writer: what [`run`](Self::run) does again and again.
    ///
    /// # Errors
    /// The journal failed; nothing is to be called any more.
    pub fn turn<D: Disk>(
        &self,
        writer: &mut Writer<D>,
        scratch: &mut Scratch,
        now: Now,
    ) -> Result<Turn, Fatal> {
        let Shared { lanes, bell, controls, vitals, freshness, .. } = &*self.0;
        let orders = controls.take();
        let quit = orders.iter().any(|control| matches!(control, Control::Quit));
        let turn = writer.turn(lanes, orders, scratch, freshness, vitals, now)?;
        bell.taken(turn.taken);
        Ok(Turn { quit, ..turn })
    }

    /// Ends a writer whose last turn is over: makes the journal durable, and lets it remember what
    /// the store has. Nothing is to be called any more.
    ///
    /// # Errors
    /// See [`Fatal`].
    pub fn finish<D: Disk>(&self, writer: &mut Writer<D>, now: Now) -> Result<(), Fatal> {
        let closed = writer.finish(now)?;
        self.0.vitals.closed.store(closed, Release);
        Ok(())
    }

    fn check_serving(&self) -> Result<(), Refusal> {
        match self.0.vitals.phase() {
            Phase::Serving => Ok(()),
            Phase::Starting => Err(Refusal::Starting("totals are being loaded and the journal replayed")),
            Phase::Stopping => Err(Refusal::Stopping),
        }
    }

    fn lookup(&self) -> Result<&Arc<dyn Lookup>, Refusal> {
        self.0.lookup.get().ok_or(Refusal::Starting("the store has not been reached yet"))
    }
}

/// When the next commit begins.
///
/// A commit costs a wake-up, a write and an fdatasync, however many wait for it. So while a crowd
/// is being served, the writer waits until most of it waits again, or [`SHARED_BY_MANY`] do, or for
/// [`PAUSE`] since the last commit; a lone client makes up the whole crowd and never waits, and the
/// writer stays awake for its next request (see [`Linger`]).
#[derive(Debug, Default)]
struct Pace {
    /// About how many clients there are: the most that were seen waiting lately.
    crowd: usize,
    began: Duration,
    /// Whether to stay awake for a lone client's next request.
    lingers: bool,
    linger: Linger,
}

impl Pace {
    fn wait<D: Disk>(&mut self, bell: &Bell, writer: &Writer<D>, now: Now) {
        let mut until = now.elapsed + IDLE;
        until = writer.deadline().map_or(until, |deadline| deadline.min(until));
        if self.crowd > 1 {
            until = until.min(self.began + PAUSE);
        }
        let enough = self.enough();
        let time = until.saturating_sub(now.elapsed);
        if self.crowd == 1 && self.lingers && time > linger::LONGEST && self.linger.is_worth_it() {
            self.linger.until(Instant::now() + linger::LONGEST, || bell.waiting() > 0);
        }
        if bell.waiting() < enough && !time.is_zero() {
            bell.sleep(enough, time);
        }
    }

    /// How many have to wait for a commit to begin at once.
    fn enough(&self) -> usize {
        (self.crowd * 4 / 5).clamp(1, SHARED_BY_MANY)
    }

    fn took(&mut self, taken: usize, waiting: usize, now: Now) {
        self.crowd = (taken + waiting).max(self.crowd - self.crowd.div_ceil(4));
        self.began = now.elapsed;
    }
}

/// The engine, as a front door's thread sees it.
#[derive(Clone, Debug)]
pub struct EngineFront {
    lane: Lane,
    engine: Engine,
}

impl EngineFront {
    fn hand_over(&self, entries: &Entries, unit: Option<(&str, Fingerprint)>) -> Result<Waiting, Refusal> {
        let unit = unit.map(|(id, fingerprint)| entries.to_unit(id, &fingerprint));
        let packed = unit.as_deref().unwrap_or(entries.bytes());
        self.check(packed)?;
        self.lane.count(packed)
    }

    fn check(&self, packed: &[u8]) -> Result<(), Refusal> {
        self.engine.check_serving()?;
        let max_bytes = self.engine.0.max_request_bytes;
        if packed.len() as u64 > max_bytes { Err(Refusal::TooLarge { max_bytes }) } else { Ok(()) }
    }

    async fn ask_store(&self, key: String, known: Option<i64>) -> Result<Option<i64>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.engine.lookup()?.total(key, reply);
        match answer.await.unwrap_or(Err(Refusal::Stopping)) {
            // Reads of one key go on from memory while the store is away.
            Err(_) if known.is_some() => Ok(known),
            answered => answered,
        }
    }
}

impl Front for EngineFront {
    fn count(
        &self,
        entries: &Entries,
        unit: Option<(&str, Fingerprint)>,
    ) -> impl Future<Output = Result<Counted, Refusal>> + Send {
        let handed_over = self.hand_over(entries, unit);
        async move { handed_over?.await.counted().map_err(|refusal| *refusal) }
    }

    fn submit(&self, entries: &Entries) -> Option<Result<(), Refusal>> {
        match self.check(entries.bytes()) {
            Ok(()) => self.lane.submit(entries.bytes()).then_some(Ok(())),
            Err(refusal) => Some(Err(refusal)),
        }
    }

    fn poll_submitted(&self, cx: &Context<'_>, answers: &mut Vec<Result<Counted, Box<Refusal>>>) {
        self.lane.poll_submitted(cx, answers);
    }

    async fn total(&self, key: &str) -> Result<Option<i64>, Refusal> {
        self.engine.check_serving()?;
        match self.lane.read(key)?.await {
            Answer::Total(Some((total, true))) => Ok(Some(total)),
            Answer::Total(known) => self.ask_store(key.to_owned(), known.map(|(total, _)| total)).await,
            Answer::Refused(refusal) => Err(*refusal),
            Answer::Counted(_) => Err(Refusal::Stopping),
        }
    }

    async fn page(&self, request: PageRequest) -> Result<Page, Refusal> {
        self.engine.check_serving()?;
        let (reply, answer) = oneshot::channel();
        self.engine.lookup()?.page(request, reply);
        answer.await.unwrap_or(Err(Refusal::Stopping))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_the_crowd_is_enough_for_a_commit_and_so_are_many() {
        let mut pace = Pace::default();
        let now = Now { elapsed: Duration::ZERO, unix_ms: 0 };
        let mut enough_after = |taken, waiting| {
            pace.took(taken, waiting, now);
            pace.enough()
        };
        assert_eq!((enough_after(0, 0), enough_after(1, 0)), (1, 1), "a lone client doesn't wait");
        assert_eq!((enough_after(60, 4), enough_after(300, 100)), (51, SHARED_BY_MANY));
        // Those who left are expected for a few turns more.
        let fading: Vec<_> = (0..7).map(|_| enough_after(10, 0)).collect();
        assert_eq!(fading, [SHARED_BY_MANY, SHARED_BY_MANY, 134, 100, 75, 56, 41]);
    }
}
