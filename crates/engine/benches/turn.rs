//! Turns of the writer, 128 requests each, on a disk that takes everything at once: what handing
//! over, admitting and answering cost.

#![allow(clippy::expect_used, reason = "a measurement fails by panicking")]

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use counter::{Entries, Seq, StoreId};
use divan::{Bencher, counter::ItemsCount};
use engine::{
    Ack, Clock, Engine, EngineFront, Front, Limits, Now, Policy, Scratch, Starting, SystemClock, Writer,
};
use journal::{Disk, DiskFile, Job, Journal, Options};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REQUESTS: u64 = 128;
const SEGMENT: u64 = 64 << 20;

fn main() {
    divan::main();
}

/// Keeps the beginning of each file, where the journal looks, and forgets the records.
#[derive(Clone, Debug, Default)]
struct Forgetful(Arc<Mutex<HashMap<String, Beginning>>>);

#[derive(Clone, Debug)]
struct Beginning {
    bytes: u64,
    kept: Arc<Mutex<[u8; KEPT]>>,
}

const KEPT: usize = 4096;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk for Forgetful {
    type File = Beginning;

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Beginning> {
        lock(&self.0).get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Beginning> {
        let file = Beginning { bytes, kept: Arc::new(Mutex::new([0; KEPT])) };
        lock(&self.0).insert(name.to_owned(), file.clone());
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.0);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.0).remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }

    fn in_background(&self, job: Job) {
        job();
    }
}

impl DiskFile for Beginning {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let read = buffer.len().min(left);
        buffer[..read].fill(0);
        let kept = lock(&self.kept);
        let from = &kept[kept.len().min(offset as usize)..];
        let known = from.len().min(read);
        buffer[..known].copy_from_slice(&from[..known]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if offset < KEPT as u64 {
            let mut kept = lock(&self.kept);
            let into = &mut kept[offset as usize..];
            let known = into.len().min(bytes.len());
            into[..known].copy_from_slice(&bytes[..known]);
        }
        Ok(())
    }

    fn append_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

struct Running {
    engine: Engine,
    front: EngineFront,
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    writer: Writer<Forgetful>,
    scratch: Scratch,
    now: Now,
}

impl Running {
    /// With `counters` loaded, and never a flush.
    fn start(counters: u64) -> Self {
        let now = SystemClock::start().now();
        let journal =
            Journal::open(Forgetful::default(), Options::new(SEGMENT, 1 << 50)).expect("a journal").journal;
        let limits = Limits { max_counters: u64::MAX, max_ids: 1000, id_window_ms: u64::MAX };
        let policy =
            Policy { ack: Ack::Durable, max_updates: usize::MAX, interval: Duration::from_secs(1 << 30) };
        let mut starting = Starting::new(journal, limits, policy, 1);
        starting.set_store(StoreId([1; 16])).expect("a working disk");
        for number in 0..counters {
            starting.load(&key(number), 0).expect("within the limit");
        }
        let (writer, _) = starting.replay(Seq::ZERO, now).expect("an empty journal");
        let engine = Engine::new(1, journal::max_payload_bytes(SEGMENT), Duration::from_secs(3600));
        let (front, driver) = engine.front(0);
        engine.begin(&writer, now);
        Self { engine, front, driver: Box::pin(driver), writer, scratch: Scratch::default(), now }
    }

    /// Hands requests over, takes a turn, and lets each have its answer.
    fn turn(&mut self, requests: &[Entries], ids: Option<&[String]>) {
        let mut context = Context::from_waker(Waker::noop());
        let id = |at: usize| ids.map(|ids| (&*ids[at], [0; 16]));
        let count = |(at, request)| Box::pin(self.front.count(request, id(at)));
        let mut waiting: Vec<_> = requests.iter().enumerate().map(count).collect();
        self.engine.turn(&mut self.writer, &mut self.scratch, self.now).expect("a working disk");
        let _ = self.driver.as_mut().poll(&mut context);
        let answered =
            waiting.iter_mut().map(|one| one.as_mut().poll(&mut context)).filter(Poll::is_ready).count();
        assert_eq!(answered, requests.len());
    }
}

fn key(number: u64) -> String {
    format!("user:{number:08}:clicks")
}

fn requests(numbers: impl Iterator<Item = u64>) -> Vec<Entries> {
    let request = |number| {
        let mut entries = Entries::new();
        entries.push(&key(number), 1).expect("a key");
        entries
    };
    numbers.map(request).collect()
}

/// Of so many counters, some at random.
#[divan::bench(args = [10_000, 1_000_000])]
fn known_keys(bencher: Bencher<'_, '_>, counters: u64) {
    let mut running = Running::start(counters);
    let at_random = (0..REQUESTS * 512).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % counters);
    let all = requests(at_random);
    let mut groups = all.chunks(REQUESTS as usize).cycle();
    bencher
        .counter(ItemsCount::new(REQUESTS))
        .bench_local(|| groups.next().map(|requests| running.turn(requests, None)));
}

/// 128 requests of so many increments each, of a million counters.
#[divan::bench(args = [10, 1_000], sample_count = 20)]
fn bulk(bencher: Bencher<'_, '_>, per_request: u64) {
    let counters = 1_000_000;
    let mut running = Running::start(counters);
    let request = |request: u64| {
        let mut entries = Entries::new();
        for n in request * per_request..(request + 1) * per_request {
            entries.push(&key(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % counters), 1).expect("a key");
        }
        entries
    };
    let all: Vec<_> = (0..REQUESTS * 8).map(request).collect();
    let mut groups = all.chunks(REQUESTS as usize).cycle();
    bencher
        .counter(ItemsCount::new(REQUESTS * per_request))
        .bench_local(|| groups.next().map(|requests| running.turn(requests, None)));
}

/// Under idempotency keys, each of them new, of which memory keeps a thousand.
#[divan::bench(sample_count = 100, sample_size = 20)]
fn units(bencher: Bencher<'_, '_>) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut running = Running::start(10_000);
    let requests = requests(0..REQUESTS);
    let ids = || {
        let from = NEXT.fetch_add(REQUESTS, Relaxed);
        (from..from + REQUESTS).map(|id| format!("{id:032x}")).collect::<Vec<_>>()
    };
    bencher
        .counter(ItemsCount::new(REQUESTS))
        .with_inputs(ids)
        .bench_local_refs(|ids| running.turn(&requests, Some(ids)));
}

#[divan::bench(sample_count = 100, sample_size = 20)]
fn new_keys(bencher: Bencher<'_, '_>) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut running = Running::start(0);
    let next = || {
        let from = NEXT.fetch_add(REQUESTS, Relaxed);
        requests(from..from + REQUESTS)
    };
    bencher
        .counter(ItemsCount::new(REQUESTS))
        .with_inputs(next)
        .bench_local_refs(|requests| running.turn(requests, None));
}
