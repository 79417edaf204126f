use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;
use crate::Options;
use crate::io::holds_more;
use crate::watch::Watchdog;
use crate::worker::Uninstall;

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A turn that wakes somebody leaves the eventfd off, because he will bring the loop to another turn.
/// Wakers of connections that were gone brought nobody, and the loop slept with the eventfd off.
#[test]
fn a_connection_that_is_gone_wakes_nobody() {
    let _uninstalled_last = Uninstall;
    let (ring, handle, client) = connected();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let cx = Context::from_waker(&waker);
    assert!(handle.poll_take(&cx, 1, |_| ()).is_pending());
    // More than the client's system takes without the client.
    handle.push(&vec![0; 32 << 20]);
    while ring.0.borrow().ports[handle.at].sent == 0 {
        assert!(handle.poll_sent(&cx).is_pending());
        ring.turn();
    }
    assert!(handle.poll_sent(&cx).is_pending());
    let before = wakes.0.load(Ordering::Relaxed);
    drop(handle);
    assert_eq!(ring.0.borrow().ports.len(), 1, "the kernel has its buffers still");
    while !ring.0.borrow().ports.is_empty() {
        ring.turn();
    }
    assert_eq!(wakes.0.load(Ordering::Relaxed), before);
    drop(client);
}

/// A ring, a connection on it, and its client.
fn connected() -> (Rc<Ring>, Handle, TcpStream) {
    let ring = Ring::install().unwrap();
    let (handle, client) = connected_to(&ring);
    (ring, handle, client)
}

fn connected_to(ring: &Rc<Ring>) -> (Handle, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    (ring.add(stream, Watchdog::new(&Options::default()).add().1).unwrap(), client)
}

/// So many bytes, of which no part is like another of the same length nearby.
fn pattern(len: usize) -> Vec<u8> {
    (0..len.div_ceil(4) as u32).flat_map(|n| n.wrapping_mul(0x9E37_79B1).to_le_bytes()).take(len).collect()
}

fn untaken(ring: &Ring, handle: &Handle) -> usize {
    ring.0.borrow().ports[handle.at].untaken().len()
}

/// A connection that is looked at when its waker says so, and at no other time, like a task.
struct Reader {
    handle: Handle,
    wakes: Arc<Wakes>,
    seen: usize,
    came: Vec<u8>,
    ended: bool,
}

impl Reader {
    fn new(handle: Handle) -> Self {
        let (wakes, came) = (Arc::new(Wakes::default()), Vec::new());
        let mut reader = Self { handle, wakes, seen: 0, came, ended: false };
        reader.poll();
        reader
    }

    fn poll(&mut self) {
        let waker = Waker::from(Arc::clone(&self.wakes));
        let Self { handle, came, ended, .. } = self;
        // Odd pieces, so that a rest stays.
        while !*ended
            && let Poll::Ready(result) = handle.poll_take(&Context::from_waker(&waker), 777, |bytes| {
                came.extend_from_slice(bytes);
                *ended = bytes.is_empty();
            })
        {
            result.unwrap();
        }
    }

    fn poll_if_woken(&mut self) {
        let wakes = self.wakes.0.load(Ordering::Relaxed);
        if wakes > self.seen {
            self.seen = wakes;
            self.poll();
        }
    }
}

#[test]
fn all_that_comes_is_taken_in_order_though_buffers_run_out() {
    const CONNECTIONS: usize = 12;
    let _uninstalled_last = Uninstall;
    let ring = Ring::install().unwrap();
    let sent = pattern(100 << 10);
    let (mut readers, mut clients): (Vec<_>, Vec<_>) = (0..CONNECTIONS)
        .map(|_| {
            let (handle, client) = connected_to(&ring);
            (Reader::new(handle), client)
        })
        .unzip();
    ring.turn();
    // All have something at once, and there are fewer buffers.
    let (first, rest) = sent.split_at(100);
    clients.iter_mut().for_each(|client| client.write_all(first).unwrap());
    let senders: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let rest = rest.to_vec();
            std::thread::spawn(move || client.write_all(&rest).unwrap())
        })
        .collect();
    while readers.iter().any(|reader| !reader.ended) {
        ring.turn();
        readers.iter_mut().for_each(Reader::poll_if_woken);
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    for (at, reader) in readers.iter().enumerate() {
        assert!(
            reader.came == sent,
            "connection {at}: {} bytes came, or in another order",
            reader.came.len()
        );
    }
}

/// What stops a connection's receiving may come late: when the connection is gone, and another has
/// its place.
#[test]
fn a_stop_that_nobody_asked_for_stops_nothing() {
    let _uninstalled_last = Uninstall;
    let ring = Ring::install().unwrap();
    let (handle, mut client) = connected_to(&ring);
    let mut reader = Reader::new(handle);
    ring.turn();
    let stop = port::to_user_data(reader.handle.at, Operation::Stop);
    let read = port::to_user_data(reader.handle.at, Operation::Read);
    ring.0.borrow_mut().push(io_uring::opcode::AsyncCancel::new(read).build().user_data(stop));
    ring.turn();
    ring.turn();
    let sent = pattern(3000);
    client.write_all(&sent).unwrap();
    while reader.came.len() < sent.len() {
        ring.turn();
        reader.poll_if_woken();
    }
    assert!(reader.came == sent);
}

#[test]
fn what_was_taken_takes_no_memory_though_something_is_always_untaken() {
    let _uninstalled_last = Uninstall;
    let (ring, handle, mut client) = connected();
    let cx = Context::from_waker(Waker::noop());
    assert!(handle.poll_take(&cx, 1, |_| ()).is_pending());
    let piece = pool::BYTES / 2;
    client.write_all(&vec![0; piece]).unwrap();
    for round in 0..1000 {
        client.write_all(&vec![0; piece]).unwrap();
        while untaken(&ring, &handle) < 2 * piece {
            ring.turn();
        }
        assert!(handle.poll_take(&cx, piece, |bytes| assert_eq!(bytes.len(), piece)).is_ready());
        let capacity = ring.0.borrow().ports[handle.at].input.capacity();
        assert!(capacity <= 8 * piece, "{capacity} in round {round}");
    }
}

/// Sends pieces that the pool has room for, each when the last has come, while the kernel
/// receives; how many bytes were sent.
fn send_while_it_reads(ring: &Ring, handle: &Handle, client: &mut TcpStream, bytes: &[u8]) -> usize {
    assert!(handle.poll_take(&Context::from_waker(Waker::noop()), 1, |_| ()).is_pending());
    let mut sent = 0;
    for piece in bytes.chunks(pool::BYTES / 2) {
        client.write_all(piece).unwrap();
        sent += piece.len();
        while untaken(ring, handle) < sent {
            ring.turn();
            if !ring.0.borrow().ports[handle.at].reading {
                return sent;
            }
        }
    }
    sent
}

#[test]
fn a_client_that_sends_on_is_stopped_until_what_came_is_taken() {
    let _uninstalled_last = Uninstall;
    let (ring, handle, mut client) = connected();
    let sent = pattern(256 << 10);
    let mut came = Vec::new();
    // Twice, because what was stopped once may be stopped again.
    for end in [sent.len() / 2, sent.len()] {
        let already = came.len() + send_while_it_reads(&ring, &handle, &mut client, &sent[came.len()..end]);
        let stopped_at = untaken(&ring, &handle);
        let most = port::UNTAKEN_MOST + pool::BYTES;
        assert!((port::UNTAKEN_MOST..=most).contains(&stopped_at), "{stopped_at}");
        let (rest, mut sending) = (sent[already..end].to_vec(), client.try_clone().unwrap());
        let sender = std::thread::spawn(move || sending.write_all(&rest).unwrap());
        while !holds_more(&ring.0.borrow().ports[handle.at].stream) {}
        ring.turn();
        assert_eq!(untaken(&ring, &handle), stopped_at);
        let cx = Context::from_waker(Waker::noop());
        while came.len() < end {
            if handle.poll_take(&cx, usize::MAX, |bytes| came.extend_from_slice(bytes)).is_pending() {
                ring.turn();
            }
        }
        sender.join().unwrap();
    }
    assert!(came == sent);
}

#[test]
fn a_connection_at_rest_keeps_a_small_buffer_after_a_large_read() {
    let _uninstalled_last = Uninstall;
    let (ring, handle, mut client) = connected();
    let sent = pattern(32 << 10);
    assert_eq!(send_while_it_reads(&ring, &handle, &mut client, &sent), sent.len());
    let buffer = || ring.0.borrow().ports[handle.at].input.capacity();
    assert!(buffer() >= sent.len());
    let mut missing = sent.len();
    while missing > 0 {
        let _ = handle.poll_take(&Context::from_waker(Waker::noop()), 10_000, |taken| missing -= taken.len());
    }
    assert!(buffer() <= 4 << 10, "{}", buffer());
}
