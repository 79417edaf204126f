//! A worker by itself: what it meets before its first turn is laid out for it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::OnceLock;
use std::thread;

use counter::{Entries, Fingerprint};
use engine::{Counted, Page, PageRequest, Refusal};
use socket2::{Domain, Socket as AnySocket, Type};

use super::*;
use crate::ring::faults;
use crate::{Readiness, Telemetry};

/// More than tokio lets a task take in one go, and than a ring takes in one system call here.
const CROWD: usize = 150;
const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";

/// No request of these tests counts.
#[derive(Clone)]
struct Nothing;

impl Front for Nothing {
    async fn count(&self, _: &Entries, _: Option<(&str, Fingerprint)>) -> Result<Counted, Refusal> {
        Err(Refusal::Stopping)
    }

    async fn total(&self, _: &str) -> Result<Option<i64>, Refusal> {
        Err(Refusal::Stopping)
    }

    async fn page(&self, _: PageRequest) -> Result<Page, Refusal> {
        Err(Refusal::Stopping)
    }
}

/// Remembers how many connections were accepted when `/readyz` was first answered.
struct Seen {
    stats: Arc<Stats>,
    accepted: OnceLock<u64>,
}

impl Telemetry for Seen {
    fn readiness(&self) -> Readiness {
        self.accepted.get_or_init(|| self.stats.connections_accepted());
        Readiness::Ready { degraded: Vec::new() }
    }

    fn metrics(&self, _: &mut String) {}
}

/// A worker that has not begun, and what it is asked with.
struct Stand {
    seat: Seat,
    address: SocketAddr,
    stop: signal::Sender<Option<Instant>>,
    seen: Arc<Seen>,
}

impl Stand {
    fn new(event_loop: EventLoop) -> Self {
        let socket = AnySocket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(4096).unwrap();
        let listener = StdListener::from(socket);
        let address = listener.local_addr().unwrap();
        let stats = Arc::new(Stats::new(1));
        let seen = Arc::new(Seen { stats: Arc::clone(&stats), accepted: OnceLock::new() });
        let options = Options { event_loop, ..Options::default() };
        let budget = Arc::new(Budget::new(options.bodies_max_bytes));
        let (stop, asked) = signal::channel(None);
        let telemetry = Arc::clone(&seen) as Arc<dyn Telemetry>;
        let seat = Seat { index: 0, listener, options, stats, telemetry, budget, stop: asked };
        Self { seat, address, stop, seen }
    }

    /// A client that has sent `request`.
    fn client(&self, request: &str) -> StdTcpStream {
        let mut client = StdTcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        client
    }
}

fn ask_to_stop(stop: &signal::Sender<Option<Instant>>) {
    stop.send_replace(Some(Instant::now() + Duration::from_secs(30)));
}

fn without_driver(_: usize) -> (Nothing, Option<Driver>) {
    (Nothing, None)
}

fn is_answered(client: &mut StdTcpStream) {
    let mut status = [0; 12];
    client.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
}

#[test]
fn what_waits_to_be_accepted_at_a_stop_is_answered() {
    for event_loop in [EventLoop::Epoll, EventLoop::IoUring] {
        let stand = Stand::new(event_loop);
        // More than the first read of a connection takes.
        let long = format!("GET /healthz HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(5000));
        let asked = |number| if number % 10 == 0 { &long } else { HEALTH };
        let mut clients: Vec<_> = (0..CROWD).map(|number| stand.client(asked(number))).collect();
        // It sent nothing, so nobody waits for it.
        let silent = stand.client("");
        ask_to_stop(&stand.stop);
        assert_eq!(run(stand.seat, &without_driver), Ok(0));
        clients.iter_mut().for_each(is_answered);
        drop(silent);
    }
}

#[test]
fn open_connections_have_their_turn_while_others_are_accepted() {
    let stand = Stand::new(EventLoop::IoUring);
    let crowd = 2 * CROWD;
    let mut clients: Vec<_> =
        (0..crowd).map(|_| stand.client("GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
    thread::scope(|scope| {
        let worker = scope.spawn(|| run(stand.seat, &without_driver));
        clients.iter_mut().for_each(is_answered);
        ask_to_stop(&stand.stop);
        assert_eq!(worker.join().unwrap(), Ok(0));
    });
    let accepted = *stand.seen.accepted.get().unwrap();
    assert!(accepted < crowd as u64, "the first answer came after {accepted} had been accepted");
}

/// Runs a worker whose next system calls fail so, and a client of it: how it ended, whether the
/// client had an answer, and how many calls would still fail.
fn with_faults(faults: Vec<i32>) -> (Result<usize, String>, bool, usize) {
    let stand = Stand::new(EventLoop::IoUring);
    let mut client = stand.client(HEALTH);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let ended = run(stand.seat, &|_| {
                faults::set(faults.clone());
                (Nothing, None)
            });
            (ended, faults::left())
        });
        let answered = client.read(&mut [0]).is_ok_and(|bytes| bytes > 0);
        ask_to_stop(&stand.stop);
        let (ended, left) = worker.join().unwrap();
        (ended, answered, left)
    })
}

#[test]
fn a_ring_whose_system_lacks_something_for_a_while_goes_on() {
    let faults = [libc::EAGAIN, libc::ENOMEM, libc::EBUSY, libc::EINTR].repeat(5);
    assert_eq!(with_faults(faults), (Ok(0), true, 0));
}

#[test]
fn a_ring_that_fails_for_good_ends_its_worker() {
    let (ended, answered, _) = with_faults(vec![libc::EBADF; 1 << 20]);
    assert!(ended.as_ref().is_err_and(|reason| reason.starts_with("its io_uring failed: ")), "{ended:?}");
    assert!(!answered);
}
