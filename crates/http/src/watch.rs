//! Deadlines without timers: each connection notes what it is doing and since when, and a worker
//! looks at all of them a few times a second. A request costs a few plain stores for it.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::Options;
use crate::options::LINGER;
use crate::recent::Recent;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing of a next request has been read.
    Idle,
    /// Something of a next request has been read, and its header section isn't complete.
    Head,
    /// A request is being answered; how long is the engine's business.
    Busy,
    /// A body is awaited.
    Body,
    /// The answer is out; what the client still sends is thrown away.
    Linger,
}

/// What the watchdog found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on.
    Fine,
    /// Idle, lingering or not reading for too long.
    Close,
    /// The header section took too long.
    HeadLate,
    /// The body took too long.
    BodyLate,
}

/// Milliseconds since the worker started, as of the last look. It wraps after 49 days; only
/// differences are used.
#[derive(Debug, Default)]
struct Clock(Cell<u32>);

/// One connection, as the watchdog sees it.
#[derive(Debug)]
pub(crate) struct Watch {
    clock: Rc<Clock>,
    phase: Cell<Phase>,
    since: Cell<u32>,
    blocked_since: Cell<Option<u32>>,
    /// An answer is held back: how long is the engine's business.
    holding: Cell<bool>,
    verdict: Cell<Verdict>,
    stopping: Cell<bool>,
    last: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    recent: RefCell<Recent>,
}

impl Watch {
    /// Notes what the connection does from now on.
    #[inline]
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.clock.0.get());
    }

    /// These bytes have come; none at the end of the stream. Between requests they are the start
    /// of the next one.
    #[inline]
    pub(crate) fn bytes_came(&self, bytes: &[u8]) {
        match self.phase.get() {
            Phase::Idle => {
                self.recent.borrow_mut().begin(bytes);
                self.enter(Phase::Head);
            }
            Phase::Head => self.recent.borrow_mut().go_on(bytes),
            Phase::Busy | Phase::Body => self.recent.borrow_mut().body(bytes),
            Phase::Linger => {}
        }
    }

    /// The bytes that came lately.
    pub(crate) fn recent(&self) -> Ref<'_, Recent> {
        self.recent.borrow()
    }

    /// Whether the client takes what is written to it.
    #[inline]
    pub(crate) fn set_blocked(&self, blocked: bool) {
        match (blocked, self.blocked_since.get()) {
            (true, None) => self.blocked_since.set(Some(self.clock.0.get())),
            (false, Some(_)) => self.blocked_since.set(None),
            _ => {}
        }
    }

    /// Whether an answer is held back. Only when none is any more does a client begin to be idle or
    /// slow, or a connection to linger.
    #[inline]
    pub(crate) fn set_holding(&self, holding: bool) {
        self.holding.set(holding);
        if !holding && !matches!(self.phase.get(), Phase::Busy | Phase::Body) {
            self.since.set(self.clock.0.get());
        }
    }

    #[inline]
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict.get()
    }

    /// Whether the server is stopping.
    #[inline]
    pub(crate) fn stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Whether no request has come wholly that isn't answered.
    pub(crate) fn between_requests(&self) -> bool {
        matches!(self.phase.get(), Phase::Idle | Phase::Head)
    }

    /// The request that is being answered is to be the connection's last.
    pub(crate) fn make_last(&self) {
        self.last.set(true);
    }

    /// Whether it is.
    #[inline]
    pub(crate) fn is_last(&self) -> bool {
        self.last.get()
    }

    /// Whom to wake with a verdict. A task keeps its waker, so that the first is enough.
    #[inline]
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if waker.is_none() {
            *waker = Some(cx.waker().clone());
        }
    }

    /// A worker that stops asks each connection to finish.
    fn stop(&self) {
        self.stopping.set(true);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// The connections of one worker.
#[derive(Debug)]
pub(crate) struct Watchdog {
    clock: Rc<Clock>,
    started: Instant,
    limits: Limits,
    watches: RefCell<Slab<Rc<Watch>>>,
}

/// In milliseconds, one tick included: what is noted may be one tick old.
#[derive(Clone, Copy, Debug)]
struct Limits {
    idle: u32,
    head: u32,
    body: u32,
    write: u32,
    linger: u32,
}

impl Watchdog {
    pub(crate) fn new(options: &Options) -> Self {
        let tick = options.tick();
        let ms = |limit: Duration| u32::try_from((limit + tick).as_millis()).unwrap_or(u32::MAX / 2);
        Self {
            clock: Rc::default(),
            started: Instant::now(),
            limits: Limits {
                idle: ms(options.idle_timeout),
                head: ms(options.head_timeout),
                body: ms(options.body_timeout),
                write: ms(options.write_timeout),
                linger: ms(LINGER),
            },
            watches: RefCell::default(),
        }
    }

    /// A connection begins; the number is for [`Watchdog::remove`].
    pub(crate) fn add(&self) -> (usize, Rc<Watch>) {
        let watch = Rc::new(Watch {
            clock: Rc::clone(&self.clock),
            phase: Cell::new(Phase::Idle),
            since: Cell::new(self.clock.0.get()),
            blocked_since: Cell::new(None),
            holding: Cell::new(false),
            verdict: Cell::new(Verdict::Fine),
            stopping: Cell::new(false),
            last: Cell::new(false),
            waker: RefCell::new(None),
            recent: RefCell::default(),
        });
        let number = self.watches.borrow_mut().insert(Rc::clone(&watch));
        (number, watch)
    }

    /// A connection has ended.
    pub(crate) fn remove(&self, number: usize) {
        self.watches.borrow_mut().try_remove(number);
    }

    /// How many connections are open.
    pub(crate) fn len(&self) -> usize {
        self.watches.borrow().len()
    }

    /// Asks every connection to finish.
    pub(crate) fn stop_all(&self) {
        for (_, watch) in self.watches.borrow().iter() {
            watch.stop();
        }
    }

    /// Moves the clock, and judges every connection.
    pub(crate) fn look(&self) {
        // Cut to 32 bits on purpose: the clock wraps.
        let now = self.started.elapsed().as_millis() as u32;
        self.clock.0.set(now);
        for (_, watch) in self.watches.borrow().iter() {
            let verdict = self.judge(watch, now);
            if verdict != Verdict::Fine {
                watch.verdict.set(verdict);
                watch.wake();
            }
        }
    }

    fn judge(&self, watch: &Watch, now: u32) -> Verdict {
        let limits = self.limits;
        let over = |since: u32, limit: u32| now.wrapping_sub(since) >= limit;
        if watch.blocked_since.get().is_some_and(|since| over(since, limits.write)) {
            return Verdict::Close;
        }
        let (limit, verdict) = match watch.phase.get() {
            Phase::Busy => return Verdict::Fine,
            // A client that has closed its half is in the phase `Head` as well.
            Phase::Idle | Phase::Head | Phase::Linger if watch.holding.get() => return Verdict::Fine,
            Phase::Idle => (limits.idle, Verdict::Close),
            Phase::Head => (limits.head, Verdict::HeadLate),
            Phase::Body => (limits.body, Verdict::BodyLate),
            Phase::Linger => (limits.linger, Verdict::Close),
        };
        if over(watch.since.get(), limit) { verdict } else { Verdict::Fine }
    }
}
