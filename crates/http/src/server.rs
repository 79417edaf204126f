//! The workers from outside: bind, start, stop.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use engine::Front;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;
use tracing::{debug, error};

use crate::body::Budget;
use crate::stats::Stats;
use crate::worker;
use crate::{Options, Telemetry};

/// How many connections may wait to be accepted, where the system allows as many.
const BACKLOG: i32 = 4096;

/// A future that a worker's event loop drives beside its connections.
pub type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An address that can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there already.
    #[error("{address} is in use by another server; stop that one, or choose another address with `listen`")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The operating system refuses.
    #[error("can't listen on {address}: {source}; choose another address with `listen`")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// The operating system's words.
        source: io::Error,
    },
}

/// An address that is listened on: connections wait until [`serve`] takes them.
#[derive(Debug)]
pub struct Binding {
    address: SocketAddr,
    listeners: Vec<TcpListener>,
    stats: Arc<Stats>,
}

impl Binding {
    /// Listens on `address` with one socket for each of `workers`. Port 0 lets the system choose;
    /// [`Binding::local_addr`] tells the choice.
    ///
    /// # Errors
    /// [`BindError::InUse`] where another server listens there. The workers share the port, and
    /// another process of the same user could share it too, without anybody noticing; so the
    /// address is first tried without sharing. (Two servers that start within the same
    /// microseconds can still both pass.)
    pub fn bind(address: SocketAddr, workers: NonZeroUsize) -> Result<Self, BindError> {
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address },
            _ => BindError::Refused { address, source },
        };
        let probe = socket(address, false).map_err(refused)?;
        drop(probe);
        let mut bound = address;
        let mut listeners = Vec::with_capacity(workers.get());
        for _ in 0..workers.get() {
            let socket = socket(bound, true).map_err(refused)?;
            // Accepted sockets inherit it.
            socket.set_tcp_nodelay(true).map_err(refused)?;
            socket.listen(BACKLOG).map_err(refused)?;
            let listener = TcpListener::from(socket);
            bound = listener.local_addr().map_err(refused)?;
            listeners.push(listener);
        }
        Ok(Self { address: bound, listeners, stats: Arc::new(Stats::new(workers.get())) })
    }

    /// The address, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What the workers will count.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // So that connections of a server that has just ended don't stand in the way.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A worker that ended though nobody had asked it to. Its connections are gone, and new ones that
/// the system hands to its socket are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerExit {
    /// Which one, from 0.
    pub worker: usize,
    /// Why.
    pub reason: String,
}

/// Workers that serve.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stats: Arc<Stats>,
    stop: watch::Sender<Option<Instant>>,
    ended: mpsc::Receiver<usize>,
    workers: usize,
}

/// How a [`Server::stop`] went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Connections with a request in flight that were cut off at the deadline.
    pub cut: usize,
}

/// Starts one thread for each worker of `binding`.
///
/// `make` is called once on each worker's thread, with the worker's number and inside of its
/// event loop; it gives the front that this worker's requests go to, and a future to be driven on
/// this loop for as long as it runs, if there is one. `on_exit` is told when a worker ends, or its
/// driver panics, without having been asked to; it is called on the worker's thread.
///
/// # Errors
/// Where a thread can't be started; those that could are stopped again.
pub fn serve<F, M>(
    binding: Binding,
    options: Options,
    make: M,
    telemetry: Arc<dyn Telemetry>,
    on_exit: impl Fn(WorkerExit) + Send + Sync + 'static,
) -> io::Result<Server>
where
    F: Front,
    M: Fn(usize) -> (F, Option<Driver>) + Send + Sync + 'static,
{
    let Binding { address, listeners, stats } = binding;
    let (stop, stop_asked) = watch::channel(None);
    let (ending, ended) = mpsc::channel();
    let workers = listeners.len();
    let make = Arc::new(make);
    let on_exit = Arc::new(on_exit);
    let budget = Arc::new(Budget::new(options.bodies_max_bytes));
    for (index, listener) in listeners.into_iter().enumerate() {
        let seat = worker::Seat {
            index,
            listener,
            options: options.clone(),
            stats: Arc::clone(&stats),
            telemetry: Arc::clone(&telemetry),
            budget: Arc::clone(&budget),
            stop: stop_asked.clone(),
        };
        let (make, on_exit, ending) = (Arc::clone(&make), Arc::clone(&on_exit), ending.clone());
        thread::Builder::new().name(format!("http-{index}")).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| worker::run(seat, &*make)));
            let failure = match result {
                Ok(Ok(cut)) => {
                    // Nobody waits where the server was dropped.
                    let _ = ending.send(cut);
                    return;
                }
                Ok(Err(failure)) => failure,
                Err(panic) => format!("it panicked: {}", panic_text(&*panic)),
            };
            error!(worker = index, reason = %failure, "An HTTP worker ended unasked");
            on_exit(WorkerExit { worker: index, reason: failure });
        })?;
    }
    debug!(%address, workers, "Listening for HTTP");
    Ok(Server { address, stats, stop, ended, workers })
}

impl Server {
    /// The address that is served, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What the workers count.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Stops: no new connections, idle ones are closed at once, requests in flight are answered
    /// until `within` has passed; what is left then is cut off. Blocks until that is done, so
    /// don't call it on an event loop.
    pub fn stop(self, within: Duration) -> Stopped {
        let deadline = Instant::now() + within;
        // Fails where no worker is left, which ends the wait below at once.
        let _ = self.stop.send(Some(deadline));
        let mut cut = 0;
        // A worker looks at the deadline itself; the second more is for one that is stuck.
        let patience = deadline + Duration::from_secs(1);
        for _ in 0..self.workers {
            let left = patience.saturating_duration_since(Instant::now());
            match self.ended.recv_timeout(left) {
                Ok(by_worker) => cut += by_worker,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    error!("An HTTP worker did not stop in time");
                    break;
                }
            }
        }
        debug!(cut, "Stopped serving HTTP");
        Stopped { cut }
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}
