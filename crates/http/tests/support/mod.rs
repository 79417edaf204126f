//! A server with an in-memory front, and a client that sends bytes as they are.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "a module of every test file")]

mod client;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use counter::{Decoder, Entries, Entry, Fingerprint};
use engine::{Counted, Front, Page, PageRequest, Refusal};
use http_front::{Binding, EventLoop, Options, Readiness, Server, Telemetry};
use tokio::sync::Semaphore;

pub use client::*;

/// Counts in a map.
#[derive(Clone, Default)]
pub struct Memory(Arc<Shared>, Arc<Submissions>);

/// What was submitted on one worker.
#[derive(Default)]
struct Submissions(Mutex<Submitted>);

#[derive(Default)]
struct Submitted {
    waiting: VecDeque<Entries>,
    answers: Vec<Result<Counted, Box<Refusal>>>,
    taker: Option<Waker>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Requests wait here where a gate is set; one permit lets one through.
    gate: Mutex<Option<Arc<Semaphore>>>,
    /// Those of all workers, once [`Memory::take_submissions`] was called.
    submissions: Mutex<Option<Vec<Arc<Submissions>>>>,
}

#[derive(Default)]
struct State {
    totals: BTreeMap<String, i64>,
    units: HashMap<String, Fingerprint>,
    refusal: Option<Refusal>,
    readiness: Option<Readiness>,
    /// How many requests have come.
    asked: usize,
}

impl Memory {
    pub fn totals(&self) -> BTreeMap<String, i64> {
        self.0.state.lock().unwrap().totals.clone()
    }

    pub fn total(&self, key: &str) -> Option<i64> {
        self.totals().get(key).copied()
    }

    /// Refuses everything from now on, or nothing.
    pub fn refuse(&self, refusal: Option<Refusal>) {
        self.0.state.lock().unwrap().refusal = refusal;
    }

    pub fn set_readiness(&self, readiness: Readiness) {
        self.0.state.lock().unwrap().readiness = Some(readiness);
    }

    /// Holds every request to count until the semaphore gives a permit.
    pub fn hold(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.0.gate.lock().unwrap() = Some(Arc::clone(&gate));
        gate
    }

    /// From now on requests may be submitted; each waits for [`Memory::answer`].
    pub fn take_submissions(&self) {
        *self.0.submissions.lock().unwrap() = Some(Vec::new());
    }

    /// Counts the oldest of what was submitted on each worker, so many at most.
    pub fn answer(&self, most: usize) {
        let submissions = self.0.submissions.lock().unwrap().clone().unwrap();
        for submissions in submissions {
            let mut submitted = submissions.0.lock().unwrap();
            let most = most.min(submitted.waiting.len());
            for entries in submitted.waiting.drain(..most).collect::<Vec<_>>() {
                submitted.answers.push(self.count_now(&entries, None).map_err(Box::new));
            }
            if let Some(taker) = &submitted.taker {
                taker.wake_by_ref();
            }
        }
    }

    fn on_a_worker(&self) -> Self {
        let submissions = Arc::<Submissions>::default();
        if let Some(all) = &mut *self.0.submissions.lock().unwrap() {
            all.push(Arc::clone(&submissions));
        }
        Self(Arc::clone(&self.0), submissions)
    }

    /// How many requests to count have reached the front.
    pub fn asked(&self) -> usize {
        self.0.state.lock().unwrap().asked
    }

    /// Waits until so many requests to count have reached the front.
    pub fn wait_for(&self, asked: usize) {
        while self.0.state.lock().unwrap().asked < asked {
            std::thread::yield_now();
        }
    }
}

impl Memory {
    fn count_now(&self, entries: &Entries, unit: Option<(&str, Fingerprint)>) -> Result<Counted, Refusal> {
        let mut state = self.0.state.lock().unwrap();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        let mut totals = state.totals.clone();
        let mut counted = Counted::default();
        let replayed = match unit {
            Some((id, fingerprint)) => match state.units.insert(id.to_owned(), fingerprint) {
                Some(before) if before != fingerprint => {
                    state.units.insert(id.to_owned(), before);
                    return Err(Refusal::IdempotencyMismatch);
                }
                before => before.is_some(),
            },
            None => false,
        };
        for (at, entry) in Decoder::new(entries.bytes()).enumerate() {
            let Ok(Entry::Increment { key, value }) = entry else { panic!("not packed increments") };
            let total = totals.entry(key.to_owned()).or_default();
            if !replayed {
                *total = total.checked_add(value).ok_or_else(|| Refusal::Overflow {
                    entry: at as u32,
                    key: key.to_owned(),
                    total: *total,
                    value,
                })?;
            }
            counted = Counted { total: *total, replayed, partial: false };
        }
        state.totals = totals;
        Ok(counted)
    }
}

impl Front for Memory {
    async fn count(&self, entries: &Entries, unit: Option<(&str, Fingerprint)>) -> Result<Counted, Refusal> {
        self.0.state.lock().unwrap().asked += 1;
        let gate = self.0.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.expect("the gate stays open").forget();
        }
        self.count_now(entries, unit)
    }

    fn submit(&self, entries: &Entries) -> Option<Result<(), Refusal>> {
        self.0.submissions.lock().unwrap().as_ref()?;
        self.1.0.lock().unwrap().waiting.push_back(entries.clone());
        self.0.state.lock().unwrap().asked += 1;
        Some(Ok(()))
    }

    fn poll_submitted(&self, cx: &Context<'_>, answers: &mut Vec<Result<Counted, Box<Refusal>>>) {
        let mut submitted = self.1.0.lock().unwrap();
        answers.append(&mut submitted.answers);
        submitted.taker = Some(cx.waker().clone());
    }
    async fn total(&self, key: &str) -> Result<Option<i64>, Refusal> {
        let state = self.0.state.lock().unwrap();
        state.refusal.clone().map_or_else(|| Ok(state.totals.get(key).copied()), Err)
    }

    async fn page(&self, request: PageRequest) -> Result<Page, Refusal> {
        let state = self.0.state.lock().unwrap();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        let after = request.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = state
            .totals
            .range((after, Bound::Unbounded))
            .filter(|(key, _)| key.starts_with(&request.prefix))
            .map(|(key, &total)| (key.clone(), total));
        let counters: Vec<_> = rest.by_ref().take(request.limit as usize).collect();
        let next = rest.next().and(counters.last().map(|(key, _)| key.clone()));
        Ok(Page { counters, next })
    }
}

impl Telemetry for Memory {
    fn readiness(&self) -> Readiness {
        let readiness = self.0.state.lock().unwrap().readiness.clone();
        readiness.unwrap_or(Readiness::Ready { degraded: Vec::new() })
    }

    fn metrics(&self, out: &mut String) {
        out.push_str("up 1\n");
    }
}

/// A server that runs for the length of a test.
pub struct Running {
    pub front: Memory,
    pub server: Server,
    pub address: SocketAddr,
}

pub fn start() -> Running {
    start_with(Options::default())
}

/// With the event loop that `INCREMENTER_TEST_EVENT_LOOP` names; `scripts/test` runs all once more
/// with epoll.
pub fn start_with(options: Options) -> Running {
    start_before(options, Memory::default())
}

/// Requests may be submitted: a 202 is made at once, and held until [`Memory::answer`].
pub fn start_holding(options: Options) -> Running {
    let front = Memory::default();
    front.take_submissions();
    start_before(options, front)
}

fn start_before(options: Options, front: Memory) -> Running {
    let event_loop =
        std::env::var("INCREMENTER_TEST_EVENT_LOOP").map_or(EventLoop::IoUring, |name| name.parse().unwrap());
    let options = Options { event_loop, ..options };
    let binding = Binding::bind(loopback(), workers(2)).expect("a free port");
    let address = binding.local_addr();
    let made = front.clone();
    let telemetry = Arc::new(front.clone());
    let server = http_front::serve(
        binding,
        options,
        move |_| (made.on_a_worker(), None),
        telemetry,
        |exit| panic!("{exit:?}"),
    )
    .expect("threads");
    Running { front, server, address }
}

pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub fn workers(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("more than none")
}

impl Running {
    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Sends one request over a connection of its own.
    pub fn ask(&self, request: impl AsRef<[u8]>) -> Reply {
        self.client().ask(request)
    }

    pub fn get(&self, target: &str) -> Reply {
        self.ask(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n"))
    }

    pub fn stop(self) {
        let stopped = self.server.stop(Duration::from_secs(20));
        assert_eq!(stopped.cut, 0);
    }
}
