//! The writer's thread over a real journal, with fronts before it and a store of this test's own
//! behind it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use counter::{Applied, Batch, Entries, Seq, StoreId};
use engine::{
    Ack, Clock, Control, Engine, EngineFront, Front, Limits, Lookup, Page, PageRequest, Policy, Refusal,
    Starting, SystemClock, Writer,
};
use journal::{Fatal, Journal, Options, RealDisk};
use tokio::sync::oneshot;

const SEGMENT: u64 = 64 << 10;

/// What the store of a test holds.
#[derive(Debug, Default)]
struct Table {
    totals: BTreeMap<String, i64>,
    watermark: Seq,
}

impl Table {
    fn apply(&mut self, batch: &Batch) -> Applied {
        assert_eq!(batch.from(), self.watermark);
        self.watermark = batch.upto();
        let mut applied = Applied::default();
        for row in batch.rows() {
            let total = self.totals.entry(batch.key(row).to_owned()).or_default();
            *total += i64::try_from(row.sum).unwrap();
            applied.totals.push(Some(*total));
        }
        applied
    }
}

#[derive(Debug)]
struct NoLookup;

impl Lookup for NoLookup {
    fn total(&self, _: String, reply: oneshot::Sender<Result<Option<i64>, Refusal>>) {
        let _ = reply.send(Err(Refusal::StoreAway("there is none in this test".to_owned())));
    }

    fn page(&self, _: PageRequest, reply: oneshot::Sender<Result<Page, Refusal>>) {
        let _ = reply.send(Err(Refusal::StoreAway("there is none in this test".to_owned())));
    }
}

struct Running {
    engine: Engine,
    thread: JoinHandle<Result<(), Fatal>>,
    batches: Receiver<Arc<Batch>>,
}

fn start(dir: &Path, policy: Policy, max_segments: u64, table: &Table) -> Running {
    let (engine, writer) = replayed(dir, policy, max_segments, table);
    let (to_flush, batches) = channel();
    let run = engine.clone();
    let thread = std::thread::spawn(move || run.run(writer, SystemClock::start(), to_flush));
    while engine.vitals().phase() == engine::Phase::Starting {
        std::thread::yield_now();
    }
    Running { engine, thread, batches }
}

/// An engine that doesn't run yet, and its writer.
fn replayed(dir: &Path, policy: Policy, max_segments: u64, table: &Table) -> (Engine, Writer<RealDisk>) {
    let options = Options::new(SEGMENT, max_segments * SEGMENT);
    let journal = Journal::open(RealDisk::new(dir).unwrap(), options).unwrap().journal;
    let limits = Limits { max_counters: 1000, max_ids: 1000, id_window_ms: u64::MAX };
    let mut starting = Starting::new(journal, limits, policy, 1);
    starting.set_store(StoreId([1; 16])).unwrap();
    for (key, total) in &table.totals {
        starting.load(key, *total).unwrap();
    }
    let (writer, _) = starting.replay(table.watermark, SystemClock::start().now()).unwrap();
    let engine = Engine::new(2, journal::max_payload_bytes(SEGMENT), Duration::from_secs(3600));
    engine.set_lookup(Arc::new(NoLookup));
    (engine, writer)
}

/// Applies every batch to `table` until the engine ends.
fn flush_all(batches: Receiver<Arc<Batch>>, engine: &Engine, table: &Arc<Mutex<Table>>) -> JoinHandle<()> {
    let (controls, table) = (engine.controls().clone(), Arc::clone(table));
    std::thread::spawn(move || {
        for batch in batches {
            let applied = table.lock().unwrap().apply(&batch);
            controls.send(Control::Settled { applied, epoch: 1 });
        }
    })
}

fn policy(ack: Ack) -> Policy {
    Policy { ack, max_updates: 50, interval: Duration::from_secs(3600) }
}

fn one(key: &str, value: i64) -> Entries {
    let mut entries = Entries::new();
    entries.push(key, value).unwrap();
    entries
}

/// Runs `clients` at once on the lane's thread.
fn on_lane<T: Send>(engine: &Engine, lane: usize, clients: impl AsyncFnOnce(EngineFront) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (front, driver) = engine.front(lane);
    runtime.spawn(driver);
    runtime.block_on(clients(front))
}

#[test]
fn many_clients_on_two_lanes_are_all_counted_once_and_read_their_writes() {
    for ack in [Ack::Durable, Ack::Memory] {
        let dir = tempfile::tempdir().unwrap();
        let table = Arc::new(Mutex::new(Table::default()));
        let Running { engine, thread, batches } = start(dir.path(), policy(ack), 100, &Table::default());
        let flusher = flush_all(batches, &engine, &table);
        std::thread::scope(|scope| {
            for lane in 0..2 {
                let engine = &engine;
                scope.spawn(move || {
                    on_lane(engine, lane, async |front| {
                        let clients = (0..40).map(|client| {
                            let front = front.clone();
                            tokio::spawn(async move {
                                for n in 1..=50 {
                                    let own = format!("client {lane} {client}");
                                    front.count(&one(&own, 1), None).await.unwrap();
                                    front.count(&one(&format!("shared {}", n % 7), 1), None).await.unwrap();
                                    assert_eq!(front.total(&own).await, Ok(Some(n)));
                                }
                            })
                        });
                        for client in clients.collect::<Vec<_>>() {
                            client.await.unwrap();
                        }
                    });
                });
            }
        });
        engine.stop_taking();
        assert!(engine.controls().drain(Duration::from_secs(60), &|| false));
        engine.controls().send(Control::Quit);
        thread.join().unwrap().unwrap();
        flusher.join().unwrap();
        let table = table.lock().unwrap();
        let shared: i64 = (0..7).map(|n| table.totals[&format!("shared {n}")]).sum();
        assert_eq!(shared, 2 * 40 * 50);
        assert_eq!(table.totals.len(), 7 + 80);
        assert!(table.totals.iter().all(|(key, total)| key.starts_with("shared") || *total == 50));
    }
}

#[test]
fn what_was_answered_is_there_after_a_start_without_any_flush() {
    let dir = tempfile::tempdir().unwrap();
    let Running { engine, thread, batches } = start(dir.path(), policy(Ack::Durable), 100, &Table::default());
    on_lane(&engine, 0, async |front| {
        for n in 0..20 {
            front.count(&one("a", n), None).await.unwrap();
        }
        front.count(&one("b", 5), Some(("id", [1; 16]))).await.unwrap();
    });
    engine.controls().send(Control::Quit);
    thread.join().unwrap().unwrap();
    drop(batches);
    let Running { engine, thread, batches: _batches } =
        start(dir.path(), policy(Ack::Durable), 100, &Table::default());
    on_lane(&engine, 1, async |front| {
        assert_eq!(front.total("a").await, Ok(Some(190)));
        let again = front.count(&one("b", 5), Some(("id", [1; 16]))).await.unwrap();
        assert_eq!((again.replayed, again.total), (true, 5));
        let other = front.count(&one("b", 6), Some(("id", [2; 16]))).await;
        assert_eq!(other, Err(Refusal::IdempotencyMismatch));
        assert!(matches!(front.total("unheard of").await, Err(Refusal::StoreAway(_))));
    });
    engine.controls().send(Control::Quit);
    thread.join().unwrap().unwrap();
}

/// Or the age of what is applied again would count from the first time.
#[test]
fn a_start_that_finds_the_store_older_writes_that_down_before_it_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let known = || {
        let journal = Journal::open(RealDisk::new(dir.path()).unwrap(), Options::new(SEGMENT, 4 * SEGMENT));
        journal.unwrap().journal.applied()
    };
    let table = Arc::new(Mutex::new(Table::default()));
    let Running { engine, thread, batches } = start(dir.path(), policy(Ack::Durable), 4, &Table::default());
    let flusher = flush_all(batches, &engine, &table);
    on_lane(&engine, 0, async |front| front.count(&one("a", 3), None).await.unwrap());
    assert!(engine.controls().drain(Duration::from_secs(60), &|| false));
    engine.controls().send(Control::Quit);
    thread.join().unwrap().unwrap();
    flusher.join().unwrap();
    assert_eq!(known(), Seq(1));

    let Running { engine, thread, batches } = start(dir.path(), policy(Ack::Durable), 4, &Table::default());
    engine.controls().send(Control::Quit);
    thread.join().unwrap().unwrap();
    assert!(batches.try_recv().is_err(), "nothing was flushed");
    assert_eq!(known(), Seq::ZERO);
}

#[test]
fn a_full_journal_refuses_until_the_store_takes_what_is_pending() {
    let dir = tempfile::tempdir().unwrap();
    let Running { engine, thread, batches } = start(dir.path(), policy(Ack::Durable), 4, &Table::default());
    let mut large = Entries::new();
    for n in 0..600 {
        large.push(&format!("a key that takes some room in the journal {n}"), 1).unwrap();
    }
    let table = Arc::new(Mutex::new(Table::default()));
    let flusher = on_lane(&engine, 0, async |front| {
        let mut counted = 0;
        let full = loop {
            match front.count(&large, None).await {
                Ok(_) => counted += 1,
                Err(full) => break full,
            }
            assert!(counted < 100, "the journal grows without bound");
        };
        assert_eq!(full, Refusal::JournalFull { max_bytes: 4 * SEGMENT });
        assert_eq!(engine.vitals().no_room.load(std::sync::atomic::Ordering::Relaxed), 1);
        // Reads go on.
        let key = "a key that takes some room in the journal 0";
        assert_eq!(front.total(key).await, Ok(Some(counted)));
        let flusher = flush_all(batches, &engine, &table);
        // By itself, without another request.
        while engine.vitals().no_room.load(std::sync::atomic::Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        front.count(&large, None).await.unwrap();
        assert_eq!(front.total(key).await, Ok(Some(counted + 1)));
        flusher
    });
    assert!(engine.controls().drain(Duration::from_secs(60), &|| false));
    engine.controls().send(Control::Quit);
    thread.join().unwrap().unwrap();
    flusher.join().unwrap();
}

#[test]
fn a_batch_goes_out_by_count_and_only_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let Running { engine, thread, batches } = start(dir.path(), policy(Ack::Durable), 100, &Table::default());
    let mut table = Table::default();
    on_lane(&engine, 0, async |front| {
        for n in 0..49 {
            front.count(&one(&format!("k{n}"), 1), None).await.unwrap();
        }
        assert!(batches.try_recv().is_err(), "49 updates are fewer than 50");
        front.count(&one("k49", 1), None).await.unwrap();
        let first = batches.recv().unwrap();
        assert_eq!(first.rows().len(), 50);
        for n in 0..200 {
            front.count(&one(&format!("k{n}"), 1), None).await.unwrap();
        }
        assert!(batches.try_recv().is_err(), "the first is still on its way");
        let applied = table.apply(&first);
        engine.controls().send(Control::Settled { applied, epoch: 1 });
        let second = batches.recv().unwrap();
        assert_eq!((second.from(), second.rows().len()), (first.upto(), 200));
        table.apply(&second);
    });
    assert_eq!(table.totals["k0"], 2);
    engine.controls().send(Control::Quit);
    thread.join().unwrap().unwrap();
}

#[test]
fn dropped_futures_leave_no_trace_but_their_increment() {
    let dir = tempfile::tempdir().unwrap();
    let Running { engine, thread, batches: _batches } =
        start(dir.path(), policy(Ack::Durable), 100, &Table::default());
    on_lane(&engine, 0, async |front| {
        for _ in 0..100 {
            // The client hangs up: its answer finds nobody.
            drop(front.count(&one("a", 1), None));
        }
        loop {
            let total = front.total("a").await;
            if total == Ok(Some(100)) {
                break;
            }
        }
    });
    engine.controls().send(Control::Quit);
    thread.join().unwrap().unwrap();
}

/// A stop asks the vitals whether anything has to be flushed: in the first moment of serving they
/// have to know what was replayed.
#[test]
fn as_soon_as_it_serves_the_vitals_tell_what_is_pending() {
    let dir = tempfile::tempdir().unwrap();
    let Running { engine, thread, batches: _batches } =
        start(dir.path(), policy(Ack::Durable), 100, &Table::default());
    on_lane(&engine, 0, async |front| front.count(&one("a", 1), None).await.unwrap());
    engine.controls().send(Control::Quit);
    thread.join().unwrap().unwrap();

    let (engine, writer) = replayed(dir.path(), policy(Ack::Durable), 100, &Table::default());
    engine.begin(&writer, SystemClock::start().now());
    let vitals = engine.vitals();
    assert_eq!(vitals.phase(), engine::Phase::Serving);
    assert_eq!((vitals.last_seq.load(Relaxed), vitals.applied_seq.load(Relaxed)), (1, 0));
    assert_eq!(vitals.pending_updates.load(Relaxed), 1);
}

/// What is submitted is answered in its order, among requests that are waited for, and refused one
/// by one.
#[test]
fn what_is_submitted_is_answered_in_order_once_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let Running { engine, thread, batches: _batches } =
        start(dir.path(), policy(Ack::Durable), 100, &Table::default());
    on_lane(&engine, 0, async |front| {
        front.count(&one("full", i64::MAX), None).await.unwrap();
        let mut answers = Vec::new();
        let mut expected = Vec::new();
        let mut sum = 0;
        for n in 1..=300 {
            let counts = n % 10 > 3;
            let key = if counts { "key" } else { "full" };
            assert_eq!(front.submit(&one(key, n)), Some(Ok(())));
            expected.push(counts);
            sum += if counts { n } else { 0 };
            if n % 7 == 0 {
                // It was handed over after what was submitted before.
                assert_eq!(front.count(&one("key", 0), None).await.unwrap().total, sum);
            }
        }
        std::future::poll_fn(|cx| {
            front.poll_submitted(cx, &mut answers);
            if answers.len() < expected.len() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        let counted: Vec<bool> = answers.iter().map(Result::is_ok).collect();
        assert_eq!(counted, expected);
        let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
        refused.for_each(|refusal| assert!(matches!(**refusal, Refusal::Overflow { .. }), "{refusal}"));
        assert_eq!(front.total("key").await, Ok(Some(sum)));
    });
    engine.controls().send(Control::Quit);
    thread.join().unwrap().unwrap();
}

#[test]
fn before_the_run_and_after_the_stop_requests_are_refused() {
    let engine = Engine::new(1, 1000, Duration::ZERO);
    let (front, _driver) = engine.front(0);
    let refused = pollster(front.count(&one("a", 1), None));
    assert!(matches!(refused, Err(Refusal::Starting(_))));
    assert!(matches!(front.submit(&one("a", 1)), Some(Err(Refusal::Starting(_)))));
    engine.stop_taking();
    assert_eq!(pollster(front.total("a")), Err(Refusal::Stopping));
}

/// For futures that are ready at once.
fn pollster<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(future)
}
