//! What can go wrong, and what to do about it.
//!
//! The operating system's words stand in the text, so they are no `source` of it: whoever prints
//! an error with its sources would say them twice.

use std::io::{self, ErrorKind};

/// A write or sync that failed. The journal takes nothing any more; the process has to end, and
/// the next start makes durable again what it can read.
#[derive(Debug, thiserror::Error)]
#[error("the journal failed: could not {action} {file}: {reason}{}", way_out(reason))]
pub struct Fatal {
    /// What was being done.
    pub action: &'static str,
    /// With which file of the journal's directory.
    pub file: String,
    /// The operating system's words.
    pub reason: io::Error,
}

/// Why a record can't be taken now. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum NoRoom {
    /// `journal.max_bytes` are pending.
    #[error("the journal is full: {max_bytes} bytes wait for the store")]
    Full {
        /// The limit.
        max_bytes: u64,
    },
    /// The disk has no room for the next segment. It is tried again, at most once a second.
    #[error("the disk has no room for the journal's next segment: {reason}")]
    DiskFull {
        /// The operating system's words.
        reason: String,
    },
    /// No segment could hold it.
    #[error("a record holds at most {max_bytes} bytes")]
    TooLarge {
        /// The limit for a record's payload.
        max_bytes: u64,
    },
    /// Preparing the next segment failed in a way that won't pass.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Why a journal could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("could not {action} {file} of the journal: {reason}{}", way_out(reason))]
    Io {
        /// What was being done.
        action: &'static str,
        /// With which file of the journal's directory.
        file: String,
        /// The operating system's words.
        reason: io::Error,
    },
    /// What was durable is no longer readable.
    #[error(
        "the journal is damaged: {file} at offset {offset}: {what}. Increments that were \
         acknowledged may be in the damaged part, so the server doesn't start. Ways out: restore \
         the file from a copy of the same data directory; or see with `incrementer journal verify` \
         and `incrementer journal inspect` what is readable, then move the data directory away and \
         start with an empty one (the store keeps all that was flushed)"
    )]
    Damaged {
        /// The segment.
        file: String,
        /// Where, in bytes from its start.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The identity file is missing or unreadable although there are segments.
    #[error(
        "the journal's file {file} is {what}, but the directory holds segments of a journal. Restore \
         it from a copy of the same data directory, or move the directory away and start with an \
         empty one (increments that were not flushed stay in the one moved away)"
    )]
    Identity {
        /// Its name.
        file: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// A newer version wrote it.
    #[error(
        "{file} at offset {offset} was written by a newer version of incrementer ({what}). Start that \
         version, or let it flush and stop before going back to this one"
    )]
    Newer {
        /// The segment.
        file: String,
        /// Where, in bytes from its start.
        offset: u64,
        /// What this version doesn't know.
        what: String,
    },
}

impl OpenError {
    pub(crate) fn io(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |reason| Self::Io { action, file, reason }
    }
}

impl Fatal {
    pub(crate) fn new(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |reason| Self { action, file, reason }
    }
}

/// What to do about an error that somebody has to do something about.
fn way_out(reason: &io::Error) -> &'static str {
    match reason.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ". A start needs some kilobytes: make room on the disk of the data directory, then start \
             again; nothing is lost"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            ". Make the data directory and all that is in it writable for this user"
        }
        _ => "",
    }
}
