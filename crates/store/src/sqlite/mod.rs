//! SQLite, in a file that several processes may share.

mod apply;
mod careful;
mod faults;
mod file;
mod ids;
mod prepare;
mod reader;
mod writer;

pub(crate) use file::{READER_PATIENCE, WRITER_PATIENCE};
pub(crate) use reader::SqliteReader;
pub(crate) use writer::SqliteStore;
