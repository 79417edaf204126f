//! System calls that fail because a test wants it.

use std::cell::RefCell;
use std::io;

thread_local! {
    static NEXT: RefCell<Vec<i32>> = const { RefCell::new(Vec::new()) };
}

/// The next calls on this thread fail with these, the last one first.
pub(crate) fn set(errors: Vec<i32>) {
    NEXT.set(errors);
}

/// How many are left.
pub(crate) fn left() -> usize {
    NEXT.with_borrow(Vec::len)
}

pub(super) fn next() -> io::Result<()> {
    NEXT.with_borrow_mut(Vec::pop).map_or(Ok(()), |error| Err(io::Error::from_raw_os_error(error)))
}
