//! Having the next segment ready before it is needed.

use std::io;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError, channel};

use rustix::io::Errno;

use crate::disk::Disk;
use crate::error::{Fatal, NoRoom};
use crate::format::segment_name;

/// After no room was found, it is looked for again after so many milliseconds.
const RETRY_MS: u64 = 1_000;

/// The next segment, on its way.
#[derive(Debug, Default)]
pub(crate) enum Preparation<F> {
    #[default]
    Idle,
    Running {
        number: u64,
        outcome: Receiver<io::Result<F>>,
    },
    Ready {
        number: u64,
        file: F,
    },
    /// There was no room.
    NoRoom {
        reason: String,
        at_ms: u64,
    },
}

impl<F: Send + 'static> Preparation<F> {
    /// Whether a segment may be prepared now.
    pub(crate) fn may_start(&self, now_ms: u64) -> bool {
        match self {
            Self::Idle => true,
            Self::Running { .. } | Self::Ready { .. } => false,
            // Clocks may jump back: then it is tried at once.
            Self::NoRoom { at_ms, .. } => now_ms.abs_diff(*at_ms) >= RETRY_MS,
        }
    }

    /// Prepares segment `number` in the background: out of `reused`, a segment that is no longer
    /// needed, or from new. The name is durable before the file is handed over.
    pub(crate) fn start<D: Disk<File = F>>(
        disk: &D,
        number: u64,
        bytes: u64,
        reused: Option<String>,
    ) -> Self {
        let (sender, outcome) = channel();
        let background = disk.clone();
        disk.in_background(Box::new(move || {
            let name = segment_name(number);
            let made = match reused {
                Some(old) => background.rename(&old, &name).and_then(|()| background.open(&name)),
                None => background.create(&name, bytes),
            };
            let named = made.and_then(|file| background.sync_names().map(|()| file));
            // The journal may be gone: then nobody needs the segment.
            let _ = sender.send(named);
        }));
        Self::Running { number, outcome }
    }

    /// Looks whether it is ready; with `wait`, until it is.
    pub(crate) fn look(&mut self, wait: bool, now_ms: u64) -> Result<(), NoRoom> {
        let Self::Running { number, outcome } = self else { return Ok(()) };
        let number = *number;
        let received = if wait {
            outcome.recv().map_err(|RecvError| TryRecvError::Disconnected)
        } else {
            outcome.try_recv()
        };
        match received {
            Ok(Ok(file)) => *self = Self::Ready { number, file },
            Ok(Err(error)) if is_no_room(&error) => {
                *self = Self::NoRoom { reason: error.to_string(), at_ms: now_ms };
            }
            Ok(Err(error)) => return Err(Fatal::new("prepare", &segment_name(number))(error).into()),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                let error = io::Error::other("the thread that prepares segments died");
                return Err(Fatal::new("prepare", &segment_name(number))(error).into());
            }
        }
        Ok(())
    }

    /// Takes the segment that is ready.
    pub(crate) fn take(&mut self) -> Option<(u64, F)> {
        match std::mem::take(self) {
            Self::Ready { number, file } => Some((number, file)),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// Errors that pass when somebody makes room, or closes files.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    const TOO_MANY_FILES: [Errno; 2] = [Errno::MFILE, Errno::NFILE];
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
        || Errno::from_io_error(error).is_some_and(|errno| TOO_MANY_FILES.contains(&errno))
}
