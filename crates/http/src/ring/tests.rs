use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use socket2::SockRef;

use super::*;
use crate::Options;
use crate::watch::{Phase, Watchdog};
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
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let _uninstalled_last = Uninstall;
    let ring = Ring::install().unwrap();
    let handle = ring.add(stream, Watchdog::new(&Options::default()).add().1).unwrap();
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

#[test]
fn a_connection_at_rest_keeps_a_small_buffer_after_a_large_read() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let _uninstalled_last = Uninstall;
    let ring = Ring::install().unwrap();
    let watch = Watchdog::new(&Options::default()).add().1;
    let handle = ring.add(stream, Rc::clone(&watch)).unwrap();
    let cx = Context::from_waker(Waker::noop());
    let buffer = || ring.0.borrow().ports[handle.at].input.len();
    watch.enter(Phase::Body);
    let bytes = 100 << 10;
    SockRef::from(&client).set_send_buffer_size(2 * bytes).unwrap();
    client.write_all(&vec![0; bytes]).unwrap();
    let mut missing = bytes;
    while missing > 0 {
        let _ = handle.poll_take(&cx, usize::MAX, |taken| missing -= taken.len());
        ring.turn();
    }
    assert_eq!(buffer(), 64 << 10);
    watch.enter(Phase::Idle);
    assert!(handle.poll_take(&cx, usize::MAX, |_| ()).is_pending());
    assert!(buffer() <= 4 << 10, "{}", buffer());
    drop(handle);
}
