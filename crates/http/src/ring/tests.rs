use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;
use crate::Options;
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

/// A connection on a ring, and its client.
fn connected() -> (Rc<Ring>, Handle, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let ring = Ring::install().unwrap();
    let handle = ring.add(stream, Watchdog::new(&Options::default()).add().1).unwrap();
    (ring, handle, client)
}

/// So many bytes, of which no part is like another of the same length nearby.
fn pattern(len: usize) -> Vec<u8> {
    (0..len.div_ceil(4) as u32).flat_map(|n| n.wrapping_mul(0x9E37_79B1).to_le_bytes()).take(len).collect()
}

fn untaken(ring: &Ring, handle: &Handle) -> usize {
    ring.0.borrow().ports[handle.at].untaken().len()
}

#[test]
fn all_that_comes_is_taken_in_order_though_buffers_run_out() {
    let _uninstalled_last = Uninstall;
    let (ring, handle, mut client) = connected();
    let sent = pattern(1 << 20);
    let copy = sent.clone();
    let sender = std::thread::spawn(move || client.write_all(&copy).unwrap());
    let mut came = Vec::new();
    let cx = Context::from_waker(Waker::noop());
    let mut ended = false;
    while !ended {
        // Odd pieces, so that a rest stays.
        let taken = handle.poll_take(&cx, 777, |bytes| {
            came.extend_from_slice(bytes);
            ended = bytes.is_empty();
        });
        if taken.is_pending() {
            ring.turn();
        }
    }
    sender.join().unwrap();
    assert!(came == sent, "{} bytes of {} came, or in another order", came.len(), sent.len());
    assert_eq!(ring.0.borrow().ports[handle.at].read_end, Some(Ok(())));
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
    let already = send_while_it_reads(&ring, &handle, &mut client, &sent);
    let stopped_at = untaken(&ring, &handle);
    let most = port::UNTAKEN_MOST + pool::BYTES;
    assert!((port::UNTAKEN_MOST..=most).contains(&stopped_at), "{stopped_at}");
    let rest = sent[already..].to_vec();
    let sender = std::thread::spawn(move || client.write_all(&rest).unwrap());
    while !holds_more(&ring.0.borrow().ports[handle.at].stream) {}
    ring.turn();
    assert_eq!(untaken(&ring, &handle), stopped_at);
    let mut came = Vec::new();
    let cx = Context::from_waker(Waker::noop());
    while came.len() < sent.len() {
        if handle.poll_take(&cx, usize::MAX, |bytes| came.extend_from_slice(bytes)).is_pending() {
            ring.turn();
        }
    }
    sender.join().unwrap();
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
