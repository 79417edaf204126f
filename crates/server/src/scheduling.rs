//! When a thread has its turn on a processor.
#![allow(unsafe_code, reason = "no library has the call; each use says why it is sound")]

use std::io;
use std::time::Duration;

/// Has the calling thread ask for turns of `slice`, so that the system gives it one soon after it
/// wakes. It needs no privilege, and takes nothing from others: short turns come early, and the
/// share of the processors stays what it was. Linux knows that from 6.12 on (EEVDF, see
/// sched_setattr(2)) and ignores it before; 100 µs to 100 ms are taken as they are.
///
/// # Errors
/// Those of the operating system, such as where a filter of system calls forbids it.
pub(crate) fn ask_for_turns_of(slice: Duration) -> io::Result<()> {
    // SAFETY: all zeros is a value of this struct of integers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>() as u32;
    const THIS_THREAD: libc::pid_t = 0;
    const NO_FLAGS: libc::c_uint = 0;
    // What was inherited, such as a nice value, stays.
    // SAFETY: the kernel writes at most `size` bytes into the struct, which has so many.
    check(unsafe {
        libc::syscall(libc::SYS_sched_getattr, THIS_THREAD, &raw mut attributes, size, NO_FLAGS)
    })?;
    let sliced = [libc::SCHED_OTHER, libc::SCHED_BATCH].map(libc::c_int::cast_unsigned);
    if !sliced.contains(&attributes.sched_policy) {
        return Ok(());
    }
    attributes.size = size;
    // The threads that it makes are not waited for.
    attributes.sched_flags |= libc::SCHED_FLAG_RESET_ON_FORK as u64;
    attributes.sched_runtime = slice.as_nanos() as u64;
    // SAFETY: the kernel reads the struct, as many bytes as its `size` says, and keeps nothing of it.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw const attributes, NO_FLAGS) })
}

fn check(returned: libc::c_long) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
