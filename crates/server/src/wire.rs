//! Puts the parts together: which thread runs what, and who hears of whom.
//!
//! Nothing here waits for anything but the data directory and the port: a store that is away and
//! a long replay go on behind them, on threads of their own, so that a signal is always heard.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use counter::{Batch, JournalId, OwnerId, Seq};
use engine::{Clock, Control, Engine, Limits, Phase, Starting, SystemClock};
use flusher::{FlushVitals, Flusher, Own, Reader, ReaderQueue, Stop, Stopper, bring_up, stopper};
use http_front::{Binding, Options, Readiness, Server, Stats};
use journal::{DataDir, Journal, RealDisk};
use store::{Store, StoreReader};

use crate::scheduling;
use crate::settings::{Ack, Settings, StoreTarget};
use crate::supervisor::{Policy, Supervisor};
use crate::telemetry::{Reading, Requests, Telemetry};

/// Past this, `/readyz` names the lag.
const LAG_TO_NAME_MS: u64 = 10_000;

/// The running parts, as far as the one who stops them must know them.
pub(crate) struct Running {
    http: Server,
    engine: Engine,
    /// Ends the waiting of whoever waits for the store.
    stoppers: [Stopper; 2],
    /// Gone when the flusher's thread is.
    flusher_alive: Weak<()>,
    data_dir: DataDir,
}

/// What the flusher's and the reader's threads need, once the engine is up.
struct Begin<S: ?Sized> {
    store: Box<S>,
    own: Own,
    others: Vec<(JournalId, Seq)>,
}

/// What can fail before anything runs: the data directory and the port are had.
pub(crate) struct Opened {
    data_dir: DataDir,
    binding: Binding,
}

/// Takes the data directory and opens the port. Connections wait until [`Opened::start`].
///
/// # Errors
/// Where one of them can't be had.
pub(crate) fn open(settings: &Settings) -> anyhow::Result<Opened> {
    let data_dir = DataDir::own(&settings.data_dir)?;
    let workers = NonZeroUsize::new(settings.http.workers).unwrap_or(NonZeroUsize::MIN);
    let binding = Binding::bind(settings.listen, workers)?;
    Ok(Opened { data_dir, binding })
}

impl Opened {
    /// Where clients reach it, with the real port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.binding.local_addr()
    }

    /// Starts every part under `supervisor`.
    ///
    /// # Errors
    /// Where the journal's directory or a thread can't be had. Everything later comes as the end
    /// of a thread.
    pub(crate) fn start(self, settings: &Settings, supervisor: &mut Supervisor) -> anyhow::Result<Running> {
        let Self { data_dir, binding } = self;
        let disk = data_dir.journal()?;
        start(settings, data_dir, disk, binding, supervisor)
    }
}

fn start(
    settings: &Settings,
    data_dir: DataDir,
    disk: RealDisk,
    binding: Binding,
    supervisor: &mut Supervisor,
) -> anyhow::Result<Running> {
    let workers = settings.http.workers.max(1);
    let max_request_bytes = journal::max_payload_bytes(settings.journal.segment_bytes);
    let engine = Engine::new(workers, max_request_bytes, settings.read.max_age);
    let clock = SystemClock::start();
    let flush_vitals = Arc::new(FlushVitals::default());
    let (to_flusher, flusher_begins) = channel();
    let (to_reader, reader_begins) = channel();
    let (to_flush, batches) = channel();
    let (queue, requests) = ReaderQueue::new();
    engine.set_lookup(queue);
    let (stop_engine, engine_stop) = stopper();
    let (stop_flusher, flusher_stop) = stopper();

    let beginner =
        Beginner { settings: settings.clone(), clock, engine: engine.clone(), to_flusher, to_reader };
    supervisor.spawn("engine", Policy::Essential, move || beginner.run(disk, to_flush, &engine_stop))?;
    let (e, vitals) = (engine.clone(), Arc::clone(&flush_vitals));
    let window = settings.idempotency.window;
    let alive = Arc::new(());
    let flusher_alive = Arc::downgrade(&alive);
    // Where the engine can't begin, these two have nothing to do and return: its end tells why. A
    // flusher that fails is fatal all the same.
    supervisor.spawn("flusher", Policy::Passing, move || {
        let _alive = alive;
        run_flusher(&flusher_begins, &batches, &e, window, vitals, &flusher_stop)
    })?;
    // Not the engine itself: it holds the way to the reader, which ends when nobody can ask it.
    let (controls, freshness) = (engine.controls().clone(), Arc::clone(engine.freshness()));
    let vitals = Arc::clone(engine.vitals());
    supervisor.spawn("reader", Policy::Passing, move || {
        if let Ok(Begin { store, own, others }) = reader_begins.recv() {
            Reader::new(store, own, controls, freshness, vitals, clock, others).run(&requests)?;
        }
        Ok(())
    })?;
    let http = serve(settings, binding, &engine, flush_vitals, clock, supervisor)?;
    Ok(Running { http, engine, stoppers: [stop_engine, stop_flusher], flusher_alive, data_dir })
}

impl Running {
    /// Stops the parts in the order in which increments pass them: no new ones, answer those in
    /// flight, flush until `deadline`, leave the journal durable.
    ///
    /// Returns the data directory, to be held until the threads have ended.
    pub(crate) fn stop(self, deadline: Instant) -> DataDir {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let stopped = self.http.stop(left(deadline) / 2);
        if stopped.cut > 0 {
            tracing::warn!(requests = stopped.cut, "Cut off requests that did not end in time");
        }
        self.engine.stop_taking();
        let vitals = self.engine.vitals();
        if vitals.last_seq.load(Relaxed) > vitals.applied_seq.load(Relaxed)
            && !self.engine.controls().drain(left(deadline), &|| self.flusher_alive.strong_count() == 0)
        {
            tracing::warn!(
                updates = vitals.pending_updates.load(Relaxed),
                "The store did not take the last flush in time; what is pending stays in the journal, and the \
                 next start brings it in"
            );
        }
        self.engine.controls().send(Control::Quit);
        drop(self.stoppers);
        self.data_dir
    }
}

/// How long the writer's thread wants to work at a time. All clients wait for it, and a commit takes
/// it less than this.
const TURN: Duration = Duration::from_micros(100);

/// The engine's thread.
struct Beginner {
    settings: Settings,
    clock: SystemClock,
    engine: Engine,
    to_flusher: Sender<Begin<dyn Store>>,
    to_reader: Sender<Begin<dyn StoreReader>>,
}

impl Beginner {
    fn run(self, disk: RealDisk, to_flush: Sender<Arc<Batch>>, stop: &Stop) -> anyhow::Result<()> {
        let begun = Instant::now();
        let starting = open_engine(&self.settings, disk)?;
        let url = store_url(&self.settings.store)?;
        let (mut store, mut reader) =
            (store::open_with_timeout(&url, self.settings.flush.timeout)?, store::open_reader(&url)?);
        let owner = OwnerId::random().context("no randomness for the owner's id")?;
        let freshness = self.engine.freshness();
        let now = || self.clock.now();
        let started = match bring_up(starting, store.as_mut(), reader.as_mut(), owner, freshness, &now, stop)
        {
            Ok(started) => started,
            Err(flusher::StartError::Stopped) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let (own, counters, records) = (started.own, started.loaded, started.replayed);
        tracing::info!(
            counters,
            idempotency_keys = started.loaded_ids,
            records,
            journal = %own.claim().journal,
            took_ms = begun.elapsed().as_millis() as u64,
            "ready: totals are loaded and the journal is replayed"
        );
        // Either thread may be gone by now: then the supervisor knows.
        let _ = self.to_flusher.send(Begin { store, own: own.clone(), others: Vec::new() });
        let _ = self.to_reader.send(Begin { store: reader, own, others: started.others });
        drop((self.to_flusher, self.to_reader));
        if let Err(error) = scheduling::ask_for_turns_of(TURN) {
            tracing::debug!(%error, "the writer's thread can't ask for short turns; it does without");
        }
        self.engine.run(started.writer, self.clock, to_flush)?;
        Ok(())
    }
}

fn open_engine(settings: &Settings, disk: RealDisk) -> anyhow::Result<Starting<RealDisk>> {
    let sizes = &settings.journal;
    let options = journal::Options::new(sizes.segment_bytes, sizes.max_bytes);
    let options = journal::Options { keep: sizes.keep, ..options };
    let seed = (options.entropy)();
    let disk = if settings.ack == Ack::Memory { disk.through_page_cache() } else { disk };
    let opened = Journal::open(disk, options)?;
    if let Some(cut) = opened.cut {
        tracing::warn!(
            file = cut.file,
            offset = cut.offset,
            seq = %cut.seq,
            "The journal's last record was not written wholly and was cut off; it was never acknowledged, \
             unless the disk damaged it later, which can't be told apart"
        );
    }
    let policy = engine::Policy {
        ack: match settings.ack {
            Ack::Durable => engine::Ack::Durable,
            Ack::Memory => engine::Ack::Memory,
        },
        max_updates: settings.flush.max_updates as usize,
        interval: settings.flush.interval,
    };
    let limits = Limits {
        max_counters: u64::from(settings.max_counters),
        max_ids: settings.idempotency.max_ids as usize,
        id_window_ms: settings.idempotency.window.as_millis() as u64,
    };
    Ok(Starting::new(opened.journal, limits, policy, seed))
}

fn run_flusher(
    begins: &Receiver<Begin<dyn Store>>,
    batches: &Receiver<Arc<Batch>>,
    engine: &Engine,
    window: Duration,
    vitals: Arc<FlushVitals>,
    stop: &Stop,
) -> anyhow::Result<()> {
    let Ok(Begin { store, own, others: _ }) = begins.recv() else { return Ok(()) };
    Ok(Flusher::new(store, own, engine.clone(), window, vitals).run(batches, stop)?)
}

/// The store that the settings name.
pub(crate) fn store_url(target: &StoreTarget) -> anyhow::Result<store::StoreUrl> {
    Ok(match target {
        StoreTarget::Sqlite(path) => store::StoreUrl::sqlite(path),
        StoreTarget::Postgres(url) => url.reveal().parse()?,
    })
}

fn serve(
    settings: &Settings,
    binding: Binding,
    engine: &Engine,
    flush: Arc<FlushVitals>,
    clock: SystemClock,
    supervisor: &mut Supervisor,
) -> anyhow::Result<Server> {
    let telemetry = Arc::new(Shown::new(engine, flush, binding.stats(), clock));
    let options = Options {
        increment_max_bytes: settings.http.max_body_bytes,
        increments_max_bytes: settings.http.max_bulk_body_bytes,
        head_timeout: settings.http.header_timeout,
        body_timeout: settings.http.body_timeout,
        max_connections: settings.http.max_connections,
        event_loop: settings.http.event_loop,
        ..Options::default()
    };
    let fronts = engine.clone();
    let make = move |worker| {
        let (front, driver) = fronts.front(worker);
        (front, Some(Box::pin(driver) as http_front::Driver))
    };
    let (worker_ended, ended) = channel::<http_front::WorkerExit>();
    let on_exit = move |exit| drop(worker_ended.send(exit));
    // The workers hold the other end: it ends when they do.
    supervisor.spawn("http", Policy::Passing, move || match ended.recv() {
        Ok(exit) => anyhow::bail!("HTTP worker {} ended: {}", exit.worker, exit.reason),
        Err(_all_stopped) => Ok(()),
    })?;
    Ok(http_front::serve(binding, options, make, telemetry, on_exit)?)
}

/// What `/readyz` and `/metrics` show.
struct Shown {
    engine: Arc<engine::Vitals>,
    flush: Arc<FlushVitals>,
    clock: SystemClock,
    metrics: Telemetry,
}

impl Shown {
    fn new(engine: &Engine, flush: Arc<FlushVitals>, stats: Arc<Stats>, clock: SystemClock) -> Self {
        let engine = Arc::clone(engine.vitals());
        let (e, f) = (Arc::clone(&engine), Arc::clone(&flush));
        let metrics = Telemetry::new(move || reading(&e, &f, &stats, clock));
        Self { engine, flush, clock, metrics }
    }
}

impl http_front::Telemetry for Shown {
    fn readiness(&self) -> Readiness {
        let not_ready = |reason: &str| Readiness::NotReady { reason: reason.to_owned() };
        match (self.engine.phase(), self.engine.no_room.load(Relaxed)) {
            (Phase::Starting, _) => not_ready("starting: the store is waited for, or the journal replayed"),
            (Phase::Stopping, _) => not_ready("stopping"),
            (Phase::Serving, 1) => {
                not_ready("the journal is full (journal.max_bytes) until the store takes more")
            }
            (Phase::Serving, 2) => not_ready("the disk has no room for the journal"),
            (Phase::Serving, _) => {
                let mut degraded = Vec::new();
                if let Some(trouble) = self.flush.trouble() {
                    degraded.push(format!("the store is away: {trouble}"));
                }
                let lag_ms = self.engine.lag_ms(self.clock.now().unix_ms);
                if lag_ms > LAG_TO_NAME_MS {
                    degraded.push(format!("the lag is {} s", lag_ms / 1000));
                }
                Readiness::Ready { degraded }
            }
        }
    }

    fn metrics(&self, out: &mut String) {
        self.metrics.write(out);
    }
}

fn reading(engine: &engine::Vitals, flush: &FlushVitals, stats: &Stats, clock: SystemClock) -> Reading {
    Reading {
        pending_updates: engine.pending_updates.load(Relaxed),
        pending_increments: None,
        lag: Duration::from_millis(engine.lag_ms(clock.now().unix_ms)),
        journal_bytes: engine.journal_bytes.load(Relaxed),
        journal_kept_bytes: engine.journal_kept_bytes.load(Relaxed),
        last_seq: engine.last_seq.load(Relaxed),
        durable_seq: engine.durable_seq.load(Relaxed),
        applied_seq: engine.applied_seq.load(Relaxed),
        commits: engine.commits.load(Relaxed),
        counted_requests: engine.counted_requests.load(Relaxed),
        refused_requests: engine.refused_requests.load(Relaxed),
        sync_time: Duration::from_micros(engine.sync_us.load(Relaxed)),
        flushes: flush.flushes.load(Relaxed),
        flush_failures: flush.failures.load(Relaxed),
        set_aside: flush.set_aside.load(Relaxed),
        counters: engine.counters.load(Relaxed),
        ids: engine.ids.load(Relaxed),
        purged_ids: flush.purged_ids.load(Relaxed),
        oldest_id: Duration::from_millis(match flush.oldest_id_ms.load(Relaxed) {
            0 => 0,
            oldest_ms => clock.now().unix_ms.saturating_sub(oldest_ms),
        }),
        connections: stats.connections_open(),
        accepted_connections: stats.connections_accepted(),
        refused_connections: stats.connections_refused(),
        ready: engine.phase() == Phase::Serving && engine.no_room.load(Relaxed) == 0,
        requests: stats
            .requests()
            .map(|(route, status, count)| Requests { route: route.template(), status, count })
            .collect(),
    }
}
