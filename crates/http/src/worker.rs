//! One worker: an event loop that accepts connections, serves them and keeps their deadlines.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use engine::Front;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch as signal};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, error, warn};

use crate::body::Budget;
use crate::io::Socket;
use crate::options::EventLoop;
use crate::ring::{self, Ring};
use crate::server::panic_text;
use crate::service::{Worker, handle};
use crate::stats::Stats;
use crate::watch::{Watch, Watchdog};
use crate::{Driver, Options, Telemetry, connection, problem};

/// How many connections over the limit are being turned away with patience, for each worker. Any
/// more are dropped.
pub(crate) const MAX_REFUSING: usize = 32;
/// How long to wait after an accept that failed for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The least time between two lines in the log about that.
const ACCEPT_WARNINGS_APART: Duration = Duration::from_secs(60);
/// After so many accepted connections, those that are open have a turn on the ring. While accepts
/// keep the event loop from sleeping, nothing else gives them one.
const ACCEPTS_PER_TURN: u32 = 64;

/// After so many polls of tasks, tokio looks at epoll even if more tasks wait. That only brings
/// new connections and timers, so it needn't be often.
const EVENT_INTERVAL: u32 = 256;
const NO_RING: &str = "io_uring can't be used here";

/// What a worker gets from the thread that starts it.
pub(crate) struct Seat {
    pub(crate) index: usize,
    pub(crate) listener: StdListener,
    pub(crate) options: Options,
    pub(crate) stats: Arc<Stats>,
    pub(crate) telemetry: Arc<dyn Telemetry>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) stop: signal::Receiver<Option<Instant>>,
}

/// Serves until it is asked to stop; how many connections were cut off then.
///
/// # Errors
/// In words, what made it end unasked.
pub(crate) fn run<F: Front>(
    seat: Seat,
    make: &dyn Fn(usize) -> (F, Option<Driver>),
) -> Result<usize, String> {
    let ring = match seat.options.event_loop {
        EventLoop::Epoll => None,
        EventLoop::IoUring => Some(
            Ring::install()
                .map_err(|error| format!("{NO_RING}: {error}; set http.event_loop to auto or epoll"))?,
        ),
        EventLoop::Auto => {
            Ring::install().inspect_err(|error| debug!(%error, "{NO_RING}; it does with epoll")).ok()
        }
    };
    let _uninstalled_last = Uninstall;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .on_thread_park(ring::turn)
        .event_interval(EVENT_INTERVAL)
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|error| format!("its event loop could not be made: {error}"))?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(seat.listener)
            .map_err(|error| format!("its socket could not be used: {error}"))?;
        let (front, driver) = make(seat.index);
        let worker = Rc::new(Worker {
            index: seat.index,
            front,
            options: seat.options,
            stats: seat.stats,
            telemetry: seat.telemetry,
            budget: seat.budget,
            spare_entries: RefCell::default(),
            submitted: RefCell::default(),
        });
        let answering = spawn_local(answering(Rc::clone(&worker), driver));
        Loop::new(worker, ring, Some(answering)).run(listener, seat.stop).await
    })
}

/// Drives what came with the front, and lets answers go. Never ends.
async fn answering<F: Front>(worker: Rc<Worker<F>>, mut driver: Option<Driver>) {
    let mut answers = Vec::new();
    poll_fn(|cx| {
        if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready()) {
            driver = None;
        }
        worker.release(cx, &mut answers);
        Poll::Pending
    })
    .await
}

/// Takes the ring from the thread after the runtime, and with it every connection, is gone.
pub(crate) struct Uninstall;

impl Drop for Uninstall {
    fn drop(&mut self) {
        Ring::uninstall();
    }
}

struct Loop<F> {
    worker: Rc<Worker<F>>,
    ring: Option<Rc<Ring>>,
    ring_watch: Option<JoinHandle<io::Error>>,
    driver: Option<JoinHandle<()>>,
    builder: Rc<http1::Builder>,
    serving: Rc<Group>,
    refusing: Rc<Group>,
    ticks: Interval,
    accepts: u32,
    warned_at: Option<Instant>,
}

/// Connections, and a bell that rings when one ends.
struct Group {
    watchdog: Watchdog,
    ended: Notify,
    panicked: Notify,
}

impl<F: Front> Loop<F> {
    fn new(worker: Rc<Worker<F>>, ring: Option<Rc<Ring>>, driver: Option<JoinHandle<()>>) -> Self {
        let mut ticks = interval(worker.options.tick());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let group = || {
            let (ended, panicked) = (Notify::new(), Notify::new());
            Rc::new(Group { watchdog: Watchdog::new(&worker.options), ended, panicked })
        };
        Self {
            builder: Rc::new(connection::builder(worker.options.header_max_bytes)),
            serving: group(),
            refusing: group(),
            ring_watch: ring.clone().map(|ring| spawn_local(ring.watch())),
            ring,
            driver,
            ticks,
            accepts: 0,
            warned_at: None,
            worker,
        }
    }

    async fn run(
        mut self,
        listener: TcpListener,
        mut stop: signal::Receiver<Option<Instant>>,
    ) -> Result<usize, String> {
        let deadline = loop {
            tokio::select! {
                biased;
                deadline = asked(&mut stop) => break deadline,
                _ = self.ticks.tick() => self.look(),
                failure = driver_failure(&mut self.driver) => return Err(failure),
                failure = ring_failure(&mut self.ring_watch) => return Err(failure),
                // What it shared with other connections may be left in the middle of a change.
                () = self.serving.panicked.notified() => return Err("a connection's task panicked".to_owned()),
                () = self.refusing.panicked.notified() => return Err("a connection's task panicked".to_owned()),
                accepted = listener.accept() => self.accepted(accepted.map(|(stream, _)| stream)).await,
            }
        };
        self.stop(listener, deadline).await
    }

    async fn accepted(&mut self, accepted: io::Result<TcpStream>) {
        match accepted {
            Ok(stream) => {
                self.admit(stream);
                self.accepts = self.accepts.wrapping_add(1);
                if self.accepts.is_multiple_of(ACCEPTS_PER_TURN) {
                    ring::turn();
                }
            }
            Err(error) if is_shortage(&error) => {
                let now = Instant::now();
                if self.warned_at.is_none_or(|at| now.duration_since(at) >= ACCEPT_WARNINGS_APART) {
                    self.warned_at = Some(now);
                    warn!(%error, "No connection can be accepted for now; is the limit of open files too low?");
                }
                sleep(ACCEPT_PAUSE).await;
            }
            // The connection was gone before it was accepted.
            Err(_) => {}
        }
    }

    fn admit(&self, stream: TcpStream) {
        let worker = &self.worker;
        if worker.stats.connections_open() >= worker.options.max_connections as u64 {
            worker.stats.count_refused(worker.index);
            self.turn_away(stream);
            return;
        }
        worker.stats.count_accepted(worker.index);
        let (number, watch) = self.serving.watchdog.add();
        let place = Place {
            group: Rc::clone(&self.serving),
            number,
            counted_by: Some((Arc::clone(&worker.stats), worker.index)),
        };
        let Some(socket) = self.socket(stream, &watch) else { return };
        let builder = Rc::clone(&self.builder);
        let (worker, seen, held_by) = (Rc::clone(worker), Rc::clone(&watch), Rc::clone(&socket));
        let service = service_fn(move |request| {
            handle(Rc::clone(&worker), Rc::clone(&seen), Rc::clone(&held_by), request)
        });
        spawn_local(async move {
            let _place = place;
            connection::serve(&builder, socket, watch, service).await;
        });
    }

    fn turn_away(&self, stream: TcpStream) {
        if self.refusing.watchdog.len() >= MAX_REFUSING {
            return;
        }
        let (number, watch) = self.refusing.watchdog.add();
        let place = Place { group: Rc::clone(&self.refusing), number, counted_by: None };
        let Some(socket) = self.socket(stream, &watch) else { return };
        spawn_local(async move {
            let _place = place;
            connection::refuse(socket, watch, problem::CROWDED).await;
        });
    }

    /// `None` where the connection is lost: its socket couldn't be set up.
    fn socket(&self, stream: TcpStream, watch: &Rc<Watch>) -> Option<Rc<RefCell<Socket>>> {
        Socket::new(stream, self.ring.as_ref(), Rc::clone(watch))
            .inspect_err(|error| debug!(%error, "A connection's socket could not be set up"))
            .ok()
            .map(|socket| Rc::new(RefCell::new(socket)))
    }

    fn look(&self) {
        self.serving.watchdog.look();
        self.refusing.watchdog.look();
    }

    /// Takes the connections that the system has taken in already: they would be reset when the
    /// listener closes.
    fn admit_backlog(&self, listener: TcpListener) {
        // The event loop may not have heard of them.
        let Ok(listener) = listener.into_std() else { return };
        loop {
            let accepted = listener.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream)
            });
            match accepted {
                Ok(stream) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_shortage(&error) => {
                    warn!(%error, "Connections that waited to be accepted are reset by the stop");
                    return;
                }
                // The connection was gone before it was accepted.
                Err(_) => {}
            }
        }
    }

    async fn stop(mut self, listener: TcpListener, deadline: Instant) -> Result<usize, String> {
        self.admit_backlog(listener);
        self.serving.watchdog.stop_all();
        self.refusing.watchdog.stop_all();
        let late = sleep_until(deadline.into());
        tokio::pin!(late);
        while self.serving.watchdog.len() > 0 {
            let group = Rc::clone(&self.serving);
            tokio::select! {
                () = group.ended.notified() => {}
                _ = self.ticks.tick() => self.look(),
                failure = driver_failure(&mut self.driver) => return Err(failure),
                failure = ring_failure(&mut self.ring_watch) => return Err(failure),
                // What it shared with other connections may be left in the middle of a change.
                () = self.serving.panicked.notified() => return Err("a connection's task panicked".to_owned()),
                () = self.refusing.panicked.notified() => return Err("a connection's task panicked".to_owned()),
                () = &mut late => break,
            }
        }
        Ok(self.serving.watchdog.len())
    }
}

/// A connection's entry in its group, for as long as its task lives.
struct Place {
    group: Rc<Group>,
    number: usize,
    counted_by: Option<(Arc<Stats>, usize)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!("A connection's task panicked; please report it");
            self.group.panicked.notify_one();
        }
        self.group.watchdog.remove(self.number);
        self.group.ended.notify_one();
        if let Some((stats, worker)) = &self.counted_by {
            stats.count_ended(*worker);
        }
    }
}

/// Resolves with the deadline once a stop is asked for. A server that was dropped instead of
/// stopped stops at once.
async fn asked(stop: &mut signal::Receiver<Option<Instant>>) -> Instant {
    match stop.wait_for(Option::is_some).await {
        Ok(deadline) => deadline.unwrap_or_else(Instant::now),
        Err(_) => Instant::now(),
    }
}

/// Resolves when the driver has panicked. One that has simply ended isn't needed any more.
async fn driver_failure(driver: &mut Option<JoinHandle<()>>) -> String {
    if let Some(task) = driver {
        let ended = task.await;
        *driver = None;
        if let Err(error) = ended
            && let Ok(panic) = error.try_into_panic()
        {
            return format!("the engine's driver on it panicked: {}", panic_text(&*panic));
        }
    }
    std::future::pending().await
}

/// Resolves when the ring has failed.
async fn ring_failure(watch: &mut Option<JoinHandle<io::Error>>) -> String {
    let Some(task) = watch else { return std::future::pending().await };
    let ended = task.await;
    *watch = None;
    ended.map_or_else(
        |_| "its io_uring's task panicked".to_owned(),
        |error| format!("its io_uring failed: {error}"),
    )
}

/// Out of descriptors or memory: trying again at once would only spin.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests;
