//! The append-only log on disk that makes an increment durable before it is answered.
//!
//! A journal is a run of segment files in one directory. Each record of it is the group of
//! requests that one commit made durable; its sequence number starts at 1, has no gaps and never
//! repeats. [`Journal::append`] followed by [`Journal::sync`] is a commit: when `sync` has
//! returned, the record survives kill -9 and power loss. Between the two it survives kill -9
//! alone.
//!
//! The format is described in [`format`], what happens at a start in [`recovery`](Journal::open).

mod begun;
mod data_dir;
mod direct;
mod disk;
mod error;
pub mod format;
mod identity;
mod journal;
mod keep;
mod prepare;
mod reading;
mod real_disk;
mod recovery;

pub use data_dir::{DataDir, DataDirError};
pub use disk::{BLOCK, Disk, DiskFile, Job};
pub use error::{Fatal, NoRoom, OpenError};
pub use format::{Kind, Record, RecordBuffer};
pub use identity::{Identity, Owner, Seen};
pub use journal::{Entropy, Journal, Options, max_payload_bytes};
pub use reading::{SegmentReport, TailEnd, read_all};
pub use real_disk::{RealDisk, RealFile};
pub use recovery::{Cut, Opened};
