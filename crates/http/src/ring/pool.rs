//! The buffers that a ring's connections share for reading: the kernel picks one when something
//! has come, so a connection that waits takes none.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// How many buffers there are; a power of two. Where all are used up, the kernel says so, and is
/// asked again when they have been emptied. Few in tests, so that it happens there.
const BUFFERS: u16 = if cfg!(test) { 4 } else { 128 };
/// The length of each, in bytes. No power of two: they would begin in the same few lines of the
/// processor's caches. (The kernel fills up to 32 for one connection before it hears of anything.)
const LENGTH: usize = if cfg!(test) { 1 << 10 } else { (8 << 10) + 192 };
/// The list of free buffers begins with a page, as the kernel demands, and has whole ones.
const LIST: usize = (size_of::<BufRingEntry>() * BUFFERS as usize).next_multiple_of(4 << 10);
const _: () = assert!(BUFFERS.is_power_of_two());
/// What the buffers take together, in bytes.
pub(super) const BYTES: usize = BUFFERS as usize * LENGTH;
/// The number they go by in an operation.
pub(super) const GROUP: u16 = 0;

/// Buffers, and the list by which the kernel is told of those that are free
/// (io_uring_register_buf_ring(3)).
pub(super) struct Pool {
    /// The list, then the buffers. Pages that were never used take no memory.
    map: NonNull<u8>,
    /// How many were put on the list so far; it wraps.
    tail: u16,
}

impl Pool {
    /// # Errors
    /// There is no memory, or the kernel doesn't know such buffers.
    pub(super) fn register(submitter: &Submitter<'_>) -> io::Result<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: it maps new memory, and touches none that is in use.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), LIST + BYTES, access, kind, -1, 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut pool = Self { map, tail: 0 };
        (0..BUFFERS).for_each(|id| pool.give_back(id));
        pool.publish();
        // SAFETY: the list is as long as it is said to be, and stays where it is until the pool is
        // dropped: when the ring has nothing under way any more.
        unsafe { submitter.register_buf_ring_with_flags(map.as_ptr() as u64, BUFFERS, GROUP, 0)? };
        Ok(pool)
    }

    /// What the kernel has written into a buffer that it has handed over.
    pub(super) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < BUFFERS && len <= LENGTH, "the kernel named a buffer that isn't there");
        // SAFETY: it lies in the map. The kernel writes into it again only after `publish`, which
        // takes the pool while nobody looks at it.
        unsafe { std::slice::from_raw_parts(self.start_of(id), len) }
    }

    /// Puts a buffer on the list of the free ones; the kernel hears of it with
    /// [`publish`](Self::publish).
    pub(super) fn give_back(&mut self, id: u16) {
        let at = usize::from(self.tail % BUFFERS);
        // SAFETY: `at` is within the list, and the kernel reads no entry that it wasn't told of. Only
        // three fields are written: the rest of the first entry is the list's length.
        let entry = unsafe { &mut *self.map.as_ptr().cast::<BufRingEntry>().add(at) };
        entry.set_addr(self.start_of(id) as u64);
        entry.set_len(LENGTH as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Tells the kernel of the buffers that were given back.
    pub(super) fn publish(&mut self) {
        // SAFETY: the map begins with the list. Nobody but the kernel looks at its length, and that
        // as an atomic.
        unsafe {
            let length = BufRingEntry::tail(self.map.as_ptr().cast()).cast::<AtomicU16>();
            (*length).store(self.tail, Ordering::Release);
        }
    }

    fn start_of(&self, id: u16) -> *mut u8 {
        // SAFETY: there are so many buffers behind the list.
        unsafe { self.map.as_ptr().add(LIST + usize::from(id) * LENGTH) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nobody uses it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), LIST + BYTES) };
    }
}
